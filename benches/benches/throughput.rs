//! Messages a second, by size of the message and number of awaiting publishers.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use std::time::Duration;

use backplane_benches::contender::{Contender, Form, Ours, Raw};
use backplane_benches::measure::throughput::messages;
use backplane_benches::server::OwnServer;
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use tokio::runtime::Runtime;

const SIZES: [(&str, usize); 4] = [
    ("16 B", 16),
    ("128 B", 128),
    ("4 KiB", 4 << 10),
    ("64 KiB", 64 << 10),
];
const PUBLISHERS: [usize; 3] = [1, 64, 1024];

fn throughput(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be made");
    let server = runtime
        .block_on(OwnServer::start())
        .expect("redis-server is on PATH");
    let url = server.url();
    let raw = runtime.block_on(Raw::open(&url, Form::Closure));
    let raw = raw.expect("the server runs");
    let redis = runtime.block_on(Ours::on_redis(&url));
    let redis = redis.expect("the server runs");
    let memory = runtime.block_on(Ours::in_memory()).expect("the bus runs");
    for (name, size) in SIZES {
        let payload = Bytes::from(vec![b'.'; size]);
        let mut group = c.benchmark_group(format!("throughput, {name}"));
        group.sample_size(10);
        group.warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_secs(1));
        group.throughput(Throughput::ElementsAndBytes {
            elements: 1,
            bytes: size as u64,
        });
        for publishers in PUBLISHERS {
            bench(&mut group, &runtime, &memory, publishers, &payload);
            bench(&mut group, &runtime, &raw, publishers, &payload);
            bench(&mut group, &runtime, &redis, publishers, &payload);
        }
        group.finish();
    }
}

fn bench<C: Contender>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    contender: &C,
    publishers: usize,
    payload: &Bytes,
) {
    group.bench_function(BenchmarkId::new(contender.name(), publishers), |b| {
        b.iter_custom(|count| {
            // Every publisher has the same share, so a few more may be published than asked for.
            let each = count.div_ceil(publishers as u64);
            let flow = runtime.block_on(messages(contender, publishers, payload, each));
            let flow = flow.expect("nothing is lost");
            flow.elapsed.mul_f64(count as f64 / flow.delivered as f64)
        });
    });
}

criterion_group!(benches, throughput);
criterion_main!(benches);
