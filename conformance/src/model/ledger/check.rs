//! The check of one stream: [`Check`].

use std::collections::{BTreeSet, HashMap, HashSet};

use backplane_core::Gap;

use super::cover::{Missing, Slot, assign};
use super::{
    Arrival, Fate, Generation, Item, Ledger, MessageId, PublisherId, Sent, Stream, StreamId, Tick,
    Topic, violation,
};
use crate::model::account::{Class, Violation};

/// What a stream comes to.
#[derive(Debug)]
pub(super) struct Check<'a> {
    ledger: &'a Ledger,
    id: StreamId,
    stream: &'a Stream,
    /// The messages that arrived in order, of each publisher and channel.
    seen: HashMap<(PublisherId, Topic), Vec<Seen>>,
    /// Everything that arrived, in whatever order.
    arrived: HashSet<MessageId>,
    pub(super) delivered: u64,
    pub(super) counted: u64,
    pub(super) violations: Vec<Violation>,
}

/// A message in its place.
#[derive(Clone, Copy, Debug)]
struct Seen {
    number: u64,
    at: usize,
    membership: usize,
}

/// A message that did not arrive.
#[derive(Clone, Copy, Debug)]
struct Absent {
    id: MessageId,
    topic: Topic,
    place: Missing,
    owed: bool,
    /// Whether messages of its publisher and channel arrived before and after it, in one membership.
    between: bool,
}

impl<'a> Check<'a> {
    pub(super) fn of(
        ledger: &'a Ledger,
        id: StreamId,
        stream: &'a Stream,
        generation: Option<Generation>,
    ) -> Self {
        let mut check = Self {
            ledger,
            id,
            stream,
            seen: HashMap::new(),
            arrived: HashSet::new(),
            delivered: 0,
            counted: 0,
            violations: Vec::new(),
        };
        for (at, received) in stream.items.iter().enumerate() {
            if let Item::Message(arrival) = &received.item {
                check.arrive(at, *arrival, received.looked, received.done);
            }
        }
        let absent = check.absent();
        check.cover(&absent);
        check.counts(&absent);
        check.outages(generation);
        check
    }

    /// How many owed messages are missing without a gap.
    pub(super) fn lost(&self) -> u64 {
        let lost = |v: &&Violation| v.class == Class::UnreportedLost;
        self.violations.iter().filter(lost).map(|v| v.count).sum()
    }

    /// The latest delivered number of each publisher and channel.
    pub(super) fn latest(&self) -> Vec<((PublisherId, Topic), u64)> {
        let latest = |(key, seen): (&_, &Vec<Seen>)| seen.last().map(|last| (*key, last.number));
        self.seen.iter().filter_map(latest).collect()
    }

    /// Judges one message by itself and by those before it.
    fn arrive(&mut self, at: usize, arrival: Arrival, looked: Tick, done: Tick) {
        let Some(id) = arrival.id else {
            self.find(Class::Unexpected, 1, "a message that nobody published");
            return;
        };
        let membership = match self.allowed(id, arrival, looked, done) {
            Ok(membership) => membership,
            Err(Judged(class, why)) => {
                self.find(class, 1, format!("message {id} {why}"));
                return;
            }
        };
        if !self.arrived.insert(id) {
            self.find(Class::Duplicated, 1, format!("message {id} arrived again"));
            return;
        }
        let topic = arrival.topic.unwrap_or_default();
        let seen = self.seen.entry((id.publisher, topic)).or_default();
        if let Some(last) = seen.last().filter(|last| last.number > id.number) {
            let later = last.number;
            let text = format!("message {id} arrived after number {later} of the same channel");
            self.find(Class::Reordered, 1, text);
            return;
        }
        seen.push(Seen {
            number: id.number,
            at,
            membership,
        });
        self.delivered += 1;
    }

    /// The membership through which a message came, or why it should not have come.
    fn allowed(
        &self,
        id: MessageId,
        arrival: Arrival,
        looked: Tick,
        done: Tick,
    ) -> Result<usize, Judged> {
        let unexpected = |why: String| Err(Judged(Class::Unexpected, why));
        let Some(publisher) = self.ledger.publishers.get(&id.publisher) else {
            return unexpected("is of a node that is gone for long".to_owned());
        };
        if publisher.prefix != self.stream.prefix {
            return unexpected("is of another prefix".to_owned());
        }
        let Some(topic) = arrival.topic else {
            return unexpected("came with a channel that does not exist".to_owned());
        };
        if id.number < publisher.first {
            let before = self.stream.before.get(&(id.publisher, topic));
            return Err(match before {
                Some(last) if *last >= id.number => {
                    let why = format!("arrived after number {last}, again or too late");
                    Judged(Class::Duplicated, why)
                }
                _ => Judged(Class::Unexpected, "is of long before".to_owned()),
            });
        }
        let Some(sent) = publisher.at(id.number) else {
            return unexpected("was not published".to_owned());
        };
        if sent.topic != topic {
            return unexpected(format!(
                "was published to channel {} and came as of channel {topic}",
                sent.topic
            ));
        }
        if publisher.node != arrival.sender {
            let sender = arrival.sender;
            return unexpected(format!("is said to be of node {sender}, which it is not"));
        }
        if sent.fate == Fate::NotSent {
            return unexpected("was reported as not sent, and was delivered".to_owned());
        }
        if self.stream.without_own && id.publisher == self.stream.node {
            return unexpected(
                "is of the subscription's own node, whose messages it leaves out".to_owned(),
            );
        }
        let mut held = self.stream.memberships.iter().enumerate().rev();
        let was_held = held.clone().any(|(_, m)| m.topic == topic);
        let through = held.find(|(_, m)| {
            m.topic == topic
                && done > m.began
                && m.left.is_none_or(|left| looked < left)
                && !self.is_before(sent, m.began)
        });
        match through {
            Some((index, _)) => Ok(index),
            None if was_held => unexpected(format!(
                "of channel {topic} was published before the subscription, or came after its end"
            )),
            None => unexpected(format!("is of channel {topic}, which was not subscribed")),
        }
    }

