//! The broker in memory: [`MemoryBus`].

mod limits;
mod topics;

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use ahash::RandomState;
use backplane_core::driver::{BrokerChannel, Frame, Inbound, LinkError, LinkErrorKind, Wakes};
use backplane_core::{Channel, ConnectError, InvalidOption, Node, NodeId, NodeOptions, Prefix};
use bytes::Bytes;
use tokio::sync::oneshot;

use self::limits::{Answer, Arriving, Limits, Waiting};
pub(crate) use self::topics::Connected;
use self::topics::Topics;
use crate::driver::MemoryDriver;
use crate::lag::Lag;
use crate::trap::{Moment, Trap, Traps};

/// How many requests a frozen bus holds for later; more are refused.
const MAX_HELD: usize = 65_536;

/// A broker in this process. Clones are the same bus.
///
/// Any number of nodes [`connect`](MemoryBus::connect) to it, each as independent as if it were a process of
/// its own (rule C3). The bus can be broken on purpose, as a network broker breaks:
///
/// | switch | what the nodes see |
/// | --- | --- |
/// | [`stop`](Self::stop), [`start`](Self::start) | every connection breaks, new ones are refused |
/// | [`cut`](Self::cut), [`cut_all`](Self::cut_all) | the connections of one node, or of all, break; they can connect again |
/// | [`arm`](Self::arm), [`disarm`](Self::disarm) | the connections of one node break while its next subscribe or publish is on its way |
/// | [`refuse`](Self::refuse), [`admit`](Self::admit) | one node is cut off and refused, the others go on |
/// | [`refuse_new`](Self::refuse_new), [`admit_new`](Self::admit_new) | who is connected goes on, and nobody else can connect |
/// | [`ignore`](Self::ignore), [`heed`](Self::heed) | every connection breaks, new ones are accepted and never answered |
/// | [`freeze`](Self::freeze), [`thaw`](Self::thaw) | nothing is answered; what was sent meanwhile is done late |
/// | [`mute`](Self::mute), [`unmute`](Self::unmute) | all is answered, nothing is delivered |
/// | [`delay`](Self::delay), [`undelay`](Self::undelay) | everything takes longer, and arrives in order |
/// | [`refuse_publishes`](Self::refuse_publishes), [`accept_publishes`](Self::accept_publishes) | publishes are refused, connections and subscriptions stay |
/// | [`fill`](Self::fill), [`make_room`](Self::make_room) | open connections go on, new ones are refused |
/// | [`revoke`](Self::revoke), [`grant`](Self::grant) | every connection breaks, new ones are refused as not authorized |
/// | [`overrun`](Self::overrun), [`relieve`](Self::relieve) | what is delivered to one node piles up, and answers behind it, until its connections are broken off |
#[derive(Clone, Debug, Default)]
pub struct MemoryBus(Arc<Bus>);

/// The topics are locked after the state, or without it.
#[derive(Debug, Default)]
struct Bus {
    state: RwLock<State>,
    topics: Topics,
    lag: Lag,
}

/// The locked state, to be changed. The topics hear of it before it is unlocked.
struct Changing<'a> {
    state: RwLockWriteGuard<'a, State>,
    topics: &'a Topics,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    frozen: bool,
    muted: bool,
    closed_to_new: bool,
    ignoring: bool,
    traps: Traps,
    /// How often the bus was started.
    starts: u64,
    /// Connections that are never answered, with what they asked for.
    ignored: HashMap<u64, Vec<Answer>>,
    /// Whether the topics were told that a switch is on.
    disturbed: bool,
    subscribes: u64,
    /// Nodes that may not connect.
    refused: Vec<NodeId>,
    limits: Limits,
    last_link: u64,
    links: HashMap<u64, Connection, RandomState>,
    /// What reached the frozen bus, in order.
    held: VecDeque<Held>,
}

/// A link of a node.
#[derive(Debug)]
struct Connection {
    inbound: Inbound,
    connected: Connected,
}

/// A request to a frozen bus. It is done when the bus thaws, whether or not somebody still waits.
#[derive(Debug)]
struct Held {
    request: Request,
    done: Answer,
}

/// A link that was taken out, and what waited on it.
#[derive(Debug)]
struct Taken {
    inbound: Inbound,
    _waiting: Vec<Waiting>,
}

