//! What becomes of a join or leave from another node that cannot be done (rule H14).

use std::time::Duration;

use backplane_core::hub::{ConnectionId, RequestError};
use tokio::time::Instant;

use super::cast::{BOTH, HEARTBEAT, Hub, NODE_TIMEOUT, connection_of, mute};
use crate::hub::{ClientSpec, HubSpec};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, ensure};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[rule!(
    "H14",
    "a join from another node fails at once, by name, or within the timeout",
    [],
    h14
)];

/// How long another node is waited for. What comes at once comes long before.
const PATIENCE: Duration = Duration::from_secs(3);

async fn h14(trial: Trial) -> Outcome {
    for mode in BOTH {
        let nodes: [Node; 4] = trial.nodes().await?;
        let name = format!("{mode:?}");
        let spec = HubSpec::new(name.as_str())
            .delivery(mode)
            .request_timeout(PATIENCE)
            .heartbeats(HEARTBEAT, NODE_TIMEOUT);
        let hubs = Hub::on(&trial, &nodes, &spec).await?;
        for hub in &hubs {
            hub.knows(4).await?;
        }
        let gone = hubs[1].connect("who is gone", &ClientSpec::new()).await?;
        let id = gone.id();
        drop(gone);
        for hub in &hubs {
            // Its own node says it, and any other.
            let took = fails(
                hub,
                id,
                |error| matches!(error, RequestError::UnknownConnection(unknown) if *unknown == id),
            );
            at_once("an unknown connection", took.await?)?;
        }

        let hub = &hubs[0];
        let left = hubs[2]
            .connect("whose node leaves", &ClientSpec::new())
            .await?;
        hubs[2].in_time("close", hubs[2].port.close()).await?;
        hub.knows(3).await?;
        at_once(
            "a node that left",
            is_gone(hub, left.id(), &nodes[2]).await?,
        )?;

        // It is not heard any more, and never said bye.
        let lost = connection_of(&nodes[3])?;
        nodes[3].close().await;
        let took = is_gone(hub, lost, &nodes[3]).await?;
        ensure(
            took < PATIENCE,
            format!("a crash ended the wait after {took:?} only"),
        )?;

        if mode != BOTH[0] {
            hub.nothing_is_left().await?;
            continue;
        }
        let (silent, id) = mute(&trial, &name).await?;
        let begin = Instant::now();
        let beats = beat(&trial, &silent, &name, begin);
        let took = fails(hub, id, |error| {
            matches!(error, RequestError::Timeout { node, timeout }
                if (*node, *timeout) == (silent.node_id(), PATIENCE))
        });
        let took = tokio::select! {
            took = took => took?,
            failed = beats => return failed,
        };
        ensure(
            took >= PATIENCE.mul_f64(0.9),
            format!("a node that answers nothing was waited for {took:?}, and not {PATIENCE:?}"),
        )?;
        hub.nothing_is_left().await?;
    }
    Ok(())
}

/// It goes on saying that it is there.
async fn beat(trial: &Trial, node: &Node, hub: &str, begin: Instant) -> Outcome {
    let all = crate::hub::HubChannel::All.of(hub)?;
    let mut pace = tokio::time::interval(HEARTBEAT);
    while begin.elapsed() < 4 * PATIENCE {
        pace.tick().await;
        let beat = b"\x94\x01\x04\x07\x02".to_vec();
        trial.publish(node, &all, beat).await?;
    }
    broken("a node that answers nothing was waited for without an end")
}

async fn is_gone(hub: &Hub, id: ConnectionId, node: &Node) -> Outcome<Duration> {
    let node = node.node_id();
    fails(
        hub,
        id,
        |error| matches!(error, RequestError::NodeGone(gone) if *gone == node),
    )
    .await
}

/// Joins and leaves, both of which must fail with this error. Says how long the first took.
async fn fails(
    hub: &Hub,
    id: ConnectionId,
    is_it: impl Fn(&RequestError) -> bool,
) -> Outcome<Duration> {
    let begin = Instant::now();
    let join = hub.in_time("join", hub.port.join(id, "g")).await?;
    let took = begin.elapsed();
    let leave = match took < PATIENCE / 2 {
        true => hub.in_time("leave", hub.port.leave(id, "g")).await?,
        false => Err(RequestError::Closed),
    };
    for (what, result) in [("join", join.map(drop)), ("leave", leave)] {
        match result {
            Err(error) if is_it(&error) => {}
            Err(RequestError::Closed) if what == "leave" && took >= PATIENCE / 2 => {}
            Err(error) => return broken(format!("{what} failed with the wrong error: {error:?}")),
            Ok(()) => return broken(format!("{what} of nobody says that it is done")),
        }
    }
    Ok(took)
}

fn at_once(what: &str, took: Duration) -> Outcome {
    ensure(
        took < PATIENCE / 2,
        format!("{what} is said after {took:?}"),
    )
}
