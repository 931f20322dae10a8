//! The Redis harness breaks what it says, and nothing else.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use backplane_conformance::{Fault, Faults, Harness, NodeSpec, Observer, RedisHarness, Start};
use backplane_core::{
    Backplane, Channel, ConnectErrorKind, ConnectionState, NodeId, NodeOptions, NotSent, Prefix,
    PublishErrorKind, Subscribe, TryRecvError,
};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The longest wait for something that must happen.
const SOON: Duration = Duration::from_secs(10);

fn spec(reachable: bool) -> NodeSpec {
    NodeSpec {
        options: NodeOptions::new(Prefix::new("harness").unwrap()),
        start: Start::Eager,
        reachable,
    }
}

fn parts(harness: &RedisHarness) -> (&dyn Faults, &dyn Observer) {
    (harness.faults().unwrap(), harness.observer().unwrap())
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
async fn what_the_harness_needs_itself_is_no_task_of_the_suite() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let harness = RedisHarness::proxy().await.unwrap();
    let (faults, observer) = parts(&harness);
    let node = harness.node(&spec(true)).await.unwrap();
    assert_eq!(observer.connections().await.unwrap(), 2);
    faults.inject(Fault::Isolate(node.node_id())).await.unwrap();
    faults.heal().await.unwrap();
    node.close().await;
    drop(node);
    // Tasks that have ended are counted until the runtime has come round to them.
    timeout(SOON, async {
        while tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn isolating_a_node_leaves_the_others_alone() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, _) = parts(&harness);
    let cut = harness.node(&spec(true)).await.unwrap();
    let other = harness.node(&spec(true)).await.unwrap();
    let direct = harness.node(&spec(false)).await.unwrap();

    faults.inject(Fault::Isolate(cut.node_id())).await.unwrap();
    becomes(&cut, false).await;
    for node in [&other, &direct] {
        node.health().await.unwrap();
    }
    faults.heal().await.unwrap();
    becomes(&cut, true).await;
}

#[tokio::test]
async fn a_fault_that_reaches_nobody_is_an_error() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, _) = parts(&harness);
    let direct = harness.node(&spec(false)).await.unwrap();
    for fault in [
        Fault::Mute,
        Fault::RefuseNew,
        Fault::Unanswered,
        Fault::Delay,
        Fault::Trickle,
        Fault::Isolate(direct.node_id()),
        Fault::Isolate(NodeId::from_u64(1)),
        Fault::CutInSubscribe(direct.node_id()),
        Fault::CutInPublish(NodeId::from_u64(1)),
    ] {
        faults.supports(fault).unwrap();
        let error = faults.inject(fault).await.unwrap_err();
        assert!(error.contains("behind a proxy"), "{error}");
    }
    direct.close().await;
    for fault in [Fault::KillSubscribers, Fault::KillPublishers] {
        let error = faults.inject(fault).await.unwrap_err();
        assert!(error.contains("no connection was there"), "{error}");
    }
    faults.heal().await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_made_while_muted_is_muted_too() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, _) = parts(&harness);
    let first = harness.node(&spec(true)).await.unwrap();
    faults.inject(Fault::Mute).await.unwrap();
    first.health().await.unwrap_err();
    let mut late = spec(true);
    late.start = Start::Lazy;
    let late = harness.node(&late).await.unwrap();
    late.health().await.unwrap_err();
    faults.heal().await.unwrap();
    for node in [&first, &late] {
        becomes(node, true).await;
        node.health().await.unwrap();
    }
}

#[tokio::test]
async fn new_connections_are_refused_or_ignored_and_served_again() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, _) = parts(&harness);
    let node = harness.node(&spec(true)).await.unwrap();
    let direct = harness.node(&spec(false)).await.unwrap();
    let attempt = || async {
        let mut late = spec(true);
        late.options = late.options.connect_timeout(Duration::from_millis(300));
        harness.node(&late).await
    };
    faults.inject(Fault::RefuseNew).await.unwrap();
    attempt().await.unwrap_err();
    node.health().await.unwrap();
    assert_eq!(node.stats().reconnects, 0);
    faults.heal().await.unwrap();
    attempt().await.unwrap();

    faults.inject(Fault::Unanswered).await.unwrap();
    becomes(&node, false).await;
    let error = attempt().await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Timeout, "{error}");
    direct.health().await.unwrap();
    assert_eq!(direct.stats().reconnects, 0);
    faults.heal().await.unwrap();
    becomes(&node, true).await;
    attempt().await.unwrap();
}

