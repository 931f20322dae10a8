//! From publish to delivered, one message at a time, node to node.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use backplane_benches::contender::{Broadcast, Contender, Form, Ours, Raw};
use backplane_benches::measure::latency::round_trips;
use backplane_benches::server::OwnServer;
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

fn latency(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be made");
    let server = runtime
        .block_on(OwnServer::start())
        .expect("redis-server is on PATH");
    let url = server.url();
    let mut group = c.benchmark_group("latency");
    bench(
        &mut group,
        &runtime,
        &runtime.block_on(async { Broadcast::open() }),
    );
    bench(
        &mut group,
        &runtime,
        &runtime.block_on(Ours::in_memory()).expect("the bus runs"),
    );
    let raw = runtime.block_on(Raw::open(&url, Form::ClosureToTask));
    bench(&mut group, &runtime, &raw.expect("the server runs"));
    let redis = runtime.block_on(Ours::on_redis(&url));
    bench(&mut group, &runtime, &redis.expect("the server runs"));
    group.finish();
}

fn bench<C: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, contender: &C) {
    let payload = Bytes::from_static(&[b'.'; 128]);
    group.bench_function(BenchmarkId::from_parameter(contender.name()), |b| {
        b.iter_custom(|count| {
            let elapsed = runtime.block_on(round_trips(contender, &payload, count));
            elapsed.expect("nothing is lost")
        });
    });
}

criterion_group!(benches, latency);
criterion_main!(benches);
