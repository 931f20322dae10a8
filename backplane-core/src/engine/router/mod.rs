//! Who gets what: the routes from channels to subscriptions, and which of them are in force.
//!
//! No IO happens here. The supervisor takes a [`Plan`] of what the broker must be told, does it, and
//! reports; a link's read path calls [`Router::deliver`]. One lock guards the table, and one of its own each route, so
//! that what arrives on one channel does not hold up another. A route is locked after the table, or without it; neither
//! lock is held across an await.

mod claim;
mod deliver;
mod heard;
mod held;
mod ids;
mod members;
mod plan;
mod route;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

pub(crate) use self::claim::Claimed;
use self::claim::{Settled, Waiters};
use self::heard::{Heard, MAX_PUBLISHERS};
use self::held::Held;
pub(crate) use self::ids::ById;
use self::members::Member;
pub(crate) use self::plan::Plan;
pub(crate) use self::route::Route;
use self::route::{RouteState, Routes};
use crate::driver::BrokerChannel;
use crate::engine::fate::LinkId;
use crate::engine::probe::Probes;
use crate::name::{Channel, Namespace, NodeId, Prefix};
use crate::queue::{QueueReader, QueueWriter, Wakes, queue};
use crate::state::StateCell;
use crate::stats::{Counters, Stats};

/// Tables give room back when they have more than this, and most of it is free.
const ROOM: usize = 1024;

/// Names one local subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionId(u64);

/// The routes of one node.
#[derive(Debug)]
pub(crate) struct Router {
    node: NodeId,
    prefix: Prefix,
    namespace: Namespace,
    probe_channel: BrokerChannel,
    probes: Probes,
    counters: Arc<Counters>,
    state: Arc<StateCell>,
    incompatible: Mutex<HashSet<NodeId>>,
    changed: Notify,
    backlog: Notify,
    last_id: AtomicU64,
    live: Live,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    routes: Routes,
    /// How many routes have members.
    occupied: u64,
    /// Routes about which the broker may have to be told something, in order.
    dirty: VecDeque<Channel>,
    subscriptions: HashMap<SubscriptionId, Box<Local>, ById>,
    waiters: Waiters,
}

/// The link whose deliveries count. It changes with the table locked; who delivers asks with the route locked.
#[derive(Debug, Default)]
struct Live(AtomicU64);

/// A local subscription.
#[derive(Debug)]
struct Local {
    queue: QueueWriter,
    channels: Held,
    without_own: bool,
    /// Whether it was in force when the link was lost, and has not been told yet.
    owes_gap: bool,
}

impl Router {
    pub(crate) fn new(prefix: Prefix, counters: Arc<Counters>, state: Arc<StateCell>) -> Self {
        let node = NodeId::random();
        Self {
            node,
            namespace: Namespace::new(&prefix),
            probe_channel: BrokerChannel::probe(&prefix, node),
            prefix,
            probes: Probes::default(),
            counters,
            state,
            incompatible: Mutex::default(),
            changed: Notify::new(),
            backlog: Notify::new(),
            last_id: AtomicU64::new(0),
            live: Live::default(),
            table: RwLock::default(),
        }
    }

    pub(crate) const fn node_id(&self) -> NodeId {
        self.node
    }

    pub(crate) const fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    pub(crate) const fn probe_channel(&self) -> &BrokerChannel {
        &self.probe_channel
    }

    pub(crate) const fn probes(&self) -> &Probes {
        &self.probes
    }

    /// The counters of the node, which has published so many messages, with the numbers of what lives now.
    pub(crate) fn stats(&self, published: u64) -> Stats {
        let table = self.read();
        let mut stats = self.counters.snapshot(published, table.routes.delivered());
        stats.subscriptions = table.subscriptions.len() as u64;
        stats.channels = table.occupied;
        stats
    }

