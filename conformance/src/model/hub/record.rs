//! What was sent through hubs, whom it was for, and what each client got: [`Record`], which knows what is owed.
//!
//! It is pure: no clock, no node. One driver tells it each call before it begins and after it has returned, so that the record
//! knows at each send who the members of its target are, as far as anybody can.
//!
//! # What must be true of a client
//! - Of each sender the messages are in the order in which they were sent, each once. Messages of one burst, which are
//!   started without waiting, are in order where they go the same way.
//! - It gets nothing that its target does not mean, nothing that was reported as not sent by another node, and nothing after its
//!   end.
//! - A message is *owed* if the target means the client for sure, and it was accepted, or, local first, the client is on
//!   the sender's own node, whatever became of it elsewhere. Of a client that has ended, only what comes before the last
//!   delivered message of that sender is owed.
//! - A change of a group makes it unsure, of every message that names the group and has not arrived, whether it is for the client.
//!   So does a request whose outcome is not known, until one is acknowledged that no other can overtake. Local first, what was
//!   sent on the client's own node has its recipients at once, and stays as it is.
//! - An owed message that is missing has its *place*, between the delivered ones of its sender before and after it. A gap that
//!   stands for an outage covers any number there, of other nodes; one that counts, and what the queue says it missed, so many.
//! - In a period without a fault or an outage there is no gap at all.

mod check;
mod groups;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::account::{Account, Violation};
use super::super::ledger::{Fate, MessageId, PublisherId};

use self::check::Check;
pub(super) use self::names::{ClientId, Group, Name, Sure, Target, User};

/// How many groups there are.
pub(super) const GROUPS: u8 = 4;

/// How many users there are.
pub(super) const USERS: u8 = 3;

/// In which groups a client is.
type Groups = [Sure; GROUPS as usize];

/// One item that a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A message. `None`: one that nobody sent.
    Message(Option<MessageId>),
    /// A gap: whether it stands for an outage, and how many messages it counts besides.
    Gap { outage: bool, counted: u64 },
    /// So many did not fit into its queue.
    Missed(u64),
    /// The end.
    End,
}

/// What became of a request to join or to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// It was not done, and will not be.
    NotDone,
    Unknown,
}

/// The record of a round.
#[derive(Debug)]
pub(super) struct Record {
    /// Whether the clients of the sender's node get messages at once.
    local_first: bool,
    last_id: u64,
    last_burst: u64,
    senders: BTreeMap<PublisherId, Sender>,
    clients: BTreeMap<ClientId, Client>,
    account: Account,
    violations: Vec<Violation>,
    /// What is wrong if there was neither a fault nor an outage since the last check.
    suspicions: Vec<Violation>,
}

/// A node of the hub.
#[derive(Debug, Default)]
struct Sender {
    /// Whether whatever is accepted reaches its clients, or a gap does.
    attached: bool,
    closed: bool,
    /// Its messages since the last check, or, if it is gone, since the one before.
    sent: BTreeMap<u64, Sent>,
    next: u64,
}

#[derive(Debug)]
struct Sent {
    to: Target,
    burst: u64,
    fate: Fate,
    /// What was known of each client that there was.
    known: HashMap<ClientId, Known>,
}

/// What was known of a client when a message was sent.
#[derive(Clone, Copy, Debug)]
struct Known {
    groups: Groups,
    attached: bool,
    /// How many items it had got.
    items: usize,
}

#[derive(Debug)]
struct Client {
    hub: PublisherId,
    user: Option<User>,
    /// Whether its queue is so small that messages may not fit.
    small: bool,
    groups: [Membership; GROUPS as usize],
    ended: bool,
    /// Since the last check.
    items: Vec<Item>,
    received: HashSet<MessageId>,
    /// What it had received at the last check.
    before: HashSet<MessageId>,
}

#[derive(Clone, Debug)]
struct Membership {
    state: Sure,
    /// Requests that may still take effect: the hub that was asked, and whether it is a join.
    open: Vec<(PublisherId, bool)>,
}

