//! What must hold although the channels of a bus are spread over parts.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backplane_core::{Backplane, Channel, Delivery, NodeOptions, Prefix, Subscribe};
use backplane_memory::MemoryBus;
use bytes::Bytes;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

fn options() -> NodeOptions {
    NodeOptions::new(Prefix::new("t").unwrap())
}

/// One publisher, many channels of one subscription, each publish after the one before: what comes before the gap of a
/// cut has no hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missing_before_the_gap_of_a_cut() {
    let fillers: usize = std::env::var("FILLERS")
        .ok()
        .map_or(20_000, |n| n.parse().unwrap());
    for round in 0..10 {
        let bus = MemoryBus::new();
        let publisher = Arc::new(bus.connect(options()).await.unwrap());
        let node = bus.connect(options()).await.unwrap();
        let channels: Vec<_> = (0..256)
            .map(|n| Channel::new(format!("c{n}")).unwrap())
            .collect();
        let filler = (0..fillers).map(|n| Channel::new(format!("f{n}")).unwrap());
        let request = Subscribe::to(channels.clone().into_iter().chain(filler));
        let mut subscription = node.subscribe(request.capacity(1_000_000)).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let publishing = {
            let (publisher, stop) = (Arc::clone(&publisher), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut n = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let channel = &channels[n as usize % channels.len()];
                    let payload = Bytes::copy_from_slice(&n.to_be_bytes());
                    publisher.publish(channel, payload).await.unwrap();
                    n += 1;
                }
            })
        };
        let mut next = 0;
        let (mut holes, mut cut) = (Vec::new(), false);
        loop {
            match timeout(LONG, subscription.recv()).await.unwrap().unwrap() {
                Delivery::Message(message) => {
                    let n = u64::from_be_bytes(message.payload()[..].try_into().unwrap());
                    if n != next {
                        holes.push((next, n));
                    }
                    next = n + 1;
                }
                Delivery::Gap(_) => break,
            }
            if next > 500 && !cut {
                cut = true;
                let bus = bus.clone();
                let of = node.node_id();
                tokio::task::spawn_blocking(move || assert_eq!(bus.cut(of), 1));
            }
        }
        stop.store(true, Ordering::Relaxed);
        publishing.await.unwrap();
        assert!(
            holes.is_empty(),
            "round {round}: {} holes before the gap: {:?}",
            holes.len(),
            &holes[..holes.len().min(5)]
        );
    }
}

fn numbered(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}

/// Waits until publishers get through.
fn flows(bus: &MemoryBus) {
    let (before, begin) = (bus.published(), std::time::Instant::now());
    while bus.published() < before + 20 {
        assert!(begin.elapsed() < LONG, "nobody publishes");
        std::thread::yield_now();
    }
}

fn number(delivery: Delivery) -> Option<u64> {
    let Delivery::Message(message) = delivery else {
        return None;
    };
    Some(u64::from_be_bytes(
        message.payload()[..].try_into().unwrap(),
    ))
}

