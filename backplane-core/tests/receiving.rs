//! What arrives: foreign bytes, lying frames, counts, and readers that do odd things.
#![allow(clippy::expect_used)] // clippy knows tests only by their attribute

mod support;

use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use backplane_core::driver::{BrokerChannel, Frame, Wakes};
use backplane_core::{Backplane, Delivery, Event, Missed, Node, NodeId, Subscribe, Subscription};
use backplane_memory::MemoryBus;
use bytes::Bytes;
use support::wire::Wire;
use support::{Fake, channel, connected, next, options, until};

/// A frame of one message.
fn frame(version: u8, publisher: u64, sequence: u64) -> Bytes {
    let mut wire = Wire::new(publisher, sequence, &[b"x"]);
    wire.version = version;
    wire.bytes()
}

#[tokio::test]
async fn foreign_bytes_are_malformed_and_newer_frames_are_told_once_per_publisher() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut subscription = node.subscribe(Subscribe::to([channel("c")])).await.unwrap();
    let mut events = node.events();
    let inbound = fake.0.inbound();
    let foreign: [&[u8]; 4] = [
        b"",
        b"x",
        b"{\"event\":\"hello from another writer\"}",
        &[0; 64],
    ];
    for bytes in foreign {
        inbound.deliver_bytes(b"t:c", &Bytes::from_static(bytes));
    }
    for _ in 0..3 {
        inbound.deliver_bytes(b"t:c", &frame(2, 7, 0));
    }
    let stats = node.stats();
    assert_eq!((stats.malformed, stats.incompatible), (4, 3));
    let told = Event::Incompatible {
        version: 2,
        publisher: NodeId::from_u64(7),
    };
    assert_eq!(events.try_recv().unwrap(), told);
    assert!(events.try_recv().is_err());
    node.publish(&channel("c"), "later".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "later");
}

#[tokio::test]
async fn an_inlet_follows_its_channel_that_is_left_and_held_again() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let c = channel("c");
    let inbound = fake.0.inbound();
    let mut inlet = inbound.inlet(BrokerChannel::new(node.prefix(), &c));
    let mut sequence = 0;
    let mut deliver = || {
        let frame = Frame::decode(&frame(1, 7, sequence)).expect("it is a frame");
        sequence += 1;
        inlet.deliver_then(&frame, &mut Wakes::default());
    };
    let probes_alone = fake.0.subscribed();
    deliver();
    for round in 1..=3 {
        let request = Subscribe::to([c.clone()]);
        let mut subscription = node.subscribe(request).await.unwrap();
        assert!(subscription.try_recv().is_err(), "nothing of before");
        deliver();
        deliver();
        assert_eq!(next(&mut subscription).await, "x");
        assert_eq!(next(&mut subscription).await, "x");
        assert_eq!(node.stats().delivered, 2 * round);
        drop(subscription);
        deliver();
        until("the broker is told", || fake.0.subscribed() == probes_alone).await;
        deliver();
    }
    let mut subscription = node.subscribe(Subscribe::to([c])).await.unwrap();
    fake.0.break_link();
    until("the link is gone", || !node.state().is_connected()).await;
    connected(&node).await;
    deliver();
    let first = subscription.recv().await;
    assert!(matches!(first, Some(Delivery::Gap(_))), "{first:?}");
    assert!(subscription.try_recv().is_err(), "the link is not in force");
}

#[tokio::test]
async fn lying_sequence_numbers_neither_panic_nor_block() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let request = Subscribe::to([channel("c")]).capacity(1);
    let mut subscription = node.subscribe(request).await.unwrap();
    let inbound = fake.0.inbound();
    for publisher in 1..5 {
        for sequence in [0, (1 << 40) - 3, 5, u64::MAX - 9, u64::MAX] {
            inbound.deliver_bytes(b"t:c", &frame(1, publisher, sequence));
        }
    }
    let mut missed = Vec::new();
    while let Ok(delivery) = subscription.try_recv() {
        if let Delivery::Gap(gap) = delivery {
            missed.push(gap.missed());
        }
    }
    // Gaps within a numbering count; what looks like another numbering does not.
    let lost = 4 * ((1 << 40) - 4);
    let overflowed = 4 * 3 - 1;
    assert_eq!(missed, [Missed::Exactly(lost + overflowed)]);
    node.publish(&channel("c"), "later".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "later");
}

#[tokio::test]
async fn a_publisher_that_is_heard_again_with_nothing_missed_is_counted_as_none() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    node.publish(&news, "before".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "before");
    fake.0.break_link();
    node.watch().wait_for(|state| !state.is_connected()).await;
    connected(&node).await;
    let Some(Delivery::Gap(gap)) = subscription.recv().await else {
        panic!("expected a gap");
    };
    assert_eq!(gap.missed_from(node.node_id()), None);
    node.publish(&news, "after".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "after");
    assert_eq!(gap.missed_from(node.node_id()), Some(0));
}

