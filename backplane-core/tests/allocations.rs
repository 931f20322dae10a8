//! What is allocated, and kept, for what a broker hands over (rules B3 and M1). The counting allocator of
//! `allocation-counter` counts each thread for itself, so these tests may run side by side.
#![allow(clippy::expect_used)] // clippy knows tests only by their attribute

mod support;

use allocation_counter::{AllocationInfo, measure};
use backplane_core::driver::{Frame, FrameError, Inbound};
use backplane_core::{Backplane, Delivery, Message, Node, Subscribe, Subscription};
use bytes::Bytes;
use futures_util::future::try_join_all;
use proptest::prelude::*;
use support::wire::{Wire, anything};
use support::{Fake, channel, options};
use tokio::runtime::Runtime;

/// The one allocation that a buffer costs when it is shared for the first time.
const SHARED: u64 = 64;

/// What one queued message or gap may cost besides its bytes, room to grow included.
const ITEM: u64 = 3 * 56;

/// A node with one subscription, on a runtime of this thread.
struct Receiver {
    node: Node<Fake>,
    subscription: Subscription,
    inbound: Inbound,
    runtime: Runtime,
}

impl Receiver {
    fn new(request: Subscribe) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let fake = Fake::new();
        let (node, subscription) = runtime.block_on(async {
            let node = Node::connect(fake.clone(), options())
                .await
                .expect("a node");
            let subscription = node.subscribe(request).await.expect("a subscription");
            (node, subscription)
        });
        Self {
            node,
            subscription,
            inbound: fake.0.inbound(),
            runtime,
        }
    }

    fn deliver(&self, bytes: &Bytes) {
        let _inside = self.runtime.enter();
        self.inbound.deliver_bytes(b"t:c", bytes);
    }

    /// The next message; gaps are left out.
    fn message(&mut self) -> Option<Message> {
        loop {
            match self.subscription.try_recv() {
                Ok(Delivery::Message(message)) => return Some(message),
                Ok(Delivery::Gap(_)) => {}
                Err(_) => return None,
            }
        }
    }
}

fn on_c() -> Subscribe {
    Subscribe::to([channel("c")])
}

fn kept(info: AllocationInfo) -> u64 {
    u64::try_from(info.bytes_current).unwrap_or(0)
}

#[test]
fn the_allocator_counts() {
    let mut held = Vec::<u8>::new();
    let info = measure(|| held = vec![0; 1000]);
    assert_eq!((info.bytes_max, info.bytes_current), (1000, 1000));
}

proptest! {
    /// Rule M1: whatever the bytes claim, nothing is allocated by what they claim.
    #[test]
    fn decoding_allocates_nothing_but_the_share_of_the_buffer(bytes in anything()) {
        let mut decoded = None;
        let info = measure(|| decoded = Some(Frame::decode(&bytes)));
        match decoded {
            Some(Ok(_)) => prop_assert!(info.bytes_total <= SHARED, "{:?}", info),
            _ => prop_assert_eq!(info.bytes_total, 0),
        }
    }

    /// The same of all that happens to them on the way to a reader.
    #[test]
    fn receiving_allocates_nothing_for_a_malformed_frame_and_a_little_for_each_message(
        all in prop::collection::vec(anything(), 1..10)
    ) {
        let receiver = Receiver::new(on_c());
        let mut malformed = 0;
        for bytes in all {
            // Of its own, so that it is shared here for the first time.
            let bytes = Bytes::copy_from_slice(&bytes);
            let items = match Frame::decode(&Bytes::copy_from_slice(&bytes)) {
                Ok(frame) => frame.len() as u64,
                Err(FrameError::Malformed(_)) => {
                    malformed += 1;
                    0
                }
                // The first one of a publisher is remembered and told; the next test looks at these.
                Err(_) => continue,
            };
            let waiting = receiver.node.stats().delivered + 1;
            let info = measure(|| receiver.deliver(&bytes));
            // The queue doubles when it is full; the publisher is remembered, and a gap before the frame may be told.
            let allowed = if items == 0 { 0 } else { SHARED + ITEM * (waiting + items + 2) + 1024 };
            prop_assert!(info.bytes_max <= allowed, "{} > {}: {:?}", info.bytes_max, allowed, info);
        }
        prop_assert_eq!(receiver.node.stats().malformed, malformed);
    }
}

