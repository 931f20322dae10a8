//! Joining, leaving and disconnecting (rules H11 to H13 and H15).

mod cluster;

use std::time::Duration;

use backplane_core::hub::{Connect, HubError, Target};
use backplane_core::{Backplane, Subscribed};
use cluster::{BOTH, Cluster, flush, next, until};
use futures_util::future::join_all;
use futures_util::poll;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn h11_h12_when_join_returns_the_next_send_arrives_and_when_leave_returns_none_does() {
    for mode in BOTH {
        let cluster = Cluster::of(3, mode).await;
        let mut connections = [cluster.connect(0).await, cluster.connect(1).await];
        for round in 0..200 {
            let group = format!("g{}", round % 7);
            let sender = &cluster.hubs[round % 3];
            assert_eq!(
                connections[0].join(&group).await.unwrap(),
                Subscribed::InForce
            );
            sender.send(Target::group(&group), "1").await.unwrap();
            connections[1].join(&group).await.unwrap();
            sender.send(Target::group(&group), "2").await.unwrap();
            // Up to here it must have come, and nothing of what is sent after it may.
            assert_eq!(
                flush(sender, &mut connections).await,
                [vec!["1", "2"], vec!["2"]]
            );
            connections[0].leave(&group).await.unwrap();
            sender.send(Target::group(&group), "3").await.unwrap();
            assert_eq!(flush(sender, &mut connections).await, [vec![], vec!["3"]]);
            connections[1].leave(&group).await.unwrap();
            sender.send(Target::group(&group), "4").await.unwrap();
            assert_eq!(flush(sender, &mut connections).await, [[""; 0]; 2]);
        }
        assert_eq!(cluster.hubs[0].stats().rooms, 0);
        until("no group is left on the broker", || {
            (0..7).all(|g| cluster.subscribers(&format!("group:g{g}")) == 0)
        })
        .await;
    }
}

#[tokio::test]
async fn h13_join_and_leave_are_idempotent() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let mut members = [cluster.connect(0).await];
    let hub = &cluster.hubs[1];
    members[0].leave("g").await.unwrap();
    for _ in 0..3 {
        members[0].join("g").await.unwrap();
    }
    assert_eq!(members[0].groups(), ["g"]);
    hub.send(Target::group("g"), "once").await.unwrap();
    assert_eq!(flush(hub, &mut members).await, [["once"]]);
    for _ in 0..3 {
        members[0].leave("g").await.unwrap();
    }
    assert_eq!(members[0].groups(), [""; 0]);
    hub.send(Target::group("g"), "never").await.unwrap();
    assert_eq!(flush(hub, &mut members).await, [[""; 0]]);
}

#[tokio::test]
async fn h15_a_disconnect_leaves_everything_and_the_last_one_ends_the_subscription() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let request = || Connect::new().user("ann");
    let first = cluster.hubs[0].connect(request()).await.unwrap();
    let second = cluster.hubs[0].connect(request()).await.unwrap();
    let handle = second.handle();
    for connection in [&first, &second] {
        connection.join("g").await.unwrap();
        connection.join("h").await.unwrap();
    }
    let everything = || ["user:ann", "group:g", "group:h"].map(|c| cluster.subscribers(c));
    assert_eq!(everything(), [1, 1, 1]);
    drop(first);
    let sent = cluster.hubs[0].send(Target::group("g"), "x").await.unwrap();
    assert_eq!((sent.local, everything()), (1, [1, 1, 1]));
    drop(second);
    let stats = cluster.hubs[0].stats();
    assert_eq!((stats.connections, stats.rooms), (0, 0));
    until("the broker forgets them", || everything() == [0, 0, 0]).await;
    assert!(matches!(
        handle.join("g").await,
        Err(HubError::Disconnected)
    ));
    assert!(handle.leave("g").await.is_ok() && handle.groups().is_empty());
    assert_eq!(everything(), [0, 0, 0]);
    assert_eq!(cluster.nodes[0].stats().channels, 2);
}

#[tokio::test]
async fn a_join_that_is_cancelled_leaves_nothing_behind_and_disturbs_no_other() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let [one, two] = [cluster.connect(0).await, cluster.connect(0).await];
    for round in 0..100 {
        cluster
            .bus
            .delay(Duration::from_micros(50), Duration::from_millis(1));
        let mut cancelled = Box::pin(one.join("g"));
        assert!(poll!(cancelled.as_mut()).is_pending());
        let mut other = Box::pin(two.join("g"));
        let with_other = round % 2 == 0;
        if with_other {
            assert!(poll!(other.as_mut()).is_pending());
        }
        for _ in 0..round % 5 {
            tokio::task::yield_now().await;
        }
        drop(cancelled);
        if with_other {
            other.await.unwrap();
            let sent = cluster.hubs[0].send(Target::group("g"), "x").await.unwrap();
            assert_eq!((sent.local, two.groups()), (1, vec!["g".to_owned()]));
            two.leave("g").await.unwrap();
        }
        cluster.bus.undelay();
        assert_eq!(cluster.hubs[0].stats().rooms, 0);
        until("the broker forgets it", || {
            cluster.subscribers("group:g") == 0
        })
        .await;
        assert_eq!(cluster.nodes[0].stats().channels, 2);
    }
}

