//! Who is there: the nodes of a hub as one of them sees them (rule H20). No clock and no IO in here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::signal::Birth;
use crate::engine::ById;
use crate::name::NodeId;

/// The other nodes of a hub.
#[derive(Debug)]
pub(super) struct Roster {
    me: NodeId,
    /// Every node is heard this often.
    interval: Duration,
    /// A node that was not heard for so long is lost.
    timeout: Duration,
    peers: HashMap<NodeId, Peer, ById>,
    /// Nodes that others know and this one has not heard yet, and until when it waits for them.
    named: HashMap<NodeId, Instant, ById>,
    /// Nodes that were heard since the last tick, and have not said that they are there.
    strangers: HashSet<NodeId, ById>,
    /// The last nodes that went, oldest first.
    gone: VecDeque<(NodeId, Departure)>,
    /// Since when this node is attached, if it is.
    attached: Option<Instant>,
    /// A node that knows everybody has said whom it knows.
    told: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    birth: Birth,
    heard: Instant,
}

/// What is new about a node that says that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    /// It was not there before.
    Joined,
    /// Its hub has been started anew: what the earlier one was asked is lost.
    Anew,
}

/// Why a node is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// It said so: its hub was closed or dropped.
    Closed,
    /// Nothing was heard of it for the [node timeout](super::HubBuilder::node_timeout): it crashed, or is cut off. It is there again
    /// as soon as it is heard again.
    Lost,
}

/// How many nodes that went are remembered.
const REMEMBERED: usize = 1024;

/// How many strangers are asked between two ticks.
const STRANGERS: usize = 64;

impl Roster {
    pub(super) fn new(me: NodeId, interval: Duration, timeout: Duration) -> Self {
        Self {
            me,
            interval,
            timeout,
            peers: HashMap::default(),
            named: HashMap::default(),
            strangers: HashSet::default(),
            gone: VecDeque::new(),
            attached: None,
            told: false,
        }
    }

    /// This node is attached, newly or again. Nobody is blamed for not having been heard meanwhile.
    pub(super) fn attach(&mut self, now: Instant) {
        self.attached = Some(now);
        self.told = false;
        self.named.clear();
        for peer in self.peers.values_mut() {
            peer.heard = now;
        }
    }

    /// This node is not attached: it hears nobody, and judges nobody.
    pub(super) fn detach(&mut self) {
        self.attached = None;
    }