    /// Whether a message was accepted before this, and so must not come to who subscribed then.
    fn is_before(&self, sent: &Sent, began: Tick) -> bool {
        !self.ledger.terms.replay && sent.fate == Fate::Accepted && sent.ended < began
    }

    /// Every message that could have arrived and did not.
    fn absent(&self) -> Vec<Absent> {
        let topics: BTreeSet<Topic> = self.stream.memberships.iter().map(|m| m.topic).collect();
        let mut absent = Vec::new();
        for (id, publisher) in &self.ledger.publishers {
            let own = *id == self.stream.node && self.stream.without_own;
            if publisher.prefix != self.stream.prefix || own {
                continue;
            }
            for (number, sent) in (publisher.first..).zip(&publisher.sent) {
                let message = MessageId {
                    publisher: *id,
                    number,
                };
                if topics.contains(&sent.topic)
                    && sent.fate != Fate::NotSent
                    && !self.arrived.contains(&message)
                {
                    absent.extend(self.judge(message, sent));
                }
            }
        }
        absent
    }

    /// Where a message that did not arrive can be missing, and whether it is owed.
    fn judge(&self, id: MessageId, sent: &Sent) -> Option<Absent> {
        let items = &self.stream.items;
        let seen = self.seen.get(&(id.publisher, sent.topic));
        let seen = seen.map_or(&[][..], Vec::as_slice);
        let split = seen.partition_point(|seen| seen.number < id.number);
        let (before, after) = (
            split.checked_sub(1).map(|index| seen[index]),
            seen.get(split),
        );
        let began = items.partition_point(|received| received.done <= sent.began);
        let place = Missing {
            from: before.map_or(0, |seen| seen.at + 1).max(began),
            until: after.map_or(items.len(), |seen| seen.at),
        };
        let (mut possible, mut owed, mut between) = (false, false, false);
        for (index, held) in self.stream.memberships.iter().enumerate() {
            if held.topic != sent.topic {
                continue;
            }
            possible |=
                !self.is_before(sent, held.began) && held.left.is_none_or(|left| sent.began < left);
            let whole = sent.fate == Fate::Accepted
                && held.in_force.is_some_and(|since| since < sent.began)
                && held.leave_began.is_none_or(|left| sent.ended < left);
            let followed = after.is_some_and(|seen| seen.membership == index);
            owed |= whole && (followed || held.leave_began.is_none());
            between |= followed && before.is_some_and(|seen| seen.membership == index);
        }
        possible.then_some(Absent {
            id,
            topic: sent.topic,
            place,
            owed,
            between: between && owed,
        })
    }

    /// Gives the missing messages to the gaps.
    fn cover(&mut self, absent: &[Absent]) {
        let owed: Vec<&Absent> = absent.iter().filter(|absent| absent.owed).collect();
        let places: Vec<Missing> = owed.iter().map(|absent| absent.place).collect();
        let reported = self.slots(|gap| match gap.outages() {
            0 => counted(gap),
            _ => u64::MAX,
        });
        let (left, _) = assign(&places, &reported);
        self.counted += (owed.len() - left.len()) as u64;
        // One line for each publisher and channel.
        let mut lost: Vec<(PublisherId, Topic, Vec<&Absent>)> = Vec::new();
        for index in left {
            let one = owed[index];
            let key = (one.id.publisher, one.topic);
            match lost.iter_mut().find(|(p, t, _)| (*p, *t) == key) {
                Some((_, _, list)) => list.push(one),
                None => lost.push((key.0, key.1, vec![one])),
            }
        }
        for (_, topic, list) in lost {
            let ids: Vec<_> = list.iter().take(8).map(|a| a.id.to_string()).collect();
            let more = if list.len() > ids.len() { ", ..." } else { "" };
            let text = format!(
                "channel {topic}: accepted messages {}{more} did not arrive, and no gap covers them{}",
                ids.join(", "),
                self.around(list[0].place)
            );
            self.find(Class::UnreportedLost, list.len() as u64, text);
        }
        let places: Vec<Missing> = absent.iter().map(|absent| absent.place).collect();
        let (_, over) = assign(&places, &self.slots(counted));
        if over > 0 {
            let text = format!("the gaps count {over} more than can be missing where they stand");
            self.find(Class::Unexpected, over, text);
        }
    }

