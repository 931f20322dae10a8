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
use tokio::runtime::Handle;

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the bus how many connections it has when it is woken, and tells.
struct Asks(MemoryBus, SyncSender<usize>);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
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

    /// Does this in a thread, which may hang, and waits until the one who is woken has got its answer.
    fn asks_during(mut self, act: impl FnOnce(&Self) + Send + 'static) {
        let told = mem::replace(&mut self.told, mpsc::sync_channel(0).1);
        let runtime = Handle::current();
        thread::spawn(move || {
            let _inside = runtime.enter();
            act(&self);
        });
        assert_eq!(told.recv_timeout(PATIENCE), Ok(1));
    }

    async fn publish(&self) {
        let payload = Bytes::from_static(b"x");
        self.node.publish(&self.channel, payload).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_woken_by_a_publish_may_ask_the_bus() {
    let scene = Scene::new().await;
    scene.asks_during(|scene| Handle::current().block_on(scene.publish()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_woken_by_a_publish_on_a_slow_bus_may_ask_it() {
    let scene = Scene::new().await;
    let least = Duration::from_millis(1);
    scene.bus.delay(least, 2 * least);
    scene.asks_during(|scene| Handle::current().block_on(scene.publish()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_woken_by_a_publish_while_another_node_takes_nothing_may_ask_the_bus() {
    let scene = Scene::new().await;
    scene.bus.overrun(NodeId::random(), 1);
    scene.asks_during(|scene| Handle::current().block_on(scene.publish()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_woken_by_a_thaw_may_ask_the_bus() {
    let scene = Scene::new().await;
    scene.bus.freeze();
    scene.asks_during(|scene| {
        let mut publish = pin!(scene.publish());
        let polled = publish
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "the bus holds it");
        scene.bus.thaw();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_woken_by_what_waited_for_its_node_may_ask_the_bus() {
    let scene = Scene::new().await;
    scene.bus.overrun(scene.node.node_id(), 10);
    scene.asks_during(|scene| {
        Handle::current().block_on(scene.publish());
        scene.bus.relieve(scene.node.node_id());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_woken_by_foreign_bytes_may_ask_the_bus() {
    let scene = Scene::new().await;
    scene.asks_during(|scene| {
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
