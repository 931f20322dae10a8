//! Breaks the broker for the model, and notices what the nodes notice: [`Breaker`].

use std::sync::Arc;
use std::time::Duration;

use backplane_core::{Backplane, ConnectionState, NodeOptions, Prefix};
use tokio::time::{Instant, timeout_at};

use super::ledger::Generation;
use super::op::FaultKind;
use crate::harness::{Fault, Harness};
use crate::trial::WITHIN;

/// How long nodes may take to notice a fault before it ends, where it is not the point whether they do.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

/// The faults of a broker.
#[derive(Debug)]
pub(super) struct Breaker {
    harness: Arc<dyn Harness>,
    scale: f64,
    /// Those that may be in force.
    faults: Vec<FaultKind>,
}

/// A node of a model.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) backplane: Arc<dyn Backplane>,
    /// Whether faults that need a way do not reach it.
    pub(super) direct: bool,
}

/// A fault that was made, and the nodes that it reaches: how often each had been attached.
#[derive(Debug)]
pub(super) struct Made {
    what: Fault,
    kind: FaultKind,
    before: Vec<(Arc<dyn Backplane>, u64)>,
    within: Duration,
}

impl Breaker {
    pub(super) const fn new(harness: Arc<dyn Harness>, scale: f64) -> Self {
        Self {
            harness,
            scale,
            faults: Vec::new(),
        }
    }

    /// Whether nodes can be made so that faults that need a way reach them.
    pub(super) fn has_ways(&self) -> bool {
        let nobody = backplane_core::NodeId::from_u64(0);
        self.harness
            .faults()
            .is_some_and(|faults| faults.supports(Fault::Isolate(nobody)).is_ok())
    }

    /// The faults that may be in force.
    pub(super) fn faults(&self) -> &[FaultKind] {
        &self.faults
    }

    /// Makes a fault if it can be made now. `about`: the node that it is about, if it is about one.
    pub(super) async fn inject(
        &mut self,
        kind: FaultKind,
        about: &Target,
        nodes: &[Target],
    ) -> Option<Made> {
        let harness = Arc::clone(&self.harness);
        let faults = harness.faults()?;
        let is_about = kind.is_about_one_node();
        let id = about.backplane.node_id();
        let what = kind.about(id);
        if what.needs_a_way() && is_about && about.direct || faults.supports(what).is_err() {
            return None;
        }
        // Some brokers reach all nodes where others need a way.
        let reached = nodes
            .iter()
            .filter(|node| !is_about || node.backplane.node_id() == id);
        let before = reached
            .map(|node| {
                (
                    Arc::clone(&node.backplane),
                    generation(&*node.backplane).least,
                )
            })
            .filter(|(backplane, _)| backplane.state().is_connected())
            .collect();
        if what.needs_a_way() && self.is_silent() {
            // It may take the place of the other, on the same way.
            self.noticed(nodes).await;
        }
        if !kind.is_momentary() {
            self.faults.push(kind);
        }
        // It can fail: another fault may have taken away what it needs. Then it is not counted.
        faults.inject(what).await.ok()?;
        Some(Made {
            what,
            kind,
            before,
            within: NOTICED_WITHIN.mul_f64(self.scale),
        })
    }

    /// Ends every fault.
    pub(super) async fn heal(&mut self, nodes: &[Target]) -> Result<(), String> {
        if self.is_silent() {
            self.noticed(nodes).await;
        }
        self.faults.clear();
        match self.harness.faults() {
            Some(faults) => faults.heal().await,
            None => Ok(()),
        }
    }

    /// Whether a fault may be in force that must not end before it was noticed.
    fn is_silent(&self) -> bool {
        self.faults.iter().any(|kind| kind.must_be_noticed())
    }

    /// Waits until no node is attached that a fault has reached which must not end unnoticed. Also those that were about
    /// to attach when it was made.
    async fn noticed(&self, nodes: &[Target]) {
        let deadline = Instant::now() + WITHIN.mul_f64(self.scale);
        for node in nodes {
            if node.backplane.health().await.is_err() {
                let mut watch = node.backplane.watch();
                let down = watch.wait_for(|state| !state.is_connected());
                let _ = timeout_at(deadline, down).await;
            }
        }
    }
}

impl Made {
    /// Waits until the nodes have noticed it, if they can.
    pub(super) async fn noticed(self) {
        if !self.kind.is_noticed() {
            return;
        }
        let deadline = Instant::now() + self.within;
        for (backplane, generation) in self.before {
            if self.what.needs_a_way() && backplane.health().await.is_ok() {
                continue;
            }
            let mut watch = backplane.watch();
            let down = watch.wait_for(|state| match state {
                ConnectionState::Connected { generation: now } => *now > generation,
                _ => true,
            });
            // Whether they notice is for the rules L6 and L7; what is lost is found anyway.
            let _ = timeout_at(deadline, down).await;
        }
    }
}

/// How often a node was attached.
pub(super) fn generation(backplane: &dyn Backplane) -> Generation {
    // The counter first: what it counts was announced.
    let reconnects = backplane.stats().reconnects;
    match backplane.state() {
        ConnectionState::Connected { generation } => Generation {
            least: generation,
            most: generation,
        },
        // Perhaps it was never attached; perhaps it is, and has not said so yet.
        _ if reconnects == 0 => Generation { least: 0, most: 2 },
        _ => Generation {
            least: reconnects + 1,
            most: reconnects + 2,
        },
    }
}

/// The options of a node that notices faults soon.
pub(super) fn options(prefix: &Prefix, heartbeat: Duration, scale: f64) -> NodeOptions {
    let millis = |millis: u64| Duration::from_millis(millis).mul_f64(scale);
    NodeOptions::new(prefix.clone())
        .connect_timeout(millis(1000))
        .publish_timeout(PUBLISH_TIMEOUT.mul_f64(scale))
        .subscribe_timeout(SUBSCRIBE_TIMEOUT.mul_f64(scale))
        .heartbeat_interval(heartbeat.mul_f64(scale))
        .heartbeat_timeout(millis(500))
        .backoff_initial(millis(10))
        .backoff_max(millis(100))
}

/// How long a publish takes at most.
pub(super) const PUBLISH_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a subscribe takes at most.
pub(super) const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(1);
