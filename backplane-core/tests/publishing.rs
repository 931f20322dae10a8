//! Lanes: batching, exact outcomes, cancelled callers, sequence numbers.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use backplane_core::{
    Backplane, ConnectionState, Missed, Node, NotSent, PublishErrorKind, Subscribe, TryRecvError,
    Unknown,
};
use futures_util::future::{join, join_all};
use support::{Fake, OnPublish, channel, next, options, until};
use tokio::time::Instant;

fn poll_once<T>(future: std::pin::Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_is_looked_at_late_has_a_moment_left_and_not_its_whole_time_again() {
    let (patience, hour) = (Duration::from_secs(4), Duration::from_secs(3600));
    let options = options().publish_timeout(patience).heartbeat_interval(hour);
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options).await.unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let mut publish = pin!(node.publish(&news, "late".into()));
    assert!(poll_once(publish.as_mut()).is_pending());
    // The node's clock starts with the first that waits.
    tokio::task::yield_now().await;
    tokio::time::advance(2 * patience).await;
    let begin = Instant::now();
    let error = publish.await.unwrap_err();
    let timeout = PublishErrorKind::Unknown(Unknown::Timeout(patience));
    assert_eq!(error.kind(), timeout);
    assert!(begin.elapsed() <= patience / 3, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_publish_that_waits_for_the_broker_is_woken_once() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    for _ in 0..2 {
        fake.0.close_gate();
        let before = count.0.load(Ordering::SeqCst);
        let mut publish = Box::pin(node.publish(&news, "1".into()));
        assert!(publish.as_mut().poll(&mut cx).is_pending());
        fake.0.open_gate();
        assert_eq!(count.0.load(Ordering::SeqCst), before + 1);
        assert!(publish.as_mut().poll(&mut cx).is_ready());
        assert_eq!(count.0.load(Ordering::SeqCst), before + 1);
    }
}

#[tokio::test]
async fn an_idle_publish_leaves_alone_and_a_crowd_leaves_together() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    node.publish(&news, "alone".into()).await.unwrap();
    assert_eq!(fake.0.frames(), [("t:news".to_owned(), 0, 1)]);

    let crowd = (0..100).map(|i: u32| node.publish(&news, i.to_string().into()));
    fake.0.close_gate();
    let (results, ()) = join(join_all(crowd), async { fake.0.open_gate() }).await;
    assert!(results.into_iter().all(|result| result.is_ok()));
    // The first leaves at once; the others collect while it is in flight.
    assert_eq!(
        fake.0.frames(),
        [("t:news".to_owned(), 1, 1), ("t:news".to_owned(), 2, 99)]
    );
    assert_eq!(node.stats().published, 101);
}

#[tokio::test]
async fn frames_keep_their_limits() {
    let fake = Fake::new();
    let node = Node::connect(
        fake.clone(),
        options().max_batch_messages(10).max_batch_bytes(100),
    )
    .await
    .unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let sizes = [1; 25].into_iter().chain([60, 60, 500, 1]);
    let crowd = sizes.map(|size: usize| node.publish(&news, vec![0; size].into()));
    join(join_all(crowd), async { fake.0.open_gate() }).await;
    let counts: Vec<usize> = fake
        .0
        .frames()
        .into_iter()
        .map(|(_, _, count)| count)
        .collect();
    assert_eq!(counts, [1, 10, 10, 5, 1, 1, 1]);
}

#[tokio::test]
async fn a_leader_that_is_dropped_in_flight_takes_nobody_with_it() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    fake.0.close_gate();
    let mut leader = Box::pin(node.publish(&news, "leader".into()));
    assert!(poll_once(leader.as_mut()).is_pending());
    let followers = join_all((0..3).map(|i: u32| node.publish(&news, i.to_string().into())));
    let mut followers = pin!(followers);
    assert!(poll_once(followers.as_mut()).is_pending());
    drop(leader);
    fake.0.open_gate();
    assert!(followers.await.into_iter().all(|result| result.is_ok()));
    // It was on its way, so it arrives, and the numbers have no hole.
    for expected in ["leader", "0", "1", "2"] {
        assert_eq!(next(&mut subscription).await, expected);
    }
    assert_eq!(node.stats().gaps, 0);
}

