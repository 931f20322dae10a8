//! Questions to all nodes, and of applications to each other (rule H21).

mod cluster;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::hub::{
    Connect, Hub, HubBuilder, HubError, Missing, Payload, RequestError, Service, Target,
};
use backplane_core::{Backplane, BoxError, Channel, NodeId, Subscribe};
use cluster::{BOTH, Cluster, id, next, question, silent, text, until};
use futures_util::poll;
use tokio::sync::Notify;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(5);

/// Answers by its name, and as it is told to.
struct Named(&'static str, Arc<Notify>);

#[async_trait]
impl Service for Named {
    async fn call(&self, from: NodeId, question: Payload) -> Result<Payload, BoxError> {
        let question = question.bytes().unwrap_or_default();
        match &*question {
            b"fail" => Err("out of order".into()),
            b"panic" => panic!("on purpose"),
            b"wait" => {
                self.1.notified().await;
                Ok("waited".into())
            }
            b"large" => Ok(vec![0; 64 * 1024 * 1024].into()),
            _ => Ok(format!("{} to {from}", self.0).into_bytes().into()),
        }
    }
}

async fn settled(cluster: &Cluster) {
    cluster.acquainted().await;
    until("all nodes are sure", || {
        cluster.hubs.iter().all(|hub| hub.nodes().settled)
    })
    .await;
}

#[tokio::test]
async fn h21_counts_and_lists_come_from_every_node_and_are_what_a_send_would_reach() {
    for mode in BOTH {
        let cluster = Cluster::of(3, mode).await;
        settled(&cluster).await;
        let mut connections = Vec::new();
        for n in 0..9 {
            let request = Connect::new().user(format!("user {}", n % 2));
            let request = request.metadata(format!("client {n}").into_bytes());
            let connection = cluster.hubs[n % 3].connect(request).await.unwrap();
            if n % 3 != 1 {
                connection.join("some").await.unwrap();
            }
            connections.push(connection);
        }
        let anybody = cluster.hubs[1].connect(Connect::new()).await.unwrap();
        let ids = |list: &[usize]| list.iter().map(|n| connections[*n].id()).collect();
        let both = Target::user("user 0").and(Target::group("some"));
        let targets: Vec<(Target, BTreeSet<_>)> = vec![
            (Target::group("some"), ids(&[0, 2, 3, 5, 6, 8])),
            (Target::user("user 1"), ids(&[1, 3, 5, 7])),
            (both.clone(), ids(&[0, 2, 3, 4, 5, 6, 8])),
            (
                both.except_connection(connections[4].id()),
                ids(&[0, 2, 3, 5, 6, 8]),
            ),
            (Target::connections([connections[7].id(), anybody.id()]), {
                [connections[7].id(), anybody.id()].into()
            }),
            (Target::group("none"), BTreeSet::new()),
            (
                Target::all().except_user("user 1").except_user("user 0"),
                [anybody.id()].into(),
            ),
        ];
        for (target, expected) in targets {
            for hub in &cluster.hubs {
                let count = hub.count(target.clone()).await.unwrap();
                assert!(count.complete() && count.settled() && count.missing().is_empty());
                assert_eq!(count.total(), expected.len() as u64, "{target:?}");
                let list = hub.connections(target.clone()).await.unwrap();
                assert!(list.complete());
                let found: BTreeSet<_> = list.connections().map(|info| info.id).collect();
                assert_eq!(found, expected, "{target:?}");
                for (node, infos) in list.iter() {
                    assert_eq!(count.of(node), Some(&(infos.len() as u64)));
                }
            }
        }
        let all = cluster.hubs[2].connections(Target::all()).await.unwrap();
        assert_eq!(
            all.iter().next().map(|(node, _)| node),
            Some(id(&cluster, 2))
        );
        let fifth = all
            .connections()
            .find(|info| info.id == connections[5].id())
            .unwrap();
        assert_eq!(fifth.user.as_deref(), Some("user 1"));
        assert_eq!(fifth.metadata, "client 5");
        assert_eq!(connections[5].metadata(), "client 5");
        let nobody = all
            .connections()
            .find(|info| info.id == anybody.id())
            .unwrap();
        assert_eq!((nobody.user.as_deref(), nobody.metadata.len()), (None, 0));
    }
}

#[tokio::test]
async fn h21_a_list_that_fits_into_no_message_comes_in_parts() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    settled(&cluster).await;
    let mut connections = Vec::new();
    for n in 0..1500_u32 {
        let request = Connect::new().metadata(vec![n as u8; Connect::MAX_METADATA_LEN]);
        connections.push(cluster.hubs[1].connect(request).await.unwrap());
    }
    let received = cluster.nodes[0].stats().delivered;
    let list = cluster.hubs[0].connections(Target::all()).await.unwrap();
    assert!(list.complete());
    assert_eq!(list.of(id(&cluster, 1)).map(Vec::len), Some(1500));
    let expected: BTreeSet<_> = connections.iter().map(|c| c.id()).collect();
    assert_eq!(
        list.connections()
            .map(|info| info.id)
            .collect::<BTreeSet<_>>(),
        expected
    );
    assert!(cluster.nodes[0].stats().delivered - received > 90);
    let request = Connect::new().metadata(vec![0; Connect::MAX_METADATA_LEN + 1]);
    let error = cluster.hubs[1].connect(request).await.unwrap_err();
    assert!(
        matches!(
            error,
            HubError::MetadataTooLong {
                len: 4097,
                limit: 4096
            }
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn h21_a_node_that_does_not_answer_is_named_and_the_others_answers_are_kept() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    settled(&cluster).await;
    let (silent, _) = silent(&cluster).await;
    let _connections = [cluster.connect(0).await, cluster.connect(1).await];
    let begin = Instant::now();
    let hub = &cluster.hubs[0];
    let count = hub.count(Target::all()).await.unwrap();
    assert!(!count.complete());
    assert_eq!(count.total(), 2);
    // It is silent, so it is lost before the time is over; with less patience it is late.
    assert_eq!(count.missing(), [(silent.node_id(), Missing::Gone)]);
    assert!(
        begin.elapsed() <= Duration::from_millis(4500),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(hub.stats().requests, 0);
}

#[tokio::test(start_paused = true)]
async fn h21_a_node_that_goes_while_it_is_asked_ends_the_wait_early() {
    let cluster = Cluster::with(3, |hub| hub.service(named("any"))).await;
    settled(&cluster).await;
    let begin = Instant::now();
    let go = async {
        // It has the question, and works on it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.hubs[2].close().await;
        cluster.hubs[1].close().await;
    };
    let (answers, ()) = tokio::join!(cluster.hubs[0].ask_all("wait"), go);
    let answers = answers.unwrap();
    let mut missing: Vec<_> = answers.missing().to_vec();
    missing.sort_by_key(|(node, _)| node.as_u64());
    let mut gone = [id(&cluster, 1), id(&cluster, 2)].map(|node| (node, Missing::Gone));
    gone.sort_by_key(|(node, _)| node.as_u64());
    assert_eq!(missing, gone);
    // Its own service is the only one that took all its time.
    let own = answers.of(id(&cluster, 0)).unwrap();
    assert!(matches!(own, Err(RequestError::Timeout { .. })));
    assert_eq!(begin.elapsed(), PATIENCE);
    let count = cluster.hubs[0].count(Target::all()).await.unwrap();
    assert!(count.complete());
}

#[tokio::test]
async fn h21_in_an_outage_a_question_comes_back_at_once_and_says_whom_it_did_not_reach() {
    let cluster = Cluster::of(3, BOTH[0]).await;
    settled(&cluster).await;
    let _here = cluster.connect(0).await;
    cluster.stop().await;
    until("the hub knows", || !cluster.hubs[0].nodes().settled).await;
    let begin = Instant::now();
    let count = cluster.hubs[0].count(Target::all()).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(
        (count.total(), count.complete(), count.settled()),
        (1, false, false)
    );
    let missing: BTreeSet<_> = count
        .missing()
        .iter()
        .map(|(node, why)| (node.as_u64(), *why == Missing::Outage))
        .collect();
    let expected = [1, 2].map(|node| (id(&cluster, node).as_u64(), true));
    assert_eq!(missing, expected.into());
    cluster.start().await;
    let count = cluster.hubs[0].count(Target::all()).await.unwrap();
    assert!(count.complete());
}

#[tokio::test]
async fn h21_a_question_that_is_dropped_leaves_nothing_behind() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    settled(&cluster).await;
    let hub = &cluster.hubs[0];
    for _ in 0..100 {
        let mut count = Box::pin(hub.count(Target::all()));
        assert!(poll!(&mut count).is_pending());
        assert_eq!(hub.stats().requests, 1);
    }
    assert_eq!(hub.stats().requests, 0);
    let late = |hub: &Hub| hub.stats().late;
    until("the answers come, and nobody wants them", || {
        late(hub) == 100
    })
    .await;
}

fn named(name: &'static str) -> Arc<dyn Service> {
    Arc::new(Named(name, Arc::new(Notify::new())))
}

#[tokio::test]
async fn h21_applications_ask_one_node_or_all_and_hear_each_answer() {
    let mut cluster = Cluster::with(0, |hub| hub).await;
    for name in ["a", "b"] {
        cluster
            .add(|hub: HubBuilder| hub.service(named(name)))
            .await;
    }
    cluster.add(|hub| hub).await;
    settled(&cluster).await;
    let [me, other, deaf] = [0, 1, 2].map(|node| id(&cluster, node));
    let hub = &cluster.hubs[0];
    assert_eq!(
        text(&hub.ask(other, "who?").await.unwrap()),
        format!("b to {me}")
    );
    assert_eq!(
        text(&hub.ask(me, "who?").await.unwrap()),
        format!("a to {me}")
    );
    let all = hub.ask_all("who?").await.unwrap();
    assert!(all.complete());
    let answer = |node| all.of(node).unwrap().as_ref().map(text);
    assert_eq!(answer(me).unwrap(), format!("a to {me}"));
    assert_eq!(answer(other).unwrap(), format!("b to {me}"));
    assert!(matches!(answer(deaf), Err(RequestError::NoService(node)) if *node == deaf));

    for node in [me, other] {
        for (question, words) in [("fail", "out of order"), ("panic", "the service panicked")] {
            let error = hub.ask(node, question).await.unwrap_err();
            let RequestError::Failed { node: from, reason } = error else {
                panic!("{error}");
            };
            assert_eq!((from, &*reason), (node, words));
        }
    }
    let error = hub.ask(other, "large").await.unwrap_err();
    assert!(matches!(error, RequestError::Failed { .. }), "{error}");
    let error = hub.ask(deaf, "who?").await.unwrap_err();
    assert!(error.is_not_done());
    let large = vec![0; cluster.nodes[0].capabilities().max_payload + 1];
    let error = hub.ask_all(large).await.unwrap_err();
    assert!(matches!(error, RequestError::Publish(_)) && error.is_not_done());
    // They go on after all that.
    assert_eq!(
        text(&hub.ask(other, "who?").await.unwrap()),
        format!("b to {me}")
    );
}

#[tokio::test]
async fn a_request_that_a_later_version_makes_is_refused_and_what_follows_is_heard() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let mut member = cluster.connect(1).await;
    let channel = |node: NodeId| Channel::new(format!("hub:chat:node:{node}")).unwrap();
    let asks = cluster.bus.connect(cluster::options()).await.unwrap();
    let request = Subscribe::to([channel(asks.node_id())]);
    let mut answers = asks.subscribe(request).await.unwrap();
    let newer = (&b"\x96\x01\x01\x05\xcd\x03\xe8\x63\xc3"[..]).into();
    asks.publish(&channel(id(&cluster, 1)), newer)
        .await
        .unwrap();
    let answer = answers.recv().await.unwrap().into_message().unwrap();
    assert_eq!(answer.payload(), &b"\x96\x01\x03\x05\x04\x04\xa0"[..]);
    cluster.hubs[0].send(Target::all(), "after").await.unwrap();
    assert_eq!(next(&mut member).await, "after");
}

#[tokio::test]
async fn h21_a_list_of_which_a_part_is_lost_is_not_complete() {
    let cluster = Cluster::of(1, BOTH[0]).await;
    let (node, _) = silent(&cluster).await;
    until("it is sure", || cluster.hubs[0].nodes().settled).await;
    let request = Subscribe::to([Channel::new("hub:chat:all").unwrap()]).without_own();
    let mut heard = node.subscribe(request).await.unwrap();
    let to = Channel::new(format!("hub:chat:node:{}", id(&cluster, 0))).unwrap();
    // Two parts, and the second is the last of two, or of three.
    for (parts, complete) in [(b'\x02', true), (b'\x03', false)] {
        let answer = async {
            let asked = question(&mut heard).await;
            for last in [0, parts] {
                let reply = [b"\x96\x01\x03", &*asked, b"\x03\x90", &[last]].concat();
                node.publish(&to, reply.into()).await.unwrap();
            }
        };
        let (list, ()) = tokio::join!(cluster.hubs[0].connections(Target::all()), answer);
        let list = list.unwrap();
        assert_eq!(list.complete(), complete);
        let lost = [(node.node_id(), Missing::Outage)];
        assert_eq!(list.missing(), if complete { &[][..] } else { &lost });
    }
}

#[tokio::test(start_paused = true)]
async fn h21_who_is_known_is_heard_also_when_it_is_not_certain_in_time_who_there_is() {
    // Whoever is named and not heard is waited for longer than for any answer.
    let settings = |hub: HubBuilder| hub.node_timeout(2 * PATIENCE);
    let mut cluster = Cluster::with(2, settings).await;
    settled(&cluster).await;
    let _connections = [cluster.connect(0).await, cluster.connect(1).await];
    let (_named, _) = silent(&cluster).await;
    let begin = Instant::now();
    let count = cluster.add(settings).await.count(Target::all()).await;
    let count = count.unwrap();
    assert_eq!((count.total(), count.missing()), (2, &[][..]));
    assert!(!count.settled());
    assert!(begin.elapsed() <= PATIENCE, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn h14_a_node_that_has_too_much_to_do_says_so_at_once() {
    let mut cluster = Cluster::of(1, BOTH[0]).await;
    let busy = |hub: HubBuilder| hub.service(named("busy")).receive_capacity(5000);
    cluster.add(busy).await;
    settled(&cluster).await;
    let (hub, other) = (&cluster.hubs[0], id(&cluster, 1));
    let mut asked: Vec<_> = (0..4096)
        .map(|_| Box::pin(hub.ask(other, "wait")))
        .collect();
    for ask in &mut asked {
        assert!(poll!(ask).is_pending());
    }
    let begin = Instant::now();
    let error = hub.ask(other, "wait").await.unwrap_err();
    assert!(matches!(error, RequestError::Failed { .. }), "{error}");
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(cluster.hubs[1].stats().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn h21_a_question_that_the_broker_does_not_take_is_waited_for_no_longer_than_the_timeout() {
    let patience = Duration::from_millis(100);
    let cluster = Cluster::with(2, |hub| hub.request_timeout(patience)).await;
    settled(&cluster).await;
    cluster.bus.freeze();
    let begin = Instant::now();
    let count = cluster.hubs[0].count(Target::all()).await.unwrap();
    assert_eq!(begin.elapsed(), patience);
    assert_eq!(count.missing(), [(id(&cluster, 1), Missing::TimedOut)]);
}

/// Panics before there is a future.
struct Hasty;

impl Service for Hasty {
    fn call<'a, 'b>(
        &'a self,
        _from: NodeId,
        _question: Payload,
    ) -> Pin<Box<dyn Future<Output = Result<Payload, BoxError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn a_service_that_panics_before_there_is_a_future_has_failed_too() {
    let cluster = Cluster::with(2, |hub| hub.service(Arc::new(Hasty))).await;
    settled(&cluster).await;
    for node in [0, 1].map(|node| id(&cluster, node)) {
        let error = cluster.hubs[0].ask(node, "?").await.unwrap_err();
        assert!(matches!(error, RequestError::Failed { .. }), "{error}");
    }
}

/// Works for ever, and says when it is dropped.
struct Endless(Arc<AtomicUsize>);

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Service for Endless {
    async fn call(&self, _: NodeId, _: Payload) -> Result<Payload, BoxError> {
        let _dropped = Dropped(Arc::clone(&self.0));
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn h21_the_patience_of_the_one_who_asks_is_that_of_the_node_that_answers() {
    let patience = Duration::from_millis(300);
    let mut cluster = Cluster::with(1, |hub| hub.request_timeout(patience)).await;
    let dropped = Arc::new(AtomicUsize::new(0));
    // Its own patience is the default, which is longer.
    let service = Arc::new(Endless(Arc::clone(&dropped)));
    cluster
        .add(|hub| hub.service(Arc::clone(&service) as Arc<dyn Service>))
        .await;
    settled(&cluster).await;
    let begin = Instant::now();
    let error = cluster.hubs[0].ask(id(&cluster, 1), "?").await.unwrap_err();
    assert!(matches!(error, RequestError::Timeout { timeout, .. } if timeout == patience));
    until("it works no more", || dropped.load(Ordering::SeqCst) == 1).await;
    assert!(begin.elapsed() < 2 * patience, "{:?}", begin.elapsed());
}
