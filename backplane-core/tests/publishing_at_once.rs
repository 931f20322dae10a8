//! Publishes that a link does in the call, without waiting: outcomes, sequence numbers, room, and what must not happen
//! under a lock.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use backplane_core::{Backplane, Node, NotSent, PublishErrorKind, Subscribe};
use bytes::Bytes;
use support::{Fake, OnPublish, channel, next, options};

fn at_once() -> Fake {
    let fake = Fake::new();
    fake.0.answer_at_once();
    fake
}

fn poll_once<T>(future: std::pin::Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The first numbers of the frames that the broker got.
fn numbers(fake: &Fake) -> Vec<u64> {
    fake.0.frames().iter().map(|(_, first, _)| *first).collect()
}

#[tokio::test]
async fn what_was_not_sent_leaves_its_number_to_the_next() {
    let fake = at_once();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    node.publish(&news, "0".into()).await.unwrap();
    fake.0.on_publish(OnPublish::NotSent);
    assert!(
        node.publish(&news, "1".into())
            .await
            .unwrap_err()
            .is_not_sent()
    );
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "1".into()).await.unwrap();
    assert_eq!(numbers(&fake), [0, 1, 1]);
    let stats = node.stats();
    assert_eq!(
        (stats.published, stats.not_sent, stats.unknown),
        (2, 1, 0),
        "{stats:?}"
    );
}

#[tokio::test]
async fn what_is_unknown_has_used_its_number_up() {
    let fake = at_once();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.on_publish(OnPublish::Unknown);
    let error = node.publish(&news, "0".into()).await.unwrap_err();
    assert!(matches!(error.kind(), PublishErrorKind::Unknown(_)));
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "1".into()).await.unwrap();
    assert_eq!(numbers(&fake), [0, 1]);
}

#[tokio::test]
async fn a_panic_uses_the_number_up_and_leaves_the_lane_alive() {
    let fake = at_once();
    let node = Arc::new(Node::connect(fake.clone(), options()).await.unwrap());
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    fake.0.on_publish(OnPublish::DeliverAndPanic);
    let (of, on) = (Arc::clone(&node), news.clone());
    let panicked = tokio::spawn(async move { of.publish(&on, "delivered".into()).await }).await;
    assert!(panicked.unwrap_err().is_panic());
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "alive".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "delivered");
    assert_eq!(next(&mut subscription).await, "alive");
    assert_eq!(numbers(&fake), [0, 1]);
}

#[tokio::test]
async fn who_finds_no_room_to_wait_leaves_the_lane_idle_and_its_number_free() {
    let fake = at_once();
    let node = Node::connect(fake.clone(), options().max_pending(1))
        .await
        .unwrap();
    let (news, sport) = (channel("news"), channel("sport"));
    fake.0.close_gate();
    let mut first = pin!(node.publish(&news, "waits".into()));
    assert!(poll_once(first.as_mut()).is_pending());
    let error = node.publish(&sport, "no room".into()).await.unwrap_err();
    let overloaded = PublishErrorKind::NotSent(NotSent::Overloaded);
    assert_eq!(error.kind(), overloaded);
    fake.0.open_gate();
    first.await.unwrap();
    node.publish(&sport, "room".into()).await.unwrap();
    let got = [("t:news".to_owned(), 0, 1), ("t:sport".to_owned(), 0, 1)];
    assert_eq!(fake.0.frames(), got);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_who_meet_on_a_channel_get_numbers_without_holes() {
    const TASKS: usize = 8;
    const EACH: usize = 2000;
    let fake = at_once();
    let node = Arc::new(Node::connect(fake.clone(), options()).await.unwrap());
    let news = channel("news");
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (node, news) = (Arc::clone(&node), news.clone());
            tokio::spawn(async move {
                for _ in 0..EACH {
                    node.publish(&news, "met".into()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let numbers = numbers(&fake);
    assert_eq!(numbers, (0..(TASKS * EACH) as u64).collect::<Vec<_>>());
}

/// A payload that publishes when nobody has it any longer.
struct Publishes {
    node: Arc<Node<Fake>>,
    on: backplane_core::Channel,
}

impl AsRef<[u8]> for Publishes {
    fn as_ref(&self) -> &[u8] {
        b"owned"
    }
}

impl Drop for Publishes {
    fn drop(&mut self) {
        let mut publish = pin!(self.node.publish(&self.on, "dropped".into()));
        assert!(poll_once(publish.as_mut()).is_ready());
    }
}

#[test]
fn a_payload_may_do_anything_when_it_is_dropped() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let fake = at_once();
            let node = Arc::new(Node::connect(fake.clone(), options()).await.unwrap());
            let news = channel("news");
            let owned = |on| {
                let node = Arc::clone(&node);
                Bytes::from_owner(Publishes { node, on })
            };
            // Nobody is subscribed: the broker drops it, and the node's reference is the last one.
            node.publish(&news, owned(news.clone())).await.unwrap();
            node.publish(&news, owned(channel("another")))
                .await
                .unwrap();
            fake.0.on_publish(OnPublish::NotSent);
            node.publish(&news, owned(news.clone())).await.unwrap_err();
        });
        done.send(()).unwrap();
    });
    let in_time = is_done.recv_timeout(Duration::from_secs(60));
    in_time.expect("it waits for a lock that it has itself");
}
