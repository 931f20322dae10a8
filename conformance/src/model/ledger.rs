//! What was published, what came of it, and what each subscription got: [`Ledger`], which knows what is owed.
//!
//! It is pure: no clock, no node. Every call is a moment of its own, a [`Tick`]; a call is told before it begins and
//! after it has returned, so that of two calls it is known which was over before the other began, and nothing else is
//! assumed.
//!
//! # What must be true of a subscription's stream
//! For each channel of the subscription and each publisher of its prefix:
//!
//! - The delivered messages are in the order in which the publisher began to publish them, each once. A cancelled
//!   publish, or one whose outcome is `Unknown`, may be among them or not.
//! - None was reported as `NotSent`; none is of another prefix or of a channel that the subscription did not hold
//!   between the begin of its subscribe and the return of its unsubscribe; none is the node's own if these are left out.
//! - None was accepted before the subscribe began, unless the backend replays.
//! - A message is *owed* if its publish began after the subscribe had returned, returned `Ok` before the unsubscribe
//!   began, and either the channel is held still, or a later message of the publisher was delivered while it was held.
//!   (What was received and not read is given up by an unsubscribe; what comes after it is not owed.)
//! - An owed message that is missing has its *place*: after the delivered one before it of the same publisher and channel, and
//!   before the delivered one after it. A gap must have been told there, after the publish began. A gap that stands for an
//!   outage covers any number; one that counts covers so many. Each message takes one count of one gap.
//! - Each count of a gap stands for a missing message, owed or possible, whose place is there: no gap counts more than
//!   can be missing. What a gap says of a publisher that was missed in an outage is neither more than can be missing of it
//!   nor, if the backend counts, less than what is owed and has been heard before and after.
//! - There are as many outages told as the node had while it was subscribed.

mod check;
pub(super) mod cover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};

use backplane_core::{Gap, NodeId};

use self::check::Check;
use super::account::{Account, Class, Violation};

/// A moment. Of two calls, one was over before the other began, or they were under way together.
pub(crate) type Tick = u64;

/// A channel, by its number in the model.
pub(crate) type Topic = u8;

/// Names a node that was made, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PublisherId(pub(crate) u64);

/// Names a subscription that was asked for, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u64);

/// Names a message: the how manieth of its publisher it is, over all channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MessageId {
    pub(crate) publisher: PublisherId,
    pub(crate) number: u64,
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It returned `Ok`.
    Accepted,
    /// It returned `NotSent`.
    NotSent,
    /// It has not returned, was cancelled, or returned `Unknown`.
    Unknown,
}

/// A message as it arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// What its payload says. `None`: the payload is none of ours.
    pub(crate) id: Option<MessageId>,
    /// Whose it is, as the delivery says.
    pub(crate) sender: NodeId,
    /// Its channel, if it is one of the model's.
    pub(crate) topic: Option<Topic>,
}

/// One item of a stream.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Message(Arrival),
    Gap(Gap),
}

/// How often a node was attached, as far as that is known: between these two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) least: u64,
    pub(crate) most: u64,
}

/// How a backend is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Whether gaps must say how many messages of each publisher were missed in an outage.
    pub(crate) counts_loss: bool,
    /// Whether messages of before may arrive.
    pub(crate) replay: bool,
}

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Ledger {
    terms: Terms,
    now: Tick,
    publishers: BTreeMap<PublisherId, Publisher>,
    streams: BTreeMap<StreamId, Stream>,
    last_id: u64,
    /// Whether the broker may have dropped messages, since the last check, of which no node could know yet.
    silent: bool,
    account: Account,
    violations: Vec<Violation>,
}

#[derive(Debug)]
struct Publisher {
    node: NodeId,
    prefix: u8,
    closed: bool,
    /// The number of the first message that is remembered.
    first: u64,
    sent: VecDeque<Sent>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    topic: Topic,
    fate: Fate,
    began: Tick,
    /// When it had returned.
    ended: Tick,
}

