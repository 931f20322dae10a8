//! The broker's own limits: memory, room for connections, credentials, and patience with a node that
//! takes nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use backplane_core::NodeId;
use backplane_core::driver::{BrokerChannel, Frame, Inbound, LinkError, LinkErrorKind};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{After, MemoryBus, Taken, deliver_bytes_then, lost};

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
#[derive(Debug, Default)]
struct Backlog {
    limit: usize,
    waiting: Vec<Waiting>,
    overrun: bool,
}

#[derive(Debug)]
pub(super) struct Waiting {
    /// Who it is for; it is lost with that connection.
    link: u64,
    what: Arriving,
}

/// Where the outcome of a request goes.
pub(super) type Answer = oneshot::Sender<Result<(), LinkError>>;

/// What the bus sends to a node that subscribes.
#[derive(Debug)]
pub(super) enum Arriving {
    Frame(BrokerChannel, Frame),
    Bytes(BrokerChannel, Bytes),
    /// Of a request that was done.
    Answer(Answer),
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
    /// Answers arrive on the connection that messages are delivered on, and in one order with them: the bus does a
    /// subscribe, an unsubscribe or a ping of that node at once, and the answer waits behind the messages from before,
    /// and before those from after it. It counts as a message. When the connection breaks, by whatever switch, the
    /// answers that wait on it fail with the messages. A publish is answered at once, as by a broker that a node has a
    /// second connection to for that.
    ///
    /// Says how many connections the node has. For a node that takes nothing already, only the limit changes.
    pub fn overrun(&self, node: NodeId, limit: usize) -> usize {
        let mut state = self.write();
        let backlog = state.limits.stalled.entry(node).or_default();
        let backlog = backlog.get_mut().unwrap_or_else(PoisonError::into_inner);
        backlog.limit = limit;
        let links = state.links.values();
        links.filter(|link| link.node() == node).count()
    }

    /// Ends [`overrun`](Self::overrun) for this node: it takes all that waits for it, in order. If there was too much
    /// already, its connections are broken off.
    pub fn relieve(&self, node: NodeId) {
        let mut after = After::default();
        // Under the lock: what is published next must not overtake it.
        let mut state = self.write();
        let Some(backlog) = state.limits.stalled.remove(&node) else {
            return;
        };
        let backlog = backlog.into_inner().unwrap_or_else(PoisonError::into_inner);
        if backlog.overrun {
            let broken = state.take_links(&self.0.topics, |of| of == node);
            drop(state);
            break_off(broken);
            return;
        }
        for Waiting { link, what } in backlog.waiting {
            if let Some(link) = state.links.get(&link) {
                what.deliver(&link.inbound, &mut after);
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
        let broken = state.take_links(&self.0.topics, |of| overrun.contains_key(&of));
        drop(state);
        break_off(broken);
    }
}

impl Limits {
    /// Whether a publish may be refused, held back, or lead to connections being broken off.
    pub(super) fn disturb_publishes(&self) -> bool {
        self.out_of_memory || !self.stalled.is_empty() || self.is_overrun()
    }

    /// Whether connections are to be broken off.
    pub(super) fn is_overrun(&self) -> bool {
        self.overrun.load(Ordering::Relaxed)
    }

    /// Puts what arrives on the pile of a node that takes nothing, and says so; any other node gets it at once.
    pub(super) fn hold_back(
        &self,
        link: u64,
        to: &Inbound,
        what: impl FnOnce() -> Arriving,
    ) -> bool {
        let Some(mut backlog) = self.backlog(to) else {
            return false;
        };
        self.pile(&mut backlog, link, what);
        true
    }

    /// Likewise an answer, which is given back if the node gets it at once.
    pub(super) fn hold_back_answer(
        &self,
        link: u64,
        to: &Inbound,
        answer: Answer,
    ) -> Option<Answer> {
        let Some(mut backlog) = self.backlog(to) else {
            return Some(answer);
        };
        self.pile(&mut backlog, link, || Arriving::Answer(answer));
        None
    }

    /// Hands out what waits on a connection that has ended, to be dropped without a lock.
    #[must_use]
    pub(super) fn forget(&mut self, link: u64) -> Vec<Waiting> {
        self.extract(|waiting| waiting.link == link)
    }

    /// Hands out all that waits, likewise; every connection has ended.
    #[must_use]
    pub(super) fn forget_all(&mut self) -> Vec<Waiting> {
        self.extract(|_| true)
    }

    fn extract(&mut self, chosen: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let backlogs = self.stalled.values_mut();
        let forgotten = backlogs.flat_map(|backlog| {
            let backlog = backlog.get_mut().unwrap_or_else(PoisonError::into_inner);
            backlog.waiting.extract_if(.., |waiting| chosen(waiting))
        });
        forgotten.collect()
    }

    fn backlog(&self, of: &Inbound) -> Option<MutexGuard<'_, Backlog>> {
        if self.stalled.is_empty() {
            return None;
        }
        self.stalled.get(&of.node_id()).map(lock)
    }

    fn pile(&self, backlog: &mut Backlog, link: u64, what: impl FnOnce() -> Arriving) {
        if backlog.waiting.len() < backlog.limit {
            let what = what();
            backlog.waiting.push(Waiting { link, what });
        } else {
            backlog.overrun = true;
            self.overrun.store(true, Ordering::Relaxed);
        }
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
    fn deliver(self, to: &Inbound, after: &mut After) {
        let wakes = &mut after.wakes;
        match self {
            Self::Frame(channel, frame) => to.deliver_then(channel.as_bytes(), &frame, wakes),
            Self::Bytes(channel, bytes) => deliver_bytes_then(to, &channel, &bytes, wakes),
            // A request is answered behind what was delivered before.
            Self::Answer(answer) => after.answers.push((answer, Ok(()))),
        }
    }
}

fn break_off(links: Vec<Taken>) {
    for taken in links {
        let why = lost("too much waited for this node");
        taken.inbound.lost(why);
    }
}

fn lock(backlog: &Mutex<Backlog>) -> MutexGuard<'_, Backlog> {
    backlog.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use backplane_core::{
        Backplane as _, Channel, ConnectionState, Delivery, NodeOptions, Prefix, Subscribe,
    };

    use super::*;

    #[tokio::test]
    async fn what_is_relieved_in_the_moment_of_its_overflow_is_not_lost_in_silence() {
        let bus = MemoryBus::new();
        let prefix = Prefix::new("t").unwrap();
        let node = bus.connect(NodeOptions::new(prefix.clone())).await.unwrap();
        let news = Channel::new("news").unwrap();
        let request = Subscribe::to([news.clone()]);
        let mut reader = node.subscribe(request).await.unwrap();
        bus.overrun(node.node_id(), 0);
        // As a publish does it, up to where it would break the connections off.
        {
            let state = bus.read();
            let (link, to) = state.links.iter().next().unwrap();
            assert!(
                state
                    .limits
                    .hold_back(*link, &to.inbound, || unreachable!("there is no room"))
            );
        }
        bus.relieve(node.node_id());
        bus.break_off_overrun();
        let mut watch = node.watch();
        let again = watch.wait_for(|state| *state == ConnectionState::Connected { generation: 2 });
        again.await.unwrap();
        assert!(matches!(reader.recv().await, Some(Delivery::Gap(_))));
    }
}