    /// Registers a subscription without channels; `None` when the node is closed.
    pub(crate) fn open(
        &self,
        capacity: usize,
        max_bytes: usize,
        without_own: bool,
    ) -> Option<(SubscriptionId, QueueReader)> {
        let (queue, reader) = queue(capacity, max_bytes);
        let id = SubscriptionId(self.next_id());
        let local = Box::new(Local {
            queue,
            channels: Held::default(),
            without_own,
            owes_gap: false,
        });
        let mut table = self.write();
        if table.closed {
            return None;
        }
        table.subscriptions.insert(id, local);
        Some((id, reader))
    }

    /// Removes channels of a subscription at once, with what is queued of them (rules S2 and R4).
    pub(crate) fn leave(&self, id: SubscriptionId, channels: &[Channel]) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        let Some(local) = table.subscriptions.get_mut(&id) else {
            return;
        };
        let held = channels.iter().filter(|c| local.channels.remove(c));
        let left: Vec<_> = held.cloned().collect();
        let queue = local.queue.clone();
        for channel in &left {
            table.remove_member(channel, id, &mut settled);
        }
        // Nothing of them comes after it.
        queue.purge(&left);
        drop(guard);
        self.changed.notify_one();
    }

    /// Removes a subscription.
    pub(crate) fn remove(&self, id: SubscriptionId) {
        let (mut settled, mut wakes) = (Settled::default(), Wakes::default());
        let mut table = self.write();
        let Some(local) = table.subscriptions.remove(&id) else {
            return;
        };
        local.queue.close_then(&mut wakes);
        for channel in local.channels.iter() {
            table.remove_member(channel, id, &mut settled);
        }
        table.trim();
        drop(table);
        self.changed.notify_one();
    }

    /// The channels of a subscription.
    pub(crate) fn channels(&self, id: SubscriptionId) -> Vec<Channel> {
        let table = self.read();
        table
            .subscriptions
            .get(&id)
            .map_or_else(Vec::new, |s| s.channels.iter().cloned().collect())
    }

    /// Whether some channel of a subscription is not in force yet.
    pub(crate) fn is_deferred(&self, id: SubscriptionId) -> bool {
        let table = self.read();
        table.subscriptions.get(&id).is_some_and(|local| {
            local.channels.iter().any(|channel| {
                let route = table.routes.of(channel);
                route.is_some_and(|route| route.lock().members.is_waiting(id))
            })
        })
    }

    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove_member(&mut self, channel: &Channel, id: SubscriptionId, settled: &mut Settled) {
        let Some(route) = self.routes.of(channel) else {
            return;
        };
        let mut route = route.lock();
        let Some(member) = route.members.remove(id) else {
            return;
        };
        for wait in member.into_waiters() {
            settled.settle(&mut self.waiters, wait, Ok(()));
        }
        if route.members.is_empty() {
            self.occupied -= 1;
            route.touch(channel, &mut self.dirty);
        }
    }

    /// Gives back the room that a crowd has left behind.
    fn trim(&mut self) {
        self.routes.trim();
        trim(&mut self.subscriptions);
        trim(&mut self.waiters);
        if self.dirty.is_empty() && self.dirty.capacity() > ROOM {
            self.dirty = VecDeque::new();
        }
    }
}

impl Live {
    /// No link has this number.
    const NONE: u64 = 0;

    fn set(&self, link: Option<LinkId>) {
        self.0
            .store(link.map_or(Self::NONE, |link| link.0), Ordering::Release);
    }

    fn is_some(&self) -> bool {
        self.0.load(Ordering::Acquire) != Self::NONE
    }

    fn is(&self, link: LinkId) -> bool {
        self.0.load(Ordering::Acquire) == link.0
    }
}

impl Local {
    /// A membership of it that is not in force.
    fn member(&self, id: SubscriptionId) -> Member {
        Member::new(id, self.queue.clone(), self.without_own)
    }
}

fn trim<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    if table.capacity() > ROOM && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
