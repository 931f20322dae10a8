//! Who gets what is sent to the targets of a hub, on three nodes (rules H1 to H10, H13, H25 and H26).

#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

mod cluster;

use std::sync::Arc;

use backplane_core::hub::{
    Connect, Connection, ConnectionId, Hub, Others, Payload, SendError, Target,
};
use backplane_core::{Backplane, NodeId};
use cluster::{BOTH, Cluster, before, flush, next, options};

const NODES: usize = 3;

/// On each node: one of ann in the group g, one of bob in g and h, one of nobody in h, and one of nobody in nothing.
const KINDS: [(&str, Option<&str>, &[&str]); 4] = [
    ("a", Some("ann"), &["g"]),
    ("b", Some("bob"), &["g", "h"]),
    ("c", None, &["h"]),
    ("d", None, &[]),
];

async fn crowd(cluster: &Cluster) -> (Vec<String>, Vec<Connection>) {
    let (mut names, mut connections) = (Vec::new(), Vec::new());
    for (node, hub) in cluster.hubs.iter().enumerate() {
        for (kind, user, groups) in KINDS {
            let request = user.map_or_else(Connect::new, |user| Connect::new().user(user));
            let connection = hub.connect(request).await.unwrap();
            for group in groups {
                connection.join(group).await.unwrap();
            }
            names.push(format!("{kind}{node}"));
            connections.push(connection);
        }
    }
    (names, connections)
}

/// Rule, target, and whom it means: kinds of connections on all nodes, or single ones.
fn table(id: impl Fn(&str) -> ConnectionId) -> Vec<(&'static str, Target, &'static str)> {
    let nobody = "0000000000000001".repeat(3).parse().unwrap();
    vec![
        ("H1", Target::all(), "a b c d"),
        (
            "H2",
            Target::all().except_connection(id("a0")),
            "a1 a2 b c d",
        ),
        (
            "H2",
            Target::all().except_connections([id("a0"), id("d2")]),
            "a1 a2 b c d0 d1",
        ),
        ("H2", Target::all().except_connection(nobody), "a b c d"),
        ("H2", Target::all().except_group("g"), "c d"),
        (
            "H2",
            Target::all()
                .except_user("ann")
                .except_groups(["h", "none"]),
            "d",
        ),
        ("H3", Target::connection(id("b1")), "b1"),
        ("H3", Target::connection(id("b0")), "b0"),
        ("H3", Target::connection(nobody), ""),
        (
            "H4",
            Target::connections([id("a1"), id("b1"), id("a1")]),
            "a1 b1",
        ),
        (
            "H4",
            Target::connections([id("a0"), id("b1"), id("c2"), id("c2")]),
            "a0 b1 c2",
        ),
        ("H4", Target::connections([id("a0"), id("b0")]), "a0 b0"),
        ("H4", Target::connections([]), ""),
        ("H5", Target::group("g"), "a b"),
        ("H5", Target::group("none"), ""),
        ("H6", Target::groups(["g", "h"]), "a b c"),
        ("H6", Target::groups(["g", "g"]), "a b"),
        ("H6", Target::groups::<&str>([]), ""),
        (
            "H7",
            Target::group("g").except_connection(id("a1")),
            "a0 a2 b",
        ),
        ("H7", Target::group("g").except_group("h"), "a"),
        ("H7", Target::group("g").except_group("g"), ""),
        ("H8", Target::user("ann"), "a"),
        ("H9", Target::users(["ann", "bob", "nobody"]), "a b"),
        (
            "H10",
            Target::user("bob").except_connection(id("b2")),
            "b0 b1",
        ),
        ("H10", Target::user("bob").except_user("bob"), ""),
        (
            "H10",
            Target::users(["ann", "bob"]).except_users(["bob"]),
            "a",
        ),
        (
            "union",
            Target::group("g")
                .and(Target::user("ann"))
                .and(Target::connection(id("d1"))),
            "a b d1",
        ),
        ("union", Target::all().and(Target::group("g")), "a b c d"),
        (
            "union",
            Target::connection(id("d0")).and(Target::group("h").except_user("bob")),
            "c d0",
        ),
        (
            "union",
            Target::group("g")
                .except_connection(id("d1"))
                .and(Target::connection(id("d1"))),
            "a b",
        ),
        (
            "union",
            Target::connection(id("a0"))
                .and(Target::connection(id("a0")))
                .except_connection(id("a0")),
            "",
        ),
    ]
}

