//! What a hub, its connections and its task share.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::builder::DeliveryMode;
use super::error::HubError;
use super::gaps::GapReaders;
use super::id::ConnectionId;
use super::outbox::Ended;
use super::protocol::Protocol;
use super::stats::Counters;
use super::table::{RoomId, Table};
use crate::backplane::Backplane;
use crate::error::{SubscribeError, SubscribeErrorKind};
use crate::name::{Channel, NodeId};
use crate::subscription::{Subscribed, SubscriptionHandle};

pub(super) struct Inner {
    pub(super) backplane: Arc<dyn Backplane>,
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) mode: DeliveryMode,
    pub(super) protocol: Box<dyn Protocol>,
    pub(super) node_channel: Channel,
    pub(super) subscription: SubscriptionHandle,
    pub(super) counters: Counters,
    pub(super) gaps: Arc<GapReaders>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) table: RwLock<Table>,
}

/// A call that needs the channel of a room, until it returns: as long as one lives, the channel stays subscribed.
/// Dropping it takes everything back.
///
/// What the broker is told of a room follows the table: a channel is subscribed while somebody has a claim, and
/// unsubscribed, under the table's lock, when neither a claim nor a member is left. So no unsubscribe ever
/// overtakes a subscribe.
pub(super) struct Claim<'a> {
    inner: &'a Inner,
    room: Option<RoomId>,
    pub(super) subscribed: Subscribed,
}

impl Inner {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes to the channel of a room, for a connection if it is for one that exists already.
    pub(super) async fn claim(
        &self,
        channel: &Channel,
        for_whom: Option<&ConnectionId>,
    ) -> Result<Claim<'_>, HubError> {
        let room = {
            let mut table = self.write();
            if table.closed {
                return Err(HubError::Closed);
            }
            if for_whom.is_some_and(|id| table.member(id).is_none()) {
                return Err(HubError::Disconnected);
            }
            table.claim(channel)
        };
        let mut claim = Claim {
            inner: self,
            room: Some(room),
            subscribed: Subscribed::Deferred,
        };
        let subscribing = self.subscription.subscribe_deferred([channel.clone()]);
        claim.subscribed = subscribing.await?;
        Ok(claim)
    }

    /// Takes a connection out of everything, and ends it (rule H15).
    pub(super) fn disconnect(&self, id: &ConnectionId, why: Ended) {
        let member = {
            let mut table = self.write();
            let Some((member, unused)) = table.disconnect(id) else {
                return;
            };
            self.unsubscribe(unused);
            member
        };
        member.outbox.end(why);
    }

    /// Ends everything, at once.
    pub(super) fn shut(&self) {
        self.stop.cancel();
        let members = self.write().close();
        for member in members {
            member.outbox.end(Ended::HubClosed);
        }
        self.gaps.close();
    }

    /// The table is locked: what the backplane hears of channels is in the order of what happened to rooms.
    pub(super) fn unsubscribe(&self, channels: impl IntoIterator<Item = Channel>) {
        let mut channels = channels.into_iter().peekable();
        if channels.peek().is_some() {
            self.subscription.unsubscribe(channels);
        }
    }
}

impl Claim<'_> {
    pub(super) const fn room(&self) -> Option<RoomId> {
        self.room
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

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.room.is_some() {
            let inner = self.inner;
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
