//! [`Subscribe`], what a subscriber asks for, and [`Subscription`], what it gets.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use futures_core::Stream;

use crate::error::SubscribeError;
use crate::message::Delivery;
use crate::name::Channel;
use crate::queue::{QueueReader, TryRecvError};

/// What to subscribe to, and how.
///
/// ```
/// use backplane_core::{Channel, Subscribe};
///
/// let request = Subscribe::to([Channel::new("news")?, Channel::new("sport")?])
///     .without_own()
///     .capacity(100);
/// # Ok::<(), backplane_core::InvalidName>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    channels: Vec<Channel>,
    without_own: bool,
    deferred: bool,
    capacity: Option<usize>,
    max_bytes: Option<usize>,
}

impl Subscribe {
    /// Subscribes to these channels; none is allowed too, more can follow through
    /// [`Subscription::handle`].
    #[must_use]
    pub fn to(channels: impl IntoIterator<Item = Channel>) -> Self {
        Self {
            channels: channels.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Leaves out what this node itself publishes (rule D1). Default: own messages are delivered too.
    #[must_use]
    pub const fn without_own(mut self) -> Self {
        self.without_own = true;
        self
    }

    /// During an outage, accepts the subscription and lets it take effect with the reconnection
    /// (rule S8). Default: it fails with `Unavailable` (rule R3).
    #[must_use]
    pub const fn deferred(mut self) -> Self {
        self.deferred = true;
        self
    }

    /// How many messages the subscription's queue holds. At least 1. Default: what
    /// [`NodeOptions::queue_capacity`](crate::NodeOptions::queue_capacity) says.
    #[must_use]
    pub const fn capacity(mut self, messages: usize) -> Self {
        self.capacity = Some(messages);
        self
    }

    /// How many bytes of payload the subscription's queue holds; a single message may have more. Default: what
    /// [`NodeOptions::queue_bytes`](crate::NodeOptions::queue_bytes) says.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// The channels asked for.
    #[must_use]
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// Whether the node's own messages are left out.
    #[must_use]
    pub const fn is_without_own(&self) -> bool {
        self.without_own
    }

    /// Whether an outage defers it.
    #[must_use]
    pub const fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// The capacity asked for.
    #[must_use]
    pub const fn queue_capacity(&self) -> Option<usize> {
        self.capacity
    }

    /// The bound in bytes asked for.
    #[must_use]
    pub const fn queue_bytes(&self) -> Option<usize> {
        self.max_bytes
    }
}

/// An ordered stream of deliveries for one or more channels.
///
/// It outlives outages (rule L9): while the node is away nothing arrives, then one gap
/// stands before the first message after each outage (rule L5). It ends only when its node is closed.
/// Dropping it unsubscribes at once (rule S2).
///
/// A reader that falls behind delays nobody: what does not fit into its queue is counted into
/// a gap (rules B1 to B3).
pub struct Subscription {
    queue: QueueReader,
    control: Arc<dyn SubscriptionControl>,
}

impl Subscription {
    /// Puts a subscription together, for a backend that implements [`Backplane`](crate::Backplane) itself.
    #[must_use]
    pub fn new(queue: QueueReader, control: Arc<dyn SubscriptionControl>) -> Self {
        Self { queue, control }
    }

    /// The next delivery; `None` when the node was closed and everything received before was read.
    ///
    /// # Cancel safety
    /// Cancel safe: a delivery is taken only when it is returned.
    pub async fn recv(&mut self) -> Option<Delivery> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Waits until there is a delivery, appends up to `limit` of those that are there to `buffer`, and says how many.
    /// 0 only when the node was closed and everything received before was read, or when `limit` is 0.
    ///
    /// Much cheaper for each delivery than [`recv`](Self::recv) when they come in bursts.
    ///
    /// # Cancel safety
    /// Cancel safe: deliveries are taken only when it returns.
    pub async fn recv_many(&mut self, buffer: &mut Vec<Delivery>, limit: usize) -> usize {
        poll_fn(|cx| self.poll_recv_many(cx, buffer, limit)).await
    }

    /// The same, for use in a `poll` function.
    pub fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<Delivery>,
        limit: usize,
    ) -> Poll<usize> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let taken = self.queue.poll_recv_many(cx, buffer, limit);
        if taken.is_ready() {
            coop.made_progress();
        }
        taken
    }