impl Record {
    pub(super) fn new(local_first: bool) -> Self {
        Self {
            local_first,
            last_id: 0,
            last_burst: 0,
            senders: BTreeMap::new(),
            clients: BTreeMap::new(),
            account: Account::default(),
            violations: Vec::new(),
            suspicions: Vec::new(),
        }
    }

    pub(super) const fn account(&self) -> &Account {
        &self.account
    }

    pub(super) const fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }

    pub(super) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(super) fn violate(&mut self, violation: Violation) {
        self.account.record(&violation);
        self.violations.push(violation);
    }

    /// Something that is wrong if there was neither a fault nor an outage.
    pub(super) fn suspect(&mut self, suspicion: Violation) {
        self.suspicions.push(suspicion);
    }

    // --- nodes and clients

    /// A node of the hub was made. `attached`: nothing that is accepted from now on misses it in silence.
    pub(super) fn open(&mut self, attached: bool) -> PublisherId {
        self.last_id += 1;
        let id = PublisherId(self.last_id);
        let sender = Sender {
            attached,
            ..Sender::default()
        };
        self.senders.insert(id, sender);
        id
    }

    /// A node and its hub are about to be closed.
    pub(super) fn close(&mut self, hub: PublisherId) {
        if let Some(sender) = self.senders.get_mut(&hub) {
            sender.closed = true;
        }
        let clients = self.clients.values_mut();
        for client in clients.filter(|client| client.hub == hub) {
            client.ended = true;
        }
    }

    pub(super) fn connect(
        &mut self,
        hub: PublisherId,
        user: Option<User>,
        small: bool,
    ) -> ClientId {
        self.last_id += 1;
        let id = ClientId(self.last_id);
        let nowhere = Membership {
            state: Sure::No,
            open: Vec::new(),
        };
        let client = Client {
            hub,
            user,
            small,
            groups: std::array::from_fn(|_| nowhere.clone()),
            ended: false,
            items: Vec::new(),
            received: HashSet::new(),
            before: HashSet::new(),
        };
        self.clients.insert(id, client);
        id
    }

    /// A client is about to be disconnected.
    pub(super) fn disconnect(&mut self, client: ClientId) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.ended = true;
        }
    }

    /// A client got something.
    pub(super) fn received(&mut self, id: ClientId, item: Item) {
        if let Some(client) = self.clients.get_mut(&id) {
            if let Item::Message(Some(message)) = item {
                client.received.insert(message);
            }
            client.items.push(item);
        }
    }

    /// The number of the latest message of a sender that a client has.
    pub(super) fn latest(&self, client: ClientId, sender: PublisherId) -> Option<u64> {
        let received = self.clients.get(&client)?.received.iter();
        let of = received.filter(|message| message.publisher == sender);
        of.map(|message| message.number).max()
    }

    // --- messages

    /// Messages from now on are of one more burst.
    pub(super) const fn burst(&mut self) {
        self.last_burst += 1;
    }

    /// A send is about to begin.
    pub(super) fn attempt(&mut self, hub: PublisherId, to: Target) -> MessageId {
        self.account.attempted += 1;
        let attached = |hub| self.senders.get(hub).is_some_and(|s: &Sender| s.attached);
        let live = self.clients.iter().filter(|(_, client)| !client.ended);
        let known = live.map(|(id, client)| {
            let known = Known {
                groups: client.groups(),
                attached: attached(&client.hub),
                items: client.items.len(),
            };
            (*id, known)
        });
        let sent = Sent {
            to,
            burst: self.last_burst,
            fate: Fate::Unknown,
            known: known.collect(),
        };
        let sender = self.senders.entry(hub).or_default();
        let number = sender.next;
        sender.next += 1;
        sender.sent.insert(number, sent);
        MessageId {
            publisher: hub,
            number,
        }
    }

    /// A send has returned: what became of it for other nodes.
    pub(super) fn settle(&mut self, message: MessageId, fate: Fate) {
        match fate {
            Fate::Accepted => {}
            Fate::NotSent => self.account.not_sent += 1,
            Fate::Unknown => self.account.unknown += 1,
        }
        let sender = self.senders.get_mut(&message.publisher);
        if let Some(sent) = sender.and_then(|sender| sender.sent.get_mut(&message.number)) {
            sent.fate = fate;
        }
    }

    /// How many clients of the sender's node a message is for: at least, and at most.
    pub(super) fn local(&self, message: MessageId) -> (usize, usize) {
        let of_hub = |client: &&ClientId| {
            let client = self.clients.get(*client);
            client.is_some_and(|client| client.hub == message.publisher)
        };
        let sent = self.senders.get(&message.publisher);
        let Some(sent) = sent.and_then(|sender| sender.sent.get(&message.number)) else {
            return (0, 0);
        };
        let here = sent.known.keys().filter(of_hub);
        let (mut least, mut most) = (0, 0);
        for id in here {
            let may_drop = self.clients.get(id).is_some_and(|client| client.small);
            let is_for = self.is_for(message, sent, *id);
            least += usize::from(is_for == Sure::Yes && !may_drop);
            most += usize::from(is_for != Sure::No);
        }
        (least, most)
    }

    /// Whether a client gets a message, if it gets through.
    fn is_for(&self, message: MessageId, sent: &Sent, id: ClientId) -> Sure {
        let Some(client) = self.clients.get(&id) else {
            return Sure::No;
        };
        let at_once = self.local_first && client.hub == message.publisher;
        let Some(known) = sent.known.get(&id) else {
            // It connected later.
            return match at_once {
                true => Sure::No,
                false => {
                    let anywhere = [Sure::Maybe; GROUPS as usize];
                    sent.to.means(id, client.user, &anywhere).min(Sure::Maybe)
                }
            };
        };
        let means = sent.to.means(id, client.user, &known.groups);
        match sent.fate {
            _ if at_once => means,
            Fate::NotSent => Sure::No,
            Fate::Accepted if known.attached => means,
            Fate::Accepted | Fate::Unknown => means.min(Sure::Maybe),
        }
    }

    // --- checks

    /// How many messages a client is owed that have not come, and that no gap covers.
    pub(super) fn owes(&self, client: ClientId) -> u64 {
        let check = self
            .clients
            .get(&client)
            .map(|of| Check::of(self, client, of));
        check.map_or(0, |check| check.lost())
    }

    /// The clients since the last check.
    pub(super) fn clients(&self) -> Vec<ClientId> {
        self.clients.keys().copied().collect()
    }

    /// Checks everything since the last check, and forgets it. `calm`: there was neither a fault nor an outage. Every live
    /// client has a message that each live sender has sent after all others, and every live node is attached.
    pub(super) fn check(&mut self, calm: bool) {
        let (mut delivered, mut counted, mut violations) = (0, 0, Vec::new());
        for (id, client) in &self.clients {
            let check = Check::of(self, *id, client);
            delivered += check.delivered;
            counted += check.counted;
            if calm {
                violations.extend(check.gaps_of_nothing());
            }
            violations.extend(check.violations);
        }
        self.account.delivered += delivered;
        self.account.counted_lost += counted;
        let suspicions = std::mem::take(&mut self.suspicions);
        violations.extend(suspicions.into_iter().filter(|_| calm));
        for violation in violations {
            self.violate(violation);
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.senders
            .retain(|_, sender| !(sender.closed && sender.sent.is_empty()));
        for sender in self.senders.values_mut() {
            // What a node had on its way may come after its end, once.
            sender.sent.retain(|_, sent| {
                let keep = sender.closed && sent.fate != Fate::NotSent && sent.burst != u64::MAX;
                sent.burst = u64::MAX;
                sent.fate = Fate::Unknown;
                keep
            });
            sender.attached = true;
        }
        self.clients.retain(|_, client| !client.ended);
        let senders = &self.senders;
        for client in self.clients.values_mut() {
            client.items.clear();
            client.before.clone_from(&client.received);
            for membership in &mut client.groups {
                // What was asked through a hub that lives came before its last message.
                let closed =
                    |hub: &PublisherId| senders.get(hub).is_none_or(|sender| sender.closed);
                membership.open.retain(|(hub, _)| closed(hub));
            }
        }
    }
}

impl Client {
    fn groups(&self) -> Groups {
        std::array::from_fn(|group| self.groups[group].state)
    }
}

impl Sure {
    const fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}
