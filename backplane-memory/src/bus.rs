//! The broker in memory: [`MemoryBus`].

mod limits;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use ahash::RandomState;
use backplane_core::driver::{BrokerChannel, Frame, Inbound, LinkError, LinkErrorKind, Wakes};
use backplane_core::{Channel, ConnectError, InvalidOption, Node, NodeId, NodeOptions, Prefix};
use bytes::Bytes;
use tokio::sync::oneshot;

use self::limits::{Answer, Arriving, Limits};
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

#[derive(Debug, Default)]
struct Bus {
    state: RwLock<State>,
    lag: Lag,
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
    published: AtomicU64,
    subscribes: u64,
    /// Nodes that may not connect.
    refused: Vec<NodeId>,
    limits: Limits,
    last_link: u64,
    links: HashMap<u64, Inbound, RandomState>,
    topics: HashMap<BrokerChannel, Topic, RandomState>,
    /// What reached the frozen bus, in order.
    held: VecDeque<Held>,
}

/// The links that are subscribed to a channel. Frames are delivered under the lock, so that all see one
/// order.
#[derive(Debug, Default)]
struct Topic(Mutex<Vec<(u64, Inbound)>>);

/// A request to a frozen bus. It is done when the bus thaws, whether or not somebody still waits.
#[derive(Debug)]
struct Held {
    request: Request,
    done: Answer,
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
        state.held.clear();
        state.topics.clear();
        state.ignored.clear();
        state.limits.forget_all();
        let links = std::mem::take(&mut state.links);
        drop(state);
        for inbound in links.into_values() {
            inbound.lost(lost("the bus was stopped"));
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
        let mut state = self.write();
        state.frozen = false;
        while let Some(Held { request, done }) = state.held.pop_front() {
            if let Some((done, result)) = state.serve(request, done) {
                let _ = done.send(result);
            }
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
        self.read().published.load(Ordering::Relaxed)
    }

    /// How many requests to subscribe were done since the bus was made, whatever number of channels each had.
    #[must_use]
    pub fn subscribes(&self) -> u64 {
        self.read().subscribes
    }

    /// How many nodes are subscribed to a channel.
    #[must_use]
    pub fn subscribers(&self, prefix: &Prefix, channel: &Channel) -> usize {
        let state = self.read();
        state
            .topics
            .get(&BrokerChannel::new(prefix, channel))
            .map_or(0, |t| t.members().len())
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
        let state = self.read();
        let Some(topic) = state
            .topics
            .get(name)
            .filter(|_| !state.muted && !state.frozen)
        else {
            return 0;
        };
        let members = topic.members();
        for (link, inbound) in members.iter() {
            let waiting = || Arriving::Bytes(name.clone(), bytes.clone());
            if !state.limits.hold_back(*link, inbound, waiting) {
                inbound.deliver_bytes(name.as_bytes(), bytes);
            }
        }
        let reached = members.len();
        drop(members);
        drop(state);
        self.break_off_overrun();
        reached
    }

    // --- for the driver

    /// Takes the time that the way to the bus takes, or the way back.
    pub(crate) async fn pass(&self) {
        self.0.lag.pass().await;
    }

    pub(crate) fn open(&self, inbound: Inbound) -> Result<u64, LinkError> {
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
        if state.ignoring {
            state.ignored.insert(id, Vec::new());
        } else {
            state.links.insert(id, inbound);
        }
        Ok(id)
    }

    pub(crate) fn close(&self, link: u64) {
        let mut state = self.write();
        state.ignored.remove(&link);
        state.links.remove(&link);
        state.topics.retain(|_, topic| topic.leave(link));
        state.limits.forget(link);
    }

    /// Publishes without waiting, or a copy of the frame; `None` when something stands in the way.
    pub(crate) fn publish_now(
        &self,
        link: u64,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Option<Result<(), LinkError>> {
        if !self.0.lag.is_none() {
            return None;
        }
        let state = self.read();
        if state.frozen || state.traps.are_armed() || state.limits.may_break_off() {
            return None;
        }
        if !state.links.contains_key(&link) {
            return Some(Err(lost("the connection is broken")));
        }
        Some(state.publish(channel, frame, wakes))
    }

    /// Publishes at once, or, on a frozen bus, when it thaws.
    pub(crate) fn publish(&self, link: u64, channel: &BrokerChannel, frame: &Frame) -> Reply {
        let mut wakes = Wakes::default();
        match self.publish_now(link, channel, frame, &mut wakes) {
            Some(published) => Reply::Now(published),
            None => self.request(link, Request::Publish(channel.clone(), frame.clone())),
        }
    }

    pub(crate) fn request(&self, link: u64, request: Request) -> Reply {
        let mut state = self.write();
        let (done, later) = oneshot::channel();
        if let Some(ignored) = state.ignored.get_mut(&link) {
            ignored.push(done);
            return Reply::Later(later);
        }
        let Some(node) = state.links.get(&link).map(Inbound::node_id) else {
            return Reply::Now(Err(lost("the connection is broken")));
        };
        if !state.frozen {
            let sprung = match &request {
                Request::Publish(..) => state.traps.spring(node, Trap::Publish),
                Request::Subscribe(..) => state.traps.spring(node, Trap::Subscribe),
                Request::Unsubscribe(..) | Request::Ping(_) => None,
            };
            let Some(moment) = sprung else {
                let served = state.serve(request, done);
                drop(state);
                self.break_off_overrun();
                return served.map_or(Reply::Later(later), |(_, result)| Reply::Now(result));
            };
            // What the bus has done it cannot take back: the node never hears of it.
            let reply = match moment {
                Moment::Before => Reply::Now(Err(lost("the connection was cut"))),
                Moment::After => {
                    drop(state.perform(request));
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
        let cut = state.take_links(chosen);
        drop(state);
        for inbound in &cut {
            inbound.lost(lost("the connection was cut"));
        }
        cut.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Result<(), LinkError> {
        self.limits.take()?;
        self.published.fetch_add(1, Ordering::Relaxed);
        if self.muted {
            return Ok(());
        }
        if let Some(topic) = self.topics.get(channel) {
            for (link, inbound) in topic.members().iter() {
                let waiting = || Arriving::Frame(channel.clone(), frame.clone());
                if !self.limits.hold_back(*link, inbound, waiting) {
                    inbound.deliver_then(channel.as_bytes(), frame, wakes);
                }
            }
        }
        Ok(())
    }

    /// Takes the links of some nodes out, and their subscriptions.
    fn take_links(&mut self, chosen: impl Fn(NodeId) -> bool) -> Vec<Inbound> {
        let taken: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, inbound)| chosen(inbound.node_id()))
            .map(|(id, _)| *id)
            .collect();
        let mut inbounds = Vec::new();
        for id in taken {
            inbounds.extend(self.links.remove(&id));
            self.topics.retain(|_, topic| topic.leave(id));
            self.limits.forget(id);
        }
        inbounds
    }

    /// Does a request, and gives its answer back if it is due now: on a link whose node takes nothing it waits behind
    /// what is delivered there. Publishes are answered apart from deliveries.
    fn serve(&mut self, request: Request, done: Answer) -> Option<(Answer, Result<(), LinkError>)> {
        let link = match &request {
            Request::Publish(..) => None,
            Request::Subscribe(link, _) | Request::Unsubscribe(link, _) | Request::Ping(link) => {
                Some(*link)
            }
        };
        let result = self.perform(request);
        let receiving = link.and_then(|link| Some((link, self.links.get(&link)?)));
        let due = match receiving {
            Some((link, to)) if result.is_ok() => self.limits.hold_back_answer(link, to, done),
            _ => Some(done),
        };
        due.map(|done| (done, result))
    }

    fn perform(&mut self, request: Request) -> Result<(), LinkError> {
        match request {
            Request::Publish(channel, frame) => {
                let mut wakes = Wakes::default();
                self.publish(&channel, &frame, &mut wakes)?;
            }
            Request::Ping(link) => drop(self.inbound(link)?),
            Request::Subscribe(link, channels) => {
                let inbound = self.inbound(link)?;
                self.subscribes += 1;
                for channel in channels {
                    let mut members = self.topics.entry(channel).or_default().members();
                    if !members.iter().any(|(member, _)| *member == link) {
                        members.push((link, inbound.clone()));
                    }
                }
            }
            Request::Unsubscribe(link, channels) => {
                self.inbound(link)?;
                for channel in channels {
                    if self
                        .topics
                        .get(&channel)
                        .is_some_and(|topic| !topic.leave(link))
                    {
                        self.topics.remove(&channel);
                    }
                }
            }
        }
        Ok(())
    }

    fn inbound(&self, link: u64) -> Result<Inbound, LinkError> {
        self.links
            .get(&link)
            .cloned()
            .ok_or_else(|| lost("the connection is broken"))
    }
}

impl Topic {
    fn members(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Inbound)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a link out; says whether any is left.
    fn leave(&self, link: u64) -> bool {
        let mut members = self.members();
        members.retain(|(member, _)| *member != link);
        !members.is_empty()
    }
}

fn lost(why: &str) -> LinkError {
    LinkError::new(LinkErrorKind::Lost, why)
}
