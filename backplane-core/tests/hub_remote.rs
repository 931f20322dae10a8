//! Changing connections of other nodes: join, leave and disconnect (rules H11 to H14).

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::{ConnectionId, Ended, Hub, RequestError, Target};
use backplane_core::{
    Backplane, Channel, InvalidName, NodeId, NotSent, PublishErrorKind, Subscribe, Subscribed,
};
use cluster::{
    BOTH, Cluster, PATIENCE, before, flush, next, nothing_is_left, question, silent, until,
};
use futures_util::future::join_all;
use futures_util::poll;
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn h11_h12_a_remote_join_that_returned_is_heard_and_after_a_remote_leave_nothing_comes() {
    for mode in BOTH {
        let cluster = Cluster::of(3, mode).await;
        let mut member = [cluster.connect(0).await];
        let id = member[0].id();
        for round in 0..150 {
            let group = format!("g{}", round % 5);
            let [asks, sends] = [&cluster.hubs[round % 3], &cluster.hubs[(round + 1) % 3]];
            let joined = asks.join(id, &group).await.unwrap();
            assert_eq!(joined, Subscribed::InForce);
            // Again, from everywhere: nothing changes (H13).
            for hub in &cluster.hubs {
                hub.join(id, &group).await.unwrap();
            }
            assert_eq!(member[0].groups(), [&*group]);
            sends.send(Target::group(&group), "in").await.unwrap();
            assert_eq!(flush(sends, &mut member).await, [["in"]]);
            for hub in &cluster.hubs {
                hub.leave(id, &group).await.unwrap();
            }
            sends.send(Target::group(&group), "out").await.unwrap();
            assert_eq!(flush(sends, &mut member).await, [[""; 0]]);
        }
        assert_eq!(member[0].groups(), [""; 0]);
        nothing_is_left(&cluster).await;
    }
}

#[tokio::test]
async fn h14_a_remote_change_goes_to_the_owning_node_alone_and_the_answer_to_the_one_that_asks() {
    let cluster = Cluster::of(3, BOTH[0]).await;
    cluster.acquainted().await;
    let mut watched = Vec::new();
    for hub in 0..3 {
        let channel = format!("hub:chat:node:{}", cluster.nodes[hub].node_id());
        let channel = Channel::new(channel).unwrap();
        let request = Subscribe::to([channel]);
        watched.push(cluster.nodes[2].subscribe(request).await.unwrap());
    }
    let member = cluster.connect(0).await;
    cluster.hubs[1].join(member.id(), "g").await.unwrap();
    cluster.hubs[1].leave(member.id(), "g").await.unwrap();
    // Two questions to the one, two answers to the other, and nothing else anywhere.
    for (node, expected) in [(0, 2), (1, 2), (2, 0)] {
        for _ in 0..expected {
            let message = timeout(PATIENCE, watched[node].recv()).await.unwrap();
            assert!(message.unwrap().into_message().is_some());
        }
        assert!(watched[node].try_recv().is_err(), "node {node}");
    }
}

