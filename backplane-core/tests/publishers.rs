//! Publishers of one channel: the node's order, limits and end.

mod support;

use backplane_core::{Backplane, Delivery, Node, NotSent, PublishErrorKind, Publisher, Subscribe};
use bytes::Bytes;
use futures_util::future::{join, join3};
use support::{Fake, channel, next, options};

#[tokio::test]
async fn what_enters_first_leaves_first_by_the_node_or_by_a_publisher() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    let publisher = node.publisher(news.clone());
    let clone = publisher.clone();
    assert_eq!(clone.channel(), &news);
    fake.0.close_gate();
    let all = join3(
        publisher.publish("1".into()),
        node.publish(&news, "2".into()),
        join(
            clone.publish_many(vec!["3".into(), "4".into()]),
            node.publish_many(&news, vec!["5".into()]),
        ),
    );
    let (told, ()) = join(all, async { fake.0.open_gate() }).await;
    assert!(told.0.is_ok() && told.1.is_ok());
    assert!(told.2.0.is_ok() && told.2.1.is_ok());
    for expected in ["1", "2", "3", "4", "5"] {
        assert_eq!(next(&mut subscription).await, expected);
    }
    assert_eq!(node.stats().published, 5);
    // One numbering: nothing is a repetition, and nothing is missing.
    let (mut at, frames) = (0, fake.0.frames());
    for (_, sequence, messages) in &frames {
        assert_eq!(*sequence, at, "{frames:?}");
        at += *messages as u64;
    }
}

#[tokio::test]
async fn a_publisher_refuses_what_its_node_refuses() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let limit = node.capabilities().max_payload;
    let publisher = node.publisher(channel("news"));
    let size = limit + 1;
    let too_large = PublishErrorKind::NotSent(NotSent::TooLarge { size, limit });
    let large = || Bytes::from(vec![0; size]);
    let error = publisher.publish(large()).await.unwrap_err();
    assert_eq!(error.kind(), too_large);
    assert!(error.to_string().contains("news"), "{error}");
    let many = vec!["1".into(), large(), "2".into()];
    let error = publisher.publish_many(many).await.unwrap_err();
    let [failure] = error.failures() else {
        panic!("one of them has failed: {error}");
    };
    assert_eq!((failure.range(), failure.error().kind()), (1..2, too_large));
    assert_eq!((node.stats().published, node.stats().not_sent), (2, 2));
}

#[tokio::test]
async fn a_publisher_does_not_keep_its_node_open() {
    async fn closed(publisher: &Publisher<Fake>) {
        let closed = PublishErrorKind::NotSent(NotSent::Closed);
        let error = publisher.publish("1".into()).await.unwrap_err();
        assert_eq!(error.kind(), closed);
        let error = publisher.publish_many(vec!["1".into()]).await.unwrap_err();
        assert_eq!(error.failures()[0].error().kind(), closed);
    }
    let node = Node::connect(Fake::new(), options()).await.unwrap();
    let publisher = node.publisher(channel("news"));
    node.close().await;
    closed(&publisher).await;
    closed(&node.publisher(channel("news"))).await;

    let node = Node::connect(Fake::new(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    let publisher = node.publisher(news);
    publisher.publish("1".into()).await.unwrap();
    drop(node);
    closed(&publisher).await;
    assert!(matches!(
        subscription.recv().await,
        Some(Delivery::Message(_))
    ));
    assert!(subscription.recv().await.is_none(), "the node has ended");
}

#[tokio::test]
async fn a_publisher_keeps_its_numbers_however_many_channels_are_used_meanwhile() {
    const CHANNELS: usize = 80_000;
    let fake = Fake::new();
    fake.0.answer_at_once();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let publisher = node.publisher(channel("held"));
    publisher.publish("1".into()).await.unwrap();
    for n in 0..CHANNELS {
        let other = channel(&format!("{n}"));
        node.publish(&other, "1".into()).await.unwrap();
    }
    publisher.publish("2".into()).await.unwrap();
    node.publish(&channel("held"), "3".into()).await.unwrap();
    for n in 0..CHANNELS {
        let other = channel(&format!("{n}"));
        node.publish(&other, "2".into()).await.unwrap();
    }
    let (mut held, mut again) = (Vec::new(), 0);
    for (name, sequence, _) in fake.0.frames() {
        match name == "t:held" {
            true => held.push(sequence),
            false => again += u64::from(sequence > 1),
        }
    }
    assert_eq!(held, [0, 1, 2]);
    assert!(again > 0, "channels that nobody holds are let go of");
    assert_eq!(node.stats().published, 3 + 2 * CHANNELS as u64);
}

#[tokio::test]
async fn channels_whose_publishers_are_gone_are_let_go_of() {
    const HELD: usize = 140_000;
    const OTHERS: usize = 110_000;
    let fake = Fake::new();
    fake.0.answer_at_once();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let publisher = |n| node.publisher(channel(&format!("held {n}")));
    drop((0..HELD).map(publisher).collect::<Vec<_>>());
    for _ in 0..2 {
        for n in 0..OTHERS {
            let other = channel(&format!("{n}"));
            node.publish(&other, "1".into()).await.unwrap();
        }
    }
    let frames = fake.0.frames();
    // The numbers of one that was let go of begin anew, in a later epoch.
    let is_second = |sequence: u64| sequence & ((1 << 40) - 1) == 1;
    let kept = frames.iter().filter(|frame| is_second(frame.1));
    let kept = kept.count();
    assert!(kept <= 65_536, "{kept} of {OTHERS} were kept");
}

#[test]
fn who_is_refused_leaves_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let node = runtime.block_on(Node::connect(Fake::new(), options()));
    let node = node.unwrap();
    runtime.block_on(node.close());
    let names: Vec<_> = (0..20_000).map(|n| channel(&n.to_string())).collect();
    let left = allocation_counter::measure(|| {
        runtime.block_on(async {
            for name in &names {
                node.publish(name, "1".into()).await.unwrap_err();
                let many = node.publish_many(name, vec!["1".into()]);
                many.await.unwrap_err();
            }
        });
    });
    assert!(left.bytes_current < 100_000, "{left:?}");
}
