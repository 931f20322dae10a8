//! What stands on the wire: encoding, decoding, and taking the payloads out.
#![allow(missing_docs, clippy::expect_used)] // macros, and a bench that cannot go on

use std::hint::black_box;

use backplane_conformance::{EngineWire, Wire};
use backplane_core::NodeId;
use backplane_core::driver::Frame;
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Messages in a frame, and their length.
const SHAPES: [(usize, usize); 4] = [(1, 128), (32, 128), (512, 128), (1, 64 << 10)];

fn frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    for (count, len) in SHAPES {
        let bytes = written(count, len);
        let frame = Frame::decode(&bytes).expect("it is a frame");
        assert_eq!(frame.len(), count);
        assert_eq!(frame.encode(), bytes);
        let shape = format!("{count} x {len} B");
        group.throughput(Throughput::ElementsAndBytes {
            elements: count as u64,
            bytes: bytes.len() as u64,
        });
        group.bench_function(BenchmarkId::new("encode", &shape), |b| {
            b.iter(|| black_box(&frame).encode());
        });
        group.bench_function(BenchmarkId::new("decode", &shape), |b| {
            b.iter(|| Frame::decode(black_box(&bytes)));
        });
        group.bench_function(BenchmarkId::new("payloads", &shape), |b| {
            b.iter(|| black_box(&frame).payloads().map(|p| p.len()).sum::<usize>());
        });
    }
    group.finish();
}

/// A frame of so many messages: that of one, with the message repeated.
fn written(count: usize, len: usize) -> Bytes {
    let of = |payload: &[u8]| EngineWire::default().frame(NodeId::from_u64(7), 0, payload);
    let header = of(&[]).len() - 1;
    let one = of(&vec![b'.'; len]);
    let mut all = BytesMut::from(&one[..]);
    for _ in 1..count {
        all.extend_from_slice(&one[header..]);
    }
    all.freeze()
}

criterion_group!(benches, frame);
criterion_main!(benches);