/// What is left to do when no lock is held any more: a waker may run code of anybody's. Done when it is dropped.
#[derive(Debug, Default)]
struct After {
    answers: Vec<(Answer, Result<(), LinkError>)>,
    wakes: Wakes,
}

/// What links ask of the bus.
#[derive(Debug)]
pub(crate) enum Request {
    Publish(BrokerChannel, Frame),
    Subscribe(u64, Vec<BrokerChannel>),
    Unsubscribe(u64, Vec<BrokerChannel>),
    Ping(u64),
}

/// Whether a request was done at once.
#[derive(Debug)]
pub(crate) enum Reply {
    Now(Result<(), LinkError>),
    Later(oneshot::Receiver<Result<(), LinkError>>),
}

impl MemoryBus {
    /// A bus that runs, without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches a node, at once.
    ///
    /// # Errors
    /// [`ConnectError`] when the bus is stopped or frozen, or an option has an impossible value or requires what
    /// the bus does not declare.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn connect(&self, options: NodeOptions) -> Result<Node<MemoryDriver>, ConnectError> {
        Node::connect(self.driver(), options).await
    }

    /// Returns a node that attaches as soon as the bus runs.
    ///
    /// # Errors
    /// [`InvalidOption`] when an option has an impossible value, or requires what the bus does not declare.
    pub fn connect_lazy(&self, options: NodeOptions) -> Result<Node<MemoryDriver>, InvalidOption> {
        Node::connect_lazy(self.driver(), options)
    }

    /// The driver of this bus, for those who make their [`Node`] themselves.
    #[must_use]
    pub fn driver(&self) -> MemoryDriver {
        MemoryDriver::new(self.clone())
    }

    /// Breaks every connection and refuses new ones, until [`start`](Self::start). A frozen bus forgets
    /// what it held.
    pub fn stop(&self) {
        let mut state = self.write();
        state.stopped = true;
        state.frozen = false;
        let held = mem::take(&mut state.held);
        let ignored = mem::take(&mut state.ignored);
        let waiting = state.limits.forget_all();
        let links = mem::take(&mut state.links);
        links.values().for_each(|link| link.connected.end());
        self.0.topics.clear();
        drop(state);
        drop((held, ignored, waiting));
        for link in links.into_values() {
            link.inbound.lost(lost("the bus was stopped"));
        }
    }

    /// Ends [`stop`](Self::stop). The bus knows nothing of before.
    pub fn start(&self) {
        let mut state = self.write();
        if state.stopped {
            state.stopped = false;
            state.starts += 1;
        }
    }

    /// How often the bus was started after a [`stop`](Self::stop).
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.read().starts
    }

    /// Breaks the connections of one node, and says how many these were. It may connect again at once.
    pub fn cut(&self, node: NodeId) -> usize {
        self.cut_links(|of| of == node, |_| {})
    }

    /// Breaks the connections of all nodes, and says how many these were. They may connect again at once.
    pub fn cut_all(&self) -> usize {
        self.cut_links(|_| true, |_| {})
    }

    /// Breaks the connections of one node and refuses new ones, until [`admit`](Self::admit).
    /// Says how many broke.
    pub fn refuse(&self, node: NodeId) -> usize {
        self.cut_links(|of| of == node, |state| state.refused.push(node))
    }

    /// Ends [`refuse`](Self::refuse) for this node.
    pub fn admit(&self, node: NodeId) {
        self.write().refused.retain(|refused| *refused != node);
    }

    /// Breaks the connections of one node while its next request of this kind is on its way: before the bus gets
    /// it, or after the bus has done it and before it is answered. The node may connect again at once.
    ///
    /// A trap of the same kind that the node has is replaced. A frozen bus springs none.
    pub fn arm(&self, node: NodeId, trap: Trap, moment: Moment) {
        self.write().traps.arm(node, trap, moment);
    }

    /// Disarms whatever is [armed](Self::arm).
    pub fn disarm(&self) {
        self.write().traps.disarm();
    }

    /// How many [armed](Self::arm) cuts have happened at this moment. One is counted before its node can notice.
    #[must_use]
    pub fn sprung(&self, moment: Moment) -> u64 {
        self.read().traps.sprung(moment)
    }

    /// Refuses new connections of all nodes, until [`admit_new`](Self::admit_new). Those that are open go on.
    pub fn refuse_new(&self) {
        self.write().closed_to_new = true;
    }

    /// Ends [`refuse_new`](Self::refuse_new).
    pub fn admit_new(&self) {
        self.write().closed_to_new = false;
    }

    /// Breaks every connection, and accepts new ones without ever answering them, until [`heed`](Self::heed).
    pub fn ignore(&self) {
        self.cut_links(|_| true, |state| state.ignoring = true);
    }

    /// Ends [`ignore`](Self::ignore). The connections that were accepted meanwhile break.
    pub fn heed(&self) {
        let mut state = self.write();
        state.ignoring = false;
        state.ignored.clear();
    }

    /// How many connections were accepted and are not answered.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.read().ignored.len()
    }

    /// Makes every request take between these times to reach the bus, and its answer as long again, until
    /// [`undelay`](Self::undelay). The times vary, the same way each time; what a node publishes to a channel stays
    /// in order.
    pub fn delay(&self, least: Duration, most: Duration) {
        self.0.lag.set(least, most);
    }

    /// Ends [`delay`](Self::delay). What is on its way then still takes its time.
    pub fn undelay(&self) {
        self.0.lag.set(Duration::ZERO, Duration::ZERO);
    }

    /// Answers nothing any more, as a broker whose process was suspended: connections stay, requests wait.
    pub fn freeze(&self) {
        self.write().frozen = true;
    }

    /// Ends [`freeze`](Self::freeze): everything that was asked for meanwhile is done now, in order, also
    /// when nobody waits for it any longer.
    pub fn thaw(&self) {
        let mut after = After::default();
        let mut state = self.write();
        state.frozen = false;
        while let Some(Held { request, done }) = state.held.pop_front() {
            let due = state.serve(&self.0.topics, request, done, &mut after.wakes);
            after.answers.extend(due);
        }
        drop(state);
        self.break_off_overrun();
    }

    /// Answers everything and delivers nothing, until [`unmute`](Self::unmute).
    pub fn mute(&self) {
        self.write().muted = true;
    }

    /// Ends [`mute`](Self::mute). What was published meanwhile is lost.
    pub fn unmute(&self) {
        self.write().muted = false;
    }

    /// How many nodes are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.read().links.len()
    }

    /// How many frames were published since the bus was made, the nodes' own probes included.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.0.topics.published()
    }

    /// How many requests to subscribe were done since the bus was made, whatever number of channels each had.
    #[must_use]
    pub fn subscribes(&self) -> u64 {
        self.read().subscribes
    }

    /// How many nodes are subscribed to a channel.
    #[must_use]
    pub fn subscribers(&self, prefix: &Prefix, channel: &Channel) -> usize {
        let name = BrokerChannel::new(prefix, channel);
        self.0.topics.lock(&name).members().len()
    }

    /// Delivers bytes to a channel as they are, as a writer does that knows nothing of frames.
    /// Returns how many nodes were reached.
    pub fn inject(&self, prefix: &Prefix, channel: &Channel, bytes: &Bytes) -> usize {
        self.inject_at(&BrokerChannel::new(prefix, channel), bytes)
    }

    /// Likewise, to the private channel on which a node hears its own probes.
    pub fn inject_probe(&self, prefix: &Prefix, node: NodeId, bytes: &Bytes) -> usize {
        self.inject_at(&BrokerChannel::probe(prefix, node), bytes)
    }

    fn inject_at(&self, name: &BrokerChannel, bytes: &Bytes) -> usize {
        let mut wakes = Wakes::default();
        let state = self.read();
        if state.muted || state.frozen {
            return 0;
        }
        let mut spot = self.0.topics.lock(name);
        let members = spot.members();
        for member in members.iter() {
            let inbound = member.inlet.inbound();
            let waiting = || Arriving::Bytes(name.clone(), bytes.clone());
            if !state.limits.hold_back(member.link, inbound, waiting) {
                deliver_bytes_then(inbound, name, bytes, &mut wakes);
            }
        }
        let reached = members.len();
        drop(spot);
        drop(state);
        self.break_off_overrun();
        reached
    }

    // --- for the driver

    /// Takes the time that the way to the bus takes, or the way back.
    pub(crate) async fn pass(&self) {
        self.0.lag.pass().await;
    }

    pub(crate) fn open(&self, inbound: Inbound) -> Result<(u64, Connected), LinkError> {
        let mut state = self.write();
        if state.stopped {
            return Err(LinkError::new(
                LinkErrorKind::Unreachable,
                "the bus is stopped",
            ));
        }
        if state.refused.contains(&inbound.node_id()) {
            return Err(LinkError::new(
                LinkErrorKind::Unreachable,
                "the bus refuses this node",
            ));
        }
        if state.closed_to_new {
            return Err(LinkError::new(
                LinkErrorKind::Unreachable,
                "the bus refuses new connections",
            ));
        }
        state.limits.admit()?;
        state.last_link += 1;
        let id = state.last_link;
        let connected = Connected::new(!state.ignoring);
        if state.ignoring {
            state.ignored.insert(id, Vec::new());
        } else {
            let connected = connected.clone();
            state.links.insert(id, Connection { inbound, connected });
        }
        Ok((id, connected))
    }

    pub(crate) fn close(&self, link: u64) {
        let mut state = self.write();
        let ignored = state.ignored.remove(&link);
        let taken = state.take_link(&self.0.topics, link);
        drop(state);
        drop((ignored, taken));
    }

    /// Publishes without waiting, or a copy of the frame; `None` when something stands in the way.
    pub(crate) fn publish_now(
        &self,
        on: &Connected,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Option<Result<(), LinkError>> {
        if !self.0.lag.is_none() {
            return None;
        }
        self.0.topics.publish_now(on, channel, frame, wakes)
    }

    pub(crate) fn request(&self, link: u64, request: Request) -> Reply {
        let mut wakes = Wakes::default();
        let mut state = self.write();
        let (done, later) = oneshot::channel();
        if let Some(ignored) = state.ignored.get_mut(&link) {
            ignored.push(done);
            return Reply::Later(later);
        }
        let Some(node) = state.links.get(&link).map(Connection::node) else {
            return Reply::Now(Err(lost("the connection is broken")));
        };
        if !state.frozen {
            let sprung = match &request {
                Request::Publish(..) => state.traps.spring(node, Trap::Publish),
                Request::Subscribe(..) => state.traps.spring(node, Trap::Subscribe),
                Request::Unsubscribe(..) | Request::Ping(_) => None,
            };
            let Some(moment) = sprung else {
                let served = state.serve(&self.0.topics, request, done, &mut wakes);
                drop(state);
                self.break_off_overrun();
                return served.map_or(Reply::Later(later), |(_, result)| Reply::Now(result));
            };
            // What the bus has done it cannot take back: the node never hears of it.
            let reply = match moment {
                Moment::Before => Reply::Now(Err(lost("the connection was cut"))),
                Moment::After => {
                    drop(state.perform(&self.0.topics, request, &mut wakes));
                    Reply::Later(later)
                }
            };
            drop(state);
            self.break_off_overrun();
            self.cut(node);
            return reply;
        }
        if state.held.len() >= MAX_HELD {
            let told = "the frozen bus holds too many requests";
            return Reply::Now(Err(LinkError::new(LinkErrorKind::Refused, told)));
        }
        state.held.push_back(Held { request, done });
        Reply::Later(later)
    }

    fn cut_links(&self, chosen: impl Fn(NodeId) -> bool, also: impl FnOnce(&mut State)) -> usize {
        let mut state = self.write();
        also(&mut state);
        let cut = state.take_links(&self.0.topics, chosen);
        drop(state);
        for taken in &cut {
            taken.inbound.lost(lost("the connection was cut"));
        }
        cut.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Changing<'_> {
        let Bus { state, topics, .. } = &*self.0;
        let state = state.write().unwrap_or_else(PoisonError::into_inner);
        Changing { state, topics }
    }
}

