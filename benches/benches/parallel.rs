//! Publishers on threads of their own, in one process: what a message costs each of them, alone and beside another one.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use std::time::Duration;

use backplane_benches::contender::{BROADCAST, MEMORY};
use backplane_benches::measure::parallel::{Line, Sharing, at_once};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const PUBLISHERS: [usize; 2] = [1, 2];

fn parallel(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime can be made");
    let mut group = c.benchmark_group("parallel publishers");
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(2));
    for publishers in PUBLISHERS {
        bench(&mut group, BROADCAST, Line::broadcast(publishers));
        for (what, sharing) in [
            ("a node each", Sharing::Bus),
            ("one node", Sharing::Node),
            ("one channel", Sharing::Channel),
        ] {
            let lines = runtime.block_on(Line::ours(publishers, sharing));
            let lines = lines.expect("the bus runs");
            bench(&mut group, &format!("{MEMORY}, {what}"), lines);
        }
    }
    group.finish();
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut lines: Vec<Line>) {
    group.bench_function(BenchmarkId::new(name, lines.len()), |b| {
        b.iter_custom(|count| at_once(&mut lines, count).expect("nothing is lost"));
    });
}

criterion_group!(benches, parallel);
criterion_main!(benches);