    /// What gaps of outages say of single publishers.
    fn counts(&mut self, absent: &[Absent]) {
        let mut findings = Vec::new();
        for (id, publisher) in &self.ledger.publishers {
            let told: u64 = self
                .gaps()
                .filter_map(|(_, gap)| gap.missed_from(publisher.node))
                .sum();
            let of = |a: &&Absent| a.id.publisher == *id;
            let can_be = match self.ledger.silent {
                false => absent.iter().filter(of).count() as u64,
                true => publisher.sent.len() as u64,
            };
            if told > can_be {
                let text = format!(
                    "gaps count {told} messages of publisher {} as missed in outages, and at most {can_be} are",
                    id.0
                );
                findings.push((Class::Unexpected, told - can_be, text));
            }
            // Where another gap counts too, it is not known which counts what.
            let alone = |a: &&Absent| {
                let mut there = self
                    .gaps()
                    .filter(|(at, _)| (a.place.from..a.place.until).contains(at));
                a.between && there.clone().count() > 0 && there.all(|(_, gap)| counted(gap) == 0)
            };
            let owed = absent.iter().filter(of).filter(alone).count() as u64;
            if self.ledger.terms.counts_loss && told < owed {
                let text = format!(
                    "gaps count {told} messages of publisher {} as missed in outages, and at least {owed} are",
                    id.0
                );
                findings.push((Class::UnreportedLost, owed - told, text));
            }
        }
        for (class, count, text) in findings {
            self.find(class, count, text);
        }
    }

    /// Whether as many outages were told as there were.
    fn outages(&mut self, generation: Option<Generation>) {
        if let Some((at, _)) = self
            .gaps()
            .find(|(_, gap)| gap.outages() == 0 && counted(gap) == 0)
        {
            let text = format!("the gap at place {at} stands for nothing");
            self.find(Class::Unexpected, 1, text);
        }
        let Some(generation) = generation else {
            return;
        };
        let told: u64 = self.gaps().map(|(_, gap)| u64::from(gap.outages())).sum();
        let most = generation.most.saturating_sub(self.stream.told_up_to);
        if told > most {
            let text = format!("{told} outages were told, and there were at most {most}");
            self.find(Class::Unexpected, told - most, text);
        }
        let short = self.stream.memberships.iter().filter_map(|held| {
            let (since, then) = held.owed_from.filter(|_| held.leave_began.is_none())?;
            let had = generation.least.saturating_sub(then);
            let items = self.stream.items.iter().filter(|item| item.done > since);
            let told: u64 = items.map(|item| outages(&item.item)).sum();
            (told < had).then_some((told, had))
        });
        if let Some((told, had)) = short.max_by_key(|(told, had)| had - told) {
            let text = format!("{told} outages were told, and there were {had}");
            self.find(Class::Unexpected, had - told, text);
        }
    }

    fn gaps(&self) -> impl Iterator<Item = (usize, &'a Gap)> + Clone + use<'a> {
        let items = self.stream.items.iter().enumerate();
        items.filter_map(|(at, received)| match &received.item {
            Item::Gap(gap) => Some((at, gap)),
            Item::Message(_) => None,
        })
    }

    fn slots(&self, room: impl Fn(&Gap) -> u64) -> Vec<Slot> {
        let slot = |(at, gap): (usize, &Gap)| Slot {
            at,
            room: room(gap),
        };
        self.gaps().map(slot).collect()
    }

    /// What stands in the stream around a place, for people.
    fn around(&self, place: Missing) -> String {
        let from = place.from.saturating_sub(1);
        let until = (place.until + 1).min(self.stream.items.len());
        let items = self.stream.items.get(from..until).unwrap_or_default();
        if items.is_empty() {
            return String::new();
        }
        let shown = items.iter().take(12).map(|received| match &received.item {
            Item::Message(Arrival { id: Some(id), .. }) => id.to_string(),
            Item::Message(_) => "a strange message".to_owned(),
            Item::Gap(gap) => format!("[gap: {gap}]"),
        });
        let shown: Vec<_> = shown.collect();
        format!("; at their place stands: {}", shown.join(" "))
    }

    fn find(&mut self, class: Class, count: u64, text: impl Into<String>) {
        let (stream, node) = (self.id.0, self.stream.node.0);
        let text = format!("subscription {stream} of node {node}: {}", text.into());
        self.violations.push(violation(class, count, text));
    }
}

/// Why a message should not have come.
struct Judged(Class, String);

/// How many messages a gap counts by itself.
fn counted(gap: &Gap) -> u64 {
    gap.overflowed().saturating_add(gap.dropped_by_broker())
}

fn outages(item: &Item) -> u64 {
    match item {
        Item::Gap(gap) => gap.outages().into(),
        Item::Message(_) => 0,
    }
}
