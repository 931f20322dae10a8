//! Beginning and end of a hub, what it refuses and skips (rules H27 and D4), and what its connections cost.

#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

mod cluster;
mod support;

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use backplane_core::NotSent;
use backplane_core::hub::{Connect, DeliveryMode, Ended, Hub, HubError, SendError, Target};
use backplane_core::{Backplane, Channel, Node, Order, PublishErrorKind, Requirement};
use backplane_memory::MemoryBus;
use cluster::{BOTH, Cluster, flush, next, options, until};
use futures_util::poll;
use support::Fake;
use tokio::time::Instant;

#[tokio::test]
async fn a_backend_without_order_across_channels_is_refused() {
    let node = Node::connect(Fake::new(), options()).await.unwrap();
    let error = Hub::builder(Arc::new(node)).build().await.unwrap_err();
    let order = Requirement::Order(Order::Publisher);
    assert!(matches!(error, HubError::Unsupported(missing) if missing == order));
    assert_eq!(
        error.to_string(),
        "a hub cannot keep its promises here: the backend does not promise order per publisher across channels"
    );
}

#[tokio::test]
async fn bad_names_of_hubs_are_refused() {
    let node: Arc<dyn Backplane> = Arc::new(MemoryBus::new().connect(options()).await.unwrap());
    for name in ["", &"x".repeat(65)] {
        let refused = Hub::builder(Arc::clone(&node)).name(name).build().await;
        assert!(matches!(refused, Err(HubError::InvalidName(_))));
    }
    assert_eq!(node.stats().subscriptions, 0);
}

#[tokio::test]
async fn h27_malformed_and_newer_messages_are_skipped_and_counted_and_later_ones_arrive() {
    let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
    let mut member = cluster.connect(1).await;
    member.join("g").await.unwrap();
    let node = cluster.nodes[1].node_id();
    let skipped: [(String, &[u8], u64, u64); 6] = [
        ("all".into(), b"hello", 1, 0),
        ("group:g".into(), b"", 1, 0),
        (
            "all".into(),
            b"\x95\x01\x00\xc0\xc0\xdf\xff\xff\xff\xff",
            1,
            0,
        ),
        (format!("node:{node}"), b"\x95\x01\x00\xc0\xc0\x80", 1, 0),
        ("all".into(), b"\x95\x02\x00\xc0\xc0\x80", 0, 1),
        (
            "group:g".into(),
            b"\x95\x01\x00\x91\x92\x09\xc0\xc0\x80",
            0,
            1,
        ),
    ];
    let (mut malformed, mut newer) = (0, 0);
    for (channel, bytes, more_malformed, more_newer) in skipped {
        let channel = Channel::new(format!("hub:chat:{channel}")).unwrap();
        cluster.nodes[0]
            .publish(&channel, bytes.into())
            .await
            .unwrap();
        malformed += more_malformed;
        newer += more_newer;
        cluster.hubs[0].send(Target::group("g"), "x").await.unwrap();
        assert_eq!(next(&mut member).await, "x");
        let stats = cluster.hubs[1].stats();
        assert_eq!((stats.malformed, stats.incompatible), (malformed, newer));
    }
}

#[tokio::test]
async fn d4_a_message_that_is_too_large_reaches_nobody() {
    for mode in BOTH {
        let cluster = Cluster::of(1, mode).await;
        let mut near = [cluster.connect(0).await];
        let limit = cluster.nodes[0].capabilities().max_payload;
        let hub = &cluster.hubs[0];
        let error = hub.send(Target::all(), vec![0; limit]).await.unwrap_err();
        let SendError::Publish { local: 0, source } = error else {
            panic!("{error}");
        };
        assert!(matches!(
            source.kind(),
            PublishErrorKind::NotSent(NotSent::TooLarge { .. })
        ));
        assert_eq!(flush(hub, &mut near).await, [[""; 0]]);
    }
}

