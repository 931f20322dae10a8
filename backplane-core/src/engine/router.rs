//! Who gets what: the routes from channels to subscriptions, and which of them are in force.
//!
//! No IO happens here. The supervisor takes a [`Plan`] of what the broker must be told, does it, and
//! reports; a link's read path calls [`Router::deliver`]. One lock guards the table, and is never held
//! across an await.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Notify, oneshot};

use crate::driver::{BrokerChannel, Frame, FrameError};
use crate::engine::fate::LinkId;
use crate::engine::probe::Probes;
use crate::error::SubscribeErrorKind;
use crate::message::{Gap, Message, OutageAccount};
use crate::name::{Channel, NodeId, Prefix};
use crate::queue::{QueueReader, QueueWriter, Wake, queue};
use crate::state::{Event, StateCell};
use crate::stats::{Counters, Stats};

/// How many publishers a route, and the list of incompatible ones, remember.
const MAX_PUBLISHERS: usize = 4096;

/// Names one local subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionId(u64);

/// What the broker is to be told next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    id: u64,
    /// Channels to subscribe.
    pub(crate) subscribe: Vec<BrokerChannel>,
    /// Channels that are subscribed already and have new members: these wait for a round trip, so
    /// that nothing published before reaches them (rule D6).
    pub(crate) refresh: Vec<BrokerChannel>,
    /// Channels to unsubscribe.
    pub(crate) unsubscribe: Vec<BrokerChannel>,
}