impl Deref for Changing<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let disturbed = self.state.disturbs_publishes();
        if self.state.disturbed != disturbed {
            self.state.disturbed = disturbed;
            self.topics.disturb(disturbed);
        }
    }
}

impl State {
    /// Whether some switch is on that concerns publishes.
    fn disturbs_publishes(&self) -> bool {
        self.frozen || self.muted || self.traps.are_armed() || self.limits.disturb_publishes()
    }

    fn publish(
        &self,
        topics: &Topics,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Result<(), LinkError> {
        self.limits.take()?;
        let mut spot = topics.lock(channel);
        let members = spot.publish();
        if self.muted {
            return Ok(());
        }
        for member in members {
            let waiting = || Arriving::Frame(channel.clone(), frame.clone());
            let inbound = member.inlet.inbound();
            if !self.limits.hold_back(member.link, inbound, waiting) {
                member.inlet.deliver_then(frame, wakes);
            }
        }
        Ok(())
    }

    /// Takes the links of some nodes out, and their subscriptions.
    fn take_links(&mut self, topics: &Topics, chosen: impl Fn(NodeId) -> bool) -> Vec<Taken> {
        let taken: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| chosen(link.node()))
            .map(|(id, _)| *id)
            .collect();
        let taken = taken.into_iter();
        taken
            .filter_map(|link| self.take_link(topics, link))
            .collect()
    }

