//! Subscribing to channels, and dropping the subscription.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use std::time::{Duration, Instant};

use backplane_benches::contender::{MEMORY, REDIS, node_options, redis_node};
use backplane_benches::measure::churn::names;
use backplane_benches::server::OwnServer;
use backplane_core::{Backplane, Subscribe};
use backplane_memory::MemoryBus;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const CHANNELS: [usize; 3] = [1, 100, 10_000];

fn churn(c: &mut Criterion) {
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
    let mut group = c.benchmark_group("churn");
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(2));
    for size in CHANNELS {
        let names = names(size).expect("the names are valid");
        group.throughput(Throughput::Elements(size as u64));
        for (name, node) in nodes {
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_custom(|count| {
                    let begin = Instant::now();
                    for _ in 0..count {
                        let request = Subscribe::to(names.iter().cloned());
                        let subscription = runtime.block_on(node.subscribe(request));
                        drop(subscription.expect("the backend runs"));
                    }
                    begin.elapsed()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, churn);
criterion_main!(benches);
