//! Where a publish begins: [`Lanes`], the lanes of a node and the link that they lead to.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ahash::RandomState;

use super::{EPOCH_BITS, Lane};
use crate::engine::core::Attached;
use crate::name::{Channel, Prefix};

/// How many lanes a node keeps before it lets go of the idle ones.
const MAX_LANES: usize = 65_536;

/// The lanes of a node, and the link that is in force: one look finds both. Nobody sends during that look: a message to
/// ten thousand subscriptions would hold up who comes with a new channel, and behind it everybody else.
#[derive(Debug)]
pub(crate) struct Lanes<L>(RwLock<Table<L>>);

#[derive(Debug)]
struct Table<L> {
    attached: Option<Arc<Attached<L>>>,
    by_channel: HashMap<Channel, Arc<Lane>, RandomState>,
    /// How often idle lanes were let go of.
    epoch: u64,
}

impl<L> Lanes<L> {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(Table {
            attached: None,
            by_channel: HashMap::default(),
            epoch: 0,
        }))
    }

    /// The link that is in force now.
    pub(crate) fn attached(&self) -> Option<Arc<Attached<L>>> {
        self.read().attached.clone()
    }

    /// From now on this link is in force, or none. Who has found the one before still sends on it, and is told what comes
    /// of that.
    pub(crate) fn attach(&self, attached: Option<Arc<Attached<L>>>) {
        let before = std::mem::replace(&mut self.write().attached, attached);
        // Its end may take a while, and must not hold up those who publish.
        drop(before);
    }

    /// The lane of a channel, and the link that is in force.
    pub(super) fn find(
        &self,
        prefix: &Prefix,
        channel: &Channel,
    ) -> (Arc<Lane>, Option<Arc<Attached<L>>>) {
        let table = self.read();
        if let Some(lane) = table.by_channel.get(channel) {
            return (Arc::clone(lane), table.attached.clone());
        }
        drop(table);
        let mut table = self.write();
        let lane = table.add(prefix, channel);
        (lane, table.attached.clone())
    }

    fn read(&self) -> RwLockReadGuard<'_, Table<L>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table<L>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Table<L> {
    fn add(&mut self, prefix: &Prefix, channel: &Channel) -> Arc<Lane> {
        if self.by_channel.len() >= MAX_LANES && !self.by_channel.contains_key(channel) {
            self.epoch += 1;
            // Whoever uses a lane holds it, and can only get it under the lock that is held here.
            self.by_channel
                .retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let lane = self
            .by_channel
            .entry(channel.clone())
            .or_insert_with(|| Arc::new(Lane::new(prefix, channel, self.epoch << EPOCH_BITS)));
        Arc::clone(lane)
    }
}