#[tokio::test]
async fn a_disconnect_while_a_join_is_on_its_way_leaves_nothing_behind() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let connection = cluster.connect(0).await;
    let handle = connection.handle();
    let way = Duration::from_millis(20);
    cluster.bus.delay(way, way);
    let mut join = Box::pin(handle.join("g"));
    assert!(poll!(join.as_mut()).is_pending());
    drop(connection);
    assert!(matches!(join.await, Err(HubError::Disconnected)));
    cluster.bus.undelay();
    assert_eq!(cluster.hubs[0].stats().rooms, 0);
    assert_eq!(cluster.nodes[0].stats().channels, 2);
    until("the broker forgets it", || {
        cluster.subscribers("group:g") == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_that_meets_a_join_leaves_nothing_behind() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    for round in 0..300_u32 {
        let connection = cluster.hubs[0]
            .connect(Connect::new().user("ann"))
            .await
            .unwrap();
        let handles = [connection.handle(), connection.handle()];
        let joins = handles
            .map(|handle| tokio::spawn(async move { handle.join("g").await.map(drop).is_err() }));
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        drop(connection);
        for join in joins {
            join.await.unwrap();
        }
        let stats = cluster.hubs[0].stats();
        assert_eq!((stats.connections, stats.rooms), (0, 0));
    }
    until("the broker forgets them", || {
        cluster.subscribers("group:g") == 0 && cluster.subscribers("user:ann") == 0
    })
    .await;
    assert_eq!(cluster.nodes[0].stats().channels, 2);
}

#[tokio::test]
async fn a_connect_that_is_cancelled_leaves_nothing_behind() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let mut connecting = Box::pin(cluster.hubs[0].connect(Connect::new().user("ann")));
    assert!(poll!(connecting.as_mut()).is_pending());
    drop(connecting);
    let stats = cluster.hubs[0].stats();
    assert_eq!((stats.connections, stats.rooms), (0, 0));
    until("the broker forgets it", || {
        cluster.subscribers("user:ann") == 0
    })
    .await;
    assert_eq!(cluster.nodes[0].stats().channels, 2);
}

#[tokio::test]
async fn joins_of_different_groups_wait_together_and_share_their_requests() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let connection = cluster.connect(0).await;
    let way = Duration::from_millis(50);
    cluster.bus.delay(way, way);
    let (begin, requests) = (Instant::now(), cluster.bus.subscribes());
    let names: Vec<_> = (0..200).map(|n| format!("g{n}")).collect();
    for joined in join_all(names.iter().map(|name| connection.join(name))).await {
        assert_eq!(joined.unwrap(), Subscribed::InForce);
    }
    cluster.bus.undelay();
    // One after another they would take 20 seconds.
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    assert!(cluster.bus.subscribes() - requests < 20);
    assert_eq!(connection.groups().len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_that_join_leave_and_disconnect_leave_exactly_the_right_set() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let tasks = (0..8_usize).map(|task| {
        let hub = cluster.hubs[0].clone();
        tokio::spawn(async move {
            let mut kept = hub.connect(Connect::new()).await.unwrap();
            for round in 0..100 {
                let group = format!("g{}", (task + round) % 5);
                let passing = hub.connect(Connect::new().user("ann")).await.unwrap();
                passing.join(&group).await.unwrap();
                kept.join(&group).await.unwrap();
                if round % 3 == 0 {
                    passing.leave(&group).await.unwrap();
                }
                drop(passing);
                kept.leave(&group).await.unwrap();
            }
            kept.join(format!("g{}", task % 3)).await.unwrap();
            hub.send(Target::connection(kept.id()), "done")
                .await
                .unwrap();
            assert_eq!(next(&mut kept).await, "done");
            kept
        })
    });
    let kept: Vec<_> = join_all(tasks)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let mut kept = kept;
    for group in 0..5 {
        let group = format!("g{group}");
        cluster.hubs[1]
            .send(Target::group(group.clone()), group)
            .await
            .unwrap();
    }
    let came = flush(&cluster.hubs[1], &mut kept).await;
    for (task, came) in came.iter().enumerate() {
        assert_eq!(*came, [format!("g{}", task % 3)]);
    }
    let channels = || {
        (0..5)
            .map(|g| cluster.subscribers(&format!("group:g{g}")))
            .collect::<Vec<_>>()
    };
    until("just these are left", || channels() == [1, 1, 1, 0, 0]).await;
    until("nobody is ann", || cluster.subscribers("user:ann") == 0).await;
}
