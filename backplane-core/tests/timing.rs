//! How long things take, to the millisecond, on a paused clock.

mod support;

use std::time::Duration;

use backplane_core::{
    Backplane, ConnectErrorKind, ConnectionState, DisconnectKind, Event, HealthErrorKind, Node,
    NodeOptions, Order, Requirement, Subscribe,
};
use backplane_memory::MemoryBus;
use support::{Fake, channel, connected, options};
use tokio::time::Instant;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn beating() -> NodeOptions {
    options()
        .heartbeat_interval(MS(300))
        .heartbeat_timeout(MS(200))
}

async fn down(node: &impl Backplane) -> DisconnectKind {
    let mut watch = node.watch();
    match watch.wait_for(|state| !state.is_connected()).await {
        Some(ConnectionState::Disconnected { reason }) => reason.kind(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_or_mute_broker_is_noticed_within_interval_plus_timeout() {
    for freeze in [true, false] {
        let bus = MemoryBus::new();
        let node = bus.connect(beating()).await.unwrap();
        // Some beats pass first; the fault comes at a random point of the interval.
        tokio::time::sleep(MS(1234)).await;
        let begin = Instant::now();
        if freeze {
            bus.freeze()
        } else {
            bus.mute()
        }
        assert_eq!(down(&node).await, DisconnectKind::Unresponsive);
        assert!(begin.elapsed() <= MS(500), "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_noticed_at_once() {
    let bus = MemoryBus::new();
    let node = bus.connect(options()).await.unwrap();
    let begin = Instant::now();
    bus.stop();
    assert_eq!(down(&node).await, DisconnectKind::Lost);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn after_a_day_of_outage_the_node_is_back_within_the_longest_pause() {
    let bus = MemoryBus::new();
    let node = bus.connect(options()).await.unwrap();
    bus.stop();
    down(&node).await;
    tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
    assert!(!node.state().is_connected());
    let begin = Instant::now();
    bus.start();
    connected(&node).await;
    assert!(begin.elapsed() <= MS(500), "{:?}", begin.elapsed());
    assert_eq!(node.state(), ConnectionState::Connected { generation: 2 });
}

#[tokio::test(start_paused = true)]
async fn a_mute_broker_never_looks_connected_again_until_it_delivers() {
    let bus = MemoryBus::new();
    let node = bus.connect(beating()).await.unwrap();
    bus.mute();
    down(&node).await;
    let mut events = node.events();
    let watching = async {
        while let Some(event) = events.recv().await {
            let connected = Event::State(ConnectionState::Connected { generation: 2 });
            assert_ne!(event, connected);
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(60), watching)
            .await
            .is_err()
    );
    bus.unmute();
    connected(&node).await;
}

/// Two links of a node can be open on a broker at once: the old one is not closed yet.
#[tokio::test(start_paused = true)]
async fn a_probe_that_comes_back_on_an_older_link_proves_nothing_of_the_new_one() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), beating()).await.unwrap();
    let old = fake.0.inbound();
    fake.0.deliver_probes_to(Some(old.clone()));
    fake.0.break_link();
    down(&node).await;
    let before = fake.0.links();
    let mut events = node.events();
    let watching = async {
        while let Some(event) = events.recv().await {
            assert!(
                !matches!(event, Event::State(ConnectionState::Connected { .. })),
                "attached by a probe that came back on another link"
            );
        }
    };
    let watched = tokio::time::timeout(Duration::from_secs(60), watching).await;
    assert!(watched.is_err(), "the node closed itself");
    assert!(fake.0.links() > before + 10, "it does not try again");

    fake.0.deliver_probes_to(None);
    connected(&node).await;
    node.health().await.unwrap();
    // The same holds for a node that is attached.
    fake.0.deliver_probes_to(Some(old));
    let unhealthy = node.health().await.unwrap_err();
    assert_eq!(unhealthy.kind(), HealthErrorKind::Unhealthy);
    assert_eq!(down(&node).await, DisconnectKind::Unresponsive);
}

#[tokio::test(start_paused = true)]
async fn the_eager_constructor_is_bounded_by_the_connect_timeout() {
    let bus = MemoryBus::new();
    bus.freeze();
    let begin = Instant::now();
    let error = bus
        .connect(options().connect_timeout(MS(700)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Timeout);
    assert_eq!(begin.elapsed(), MS(700));
    assert_eq!(
        error.to_string(),
        "memory bus did not answer in time: no answer to a connection within 700ms"
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_the_eager_constructor_leaves_nothing() {
    let bus = MemoryBus::new();
    bus.freeze();
    let connecting = bus.connect(options());
    assert!(tokio::time::timeout(MS(100), connecting).await.is_err());
    bus.thaw();
    support::until("the connection goes", || bus.connections() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn health_answers_within_the_heartbeat_timeout() {
    let bus = MemoryBus::new();
    let node = bus.connect(beating()).await.unwrap();
    node.health().await.unwrap();
    bus.freeze();
    let begin = Instant::now();
    assert_eq!(
        node.health().await.unwrap_err().kind(),
        HealthErrorKind::Unhealthy
    );
    assert_eq!(begin.elapsed(), MS(200));
    down(&node).await;
    assert_eq!(
        node.health().await.unwrap_err().kind(),
        HealthErrorKind::Unavailable
    );
}

#[tokio::test(start_paused = true)]
async fn a_subscribe_to_a_frozen_broker_ends_in_time_and_leaves_nothing() {
    let bus = MemoryBus::new();
    let slow_beat = Duration::from_secs(3600);
    let node = bus
        .connect(
            options()
                .subscribe_timeout(MS(400))
                .heartbeat_interval(slow_beat),
        )
        .await
        .unwrap();
    bus.freeze();
    let begin = Instant::now();
    let news = channel("news");
    node.subscribe(Subscribe::to([news.clone()]))
        .await
        .unwrap_err();
    assert_eq!(begin.elapsed(), MS(400));
    bus.thaw();
    connected(&node).await;
    support::until("the broker forgets it", || {
        bus.subscribers(node.prefix(), &news) == 0
    })
    .await;
    assert_eq!((node.stats().subscriptions, node.stats().channels), (0, 0));
}

#[tokio::test]
async fn impossible_options_are_refused_by_name() {
    let bus = MemoryBus::new();
    let error = bus.connect(options().queue_capacity(0)).await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::InvalidOption);
    assert!(error.to_string().contains("queue_capacity"), "{error}");
    assert!(Node::connect_lazy(bus.driver(), options().max_pending(0)).is_err());
}

#[tokio::test]
async fn an_unmet_requirement_is_refused_before_anything_is_opened() {
    let bus = MemoryBus::new();
    // Who connected would hear that the bus is stopped.
    bus.stop();
    let wanted = options()
        .require(Requirement::Order(Order::Total))
        .require(Requirement::Failover);
    let error = bus.connect(wanted.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "memory bus does not offer what the node requires: option require: the backend does not promise failover"
    );
    let error = bus.connect_lazy(wanted).unwrap_err();
    assert_eq!(error.name, "require");

    bus.start();
    let met = options().require(Requirement::Order(Order::Total));
    let node = bus.connect(met.require(Requirement::CountsLoss)).await;
    assert!(node.unwrap().state().is_connected());
}
