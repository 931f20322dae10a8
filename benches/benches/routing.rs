//! Finding the subscription of a channel among very many others.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use std::time::{Duration, Instant};

use backplane_benches::contender::{MEMORY, REDIS, node_options, redis_node};
use backplane_benches::measure::churn::names;
use backplane_benches::server::OwnServer;
use backplane_core::{Backplane, Channel, Delivery, Subscribe, Subscription};
use backplane_memory::MemoryBus;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const CHANNELS: [usize; 3] = [1, 1000, 100_000];

fn routing(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be made");
    let server = runtime
        .block_on(OwnServer::start())
        .expect("redis-server is on PATH");
    let redis = runtime.block_on(redis_node(&server.url()));
    let redis = redis.expect("the server runs");
    let memory = runtime.block_on(async {
        let options = node_options().expect("the prefix is valid");
        MemoryBus::new().connect(options).await
    });
    let memory = memory.expect("the bus runs");
    let nodes: [(&str, &dyn Backplane); 2] = [(MEMORY, &memory), (REDIS, &redis)];
    let mut group = c.benchmark_group("routing");
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(2));
    // Each publish goes to another channel; with one channel in all, to the same.
    for size in CHANNELS {
        let names = names(size).expect("the names are valid");
        for (name, node) in nodes {
            let request = Subscribe::to(names.iter().cloned());
            let subscription = runtime.block_on(node.subscribe(request));
            let mut subscription = subscription.expect("the backend runs");
            let mut at = 0;
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_custom(|count| {
                    runtime.block_on(routed(node, &mut subscription, &names, &mut at, count))
                });
            });
        }
    }
    group.finish();
}

async fn routed(
    node: &dyn Backplane,
    subscription: &mut Subscription,
    names: &[Channel],
    at: &mut usize,
    count: u64,
) -> Duration {
    let payload = Bytes::from_static(&[b'.'; 128]);
    let begin = Instant::now();
    for _ in 0..count {
        // A step that has no factor in common with a power of ten visits all, and not in the order of the names.
        *at = (*at + 7919) % names.len();
        let published = node.publish(&names[*at], payload.clone()).await;
        published.expect("the backend runs");
        let delivery = subscription.recv().await;
        assert!(matches!(delivery, Some(Delivery::Message(_))));
    }
    begin.elapsed()
}

criterion_group!(benches, routing);
criterion_main!(benches);