/// Publishers on several nodes, while channels are left and held again: what was subscribed arrives, what was
/// unsubscribed does not, everybody sees one order, and the counts agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn messages_stay_in_order_while_subscriptions_come_and_go() {
    let bus = MemoryBus::new();
    let nodes: Vec<_> = {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Arc::new(bus.connect(options()).await.unwrap()));
        }
        nodes
    };
    let c = Channel::new("hot").unwrap();
    let request = || Subscribe::to([c.clone()]).capacity(10_000_000);
    let mut steady = Vec::new();
    for node in &nodes {
        for _ in 0..2 {
            steady.push(node.subscribe(request()).await.unwrap());
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut publishers = Vec::new();
    for (id, node) in nodes.iter().enumerate() {
        for half in 0..2_u64 {
            let (node, stop, c) = (Arc::clone(node), Arc::clone(&stop), c.clone());
            let side = Channel::new("side").unwrap();
            publishers.push(tokio::spawn(async move {
                let base = (id as u64 * 2 + half) << 40;
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    node.publish(&c, numbered(base + n)).await.unwrap();
                    node.publish(&side, numbered(base + n)).await.unwrap();
                    n += 1;
                    if n % 64 == 0 {
                        tokio::task::yield_now().await;
                    }
                    if n > 30_000 {
                        break;
                    }
                }
                n
            }));
        }
    }
    let mut churners = Vec::new();
    for (id, node) in nodes.iter().enumerate() {
        let (node, other) = (Arc::clone(node), Arc::clone(&nodes[(id + 1) % 3]));
        let stop = Arc::clone(&stop);
        churners.push(tokio::spawn(async move {
            let side = Channel::new("side").unwrap();
            let mine = Channel::new(format!("mine{id}")).unwrap();
            let mut got = 0_u64;
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                let request = Subscribe::to([side.clone(), mine.clone()]).capacity(1_000_000);
                let mut s = node.subscribe(request).await.unwrap();
                let marker = u64::MAX - rounds;
                other.publish(&mine, numbered(marker)).await.unwrap();
                other.publish(&side, numbered(marker)).await.unwrap();
                let (mut a, mut b) = (false, false);
                let mut last = [None; 6];
                while !(a && b) {
                    let delivery = timeout(LONG, s.recv()).await.expect("S1").unwrap();
                    got += 1;
                    let Delivery::Message(m) = &delivery else {
                        panic!("a gap")
                    };
                    let is_side = *m.channel() == side;
                    let n = number(delivery).unwrap();
                    if n == marker {
                        if is_side { b = true } else { a = true }
                    } else if is_side && n < 1 << 50 {
                        let (who, k) = ((n >> 40) as usize, n & ((1 << 40) - 1));
                        assert!(
                            last[who].is_none_or(|l| k == l + 1),
                            "{who} {:?} {k}",
                            last[who]
                        );
                        last[who] = Some(k);
                    }
                }
                s.handle().unsubscribe([side.clone()]);
                let begin = std::time::Instant::now();
                while begin.elapsed() < Duration::from_micros(200) {
                    assert!(s.try_recv().is_err(), "S2");
                }
                drop(s);
                rounds += 1;
            }
            (rounds, got)
        }));
    }
    let mut total = 0;
    for publisher in publishers {
        total += publisher.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let (mut rounds, mut marks) = (0, 0);
    for churner in churners {
        let (r, _) = churner.await.unwrap();
        rounds += r;
        marks += 2 * r;
    }
    let mut first: Option<Vec<u64>> = None;
    for subscription in &mut steady {
        let mut seen = Vec::new();
        while let Ok(delivery) = subscription.try_recv() {
            seen.push(number(delivery).expect("no gap"));
        }
        assert_eq!(seen.len() as u64, total);
        match &first {
            None => first = Some(seen),
            Some(first) => assert!(*first == seen, "O4"),
        }
    }
    let published: u64 = nodes.iter().map(|n| n.stats().published).sum();
    assert_eq!(published, 2 * total + marks);
    println!("{rounds} rounds, {total} messages");
}

