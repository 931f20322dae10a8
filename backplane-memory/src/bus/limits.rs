//! The broker's own limits: memory, room for connections, credentials, and patience with a node that
//! takes nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use backplane_core::NodeId;
use backplane_core::driver::{BrokerChannel, Frame, Inbound, LinkError, LinkErrorKind};
use bytes::Bytes;

use super::{MemoryBus, lost};

/// Which limits are reached, and by whom.
#[derive(Debug, Default)]
pub(super) struct Limits {
    out_of_memory: bool,
    full: bool,
    revoked: bool,
    stalled: HashMap<NodeId, Mutex<Backlog>>,
    /// Whether the backlog of some node has overflowed, and its connections have to be broken off.
    overrun: AtomicBool,
}

/// What waits for a node that takes nothing.
#[derive(Debug)]
struct Backlog {
    limit: usize,
    waiting: Vec<Waiting>,
    overrun: bool,
}

#[derive(Debug)]
struct Waiting {
    /// Who it is for; it is lost with that connection.
    link: u64,
    channel: BrokerChannel,
    what: Arriving,
}

/// What the bus delivers.
#[derive(Debug)]
pub(super) enum Arriving {
    Frame(Frame),
    Bytes(Bytes),
}

impl MemoryBus {
    /// Refuses every publish, the nodes' own probes included, until [`accept_publishes`](Self::accept_publishes):
    /// as a broker does that is out of memory, or read-only. Connections and subscriptions stay.
    pub fn refuse_publishes(&self) {
        self.write().limits.out_of_memory = true;
    }

    /// Ends [`refuse_publishes`](Self::refuse_publishes).
    pub fn accept_publishes(&self) {
        self.write().limits.out_of_memory = false;
    }

    /// Has no room for another connection, until [`make_room`](Self::make_room). Those that are open go on.
    pub fn fill(&self) {
        self.write().limits.full = true;
    }

    /// Ends [`fill`](Self::fill).
    pub fn make_room(&self) {
        self.write().limits.full = false;
    }

    /// Takes the credentials of all nodes back: every connection breaks, and new ones are refused as not
    /// authorized, until [`grant`](Self::grant). Says how many broke.
    pub fn revoke(&self) -> usize {
        self.cut_links(|_| true, |state| state.limits.revoked = true)
    }

    /// Ends [`revoke`](Self::revoke).
    pub fn grant(&self) {
        self.write().limits.revoked = false;
    }

    /// Lets one node take nothing of what is delivered to it, while up to `limit` messages wait for it.
    /// One more, and the bus breaks its connections off: what waits is lost, and the node may connect again
    /// at once. [`relieve`](Self::relieve) ends it before that.
    ///
    /// Says how many connections the node has.
    pub fn overrun(&self, node: NodeId, limit: usize) -> usize {
        let mut state = self.write();
        let backlog = Backlog {
            limit,
            waiting: Vec::new(),
            overrun: false,
        };
        state.limits.stalled.insert(node, Mutex::new(backlog));
        let links = state.links.values();
        links.filter(|link| link.node_id() == node).count()
    }

    /// Ends [`overrun`](Self::overrun) for this node: it takes all that waits for it.
    pub fn relieve(&self, node: NodeId) {
        // Under the lock: what is published next must not overtake it.
        let mut state = self.write();
        let Some(backlog) = state.limits.stalled.remove(&node) else {
            return;
        };
        let backlog = backlog.into_inner().unwrap_or_else(PoisonError::into_inner);
        for Waiting {
            link,
            channel,
            what,
        } in backlog.waiting
        {
            if let Some(inbound) = state.links.get(&link) {
                what.deliver(inbound, &channel);
            }
        }
    }

    /// Breaks off the connections of nodes whose backlog has overflowed. Whoever has published calls it, without
    /// the lock.
    pub(super) fn break_off_overrun(&self) {
        if !self.read().limits.is_overrun() {
            return;
        }
        let mut state = self.write();
        state.limits.overrun.store(false, Ordering::Relaxed);
        let stalled = std::mem::take(&mut state.limits.stalled);
        let (overrun, stalled) = stalled
            .into_iter()
            .partition::<HashMap<_, _>, _>(|(_, backlog)| lock(backlog).overrun);
        state.limits.stalled = stalled;
        let broken = state.take_links(|of| overrun.contains_key(&of));
        drop(state);
        for inbound in broken {
            inbound.lost(lost("too much waited for this node"));
        }
    }
}

impl Limits {
    /// Whether connections are to be broken off.
    pub(super) fn is_overrun(&self) -> bool {
        self.overrun.load(Ordering::Relaxed)
    }

    /// Puts what arrives on the pile of a node that takes nothing, and says so; any other node gets it at once.
    pub(super) fn hold_back(
        &self,
        link: u64,
        to: &Inbound,
        channel: &BrokerChannel,
        what: impl FnOnce() -> Arriving,
    ) -> bool {
        if self.stalled.is_empty() {
            return false;
        }
        let Some(backlog) = self.stalled.get(&to.node_id()) else {
            return false;
        };
        let mut backlog = lock(backlog);
        if backlog.waiting.len() < backlog.limit {
            backlog.waiting.push(Waiting {
                link,
                channel: channel.clone(),
                what: what(),
            });
        } else {
            backlog.overrun = true;
            self.overrun.store(true, Ordering::Relaxed);
        }
        true
    }

    /// Whether another connection may be made.
    pub(super) fn admit(&self) -> Result<(), LinkError> {
        if self.revoked {
            let told = "the bus does not take these credentials";
            return Err(LinkError::new(LinkErrorKind::Unauthorized, told));
        }
        if self.full {
            let told = "the bus has no room for another connection";
            return Err(LinkError::new(LinkErrorKind::Refused, told));
        }
        Ok(())
    }

    /// Whether a publish may be taken.
    pub(super) fn take(&self) -> Result<(), LinkError> {
        if self.out_of_memory {
            let told = "the bus is out of memory";
            return Err(LinkError::new(LinkErrorKind::Refused, told));
        }
        Ok(())
    }
}

impl Arriving {
    fn deliver(&self, to: &Inbound, channel: &BrokerChannel) {
        match self {
            Self::Frame(frame) => to.deliver(channel.as_bytes(), frame),
            Self::Bytes(bytes) => to.deliver_bytes(channel.as_bytes(), bytes),
        }
    }
}

fn lock(backlog: &Mutex<Backlog>) -> MutexGuard<'_, Backlog> {
    backlog.lock().unwrap_or_else(PoisonError::into_inner)
}
