//! A node with something wrong on top: [`WrongNode`] around any node, and [`NodeTwist`], what is wrong.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use backplane_core::{
    Backplane, Capabilities, Channel, ConnectionState, Events, HealthError, NodeId, NodeOptions,
    Prefix, PublishError, PublishManyError, Pushed, StateWatch, Stats, Subscribe, SubscribeError,
    Subscription,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;

use super::pump::{self, Parts};

/// The node below a [`WrongNode`].
pub(super) type Inner = Arc<dyn Backplane>;

/// What is wrong with a node. Every method as it stands does the right thing.
#[async_trait]
pub(super) trait NodeTwist: Send + Sync + 'static {
    /// The node was made.
    fn made(&self, _node: &Inner) {}

    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        node.publish(channel, payload).await
    }

    /// Each by itself, so that whatever is wrong with a publish is wrong with each of them, and all started in a row.
    async fn publish_many(
        &self,
        node: &Inner,
        channel: &Channel,
        payloads: Vec<Bytes>,
    ) -> Result<(), PublishManyError> {
        let total = payloads.len();
        let publish = |(at, payload)| async move {
            let outcome = self.publish(node, channel, payload).await;
            outcome.err().map(|error| (at, error))
        };
        // When it is dropped, those at the end go first.
        let all: FuturesUnordered<_> = payloads.into_iter().enumerate().map(publish).collect();
        let mut failures: Vec<_> = all.filter_map(std::future::ready).collect().await;
        failures.sort_by_key(|(at, _)| *at);
        let named = |(at, error)| (at..at + 1, error);
        PublishManyError::of(total, failures.into_iter().map(named))
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        node.subscribe(request).await
    }

    /// What stands between a subscription and its reader. `None`: the reader has the node's own
    /// subscription.
    fn parts(&self, _node: &Inner, _tap: &Tap) -> Option<Parts> {
        None
    }

    fn node_id(&self, node: &Inner) -> NodeId {
        node.node_id()
    }

    fn prefix<'a>(&'a self, node: &'a Inner) -> &'a Prefix {
        node.prefix()
    }

    fn capabilities(&self, node: &Inner) -> Capabilities {
        node.capabilities()
    }

    fn state(&self, node: &Inner) -> ConnectionState {
        node.state()
    }

    fn watch(&self, node: &Inner) -> StateWatch {
        node.watch()
    }

    fn events(&self, node: &Inner) -> Events {
        node.events()
    }

    async fn health(&self, node: &Inner) -> Result<(), HealthError> {
        node.health().await
    }

    fn stats(&self, stats: Stats) -> Stats {
        stats
    }

    async fn close(&self, node: &Inner) {
        node.close().await;
    }

    fn debug(&self, node: &Inner, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(node, f)
    }
}

/// Nothing is wrong.
#[derive(Debug)]
pub(super) struct Straight;

impl NodeTwist for Straight {}

/// A node whose subscriptions have other parts.
pub(super) struct WithParts<F>(pub(super) F);

#[async_trait]
impl<F> NodeTwist for WithParts<F>
where
    F: Fn(&Tap) -> Parts + Send + Sync + 'static,
{
    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        Some((self.0)(tap))
    }
}

/// What the parts may want to know of their subscription.
#[derive(Clone, Debug)]
pub(super) struct Tap {
    /// What was asked for.
    pub(super) request: Subscribe,
    /// The capacity that was asked for, or that of the node.
    pub(super) capacity: usize,
    /// Likewise in bytes.
    pub(super) max_bytes: usize,
    /// The node's state.
    pub(super) watch: StateWatch,
}

/// A node with a [`NodeTwist`].
pub(super) struct WrongNode {
    inner: Inner,
    twist: Arc<dyn NodeTwist>,
    /// What was asked for.
    options: NodeOptions,
    moved: Arc<Moved>,
}

/// What happened in the queues behind the pumps, which the node below does not know.
#[derive(Debug, Default)]
pub(super) struct Moved {
    overflowed: AtomicU64,
    gaps: AtomicU64,
    pumped: Mutex<Vec<Weak<dyn Pumped>>>,
}

/// A subscription with a pump.
pub(super) trait Pumped: fmt::Debug + Send + Sync {
    /// Passes on what is there, as its task does sooner or later.
    fn settle(&self);
}

impl Moved {
    pub(super) fn add(&self, pushed: Pushed) {
        self.overflowed
            .fetch_add(pushed.overflowed, Ordering::Relaxed);
        self.gaps
            .fetch_add(u64::from(pushed.new_gap), Ordering::Relaxed);
    }