#[tokio::test(start_paused = true)]
async fn h14_an_unknown_connection_is_said_at_once() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let gone = cluster.connect(1).await.id();
    let begin = Instant::now();
    for hub in &cluster.hubs {
        let errors = [
            hub.join(gone, "g").await.map(drop),
            hub.leave(gone, "g").await,
            hub.disconnect(gone).await,
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert!(error.is_not_done());
            assert!(
                matches!(error, RequestError::UnknownConnection(id) if id == gone),
                "{error}"
            );
            assert_eq!(error.to_string(), format!("there is no connection {gone}"));
        }
        for wrong in [String::new(), "g".repeat(Target::MAX_NAME_LEN + 1)] {
            let errors = [
                hub.join(gone, &wrong).await.map(drop),
                hub.leave(gone, &wrong).await,
            ];
            for error in errors {
                assert!(matches!(error, Err(RequestError::InvalidName(_))));
            }
        }
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    nothing_is_left(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn h14_a_node_that_is_gone_is_said_at_once_and_one_that_goes_ends_the_waiting() {
    let cluster = Cluster::of(3, BOTH[0]).await;
    cluster.acquainted().await;
    let [member, other] = [cluster.connect(1).await, cluster.connect(2).await];
    let hub = &cluster.hubs[0];

    cluster.hubs[2].close().await;
    until("the node said bye", || hub.nodes().ids.len() == 2).await;
    let begin = Instant::now();
    let error = hub.join(other.id(), "g").await.unwrap_err();
    assert!(matches!(error, RequestError::NodeGone(node) if node == cluster.nodes[2].node_id()));
    assert_eq!(begin.elapsed(), Duration::ZERO);

    cluster.crash(1);
    let error = hub.join(member.id(), "g").await.unwrap_err();
    assert!(matches!(error, RequestError::NodeGone(node) if node == cluster.nodes[1].node_id()));
    // The default: four seconds of silence, looked at every half second.
    assert!(
        begin.elapsed() <= Duration::from_millis(4500),
        "{:?}",
        begin.elapsed()
    );
    nothing_is_left(&cluster).await;

    // It is back, and so is its connection.
    cluster.bus.admit(cluster.nodes[1].node_id());
    until("the node is heard again", || hub.nodes().ids.len() == 2).await;
    hub.join(member.id(), "g").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn h14_a_node_that_nobody_ever_heard_of_is_gone_when_it_is_not_heard_in_time() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let foreign: ConnectionId = "0".repeat(48).parse().unwrap();
    let begin = Instant::now();
    let error = cluster.hubs[0].leave(foreign, "g").await.unwrap_err();
    assert!(matches!(error, RequestError::NodeGone(node) if node.as_u64() == 0));
    assert_eq!(begin.elapsed(), Duration::from_secs(4));
    nothing_is_left(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn h14_a_node_that_does_not_answer_is_waited_for_no_longer_than_the_timeout() {
    let patience = Duration::from_millis(700);
    let cluster = Cluster::with(2, |hub| hub.request_timeout(patience)).await;
    cluster.acquainted().await;
    let (_node, id) = silent(&cluster).await;
    let begin = Instant::now();
    let error = cluster.hubs[0].join(id, "g").await.unwrap_err();
    assert!(begin.elapsed() <= patience + Duration::from_millis(10));
    let RequestError::Timeout { node, timeout } = error else {
        panic!("{error}");
    };
    assert_eq!(timeout, patience);
    assert!(id.to_string().starts_with(&node.to_string()));
    nothing_is_left(&cluster).await;
}

#[tokio::test]
async fn h14_in_an_outage_a_remote_change_fails_at_once_and_a_local_one_works() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let [here, there] = [cluster.connect(0).await, cluster.connect(1).await];
    cluster.stop().await;
    let hub = &cluster.hubs[0];
    let error = hub.join(there.id(), "g").await.unwrap_err();
    assert!(error.is_not_done());
    let RequestError::Publish(error) = error else {
        panic!("{error}");
    };
    assert_eq!(
        error.kind(),
        PublishErrorKind::NotSent(NotSent::Unavailable)
    );
    assert_eq!(
        hub.join(here.id(), "g").await.unwrap(),
        Subscribed::Deferred
    );
    assert_eq!(here.groups(), ["g"]);
    hub.leave(here.id(), "g").await.unwrap();
    hub.disconnect(here.id()).await.unwrap();
    assert_eq!(here.ended(), Some(Ended::Removed));
}

#[tokio::test(start_paused = true)]
async fn h14_an_outage_of_the_one_that_waits_ends_the_waiting() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let (_node, id) = silent(&cluster).await;
    let mut join = Box::pin(cluster.hubs[0].join(id, "g"));
    assert!(poll!(&mut join).is_pending());
    let begin = Instant::now();
    cluster.bus.cut(cluster.nodes[0].node_id());
    let error = join.await.unwrap_err();
    assert!(!error.is_not_done());
    assert!(matches!(error, RequestError::AnswerLost(_)), "{error:?}");
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    nothing_is_left(&cluster).await;
}

#[tokio::test]
async fn h12_a_leave_undoes_every_join_that_began_before_it() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let mut member = [cluster.connect(1).await];
    let id = member[0].id();
    let hub = &cluster.hubs[0];
    for round in 0..50 {
        let group = format!("g{round}");
        // The joins are on their way, and nobody waits for them any more.
        for _ in 0..3 {
            let mut join = Box::pin(hub.join(id, &group));
            assert!(poll!(&mut join).is_pending());
        }
        hub.leave(id, &group).await.unwrap();
        // What was on its way before this has been dealt with when it returns.
        let answered = cluster.hubs[1].stats();
        hub.join(id, "fence").await.unwrap();
        until("no join is in work", || {
            cluster.subscribers(&format!("group:{group}")) == 0
        })
        .await;
        assert_eq!(member[0].groups(), ["fence"], "{answered:?}");
        hub.send(Target::group(&group), "out").await.unwrap();
        assert_eq!(flush(hub, &mut member).await, [[""; 0]]);
    }
    nothing_is_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h14_joins_of_many_groups_run_side_by_side_and_a_disconnect_leaves_nothing() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let member = cluster.connect(1).await;
    let hub = &cluster.hubs[0];
    let before = cluster.bus.subscribes();
    // What comes while the broker is at work goes into one batch.
    let trip = Duration::from_millis(5);
    cluster.bus.delay(trip, trip);
    let joins = (0..500).map(|n| hub.join(member.id(), format!("g{n}")));
    for joined in join_all(joins).await {
        joined.unwrap();
    }
    assert_eq!(member.groups().len(), 500);
    let batches = cluster.bus.subscribes() - before;
    cluster.bus.undelay();
    assert!(batches <= 50, "{batches} subscribes for 500 groups");

    // Joins that race a disconnect: done or refused, and nothing is left of either.
    let id = member.id();
    let racing = (0..200).map(|n| hub.join(id, format!("late {n}")));
    let (joined, ()) = tokio::join!(join_all(racing), async { drop(member) });
    for joined in joined {
        let refused = matches!(&joined, Err(RequestError::UnknownConnection(gone)) if *gone == id);
        assert!(refused || joined.is_ok(), "{joined:?}");
    }
    until("every group is empty", || {
        cluster.hubs[1].stats().rooms == 0
    })
    .await;
    until("the broker has forgotten them", || {
        (0..500).all(|n| cluster.subscribers(&format!("group:g{n}")) == 0)
            && (0..200).all(|n| cluster.subscribers(&format!("group:late {n}")) == 0)
    })
    .await;
    nothing_is_left(&cluster).await;
}

#[tokio::test]
async fn a_connection_that_is_disconnected_from_another_node_gets_first_what_was_sent_before() {
    for (mode, node) in [(BOTH[0], 0), (BOTH[0], 1), (BOTH[1], 0), (BOTH[1], 1)] {
        let cluster = Cluster::of(2, mode).await;
        let mut member = cluster.connect(node).await;
        let hub = &cluster.hubs[0];
        hub.send(Target::connection(member.id()), "goodbye")
            .await
            .unwrap();
        hub.disconnect(member.id()).await.unwrap();
        assert_eq!(next(&mut member).await, "goodbye");
        assert_eq!(next(&mut member).await, "Removed");
        assert_eq!(cluster.hubs[node].stats().connections, 0);
    }
}

#[tokio::test]
async fn a_closed_hub_asks_nobody_and_nobody_waits_for_it() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let member = cluster.connect(1).await;
    let hub = cluster.hubs[0].clone();
    let (_node, id) = silent(&cluster).await;
    let mut join = Box::pin(hub.join(id, "g"));
    assert!(poll!(&mut join).is_pending());
    hub.close().await;
    let ended = timeout(PATIENCE, join).await.unwrap();
    assert!(matches!(ended, Err(RequestError::Closed)), "{ended:?}");
    let errors = [
        hub.join(member.id(), "g").await.map(drop),
        hub.leave(member.id(), "g").await,
        hub.disconnect(member.id()).await,
    ];
    for error in errors {
        assert!(matches!(error, Err(RequestError::Closed)), "{error:?}");
    }
    assert_eq!(hub.stats().requests, 0);
}

