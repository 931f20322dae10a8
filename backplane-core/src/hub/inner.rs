//! What a hub, its connections and its task share.

use std::fmt;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::builder::{DeliveryMode, Timing};
use super::error::HubError;
use super::gaps::GapReaders;
use super::id::ConnectionId;
use super::invocations::Invocations;
use super::outbox::Ended;
use super::presence::Shared;
use super::protocol::Protocol;
use super::requests::Requests;
use super::service::Service;
use super::signal::{Birth, Refusal};
use super::stats::Counters;
use super::table::{Joined, RoomId, Table, Ticket};
use crate::backplane::Backplane;
use crate::error::{SubscribeError, SubscribeErrorKind};
use crate::name::{Channel, NodeId};
use crate::subscription::{Subscribed, SubscriptionHandle};

pub(super) struct Inner {
    /// Itself, for tasks.
    pub(super) me: Weak<Self>,
    pub(super) backplane: Arc<dyn Backplane>,
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) birth: Birth,
    pub(super) timing: Timing,
    pub(super) mode: DeliveryMode,
    pub(super) protocol: Box<dyn Protocol>,
    pub(super) node_channel: Channel,
    pub(super) subscription: SubscriptionHandle,
    pub(super) counters: Counters,
    pub(super) gaps: Arc<GapReaders>,
    pub(super) presence: Arc<Shared>,
    /// Whether anything was published to all since the last heartbeat was due.
    pub(super) spoke: AtomicBool,
    /// What this node wants of others.
    pub(super) requests: Requests,
    /// What is wanted of connections of this node.
    pub(super) invocations: Invocations,
    /// Room for what others want of this node.
    pub(super) served: Arc<Semaphore>,
    /// Room for calls of others that wait for clients of this node.
    pub(super) calls: Arc<Semaphore>,
    /// Room for words to others that no request holds a place for.
    pub(super) asides: Arc<Semaphore>,
    pub(super) service: Option<Arc<dyn Service>>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) runtime: Handle,
    pub(super) table: RwLock<Table>,
}

/// A call that needs the channel of a room, until it returns: as long as one lives, the channel stays subscribed.
/// Dropping it takes everything back.
///
/// What the broker is told of a room follows the table: a channel is subscribed while somebody has a claim, and
/// unsubscribed, under the table's lock, when neither a claim nor a member is left. So no unsubscribe ever
/// overtakes a subscribe.
pub(super) struct Claim {
    inner: Arc<Inner>,
    channel: Channel,
    room: Option<RoomId>,
    ticket: Ticket,
}

impl Inner {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims the channel of a room, for a connection if it is for one that exists already.
    pub(super) fn claim(
        self: &Arc<Self>,
        channel: Channel,
        for_whom: Option<&ConnectionId>,
    ) -> Result<Claim, HubError> {
        let (room, ticket) = {
            let mut table = self.write();
            if table.closed {
                return Err(HubError::Closed);
            }
            if for_whom.is_some_and(|id| table.member(id).is_none()) {
                return Err(HubError::Disconnected);
            }
            table.claim(&channel)
        };
        Ok(Claim {
            inner: Arc::clone(self),
            channel,
            room: Some(room),
            ticket,
        })
    }

    /// Begins to put a connection of this node into a group: the rest is for [`Claim::join`].
    pub(super) fn begin_join(
        self: &Arc<Self>,
        id: &ConnectionId,
        group: &str,
    ) -> Result<Claim, HubError> {
        self.claim(self.protocol.group(group)?, Some(id))
    }

    /// Takes a connection of this node out of a group. Says whether there is such a connection.
    pub(super) fn leave(&self, id: &ConnectionId, group: &str) -> Result<bool, HubError> {
        let channel = self.protocol.group(group)?;
        let mut table = self.write();
        let known = table.member(id).is_some();
        let unused = table.leave(id, &channel);
        self.unsubscribe(unused);
        Ok(known)
    }

    /// Takes a connection out of everything, and ends it (rule H15). Says whether it was there.
    pub(super) fn disconnect(&self, id: &ConnectionId, why: Ended) -> bool {
        let member = {
            let mut table = self.write();
            if table.member(id).is_none() {
                return false;
            }
            let Some((member, unused)) = table.disconnect(id) else {
                return false;
            };
            self.unsubscribe(unused);
            member
        };
        member.outbox.end(why);
        // No call comes to it any more: that needs the table.
        for asker in self.invocations.disconnected(id.key()) {
            self.answer(asker, Err(Refusal::Disconnected));
        }
        true
    }

    /// Ends everything, at once.
    pub(super) fn shut(&self) {
        self.stop.cancel();
        let members = self.write().close();
        for member in members {
            member.outbox.end(Ended::HubClosed);
        }
        self.gaps.close();
        self.requests.close();
        // Callers on other nodes notice that this one goes.
        drop(self.invocations.close());
    }

    /// Does something in the background that ends with the hub.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let work = async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        };
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// The table is locked: what the backplane hears of channels is in the order of what happened to rooms.
    pub(super) fn unsubscribe(&self, channels: impl IntoIterator<Item = Channel>) {
        let mut channels = channels.into_iter().peekable();
        if channels.peek().is_some() {
            self.subscription.unsubscribe(channels);
        }
    }
}

impl Claim {
    pub(super) const fn room(&self) -> Option<RoomId> {
        self.room
    }

    /// Waits until what is published to the channel arrives.
    pub(super) async fn subscribe(&self) -> Result<Subscribed, HubError> {
        let channel = [self.channel.clone()];
        let subscribing = self.inner.subscription.subscribe_deferred(channel);
        Ok(subscribing.await?)
    }

    /// Puts a connection into the room, when the channel is subscribed.
    pub(super) async fn join(self, id: &ConnectionId) -> Result<Subscribed, HubError> {
        let subscribed = self.subscribe().await?;
        let inner = Arc::clone(&self.inner);
        let mut table = inner.write();
        let ticket = self.ticket;
        let joined = self.room.map(|room| table.join(id, room, ticket));
        self.settle(&mut table);
        match joined {
            // It was a member, until the leave that came after.
            Some(Joined::Yes | Joined::Overtaken) => Ok(subscribed),
            Some(Joined::Disconnected) | None => Err(HubError::Disconnected),
        }
    }

    /// Ends the claim in one go with what was done to the table.
    pub(super) fn settle(mut self, table: &mut Table) {
        self.release(table);
    }

    fn release(&mut self, table: &mut Table) {
        let unused = self.room.take().and_then(|room| table.release(room));
        self.inner.unsubscribe(unused);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.room.is_some() {
            let inner = Arc::clone(&self.inner);
            self.release(&mut inner.write());
        }
    }
}

impl From<SubscribeError> for HubError {
    fn from(error: SubscribeError) -> Self {
        match error.kind() {
            SubscribeErrorKind::Closed => Self::Closed,
            _ => Self::Subscribe(error),
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("name", &self.name)
            .field("node", &self.node)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