    /// The next delivery if there is one already.
    ///
    /// # Errors
    /// [`TryRecvError`] says whether one can still come.
    pub fn try_recv(&mut self) -> Result<Delivery, TryRecvError> {
        self.queue.try_recv()
    }

    /// The next delivery, for use in a `poll` function.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let item = self.queue.poll_recv(cx);
        if item.is_ready() {
            coop.made_progress();
        }
        item
    }

    /// A handle that adds and removes channels, also while the subscription is being read (rule S6).
    #[must_use]
    pub fn handle(&self) -> SubscriptionHandle {
        SubscriptionHandle {
            control: Arc::clone(&self.control),
        }
    }

    /// The channels it holds, in no particular order.
    #[must_use]
    pub fn channels(&self) -> Vec<Channel> {
        self.control.channels()
    }

    /// Whether some channel was accepted during an outage and is not in force yet (rule S8).
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        self.control.is_deferred()
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.poll_recv(cx)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("channels", &self.control.channels())
            .field("waiting", &self.queue.len())
            .finish()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.control.close();
    }
}

/// Adds channels to a [`Subscription`] and removes them, from any task. Does not keep it alive.
#[derive(Clone)]
pub struct SubscriptionHandle {
    control: Arc<dyn SubscriptionControl>,
}

impl SubscriptionHandle {
    /// Adds channels. When it returns, messages published anywhere from then on arrive (rule S1).
    /// Channels that are held already stay as they are.
    ///
    /// # Errors
    /// `Unavailable` during an outage (rule R3), `Timeout` or `Refused` by the broker, `Closed` when the
    /// subscription or its node is gone. The channels that were held before stay (rule S7).
    ///
    /// # Cancel safety
    /// Dropping the future leaves none of the new channels behind.
    pub async fn subscribe(
        &self,
        channels: impl IntoIterator<Item = Channel> + Send,
    ) -> Result<(), SubscribeError> {
        let channels = channels.into_iter().collect();
        self.control.subscribe(channels, false).await.map(drop)
    }

    /// Like [`subscribe`](Self::subscribe), but during an outage the channels are accepted and take effect
    /// with the reconnection (rule S8). Says which of the two happened. A channel that the broker refuses then
    /// stays deferred.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe), without `Unavailable`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves none of the new channels behind.
    pub async fn subscribe_deferred(
        &self,
        channels: impl IntoIterator<Item = Channel> + Send,
    ) -> Result<Subscribed, SubscribeError> {
        let channels = channels.into_iter().collect();
        self.control.subscribe(channels, true).await
    }

    /// Removes channels. When it returns, nothing more of them is delivered, not even what was received
    /// already (rule S2); an outage does not bring them back (rule R4). The broker is told in the
    /// background.
    pub fn unsubscribe(&self, channels: impl IntoIterator<Item = Channel>) {
        let channels: Vec<_> = channels.into_iter().collect();
        self.control.unsubscribe(&channels);
    }

    /// The channels that the subscription holds, in no particular order.
    #[must_use]
    pub fn channels(&self) -> Vec<Channel> {
        self.control.channels()
    }
}

impl fmt::Debug for SubscriptionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionHandle")
            .field("channels", &self.control.channels())
            .finish()
    }
}

/// Whether an accepted subscription is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Subscribed {
    /// It is: messages published from now on arrive.
    InForce,
    /// Not yet: it takes effect when the node is attached again.
    Deferred,
}

/// What a [`Subscription`] and its handles ask of their backend; only a backend that implements
/// [`Backplane`](crate::Backplane) itself deals with it.
#[async_trait]
pub trait SubscriptionControl: Send + Sync + 'static {
    /// Adds channels; see [`SubscriptionHandle::subscribe`] and
    /// [`subscribe_deferred`](SubscriptionHandle::subscribe_deferred) for the contract.
    async fn subscribe(
        &self,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError>;

    /// Removes channels at once; see [`SubscriptionHandle::unsubscribe`].
    fn unsubscribe(&self, channels: &[Channel]);

    /// The channels held.
    fn channels(&self) -> Vec<Channel>;

    /// Whether some channel is accepted and not in force yet.
    fn is_deferred(&self) -> bool;

    /// The subscription was dropped.
    fn close(&self);
}
