//! Which code runs under the locks of a bus.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use backplane_core::{Backplane, Channel, NodeOptions, Prefix, Subscribe};
use backplane_memory::MemoryBus;
use bytes::Bytes;

struct Asks(MemoryBus, mpsc::SyncSender<usize>);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        let _ = self.1.try_send(self.0.connections());
    }
}

fn woken(before: impl FnOnce(&MemoryBus), after: impl FnOnce(&MemoryBus) + Send + 'static) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let bus = MemoryBus::new();
    let options = NodeOptions::new(Prefix::new("t").unwrap());
    let node = runtime.block_on(bus.connect(options)).unwrap();
    let c = Channel::new("c").unwrap();
    let mut subscription = runtime
        .block_on(node.subscribe(Subscribe::to([c.clone()])))
        .unwrap();
    let (told, hears) = mpsc::sync_channel(1);
    let waker = Waker::from(Arc::new(Asks(bus.clone(), told)));
    let polled = subscription.poll_recv(&mut Context::from_waker(&waker));
    assert!(matches!(polled, Poll::Pending));
    before(&bus);
    runtime.spawn(async move { node.publish(&c, Bytes::from_static(b"x")).await });
    let of = bus.clone();
    std::thread::spawn(move || after(&of));
    let answer = hears.recv_timeout(Duration::from_secs(3));
    runtime.shutdown_background();
    std::mem::forget(subscription);
    answer.is_ok()
}

#[test]
fn a_waker_may_ask_the_bus() {
    assert!(woken(|_| {}, |_| {}), "at once");
}

#[test]
fn a_waker_may_ask_a_slow_bus() {
    assert!(woken(
        |bus| bus.delay(Duration::from_millis(1), Duration::from_millis(2)),
        |_| {}
    ));
}

#[test]
fn a_waker_may_ask_a_bus_that_thaws() {
    assert!(woken(MemoryBus::freeze, |bus| {
        std::thread::sleep(Duration::from_millis(300));
        bus.thaw();
    }));
}

#[test]
fn debug_of_a_bus_stays_short() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bus = MemoryBus::new();
        let node = bus
            .connect(NodeOptions::new(Prefix::new("t").unwrap()))
            .await
            .unwrap();
        let c = Channel::new("c").unwrap();
        let _subscription = node.subscribe(Subscribe::to([c.clone()])).await.unwrap();
        for _ in 0..500 {
            node.publish(&c, Bytes::from_static(b"x")).await.unwrap();
        }
        let text = format!("{bus:?}");
        assert!(text.len() < 20_000, "{} bytes", text.len());
    });
}
