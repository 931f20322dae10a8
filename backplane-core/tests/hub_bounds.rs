//! What a node does for others is bounded, whatever they ask for.

mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use backplane_core::hub::{Hub, Payload, RequestError, Service};
use backplane_core::{
    Backplane, BoxError, Capabilities, Channel, ConnectionState, Events, HealthError, Node, NodeId,
    Prefix, PublishError, PublishManyError, StateWatch, Stats, Subscribe, SubscribeError,
    Subscription,
};
use backplane_memory::MemoryDriver;
use bytes::Bytes;
use cluster::{BOTH, Cluster, options, until};
use futures_util::poll;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// A node whose publishes to other nodes hang while they are held.
#[derive(Debug)]
struct Held {
    node: Node<MemoryDriver>,
    held: AtomicBool,
    released: Notify,
}

#[async_trait]
impl Backplane for Held {
    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<(), PublishError> {
        let released = self.released.notified();
        if self.held.load(Ordering::Relaxed) && channel.as_str().contains(":node:") {
            released.await;
        }
        self.node.publish(channel, payload).await
    }

    async fn publish_many(
        &self,
        channel: &Channel,
        payloads: Vec<Bytes>,
    ) -> Result<(), PublishManyError> {
        self.node.publish_many(channel, payloads).await
    }

    async fn subscribe(&self, request: Subscribe) -> Result<Subscription, SubscribeError> {
        self.node.subscribe(request).await
    }

    async fn health(&self) -> Result<(), HealthError> {
        self.node.health().await
    }

    async fn close(&self) {
        self.node.close().await;
    }

    fn node_id(&self) -> NodeId {
        self.node.node_id()
    }

    fn prefix(&self) -> &Prefix {
        self.node.prefix()
    }

    fn capabilities(&self) -> Capabilities {
        self.node.capabilities()
    }

    fn state(&self) -> ConnectionState {
        self.node.state()
    }

    fn watch(&self) -> StateWatch {
        self.node.watch()
    }

    fn events(&self) -> Events {
        self.node.events()
    }

    fn stats(&self) -> Stats {
        self.node.stats()
    }
}

/// Never answers.
struct Mute;

#[async_trait]
impl Service for Mute {
    async fn call(&self, _: NodeId, _: Payload) -> Result<Payload, BoxError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_that_do_not_get_out_do_not_pile_up() {
    const ASKED: usize = 10_000;
    const SERVED: usize = 4096;
    const ASIDES: usize = 1024;
    let cluster = Cluster::of(1, BOTH[0]).await;
    let held = Arc::new(Held {
        node: cluster.bus.connect(options()).await.unwrap(),
        held: AtomicBool::new(false),
        released: Notify::new(),
    });
    let builder = Hub::builder(Arc::clone(&held) as Arc<dyn Backplane>).name("chat");
    let builder = builder.service(Arc::new(Mute)).receive_capacity(2 * ASKED);
    let busy = builder.build().await.unwrap();
    let hub = &cluster.hubs[0];
    until("they are sure of each other", || {
        let both = [hub.nodes(), busy.nodes()];
        both.iter()
            .all(|nodes| nodes.settled && nodes.ids.len() == 2)
    })
    .await;

    held.held.store(true, Ordering::Relaxed);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let ask = |_| Box::pin(hub.ask(held.node_id(), "anything"));
    let mut asked: Vec<_> = (0..ASKED).map(ask).collect();
    for ask in &mut asked {
        assert!(poll!(ask).is_pending());
    }
    until("all are refused that are not served", || {
        busy.stats().refused == (ASKED - SERVED) as u64
    })
    .await;
    let more = tasks() - before;
    assert!(more <= SERVED + ASIDES + 16, "{more} more tasks");
    assert!(more >= SERVED + ASIDES, "only {more}: nothing was held");

    held.held.store(false, Ordering::Relaxed);
    held.released.notify_waiters();
    until("the places are free again", || {
        tasks() <= before + SERVED + 16
    })
    .await;
    let again = hub.ask(held.node_id(), "anything").await;
    assert!(
        matches!(again, Err(RequestError::Failed { .. })),
        "{again:?}"
    );
}
