//! Who gets what: the routes from channels to subscriptions, and which of them are in force.
//!
//! No IO happens here. The supervisor takes a [`Plan`] of what the broker must be told, does it, and
//! reports; a link's read path calls [`Router::deliver`]. One lock guards the table, and is never held
//! across an await.

mod deliver;
mod plan;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Notify, oneshot};

pub(crate) use self::plan::Plan;
use crate::driver::BrokerChannel;
use crate::engine::fate::LinkId;
use crate::engine::probe::Probes;
use crate::error::SubscribeErrorKind;
use crate::message::OutageAccount;
use crate::name::{Channel, NodeId, Prefix};
use crate::queue::{QueueReader, QueueWriter, Wake, queue};
use crate::state::StateCell;
use crate::stats::{Counters, Stats};

/// How many publishers a route, and the list of incompatible ones, remember.
const MAX_PUBLISHERS: usize = 4096;

/// Names one local subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionId(u64);

/// The routes of one node.
#[derive(Debug)]
pub(crate) struct Router {
    node: NodeId,
    prefix: Prefix,
    probe_channel: BrokerChannel,
    probes: Probes,
    counters: Arc<Counters>,
    state: Arc<StateCell>,
    incompatible: Mutex<HashSet<NodeId>>,
    changed: Notify,
    last_id: AtomicU64,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// The link whose deliveries count.
    live: Option<LinkId>,
    closed: bool,
    routes: HashMap<BrokerChannel, Route>,
    /// Routes about which the broker may have to be told something, in order.
    dirty: VecDeque<BrokerChannel>,
    subscriptions: HashMap<SubscriptionId, Local>,
    waiters: HashMap<u64, Waiter>,
}

/// A channel with local members.
#[derive(Debug)]
struct Route {
    channel: Channel,
    /// Whether the broker has confirmed the subscription.
    on_broker: bool,
    dirty: bool,
    members: Vec<Member>,
    heard: Mutex<HashMap<NodeId, Heard>>,
}

/// How far a publisher was heard, and on which link.
#[derive(Clone, Copy, Debug)]
struct Heard {
    next: u64,
    link: LinkId,
}

/// A subscription on a route.
#[derive(Debug)]
struct Member {
    id: SubscriptionId,
    /// Tells it from one that left before it.
    token: u64,
    inbox: Arc<Inbox>,
    /// The link on which it came into force. `None`: it is not in force yet.
    since: Option<LinkId>,
    /// The plan that brings it into force.
    plan: Option<u64>,
    /// Calls that asked for it and have not returned.
    claims: u32,
    /// Whether a call that asked for it has succeeded.
    confirmed: bool,
    waiters: Vec<u64>,
}

/// What deliveries need of a subscription.
#[derive(Debug)]
struct Inbox {
    queue: QueueWriter,
    without_own: bool,
    /// The account of its latest outage.
    account: Mutex<Option<OutageAccount>>,
}

/// A local subscription.
#[derive(Debug)]
struct Local {
    inbox: Arc<Inbox>,
    channels: HashMap<Channel, BrokerChannel>,
    /// Whether it was in force when the link was lost, and has not been told yet.
    owes_gap: bool,
}

/// A call that waits until so many members are in force.
#[derive(Debug)]
struct Waiter {
    remaining: usize,
    done: Answer,
}

/// What [`Router::claim`] leads to.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// Everything is in force already.
    InForce,
    /// It takes effect with the reconnection.
    Deferred,
    /// It is being done; the claim must be confirmed or dropped.
    Waiting(Claim, oneshot::Receiver<Result<(), SubscribeErrorKind>>),
}

/// The new members of a call that has not returned; dropping it takes them back (rule S7).
#[derive(Debug)]
pub(crate) struct Claim {
    router: Arc<Router>,
    id: SubscriptionId,
    members: Vec<(BrokerChannel, u64)>,
}

/// Calls to be answered, when the table is not locked any longer.
#[derive(Debug, Default)]
struct Settled(Vec<(Answer, Result<(), SubscribeErrorKind>)>);

type Answer = oneshot::Sender<Result<(), SubscribeErrorKind>>;

