//! The check of one client: [`Check`].

use std::collections::{BTreeMap, HashSet};

use super::{Client, ClientId, Item, Record, Sent, Sure};
use crate::model::account::{Class, Violation};
use crate::model::ledger::cover::{Missing, Slot, assign};
use crate::model::ledger::{MessageId, PublisherId};

/// What a client comes to.
#[derive(Debug)]
pub(super) struct Check<'a> {
    record: &'a Record,
    id: ClientId,
    client: &'a Client,
    /// The messages that arrived, of each sender, and where.
    seen: BTreeMap<PublisherId, Vec<(u64, usize)>>,
    pub(super) delivered: u64,
    pub(super) counted: u64,
    pub(super) violations: Vec<Violation>,
}

/// An owed message that did not arrive.
#[derive(Clone, Copy, Debug)]
struct Absent {
    id: MessageId,
    place: Missing,
    /// Whether it comes from the client's own node without the backplane.
    at_once: bool,
}

impl<'a> Check<'a> {
    pub(super) fn of(record: &'a Record, id: ClientId, client: &'a Client) -> Self {
        let mut check = Self {
            record,
            id,
            client,
            seen: BTreeMap::new(),
            delivered: 0,
            counted: 0,
            violations: Vec::new(),
        };
        check.arrivals();
        let (absent, possible) = check.absent();
        check.cover(&absent, possible);
        check
    }

    /// How many owed messages are missing without a gap.
    pub(super) fn lost(&self) -> u64 {
        let lost = |v: &&Violation| v.class == Class::UnreportedLost;
        self.violations.iter().filter(lost).map(|v| v.count).sum()
    }

    /// What is wrong with gaps if there was nothing that they could stand for.
    pub(super) fn gaps_of_nothing(&self) -> Vec<Violation> {
        let of_nothing = |item: &&Item| match item {
            Item::Gap { .. } => true,
            Item::Missed(_) => !self.client.small,
            Item::Message(_) | Item::End => false,
        };
        let items = self.client.items.iter().filter(of_nothing);
        let text = |item| {
            format!(
                "{:?} was told {item:?} without a fault or an outage",
                self.id
            )
        };
        items
            .map(|item| Violation::new(Class::Unexpected, 1, text(item)))
            .collect()
    }

    fn arrivals(&mut self) {
        let mut new = HashSet::new();
        let mut ended = false;
        for (at, item) in self.client.items.iter().enumerate() {
            if ended {
                self.find(Class::Unexpected, 1, format!("got {item:?} after its end"));
            }
            match item {
                Item::Message(Some(message)) => self.arrive(at, *message, &mut new),
                Item::Message(None) => {
                    self.find(Class::Unexpected, 1, "got a message that nobody sent");
                }
                Item::End => ended = true,
                Item::Gap { .. } | Item::Missed(_) => {}
            }
        }
    }

    /// Judges one message by itself and by those before it.
    fn arrive(&mut self, at: usize, message: MessageId, new: &mut HashSet<MessageId>) {
        if self.client.before.contains(&message) || !new.insert(message) {
            return self.find(Class::Duplicated, 1, format!("got message {message} again"));
        }
        let sender = self.record.senders.get(&message.publisher);
        let Some(sent) = sender.and_then(|sender| sender.sent.get(&message.number)) else {
            let text = format!("got message {message}, after what was sent long after it");
            return self.find(Class::Reordered, 1, text);
        };
        if self.record.is_for(message, sent, self.id) == Sure::No {
            let text = format!(
                "got message {message}, which is for {:?} and not for it, or was not sent: {:?}",
                sent.to, sent.fate
            );
            return self.find(Class::Unexpected, 1, text);
        }
        let later = self.ordered_with(message, sent);
        let later = later
            .map(|(number, _)| number)
            .find(|number| *number > message.number);
        if let Some(later) = later {
            let text = format!("got message {message} after number {later} of the same sender");
            return self.find(Class::Reordered, 1, text);
        }
        let seen = self.seen.entry(message.publisher).or_default();
        seen.push((message.number, at));
        self.delivered += 1;
    }

