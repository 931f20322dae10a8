//! Who is there, for applications: [`Nodes`] and [`Presence`], and what the hub shares of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::roster::{Departure, Roster};
use super::signal::Birth;
use crate::engine::ById;
use crate::name::NodeId;

/// The nodes of a hub, as one of them sees them now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nodes {
    /// All that are known, this node first.
    pub ids: Vec<NodeId>,
    /// Whether it is certain that none is missing: not for a moment after the start and after an outage, and not in one.
    pub settled: bool,
}

/// A change of the nodes of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A node is there.
    Joined(NodeId),
    /// A node is not there any more.
    Left(NodeId, Departure),
}

/// The stream of a hub's [`NodeEvent`]s: begins with the other nodes that are there, and goes on with the changes.
///
/// It compares what was told with what is, so it takes no memory for a reader that does not read, and misses nothing
/// but what was undone meanwhile (rule H20).
#[derive(Debug)]
pub struct Presence {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    told: HashMap<NodeId, Birth, ById>,
}

/// The roster, and who waits for changes of it.
#[derive(Debug)]
pub(super) struct Shared {
    me: NodeId,
    roster: Mutex<Roster>,
    changes: watch::Sender<u64>,
    closed: CancellationToken,
}

impl Presence {
    /// The next change; `None` when the hub was closed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn recv(&mut self) -> Option<NodeEvent> {
        loop {
            self.changes.mark_unchanged();
            if self.shared.closed.is_cancelled() {
                return None;
            }
            if let Some(event) = self.next() {
                return Some(event);
            }
            let changed = tokio::select! {
                changed = self.changes.changed() => changed.is_ok(),
                () = self.shared.closed.cancelled() => false,
            };
            if !changed {
                return None;
            }
        }
    }

    /// A difference between what was told and what is.
    fn next(&mut self) -> Option<NodeEvent> {
        let roster = self.shared.lock();
        let there: HashMap<NodeId, Birth, ById> = roster.peers().collect();
        let went = self
            .told
            .iter()
            .find(|told| there.get(told.0) != Some(told.1));
        if let Some(node) = went.map(|(node, _)| *node) {
            self.told.remove(&node);
            let why = roster.departure(node).unwrap_or(Departure::Lost);
            return Some(NodeEvent::Left(node, why));
        }
        let came = there
            .iter()
            .find(|(node, _)| !self.told.contains_key(*node));
        let (node, birth) = came?;
        self.told.insert(*node, *birth);
        Some(NodeEvent::Joined(*node))
    }
}

impl Shared {
    pub(super) fn new(me: NodeId, roster: Roster, closed: CancellationToken) -> Self {
        Self {
            me,
            roster: Mutex::new(roster),
            changes: watch::Sender::new(0),
            closed,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all who wait that something is different.
    pub(super) fn changed(&self) {
        self.changes
            .send_modify(|version| *version = version.wrapping_add(1));
    }

    pub(super) fn nodes(&self) -> Nodes {
        let roster = self.lock();
        let others = roster.peers().map(|(node, _)| node);
        Nodes {
            ids: std::iter::once(self.me).chain(others).collect(),
            settled: roster.is_settled(Instant::now()),
        }
    }

    /// Waits until all nodes are known, this node is not attached, or the time is over. Says whether they are.
    pub(super) async fn settle(&self, deadline: Instant) -> bool {
        let mut changes = self.changes.subscribe();
        loop {
            let now = Instant::now();
            let next = {
                let roster = self.lock();
                if roster.is_settled(now) {
                    return true;
                }
                roster.settles()
            };
            let Some(next) = next.filter(|_| now < deadline) else {
                return false;
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return false },
                () = sleep_until(next.min(deadline)) => {}
                () = self.closed.cancelled() => return false,
            }
        }
    }

    pub(super) fn watch(self: &Arc<Self>) -> Presence {
        Presence {
            shared: Arc::clone(self),
            changes: self.changes.subscribe(),
            told: HashMap::default(),
        }
    }
}