impl Router {
    pub(crate) fn new(prefix: Prefix, counters: Arc<Counters>, state: Arc<StateCell>) -> Self {
        let node = NodeId::random();
        Self {
            node,
            probe_channel: BrokerChannel::probe(&prefix, node),
            prefix,
            probes: Probes::default(),
            counters,
            state,
            incompatible: Mutex::default(),
            changed: Notify::new(),
            last_id: AtomicU64::new(0),
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

    /// The counters, with the numbers of what lives now.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.counters.snapshot();
        let table = self.read();
        stats.subscriptions = table.subscriptions.len() as u64;
        stats.channels = table
            .routes
            .values()
            .filter(|r| !r.members.is_empty())
            .count() as u64;
        stats
    }

    /// Registers a subscription without channels; `None` when the node is closed.
    pub(crate) fn open(
        &self,
        capacity: usize,
        max_bytes: usize,
        without_own: bool,
    ) -> Option<(SubscriptionId, QueueReader)> {
        let (writer, reader) = queue(capacity, max_bytes);
        let inbox = Arc::new(Inbox {
            queue: writer,
            without_own,
            account: Mutex::default(),
        });
        let id = SubscriptionId(self.next_id());
        let mut table = self.write();
        if table.closed {
            return None;
        }
        let local = Local {
            inbox,
            channels: HashMap::new(),
            owes_gap: false,
        };
        table.subscriptions.insert(id, local);
        Some((id, reader))
    }

    /// Adds channels to a subscription.
    pub(crate) fn claim(
        self: &Arc<Self>,
        id: SubscriptionId,
        channels: &[Channel],
        deferred: bool,
    ) -> Result<Claimed, SubscribeErrorKind> {
        let mut guard = self.write();
        let table = &mut *guard;
        let Some(local) = table.subscriptions.get_mut(&id) else {
            return Err(SubscribeErrorKind::Closed);
        };
        let live = table.live.is_some();
        if !live && !deferred && !channels.is_empty() {
            return Err(SubscribeErrorKind::Unavailable);
        }
        let wait = self.next_id();
        let (mut claimed, mut remaining) = (Vec::new(), 0);
        for channel in channels.iter().collect::<HashSet<_>>() {
            let name = local
                .channels
                .entry(channel.clone())
                .or_insert_with(|| BrokerChannel::new(&self.prefix, channel));
            let route = table
                .routes
                .entry(name.clone())
                .or_insert_with(|| Route::new(channel));
            let member = route.member(id, wait, &local.inbox);
            if !live {
                member.confirmed = true;
            } else if member.since.is_none() || !member.confirmed {
                // Also one that is in force already, but for a call that may still be cancelled.
                member.claims += 1;
                claimed.push((name.clone(), member.token));
            }
            if member.since.is_some() {
                continue;
            }
            if live {
                member.waiters.push(wait);
                remaining += 1;
            }
            if member.plan.is_none() && !route.dirty {
                route.dirty = true;
                table.dirty.push_back(name.clone());
            }
        }
        if !live && !channels.is_empty() {
            return Ok(Claimed::Deferred);
        }
        let (done, confirmed) = oneshot::channel();
        if remaining > 0 {
            table.waiters.insert(wait, Waiter { remaining, done });
        }
        drop(guard);
        let claim = Claim {
            router: Arc::clone(self),
            id,
            members: claimed,
        };
        if remaining == 0 {
            claim.confirm();
            return Ok(Claimed::InForce);
        }
        self.changed.notify_one();
        Ok(Claimed::Waiting(claim, confirmed))
    }

    /// Removes channels of a subscription at once, with what is queued of them (rules S2 and R4).
    pub(crate) fn leave(&self, id: SubscriptionId, channels: &[Channel]) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        let Some(local) = table.subscriptions.get_mut(&id) else {
            return;
        };
        let names: Vec<_> = channels
            .iter()
            .filter_map(|c| local.channels.remove(c))
            .collect();
        local.inbox.queue.purge(channels);
        for name in &names {
            table.remove_member(name, id, &mut settled);
        }
        drop(guard);
        self.changed.notify_one();
    }

    /// Removes a subscription.
    pub(crate) fn remove(&self, id: SubscriptionId) {
        let (mut settled, mut wake) = (Settled::default(), Wake::default());
        let mut table = self.write();
        let Some(local) = table.subscriptions.remove(&id) else {
            return;
        };
        local.inbox.queue.close_then(&mut wake);
        for name in local.channels.values() {
            table.remove_member(name, id, &mut settled);
        }
        drop(table);
        self.changed.notify_one();
    }