#[tokio::test]
async fn h1_to_h10_each_target_reaches_exactly_the_right_connections_once() {
    for mode in BOTH {
        let cluster = Cluster::of(NODES, mode).await;
        let (names, mut connections) = crowd(&cluster).await;
        let ids: Vec<_> = connections
            .iter()
            .map(|connection| connection.id())
            .collect();
        let id = |name: &str| ids[names.iter().position(|n| n == name).unwrap()];
        for (rule, target, meant) in table(id) {
            for hub in &cluster.hubs {
                hub.send(target.clone(), "x").await.unwrap();
                let came = flush(hub, &mut connections).await;
                for (name, came) in names.iter().zip(came) {
                    let is_meant = meant.split(' ').any(|m| m == name || m == &name[..1]);
                    let expected: &[&str] = if is_meant { &["x"] } else { &[] };
                    assert_eq!(came, expected, "{rule} {mode:?} {target:?}: {name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn h3_what_is_for_one_connection_goes_to_its_node_alone() {
    let cluster = Cluster::of(NODES, BOTH[0]).await;
    let [mut first, mut second] = [cluster.connect(1).await, cluster.connect(1).await];
    let here = cluster.connect(0).await;
    let hub = &cluster.hubs[0];
    let received = |node: usize| cluster.hubs[node].stats().received;

    let sent = hub.send(Target::connection(here.id()), "x").await.unwrap();
    assert_eq!((sent.local, sent.others), (1, Others::NotNeeded));
    let both = Target::connections([first.id(), second.id(), here.id()]);
    let sent = hub.send(both, "y").await.unwrap();
    assert_eq!((sent.local, sent.others), (1, Others::Accepted));
    assert_eq!(next(&mut first).await, "y");
    assert_eq!(next(&mut second).await, "y");
    flush(hub, &mut [cluster.connect(2).await]).await;
    assert_eq!((received(0), received(1), received(2)), (0, 2, 1));
}

#[tokio::test]
async fn h13_names_are_literal_and_a_group_a_user_and_a_connection_of_one_name_never_meet() {
    for mode in BOTH {
        let cluster = Cluster::of(2, mode).await;
        let [sender, other] = [&cluster.hubs[0], &cluster.hubs[1]];
        let plain = other.connect(Connect::new()).await.unwrap();
        let name = plain.id().to_string();
        let user = other.connect(Connect::new().user(&*name)).await.unwrap();
        let mut everybody = vec![plain, user];
        let groups = ["*", "g", "G", "g ", "group:g", "gé", &name];
        for group in groups {
            let connection = cluster.connect(1).await;
            connection.join(group).await.unwrap();
            everybody.push(connection);
        }
        sender
            .send(Target::connection(everybody[0].id()), "connection")
            .await
            .unwrap();
        sender.send(Target::user(&name), "user").await.unwrap();
        for group in groups {
            sender
                .send(Target::group(group), format!("group {group}"))
                .await
                .unwrap();
        }
        let came = flush(sender, &mut everybody).await;
        assert_eq!(came[..2], [["connection"], ["user"]]);
        for (group, came) in groups.iter().zip(&came[2..]) {
            assert_eq!(*came, [format!("group {group}")]);
        }
    }
}

#[tokio::test]
async fn names_that_are_empty_or_too_long_are_refused_before_anybody_gets_anything() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let hub = &cluster.hubs[0];
    let long = "x".repeat(Target::MAX_NAME_LEN + 1);
    let mut connection = cluster.connect(0).await;
    for target in [
        Target::group(""),
        Target::all().and(Target::user(&long)),
        Target::all().except_group(&long),
    ] {
        let error = hub.send(target, "x").await.unwrap_err();
        assert!(matches!(error, SendError::InvalidName(_)) && error.is_not_sent());
    }
    assert!(connection.join("").await.is_err() && connection.leave(&long).await.is_err());
    assert!(hub.connect(Connect::new().user(long)).await.is_err());
    assert_eq!(
        flush(hub, std::slice::from_mut(&mut connection)).await,
        [[""; 0]]
    );
}

#[tokio::test]
async fn h25_hubs_of_different_names_are_isolated() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let node = |n: usize| Arc::clone(&cluster.nodes[n]) as Arc<dyn Backplane>;
    for name in ["Chat", "chat:all", "chat%3Aall", "c"] {
        let other = Hub::builder(node(0)).name(name).build().await.unwrap();
        let there = Hub::builder(node(1)).name(name).build().await.unwrap();
        let ann = || Connect::new().user("ann");
        let mut ours = cluster.hubs[1].connect(ann()).await.unwrap();
        let mut theirs = there.connect(ann()).await.unwrap();
        ours.join("g").await.unwrap();
        theirs.join("g").await.unwrap();
        for target in [
            Target::all(),
            Target::group("g"),
            Target::user("ann"),
            Target::connection(theirs.id()),
        ] {
            other.send(target, "x").await.unwrap();
        }
        other.send(Target::all(), "the end").await.unwrap();
        assert_eq!(before("the end", &mut theirs).await, ["x"; 4]);
        assert_eq!(
            flush(&cluster.hubs[0], std::slice::from_mut(&mut ours)).await,
            [[""; 0]]
        );
    }
}

#[tokio::test]
async fn h26_a_hub_without_connections_reaches_every_target() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let emitter = Arc::new(cluster.bus.connect(options()).await.unwrap());
    let emitter = Hub::builder(emitter).name("chat").build().await.unwrap();
    let (names, mut connections) = crowd(&cluster).await;
    let a0 = connections[0].id();
    assert_eq!(names[0], "a0");
    for (target, reached) in [
        (Target::all(), 8),
        (Target::group("g"), 4),
        (Target::user("ann"), 2),
        (Target::connection(a0), 1),
        (Target::all().except_connection(a0), 7),
    ] {
        let sent = emitter.send(target, "x").await.unwrap();
        assert_eq!((sent.local, sent.others), (0, Others::Accepted));
        let came = flush(&emitter, &mut connections).await;
        assert_eq!(came.iter().flatten().count(), reached);
    }
}

#[tokio::test]
async fn every_encoding_of_a_message_arrives_on_every_node() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let sent = Payload::with("json", "{}")
        .and("msgpack", b"\x80".as_slice())
        .and("raw", vec![0; 70_000]);
    let mut connections = [cluster.connect(0).await, cluster.connect(1).await];
    cluster.hubs[0]
        .send(Target::all(), sent.clone())
        .await
        .unwrap();
    for connection in &mut connections {
        let Some(backplane_core::hub::Outbound::Message(came)) = connection.recv().await else {
            panic!("a message arrives");
        };
        assert_eq!(came, sent);
        assert_eq!(came.get("json").as_deref(), Some(b"{}".as_slice()));
    }
}

#[tokio::test]
async fn a_connection_of_a_node_that_is_gone_is_no_error() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let gone = format!("{}{}", NodeId::from_u64(7), "0".repeat(32));
    let gone: ConnectionId = gone.parse().unwrap();
    let sent = cluster.hubs[0]
        .send(Target::connection(gone), "x")
        .await
        .unwrap();
    assert_eq!((sent.local, sent.others), (0, Others::Accepted));
}
