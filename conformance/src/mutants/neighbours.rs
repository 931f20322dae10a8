//! Wrong at C3: nodes of one process that are not independent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use async_trait::async_trait;
use backplane_core::{
    Backplane, Capabilities, Channel, ConnectionState, HealthError, HealthErrorKind, NodeId,
    NodeOptions, NotSent, PublishError, Stats, Subscribe, SubscribeError, Subscription,
    SubscriptionHandle,
};
use bytes::Bytes;

use super::harness::{Made, Make, Wrong};
use super::node::{Inner, NodeTwist, Tap, lock};
use super::pump::{Control, Parts};
use super::{Mutant, mutant};
use crate::harness::NodeSpec;

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "nodes-share-their-id",
        "C3",
        "two nodes have the same id",
        "the id is that of the process",
        || {
            let id = Arc::new(OnceLock::new());
            Wrong::new().nodes(move |_| SharedId(Arc::clone(&id)))
        },
    ),
    mutant!(
        "the-first-options-hold-for-all",
        "C3",
        "100 was asked for the second node only",
        "options are those of the first node of the process",
        || Wrong::new().make(FirstOptions::default()),
    ),
    mutant!(
        "one-payload-limit-for-all",
        "C3",
        "the largest payloads are [100, 100]",
        "the last node sets a limit of the process",
        || {
            let limit = Arc::new(Mutex::new(usize::MAX));
            Wrong::new().nodes(move |spec| {
                let mut shared = lock(&limit);
                *shared = spec
                    .options
                    .max_payload
                    .map_or(*shared, |own| own.min(*shared));
                SharedLimit(Arc::clone(&limit))
            })
        },
    ),
    mutant!(
        "nodes-share-their-counters",
        "C3",
        "the counters",
        "counters are those of the process",
        || {
            let nodes = Nodes::default();
            Wrong::new().nodes(move |_| SharedCounters(Arc::clone(&nodes)))
        },
    ),
    mutant!(
        "nodes-share-a-closed-flag",
        "C3",
        "after another node was closed, publish fails",
        "who closes one node closes the publishing of the process",
        || {
            let closed = Arc::new(AtomicBool::new(false));
            Wrong::new().nodes(move |_| SharedFlag(Arc::clone(&closed)))
        },
    ),
    mutant!(
        "an-outage-of-one-is-told-by-all",
        "C3",
        "after another node was cut off, the state is",
        "the state is that of the node that is worst off",
        || {
            let nodes = Nodes::default();
            Wrong::new().nodes(move |_| SharedState {
                nodes: Arc::clone(&nodes),
                health: false,
            })
        },
    ),
    mutant!(
        "an-outage-of-one-makes-all-unhealthy",
        "C3",
        "after another node was cut off, health fails",
        "one health check for the process",
        || {
            let nodes = Nodes::default();
            Wrong::new().nodes(move |_| SharedState {
                nodes: Arc::clone(&nodes),
                health: true,
            })
        },
    ),
    mutant!(
        "unsubscribing-one-unsubscribes-all",
        "C3",
        "did not arrive within",
        "a table of the process knows who is subscribed, and not how often",
        || {
            let handles = Handles::default();
            Wrong::new().nodes(move |_| SharedTable(Arc::clone(&handles)))
        },
    ),
];

/// All nodes of the process.
type Nodes = Arc<Mutex<Vec<Weak<dyn Backplane>>>>;

fn living(nodes: &Nodes) -> Vec<Inner> {
    lock(nodes).iter().filter_map(Weak::upgrade).collect()
}

struct SharedId(Arc<OnceLock<NodeId>>);

#[async_trait]
impl NodeTwist for SharedId {
    fn node_id(&self, node: &Inner) -> NodeId {
        *self.0.get_or_init(|| node.node_id())
    }
}

#[derive(Default)]
struct FirstOptions(OnceLock<NodeOptions>);

#[async_trait]
impl Make for FirstOptions {
    async fn make(&self, harness: &Wrong, spec: &NodeSpec) -> Made {
        let first = self.0.get_or_init(|| spec.options.clone()).clone();
        let options = first.prefix(spec.options.prefix.clone());
        let spec = NodeSpec {
            options,
            ..spec.clone()
        };
        harness.plain(&spec).await
    }
}

struct SharedLimit(Arc<Mutex<usize>>);

#[async_trait]
impl NodeTwist for SharedLimit {
    fn capabilities(&self, node: &Inner) -> Capabilities {
        let mut capabilities = node.capabilities();
        capabilities.max_payload = capabilities.max_payload.min(*lock(&self.0));
        capabilities
    }
}

struct SharedCounters(Nodes);

#[async_trait]
impl NodeTwist for SharedCounters {
    fn made(&self, node: &Inner) {
        lock(&self.0).push(Arc::downgrade(node));
    }

    fn stats(&self, mut stats: Stats) -> Stats {
        let all = living(&self.0);
        stats.published = all.iter().map(|node| node.stats().published).sum();
        stats
    }
}

struct SharedFlag(Arc<AtomicBool>);

#[async_trait]
impl NodeTwist for SharedFlag {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(PublishError::not_sent(channel, NotSent::Closed, None));
        }
        node.publish(channel, payload).await
    }

    async fn close(&self, node: &Inner) {
        self.0.store(true, Ordering::Relaxed);
        node.close().await;
    }
}

struct SharedState {
    nodes: Nodes,
    /// Whether it is the health that is shared.
    health: bool,
}

#[async_trait]
impl NodeTwist for SharedState {
    fn made(&self, node: &Inner) {
        lock(&self.nodes).push(Arc::downgrade(node));
    }

    fn state(&self, node: &Inner) -> ConnectionState {
        let away = |state: &ConnectionState| {
            matches!(
                state,
                ConnectionState::Disconnected { .. } | ConnectionState::Connecting { .. }
            )
        };
        let all = living(&self.nodes);
        let mut states = all.iter().map(|other| other.state());
        match self.health {
            true => node.state(),
            false => states.find(away).unwrap_or_else(|| node.state()),
        }
    }

    async fn health(&self, node: &Inner) -> Result<(), HealthError> {
        let healthy = |other: &Inner| {
            other.state().is_connected() || other.state() == ConnectionState::Closed
        };
        if self.health && !living(&self.nodes).iter().all(healthy) {
            return Err(HealthError::new(HealthErrorKind::Unavailable, None));
        }
        node.health().await
    }
}

/// Every subscription of the process.
type Handles = Arc<Mutex<Vec<SubscriptionHandle>>>;

struct SharedTable(Handles);

#[async_trait]
impl NodeTwist for SharedTable {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let subscription = node.subscribe(request).await?;
        lock(&self.0).push(subscription.handle());
        Ok(subscription)
    }

    fn parts(&self, _node: &Inner, _tap: &Tap) -> Option<Parts> {
        Some(Parts::control(LeavesForAll(Arc::clone(&self.0))))
    }
}

struct LeavesForAll(Handles);

#[async_trait]
impl Control for LeavesForAll {
    fn close(&self, below: Subscription) {
        for handle in lock(&self.0).iter() {
            handle.unsubscribe(below.channels());
        }
        drop(below);
    }
}
