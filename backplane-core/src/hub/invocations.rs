//! What connections of this node were asked and have not answered: the pending [`Invocations`] (rule H19).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::id::Key;
use super::payload::Payload;
use super::signal::Refusal;
use crate::engine::ById;
use crate::name::NodeId;

/// A call to a client that wants a result: see [`Hub::invoke`](super::Hub::invoke).
///
/// Forward both parts to the client, and what it answers to
/// [`ConnectionHandle::complete`](super::ConnectionHandle::complete).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Invocation {
    /// Names the call in the answer.
    pub id: InvocationId,
    /// What is asked.
    pub payload: Payload,
}

/// Names one call to a client, on the node that the client is connected to. As text it is a decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId(u64);

/// Why an answer of a client was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// Nobody waits for it: it was answered before, the caller has given up, or there never was such a call.
    #[error("nobody waits for the answer to call {0}")]
    Unknown(InvocationId),
    /// Another connection was asked, and can still answer.
    #[error("another connection was asked in call {0}")]
    WrongConnection(InvocationId),
}

/// The invocations that connections of one node are to answer.
#[derive(Debug, Default)]
pub(super) struct Invocations(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    closed: bool,
    last_id: u64,
    by_id: HashMap<u64, Entry, ById>,
    by_connection: HashMap<Key, HashSet<u64, ById>, ById>,
    by_request: HashMap<(NodeId, u64), u64>,
}

#[derive(Debug)]
struct Entry {
    connection: Key,
    asker: Asker,
}

/// Who waits for the answer.
#[derive(Debug)]
pub(super) enum Asker {
    Here(oneshot::Sender<Result<Payload, Refusal>>),
    There {
        node: NodeId,
        request: u64,
        /// The one who asks waits no longer than this.
        until: Instant,
        /// There is a bound on what is done for others at a time.
        permit: OwnedSemaphorePermit,
    },
}

impl Invocations {
    /// A connection is asked. `None` when the hub is closed.
    pub(super) fn add(&self, connection: Key, asker: Asker) -> Option<InvocationId> {
        let mut pending = self.lock();
        if pending.closed {
            return None;
        }
        pending.last_id += 1;
        let id = pending.last_id;
        if let Asker::There { node, request, .. } = &asker {
            pending.by_request.insert((*node, *request), id);
        }
        pending.by_id.insert(id, Entry { connection, asker });
        pending
            .by_connection
            .entry(connection)
            .or_default()
            .insert(id);
        Some(InvocationId(id))
    }

    /// A connection answers: gives who waits for it.
    pub(super) fn complete(
        &self,
        connection: Key,
        id: InvocationId,
    ) -> Result<Asker, CompleteError> {
        let mut pending = self.lock();
        match pending.by_id.get(&id.0) {
            None => Err(CompleteError::Unknown(id)),
            Some(entry) if entry.connection != connection => {
                Err(CompleteError::WrongConnection(id))
            }
            Some(_) => {
                let entry = pending.remove(id.0);
                entry
                    .map(|entry| entry.asker)
                    .ok_or(CompleteError::Unknown(id))
            }
        }
    }

    /// The connection is gone: gives who waits for it.
    pub(super) fn disconnected(&self, connection: Key) -> Vec<Asker> {
        let mut pending = self.lock();
        let ids = pending
            .by_connection
            .remove(&connection)
            .unwrap_or_default();
        let entries = ids.into_iter().filter_map(|id| pending.remove(id));
        entries.map(|entry| entry.asker).collect()
    }

    /// Nobody waits for this one any longer: gives the connection that was asked.
    pub(super) fn cancel(&self, id: InvocationId) -> Option<(Key, InvocationId)> {
        let entry = self.lock().remove(id.0)?;
        Some((entry.connection, id))
    }

    /// The same, by what the asking node calls it.
    pub(super) fn cancel_request(&self, node: NodeId, request: u64) -> Option<(Key, InvocationId)> {
        let mut pending = self.lock();
        let id = pending.by_request.get(&(node, request)).copied()?;
        let entry = pending.remove(id)?;
        Some((entry.connection, InvocationId(id)))
    }

    /// Forgets what this node wants, which is gone, or anybody who waits no longer: gives the connections that were
    /// asked.
    pub(super) fn cancel_where(
        &self,
        gone: Option<NodeId>,
        now: Instant,
    ) -> Vec<(Key, InvocationId)> {
        let mut pending = self.lock();
        let over = |asker: &Asker| match asker {
            Asker::Here(tell) => tell.is_closed(),
            Asker::There { node, until, .. } => Some(*node) == gone || *until <= now,
        };
        let over = pending.by_id.iter().filter(|(_, entry)| over(&entry.asker));
        let over: Vec<u64> = over.map(|(id, _)| *id).collect();
        let forgotten = over.into_iter().filter_map(|id| {
            let entry = pending.remove(id)?;
            Some((entry.connection, InvocationId(id)))
        });
        forgotten.collect()
    }

    /// Ends all for ever.
    pub(super) fn close(&self) -> Vec<Asker> {
        let mut pending = self.lock();
        let all = std::mem::take(&mut *pending);
        pending.closed = true;
        all.by_id.into_values().map(|entry| entry.asker).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.by_id.remove(&id)?;
        if let Some(ids) = self.by_connection.get_mut(&entry.connection) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_connection.remove(&entry.connection);
            }
        }
        if let Asker::There { node, request, .. } = &entry.asker {
            self.by_request.remove(&(*node, *request));
        }
        Some(entry)
    }
}

impl InvocationId {
    /// The id as a number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The id with this number, as a client has sent it back.
    #[must_use]
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for InvocationId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
