//! Wrong in what is promised: capabilities that are declared and not honoured, honoured and not declared, and
//! requirements that are not heeded.

use async_trait::async_trait;
use backplane_core::{
    Capabilities, ConnectError, ConnectErrorKind, Gap, Order, OutageAccount, Requirement,
};
use backplane_memory::MemoryDriver;

use super::delivery::Retains;
use super::driver::LinkTwist;
use super::harness::{Made, Make, Wrong};
use super::loss::{Missed, Replays};
use super::{Mutant, mutant};
use crate::harness::NodeSpec;

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "replays-a-message-twice",
        "D6",
        r#"replayed to a new subscription: ["\"before 19\"", "\"before 19\""]"#,
        "replay is declared, and what is replayed comes more than once",
        || {
            let retained = Retains::nothing(2);
            declaring(|c| c.replay = true).nodes(move |_| retained.clone())
        },
    ),
    mutant!(
        "ignores-requirements",
        "O3",
        "does not declare order per publisher across channels, and makes a node that requires it",
        "an option that the backend does not know is dropped on the way",
        || declaring(|c| c.order = Order::Channel).make(Requirements::Ignored),
    ),
    mutant!(
        "refuses-what-it-declares",
        "O4",
        "declares one order of all publishers of a channel, and refuses",
        "every requirement is refused, to be on the safe side",
        || Wrong::new().make(Requirements::AllRefused),
    ),
    mutant!(
        "calls-unmet-requirements-unreachable",
        "O4",
        "expected Unsupported, got Unreachable",
        "a requirement that is not met looks like a broker that is away, and is tried again for ever",
        || declaring(|c| c.order = Order::Publisher).make(Requirements::Unreachable),
    ),
    mutant!(
        "declares-replay-and-does-not-replay",
        "L4",
        "replay is declared, and of 20 messages of the outage, in order, came []",
        "the capability is declared because the broker could",
        || declaring(|c| c.replay = true),
    ),
    mutant!(
        "replays-from-the-end",
        "L4",
        r#"in order, came ["\"missed 0.19\"", "\"missed 0.18\""#,
        "what was missed is delivered after the outage, the latest message first",
        || replaying(Missed::backwards()),
    ),
    mutant!(
        "takes-everybody-for-replay",
        "L4",
        "does not declare replay after an outage, and makes a node that requires it",
        "who depends on replay gets a node that has none",
        || Wrong::new().make(Requirements::Without(Requirement::Replay)),
    ),
    mutant!(
        "claims-an-exact-loss-and-counts-nothing",
        "L8",
        "claims Exactly(0), and counting is not declared",
        "who cannot count says that nothing was lost",
        || declaring(|c| c.counts_loss = false).on_gap(|_, out| out.gap(Gap::dropped(0))),
    ),
    mutant!(
        "does-not-say-which-requirement",
        "L8",
        "does not say so",
        "a node is refused, and nobody hears what for",
        || counting_nothing().make(Requirements::WithoutReason),
    ),
    mutant!(
        "takes-everybody-for-failover",
        "R8",
        "does not declare failover, and makes a node that requires it",
        "who depends on failover gets a node that has none",
        || Wrong::new().make(Requirements::Without(Requirement::Failover)),
    ),
];

/// A backend that declares something else.
pub(super) fn declaring(change: fn(&mut Capabilities)) -> Wrong {
    Wrong::new().links(move || Declares(change))
}

/// A backend that declares replay and does it. It counts nothing, and does not declare that it does.
pub(super) fn replaying(missed: Missed) -> Wrong {
    declaring(|c| (c.replay, c.counts_loss) = (true, false)).nodes(move |_| Replays(missed.clone()))
}

/// A backend that counts nothing in an outage, and does not declare that it does.
pub(super) fn counting_nothing() -> Wrong {
    declaring(|c| c.counts_loss = false)
        .on_gap(|_, out| out.gap(Gap::outage(OutageAccount::default())))
}

struct Declares(fn(&mut Capabilities));

#[async_trait]
impl LinkTwist for Declares {
    fn capabilities(&self, driver: &MemoryDriver) -> Capabilities {
        let mut capabilities = backplane_core::driver::Driver::capabilities(driver);
        (self.0)(&mut capabilities);
        capabilities
    }
}

/// What is done with requirements.
enum Requirements {
    AllRefused,
    Ignored,
    /// This one is.
    Without(Requirement),
    Unreachable,
    WithoutReason,
}

#[async_trait]
impl Make for Requirements {
    async fn make(&self, harness: &Wrong, spec: &NodeSpec) -> Made {
        let refused = |kind| Err(ConnectError::new(kind, "memory bus", None));
        if let Self::Without(ignored) = self {
            let mut spec = spec.clone();
            spec.options.requirements.retain(|other| other != ignored);
            return harness.plain(&spec).await;
        }
        let mut without = spec.clone();
        let required = !std::mem::take(&mut without.options.requirements).is_empty();
        match self {
            Self::AllRefused if required => refused(ConnectErrorKind::Unsupported),
            Self::AllRefused | Self::Ignored | Self::Without(_) => harness.plain(&without).await,
            Self::Unreachable | Self::WithoutReason => match harness.plain(spec).await {
                Err(error) if error.kind() == ConnectErrorKind::Unsupported => match self {
                    Self::Unreachable => refused(ConnectErrorKind::Unreachable),
                    _ => refused(error.kind()),
                },
                made => made,
            },
        }
    }
}
