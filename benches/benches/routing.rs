//! Finding the subscription of a channel among very many others.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use std::time::Duration;

use backplane_benches::contender::{MEMORY, REDIS, node_options, redis_node};
use backplane_benches::measure::churn::names;
use backplane_benches::measure::routing::routed;
use backplane_benches::server::OwnServer;
use backplane_core::{Backplane, Subscribe};
use backplane_memory::MemoryBus;
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
    for size in CHANNELS {
        let names = names(size).expect("the names are valid");
        for (name, node) in nodes {
            let request = Subscribe::to(names.iter().cloned());
            let subscription = runtime.block_on(node.subscribe(request));
            let mut subscription = subscription.expect("the backend runs");
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_custom(|count| {
                    let routed = routed(node, &mut subscription, &names, count);
                    runtime.block_on(routed).expect("nothing is lost")
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, routing);
criterion_main!(benches);