    /// The channels of a subscription.
    pub(crate) fn channels(&self, id: SubscriptionId) -> Vec<Channel> {
        let table = self.read();
        table
            .subscriptions
            .get(&id)
            .map_or_else(Vec::new, |s| s.channels.keys().cloned().collect())
    }

    /// Whether some channel of a subscription is not in force yet.
    pub(crate) fn is_deferred(&self, id: SubscriptionId) -> bool {
        let table = self.read();
        table.subscriptions.get(&id).is_some_and(|local| {
            local.channels.values().any(|name| {
                table.routes.get(name).is_some_and(|route| {
                    route
                        .members
                        .iter()
                        .any(|m| m.id == id && m.since.is_none())
                })
            })
        })
    }

    fn withdraw(&self, id: SubscriptionId, members: &[(BrokerChannel, u64)]) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        for (name, token) in members {
            let Some(route) = table.routes.get_mut(name) else {
                continue;
            };
            let Some(member) = route
                .members
                .iter_mut()
                .find(|m| m.id == id && m.token == *token)
            else {
                continue;
            };
            member.claims = member.claims.saturating_sub(1);
            if member.claims == 0 && !member.confirmed {
                if let Some(local) = table.subscriptions.get_mut(&id) {
                    local.channels.remove(&route.channel);
                    local
                        .inbox
                        .queue
                        .purge(std::slice::from_ref(&route.channel));
                }
                table.remove_member(name, id, &mut settled);
            }
        }
        drop(guard);
        self.changed.notify_one();
    }

    fn confirm(&self, id: SubscriptionId, members: &[(BrokerChannel, u64)]) {
        let mut table = self.write();
        for (name, token) in members {
            let member = table.routes.get_mut(name).and_then(|route| {
                route
                    .members
                    .iter_mut()
                    .find(|m| m.id == id && m.token == *token)
            });
            if let Some(member) = member {
                member.claims = member.claims.saturating_sub(1);
                member.confirmed = true;
            }
        }
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
    fn remove_member(&mut self, name: &BrokerChannel, id: SubscriptionId, settled: &mut Settled) {
        let Some(route) = self.routes.get_mut(name) else {
            return;
        };
        let Some(at) = route.members.iter().position(|m| m.id == id) else {
            return;
        };
        for wait in route.members.remove(at).waiters {
            settled.settle(&mut self.waiters, wait, Ok(()));
        }
        if route.members.is_empty() && !route.dirty {
            route.dirty = true;
            self.dirty.push_back(name.clone());
        }
    }
}

impl Route {
    fn new(channel: &Channel) -> Self {
        Self {
            channel: channel.clone(),
            on_broker: false,
            dirty: false,
            members: Vec::new(),
            heard: Mutex::default(),
        }
    }

    /// The member of this subscription, made if there is none.
    fn member(&mut self, id: SubscriptionId, token: u64, inbox: &Arc<Inbox>) -> &mut Member {
        let at = match self.members.iter().position(|m| m.id == id) {
            Some(at) => at,
            None => {
                self.members.push(Member::new(id, token, inbox));
                self.members.len() - 1
            }
        };
        &mut self.members[at]
    }

    fn heard_mut(&mut self) -> &mut HashMap<NodeId, Heard> {
        self.heard.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn new(id: SubscriptionId, token: u64, inbox: &Arc<Inbox>) -> Self {
        Self {
            id,
            token,
            inbox: Arc::clone(inbox),
            since: None,
            plan: None,
            claims: 0,
            confirmed: false,
            waiters: Vec::new(),
        }
    }
}

impl Claim {
    /// The call succeeded: the members stay.
    pub(crate) fn confirm(mut self) {
        let members = std::mem::take(&mut self.members);
        self.router.confirm(self.id, &members);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.members.is_empty() {
            self.router.withdraw(self.id, &self.members);
        }
    }
}

impl Settled {
    /// One member that a call waits for has this result.
    fn settle(
        &mut self,
        waiters: &mut HashMap<u64, Waiter>,
        wait: u64,
        result: Result<(), SubscribeErrorKind>,
    ) {
        let Some(waiter) = waiters.get_mut(&wait) else {
            return;
        };
        waiter.remaining -= 1;
        if (result.is_err() || waiter.remaining == 0)
            && let Some(waiter) = waiters.remove(&wait)
        {
            self.0.push((waiter.done, result));
        }
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        for (answer, result) in self.0.drain(..) {
            // The caller may have given up; its claim takes the members back.
            let _ = answer.send(result);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