/// A publisher that let go of idle lanes numbers a channel anew, from the next multiple of 2^40; the frame with the
/// start flag may be the one that was missed.
#[tokio::test]
async fn a_numbering_of_a_later_epoch_makes_up_no_loss_and_counts_its_own() {
    const EPOCH: u64 = 1 << 40;
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut subscription = node.subscribe(Subscribe::to([channel("c")])).await.unwrap();
    let deliver = |sequence| {
        fake.0
            .inbound()
            .deliver_bytes(b"t:c", &frame(1, 7, sequence));
    };
    deliver(5);
    deliver(EPOCH + 2);
    deliver(EPOCH + 3);
    for _ in 0..3 {
        assert_eq!(next(&mut subscription).await, "x");
    }
    assert!(subscription.try_recv().is_err(), "nothing was lost");
    assert_eq!((node.stats().lost, node.stats().gaps), (0, 0));
    // Within the epoch the count is exact, also across several epochs.
    deliver(EPOCH + 6);
    deliver(4 * EPOCH + 9);
    deliver(4 * EPOCH + 11);
    let mut seen = Vec::new();
    while let Ok(delivery) = subscription.try_recv() {
        seen.push(match delivery {
            Delivery::Message(_) => None,
            Delivery::Gap(gap) => Some(gap.missed()),
        });
    }
    let (two, one) = (Missed::Exactly(2), Missed::Exactly(1));
    assert_eq!(seen, [Some(two), None, None, Some(one), None]);
    assert_eq!(node.stats().lost, 3);

    // Nor does an outage in between make it one: what was missed in it cannot be known.
    fake.0.break_link();
    node.watch().wait_for(|state| !state.is_connected()).await;
    connected(&node).await;
    let Some(Delivery::Gap(gap)) = subscription.recv().await else {
        panic!("expected a gap");
    };
    deliver(5 * EPOCH + 1);
    assert_eq!(next(&mut subscription).await, "x");
    assert_eq!(gap.missed(), Missed::AtLeast(0));
    assert_eq!(gap.missed_from(NodeId::from_u64(7)), None);
    assert_eq!(node.stats().lost, 3);
}

/// The same from the publisher's side: it holds the numbering of so many channels, and no more.
#[tokio::test]
async fn a_publisher_to_very_many_channels_makes_up_no_loss() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    for text in ["one", "two"] {
        node.publish(&news, text.into()).await.unwrap();
        assert_eq!(next(&mut subscription).await, text);
    }
    // They are spread at random over 64 parts with room for 1024 each: every part is full, and none a second time.
    for n in 0..80_000 {
        let other = channel(&n.to_string());
        node.publish(&other, Bytes::new()).await.unwrap();
    }
    fake.0.frames();
    for text in ["three", "four"] {
        node.publish(&news, text.into()).await.unwrap();
        assert_eq!(next(&mut subscription).await, text);
    }
    let sequences: Vec<u64> = fake.0.frames().iter().map(|frame| frame.1).collect();
    assert_eq!(sequences, [1 << 40, (1 << 40) + 1], "it was numbered anew");
    assert_eq!((node.stats().lost, node.stats().gaps), (0, 0));
}

#[tokio::test]
async fn the_bound_in_bytes_is_the_nodes_unless_a_subscription_has_its_own() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options().queue_bytes(5))
        .await
        .unwrap();
    let news = channel("news");
    let to = || Subscribe::to([news.clone()]);
    let mut by_node = node.subscribe(to()).await.unwrap();
    let mut own = node.subscribe(to().max_bytes(7)).await.unwrap();
    let mut none = node.subscribe(to().max_bytes(0)).await.unwrap();
    for text in ["abc", "de", "fg", "h"] {
        node.publish(&news, text.into()).await.unwrap();
    }
    let told = |missed| format!("gap: {missed} messages missed (after a full queue)");
    for (subscription, held, missed) in [
        (&mut by_node, &["abc", "de"][..], 2),
        (&mut own, &["abc", "de", "fg"], 1),
        (&mut none, &["abc"], 3),
    ] {
        for text in held {
            assert_eq!(next(subscription).await, *text);
        }
        assert_eq!(next(subscription).await, told(missed));
        assert!(subscription.try_recv().is_err());
    }
    let stats = node.stats();
    assert_eq!((stats.delivered, stats.overflowed, stats.gaps), (6, 6, 3));
}

/// Drops a subscription of the same channel when it is woken.
struct Dropping(Mutex<Option<Subscription>>);

impl Wake for Dropping {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().expect("nobody panics with it").take());
    }
}

#[test]
fn a_waker_may_do_anything_even_drop_a_subscription() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let bus = MemoryBus::new();
            let node = bus.connect(options()).await.unwrap();
            let news = channel("news");
            let request = || Subscribe::to([news.clone()]);
            let dropped = node.subscribe(request()).await.unwrap();
            let mut read = node.subscribe(request()).await.unwrap();
            let waker = Waker::from(Arc::new(Dropping(Mutex::new(Some(dropped)))));
            assert!(
                read.poll_recv(&mut Context::from_waker(&waker))
                    .is_pending()
            );
            node.publish(&news, "hello".into()).await.unwrap();
            assert_eq!(next(&mut read).await, "hello");
        });
        done.send(()).unwrap();
    });
    finished
        .recv_timeout(Duration::from_secs(10))
        .expect("it deadlocks");
}
