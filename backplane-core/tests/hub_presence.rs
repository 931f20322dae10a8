//! Which nodes there are (rule H20).

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::{Departure, Hub, NodeEvent, Target};
use backplane_core::{Backplane, Channel};
use cluster::{BOTH, Cluster, event, id, until};
use tokio::time::Instant;

async fn settled(hub: &Hub) {
    until("all nodes are known", || hub.nodes().settled).await;
}

#[tokio::test]
async fn h20_a_node_is_known_when_it_comes_and_when_it_goes() {
    for mode in BOTH {
        let mut cluster = Cluster::of(2, mode).await;
        let hub = cluster.hubs[0].clone();
        let mut presence = hub.presence();
        assert_eq!(
            event(&mut presence).await,
            NodeEvent::Joined(id(&cluster, 1))
        );
        cluster.add(|hub| hub.delivery(mode)).await;
        assert_eq!(
            event(&mut presence).await,
            NodeEvent::Joined(id(&cluster, 2))
        );
        assert_eq!(hub.nodes().ids.len(), 3);
        // One closes its hub, the other just drops it.
        cluster.hubs[1].close().await;
        let left = NodeEvent::Left(id(&cluster, 1), Departure::Closed);
        assert_eq!(event(&mut presence).await, left);
        drop(cluster.hubs.pop());
        let left = NodeEvent::Left(id(&cluster, 2), Departure::Closed);
        assert_eq!(event(&mut presence).await, left);
        assert_eq!(hub.nodes().ids, [id(&cluster, 0)]);
        hub.close().await;
        assert_eq!(presence.recv().await, None);
    }
}

#[tokio::test]
async fn h20_the_count_is_right_from_the_first_moment_it_says_so() {
    let mut cluster = Cluster::of(4, BOTH[0]).await;
    settled(&cluster.hubs[0]).await;
    for count in 5..9 {
        let hub = cluster.add(|hub| hub).await;
        let first = hub.nodes();
        assert!(!first.ids.is_empty(), "itself at least");
        assert!(first.ids.len() == count || !first.settled);
        until("all nodes are known", || {
            let nodes = hub.nodes();
            assert!(
                nodes.ids.len() == count || !nodes.settled,
                "{nodes:?} of {count}"
            );
            nodes.settled
        })
        .await;
        assert_eq!(hub.nodes().ids[0], id(&cluster, count - 1));
    }
}

#[tokio::test(start_paused = true)]
async fn h20_a_node_alone_is_sure_of_it_after_two_intervals() {
    let cluster = Cluster::with(1, |hub| hub.heartbeat_interval(Duration::from_secs(3))).await;
    let begin = Instant::now();
    assert!(!cluster.hubs[0].nodes().settled);
    let count = cluster.hubs[0].count(Target::all()).await;
    // It does not wait longer than for any answer.
    assert!(!count.unwrap().complete());
    assert_eq!(begin.elapsed(), Duration::from_secs(5));
    assert!(
        cluster.hubs[0]
            .count(Target::all())
            .await
            .unwrap()
            .complete()
    );
    assert_eq!(begin.elapsed(), Duration::from_secs(6));
    assert!(cluster.hubs[0].nodes().settled);
}