    /// Takes a link out, and its subscriptions. When it returns, nobody publishes on it.
    fn take_link(&mut self, topics: &Topics, link: u64) -> Option<Taken> {
        let Connection { inbound, connected } = self.links.remove(&link)?;
        connected.end();
        topics.leave(link);
        let _waiting = self.limits.forget(link);
        Some(Taken { inbound, _waiting })
    }

    /// Does a request, and gives its answer back if it is due now: on a link whose node takes nothing it waits behind
    /// what is delivered there. Publishes are answered apart from deliveries.
    fn serve(
        &mut self,
        topics: &Topics,
        request: Request,
        done: Answer,
        wakes: &mut Wakes,
    ) -> Option<(Answer, Result<(), LinkError>)> {
        let link = match &request {
            Request::Publish(..) => None,
            Request::Subscribe(link, _) | Request::Unsubscribe(link, _) | Request::Ping(link) => {
                Some(*link)
            }
        };
        let result = self.perform(topics, request, wakes);
        let receiving = link.and_then(|link| Some((link, self.links.get(&link)?)));
        let due = match receiving {
            Some((link, to)) if result.is_ok() => {
                self.limits.hold_back_answer(link, &to.inbound, done)
            }
            _ => Some(done),
        };
        due.map(|done| (done, result))
    }

