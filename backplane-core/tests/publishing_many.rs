//! `publish_many`: one call, many messages, an outcome each (rule O5).

mod support;

use std::pin::pin;
use std::task::{Context, Waker};

use backplane_core::{Backplane, Node, NotSent, PublishErrorKind, Subscribe};
use bytes::Bytes;

use support::{Fake, OnPublish, channel, next, options};

fn numbered(range: std::ops::Range<u32>) -> Vec<Bytes> {
    range.map(|n| n.to_string().into()).collect()
}

fn not_sent(why: NotSent) -> PublishErrorKind {
    PublishErrorKind::NotSent(why)
}

#[tokio::test]
async fn many_leave_in_frames_that_keep_the_limits_and_arrive_in_order() {
    let fake = Fake::new();
    let limits = options().max_batch_messages(10).max_batch_bytes(100);
    let node = Node::connect(fake.clone(), limits).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    node.publish_many(&news, Vec::new()).await.unwrap();
    assert_eq!(fake.0.frames(), []);
    node.publish_many(&news, numbered(0..25)).await.unwrap();
    let large = [60, 60, 500, 1].map(|size: usize| vec![b'x'; size].into());
    node.publish_many(&news, large.to_vec()).await.unwrap();
    let frames = fake.0.frames();
    let counts: Vec<_> = frames.into_iter().map(|(_, _, count)| count).collect();
    assert_eq!(counts, [10, 10, 5, 1, 1, 1, 1]);
    for n in 0..25 {
        assert_eq!(next(&mut subscription).await, n.to_string());
    }
    assert_eq!(node.stats().published, 29);
}

#[tokio::test]
async fn one_bad_message_fails_alone_and_is_named() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options().max_payload(10))
        .await
        .unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    let mut payloads = numbered(0..6);
    payloads[2] = vec![b'x'; 11].into();
    payloads[5] = vec![b'x'; 12].into();
    let error = node.publish_many(&news, payloads).await.unwrap_err();
    let failures: Vec<_> = error
        .failures()
        .iter()
        .map(|failure| (failure.range(), failure.error().kind()))
        .collect();
    let too_large = |size| not_sent(NotSent::TooLarge { size, limit: 10 });
    assert_eq!(failures, [(2..3, too_large(11)), (5..6, too_large(12))]);
    assert_eq!((error.failed(), error.total()), (2, 6));
    assert!(error.is_not_sent() && error.of_message(3).is_none());
    assert!(error.to_string().starts_with("2 of 6 messages"), "{error}");
    for n in [0, 1, 3, 4] {
        assert_eq!(next(&mut subscription).await, n.to_string());
    }
    assert_eq!((node.stats().published, node.stats().not_sent), (4, 2));
}

#[tokio::test]
async fn those_that_find_no_room_are_the_last_ones() {
    let fake = Fake::new();
    let limits = options().max_pending(16).max_pending_bytes(1 << 20);
    let node = Node::connect(fake.clone(), limits).await.unwrap();
    let news = channel("news");
    let error = node.publish_many(&news, numbered(0..20)).await.unwrap_err();
    assert_eq!(error.failures().len(), 1);
    assert_eq!(error.failures()[0].range(), 16..20);
    assert_eq!(
        error.failures()[0].error().kind(),
        not_sent(NotSent::Overloaded)
    );
    // There is room again.
    node.publish_many(&news, numbered(0..16)).await.unwrap();

    // What can never be sent is told so wherever it stands.
    let mut payloads = numbered(0..20);
    payloads[18] = vec![b'x'; 2 << 20].into();
    let error = node.publish_many(&news, payloads).await.unwrap_err();
    let kinds: Vec<_> = error
        .failures()
        .iter()
        .map(|failure| (failure.range(), failure.error().kind()))
        .collect();
    let (size, limit) = (2 << 20, node.capabilities().max_payload);
    let too_large = not_sent(NotSent::TooLarge { size, limit });
    let overloaded = || not_sent(NotSent::Overloaded);
    assert_eq!(
        kinds,
        [
            (16..18, overloaded()),
            (18..19, too_large),
            (19..20, overloaded())
        ]
    );

    // In bytes likewise; a single message always has room.
    let node = Node::connect(fake.clone(), options().max_pending_bytes(100))
        .await
        .unwrap();
    let sized = |sizes: &[usize]| sizes.iter().map(|n| vec![0; *n].into()).collect::<Vec<_>>();
    let error = node
        .publish_many(&news, sized(&[60, 40, 1]))
        .await
        .unwrap_err();
    assert_eq!(error.failures()[0].range(), 2..3);
    node.publish_many(&news, sized(&[500])).await.unwrap();
}

#[tokio::test]
async fn what_is_published_afterwards_comes_after_all_of_them() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options().max_batch_messages(10))
        .await
        .unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    fake.0.close_gate();
    let mut cx = Context::from_waker(Waker::noop());
    let mut many = pin!(node.publish_many(&news, numbered(0..35)));
    assert!(many.as_mut().poll(&mut cx).is_pending());
    let mut last = pin!(node.publish(&news, "35".into()));
    assert!(last.as_mut().poll(&mut cx).is_pending());
    fake.0.open_gate();
    let (many, last) = tokio::join!(many, last);
    many.unwrap();
    last.unwrap();
    for n in 0..=35 {
        assert_eq!(next(&mut subscription).await, n.to_string());
    }
}

#[tokio::test]
async fn a_dropped_call_cancels_what_has_not_left_and_holds_nobody_up() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options().max_batch_messages(10))
        .await
        .unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    fake.0.close_gate();
    let mut cx = Context::from_waker(Waker::noop());
    let mut many = Box::pin(node.publish_many(&news, numbered(0..30)));
    assert!(many.as_mut().poll(&mut cx).is_pending());
    let mut last = pin!(node.publish(&news, "last".into()));
    assert!(last.as_mut().poll(&mut cx).is_pending());
    drop(many);
    fake.0.open_gate();
    last.await.unwrap();
    for expected in (0..10).map(|n| n.to_string()).chain(["last".to_owned()]) {
        assert_eq!(next(&mut subscription).await, expected);
    }
    assert_eq!((node.stats().gaps, node.stats().published), (0, 11));
}

#[tokio::test]
async fn what_the_broker_refuses_is_told_part_by_part() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options().max_batch_messages(2))
        .await
        .unwrap();
    let news = channel("news");
    fake.0.on_publish(OnPublish::NotSent);
    let error = node.publish_many(&news, numbered(0..5)).await.unwrap_err();
    let ranges: Vec<_> = error.into_iter().map(|failure| failure.range()).collect();
    assert_eq!(ranges, [0..2, 2..4, 4..5]);
    assert_eq!(node.stats().not_sent, 5);
    node.close().await;
    let error = node.publish_many(&news, numbered(0..5)).await.unwrap_err();
    assert_eq!(error.failures()[0].range(), 0..5);
    assert_eq!(
        error.failures()[0].error().kind(),
        not_sent(NotSent::Closed)
    );
}
