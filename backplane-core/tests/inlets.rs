//! Inlets of links that have ended, and of nodes that have.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backplane_core::driver::{BrokerChannel, Frame, Wakes};
use backplane_core::{Backplane, ConnectionState, Delivery, Node, Subscribe};
use bytes::Bytes;
use support::wire::Wire;
use support::{Fake, channel, options, until};

const LONG: Duration = Duration::from_secs(10);

fn frame(publisher: u64, sequence: u64, payload: u64) -> Frame {
    let payload = payload.to_be_bytes();
    Frame::decode(&Wire::new(publisher, sequence, &[&payload]).bytes()).unwrap()
}

/// Threads go on delivering by inlets of links that have ended, while channels come and go: what comes behind the
/// n-th gap came on the link after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_link_delivers_nothing_behind_its_gap() {
    let fake = Fake::new();
    let node = Arc::new(Node::connect(fake.clone(), options()).await.unwrap());
    let c = channel("c");
    let request = Subscribe::to([c.clone()]).capacity(50_000_000);
    let mut subscription = node.subscribe(request).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let churner = {
        let (node, stop) = (Arc::clone(&node), Arc::clone(&stop));
        let c = channel("other");
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(s) = node.subscribe(Subscribe::to([c.clone()])).await {
                    drop(s);
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let delivered = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    let generations = 60_u64;
    let mut watch = node.watch();
    let current = Arc::new(AtomicU64::new(1));
    for generation in 1..=generations {
        let inbound = fake.0.inbound();
        for twin in 0..2_u64 {
            let current = Arc::clone(&current);
            let delivered = Arc::clone(&delivered);
            let mut inlet = inbound.inlet(BrokerChannel::new(node.prefix(), &c));
            let mut side = inbound.inlet(BrokerChannel::new(node.prefix(), &channel("other")));
            threads.push(std::thread::spawn(move || {
                let publisher = generation * 2 + twin;
                let mut n = 0;
                while current.load(Ordering::Relaxed) <= generation + 1 && n < 20_000 {
                    let frame = frame(publisher, n, generation);
                    inlet.deliver_then(&frame, &mut Wakes::default());
                    side.deliver_then(&frame, &mut Wakes::default());
                    n += 1;
                    delivered.fetch_add(1, Ordering::Relaxed);
                    if n.is_multiple_of(100) {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            }));
        }
        let seen = delivered.load(Ordering::Relaxed);
        until("some arrive", || {
            delivered.load(Ordering::Relaxed) > seen + 100
        })
        .await;
        fake.0.break_link();
        let again = ConnectionState::Connected {
            generation: generation + 1,
        };
        let up = watch.wait_for(|state| *state == again);
        tokio::time::timeout(LONG, up).await.unwrap().unwrap();
        current.store(generation + 1, Ordering::Relaxed);
    }
    current.store(u64::MAX, Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    churner.await.unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    let (mut gaps, mut messages) = (0, 0_u64);
    while let Ok(delivery) = subscription.try_recv() {
        match delivery {
            Delivery::Gap(_) => gaps += 1,
            Delivery::Message(message) => {
                messages += 1;
                let of = u64::from_be_bytes(message.payload()[..].try_into().unwrap());
                assert_eq!(of, gaps + 1);
            }
        }
    }
    assert_eq!(gaps, generations);
    println!("{messages} messages");
}

struct Tracked(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_closed_node_keeps_no_messages_for_an_inlet() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let c = channel("c");
    let subscription = node.subscribe(Subscribe::to([c.clone()])).await.unwrap();
    let mut inlet = fake
        .0
        .inbound()
        .inlet(BrokerChannel::new(node.prefix(), &c));
    let dropped = Arc::new(AtomicBool::new(false));
    let bytes = Wire::new(7, 0, &[b"x"]).bytes().to_vec();
    let bytes = Bytes::from_owner(Tracked(bytes, Arc::clone(&dropped)));
    let frame = Frame::decode(&bytes).unwrap();
    inlet.deliver_then(&frame, &mut Wakes::default());
    drop((bytes, frame));
    assert!(!dropped.load(Ordering::Relaxed));
    assert_eq!(node.stats().delivered, 1);
    node.close().await;
    drop(subscription);
    assert!(
        dropped.load(Ordering::Relaxed),
        "a message of a subscription that is gone is kept"
    );
    drop(inlet);
}