#[tokio::test(start_paused = true)]
async fn h20_everybody_notices_a_crash_within_the_bound_and_the_return() {
    let cluster = Cluster::of(3, BOTH[0]).await;
    cluster.acquainted().await;
    let mut watchers = [cluster.hubs[0].presence(), cluster.hubs[1].presence()];
    for watcher in &mut watchers {
        event(watcher).await;
        event(watcher).await;
    }
    let begin = Instant::now();
    cluster.crash(2);
    for watcher in &mut watchers {
        let left = NodeEvent::Left(id(&cluster, 2), Departure::Lost);
        assert_eq!(event(watcher).await, left);
    }
    let took = begin.elapsed();
    let bound = Duration::from_secs(3)..=Duration::from_millis(4500);
    assert!(bound.contains(&took), "{took:?}");
    // It was cut off itself, and knows that it cannot tell.
    let nodes = cluster.hubs[2].nodes();
    assert!(!nodes.settled);
    cluster.bus.admit(id(&cluster, 2));
    for watcher in &mut watchers {
        assert_eq!(event(watcher).await, NodeEvent::Joined(id(&cluster, 2)));
    }
    settled(&cluster.hubs[2]).await;
    assert_eq!(cluster.hubs[2].nodes().ids.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn h20_an_outage_of_all_is_nobodys_death() {
    let cluster = Cluster::of(3, BOTH[0]).await;
    cluster.acquainted().await;
    let mut presence = cluster.hubs[0].presence();
    event(&mut presence).await;
    event(&mut presence).await;
    cluster.stop().await;
    until("an outage is known", || !cluster.hubs[0].nodes().settled).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.hubs[0].nodes().ids.len(), 3);
    cluster.start().await;
    for hub in &cluster.hubs {
        settled(hub).await;
        assert_eq!(hub.nodes().ids.len(), 3);
    }
    // Nothing was told: the next event is one that happens now.
    cluster.hubs[2].close().await;
    let left = NodeEvent::Left(id(&cluster, 2), Departure::Closed);
    assert_eq!(event(&mut presence).await, left);
}

#[tokio::test(start_paused = true)]
async fn h20_real_traffic_takes_the_place_of_heartbeats_and_silence_does_not() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let all = Channel::new("hub:chat:all").unwrap();
    let mut heard = cluster.nodes[1]
        .subscribe(backplane_core::Subscribe::to([all]).without_own())
        .await
        .unwrap();
    let mut count = |what: &str| {
        let mut messages = 0;
        while heard.try_recv().is_ok() {
            messages += 1;
        }
        println!("{what}: {messages}");
        messages
    };
    tokio::time::sleep(Duration::from_secs(30)).await;
    let silent = count("in silence");
    assert!((29..=61).contains(&silent), "{silent} heartbeats in 30 s");
    for _ in 0..100 {
        cluster.hubs[0].send(Target::all(), "x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(count("with traffic"), 100);
    assert_eq!(cluster.hubs[1].nodes().ids.len(), 2);
}

#[tokio::test]
async fn h20_a_hub_that_is_built_anew_on_its_node_is_another_one() {
    let mut cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let mut presence = cluster.hubs[0].presence();
    event(&mut presence).await;
    cluster.hubs.pop().unwrap().close().await;
    let node = Arc::clone(&cluster.nodes[1]) as Arc<dyn Backplane>;
    let again = Hub::builder(node).name("chat").build().await.unwrap();
    let node = id(&cluster, 1);
    assert!(matches!(event(&mut presence).await, NodeEvent::Left(left, _) if left == node));
    assert_eq!(event(&mut presence).await, NodeEvent::Joined(node));
    until("it knows the other", || again.nodes().ids.len() == 2).await;
}

#[tokio::test]
async fn h25_hubs_of_other_names_and_other_publishers_are_no_nodes() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let stranger = Arc::new(cluster.bus.connect(cluster::options()).await.unwrap());
    let other = Hub::builder(Arc::clone(&stranger) as Arc<dyn Backplane>);
    let other = other.name("news").build().await.unwrap();
    let all = Channel::new("hub:chat:all").unwrap();
    stranger.publish(&all, "noise".into()).await.unwrap();
    until("it was heard", || cluster.hubs[0].stats().malformed == 1).await;
    assert_eq!(cluster.hubs[0].nodes().ids, [id(&cluster, 0)]);
    assert_eq!(other.nodes().ids, [stranger.node_id()]);
}

#[tokio::test]
async fn a_hub_may_never_give_up_a_node_and_never_say_that_it_is_there() {
    let cluster = Cluster::with(2, |hub| {
        hub.node_timeout(Duration::MAX)
            .heartbeat_interval(Duration::MAX)
            .request_timeout(Duration::MAX)
    })
    .await;
    cluster.acquainted().await;
    let member = cluster.connect(1).await;
    cluster.hubs[0].join(member.id(), "g").await.unwrap();
    assert!(cluster.hubs.iter().all(|hub| !hub.nodes().settled));
}

#[tokio::test(start_paused = true)]
async fn h20_a_node_whose_hello_was_lost_is_known_by_its_messages() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let node = Arc::new(cluster.bus.connect(cluster::options()).await.unwrap());
    cluster.bus.refuse_publishes();
    let hub = Hub::builder(Arc::clone(&node) as Arc<dyn Backplane>);
    let hub = hub.name("chat").build().await.unwrap();
    // Its hello is said, and nobody hears it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.bus.accept_publishes();
    // It always has something to say, so that its heart need not beat.
    for _ in 0..10 {
        hub.send(Target::all(), "x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(
        cluster.hubs[0].nodes().ids,
        [id(&cluster, 0), node.node_id()]
    );
}
