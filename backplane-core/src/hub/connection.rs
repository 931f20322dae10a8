//! A client of this node: [`Connect`], what is known of it, and [`Connection`], what it gets.

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;

use super::error::HubError;
use super::id::ConnectionId;
use super::inner::Inner;
use super::invocations::{CompleteError, InvocationId};
use super::outbox::{Ended, Outbound, Outbox, Overflow};
use super::payload::Payload;
use super::signal::Refusal;
use super::sink::Sink;
use crate::subscription::Subscribed;

/// What is known of a client that connects, and how it is served.
///
/// ```
/// use backplane_core::hub::{Connect, Overflow};
///
/// let request = Connect::new()
///     .user("ann")
///     .queue_capacity(1000)
///     .overflow(Overflow::Disconnect);
/// ```
#[derive(Clone, Debug)]
#[must_use = "nobody is connected before the hub is asked"]
pub struct Connect {
    user: Option<String>,
    metadata: Bytes,
    capacity: usize,
    overflow: Overflow,
    with_gaps: bool,
}

impl Connect {
    /// The longest [metadata](Self::metadata), in bytes.
    pub const MAX_METADATA_LEN: usize = 4096;

    /// A client that is no particular user, with the default queue.
    pub const fn new() -> Self {
        Self {
            user: None,
            metadata: Bytes::new(),
            capacity: 256,
            overflow: Overflow::DropAndTell,
            with_gaps: false,
        }
    }

    /// The user whose connection it is. A user may have any number of them, on any nodes. Default: none.
    pub fn user(mut self, id: impl Into<String>) -> Self {
        self.user = Some(id.into());
        self
    }

    /// What [lists of connections](super::Hub::connections) say about it on every node: bytes of the application's own,
    /// [`MAX_METADATA_LEN`](Self::MAX_METADATA_LEN) at most. Default: none.
    pub fn metadata(mut self, metadata: impl Into<Bytes>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// How many messages wait for the client at most, one at least. A queue takes memory as it fills. Default 256.
    pub const fn queue_capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// What happens when that many wait (rule H22). Default: [`Overflow::DropAndTell`].
    pub const fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Tells each [gap](Outbound::Gap) to this connection too, at its place among the messages. Default: only
    /// [`Hub::gaps`](super::Hub::gaps) has them.
    pub const fn with_gaps(mut self) -> Self {
        self.with_gaps = true;
        self
    }
}

impl Default for Connect {
    fn default() -> Self {
        Self::new()
    }
}

/// A client that is connected to this node, and the queue of what it is to get.
///
/// It dereferences to its [`ConnectionHandle`], which other tasks may have clones of. Dropping it disconnects the client:
/// it leaves all groups and its user, and channels that nobody else here needs are unsubscribed (rule H15).
#[derive(Debug)]
#[must_use = "dropped, it is disconnected"]
pub struct Connection(Owner);

/// A client that is connected to this node, and is served through a [`Sink`]. As [`Connection`] otherwise.
#[derive(Debug)]
#[must_use = "dropped, it is disconnected"]
pub struct SinkConnection(Owner);

/// Knows a connection, and changes its groups, from any task. Does not keep it connected.
#[derive(Clone)]
pub struct ConnectionHandle {
    inner: Arc<Inner>,
    outbox: Arc<Outbox>,
}

/// Disconnects when it is dropped.
#[derive(Debug)]
struct Owner(ConnectionHandle);

impl Connection {
    /// The next item; `None` when the connection has ended, and [`ended`](ConnectionHandle::ended) says why.
    ///
    /// # Cancel safety
    /// Cancel safe: an item is taken only when it is returned.
    pub async fn recv(&mut self) -> Option<Outbound> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next item, for use in a `poll` function.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outbound>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let item = self.0.0.outbox.poll_recv(cx);
        if item.is_ready() {
            coop.made_progress();
        }
        item
    }
}

impl Stream for Connection {
    type Item = Outbound;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Outbound>> {
        self.poll_recv(cx)
    }
}