#[tokio::test]
async fn close_ends_connections_after_what_is_queued_and_gives_everything_back() {
    for drops in [false, true] {
        let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
        let hub = cluster.hubs[0].clone();
        let mut client = hub.connect(Connect::new().user("ann")).await.unwrap();
        client.join("g").await.unwrap();
        hub.send(Target::all(), "last").await.unwrap();
        let mut others = cluster.hubs;
        let other = others.pop().unwrap();
        if drops {
            drop((others, hub));
        } else {
            hub.close().await;
            hub.close().await;
            assert!(matches!(
                hub.send(Target::all(), "x").await,
                Err(SendError::Closed)
            ));
            assert!(matches!(
                hub.connect(Connect::new()).await,
                Err(HubError::Closed)
            ));
            let request = Connect::new().user("bob");
            assert!(matches!(hub.connect(request).await, Err(HubError::Closed)));
        }
        assert!(client.join("h").await.is_err());
        assert_eq!(next(&mut client).await, "last");
        assert_eq!(next(&mut client).await, "HubClosed");
        until("nothing is left of it", || {
            cluster.nodes[0].stats().subscriptions == 0
        })
        .await;
        assert_eq!(cluster.nodes[0].stats().channels, 0);
        // Its node and the other hub go on.
        cluster.nodes[0].health().await.unwrap();
        other.send(Target::all(), "x").await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_closes_ends_its_hub_and_a_join_that_waits() {
    let cluster = Cluster::of(1, DeliveryMode::LocalFirst).await;
    let mut client = cluster.connect(0).await;
    let way = Duration::from_secs(1);
    cluster.bus.delay(way, way);
    let handle = client.handle();
    let mut join = Box::pin(handle.join("g"));
    assert!(poll!(join.as_mut()).is_pending());
    cluster.nodes[0].close().await;
    assert!(matches!(join.await, Err(HubError::Closed)));
    assert_eq!(next(&mut client).await, "HubClosed");
    assert_eq!(client.ended(), Some(Ended::HubClosed));
    assert!(cluster.hubs[0].send(Target::all(), "x").await.is_err());
}

#[tokio::test]
async fn a_join_during_which_an_outage_begins_is_deferred() {
    let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
    let mut client = cluster.connect(0).await;
    let way = Duration::from_millis(200);
    cluster.bus.delay(way, way);
    let handle = client.handle();
    let mut join = Box::pin(handle.join("g"));
    assert!(poll!(join.as_mut()).is_pending());
    cluster.bus.stop();
    join.await.unwrap();
    cluster.bus.undelay();
    cluster.start().await;
    cluster.hubs[1].send(Target::group("g"), "x").await.unwrap();
    assert_eq!(next(&mut client).await, "x");
}

/// What a crowd of clients costs.
#[derive(Debug)]
#[allow(dead_code)] // printed
struct Cost {
    count: usize,
    bytes_each: i64,
    connect_each: Duration,
    send_to_all_each: Duration,
    send_to_one: Duration,
    disconnect_each: Duration,
}

/// Connects so many clients, of a user each and in two groups: one with everybody, and one of a thousand.
fn crowd(count: usize) -> Cost {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cluster = runtime.block_on(Cluster::of(1, DeliveryMode::LocalFirst));
    let hub = &cluster.hubs[0];
    let mut clients = Vec::with_capacity(count);
    let begin = Instant::now();
    let used = measure(|| {
        runtime.block_on(async {
            for n in 0..count {
                let request = Connect::new().user(format!("user {n}"));
                let client = hub.connect(request).await.unwrap();
                client.join(format!("room {}", n % 1000)).await.unwrap();
                client.join("everybody").await.unwrap();
                clients.push(client);
            }
        });
    });
    let connect = begin.elapsed();
    let send = |target: Target, reached: usize| {
        let begin = Instant::now();
        let sent = runtime.block_on(hub.send(target, "x")).unwrap();
        assert_eq!(sent.local, reached);
        begin.elapsed()
    };
    send(Target::group("room 7"), count / 1000);
    let all = send(Target::group("everybody"), count);
    let one = (0..1000).map(|n| send(Target::user(format!("user {n}")), 1));
    let one: Duration = one.sum();
    let begin = Instant::now();
    drop(clients);
    let disconnect = begin.elapsed();
    assert_eq!((hub.stats().connections, hub.stats().rooms), (0, 0));
    let each = |total: Duration| total / u32::try_from(count).unwrap();
    Cost {
        count,
        bytes_each: used.bytes_current / i64::try_from(count).unwrap(),
        connect_each: each(connect),
        send_to_all_each: each(all),
        send_to_one: one / 1000,
        disconnect_each: each(disconnect),
    }
}

#[test]
fn a_connection_with_a_user_and_two_groups_takes_less_than_1500_bytes() {
    let cost = crowd(10_000);
    assert!(cost.bytes_each < 1500, "{cost:?}");
}

/// Run by hand: `cargo test --release -p backplane-core --test hub_life -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn a_crowd_of_each_size() {
    for count in [10_000, 30_000, 100_000] {
        println!("{:#?}", crowd(count));
    }
}
