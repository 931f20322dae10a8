//! The in-memory backend: one publish, and one message from node to node.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use std::hint::black_box;

use backplane_core::{Backplane, Channel, Delivery, NodeOptions, Prefix, Subscribe};
use backplane_memory::MemoryBus;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

fn memory(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be made");
    let channel = Channel::new("news").expect("the name is valid");
    let payload = Bytes::from_static(&[7; 128]);
    let mut group = c.benchmark_group("memory");
    group.throughput(Throughput::Elements(1));

    let options = || NodeOptions::new(Prefix::unprefixed());
    let connect = |bus: &MemoryBus| {
        runtime
            .block_on(bus.connect(options()))
            .expect("the bus runs")
    };
    let bus = MemoryBus::new();
    let (alice, bob) = (connect(&bus), connect(&bus));
    group.bench_function("publish, nobody subscribed", |b| {
        b.to_async(&runtime)
            .iter(|| alice.publish(&channel, black_box(payload.clone())));
    });
    let request = Subscribe::to([channel.clone()]);
    let mut subscription = runtime
        .block_on(bob.subscribe(request))
        .expect("the bus runs");
    group.bench_function("publish and receive, node to node", |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let begin = std::time::Instant::now();
                for _ in 0..rounds {
                    alice
                        .publish(&channel, payload.clone())
                        .await
                        .expect("the bus runs");
                    let delivery = subscription.recv().await;
                    assert!(matches!(delivery, Some(Delivery::Message(_))));
                }
                begin.elapsed()
            })
        });
    });
    group.finish();
}

criterion_group!(benches, memory);
criterion_main!(benches);
