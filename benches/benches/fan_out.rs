//! One message to many parked subscriptions of a node.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use std::time::Duration;

use backplane_benches::contender::{REDIS, redis_node};
use backplane_benches::measure::fanout::{Audience, Reading};
use backplane_benches::server::OwnServer;
use backplane_core::driver::Driver;
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use tokio::runtime::Runtime;

const SUBSCRIBERS: [usize; 3] = [1, 100, 10_000];

fn fan_out(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be made");
    let server = runtime
        .block_on(OwnServer::start())
        .expect("redis-server is on PATH");
    let mut group = c.benchmark_group("fan-out");
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(2));
    for size in SUBSCRIBERS {
        group.throughput(Throughput::Elements(size as u64));
        let _guard = runtime.enter();
        let bare = Audience::bare(size, Reading::Single);
        bench(&mut group, &runtime, "bare loop", size, &bare);
        drop(bare);

        let memory = runtime.block_on(Audience::ours(size, Reading::Single));
        let memory = memory.expect("the bus runs");
        bench(&mut group, &runtime, "backplane memory", size, &memory);
        drop(memory);

        let node = runtime.block_on(redis_node(&server.url()));
        let node = node.expect("the server runs");
        let redis = runtime.block_on(Audience::of(node, REDIS, size, Reading::Single));
        let redis = redis.expect("the server runs");
        bench(&mut group, &runtime, REDIS, size, &redis);
    }
    group.finish();
}

fn bench<D: Driver>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    name: &str,
    size: usize,
    audience: &Audience<D>,
) {
    let payload = Bytes::from_static(&[b'.'; 128]);
    group.bench_function(BenchmarkId::new(name, size), |b| {
        b.iter_custom(|count| {
            let elapsed = runtime.block_on(audience.publishes(&payload, count));
            elapsed.expect("nothing is lost")
        });
    });
}

criterion_group!(benches, fan_out);
criterion_main!(benches);