    pub(super) fn attach(&self, subscription: Weak<dyn Pumped>) {
        let mut pumped = lock(&self.pumped);
        pumped.retain(|other| other.strong_count() > 0);
        pumped.push(subscription);
    }

    /// A pump is a task, and may be late; the counters must not be ahead of it.
    fn settle(&self) {
        let pumped = lock(&self.pumped).clone();
        for subscription in pumped.iter().filter_map(Weak::upgrade) {
            subscription.settle();
        }
    }
}

impl WrongNode {
    /// A twist on a node that was asked for with these options.
    pub(super) fn new(inner: Inner, twist: Arc<dyn NodeTwist>, options: NodeOptions) -> Self {
        twist.made(&inner);
        Self {
            inner,
            twist,
            options,
            moved: Arc::default(),
        }
    }
}

#[async_trait]
impl Backplane for WrongNode {
    fn node_id(&self) -> NodeId {
        self.twist.node_id(&self.inner)
    }

    fn prefix(&self) -> &Prefix {
        self.twist.prefix(&self.inner)
    }

    fn capabilities(&self) -> Capabilities {
        self.twist.capabilities(&self.inner)
    }

    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<(), PublishError> {
        self.twist.publish(&self.inner, channel, payload).await
    }

    async fn publish_many(
        &self,
        channel: &Channel,
        payloads: Vec<Bytes>,
    ) -> Result<(), PublishManyError> {
        self.twist
            .publish_many(&self.inner, channel, payloads)
            .await
    }

    async fn subscribe(&self, request: Subscribe) -> Result<Subscription, SubscribeError> {
        let capacity = request
            .queue_capacity()
            .unwrap_or(self.options.queue_capacity);
        let tap = Tap {
            request: request.clone(),
            capacity,
            max_bytes: request.queue_bytes().unwrap_or(self.options.queue_bytes),
            watch: self.inner.watch(),
        };
        let Some(parts) = self.twist.parts(&self.inner, &tap) else {
            return self.twist.subscribe(&self.inner, request).await;
        };
        // The reader's own queue has the capacity; the one below must never be the one that overflows.
        let request = request
            .capacity(capacity.max(pump::BELOW))
            .max_bytes(usize::MAX);
        let below = self.twist.subscribe(&self.inner, request).await?;
        Ok(pump::attach(below, parts, &tap, Arc::clone(&self.moved)))
    }

    fn state(&self) -> ConnectionState {
        self.twist.state(&self.inner)
    }

    fn watch(&self) -> StateWatch {
        self.twist.watch(&self.inner)
    }

    fn events(&self) -> Events {
        self.twist.events(&self.inner)
    }

    async fn health(&self) -> Result<(), HealthError> {
        self.twist.health(&self.inner).await
    }

    fn stats(&self) -> Stats {
        let mut stats = self.inner.stats();
        self.moved.settle();
        let overflowed = self.moved.overflowed.load(Ordering::Relaxed);
        stats.delivered = stats.delivered.saturating_sub(overflowed);
        stats.overflowed += overflowed;
        stats.gaps += self.moved.gaps.load(Ordering::Relaxed);
        self.twist.stats(stats)
    }

    async fn close(&self) {
        self.twist.close(&self.inner).await;
    }
}

impl fmt::Debug for WrongNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.twist.debug(&self.inner, f)
    }
}

/// Tasks of a twist; they end with it.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.0).spawn(task);
    }
}

/// Locks; what a panic has left behind is good enough for a mutant.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a request asks for, to ask for something else.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) channels: Vec<Channel>,
    pub(super) without_own: bool,
    pub(super) deferred: bool,
    pub(super) capacity: Option<usize>,
    pub(super) max_bytes: Option<usize>,
}

impl Wish {
    pub(super) fn of(request: &Subscribe) -> Self {
        Self {
            channels: request.channels().to_vec(),
            without_own: request.is_without_own(),
            deferred: request.is_deferred(),
            capacity: request.queue_capacity(),
            max_bytes: request.queue_bytes(),
        }
    }

    pub(super) fn request(self) -> Subscribe {
        let mut request = Subscribe::to(self.channels);
        if self.without_own {
            request = request.without_own();
        }
        if self.deferred {
            request = request.deferred();
        }
        if let Some(capacity) = self.capacity {
            request = request.capacity(capacity);
        }
        match self.max_bytes {
            Some(bytes) => request.max_bytes(bytes),
            None => request,
        }
    }
}

/// The same request for other channels.
pub(super) fn with_channels(
    request: &Subscribe,
    channels: impl IntoIterator<Item = Channel>,
) -> Subscribe {
    let wish = Wish {
        channels: channels.into_iter().collect(),
        ..Wish::of(request)
    };
    wish.request()
}