/// What is known of one subscription since the last check.
#[derive(Debug)]
struct Stream {
    node: PublisherId,
    prefix: u8,
    without_own: bool,
    memberships: Vec<Membership>,
    items: Vec<Received>,
    ended: bool,
    /// Outages up to this attachment of the node were told before, or never will be.
    told_up_to: u64,
    /// The latest delivered message of each publisher and channel before the last check.
    before: HashMap<(PublisherId, Topic), u64>,
}

/// One time in which a subscription held a channel.
#[derive(Clone, Copy, Debug)]
struct Membership {
    topic: Topic,
    began: Tick,
    in_force: Option<Tick>,
    leave_began: Option<Tick>,
    left: Option<Tick>,
    /// From when on outages must be told, and how often the node was attached then.
    owed_from: Option<(Tick, u64)>,
}

#[derive(Clone, Debug)]
struct Received {
    item: Item,
    /// It was taken out of the queue after this,
    looked: Tick,
    /// and before this.
    done: Tick,
}

impl Ledger {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            now: 0,
            publishers: BTreeMap::new(),
            streams: BTreeMap::new(),
            last_id: 0,
            silent: false,
            account: Account::default(),
            violations: Vec::new(),
        }
    }

    /// A moment after all others so far.
    pub(crate) fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    pub(crate) const fn account(&self) -> &Account {
        &self.account
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Adds something that must not be and that the ledger cannot see itself.
    pub(crate) fn violate(&mut self, violation: Violation) {
        self.account.record(&violation);
        self.violations.push(violation);
    }

    /// A fault was made.
    pub(crate) fn fault(&mut self, kind: &str) {
        self.account.fault(kind);
    }

    /// The broker was made to drop messages without a sign. A node that subscribes meanwhile cannot tell those that were
    /// dropped before from those after, so that what it says of an outage may count both.
    pub(crate) const fn silence(&mut self) {
        self.silent = true;
    }

    // --- publishers

    pub(crate) fn open(&mut self, node: NodeId, prefix: u8) -> PublisherId {
        self.last_id += 1;
        let id = PublisherId(self.last_id);
        let publisher = Publisher {
            node,
            prefix,
            closed: false,
            first: 0,
            sent: VecDeque::new(),
        };
        self.publishers.insert(id, publisher);
        id
    }

    /// What the backend declares.
    pub(crate) const fn terms(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// Every subscription that was not checked after its end.
    pub(crate) fn streams(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// Nothing more is published by this node.
    pub(crate) fn close(&mut self, publisher: PublisherId) {
        if let Some(publisher) = self.publishers.get_mut(&publisher) {
            publisher.closed = true;
        }
    }

    /// A publish is about to begin; the ones of a publisher begin in the order of these calls.
    pub(crate) fn attempt(&mut self, publisher: PublisherId, topic: Topic) -> MessageId {
        let began = self.tick();
        self.account.attempted += 1;
        let entry = self.publishers.get_mut(&publisher);
        let number = entry.map_or(0, |entry| {
            entry.sent.push_back(Sent {
                topic,
                fate: Fate::Unknown,
                began,
                ended: Tick::MAX,
            });
            entry.first + entry.sent.len() as u64 - 1
        });
        MessageId { publisher, number }
    }

    /// A publish has returned, or was cancelled.
    pub(crate) fn settle(&mut self, message: MessageId, fate: Fate) {
        let ended = self.tick();
        match fate {
            Fate::Accepted => {}
            Fate::NotSent => self.account.not_sent += 1,
            Fate::Unknown => self.account.unknown += 1,
        }
        let sent = self
            .publishers
            .get_mut(&message.publisher)
            .and_then(|p| p.at_mut(message.number));
        if let Some(sent) = sent {
            sent.fate = fate;
            sent.ended = ended;
        }
    }

    // --- subscriptions

    /// A subscription is about to be made.
    pub(crate) fn subscribe(
        &mut self,
        node: PublisherId,
        without_own: bool,
        generation: Generation,
    ) -> StreamId {
        self.last_id += 1;
        let id = StreamId(self.last_id);
        let stream = Stream {
            node,
            prefix: self.publishers.get(&node).map_or(0, |p| p.prefix),
            without_own,
            memberships: Vec::new(),
            items: Vec::new(),
            ended: false,
            told_up_to: generation.least,
            before: HashMap::new(),
        };
        self.streams.insert(id, stream);
        id
    }

    /// Channels are about to be added.
    pub(crate) fn join(&mut self, stream: StreamId, topics: &[Topic]) {
        let began = self.tick();
        let Some(stream) = self.streams.get_mut(&stream) else {
            return;
        };
        for topic in topics {
            if !stream.holds(*topic) {
                stream.memberships.push(Membership {
                    topic: *topic,
                    began,
                    in_force: None,
                    leave_began: None,
                    left: None,
                    owed_from: None,
                });
            }
        }
    }

    /// Channels have been added and are in force. `since`: how often the node was attached then, as seen after this
    /// moment, if that is known; later outages must be told.
    pub(crate) fn joined(
        &mut self,
        stream: StreamId,
        topics: &[Topic],
        since: Option<(Tick, u64)>,
    ) {
        let now = self.tick();
        for membership in self.open_memberships(stream, topics) {
            if membership.in_force.is_none() {
                membership.in_force = Some(now);
                membership.owed_from = since;
            }
        }
    }

    /// Channels that are not in force are, after all, not added: the call has failed or was cancelled.
    pub(crate) fn not_joined(&mut self, stream: StreamId, topics: &[Topic]) {
        let now = self.tick();
        for membership in self.open_memberships(stream, topics) {
            if membership.in_force.is_none() {
                membership.leave_began = Some(now);
                membership.left = Some(now);
            }
        }
    }

    /// Channels are about to be removed.
    pub(crate) fn leave(&mut self, stream: StreamId, topics: &[Topic]) {
        let now = self.tick();
        for membership in self.open_memberships(stream, topics) {
            membership.leave_began = Some(now);
        }
    }

    /// Channels have been removed.
    pub(crate) fn left(&mut self, stream: StreamId, topics: &[Topic]) {
        let now = self.tick();
        for membership in self.streams.get_mut(&stream).into_iter().flat_map(|s| {
            let of = |m: &&mut Membership| m.left.is_none() && topics.contains(&m.topic);
            s.memberships.iter_mut().filter(of)
        }) {
            membership.left = Some(now);
        }
    }

    /// A subscription is about to be dropped, or its node closed.
    pub(crate) fn ending(&mut self, stream: StreamId) {
        let topics = self.topics(stream);
        self.leave(stream, &topics);
    }

    /// A subscription was dropped, or its stream has ended.
    pub(crate) fn ended(&mut self, stream: StreamId) {
        let now = self.tick();
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.ended = true;
            for membership in &mut stream.memberships {
                membership.leave_began.get_or_insert(now);
                membership.left.get_or_insert(now);
            }
        }
    }

    /// An item was received; it was not taken out of the queue before `looked`.
    pub(crate) fn received(&mut self, stream: StreamId, looked: Tick, item: Item) {
        let done = self.tick();
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.items.push(Received { item, looked, done });
        }
    }

    /// The channels that a subscription holds.
    pub(crate) fn topics(&self, stream: StreamId) -> Vec<Topic> {
        let open = |m: &&Membership| m.leave_began.is_none();
        self.streams.get(&stream).map_or_else(Vec::new, |stream| {
            let open = stream.memberships.iter().filter(open);
            open.map(|membership| membership.topic).collect()
        })
    }

    /// The channels that a subscription holds and that are not in force yet.
    pub(crate) fn deferred(&self, stream: StreamId) -> Vec<Topic> {
        let deferred = |m: &&Membership| m.leave_began.is_none() && m.in_force.is_none();
        self.streams.get(&stream).map_or_else(Vec::new, |stream| {
            let deferred = stream.memberships.iter().filter(deferred);
            deferred.map(|membership| membership.topic).collect()
        })
    }

    /// Whether a subscription has received this message, or a later one of its publisher and channel, or leaves it out.
    pub(crate) fn has(&self, stream: StreamId, message: MessageId) -> bool {
        let Some(topic) = self
            .publishers
            .get(&message.publisher)
            .and_then(|p| p.at(message.number))
            .map(|sent| sent.topic)
        else {
            return true;
        };
        self.streams.get(&stream).is_none_or(|stream| {
            let left_out = stream.without_own && stream.node == message.publisher;
            left_out || stream.items.iter().rev().any(|received| {
                matches!(&received.item, Item::Message(Arrival { id: Some(id), topic: Some(t), .. })
                    if *t == topic && id.publisher == message.publisher && id.number >= message.number)
            })
        })
    }

    // --- checking

    /// Whether owed messages of a subscription are missing without a gap, so far.
    pub(crate) fn is_owed(&self, stream: StreamId) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|s| Check::of(self, stream, s, None).lost() > 0)
    }

    /// Checks a subscription; `generation` is how often its node was attached, if that is known.
    pub(crate) fn check(&mut self, id: StreamId, generation: Option<Generation>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let found = Check::of(self, id, stream, generation);
        let latest = found.latest();
        let (delivered, counted, violations) = (found.delivered, found.counted, found.violations);
        self.account.delivered += delivered;
        self.account.counted_lost += counted;
        for violation in violations {
            self.violate(violation);
        }
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.ended {
            self.streams.remove(&id);
            return;
        }
        stream.before.extend(latest);
        stream.items.clear();
        stream.memberships.retain(|m| m.left.is_none());
        if let Some(Generation { least, most }) = generation {
            stream.told_up_to = least;
            for membership in stream.memberships.iter_mut() {
                let known = membership.in_force.is_some() && least == most;
                membership.owed_from = known.then_some((now, most));
            }
        }
    }

    /// Forgets what was published, after everything was checked.
    pub(crate) fn forget(&mut self) {
        self.silent = false;
        self.publishers.retain(|_, publisher| !publisher.closed);
        for publisher in self.publishers.values_mut() {
            publisher.first += publisher.sent.len() as u64;
            publisher.sent.clear();
        }
        let publishers = &self.publishers;
        for stream in self.streams.values_mut() {
            stream.before.retain(|(p, _), _| publishers.contains_key(p));
        }
    }

    fn open_memberships(
        &mut self,
        stream: StreamId,
        topics: &[Topic],
    ) -> impl Iterator<Item = &mut Membership> {
        let stream = self.streams.get_mut(&stream).into_iter();
        stream
            .flat_map(|stream| stream.memberships.iter_mut())
            .filter(|m| m.leave_began.is_none() && topics.contains(&m.topic))
    }
}

impl Stream {
    fn holds(&self, topic: Topic) -> bool {
        let mut held = self.memberships.iter();
        held.any(|m| m.topic == topic && m.leave_began.is_none())
    }
}

impl Publisher {
    fn at(&self, number: u64) -> Option<&Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.sent.get(index)
    }

    fn at_mut(&mut self, number: u64) -> Option<&mut Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.sent.get_mut(index)
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.publisher.0, self.number)
    }
}

impl MessageId {
    /// The payload of the message.
    pub(crate) fn to_payload(self) -> String {
        self.to_string()
    }

    /// The message of a payload.
    pub(crate) fn from_payload(payload: &[u8]) -> Option<Self> {
        let (publisher, number) = std::str::from_utf8(payload).ok()?.split_once('.')?;
        Some(Self {
            publisher: PublisherId(publisher.parse().ok()?),
            number: number.parse().ok()?,
        })
    }
}

/// Shortens the making of violations.
fn violation(class: Class, count: u64, text: impl Into<String>) -> Violation {
    Violation::new(class, count, text)
}
