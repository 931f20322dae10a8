//! The Redis harness breaks what it says, and nothing else.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

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
        Fault::Isolate(direct.node_id()),
        Fault::Isolate(NodeId::from_u64(1)),
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