/// The link breaks again and again: what a subscription got and what its gaps say is what was published.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_add_up_over_many_cuts() {
    let bus = MemoryBus::new();
    let publisher = Arc::new(bus.connect(options()).await.unwrap());
    let quick = options();
    let node = Arc::new(bus.connect(quick).await.unwrap());
    let c = Channel::new("hot").unwrap();
    let mut subscriptions = Vec::new();
    for _ in 0..5 {
        let request = Subscribe::to([c.clone()]).capacity(10_000_000);
        subscriptions.push(node.subscribe(request).await.unwrap());
    }
    publisher.publish(&c, numbered(0)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = {
        let (publisher, stop, c) = (Arc::clone(&publisher), Arc::clone(&stop), c.clone());
        tokio::spawn(async move {
            let mut n = 1;
            while !stop.load(Ordering::Relaxed) {
                publisher.publish(&c, numbered(n)).await.unwrap();
                n += 1;
                if n.is_multiple_of(16) {
                    tokio::time::sleep(Duration::from_micros(50)).await;
                }
            }
            n
        })
    };
    let mut watch = node.watch();
    for generation in 2..=30_u64 {
        let (bus, of) = (bus.clone(), node.node_id());
        tokio::task::spawn_blocking(move || bus.cut(of))
            .await
            .unwrap();
        let up = watch.wait_for(|state| {
            matches!(state, backplane_core::ConnectionState::Connected { generation: g } if *g >= generation)
        });
        timeout(LONG, up).await.unwrap().unwrap();
        let seen = node.stats().delivered;
        while node.stats().delivered < seen + 50 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let n = publishing.await.unwrap();
    let mut delivered = 0;
    for s in &mut subscriptions {
        let (mut got, mut gaps, mut missed) = (0, 0, 0);
        let mut next = 0;
        let mut hole = None;
        while let Ok(delivery) = s.try_recv() {
            match delivery {
                Delivery::Gap(gap) => {
                    gaps += 1;
                    let told = gap.missed_from(publisher.node_id()).expect("heard again");
                    missed += told;
                    assert!(hole.replace(told).is_none(), "two gaps");
                }
                message => {
                    let n = number(message).unwrap();
                    assert_eq!(n - next, hole.take().unwrap_or(0), "at {next}");
                    next = n + 1;
                    got += 1;
                }
            }
        }
        delivered += got;
        assert_eq!((got + missed, gaps), (n, 29));
    }
    assert_eq!(node.stats().delivered, delivered);
    assert_eq!(publisher.stats().published, n);
}

/// A switch that has returned holds for every publish; what is let go again comes once, in one order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_switch_holds_when_it_has_returned() {
    let bus = MemoryBus::new();
    let nodes = [
        Arc::new(bus.connect(options()).await.unwrap()),
        Arc::new(bus.connect(options()).await.unwrap()),
    ];
    let channels: Vec<_> = (0..32)
        .map(|n| Channel::new(format!("c{n}")).unwrap())
        .collect();
    let mut subscriptions = Vec::new();
    for node in &nodes {
        let request = Subscribe::to(channels.clone()).capacity(50_000_000);
        subscriptions.push(node.subscribe(request).await.unwrap());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut publishing = Vec::new();
    for of in 0..2_u64 {
        for (node_id, node) in nodes.iter().enumerate() {
            let (node, stop, channels) = (Arc::clone(node), Arc::clone(&stop), channels.clone());
            publishing.push(tokio::spawn(async move {
                let base = (of * 2 + node_id as u64) << 40;
                let mut n = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let channel = &channels[n as usize % channels.len()];
                    node.publish(channel, numbered(base + n)).await.unwrap();
                    n += 1;
                    if n.is_multiple_of(8) {
                        tokio::time::sleep(Duration::from_micros(20)).await;
                    }
                }
                n
            }));
        }
    }
    let (of, on) = (nodes[0].node_id(), bus.clone());
    let switching = tokio::task::spawn_blocking(move || {
        let bus = on;
        let still = || {
            let before = bus.published();
            let begin = std::time::Instant::now();
            while begin.elapsed() < Duration::from_micros(500) {
                assert_eq!(bus.published(), before);
            }
        };
        for _ in 0..300 {
            bus.freeze();
            still();
            bus.thaw();
            flows(&bus);
            assert_eq!(bus.overrun(of, 1_000_000), 1);
            flows(&bus);
            bus.relieve(of);
            flows(&bus);
            bus.delay(Duration::from_micros(1), Duration::from_micros(50));
            flows(&bus);
            bus.undelay();
        }
    });
    timeout(LONG * 3, switching).await.unwrap().unwrap();
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    for publishing in publishing {
        total += timeout(LONG, publishing).await.unwrap().unwrap();
    }
    let mut seen = Vec::new();
    for subscription in &mut subscriptions {
        let mut by_channel = std::collections::HashMap::<_, Vec<u64>>::new();
        let mut last = [None::<u64>; 4];
        let mut count = 0;
        while let Ok(delivery) = subscription.try_recv() {
            let Delivery::Message(message) = &delivery else {
                panic!("a gap");
            };
            let channel = message.channel().clone();
            let n = number(delivery).unwrap();
            let (who, k) = ((n >> 40) as usize, n & ((1 << 40) - 1));
            assert_eq!(k, last[who].map_or(0, |last| last + 1), "O3");
            last[who] = Some(k);
            by_channel.entry(channel).or_default().push(n);
            count += 1;
        }
        assert_eq!(count, total);
        seen.push(by_channel);
    }
    assert!(seen[0] == seen[1], "O4");
    println!("{total} messages");
}

/// When a stop or a cut has returned, nothing is published on the connections that it broke.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_published_on_what_was_broken() {
    let bus = MemoryBus::new();
    let node = Arc::new(bus.connect(options()).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let mut publishing = Vec::new();
    for n in 0..4 {
        let (node, stop) = (Arc::clone(&node), Arc::clone(&stop));
        publishing.push(tokio::spawn(async move {
            let channels: Vec<_> = (0..32)
                .map(|c| Channel::new(format!("c{n}-{c}")).unwrap())
                .collect();
            let mut sent = 0_u64;
            for channel in channels.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                sent += u64::from(node.publish(channel, numbered(0)).await.is_ok());
                tokio::task::yield_now().await;
            }
            sent
        }));
    }
    let on = bus.clone();
    let of = node.node_id();
    let breaking = tokio::task::spawn_blocking(move || {
        let bus = on;
        for round in 0..200 {
            flows(&bus);
            if round % 2 == 0 {
                bus.stop();
            } else {
                bus.refuse(of);
            }
            let before = bus.published();
            let begin = std::time::Instant::now();
            while begin.elapsed() < Duration::from_micros(300) {
                assert_eq!(bus.published(), before);
            }
            bus.start();
            bus.admit(of);
        }
    });
    timeout(LONG * 6, breaking).await.unwrap().unwrap();
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for publishing in publishing {
        sent += publishing.await.unwrap();
    }
    assert_eq!(node.stats().published, sent);
}