    fn perform(
        &mut self,
        topics: &Topics,
        request: Request,
        wakes: &mut Wakes,
    ) -> Result<(), LinkError> {
        match request {
            Request::Publish(channel, frame) => self.publish(topics, &channel, &frame, wakes)?,
            Request::Ping(link) => {
                self.connection(link)?;
            }
            Request::Subscribe(link, channels) => {
                let connection = self.connection(link)?;
                let Connection { inbound, connected } = connection;
                for channel in &channels {
                    topics.subscribe(channel, link, inbound, connected);
                }
                self.subscribes += 1;
            }
            Request::Unsubscribe(link, channels) => {
                self.connection(link)?;
                for channel in &channels {
                    topics.unsubscribe(channel, link);
                }
            }
        }
        Ok(())
    }

    fn connection(&self, link: u64) -> Result<&Connection, LinkError> {
        self.links
            .get(&link)
            .ok_or_else(|| lost("the connection is broken"))
    }
}

impl Drop for After {
    fn drop(&mut self) {
        for (done, result) in self.answers.drain(..) {
            // Whoever asked may have given up.
            let _ = done.send(result);
        }
    }
}

impl Connection {
    fn node(&self) -> NodeId {
        self.inbound.node_id()
    }
}

/// Does what [`Inbound::deliver_bytes`] does, and leaves it to the caller to wake the readers.
fn deliver_bytes_then(inbound: &Inbound, name: &BrokerChannel, bytes: &Bytes, wakes: &mut Wakes) {
    match Frame::decode(bytes) {
        Ok(frame) => inbound.deliver_then(name.as_bytes(), &frame, wakes),
        Err(_) => inbound.deliver_bytes(name.as_bytes(), bytes),
    }
}

fn lost(why: &str) -> LinkError {
    LinkError::new(LinkErrorKind::Lost, why)
}
