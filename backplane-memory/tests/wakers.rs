//! Whoever is woken may do anything, ask the bus too: no lock of it is held then.
#![allow(clippy::unwrap_used)] // clippy knows tests only by their attribute

use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use backplane_core::{
    Backplane, Channel, Node, NodeId, NodeOptions, Prefix, Subscribe, Subscription,
};
use backplane_memory::{MemoryBus, MemoryDriver};
use bytes::Bytes;
use tokio::runtime::{Builder, Handle};

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the bus what it has published and how many connections it has, when it is woken, and tells.
struct Asks(MemoryBus, SyncSender<usize>);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        // Both locks of the bus, and all of its parts.
        let _ = self.0.published();
        // The first answer is enough.
        let _ = self.1.try_send(self.0.connections());
    }
}

struct Scene {
    bus: MemoryBus,
    node: Node<MemoryDriver>,
    channel: Channel,
    _subscription: Subscription,
    told: Receiver<usize>,
}

impl Scene {
    /// A subscription that is waited for by somebody who asks.
    async fn new() -> Self {
        let bus = MemoryBus::new();
        let options = NodeOptions::new(Prefix::new("t").unwrap());
        let node = bus.connect(options).await.unwrap();
        let channel = Channel::new("c").unwrap();
        let request = Subscribe::to([channel.clone()]);
        let mut subscription = node.subscribe(request).await.unwrap();
        let (tell, told) = mpsc::sync_channel(1);
        let waker = Waker::from(Arc::new(Asks(bus.clone(), tell)));
        let polled = subscription.poll_recv(&mut Context::from_waker(&waker));
        assert!(matches!(polled, Poll::Pending));
        Self {
            bus,
            node,
            channel,
            _subscription: subscription,
            told,
        }
    }

    async fn publish(&self) {
        let payload = Bytes::from_static(b"x");
        self.node.publish(&self.channel, payload).await.unwrap();
    }
}

/// Somebody who is woken by this gets an answer of the bus. What hangs if not is left behind.
fn asks_during(act: impl FnOnce(&Scene) + Send + 'static) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut scene = runtime.block_on(Scene::new());
    let told = mem::replace(&mut scene.told, mpsc::sync_channel(0).1);
    let handle = runtime.handle().clone();
    thread::spawn(move || {
        let _inside = handle.enter();
        act(&scene);
    });
    let answer = told.recv_timeout(PATIENCE);
    runtime.shutdown_background();
    assert_eq!(answer, Ok(1));
}

fn wait_for(publish: impl Future<Output = ()>) {
    Handle::current().block_on(publish);
}

#[test]
fn who_is_woken_by_a_publish_may_ask_the_bus() {
    asks_during(|scene| wait_for(scene.publish()));
}

#[test]
fn who_is_woken_by_a_publish_on_a_slow_bus_may_ask_it() {
    asks_during(|scene| {
        let least = Duration::from_millis(1);
        scene.bus.delay(least, 2 * least);
        wait_for(scene.publish());
    });
}

#[test]
fn who_is_woken_by_a_publish_while_another_node_takes_nothing_may_ask_the_bus() {
    asks_during(|scene| {
        scene.bus.overrun(NodeId::random(), 1);
        wait_for(scene.publish());
    });
}

#[test]
fn who_is_woken_by_a_thaw_may_ask_the_bus() {
    asks_during(|scene| {
        scene.bus.freeze();
        let mut publish = pin!(scene.publish());
        let mut context = Context::from_waker(Waker::noop());
        let polled = publish.as_mut().poll(&mut context);
        assert!(polled.is_pending(), "the bus holds it");
        scene.bus.thaw();
    });
}

#[test]
fn who_is_woken_by_what_waited_for_its_node_may_ask_the_bus() {
    asks_during(|scene| {
        let node = scene.node.node_id();
        scene.bus.overrun(node, 10);
        wait_for(scene.publish());
        scene.bus.relieve(node);
    });
}

#[test]
fn who_is_woken_by_foreign_bytes_may_ask_the_bus() {
    asks_during(|scene| {
        // A frame of one message: magic, version, publisher, flags, number, length, payload.
        let frame = b"\xc1\x42\x01publishr\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01x";
        let bytes = Bytes::from_static(frame);
        let prefix = scene.node.prefix();
        scene.bus.inject(prefix, &scene.channel, &bytes);
    });
}

#[tokio::test]
async fn debug_of_a_bus_does_not_show_what_waits_in_queues() {
    let scene = Scene::new().await;
    let before = format!("{:?}", scene.bus).len();
    for _ in 0..500 {
        scene.publish().await;
    }
    // Numbers have more digits by now.
    let after = format!("{:?}", scene.bus).len();
    assert!(after < before + 500, "{before}, then {after} bytes");
}