#[tokio::test]
async fn a_slow_way_is_slow_until_it_is_healed() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, _) = parts(&harness);
    let node = harness.node(&spec(true)).await.unwrap();
    let news = Channel::new("news").unwrap();
    faults.inject(Fault::Delay).await.unwrap();
    let begin = Instant::now();
    node.publish(&news, "slow".into()).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(16));
    faults.inject(Fault::Trickle).await.unwrap();
    node.publish(&news, "in bytes".into()).await.unwrap();
    faults.heal().await.unwrap();
    faults.heal().await.unwrap();
    node.publish(&news, "quick".into()).await.unwrap();
    assert_eq!(node.stats().reconnects, 0);
}

#[tokio::test]
async fn cuts_happen_by_turns_before_and_after() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, _) = parts(&harness);
    let node = harness.node(&spec(true)).await.unwrap();
    let other = harness.node(&spec(true)).await.unwrap();
    let news = Channel::new("news").unwrap();
    let mut subscription = other
        .subscribe(Subscribe::to([news.clone()]))
        .await
        .unwrap();
    for round in 1..=4_u64 {
        faults
            .inject(Fault::CutInPublish(node.node_id()))
            .await
            .unwrap();
        node.publish(&news, "cut".into()).await.unwrap_err();
        let cuts = faults.cuts();
        assert_eq!((cuts.total(), cuts.before), (round, round.div_ceil(2)));
        is_attached_again(&node, round + 1).await;
    }
    // Between them, the losses are told.
    let mut arrived = 0;
    while arrived < 2 {
        let delivery = timeout(SOON, subscription.recv()).await.unwrap().unwrap();
        if let Some(message) = delivery.into_message() {
            assert_eq!(&message.payload()[..], b"cut");
            arrived += 1;
        }
    }
    for round in 5..=6_u64 {
        faults
            .inject(Fault::CutInSubscribe(node.node_id()))
            .await
            .unwrap();
        let more = Channel::new("more").unwrap();
        // Whether it fails or is made again is the node's concern.
        let _ = timeout(SOON, node.subscribe(Subscribe::to([more])))
            .await
            .unwrap();
        assert_eq!(faults.cuts().total(), round);
        is_attached_again(&node, round + 1).await;
    }
    // What is armed and does not happen is over with the healing.
    faults
        .inject(Fault::CutInPublish(node.node_id()))
        .await
        .unwrap();
    faults.heal().await.unwrap();
    node.publish(&news, "whole".into()).await.unwrap();
    // A path that is gone has been counted.
    node.close().await;
    drop(node);
    faults.heal().await.unwrap();
    assert_eq!(faults.cuts().total(), 6);
    assert_eq!(other.stats().reconnects, 0);
}

#[tokio::test]
async fn a_restarted_server_has_another_run() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, observer) = parts(&harness);
    let first = observer.run().await.unwrap().unwrap();
    assert_eq!(observer.run().await.unwrap().unwrap(), first);
    faults.inject(Fault::Freeze).await.unwrap();
    faults.heal().await.unwrap();
    assert_eq!(observer.run().await.unwrap().unwrap(), first);
    faults.inject(Fault::Kill).await.unwrap();
    faults.heal().await.unwrap();
    assert_ne!(observer.run().await.unwrap().unwrap(), first);
}

