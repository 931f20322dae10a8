//! The trait that framework authors hold: [`Backplane`].

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::capability::Capabilities;
use crate::error::{HealthError, PublishError, SubscribeError};
use crate::name::{Channel, NodeId, Prefix};
use crate::publish_many::PublishManyError;
use crate::state::{ConnectionState, Events, StateWatch};
use crate::stats::Stats;
use crate::subscription::{Subscribe, Subscription};

/// One node of a backplane: whatever it publishes reaches the subscriptions of every node of its prefix.
///
/// Object safe: hold it as `Arc<dyn Backplane>`. Every backend keeps the same contract, and the
/// conformance suite proves it. **At most once, in order, and no silent loss**: every published message is
/// delivered exactly once to every live subscription, or its loss is reported, to the publisher
/// as an error or to the subscriber as a [`Gap`](crate::Gap).
///
/// # For implementors
/// Most backends implement [`Driver`](crate::driver::Driver) instead, about 150 lines, and get this trait
/// from [`Node`](crate::Node). There are no default methods: forgetting one is a compile
/// error, not a surprise.
///
/// # Dropping
/// Dropping a node closes it, without waiting for the end.
#[async_trait]
pub trait Backplane: Debug + Send + Sync + 'static {
    /// The id of this incarnation of the node.
    fn node_id(&self) -> NodeId;

    /// The namespace of the node.
    fn prefix(&self) -> &Prefix;

    /// What the backend promises beyond the rules that bind all.
    fn capabilities(&self) -> Capabilities;

    /// Publishes a message to every live subscription of a channel, on every node of the prefix.
    ///
    /// - When it returns `Ok`, the broker has accepted the message; nobody needs to be subscribed
    ///   (rule D3).
    /// - Messages that one task starts to publish in some order, awaited or not, arrive in that order on
    ///   one channel (rules O1 and O2). An `async fn` starts when it is first polled.
    /// - Nothing is buffered for later and nothing is retried (rules L1 to L4).
    ///
    /// # Errors
    /// [`NotSent`](crate::NotSent): no node will ever see the message. During an outage this
    /// comes at once, as `Unavailable`. [`Unknown`](crate::Unknown): the connection broke, or the broker did not
    /// answer, while the message was on its way; it may have been delivered, at most once.
    ///
    /// # Cancel safety
    /// Dropping the future cancels a message that has not left the node yet; one that is on its way may be
    /// delivered. Other publishes are not affected.
    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<(), PublishError>;

    /// Publishes messages to one channel, in their order, as if each were [published](Self::publish) before the
    /// next without waiting for any (rule O5): one task fills the connection, and no message costs a future.
    ///
    /// - Each message has an outcome of its own. One that is too large, or that the broker refuses, does not fail those
    ///   beside it.
    /// - They count against [`max_pending`](crate::NodeOptions::max_pending) and
    ///   [`max_pending_bytes`](crate::NodeOptions::max_pending_bytes) like any others: those at the end that find no
    ///   room fail as `Overloaded`, at once and for sure. So publish long lists in slices of a few thousand.
    ///
    /// # Errors
    /// [`PublishManyError`] names the messages that failed, each with its [`PublishError`]; the others were accepted.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the messages that have not left the node yet, which are those at the end; those that
    /// are on their way may be delivered.
    async fn publish_many(
        &self,
        channel: &Channel,
        payloads: Vec<Bytes>,
    ) -> Result<(), PublishManyError>;

    /// Subscribes to channels.
    ///
    /// When it returns `Ok`, every message published anywhere from then on arrives (rule S1), and none that
    /// was published before (rule D6). Any number of subscriptions of one channel cost one subscription
    /// on the broker (rule S3).
    ///
    /// # Errors
    /// `Unavailable` during an outage, unless [deferred](Subscribe::deferred); `Timeout` or `Refused`
    /// by the broker; `Closed`. A failed subscribe leaves nothing behind.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind (rule S7).
    async fn subscribe(&self, request: Subscribe) -> Result<Subscription, SubscribeError>;

    /// Whether the node is attached now.
    fn state(&self) -> ConnectionState;

    /// The state, to wait for.
    fn watch(&self) -> StateWatch;

    /// What happens to the node from now on.
    fn events(&self) -> Events;

    /// Proves that messages get through: publishes a probe and waits until it was delivered back
    /// (rule V2).
    ///
    /// # Errors
    /// `Unavailable` at once during an outage, `Unhealthy` when the probe did not come back within the
    /// heartbeat timeout, `Closed`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn health(&self) -> Result<(), HealthError>;

    /// The counters now (rule V1).
    fn stats(&self) -> Stats;

    /// Closes the node: ends every subscription after what was already received, and makes later
    /// calls fail with `Closed` (rule C1). When it returns, no task and no connection of the node is left
    /// (rule C2). Closing again does nothing.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the closing.
    async fn close(&self);
}