    /// What is owed and did not arrive, and how many more messages could be missing.
    fn absent(&self) -> (Vec<Absent>, u64) {
        let (mut absent, mut possible) = (Vec::new(), 0);
        for (hub, sender) in &self.record.senders {
            for (number, sent) in &sender.sent {
                let id = MessageId {
                    publisher: *hub,
                    number: *number,
                };
                if self.client.received.contains(&id) {
                    continue;
                }
                match self.record.is_for(id, sent, self.id) {
                    Sure::No => continue,
                    Sure::Maybe => {
                        possible += 1;
                        continue;
                    }
                    Sure::Yes => {}
                }
                let place = self.place(id, sent);
                let has_later = place.until < self.client.items.len();
                if self.client.ended && !has_later {
                    possible += 1;
                    continue;
                }
                absent.push(Absent {
                    id,
                    place,
                    at_once: self.is_at_once(*hub),
                });
            }
        }
        (absent, possible)
    }

    /// Where a message is missing: from the item before which it cannot be, up to the one after it.
    fn place(&self, id: MessageId, sent: &Sent) -> Missing {
        let known = sent.known.get(&self.id).map_or(0, |known| known.items);
        let mut place = Missing {
            from: known,
            until: self.client.items.len(),
        };
        for (number, at) in self.ordered_with(id, sent) {
            if number < id.number {
                place.from = place.from.max(at);
            } else {
                place.until = place.until.min(at);
            }
        }
        place
    }

    /// The messages of the same sender that arrived and must be in order with this one, each with its place. Whatever is
    /// sent on the client's own node comes in the order of the calls, local first.
    fn ordered_with(&self, id: MessageId, sent: &Sent) -> impl Iterator<Item = (u64, usize)> {
        let seen = self.seen.get(&id.publisher).into_iter().flatten();
        let sender = self.record.senders.get(&id.publisher);
        let at_once = self.is_at_once(id.publisher);
        let ordered = seen.filter(move |(number, _)| {
            let other = sender.and_then(|sender| sender.sent.get(number));
            other.is_some_and(|other| at_once || sent.is_ordered_with(other))
        });
        ordered.copied()
    }

    fn is_at_once(&self, sender: PublisherId) -> bool {
        self.record.local_first && sender == self.client.hub
    }

    /// Gives each missing message to a gap.
    fn cover(&mut self, absent: &[Absent], possible: u64) {
        let items = || self.client.items.iter().enumerate();
        let outages = items().filter(|(_, item)| matches!(item, Item::Gap { outage: true, .. }));
        let outages: Vec<usize> = outages.map(|(at, _)| at).collect();
        let in_outage = |absent: &&Absent| {
            let (from, until) = (absent.place.from, absent.place.until);
            !absent.at_once && outages.iter().any(|at| (from..until).contains(at))
        };
        let rest: Vec<Absent> = absent.iter().filter(|a| !in_outage(a)).copied().collect();
        let slots = items().filter_map(|(at, item)| {
            let room = match item {
                Item::Gap { counted, .. } => *counted,
                Item::Missed(missed) => *missed,
                Item::Message(_) | Item::End => 0,
            };
            (room > 0).then_some(Slot { at, room })
        });
        let slots: Vec<Slot> = slots.collect();
        let missed = items().map(|(_, item)| match item {
            Item::Missed(missed) => *missed,
            _ => 0,
        });
        let missed: u64 = missed.sum();
        let places: Vec<Missing> = rest.iter().map(|absent| absent.place).collect();
        let (left, _) = assign(&places, &slots);
        self.counted += (absent.len() - left.len()) as u64;
        if let [first, ..] = &left[..] {
            let text = format!(
                "did not get {} messages, the first {}, and no gap covers them",
                left.len(),
                rest[*first].id
            );
            self.find(Class::UnreportedLost, left.len() as u64, text);
        }
        let can_be = absent.len() as u64 + possible;
        if missed > can_be {
            let text = format!(
                "was told that it missed {missed} messages, and at most {can_be} did not come"
            );
            self.find(Class::Unexpected, missed - can_be, text);
        }
    }

    fn find(&mut self, class: Class, count: u64, text: impl AsRef<str>) {
        let hub = self.client.hub.0;
        let text = format!("{:?}, on node {hub}, {}", self.id, text.as_ref());
        self.violations.push(Violation::new(class, count, text));
    }
}

impl Sent {
    /// Whether the one that was sent first must come first.
    fn is_ordered_with(&self, other: &Self) -> bool {
        self.burst != other.burst || self.to == other.to
    }
}
