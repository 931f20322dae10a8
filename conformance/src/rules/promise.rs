//! Capabilities: what a backend declares it must offer to a node that requires it, and what it does not declare it
//! must refuse (the refusal test of the contract).

use backplane_core::{ConnectError, ConnectErrorKind, Requirement};

use crate::harness::Start;
use crate::trial::{Node, Trial, chain};
use crate::verdict::{Ending, Outcome, broken};

/// Whether the backend of this node declares what meets a requirement. Whichever it says, it must act accordingly
/// when a node requires it.
pub(super) async fn promises(
    trial: &Trial,
    node: &Node,
    requirement: Requirement,
) -> Outcome<bool> {
    let declared = requirement.is_met_by(&node.capabilities());
    for start in [Start::Eager, Start::Lazy] {
        let options = trial.options().require(requirement);
        match (declared, trial.start(options, start).await?) {
            (true, Ok(node)) => {
                trial.all_up(&[&node]).await?;
                discard(trial, node).await?;
            }
            (false, Err(error)) => refused(requirement, start, &error)?,
            (true, Err(error)) => {
                return broken(format!(
                    "the backend declares {requirement}, and refuses a node that requires it: {}",
                    chain(&error)
                ));
            }
            (false, Ok(_)) => {
                return broken(format!(
                    "the backend does not declare {requirement}, and makes a node that requires it"
                ));
            }
        }
    }
    Ok(declared)
}

/// Likewise; ends the trial as refused when it is not declared.
pub(super) async fn must_promise(trial: &Trial, node: &Node, requirement: Requirement) -> Outcome {
    match promises(trial, node, requirement).await? {
        true => Ok(()),
        false => undeclared(requirement),
    }
}

/// The end of a trial of what the backend does not declare.
pub(super) fn undeclared<T>(requirement: Requirement) -> Outcome<T> {
    Err(Ending::Refused(format!(
        "the backend does not declare {requirement}, and refuses a node that requires it"
    )))
}

/// It is refused for this reason, and says so.
fn refused(requirement: Requirement, start: Start, error: &ConnectError) -> Outcome {
    let kind = error.kind();
    let expected = match start {
        Start::Eager => kind == ConnectErrorKind::Unsupported,
        // What a lazy constructor says is an invalid option until the harness makes a connect error of it.
        Start::Lazy => matches!(
            kind,
            ConnectErrorKind::Unsupported | ConnectErrorKind::InvalidOption
        ),
    };
    if !expected {
        return broken(format!(
            "a node that requires {requirement}: expected Unsupported, got {kind:?}: {}",
            chain(error)
        ));
    }
    let told = chain(error);
    if !told.contains(&requirement.to_string()) {
        return broken(format!(
            "the refusal of a node that requires {requirement} does not say so: {told}"
        ));
    }
    Ok(())
}

async fn discard(trial: &Trial, node: Node) -> Outcome {
    trial.forget(&node);
    trial.in_time("close does not return", node.close()).await
}
