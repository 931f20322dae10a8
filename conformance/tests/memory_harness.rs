//! The harness of the memory bus breaks what it says, and mends it again.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use backplane_conformance::{Fault, Faults, Harness, MemoryHarness, NodeSpec, Observer, Start};
use backplane_core::{
    Backplane, Channel, ConnectError, ConnectErrorKind, ConnectionState, NodeOptions, Prefix,
    Subscribe,
};
use tokio::time::timeout;

/// The longest wait for something that must happen.
const SOON: Duration = Duration::from_secs(10);

async fn node(harness: &MemoryHarness) -> Result<Arc<dyn Backplane>, ConnectError> {
    let options = NodeOptions::new(Prefix::new("harness").unwrap());
    let spec = NodeSpec {
        options: options.connect_timeout(Duration::from_millis(100)),
        start: Start::Eager,
        reachable: true,
    };
    harness.node(&spec).await
}

async fn becomes(node: &Arc<dyn Backplane>, connected: bool) {
    let mut watch = node.watch();
    let change = watch.wait_for(|state| state.is_connected() == connected);
    timeout(SOON, change).await.unwrap().unwrap();
}

/// Waits until a node is attached for the given time.
async fn is_attached_again(node: &Arc<dyn Backplane>, times: u64) {
    let mut watch = node.watch();
    let again = ConnectionState::Connected { generation: times };
    let change = watch.wait_for(|state| *state == again);
    timeout(SOON, change).await.unwrap().unwrap();
}

#[tokio::test]
async fn new_connections_are_refused_or_ignored_and_served_again() {
    let harness = MemoryHarness::new();
    let first = node(&harness).await.unwrap();
    harness.inject(Fault::RefuseNew).await.unwrap();
    let error = node(&harness).await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    first.health().await.unwrap();
    harness.heal().await.unwrap();
    node(&harness).await.unwrap();

    assert_eq!(first.stats().reconnects, 0);
    harness.inject(Fault::Unanswered).await.unwrap();
    becomes(&first, false).await;
    let error = node(&harness).await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Timeout);
    harness.heal().await.unwrap();
    becomes(&first, true).await;
    // Tries that were given up have left nothing.
    assert_eq!(harness.bus().ignored(), 0);
    assert_eq!(harness.connections().await.unwrap(), 1);
}

#[tokio::test]
async fn a_slow_way_is_slow_until_it_is_healed() {
    let harness = MemoryHarness::new();
    let node = node(&harness).await.unwrap();
    let news = Channel::new("news").unwrap();
    harness.inject(Fault::Delay).await.unwrap();
    let begin = Instant::now();
    node.publish(&news, "slow".into()).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(8));
    harness.heal().await.unwrap();
    for _ in 0..10_000 {
        node.publish(&news, "quick".into()).await.unwrap();
    }
    let reason = harness.supports(Fault::Trickle).unwrap_err();
    assert!(reason.contains("no bytes"), "{reason}");
}

#[tokio::test]
async fn cuts_happen_by_turns_before_and_after() {
    let harness = MemoryHarness::new();
    let (cut, other) = (node(&harness).await.unwrap(), node(&harness).await.unwrap());
    let news = Channel::new("news").unwrap();
    let request = Subscribe::to([news.clone()]);
    let mut subscription = other.subscribe(request).await.unwrap();
    for round in 1..=4_u64 {
        let fault = Fault::CutInPublish(cut.node_id());
        harness.inject(fault).await.unwrap();
        // Of another node it is not.
        other.publish(&news, "whole".into()).await.unwrap();
        assert_eq!(harness.cuts().total(), round - 1);
        let error = cut.publish(&news, "cut".into()).await.unwrap_err();
        assert_eq!(error.is_not_sent(), round % 2 == 1, "{error}");
        let cuts = harness.cuts();
        assert_eq!((cuts.total(), cuts.before), (round, round.div_ceil(2)));
        is_attached_again(&cut, round + 1).await;
    }
    let mut arrived = 0;
    for _ in 0..6 {
        let delivery = timeout(SOON, subscription.recv()).await.unwrap().unwrap();
        let message = delivery.into_message().unwrap();
        arrived += usize::from(&message.payload()[..] == b"cut");
    }
    assert_eq!(arrived, 2);

    for round in [5, 6_u64] {
        let fault = Fault::CutInSubscribe(cut.node_id());
        harness.inject(fault).await.unwrap();
        let more = Channel::new("more").unwrap();
        let failed = timeout(SOON, cut.subscribe(Subscribe::to([more.clone()]))).await;
        failed.unwrap().unwrap_err();
        assert_eq!(harness.cuts().total(), round);
        is_attached_again(&cut, round + 1).await;
        let prefix = Prefix::new("harness").unwrap();
        assert_eq!(harness.subscriptions(&prefix, &more).await, Ok(0));
    }
    // What is armed and does not happen is over with the healing.
    let fault = Fault::CutInPublish(cut.node_id());
    harness.inject(fault).await.unwrap();
    harness.heal().await.unwrap();
    cut.publish(&news, "whole".into()).await.unwrap();
    assert_eq!(other.stats().reconnects, 0);
}

#[tokio::test]
async fn a_bus_that_was_stopped_has_another_run() {
    let harness = MemoryHarness::new();
    let first = harness.run().await.unwrap();
    harness.inject(Fault::Freeze).await.unwrap();
    harness.heal().await.unwrap();
    assert_eq!(harness.run().await.unwrap(), first);
    harness.inject(Fault::Kill).await.unwrap();
    harness.heal().await.unwrap();
    assert_ne!(harness.run().await.unwrap(), first);
}