#[tokio::test]
async fn a_waiting_caller_that_is_dropped_is_not_sent() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    fake.0.close_gate();
    let mut futures: Vec<_> = (0..5)
        .map(|i: u32| Box::pin(node.publish(&news, i.to_string().into())))
        .collect();
    for future in &mut futures {
        assert!(poll_once(future.as_mut()).is_pending());
    }
    // The heir of the lead, and one in the middle.
    drop(futures.remove(3));
    drop(futures.remove(1));
    fake.0.open_gate();
    assert!(
        join_all(futures)
            .await
            .into_iter()
            .all(|result| result.is_ok())
    );
    for expected in ["0", "2", "4"] {
        assert_eq!(next(&mut subscription).await, expected);
    }
    assert_eq!(node.stats().published, 3);
}

#[tokio::test]
async fn a_waiting_caller_is_woken_where_it_was_polled_last() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let mut first = Box::pin(node.publish(&news, "first".into()));
    assert!(poll_once(first.as_mut()).is_pending());
    let counts: [Arc<Count>; 2] = Default::default();
    let mut second = Box::pin(node.publish(&news, "second".into()));
    for count in &counts {
        let waker = Waker::from(Arc::clone(count));
        let polled = second.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    let held = counts.each_ref().map(Arc::strong_count);
    assert_eq!(held, [1, 2], "the first waker is let go of");
    fake.0.open_gate();
    until("it has left", || node.stats().published == 2).await;
    tokio::task::yield_now().await;
    let woken = counts
        .each_ref()
        .map(|count| count.0.load(Ordering::SeqCst));
    assert_eq!(woken, [0, 1]);
    assert!(matches!(poll_once(second.as_mut()), Poll::Ready(Ok(()))));
}

#[tokio::test]
async fn those_that_go_before_their_turn_give_their_room_back_once() {
    let fake = Fake::new();
    let limits = options().max_pending(6).max_pending_bytes(600);
    let node = Node::connect(fake.clone(), limits).await.unwrap();
    let news = channel("news");
    for round in 1..4 {
        fake.0.close_gate();
        let mut futures: Vec<_> = (0..6)
            .map(|_| Box::pin(node.publish(&news, vec![0; 100].into())))
            .collect();
        for future in &mut futures {
            assert!(poll_once(future.as_mut()).is_pending());
        }
        // In the middle of a frame, at its end, and in the last round all of it.
        drop(futures.remove(5));
        drop(futures.remove(2));
        futures.truncate(if round == 3 { 1 } else { 4 });
        // They keep their room until then.
        let error = node.publish(&news, vec![0; 1].into()).await.unwrap_err();
        assert_eq!(error.kind(), PublishErrorKind::NotSent(NotSent::Overloaded));
        fake.0.open_gate();
        assert!(join_all(futures).await.iter().all(Result::is_ok));
        tokio::task::yield_now().await;
    }
    let stats = node.stats();
    assert_eq!((stats.published, stats.not_sent, stats.unknown), (9, 3, 0));
}

/// A future that is polled once and then kept, in a `select!` say, is alive and does not move.
#[tokio::test(start_paused = true)]
async fn a_publish_that_nobody_polls_any_longer_holds_nobody_up() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let mut first = Box::pin(node.publish(&news, "first".into()));
    let mut second = Box::pin(node.publish(&news, "second".into()));
    for future in [&mut first, &mut second] {
        assert!(poll_once(future.as_mut()).is_pending());
    }
    fake.0.open_gate();
    let third = tokio::time::timeout(Duration::from_secs(1), node.publish(&news, "third".into()));
    third.await.expect("the others hold it up").unwrap();
    first.await.unwrap();
    second.await.unwrap();
    let sent: usize = fake.0.frames().iter().map(|(_, _, count)| count).sum();
    assert_eq!(sent, 3);
}

