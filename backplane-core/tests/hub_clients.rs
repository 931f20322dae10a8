//! Slow clients, sinks that fail, and the order in which one sender's messages arrive (rules H18, H22 and H24).

#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

mod cluster;

use std::sync::{Arc, Mutex, OnceLock};

use backplane_core::BoxError;
use backplane_core::hub::{
    Connect, Connection, ConnectionHandle, DeliveryMode, Ended, Hub, Outbound, Overflow, Sink,
    Target,
};
use cluster::{BOTH, Cluster, before, flush, next, until};
use futures_util::{FutureExt, StreamExt};

#[tokio::test(flavor = "multi_thread")]
async fn h18_one_senders_messages_arrive_in_order_whatever_their_targets() {
    for mode in BOTH {
        let cluster = Cluster::of(3, mode).await;
        let mut members = Vec::new();
        for hub in &cluster.hubs {
            let request = Connect::new().user("ann").queue_capacity(10_000);
            let connection = hub.connect(request).await.unwrap();
            connection.join("g").await.unwrap();
            members.push(connection);
        }
        let ids: Vec<_> = members.iter().map(|member| member.id()).collect();
        let targets = [
            Target::all(),
            Target::group("g"),
            Target::user("ann"),
            Target::connections(ids.clone()),
            Target::groups(["g", "h"]),
            Target::group("g").and(Target::user("ann")),
        ];
        let senders = cluster.hubs.iter().enumerate().map(|(node, hub)| {
            let (hub, targets, ids) = (hub.clone(), targets.clone(), ids.clone());
            tokio::spawn(async move {
                for n in 0..300 {
                    let text = format!("{node} {n}");
                    if n % 7 == 6 {
                        for id in &ids {
                            hub.send(Target::connection(*id), text.clone())
                                .await
                                .unwrap();
                        }
                    } else {
                        let target = targets[n % targets.len()].clone();
                        hub.send(target, text).await.unwrap();
                    }
                }
            })
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
        for member in &mut members {
            let mut came = [0; 3];
            for _ in 0..900 {
                let text = next(member).await;
                let (node, n) = text.split_once(' ').unwrap();
                let came = &mut came[node.parse::<usize>().unwrap()];
                assert_eq!(n.parse::<i32>().unwrap(), *came, "{mode:?}");
                *came += 1;
            }
        }
    }
}

#[tokio::test]
async fn h18_local_delivery_is_done_at_the_first_poll_in_the_order_of_the_calls() {
    let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
    let mut near = cluster.connect(0).await;
    near.join("g").await.unwrap();
    let way = std::time::Duration::from_millis(20);
    cluster.bus.delay(way, way);
    let mut sends = Vec::new();
    for n in 0..20 {
        let target = if n % 2 == 0 {
            Target::all()
        } else {
            Target::group("g")
        };
        let mut send = Box::pin(cluster.hubs[0].send(target, n.to_string()));
        assert!(futures_util::poll!(send.as_mut()).is_pending());
        sends.push(send);
    }
    for n in 0..20 {
        assert_eq!(next(&mut near).now_or_never().unwrap(), n.to_string());
    }
    for sent in futures_util::future::join_all(sends).await {
        sent.unwrap();
    }
}

/// Two clients on each of two nodes, one of which reads nothing.
async fn slow_and_fast(overflow: Overflow) -> (Cluster, Vec<Connection>, Vec<Connection>) {
    let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
    let (mut slow, mut fast) = (Vec::new(), Vec::new());
    for hub in &cluster.hubs {
        let request = Connect::new()
            .user("ann")
            .queue_capacity(3)
            .overflow(overflow);
        slow.push(hub.connect(request).await.unwrap());
        let request = Connect::new().queue_capacity(10_000);
        fast.push(hub.connect(request).await.unwrap());
    }
    (cluster, slow, fast)
}

#[tokio::test]
async fn h22_what_a_slow_client_misses_is_counted_at_its_place_and_it_delays_nobody() {
    let (cluster, mut slow, mut fast) = slow_and_fast(Overflow::DropAndTell).await;
    for n in 0..1000 {
        cluster.hubs[0]
            .send(Target::all(), n.to_string())
            .await
            .unwrap();
    }
    for came in flush(&cluster.hubs[0], &mut fast).await {
        assert_eq!(came.len(), 1000);
    }
    for client in &mut slow {
        // The three that came first, and the end of the fast ones' messages is missed too.
        for text in ["0", "1", "2", "missed 998"] {
            assert_eq!(next(client).await, text);
        }
    }
    let sent = cluster.hubs[0]
        .send(Target::user("ann"), "again")
        .await
        .unwrap();
    assert_eq!(sent.local, 1);
    for client in &mut slow {
        assert_eq!(next(client).await, "again");
    }
    assert_eq!(cluster.hubs[1].stats().missed, 998);
}

#[tokio::test]
async fn h22_a_slow_client_is_disconnected_if_that_is_asked_for() {
    let (cluster, mut slow, mut fast) = slow_and_fast(Overflow::Disconnect).await;
    let handle = slow[0].handle();
    for n in 0..100 {
        cluster.hubs[0]
            .send(Target::all(), n.to_string())
            .await
            .unwrap();
    }
    assert!(
        flush(&cluster.hubs[0], &mut fast)
            .await
            .iter()
            .all(|came| came.len() == 100)
    );
    for client in &mut slow {
        assert_eq!(before("TooSlow", client).await, ["0", "1", "2"]);
        assert_eq!(client.ended(), Some(Ended::TooSlow));
        assert!(client.next().await.is_none());
    }
    assert!(handle.join("g").await.is_err());
    // They have left, before their owners drop them.
    for hub in &cluster.hubs {
        assert_eq!((hub.stats().connections, hub.stats().rooms), (1, 0));
    }
    until("the broker forgets their user", || {
        cluster.subscribers("user:ann") == 0
    })
    .await;
}

/// Writes down what it gets, and fails when it is told to.
#[derive(Default)]
struct Client {
    came: Mutex<Vec<String>>,
    /// Answers its first message through this.
    hub: OnceLock<(Hub, ConnectionHandle)>,
}

impl Client {
    fn came(&self) -> Vec<String> {
        self.came.lock().unwrap().clone()
    }
}

impl Sink for Client {
    fn deliver(&self, outbound: Outbound) -> Result<(), BoxError> {
        let Outbound::Message(payload) = outbound else {
            return Err("not a message".into());
        };
        let text = String::from_utf8_lossy(&payload.bytes().unwrap()).into_owned();
        self.came.lock().unwrap().push(text.clone());
        match (&*text, self.hub.get()) {
            ("fail", _) => Err("no".into()),
            ("panic", _) => panic!("no"),
            ("ping", Some((hub, me))) => {
                let left = me.leave("g").now_or_never();
                let sent = hub.send(Target::all(), "pong").now_or_never();
                assert!(left.is_some() && sent.is_some());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h24_a_sink_that_fails_or_panics_affects_neither_the_others_nor_the_sender() {
    let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
    for (round, end) in ["fail", "panic"].into_iter().enumerate() {
        let (mut sinks, mut owners, mut queues) = (Vec::new(), Vec::new(), Vec::new());
        for hub in &cluster.hubs {
            let (bad, good) = (Arc::new(Client::default()), Arc::new(Client::default()));
            for (sink, user) in [(&bad, "bad"), (&good, "good")] {
                let sink = Arc::clone(sink) as Arc<dyn Sink>;
                let request = Connect::new().user(user);
                owners.push(hub.connect_sink(request, sink).await.unwrap());
            }
            sinks.extend([bad, good]);
            queues.push(hub.connect(Connect::new()).await.unwrap());
        }
        let hub = &cluster.hubs[0];
        hub.send(Target::all(), "1").await.unwrap();
        assert_eq!(hub.send(Target::user("bad"), end).await.unwrap().local, 1);
        hub.send(Target::all(), "2").await.unwrap();
        for came in flush(hub, &mut queues).await {
            assert_eq!(came, ["1", "2"]);
        }
        until("the good ones get all", || {
            [1, 3]
                .iter()
                .all(|n| sinks[*n].came() == ["1", "2", "the end"])
        })
        .await;
        for n in [0, 2] {
            assert_eq!(sinks[n].came(), ["1", end]);
            assert_eq!(owners[n].ended(), Some(Ended::SinkFailed));
            assert_eq!(owners[n + 1].ended(), None);
            // The hub has let go of it.
            assert_eq!(Arc::strong_count(&sinks[n]), 1);
        }
        assert_eq!(cluster.hubs[1].stats().sinks_failed, round as u64 + 1);
        until("the bad user is forgotten", || {
            cluster.subscribers("user:bad") == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_sink_may_use_the_hub_and_is_never_called_by_two_at_once() {
    let cluster = Cluster::of(1, DeliveryMode::LocalFirst).await;
    let hub = &cluster.hubs[0];
    let client = Arc::new(Client::default());
    let sink = Arc::clone(&client) as Arc<dyn Sink>;
    let owner = hub.connect_sink(Connect::new(), sink).await.unwrap();
    owner.join("g").await.unwrap();
    assert!(client.hub.set((hub.clone(), owner.handle())).is_ok());
    hub.send(Target::group("g"), "ping").await.unwrap();
    hub.send(Target::group("g"), "left").await.unwrap();
    assert_eq!(client.came(), ["ping", "pong"]);
    drop(owner);
    hub.send(Target::all(), "gone").await.unwrap();
    assert_eq!(client.came(), ["ping", "pong"]);
    assert_eq!(Arc::strong_count(&client), 1);
}
