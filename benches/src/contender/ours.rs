//! Two nodes of this project, on any driver: [`Ours`].

use std::sync::Arc;

use backplane_core::driver::Driver;
use backplane_core::{
    Backplane, Channel, Delivery, Node, NodeOptions, Prefix, Subscribe, Subscription,
};
use backplane_memory::{MemoryBus, MemoryDriver};
use backplane_redis::{RedisBuilder, RedisDriver};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Contender, PublishMany, Publisher};
use crate::arrivals::Arrivals;
use crate::error::Result;

/// The name of either backend in errors.
pub const BACKPLANE: &str = "backplane";
/// The name of the Redis backend in reports.
pub const REDIS: &str = "backplane redis";
/// The name of the memory backend in reports.
pub const MEMORY: &str = "backplane memory";

/// How many deliveries the reader takes at once, at most.
const READ_AT_ONCE: usize = 1024;

/// What the subscription's queue holds: more than is ever under way, so that a gap is an error.
const CAPACITY: usize = 1 << 20;
const CAPACITY_BYTES: usize = 1 << 30;

/// Two nodes: one publishes, and a task reads a subscription of the other.
#[derive(Debug)]
pub struct Ours<D: Driver> {
    name: &'static str,
    arrivals: Arc<Arrivals>,
    channel: Channel,
    publisher: Node<D>,
    _subscriber: Node<D>,
    _reader: JoinSet<()>,
}

impl Ours<RedisDriver> {
    /// Two nodes on the server of this URL.
    ///
    /// # Errors
    /// Whatever connecting and subscribing can fail with.
    pub async fn on_redis(url: &str) -> Result<Self> {
        let (alice, bob) = (redis_node(url).await?, redis_node(url).await?);
        Self::between(REDIS, alice, bob).await
    }
}

impl Ours<MemoryDriver> {
    /// Two nodes on one bus.
    ///
    /// # Errors
    /// Whatever connecting and subscribing can fail with.
    pub async fn in_memory() -> Result<Self> {
        let bus = MemoryBus::new();
        let alice = bus.connect(node_options()?).await?;
        let bob = bus.connect(node_options()?).await?;
        Self::between(MEMORY, alice, bob).await
    }
}

impl<D: Driver> Ours<D> {
    async fn between(name: &'static str, alice: Node<D>, bob: Node<D>) -> Result<Self> {
        let arrivals = Arc::new(Arrivals::new(name));
        let channel = Channel::new("news")?;
        let request = Subscribe::to([channel.clone()])
            .capacity(CAPACITY)
            .max_bytes(CAPACITY_BYTES);
        let subscription = bob.subscribe(request).await?;
        let mut reader = JoinSet::new();
        reader.spawn(read(subscription, Arc::clone(&arrivals)));
        Ok(Self {
            name,
            arrivals,
            channel,
            publisher: alice,
            _subscriber: bob,
            _reader: reader,
        })
    }
}

impl<D: Driver> Contender for Ours<D> {
    type Publisher = backplane_core::Publisher<D>;

    fn name(&self) -> &'static str {
        self.name
    }

    fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }

    fn publisher(&self) -> Self::Publisher {
        self.publisher.publisher(self.channel.clone())
    }
}

impl<D: Driver> Publisher for backplane_core::Publisher<D> {
    async fn publish(&mut self, payload: Bytes) -> Result<()> {
        Ok(Self::publish(self, payload).await?)
    }
}

impl<D: Driver> PublishMany for backplane_core::Publisher<D> {
    async fn publish_many(&mut self, payloads: Vec<Bytes>) -> Result<()> {
        Ok(Self::publish_many(self, payloads).await?)
    }
}

/// A node on the server of this URL, with the options of every bench.
///
/// # Errors
/// Whatever connecting can fail with.
pub async fn redis_node(url: &str) -> Result<Node<RedisDriver>> {
    let builder = RedisBuilder::new(url).node_options(node_options()?);
    Ok(builder.connect().await?)
}

/// The defaults, but for a subscribe of a hundred thousand channels, which may take its time.
///
/// # Errors
/// None: the prefix is valid.
pub fn node_options() -> Result<NodeOptions> {
    let patience = std::time::Duration::from_secs(60);
    Ok(NodeOptions::new(Prefix::new("bench")?).subscribe_timeout(patience))
}

async fn read(mut subscription: Subscription, arrivals: Arc<Arrivals>) {
    let mut buffer = Vec::with_capacity(READ_AT_ONCE);
    while subscription.recv_many(&mut buffer, READ_AT_ONCE).await > 0 {
        let (mut messages, is_timing) = (0, arrivals.is_timing());
        for delivery in buffer.drain(..) {
            match delivery {
                Delivery::Message(message) if is_timing => arrivals.take(message.payload()),
                Delivery::Message(_) => messages += 1,
                Delivery::Gap(gap) => arrivals.fail(format!("a gap: {gap}")),
            }
        }
        arrivals.add(messages);
    }
    arrivals.fail("the subscription ended");
}