/// It was the caller who did not look: the broker answers as soon as it is asked.
#[tokio::test(start_paused = true)]
async fn a_publish_that_nobody_polled_for_long_does_not_cost_a_healthy_link() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.slow_down(Duration::from_millis(10));
    fake.0.close_gate();
    let mut first = Box::pin(node.publish(&news, "first".into()));
    assert!(poll_once(first.as_mut()).is_pending());
    tokio::time::advance(Duration::from_secs(10)).await;
    fake.0.open_gate();
    node.publish(&news, "second".into()).await.unwrap();
    first.await.unwrap();
    assert_eq!(node.state(), ConnectionState::Connected { generation: 1 });
}

/// The lane is somebody else's by the time the first caller is polled again.
#[tokio::test]
async fn a_caller_gets_the_outcome_of_its_own_message_however_late_it_asks() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let mut first = Box::pin(node.publish(&news, "first".into()));
    assert!(poll_once(first.as_mut()).is_pending());
    let second = node.publish(&news, "second".into());
    let (second, ()) = join(second, async { fake.0.open_gate() }).await;
    second.unwrap();
    until("the lane is idle", || node.stats().published == 2).await;
    tokio::task::yield_now().await;

    fake.0.close_gate();
    fake.0.on_publish(OnPublish::NotSent);
    let mut third = Box::pin(node.publish(&news, "third".into()));
    assert!(poll_once(third.as_mut()).is_pending());
    fake.0.open_gate();
    assert!(matches!(poll_once(first.as_mut()), Poll::Ready(Ok(()))));
    assert!(third.await.unwrap_err().is_not_sent());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_panics_leaves_outcomes_true_and_the_lane_alive() {
    let fake = Fake::new();
    let node = Arc::new(Node::connect(fake.clone(), options()).await.unwrap());
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    fake.0.close_gate();
    fake.0.on_publish(OnPublish::DeliverAndPanic);
    let tasks: Vec<_> = ["alone", "together", "with another"]
        .into_iter()
        .map(|text| {
            let (node, news) = (Arc::clone(&node), news.clone());
            tokio::spawn(async move { node.publish(&news, text.into()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    fake.0.open_gate();
    for task in tasks {
        // Whoever is not hit by the panic itself does not know what became of the message ...
        if let Ok(outcome) = task.await {
            let kind = outcome.unwrap_err().kind();
            // ... unless it was still waiting.
            let waited = PublishErrorKind::NotSent(NotSent::Unavailable);
            let unknown = PublishErrorKind::Unknown(Unknown::ConnectionLost);
            assert!(kind == unknown || kind == waited, "{kind:?}");
        }
    }
    assert_eq!(next(&mut subscription).await, "alone");
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "alive".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "alive");
    assert!(fake.0.frames().iter().all(|(_, _, count)| *count == 1));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_task_that_sends_for_others_tells_all_of_them() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.slow_down(Duration::from_millis(100));
    let first = async {
        let outcome = node.publish(&news, "first".into()).await;
        fake.0.on_publish(OnPublish::DeliverAndPanic);
        outcome
    };
    let others = join_all(["second", "third"].map(|text| node.publish(&news, text.into())));
    let told = tokio::time::timeout(Duration::from_secs(10), join(first, others));
    let (first, others) = told.await.expect("they are told");
    first.unwrap();
    let unknown = PublishErrorKind::Unknown(Unknown::ConnectionLost);
    let kinds: Vec<_> = others.into_iter().map(|r| r.unwrap_err().kind()).collect();
    assert_eq!(kinds, [unknown, unknown]);
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "alive".into()).await.unwrap();
}

/// A caller's waker is the caller's affair: that it panics is nothing to those who wait with it.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("as the test wants");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_leaves_nobody_behind_who_left_with_it() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let mut first = Box::pin(node.publish(&news, "first".into()));
    assert!(poll_once(first.as_mut()).is_pending());
    let mut panics = Box::pin(node.publish(&news, "panics".into()));
    let waker = Waker::from(Arc::new(Panics));
    let polled = panics.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    let others = join_all(["second", "third"].map(|text| node.publish(&news, text.into())));
    let begin = Instant::now();
    // Who is not woken is looked at when the time is over.
    let told = join(others, async { fake.0.open_gate() });
    let told = tokio::time::timeout(Duration::from_secs(10), told).await;
    let (others, ()) = told.expect("they are told");
    assert_eq!(begin.elapsed(), Duration::ZERO, "they are woken");
    assert!(others.iter().all(Result::is_ok), "{others:?}");
    panics.await.unwrap();
    first.await.unwrap();
    node.publish(&news, "alive".into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waker_of_one_that_is_late_panics_and_the_others_hear_and_leave() {
    let fake = Fake::new();
    let options = options()
        .max_batch_messages(3)
        .publish_timeout(Duration::from_secs(2));
    let node = Arc::new(Node::connect(fake.clone(), options).await.unwrap());
    let news = channel("news");
    fake.0.slow_down(Duration::from_millis(1900));
    let begin = Instant::now();
    let mut early: Vec<_> = (0..4)
        .map(|n| Box::pin(node.publish(&news, n.to_string().into())))
        .collect();
    for publish in &mut early {
        assert!(poll_once(publish.as_mut()).is_pending());
    }
    let mut panics = Box::pin(node.publish(&news, "panics".into()));
    let waker = Waker::from(Arc::new(Panics));
    let polled = panics.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    // Each in a task of its own, so that none is looked at because another one was woken.
    let publish_after = |pause, text: &'static str| {
        let (node, news) = (Arc::clone(&node), news.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let outcome = node.publish(&news, text.into()).await;
            (outcome, begin.elapsed())
        })
    };
    let late = publish_after(Duration::from_millis(100), "late");
    let leaves = publish_after(Duration::from_millis(2500), "leaves");
    let told = tokio::time::timeout(Duration::from_secs(60), join(late, leaves)).await;
    let (late, leaves) = told.expect("they are told");
    let ((late, heard), (leaves, _)) = (late.unwrap(), leaves.unwrap());
    let overloaded = PublishErrorKind::NotSent(NotSent::Overloaded);
    assert_eq!(late.unwrap_err().kind(), overloaded);
    assert!(heard <= Duration::from_millis(3801), "after {heard:?}");
    leaves.unwrap();
    assert_eq!(panics.await.unwrap_err().kind(), overloaded);
    assert!(join_all(early).await.iter().all(Result::is_ok));
    assert_eq!(node.stats().not_sent, 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_told_because_of_a_panic_is_counted_too() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options().max_batch_messages(2))
        .await
        .unwrap();
    let news = channel("news");
    fake.0.slow_down(Duration::from_millis(100));
    let first = async {
        let outcome = node.publish(&news, "first".into()).await;
        fake.0.on_publish(OnPublish::DeliverAndPanic);
        outcome
    };
    let others = ["second", "third", "fourth"].map(|text| node.publish(&news, text.into()));
    let (first, others) = join(first, join_all(others)).await;
    first.unwrap();
    let not_sent: Vec<_> = others
        .into_iter()
        .map(|r| r.unwrap_err().is_not_sent())
        .collect();
    assert_eq!(not_sent, [false, false, true]);
    let stats = node.stats();
    assert_eq!((stats.published, stats.unknown, stats.not_sent), (1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_publish_ends_within_twice_its_timeout_however_long_the_queue() {
    let fake = Fake::new();
    let timeout = Duration::from_secs(2);
    let one_each = options().max_batch_messages(1).publish_timeout(timeout);
    let node = Node::connect(fake.clone(), one_each).await.unwrap();
    let news = channel("news");
    fake.0.slow_down(Duration::from_millis(1900));
    let begin = Instant::now();
    let crowd = join_all((0..20).map(|i: u32| node.publish(&news, i.to_string().into()))).await;
    assert!(begin.elapsed() <= 2 * timeout, "{:?}", begin.elapsed());
    let overloaded = PublishErrorKind::NotSent(NotSent::Overloaded);
    let sent = crowd.iter().filter(|result| result.is_ok()).count();
    let late = crowd
        .iter()
        .filter(|r| r.as_ref().is_err_and(|e| e.kind() == overloaded))
        .count();
    assert_eq!((sent, late), (2, 18));
    assert_eq!(node.stats().not_sent, 18);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_too_long_does_not_take_the_others_of_its_frame_along() {
    let fake = Fake::new();
    let two_each = options()
        .max_batch_messages(2)
        .max_pending(4)
        .publish_timeout(Duration::from_secs(2));
    let node = Node::connect(fake.clone(), two_each).await.unwrap();
    let news = channel("news");
    fake.0.slow_down(Duration::from_millis(1900));
    let overloaded = PublishErrorKind::NotSent(NotSent::Overloaded);
    let early = join_all(["a", "b", "c", "d"].map(|text| node.publish(&news, text.into())));
    let late = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        node.publish(&news, "e".into()).await
    };
    let (early, late) = join(early, late).await;
    let early: Vec<_> = early.into_iter().map(|r| r.map_err(|e| e.kind())).collect();
    // With the first, then the second and the third, and then the fourth would have left, which the fifth joined.
    assert_eq!(early, [Ok(()), Ok(()), Ok(()), Err(overloaded)]);
    late.unwrap();
    assert_eq!(
        fake.0.frames().iter().map(|f| f.2).collect::<Vec<_>>(),
        [1, 2, 1]
    );
    assert_eq!(node.stats().not_sent, 1);
    // All of them have given their room back.
    fake.0.slow_down(Duration::ZERO);
    let again = join_all((0..4).map(|n| node.publish(&news, n.to_string().into()))).await;
    assert!(again.iter().all(Result::is_ok), "{again:?}");
}

#[tokio::test]
async fn waiting_bytes_are_bounded_and_a_cancelled_publish_counts_until_it_is_done() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options().max_pending_bytes(1000))
        .await
        .unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let mut large = Box::pin(node.publish(&news, vec![0; 5000].into()));
    assert!(
        poll_once(large.as_mut()).is_pending(),
        "a single one may be larger"
    );
    drop(large);
    let error = node.publish(&news, vec![0; 10].into()).await.unwrap_err();
    assert_eq!(error.kind(), PublishErrorKind::NotSent(NotSent::Overloaded));
    fake.0.open_gate();
    until("the flight is over", || node.stats().published == 1).await;
    while node.publish(&news, vec![0; 10].into()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_was_not_sent_leaves_no_hole_and_what_is_unknown_may() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    node.publish(&news, "first".into()).await.unwrap();

    fake.0.on_publish(OnPublish::NotSent);
    let error = node.publish(&news, "never".into()).await.unwrap_err();
    assert_eq!(
        error.kind(),
        PublishErrorKind::NotSent(NotSent::Unavailable)
    );
    fake.0.on_publish(OnPublish::UnknownButDeliver);
    let error = node.publish(&news, "perhaps".into()).await.unwrap_err();
    assert_eq!(
        error.kind(),
        PublishErrorKind::Unknown(Unknown::ConnectionLost)
    );
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "second".into()).await.unwrap();
    for expected in ["first", "perhaps", "second"] {
        assert_eq!(next(&mut subscription).await, expected);
    }

    fake.0.on_publish(OnPublish::Unknown);
    node.publish(&news, "lost".into()).await.unwrap_err();
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "third".into()).await.unwrap();
    let gap = next(&mut subscription).await;
    assert_eq!(
        gap,
        "gap: 1 messages missed (after a broker that dropped them)"
    );
    assert_eq!(next(&mut subscription).await, "third");
    let stats = node.stats();
    assert_eq!(
        (stats.published, stats.not_sent, stats.unknown, stats.lost),
        (3, 1, 2, 1)
    );
}

#[tokio::test]
async fn a_broker_that_drops_without_a_word_is_told_and_counted() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    node.publish(&news, "heard".into()).await.unwrap();
    fake.0.on_publish(OnPublish::Drop);
    for _ in 0..3 {
        node.publish(&news, "dropped".into()).await.unwrap();
    }
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "heard again".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "heard");
    match subscription.recv().await {
        Some(backplane_core::Delivery::Gap(gap)) => {
            assert_eq!(
                (gap.dropped_by_broker(), gap.missed()),
                (3, Missed::Exactly(3))
            );
        }
        other => panic!("expected a gap, got {other:?}"),
    }
    assert_eq!(next(&mut subscription).await, "heard again");
}