impl Plan {
    /// How many channels it is about.
    pub(crate) fn len(&self) -> usize {
        self.subscribe.len() + self.refresh.len() + self.unsubscribe.len()
    }
}

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
    channels: Vec<BrokerChannel>,
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

    // --- what subscribers do

    /// Registers a subscription without channels; `None` when the node is closed.
    pub(crate) fn open(
        &self,
        capacity: usize,
        without_own: bool,
    ) -> Option<(SubscriptionId, QueueReader)> {
        let (writer, reader) = queue(capacity);
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
            let member = route.member(id, &local.inbox);
            if !live {
                member.confirmed = true;
            } else if member.since.is_none() || !member.confirmed {
                // Also one that is in force already, but for a call that may still be cancelled.
                member.claims += 1;
                claimed.push(name.clone());
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
            channels: claimed,
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

    // --- what the supervisor does

    /// Resolves when there may be a plan.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes every route part of the coming plans, and says how many these are.
    pub(crate) fn plan_all(&self) -> usize {
        let mut guard = self.write();
        let table = &mut *guard;
        table.dirty.clear();
        for (name, route) in &mut table.routes {
            route.dirty = true;
            table.dirty.push_back(name.clone());
        }
        table.dirty.len()
    }

    /// Takes what the broker is to be told next, up to `limit` channels.
    pub(crate) fn plan(&self, limit: usize) -> Option<Plan> {
        let mut guard = self.write();
        let table = &mut *guard;
        let mut plan = Plan {
            id: self.next_id(),
            ..Plan::default()
        };
        while plan.len() < limit {
            let Some(name) = table.dirty.pop_front() else {
                break;
            };
            let Some(route) = table.routes.get_mut(&name) else {
                continue;
            };
            route.dirty = false;
            for member in route.members.iter_mut().filter(|m| m.since.is_none()) {
                member.plan = Some(plan.id);
            }
            match (route.members.is_empty(), route.on_broker) {
                (false, false) => plan.subscribe.push(name),
                (false, true) => {
                    if route.members.iter().any(|m| m.since.is_none()) {
                        plan.refresh.push(name);
                    }
                }
                (true, true) => plan.unsubscribe.push(name),
                (true, false) => {
                    table.routes.remove(&name);
                }
            }
        }
        (plan.len() > 0).then_some(plan)
    }

    /// A plan was done on this link, except for the channels that the broker refused.
    pub(crate) fn done(&self, plan: &Plan, refused: &[BrokerChannel], link: LinkId) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        for name in plan.subscribe.iter().chain(&plan.refresh) {
            let Some(route) = table.routes.get_mut(name) else {
                continue;
            };
            let result = if refused.contains(name) {
                Err(SubscribeErrorKind::Refused)
            } else {
                route.on_broker = true;
                Ok(())
            };
            for member in route.members.iter_mut().filter(|m| m.plan == Some(plan.id)) {
                member.plan = None;
                if result.is_ok() {
                    member.since = Some(link);
                }
                for wait in member.waiters.drain(..) {
                    settled.settle(&mut table.waiters, wait, result);
                }
            }
        }
        for name in &plan.unsubscribe {
            if let Some(route) = table.routes.get_mut(name) {
                route.on_broker = false;
                route.heard_mut().clear();
                if route.members.is_empty() {
                    table.routes.remove(name);
                }
            }
        }
    }

    /// The first of these channels that some subscription holds from before.
    pub(crate) fn first_held<'a>(
        &self,
        channels: &'a [BrokerChannel],
        link: LinkId,
    ) -> Option<&'a BrokerChannel> {
        let table = self.read();
        channels.iter().find(|name| {
            table.routes.get(*name).is_some_and(|route| {
                route
                    .members
                    .iter()
                    .any(|m| m.since.is_some_and(|since| since < link))
            })
        })
    }

    /// The node is attached through this link: deliveries count from now on, and every subscription that was in
    /// force before the outage has its gap first (rule L5).
    pub(crate) fn go_live(&self, link: LinkId) {
        let mut wake = Wake::default();
        let mut table = self.write();
        table.live = Some(link);
        for local in table.subscriptions.values_mut().filter(|s| s.owes_gap) {
            local.owes_gap = false;
            let account = OutageAccount::default();
            *lock(&local.inbox.account) = Some(account.clone());
            if local
                .inbox
                .queue
                .push_gap_then(Gap::outage(account), &mut wake)
            {
                self.counters.gaps.add(1);
            }
        }
    }

    /// The link is gone: the node is not attached any longer, or could not be attached.
    pub(crate) fn go_down(&self, link: LinkId) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        let was_live = table.live.take().is_some();
        table.dirty.clear();
        table.routes.retain(|_, route| !route.members.is_empty());
        for route in table.routes.values_mut() {
            route.on_broker = false;
            route.dirty = false;
            for member in &mut route.members {
                member.plan = None;
                member.waiters.clear();
                if !was_live && member.since == Some(link) {
                    member.since = None;
                }
                if member.since.is_some()
                    && let Some(local) = table.subscriptions.get_mut(&member.id)
                {
                    local.owes_gap = true;
                }
            }
        }
        for (_, waiter) in table.waiters.drain() {
            settled
                .0
                .push((waiter.done, Err(SubscribeErrorKind::Unavailable)));
        }
    }

    /// The node is closed: every subscription ends after what it has received (rule C1).
    pub(crate) fn close(&self) {
        let (mut settled, mut wake) = (Settled::default(), Wake::default());
        let mut guard = self.write();
        let table = &mut *guard;
        table.closed = true;
        table.live = None;
        table.routes.clear();
        table.dirty.clear();
        for (_, local) in table.subscriptions.drain() {
            local.inbox.queue.close_then(&mut wake);
        }
        for (_, waiter) in table.waiters.drain() {
            settled
                .0
                .push((waiter.done, Err(SubscribeErrorKind::Closed)));
        }
    }

    // --- what links do

    /// Takes in a frame that arrived on this link.
    pub(crate) fn deliver(&self, link: LinkId, channel: &[u8], frame: &Frame) {
        if channel == self.probe_channel.as_bytes() {
            if frame.publisher() == self.node {
                self.probes.answer(frame.sequence());
            }
            return;
        }
        let mut wake = Wake::default();
        let table = self.read();
        if table.live != Some(link) {
            return;
        }
        if let Some(route) = table.routes.get(channel) {
            self.route(link, route, frame, &mut wake);
        }
    }

    /// Counts bytes that are not a frame.
    pub(crate) fn reject(&self, link: LinkId, error: &FrameError) {
        if self.read().live != Some(link) {
            return;
        }
        match error {
            FrameError::Malformed(_) => self.counters.malformed.add(1),
            FrameError::Incompatible { version, publisher } => {
                self.counters.incompatible.add(1);
                let mut known = lock(&self.incompatible);
                if known.len() < MAX_PUBLISHERS && known.insert(*publisher) {
                    tracing::warn!(%publisher, version, "skipping a newer wire version");
                    let (version, publisher) = (*version, *publisher);
                    self.state.tell(Event::Incompatible { version, publisher });
                }
            }
        }
    }

    /// The lock on `heard` is held while the members get the frame, so that all of them see one order.
    fn route(&self, link: LinkId, route: &Route, frame: &Frame, wake: &mut Wake) {
        let (publisher, first) = (frame.publisher(), frame.sequence());
        let next = first + frame.len() as u64;
        let mut heard = lock(&route.heard);
        if heard.len() >= MAX_PUBLISHERS && !heard.contains_key(&publisher) {
            // Publishers of earlier links first; what is forgotten is merely not counted.
            heard.retain(|_, h| h.link == link);
            if heard.len() >= MAX_PUBLISHERS {
                heard.clear();
            }
        }
        let mut known = 0;
        if let Some(before) = heard.get(&publisher).copied() {
            known = before.next.saturating_sub(first).min(frame.len() as u64);
            self.counters.duplicates.add(known);
            if next <= before.next {
                return;
            }
            // None missed is worth telling, too, of a publisher that is heard again after an outage.
            let missed = first.saturating_sub(before.next);
            if !frame.is_start() && (missed > 0 || before.link != link) {
                self.missed(link, route, publisher, before, missed, wake);
            }
        }
        heard.insert(publisher, Heard { next, link });
        for member in route.members.iter().filter(|m| m.since.is_some()) {
            if member.inbox.without_own && publisher == self.node {
                continue;
            }
            let messages = frame
                .payloads()
                .skip(usize::try_from(known).unwrap_or(usize::MAX))
                .map(|payload| Message::new(route.channel.clone(), payload, publisher));
            let pushed = member.inbox.queue.push_then(messages, wake);
            self.counters.delivered.add(pushed.queued);
            self.counters.overflowed.add(pushed.overflowed);
            self.counters.gaps.add(u64::from(pushed.new_gap));
        }
    }

    /// Messages were skipped: in an outage, which the members' gaps account for (rule L8), or
    /// on a link that lives, because the broker dropped them.
    fn missed(
        &self,
        link: LinkId,
        route: &Route,
        publisher: NodeId,
        before: Heard,
        missed: u64,
        wake: &mut Wake,
    ) {
        let mut told = false;
        for member in &route.members {
            // Who came later has missed nothing, and who leaves out own messages misses none of them.
            let held = member.since.is_some_and(|since| since <= before.link);
            if !held || member.inbox.without_own && publisher == self.node {
                continue;
            }
            told = true;
            if before.link == link {
                let new = member.inbox.queue.push_gap_then(Gap::dropped(missed), wake);
                self.counters.gaps.add(u64::from(new));
            } else if let Some(account) = &*lock(&member.inbox.account) {
                account.add(publisher, missed);
            }
        }
        if told {
            self.counters.lost.add(missed);
        }
    }

    fn withdraw(&self, id: SubscriptionId, names: &[BrokerChannel]) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        for name in names {
            let Some(route) = table.routes.get_mut(name) else {
                continue;
            };
            let Some(member) = route.members.iter_mut().find(|m| m.id == id) else {
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

    fn confirm(&self, id: SubscriptionId, names: &[BrokerChannel]) {
        let mut table = self.write();
        for name in names {
            let member = table
                .routes
                .get_mut(name)
                .and_then(|route| route.members.iter_mut().find(|m| m.id == id));
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
    fn member(&mut self, id: SubscriptionId, inbox: &Arc<Inbox>) -> &mut Member {
        let at = match self.members.iter().position(|m| m.id == id) {
            Some(at) => at,
            None => {
                self.members.push(Member::new(id, inbox));
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
    fn new(id: SubscriptionId, inbox: &Arc<Inbox>) -> Self {
        Self {
            id,
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
        let channels = std::mem::take(&mut self.channels);
        self.router.confirm(self.id, &channels);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.channels.is_empty() {
            self.router.withdraw(self.id, &self.channels);
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