#[tokio::test]
async fn a_server_of_others_is_observed_and_never_broken() {
    let owner = RedisHarness::process().await.unwrap();
    let theirs = owner.node(&spec(false)).await.unwrap();
    // How `owner` reaches its server is not public; its node says where that is.
    let shown = format!("{theirs:?}");
    let addr = shown.split("redis://").nth(1).unwrap();
    let addr = addr.split('"').next().unwrap();
    let harness = RedisHarness::url(&format!("redis://{addr}")).await.unwrap();
    let (faults, observer) = parts(&harness);
    for fault in [
        Fault::Kill,
        Fault::Stop,
        Fault::Freeze,
        Fault::KillSubscribers,
        Fault::KillPublishers,
        Fault::Overrun(NodeId::from_u64(1)),
        Fault::OutOfMemory,
        Fault::MaxClients,
        Fault::RevokeAuth,
    ] {
        assert!(faults.supports(fault).is_err(), "{fault}");
        assert!(faults.inject(fault).await.is_err(), "{fault}");
    }

    // Only its own nodes are counted, whoever else is connected.
    assert_eq!(observer.connections().await.unwrap(), 0);
    let ours = harness.node(&spec(false)).await.unwrap();
    assert_eq!(observer.connections().await.unwrap(), 2);
    let news = Channel::new("news").unwrap();
    let prefix = Prefix::new("harness").unwrap();
    let _subscription = ours.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    let subscriptions = observer.subscriptions(&prefix, &news).await;
    assert_eq!(subscriptions, Ok(1));

    harness.shut_down().await;
    theirs.health().await.unwrap();
}

#[tokio::test]
async fn url_options_are_parsed_by_the_backend_itself() {
    let harness = RedisHarness::process().await.unwrap();
    let parse = |option, value| harness.parse_url_option(option, value).unwrap();
    assert_eq!(parse("prefix", "a b&c=d%#"), Ok(()));
    assert_eq!(parse("queue_capacity", "7"), Ok(()));
    let error = parse("no_such_option", "1").unwrap_err();
    assert!(error.contains("no_such_option"), "{error}");
    let secret = harness.secret().unwrap();
    assert!(!error.contains(&secret) && !format!("{harness:?}").contains(&secret));
}

#[tokio::test]
async fn a_harness_that_was_shut_down_says_so() {
    let harness = RedisHarness::process().await.unwrap();
    harness.shut_down().await;
    harness.shut_down().await;
    let (faults, _) = parts(&harness);
    let error = faults.heal().await.unwrap_err();
    assert!(error.contains("shut down"), "{error}");
}

#[tokio::test]
async fn the_observer_counts_requests_and_reaches_the_probes() {
    let harness = RedisHarness::process().await.unwrap();
    let (_, observer) = parts(&harness);
    let node = harness.node(&spec(false)).await.unwrap();
    let before = observer.subscribes().await.unwrap().unwrap();
    let channels = (0..100).map(|i| Channel::new(format!("room {i}")).unwrap());
    let _kept = node.subscribe(Subscribe::to(channels)).await.unwrap();
    let after = observer.subscribes().await.unwrap().unwrap();
    assert_eq!(after - before, 1);

    let written = observer.write_to_probes(node.prefix(), node.node_id(), "strange".into());
    assert!(written.await.unwrap());
    // The probe comes after it.
    node.health().await.unwrap();
    assert_eq!(node.stats().malformed, 1);
    let nobody = NodeId::from_u64(1);
    let written = observer.write_to_probes(node.prefix(), nobody, "strange".into());
    assert!(written.await.is_err());
}

// ---------------------------------------------------------------- faults of the server itself

async fn published(node: &Arc<dyn Backplane>) -> Result<(), PublishErrorKind> {
    let news = Channel::new("news").unwrap();
    let published = node.publish(&news, "hello".into()).await;
    published.map_err(|error| error.kind())
}

