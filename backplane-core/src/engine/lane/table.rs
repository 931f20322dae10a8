//! Where a publish begins: [`Lanes`], the lanes of a node and the link that they lead to.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ahash::RandomState;

use super::{EPOCH_BITS, Lane};
use crate::engine::core::Attached;
use crate::name::{Channel, Prefix};

/// How many lanes a node keeps before it lets go of the idle ones.
const MAX_LANES: usize = 65_536;

/// The lanes of a node, and the link that is in force: one look finds both, and counts no references.
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

    /// From now on this link is in force, or none. No publish is under way on the one before, but for those that wait
    /// for it.
    pub(crate) fn attach(&self, attached: Option<Arc<Attached<L>>>) {
        let before = std::mem::replace(&mut self.write().attached, attached);
        // Its end may take a while, and must not hold up those who publish.
        drop(before);
    }

    /// Works with the lane of a channel and the link that is in force. As it has the lock of the table, it must neither
    /// wait nor wake anybody.
    pub(super) fn with<T>(
        &self,
        prefix: &Prefix,
        channel: &Channel,
        work: impl FnOnce(&Arc<Lane>, Option<&Attached<L>>) -> T,
    ) -> T {
        let table = self.read();
        if let Some(lane) = table.by_channel.get(channel) {
            return work(lane, table.attached.as_deref());
        }
        drop(table);
        let lane = self.write().add(prefix, channel);
        work(&lane, self.read().attached.as_deref())
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
            // Whoever uses a lane holds it, or the lock that is held here.
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