#[test]
fn publishers_that_nobody_knows_are_remembered_up_to_a_bound() {
    let receiver = Receiver::new(on_c().capacity(1));
    let frames = |version, publishers: std::ops::Range<u64>| {
        for publisher in publishers {
            let mut wire = Wire::new(publisher, 0, &[b"x"]);
            wire.version = version;
            receiver.deliver(&wire.bytes());
        }
    };
    let few = measure(|| {
        frames(1, 0..5000);
        frames(2, 0..5000);
    });
    let many = measure(|| {
        frames(1, 5000..50_000);
        frames(2, 5000..50_000);
    });
    assert!(kept(few) < 1 << 20, "{few:?}");
    assert!(kept(many) < 1 << 18, "it grows: {many:?}");
}

/// Rule B3, with the bytes that are kept and not those that are counted.
#[test]
fn what_a_queue_keeps_stays_within_its_bound_however_it_is_filled() {
    const BOUND: u64 = 100_000;
    const FRAME: u64 = 60_000;
    let payload = [7; 100];
    let batch = |n: u64| {
        let payloads = [payload.as_slice(); FRAME as usize / 100];
        Wire::new(1, n * payloads.len() as u64, &payloads).bytes()
    };
    let single = |n: u64| Wire::new(1, n, &[&payload]).bytes();
    let overlapping = |n: u64| Wire::new(1, n, &[payload.as_slice(); 600]).bytes();
    let largest = |n: u64| Wire::new(1, n, &[vec![7; 1 << 20].as_slice()]).bytes();
    type Make<'a> = &'a dyn Fn(u64) -> Bytes;
    let most = usize::MAX;
    let ways: [(&str, usize, Make<'_>, u64, u64); 6] = [
        ("batches, bounded by bytes", most, &batch, 200, BOUND),
        ("batches, bounded by messages", 700, &batch, 200, 70_000),
        ("one by one", most, &single, 1500, BOUND),
        ("one by one, bounded by messages", 100, &single, 500, 10_000),
        ("one new in each batch", 150, &overlapping, 200, 15_000),
        ("larger than the bound", 4096, &largest, 20, 1 << 20),
    ];
    for (way, capacity, make, frames, bound) in ways {
        for reads in [0, 1, 7] {
            let request = on_c().capacity(capacity).max_bytes(BOUND as usize);
            let mut receiver = Receiver::new(request);
            let info = measure(|| {
                for n in 0..frames {
                    receiver.deliver(&make(n));
                    for _ in 0..reads {
                        drop(receiver.message());
                    }
                }
            });
            let items = bound / 100;
            // Of the frame at the front a part may be read.
            let allowed = bound + FRAME + items * (ITEM + SHARED) + 4096;
            assert!(
                kept(info) <= allowed,
                "{way}, {reads} read each time: {} bytes are kept, and {allowed} allowed",
                kept(info),
            );
            if reads == 0 {
                assert!(
                    kept(info) >= bound,
                    "{way}: the bound was not reached: {info:?}"
                );
            }
        }
    }
}

/// Rule M1 for many subscriptions of one channel, of which each keeps one message.
#[test]
fn a_frame_of_very_many_messages_costs_little_however_many_get_it() {
    const MESSAGES: usize = 1 << 20;
    let receiver = Receiver::new(on_c().capacity(1));
    let request = || on_c().capacity(1);
    let others = (0..30).map(|_| receiver.node.subscribe(request()));
    let others = receiver.runtime.block_on(try_join_all(others));
    let others = others.expect("subscriptions");
    let bytes = Wire::new(1, 0, &vec![b"".as_slice(); MESSAGES]).bytes();
    assert!(bytes.len() > MESSAGES);
    let info = measure(|| receiver.deliver(&bytes));
    assert_eq!(others.len(), 30);
    assert!(info.bytes_max < 31 * 1024, "{info:?}");
    assert_eq!(receiver.node.stats().overflowed, 31 * (MESSAGES as u64 - 1));
}

/// Not a bound, but a number that the docs name.
#[test]
fn a_queued_message_costs_this_many_bytes() {
    const MESSAGES: u64 = 4096;
    assert_eq!(size_of::<Delivery>(), 64);
    for (len, batch) in [(10, 1), (10, 64), (1000, 1), (1000, 64)] {
        let receiver = Receiver::new(on_c().capacity(MESSAGES as usize));
        let payload = vec![7; len];
        let info = measure(|| {
            for n in 0..MESSAGES / batch {
                let payloads = vec![payload.as_slice(); batch as usize];
                receiver.deliver(&Wire::new(1, n * batch, &payloads).bytes());
            }
        });
        let each = kept(info) / MESSAGES;
        println!("{len} bytes, {batch} a frame: {each} bytes each");
        assert!(each <= len as u64 + 64 * 2 + 64, "{each}");
        drop(receiver);
    }
}