#[tokio::test]
async fn names_are_checked_before_anybody_is_asked() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let mut member = cluster.connect(1).await;
    let error = cluster.hubs[0].join(member.id(), "").await.unwrap_err();
    assert!(matches!(
        error,
        RequestError::InvalidName(InvalidName::Empty(_))
    ));
    cluster.hubs[0].send(Target::all(), "end").await.unwrap();
    assert_eq!(before("end", &mut member).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn h14_a_node_that_was_not_listened_for_long_enough_is_late_and_not_gone() {
    let patience = Duration::from_millis(700);
    let cluster = Cluster::with(1, |hub| hub.request_timeout(patience)).await;
    let foreign: ConnectionId = "0".repeat(48).parse().unwrap();
    let begin = Instant::now();
    let error = cluster.hubs[0].join(foreign, "g").await.unwrap_err();
    assert!(matches!(error, RequestError::Timeout { .. }), "{error}");
    assert_eq!(begin.elapsed(), patience);
    nothing_is_left(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn h14_a_node_that_went_before_this_one_came_is_gone_for_who_knows_all_nodes() {
    let patience = Duration::from_millis(700);
    let mut cluster = Cluster::of(2, BOTH[0]).await;
    let id = cluster.connect(1).await.id();
    cluster.hubs[1].close().await;
    until("the first is sure to be alone", || {
        let nodes = cluster.hubs[0].nodes();
        nodes.settled && nodes.ids.len() == 1
    })
    .await;
    let late = cluster.add(|hub| hub.request_timeout(patience)).await;
    let begin = Instant::now();
    let error = late.join(id, "g").await.unwrap_err();
    assert!(matches!(error, RequestError::NodeGone(_)), "{error}");
    assert_eq!(begin.elapsed(), patience);
}

#[tokio::test(start_paused = true)]
async fn h14_a_node_that_could_not_be_heard_in_an_outage_is_not_gone() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let foreign: ConnectionId = "0".repeat(48).parse().unwrap();
    let mut join = Box::pin(cluster.hubs[0].join(foreign, "g"));
    assert!(poll!(&mut join).is_pending());
    cluster.stop().await;
    let error = join.await.unwrap_err();
    assert!(matches!(error, RequestError::AnswerLost(_)), "{error}");
    nothing_is_left(&cluster).await;
}

#[tokio::test]
async fn h14_an_answer_to_an_earlier_hub_of_the_node_is_none_to_the_one_that_was_built_anew() {
    let mut cluster = Cluster::of(1, BOTH[0]).await;
    let (node, id) = silent(&cluster).await;
    let channel = |node: NodeId| Channel::new(format!("hub:chat:node:{node}")).unwrap();
    let to = channel(cluster.nodes[0].node_id());
    let own = Subscribe::to([channel(node.node_id())]);
    let mut heard = node.subscribe(own).await.unwrap();
    let earlier = cluster.hubs.pop().unwrap();
    let mut join = Box::pin(earlier.join(id, "g"));
    assert!(poll!(&mut join).is_pending());
    let first = question(&mut heard).await;
    earlier.close().await;
    assert!(matches!(join.await, Err(RequestError::Closed)));

    let backplane = Arc::clone(&cluster.nodes[0]) as Arc<dyn Backplane>;
    let again = Hub::builder(backplane).name("chat").build().await.unwrap();
    let answer = async {
        let second = question(&mut heard).await;
        for (asked, reply) in [(first, b"\x00\x00\xc0"), (second, b"\x04\x00\xa0")] {
            let reply = [b"\x96\x01\x03", &*asked, reply].concat();
            node.publish(&to, reply.into()).await.unwrap();
        }
    };
    let (joined, ()) = tokio::join!(again.join(id, "g"), answer);
    assert!(
        matches!(joined, Err(RequestError::UnknownConnection(_))),
        "{joined:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn h14_an_outage_ends_no_request_that_was_made_after_it() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let member = cluster.connect(1).await;
    let (node, hub) = (&cluster.nodes[0], &cluster.hubs[0]);
    let mut watch = node.watch();
    for _ in 0..300 {
        let before = watch.current();
        cluster.bus.cut(node.node_id());
        let again = watch.wait_for(|state| state.is_connected() && *state != before);
        timeout(PATIENCE, again).await.unwrap().unwrap();
        hub.join(member.id(), "g").await.unwrap();
    }
    nothing_is_left(&cluster).await;
}