#[tokio::test]
async fn a_broker_that_delivers_twice_is_heard_once() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    fake.0.on_publish(OnPublish::DeliverTwice);
    for i in 0..3 {
        node.publish(&news, i.to_string().into()).await.unwrap();
    }
    for i in 0..3 {
        assert_eq!(next(&mut subscription).await, i.to_string());
    }
    assert_eq!(subscription.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(node.stats().duplicates, 3);
}

#[tokio::test]
async fn more_publishes_than_may_wait_are_refused_and_the_others_are_not_affected() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options().max_pending(5))
        .await
        .unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let crowd = (0..8).map(|i: u32| node.publish(&news, i.to_string().into()));
    let (results, ()) = join(join_all(crowd), async { fake.0.open_gate() }).await;
    let overloaded = PublishErrorKind::NotSent(NotSent::Overloaded);
    let kinds: Vec<_> = results
        .into_iter()
        .map(|r| r.map_err(|e| e.kind()))
        .collect();
    assert_eq!(kinds[..5], [Ok(()); 5]);
    assert_eq!(kinds[5..], [Err(overloaded); 3]);
    node.publish(&news, "room again".into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_is_not_answered_is_unknown_after_the_timeout_and_ends_the_link() {
    let fake = Fake::new();
    let timeout = Duration::from_millis(700);
    let node = Node::connect(fake.clone(), options().publish_timeout(timeout))
        .await
        .unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let begin = Instant::now();
    let first = node.publish(&news, "in hand".into());
    let second = node.publish(&news, "waiting".into());
    let (first, second) = join(first, second).await;
    assert_eq!(begin.elapsed(), timeout);
    let unknown = PublishErrorKind::Unknown(Unknown::Timeout(timeout));
    assert_eq!(first.unwrap_err().kind(), unknown);
    let unavailable = PublishErrorKind::NotSent(NotSent::Unavailable);
    assert_eq!(second.unwrap_err().kind(), unavailable);
    let mut watch = node.watch();
    let again = watch
        .wait_for(|state| matches!(state, ConnectionState::Connected { generation: 2 }))
        .await;
    assert!(again.is_some());
}

#[tokio::test]
async fn a_task_that_only_publishes_does_not_starve_the_others() {
    let bus = backplane_memory::MemoryBus::new();
    let node = bus.connect(options()).await.unwrap();
    let news = channel("news");
    let ran = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let other = Arc::clone(&ran);
    tokio::spawn(async move { other.store(true, Ordering::Relaxed) });
    for _ in 0..1000 {
        node.publish(&news, "hello".into()).await.unwrap();
    }
    assert!(ran.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_broken_link_ends_a_publish_in_flight_at_once_as_unknown() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.close_gate();
    let publish = node.publish(&news, "in flight".into());
    let (result, ()) = join(publish, async { fake.0.break_link() }).await;
    let unknown = PublishErrorKind::Unknown(Unknown::ConnectionLost);
    assert_eq!(result.unwrap_err().kind(), unknown);
}

#[tokio::test]
async fn dropping_a_node_with_publishes_in_flight_leaves_no_task() {
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    fake.0.close_gate();
    for i in 0..10 {
        let mut publish = Box::pin(node.publish(&news, i.to_string().into()));
        assert!(poll_once(publish.as_mut()).is_pending());
    }
    drop(node);
    until("the tasks end", || tasks.num_alive_tasks() <= before).await;
}