    /// Something came from a node. Says whether it is to be asked if it is there: it has not said so, and nobody has asked
    /// it since the last tick.
    pub(super) fn heard(&mut self, node: NodeId, now: Instant) -> bool {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.heard = now;
            return false;
        }
        node != self.me && self.strangers.len() < STRANGERS && self.strangers.insert(node)
    }

    /// A node says that it is there.
    pub(super) fn present(&mut self, node: NodeId, birth: Birth, now: Instant) -> News {
        self.named.remove(&node);
        if node == self.me {
            return News::Nothing;
        }
        match self.peers.insert(node, Peer { birth, heard: now }) {
            Some(before) if before.birth == birth => News::Nothing,
            Some(_) => News::Anew,
            None => {
                self.gone.retain(|(gone, _)| *gone != node);
                News::Joined
            }
        }
    }

    /// A node says whom it knows.
    pub(super) fn told(
        &mut self,
        settled: bool,
        known: impl IntoIterator<Item = NodeId>,
        now: Instant,
    ) {
        self.told |= settled;
        for node in known {
            if node != self.me && !self.peers.contains_key(&node) && !self.is_gone(node) {
                self.named.entry(node).or_insert(now + self.timeout);
            }
        }
    }

    /// A node says that it goes. Says whether it was there.
    pub(super) fn bye(&mut self, node: NodeId, birth: Birth) -> bool {
        self.named.remove(&node);
        match self.peers.get(&node) {
            Some(peer) if peer.birth == birth => {
                self.remove(node, Departure::Closed);
                true
            }
            _ => false,
        }
    }

    /// Time has passed: gives the nodes that are lost now.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<NodeId> {
        self.strangers.clear();
        if self.attached.is_none() {
            return Vec::new();
        }
        self.named.retain(|_, until| *until > now);
        let silent = |peer: &Peer| now.duration_since(peer.heard) > self.timeout;
        let lost = self.peers.iter().filter(|(_, peer)| silent(peer));
        let lost: Vec<NodeId> = lost.map(|(node, _)| *node).collect();
        for node in &lost {
            self.remove(*node, Departure::Lost);
        }
        lost
    }

    /// Whether it is certain that all nodes are known that are there.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let long_enough = |since| now.duration_since(since) >= 2 * self.interval;
        self.attached
            .is_some_and(|since| (self.told || long_enough(since)) && !self.waits_for_named(now))
    }

    /// When to ask again whether it is, if nothing is heard until then. `None` when this node is not attached.
    pub(super) fn settles(&self) -> Option<Instant> {
        let named = self.named.values().max().copied();
        let listened = self.attached? + 2 * self.interval;
        Some(match self.told {
            true => named.unwrap_or(listened),
            false => named.map_or(listened, |named| named.max(listened)),
        })
    }

    pub(super) const fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Whether the node was there once, and is not.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        self.departure(node).is_some()
    }

    pub(super) fn departure(&self, node: NodeId) -> Option<Departure> {
        let mut gone = self.gone.iter().rev();
        gone.find(|(gone, _)| *gone == node).map(|(_, why)| *why)
    }

    /// The other nodes that are there, each with the number of its start.
    pub(super) fn peers(&self) -> impl Iterator<Item = (NodeId, Birth)> {
        self.peers.iter().map(|(node, peer)| (*node, peer.birth))
    }

    fn waits_for_named(&self, now: Instant) -> bool {
        self.named.values().any(|until| *until > now)
    }

    fn remove(&mut self, node: NodeId, why: Departure) {
        self.peers.remove(&node);
        if self.gone.len() == REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back((node, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_secs(4);

    fn id(n: u64) -> NodeId {
        NodeId::from_u64(n)
    }

    fn roster() -> (Roster, Instant) {
        let now = Instant::now();
        let mut roster = Roster::new(id(0), INTERVAL, TIMEOUT);
        roster.attach(now);
        (roster, now)
    }

    fn known(roster: &Roster) -> Vec<u64> {
        let mut known: Vec<_> = roster.peers().map(|(node, _)| node.as_u64()).collect();
        known.sort_unstable();
        known
    }

    #[test]
    fn a_node_is_there_from_its_first_word_until_it_says_bye() {
        let (mut roster, now) = roster();
        assert!(roster.heard(id(1), now) && !roster.heard(id(1), now) && !roster.heard(id(0), now));
        assert_eq!(known(&roster), [0; 0], "a stranger's message is no word");
        roster.tick(now);
        assert!(roster.heard(id(1), now), "it is asked again");
        assert_eq!(roster.present(id(1), 7, now), News::Joined);
        assert_eq!(roster.present(id(1), 7, now), News::Nothing);
        assert_eq!(roster.present(id(0), 9, now), News::Nothing, "its own echo");
        assert_eq!(known(&roster), [1]);
        assert!(!roster.bye(id(1), 6), "an earlier start of it");
        assert!(roster.bye(id(1), 7) && !roster.bye(id(1), 7));
        assert_eq!(
            (known(&roster), roster.departure(id(1))),
            (vec![], Some(Departure::Closed))
        );
        assert_eq!(roster.present(id(1), 8, now), News::Joined);
        assert_eq!(roster.present(id(1), 9, now), News::Anew);
        assert!(!roster.is_gone(id(1)));
    }

    #[test]
    fn a_silent_node_is_lost_after_the_timeout_and_is_there_again_when_it_is_heard() {
        let (mut roster, now) = roster();
        roster.present(id(1), 1, now);
        roster.present(id(2), 1, now);
        roster.heard(id(2), now + INTERVAL);
        assert_eq!(roster.tick(now + TIMEOUT), []);
        assert_eq!(roster.tick(now + TIMEOUT + INTERVAL), [id(1)]);
        assert_eq!(roster.departure(id(1)), Some(Departure::Lost));
        assert_eq!(roster.present(id(1), 1, now + 2 * TIMEOUT), News::Joined);
        assert!(!roster.is_gone(id(1)));
    }

    #[test]
    fn nobody_is_blamed_for_what_this_node_did_not_hear_in_its_own_outage() {
        let (mut roster, now) = roster();
        roster.present(id(1), 1, now);
        roster.detach();
        let later = now + 10 * TIMEOUT;
        assert_eq!(roster.tick(later), []);
        assert!(!roster.is_settled(later));
        roster.attach(later);
        assert_eq!(roster.tick(later + TIMEOUT), []);
        assert_eq!(roster.tick(later + TIMEOUT + INTERVAL), [id(1)]);
    }

    #[test]
    fn it_is_settled_when_all_are_heard_that_a_settled_node_names() {
        let (mut roster, now) = roster();
        roster.present(id(1), 1, now);
        roster.told(false, [], now);
        assert!(!roster.is_settled(now));
        roster.told(true, [id(0), id(1), id(2), id(3)], now);
        assert!(!roster.is_settled(now));
        roster.present(id(2), 1, now);
        roster.bye(id(3), 1);
        assert!(roster.is_settled(now));
    }

    #[test]
    fn a_node_that_is_only_named_is_waited_for_no_longer_than_the_timeout() {
        let (mut roster, now) = roster();
        roster.told(true, [id(5)], now);
        assert_eq!(roster.settles(), Some(now + TIMEOUT));
        assert!(!roster.is_settled(now + INTERVAL) && roster.is_settled(now + TIMEOUT));
        roster.tick(now + TIMEOUT);
        assert!(roster.named.is_empty());
    }

    #[test]
    fn a_node_alone_is_settled_after_two_intervals() {
        let (mut roster, now) = roster();
        assert_eq!(roster.settles(), Some(now + 2 * INTERVAL));
        assert!(!roster.is_settled(now + INTERVAL) && roster.is_settled(now + 2 * INTERVAL));
        roster.detach();
        assert_eq!(roster.settles(), None);
    }

    #[test]
    fn it_remembers_a_bounded_number_of_nodes_that_went() {
        let (mut roster, now) = roster();
        for n in 1..=2 * REMEMBERED as u64 {
            roster.present(id(n), 1, now);
            roster.bye(id(n), 1);
        }
        assert_eq!(roster.gone.len(), REMEMBERED);
        assert!(!roster.is_gone(id(1)) && roster.is_gone(id(2 * REMEMBERED as u64)));
    }
}
