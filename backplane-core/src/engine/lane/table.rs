//! Where a publish begins: [`Lanes`], the lanes of a node and the link that they lead to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use hashbrown::HashTable;

use super::{EPOCH_BITS, Lane};
use crate::engine::core::Attached;
use crate::name::{Channel, Prefix};

/// More than a machine has cores: publishers of different channels seldom meet.
const PARTS: usize = 64;

/// How many lanes a part keeps before it lets go of those that nobody uses or holds.
const MAX_LANES: usize = 65_536 / PARTS;

/// The lanes of a node, and the link that is in force, which each of them has, too.
///
/// Channels are spread over parts that are locked one by one, so that publishes to different channels do not wait for each
/// other. Nobody sends under such a lock: a message to ten thousand subscriptions would hold up who comes with another
/// channel of that part.
#[derive(Debug)]
pub(crate) struct Lanes<L> {
    attached: Mutex<Option<Arc<Attached<L>>>>,
    parts: Box<[Place<L>]>,
    hasher: RandomState,
}

/// In cache lines of its own, as parts are used by different cores.
#[derive(Debug)]
#[repr(align(128))]
struct Place<L>(Mutex<Part<L>>);

/// Some of the lanes.
#[derive(Debug)]
struct Part<L> {
    /// By the hashes of their channels.
    lanes: HashTable<(Channel, Arc<Lane<L>>)>,
    /// From how many on idle lanes are let go of.
    most: usize,
    /// How often they were.
    epoch: u64,
    /// How many messages these had published.
    published: u64,
}

impl<L> Lanes<L> {
    pub(crate) fn new() -> Self {
        Self {
            attached: Mutex::new(None),
            parts: (0..PARTS).map(|_| Place::new()).collect(),
            hasher: RandomState::default(),
        }
    }

    /// The link that is in force now.
    pub(crate) fn attached(&self) -> Option<Arc<Attached<L>>> {
        lock(&self.attached).clone()
    }

    /// From now on this link is in force, or none. Who sends on the one before is told what comes of that.
    pub(crate) fn attach(&self, attached: Option<&Arc<Attached<L>>>) {
        // The end of a link may take a while: it is dropped without a lock, so as not to hold up those who publish.
        let before = std::mem::replace(&mut *lock(&self.attached), attached.cloned());
        drop(before);
        for Place(part) in &self.parts {
            // Lanes that are added from here on have the new link.
            let lanes = lock(part).all();
            for lane in lanes {
                let before = std::mem::replace(&mut lane.lock().attached, attached.cloned());
                drop(before);
            }
        }
    }

    /// How many messages the broker has accepted.
    pub(crate) fn published(&self) -> u64 {
        let of_part = |Place(part): &Place<L>| {
            let (lanes, before) = {
                let part = lock(part);
                (part.all(), part.published)
            };
            before + lanes.iter().map(|lane| lane.lock().published).sum::<u64>()
        };
        self.parts.iter().map(of_part).sum()
    }

    /// The lane of a channel.
    pub(crate) fn find(&self, prefix: &Prefix, channel: &Channel) -> Arc<Lane<L>> {
        let hash = self.hasher.hash_one(channel);
        // The table uses the upper bits and the lowest ones, which depend on its size.
        let mut part = lock(&self.parts[(hash >> 32) as usize % PARTS].0);
        if let Some((_, lane)) = part.lanes.find(hash, |(of, _)| of == channel) {
            return Arc::clone(lane);
        }
        part.make_room();
        let first = part.epoch << EPOCH_BITS;
        let lane = Arc::new(Lane::new(prefix, channel, first, self.attached()));
        let added = (channel.clone(), Arc::clone(&lane));
        part.lanes
            .insert_unique(hash, added, |(of, _)| self.hasher.hash_one(of));
        lane
    }
}

impl<L> Place<L> {
    fn new() -> Self {
        Self(Mutex::new(Part {
            lanes: HashTable::new(),
            most: MAX_LANES,
            epoch: 0,
            published: 0,
        }))
    }
}

impl<L> Part<L> {
    fn make_room(&mut self) {
        if self.lanes.len() >= self.most {
            self.epoch += 1;
            // Whoever uses a lane holds it, and gets it under the lock that is held here, or from another who holds it.
            self.lanes.retain(|(_, lane)| {
                let used = Arc::strong_count(lane) > 1;
                if !used {
                    self.published += lane.lock().published;
                }
                used
            });
            // Those that publishers hold are looked at again when as many others have come as are kept without them.
            self.most = self.lanes.len() + MAX_LANES;
        }
    }

    /// To be locked one by one, without the part: somebody may be sending on one.
    fn all(&self) -> Vec<Arc<Lane<L>>> {
        self.lanes
            .iter()
            .map(|(_, lane)| Arc::clone(lane))
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