#[tokio::test]
async fn an_overrun_node_is_broken_off_and_only_that_one() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, observer) = parts(&harness);
    let slow = harness.node(&spec(true)).await.unwrap();
    let other = harness.node(&spec(true)).await.unwrap();
    let news = Channel::new("news").unwrap();
    let prefix = Prefix::new("harness").unwrap();
    let mut readers = Vec::new();
    for node in [&slow, &other] {
        let request = Subscribe::to([news.clone()]);
        readers.push(node.subscribe(request).await.unwrap());
    }
    let fault = Fault::Overrun(slow.node_id());
    faults.inject(fault).await.unwrap();
    let events = other.events();
    timeout(SOON, async {
        while observer.subscriptions(&prefix, &news).await.unwrap() == 2 {
            let large = vec![0; 64 * 1024];
            other.publish(&news, large.into()).await.unwrap();
        }
    })
    .await
    .unwrap();
    // The path opens by itself.
    let mut watch = slow.watch();
    let again = watch.wait_for(|state| *state == ConnectionState::Connected { generation: 2 });
    timeout(SOON, again).await.unwrap().unwrap();
    faults.heal().await.unwrap();
    faults.heal().await.unwrap();
    assert_eq!({ events }.try_recv(), Err(TryRecvError::Empty));

    // One that was not broken off yet gets all of it when healed.
    faults.inject(fault).await.unwrap();
    published(&other).await.unwrap();
    faults.heal().await.unwrap();
    slow.health().await.unwrap();
    assert_eq!(slow.state(), ConnectionState::Connected { generation: 2 });
}

#[tokio::test]
async fn out_of_memory_ends_no_connection_and_what_is_refused_is_told() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, observer) = parts(&harness);
    let node = harness.node(&spec(false)).await.unwrap();
    let refused = Err(PublishErrorKind::NotSent(NotSent::Refused));
    for _ in 0..2 {
        faults.inject(Fault::OutOfMemory).await.unwrap();
        assert_eq!(published(&node).await, refused);
        assert_eq!(observer.connections().await, Ok(2));
        faults.heal().await.unwrap();
        faults.heal().await.unwrap();
        assert_eq!(published(&node).await, Ok(()));
    }
    assert_eq!(node.state(), ConnectionState::Connected { generation: 1 });
}

#[tokio::test]
async fn a_full_server_refuses_new_connections_whoever_has_left() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, observer) = parts(&harness);
    let node = harness.node(&spec(false)).await.unwrap();
    let leaver = harness.node(&spec(false)).await.unwrap();
    faults.inject(Fault::MaxClients).await.unwrap();
    leaver.close().await;
    let error = harness.node(&spec(false)).await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Refused, "{error}");
    assert!(
        error.to_string().contains("max number of clients"),
        "{error}"
    );
    assert_eq!(published(&node).await, Ok(()));
    assert_eq!(observer.connections().await, Ok(2));
    faults.heal().await.unwrap();
    faults.heal().await.unwrap();
    harness.node(&spec(false)).await.unwrap();
}

#[tokio::test]
async fn revoked_credentials_break_every_node_and_nothing_tells_them() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, observer) = parts(&harness);
    let node = harness.node(&spec(false)).await.unwrap();
    faults.inject(Fault::RevokeAuth).await.unwrap();
    becomes(&node, false).await;
    // The observer works, and sees that nobody gets in.
    assert_eq!(observer.connections().await, Ok(0));
    let error = harness.node(&spec(false)).await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Unauthorized, "{error}");
    let secret = harness.secret().unwrap();
    for told in [
        format!("{error} {error:?}"),
        format!("{node:?}"),
        format!("{harness:?}"),
    ] {
        assert!(!told.contains(&secret), "{told}");
    }
    faults.heal().await.unwrap();
    faults.heal().await.unwrap();
    becomes(&node, true).await;
    harness.node(&spec(false)).await.unwrap();
}

/// Also when nothing can be asked of the server any more.
#[tokio::test]
async fn faults_of_the_server_end_whatever_else_happened_to_it() {
    let harness = RedisHarness::process().await.unwrap();
    let (faults, _) = parts(&harness);
    let node = harness.node(&spec(true)).await.unwrap();
    for fault in [
        Fault::Overrun(node.node_id()),
        Fault::OutOfMemory,
        Fault::MaxClients,
        Fault::RevokeAuth,
    ] {
        for then in [Fault::Kill, Fault::Stop, Fault::Freeze] {
            faults.inject(fault).await.unwrap();
            faults.inject(then).await.unwrap();
            faults.heal().await.unwrap();
            becomes(&node, true).await;
            timeout(SOON, async {
                while node.health().await.is_err() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap_or_else(|_| panic!("{fault}, then {then}"));
            let fresh = harness.node(&spec(false)).await;
            fresh.unwrap_or_else(|error| panic!("{fault}, then {then}: {error}"));
        }
    }
}
