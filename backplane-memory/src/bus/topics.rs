//! Who is subscribed to what: [`Topics`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use backplane_core::driver::{BrokerChannel, Frame, Inbound, Inlet, LinkError, Wakes};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::lost;

/// More than a machine has cores: publishers of different channels seldom meet.
const PARTS: usize = 64;

/// The links that are subscribed to each channel. Channels are spread over parts that are locked one by one, so that
/// publishes to different channels do not wait for each other. Names come from users: the hash is seeded at random.
#[derive(Debug)]
pub(super) struct Topics {
    parts: Box<[Place]>,
    hasher: RandomState,
}

/// In cache lines of its own, as parts are used by different cores.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(Mutex<Part>);

/// Some of the channels. Frames are delivered under the lock, so that all see one order.
#[derive(Debug, Default)]
struct Part {
    /// By the hashes of their names.
    topics: HashTable<Topic>,
    /// Whether some switch of the bus is on that concerns publishes.
    disturbed: bool,
    published: u64,
}

/// A channel that links are subscribed to.
#[derive(Debug)]
struct Topic {
    name: BrokerChannel,
    members: Vec<Member>,
}

/// A channel in its part, which is locked.
pub(super) struct Spot<'a> {
    part: MutexGuard<'a, Part>,
    name: &'a BrokerChannel,
    hash: u64,
    hasher: &'a RandomState,
}

/// A subscribed link.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) link: u64,
    pub(super) inlet: Inlet,
    connected: Connected,
}

/// Whether a link is connected. Once it is not, and was [taken out](Topics::leave), nothing is published on it.
#[derive(Clone, Debug)]
pub(crate) struct Connected(Arc<AtomicBool>);

impl Topics {
    /// Publishes on a link; `None`, and nothing was done, while some switch is on.
    pub(super) fn publish_now(
        &self,
        on: &Connected,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Option<Result<(), LinkError>> {
        let mut spot = self.lock(channel);
        if spot.part.disturbed {
            return None;
        }
        if !on.is() {
            return Some(Err(lost("the connection is broken")));
        }
        for member in spot.publish() {
            // One that is being taken out of all parts gets nothing any more, whichever of them it was taken out of.
            if member.connected.is() {
                member.inlet.deliver_then(frame, wakes);
            }
        }
        Some(Ok(()))
    }

    /// Tells whether some switch is on that concerns publishes. When it returns, nobody publishes who had not heard it.
    pub(super) fn disturb(&self, disturbed: bool) {
        self.all().for_each(|mut part| part.disturbed = disturbed);
    }

    pub(super) fn subscribe(
        &self,
        channel: &BrokerChannel,
        link: u64,
        inbound: &Inbound,
        connected: &Connected,
    ) {
        let mut spot = self.lock(channel);
        let members = spot.get_or_add();
        if !members.iter().any(|member| member.link == link) {
            let inlet = inbound.inlet(channel.clone());
            let connected = connected.clone();
            members.push(Member {
                link,
                inlet,
                connected,
            });
        }
    }

    pub(super) fn unsubscribe(&self, channel: &BrokerChannel, link: u64) {
        let mut spot = self.lock(channel);
        if let Entry::Occupied(mut topic) = spot.entry()
            && topic.get_mut().is_left_by(link)
        {
            topic.remove();
        }
    }

    /// Takes a link out that is not connected any longer.
    pub(super) fn leave(&self, link: u64) {
        for mut part in self.all() {
            part.topics.retain(|topic| !topic.is_left_by(link));
        }
    }

    /// Takes all links out, of which none is connected any longer.
    pub(super) fn clear(&self) {
        self.all().for_each(|mut part| part.topics.clear());
    }

    /// How many frames were published.
    pub(super) fn published(&self) -> u64 {
        self.all().map(|part| part.published).sum()
    }

    /// Where a channel belongs.
    pub(super) fn lock<'a>(&'a self, name: &'a BrokerChannel) -> Spot<'a> {
        let hash = self.hasher.hash_one(name);
        // The table uses the upper bits and the lowest ones, which depend on its size.
        let part = &self.parts[(hash >> 32) as usize % PARTS];
        Spot {
            part: part.lock(),
            name,
            hash,
            hasher: &self.hasher,
        }
    }

    fn all(&self) -> impl Iterator<Item = MutexGuard<'_, Part>> {
        self.parts.iter().map(Place::lock)
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Place::default()).collect(),
            hasher: RandomState::default(),
        }
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Part> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spot<'_> {
    /// Counts a frame, and says who is to get it.
    pub(super) fn publish(&mut self) -> &mut [Member] {
        self.part.published += 1;
        self.members()
    }

    /// Who is subscribed to the channel.
    pub(super) fn members(&mut self) -> &mut [Member] {
        let topics = &mut self.part.topics;
        let topic = topics.find_mut(self.hash, |topic| topic.name == *self.name);
        topic.map_or(&mut [], |topic| &mut topic.members)
    }

    fn get_or_add(&mut self) -> &mut Vec<Member> {
        let name = self.name.clone();
        let topic = self.entry().or_insert_with(|| Topic {
            name,
            members: Vec::new(),
        });
        &mut topic.into_mut().members
    }

    fn entry(&mut self) -> Entry<'_, Topic> {
        let is_it = |topic: &Topic| topic.name == *self.name;
        let hash = |topic: &Topic| self.hasher.hash_one(&topic.name);
        self.part.topics.entry(self.hash, is_it, hash)
    }
}

impl Topic {
    /// Takes a link out, and says whether nobody is left.
    fn is_left_by(&mut self, link: u64) -> bool {
        self.members.retain(|member| member.link != link);
        self.members.is_empty()
    }
}

impl Connected {
    /// Those of a link that is, or is not.
    pub(super) fn new(is: bool) -> Self {
        Self(Arc::new(AtomicBool::new(is)))
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Release);
    }
}