impl ConnectionHandle {
    /// The connection's name: anybody who has it can send to the connection, from any node.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.outbox.id
    }

    /// A handle for another task.
    #[must_use]
    pub fn handle(&self) -> Self {
        self.clone()
    }

    /// Puts the connection into a group. When it returns `Ok`, whatever is sent to the group from then on, from
    /// any node, reaches the connection (rule H11). Joining again changes nothing (rule H13).
    ///
    /// In an outage it works too (rule H16), and says [`Subscribed::Deferred`]: messages of this node arrive at once, those
    /// of others when the node is attached again. While an outage has not been noticed, it waits until it is.
    ///
    /// # Errors
    /// `InvalidName`; `Disconnected` when the connection has ended meanwhile, `Closed`; `Subscribe` when the broker
    /// refuses the group's channel or does not confirm it in time.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind, unless the connection was in the group before.
    pub async fn join(&self, group: impl AsRef<str> + Send) -> Result<Subscribed, HubError> {
        let id = &self.outbox.id;
        let claim = self.inner.begin_join(id, group.as_ref())?;
        claim.join(id).await
    }

    /// Takes the connection out of a group. When it returns, nothing that is sent to the group from then on reaches the
    /// connection (rule H12); what is in its queue already stays there, in order. Leaving a group that it is not
    /// in, or after the connection has ended, changes nothing (rule H13).
    ///
    /// # Errors
    /// `InvalidName`.
    ///
    /// # Cancel safety
    /// It is done at the first poll.
    pub async fn leave(&self, group: impl AsRef<str> + Send) -> Result<(), HubError> {
        self.inner.leave(&self.outbox.id, group.as_ref())?;
        Ok(())
    }

    /// The groups that it is in, in no particular order.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        let channels = self.inner.read().groups(&self.outbox.id);
        let names = channels.iter();
        names
            .map(|channel| self.inner.protocol.group_name(channel).to_owned())
            .collect()
    }

    /// What [`Connect::metadata`] said of it.
    #[must_use]
    pub fn metadata(&self) -> Bytes {
        self.outbox.metadata()
    }

    /// Hands over what the client has answered to a call that it got as [`Outbound::Invoke`]: a result, or an error in
    /// words (rule H19).
    ///
    /// # Errors
    /// `Unknown` when nobody waits for it any more, which is nothing to worry about; `WrongConnection` when another
    /// connection was asked: the call goes on waiting for that one.
    pub fn complete(
        &self,
        call: InvocationId,
        answer: Result<impl Into<Payload>, impl Into<String>>,
    ) -> Result<(), CompleteError> {
        let asker = self
            .inner
            .invocations
            .complete(self.outbox.id.key(), call)?;
        let answer = answer.map(Into::into);
        let answer = answer.map_err(|error| Refusal::Client(error.into()));
        self.inner.answer(asker, answer);
        Ok(())
    }

    /// Ends the connection, without what is still in its queue. What its owner does when it is dropped.
    pub fn disconnect(&self) {
        self.inner.disconnect(&self.outbox.id, Ended::Disconnected);
        self.outbox.end(Ended::Disconnected);
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.outbox.ended()
    }
}

impl Inner {
    async fn connect(
        self: &Arc<Self>,
        request: Connect,
        sink: Option<Arc<dyn Sink>>,
    ) -> Result<Owner, HubError> {
        let (len, limit) = (request.metadata.len(), Connect::MAX_METADATA_LEN);
        if len > limit {
            return Err(HubError::MetadataTooLong { len, limit });
        }
        let user = request.user.map(|id| self.protocol.user(&id));
        let user = user.transpose().map_err(HubError::from)?;
        let claim = user.map(|channel| self.claim(channel, None)).transpose()?;
        if let Some(claim) = &claim {
            claim.subscribe().await?;
        }
        let mut table = self.write();
        if table.closed {
            // A claim that is dropped locks the table.
            drop(table);
            return Err(HubError::Closed);
        }
        let id = loop {
            let id = ConnectionId::random(self.node);
            if !table.has_key(&id) {
                break id;
            }
        };
        let outbox = Outbox::new(
            id,
            request.capacity,
            request.overflow,
            &request.metadata,
            sink,
        );
        let outbox = Arc::new(outbox);
        let room = claim.as_ref().and_then(|claim| claim.room());
        table.connect(Arc::clone(&outbox), room, request.with_gaps);
        if let Some(claim) = claim {
            claim.settle(&mut table);
        }
        drop(table);
        Ok(Owner(ConnectionHandle {
            inner: Arc::clone(self),
            outbox,
        }))
    }
}

impl Connection {
    pub(super) async fn open(inner: &Arc<Inner>, request: Connect) -> Result<Self, HubError> {
        inner.connect(request, None).await.map(Self)
    }
}

impl SinkConnection {
    pub(super) async fn open(
        inner: &Arc<Inner>,
        request: Connect,
        sink: Arc<dyn Sink>,
    ) -> Result<Self, HubError> {
        inner.connect(request, Some(sink)).await.map(Self)
    }
}

impl Deref for Connection {
    type Target = ConnectionHandle;

    fn deref(&self) -> &ConnectionHandle {
        &self.0.0
    }
}

impl Deref for SinkConnection {
    type Target = ConnectionHandle;

    fn deref(&self) -> &ConnectionHandle {
        &self.0.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.disconnect();
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle")
            .field("id", &self.outbox.id)
            .field("ended", &self.outbox.ended())
            .finish_non_exhaustive()
    }
}
