//! A hub in an outage (rules H16, H17 and H23), and what its sender is told.

mod cluster;

use std::sync::Arc;

use backplane_core::hub::{Connect, DeliveryMode, Hub, Others, SendError, Target};
use backplane_core::{Backplane, NotSent, PublishErrorKind, Subscribed, Unknown};
use backplane_memory::MemoryBus;
use cluster::{BOTH, Cluster, PATIENCE, flush, next, options, until};
use futures_util::{FutureExt, poll};
use tokio::time::timeout;

#[tokio::test]
async fn h16_local_first_goes_on_here_in_an_outage_and_says_that_others_were_not_reached() {
    let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
    let [hub, other] = [&cluster.hubs[0], &cluster.hubs[1]];
    let mut far = cluster.connect(1).await;
    far.join("g").await.unwrap();
    let before = cluster.connect(0).await;
    before.join("g").await.unwrap();
    cluster.stop().await;

    let ann = hub.connect(Connect::new().user("ann")).await.unwrap();
    assert_eq!(ann.join("g").await.unwrap(), Subscribed::Deferred);
    assert_eq!(before.join("new").await.unwrap(), Subscribed::Deferred);
    ann.join("passing").await.unwrap();
    ann.leave("passing").await.unwrap();
    drop(hub.connect(Connect::new().user("bob")).await.unwrap());
    let mut here = [before, ann];
    let everywhere = Target::all().and(Target::group("x"));
    for (target, local) in [
        (Target::group("g"), 2),
        (Target::user("ann"), 1),
        (Target::group("passing"), 0),
        (everywhere, 2),
    ] {
        // It does not wait for anything.
        let error = hub
            .send(target, "local")
            .now_or_never()
            .unwrap()
            .unwrap_err();
        assert_eq!((error.local(), error.is_not_sent()), (local, true));
        let SendError::Publish { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(
            source.kind(),
            PublishErrorKind::NotSent(NotSent::Unavailable)
        );
    }
    let sent = hub
        .send(Target::connection(here[0].id()), "direct")
        .await
        .unwrap();
    assert_eq!((sent.local, sent.others), (1, Others::NotNeeded));
    assert_eq!(next(&mut here[0]).await, "local");
    assert_eq!(next(&mut here[0]).await, "local");
    assert_eq!(next(&mut here[0]).await, "direct");
    assert_eq!(next(&mut here[1]).await, "local");
    assert_eq!(next(&mut here[1]).await, "local");
    assert_eq!(next(&mut here[1]).await, "local");

    cluster.start().await;
    // What was joined in the outage is in force, what was not sent never comes, and nobody gets anything twice.
    other.send(Target::group("new"), "new").await.unwrap();
    other.send(Target::user("ann"), "ann").await.unwrap();
    other.send(Target::user("bob"), "bob").await.unwrap();
    other
        .send(Target::group("passing"), "passing")
        .await
        .unwrap();
    assert_eq!(flush(other, &mut here).await, [["new"], ["ann"]]);
    assert_eq!(flush(hub, std::slice::from_mut(&mut far)).await, [[""; 0]]);
    assert_eq!(cluster::before("the end", &mut far).await, [""; 0]);
    assert_eq!(
        cluster.subscribers("user:bob") + cluster.subscribers("group:passing"),
        0
    );
}

#[tokio::test]
async fn h16_an_unknown_outcome_is_never_called_not_sent() {
    let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
    let mut near = cluster.connect(0).await;
    cluster.bus.freeze();
    let mut sending = Box::pin(cluster.hubs[0].send(Target::all(), "x"));
    assert!(poll!(sending.as_mut()).is_pending());
    // Whatever becomes of it elsewhere.
    assert_eq!(next(&mut near).now_or_never().unwrap(), "x");
    let error = timeout(PATIENCE, sending).await.unwrap().unwrap_err();
    assert_eq!((error.local(), error.is_not_sent()), (1, false));
    let SendError::Publish { source, .. } = error else {
        panic!("{error}");
    };
    assert!(matches!(
        source.kind(),
        PublishErrorKind::Unknown(Unknown::Timeout(_) | Unknown::ConnectionLost)
    ));
    cluster.bus.thaw();
}

#[tokio::test]
async fn h17_through_the_backplane_nobody_gets_anything_in_an_outage_and_all_see_one_order() {
    let cluster = Cluster::of(2, DeliveryMode::ThroughBackplane).await;
    let mut clients = [cluster.connect(0).await, cluster.connect(1).await];
    let sent = cluster.hubs[0]
        .send(Target::connection(clients[0].id()), "own")
        .await
        .unwrap();
    assert_eq!((sent.local, sent.others), (0, Others::Accepted));
    assert_eq!(
        flush(&cluster.hubs[0], &mut clients).await,
        [vec!["own"], vec![]]
    );

    let sends = cluster.hubs.iter().enumerate().map(|(n, hub)| async move {
        for i in 0..200 {
            hub.send(Target::all(), format!("{n} {i}")).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    // The queues hold 256.
    let reads = clients.iter_mut().map(|client| async move {
        let mut came = Vec::new();
        while came.len() < 400 {
            came.push(next(client).await);
        }
        came
    });
    let (_, came) = tokio::join!(
        futures_util::future::join_all(sends),
        futures_util::future::join_all(reads)
    );
    assert_eq!(came[0], came[1]);

    cluster.stop().await;
    let error = cluster.hubs[0]
        .send(Target::all(), "lost")
        .await
        .unwrap_err();
    assert_eq!((error.local(), error.is_not_sent()), (0, true));
    let here = Target::connection(clients[0].id());
    assert!(
        cluster.hubs[0]
            .send(here, "lost")
            .await
            .unwrap_err()
            .is_not_sent()
    );
    assert!(clients[0].join("g").await.is_ok());
    cluster.start().await;
    cluster.hubs[0].send(Target::group("g"), "g").await.unwrap();
    assert_eq!(
        flush(&cluster.hubs[0], &mut clients).await,
        [vec!["g"], vec![]]
    );
}

#[tokio::test]
async fn h23_a_gap_reaches_the_framework_once_per_outage_and_the_connections_that_asked() {
    let cluster = Cluster::of(2, DeliveryMode::LocalFirst).await;
    let mut gaps = cluster.hubs[0].gaps();
    let asked = cluster.hubs[0]
        .connect(Connect::new().with_gaps())
        .await
        .unwrap();
    let mut clients = [asked, cluster.connect(0).await];
    for outage in 1..=3 {
        assert!(gaps.recv().now_or_never().is_none());
        cluster.stop().await;
        cluster.start().await;
        let gap = timeout(PATIENCE, gaps.recv()).await.unwrap().unwrap();
        assert_eq!(gap.outages(), 1);
        assert_eq!(
            flush(&cluster.hubs[1], &mut clients).await,
            [vec!["gap of 1"], vec![]]
        );
        assert_eq!(cluster.hubs[0].stats().gaps, outage);
    }
    cluster.hubs[0].close().await;
    let end = timeout(PATIENCE, gaps.recv()).await.unwrap();
    assert!(end.is_none());
    let late = timeout(PATIENCE, cluster.hubs[0].gaps().recv()).await;
    assert!(late.unwrap().is_none());
}

#[tokio::test]
async fn h23_what_the_hub_itself_cannot_take_in_is_told_too() {
    let bus = MemoryBus::new();
    let [near, far] = [
        Arc::new(bus.connect(options()).await.unwrap()),
        Arc::new(bus.connect(options()).await.unwrap()),
    ];
    let near = Hub::builder(near)
        .receive_capacity(1)
        .build()
        .await
        .unwrap();
    let far = Hub::builder(far).build().await.unwrap();
    let mut client = near.connect(Connect::new()).await.unwrap();
    until("they have greeted each other", || {
        [&near, &far].map(|hub| hub.nodes().ids.len()) == [2, 2]
    })
    .await;
    far.send(Target::all(), "0").await.unwrap();
    assert_eq!(next(&mut client).await, "0");
    let mut gaps = near.gaps();
    // Nothing else runs meanwhile: the task of the near hub gets no turn.
    for text in ["1", "2", "3"] {
        far.send(Target::all(), text)
            .now_or_never()
            .unwrap()
            .unwrap();
    }
    assert_eq!(next(&mut client).await, "1");
    let gap = timeout(PATIENCE, gaps.recv()).await.unwrap().unwrap();
    assert_eq!(gap.overflowed(), 2);
}

#[tokio::test]
async fn a_hub_is_made_in_an_outage_and_serves_its_own_connections() {
    for mode in BOTH {
        let bus = MemoryBus::new();
        bus.stop();
        let node = || Arc::new(bus.connect_lazy(options()).unwrap());
        let nodes = [node(), node()];
        let mut hubs = Vec::new();
        for node in &nodes {
            let builder = Hub::builder(Arc::clone(node) as Arc<dyn Backplane>).delivery(mode);
            hubs.push(builder.build().await.unwrap());
        }
        let mut clients = [
            hubs[0].connect(Connect::new().user("ann")).await.unwrap(),
            hubs[1].connect(Connect::new()).await.unwrap(),
        ];
        clients[1].join("g").await.unwrap();
        if mode == DeliveryMode::LocalFirst {
            assert_eq!(
                hubs[0]
                    .send(Target::user("ann"), "x")
                    .await
                    .unwrap_err()
                    .local(),
                1
            );
            assert_eq!(next(&mut clients[0]).await, "x");
        }
        bus.start();
        for node in &nodes {
            node.watch().connected().await.unwrap();
        }
        hubs[0].send(Target::group("g"), "g").await.unwrap();
        assert_eq!(flush(&hubs[0], &mut clients).await, [vec![], vec!["g"]]);
    }
}
