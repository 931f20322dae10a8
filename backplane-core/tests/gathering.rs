//! Those who are answered come back before the next frame leaves, and nobody waits for long because of them.

#![allow(clippy::unwrap_used)] // clippy knows tests only by their attribute

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backplane_core::{Node, NotSent, PublishError, PublishErrorKind};
use support::{Fake, channel, options};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, advance, sleep};

const WAY: Duration = Duration::from_millis(1);
const PASS: Duration = Duration::from_millis(8);

/// Publishers that publish so many each, one after the other. Returns how many messages each frame had.
async fn frames_of(publishers: usize, each: usize) -> Vec<usize> {
    let fake = Fake::new();
    let node = Arc::new(Node::connect(fake.clone(), options()).await.unwrap());
    fake.0.slow_down(WAY);
    let mut tasks = JoinSet::new();
    for _ in 0..publishers {
        let node = Arc::clone(&node);
        tasks.spawn(async move {
            for _ in 0..each {
                node.publish(&channel("news"), "1".into()).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    sizes(&fake)
}

fn sizes(fake: &Fake) -> Vec<usize> {
    let frames = fake.0.frames();
    frames
        .into_iter()
        .map(|(_, _, messages)| messages)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn those_who_publish_one_after_the_other_leave_together() {
    for publishers in [2, 3, 64, 300] {
        let frames = frames_of(publishers, 20).await;
        let whole = frames[2..19].iter().all(|all| *all >= publishers.min(128));
        // The first leaves alone. A few wait for it to come back, and many do not.
        let second = publishers - usize::from(publishers > 3);
        let whole = whole && frames[1] == second;
        assert!(whole, "{publishers}: {frames:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_come_back_is_not_waited_for() {
    let fake = Fake::new();
    let node = Arc::new(Node::connect(fake.clone(), options()).await.unwrap());
    fake.0.slow_down(WAY);
    let publisher = |messages| {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            for _ in 0..messages {
                node.publish(&channel("news"), "1".into()).await.unwrap();
            }
        })
    };
    let (short, long) = (publisher(3), publisher(30));
    // The clock stands still for who looks for ever.
    for _ in 0..200 {
        advance(WAY).await;
    }
    assert!(short.is_finished() && long.is_finished());
}

/// A runtime in which a pass over the tasks takes so long, and in each pass one more caller comes.
fn trickle(node: &Arc<Node<Fake>>, begins: &Arc<AtomicBool>) {
    let (node, begins) = (Arc::clone(node), Arc::clone(begins));
    tokio::spawn(async move {
        while !begins.load(Ordering::SeqCst) {
            sleep(WAY).await;
        }
        for _ in 0..400 {
            drop(publish(&node));
            advance(PASS).await;
        }
    });
}

/// What became of a publish, and when.
type Published = JoinHandle<(Result<(), PublishError>, Instant)>;

/// Publishes in a task.
fn publish(node: &Arc<Node<Fake>>) -> Published {
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let told = node.publish(&channel("news"), "1".into()).await;
        (told, Instant::now())
    })
}

/// When this returns, a frame of 100 calls has left, and takes a second.
async fn a_crowd_is_on_its_way(fake: &Fake, node: &Arc<Node<Fake>>) {
    let way = Duration::from_secs(1);
    fake.0.slow_down(way);
    for _ in 0..101 {
        drop(publish(node));
    }
    sleep(way + WAY).await;
    assert_eq!(
        sizes(fake),
        [1],
        "the others have left, and have not arrived"
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_the_link_breaks_is_told_at_once_however_many_come() {
    let fake = Fake::new();
    let node = Arc::new(Node::connect(fake.clone(), options()).await.unwrap());
    let begins = Arc::new(AtomicBool::new(false));
    trickle(&node, &begins);
    a_crowd_is_on_its_way(&fake, &node).await;
    let waiting = publish(&node);
    sleep(Duration::from_millis(900)).await;
    begins.store(true, Ordering::SeqCst);
    sleep(2 * WAY).await;
    let broken = Instant::now();
    fake.0.break_link();
    let (told, at) = waiting.await.unwrap();
    let unavailable = PublishErrorKind::NotSent(NotSent::Unavailable);
    assert_eq!(told.map_err(|error| error.kind()), Err(unavailable));
    assert!(at - broken <= PASS, "{:?}", at - broken);
}

#[tokio::test(start_paused = true)]
async fn nobody_becomes_late_because_others_come() {
    let fake = Fake::new();
    let patience = options().publish_timeout(Duration::from_millis(1500));
    let node = Node::connect(fake.clone(), patience).await.unwrap();
    let node = Arc::new(node);
    let begins = Arc::new(AtomicBool::new(false));
    trickle(&node, &begins);
    a_crowd_is_on_its_way(&fake, &node).await;
    let waiting = publish(&node);
    sleep(Duration::from_millis(990)).await;
    begins.store(true, Ordering::SeqCst);
    let (told, _) = waiting.await.unwrap();
    assert!(told.is_ok(), "{told:?}");
}
