//! The channels with local members: [`Route`], and the table of them, [`Routes`].

use std::borrow::Borrow;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};

use ahash::RandomState;

use super::heard::Publishers;
use super::members::Members;
use super::{ROOM, lock};
use crate::name::Channel;

/// A channel with local members.
#[derive(Debug)]
pub(crate) struct Route {
    pub(super) channel: Channel,
    state: Mutex<RouteState>,
}

/// What is known of a route. Whoever delivers has it locked, so that all members see one order.
#[derive(Debug, Default)]
pub(super) struct RouteState {
    /// Whether the broker has confirmed the subscription.
    pub(super) on_broker: bool,
    /// Whether it is in the list of dirty ones, or will be when the plan that it is part of is done.
    pub(super) dirty: bool,
    /// Whether it is part of a plan that is not done. It is never part of two: what the broker is told of one channel
    /// stays in order.
    pub(super) planned: bool,
    /// Whether it is in the table no longer, and another one may be in its place.
    pub(super) gone: bool,
    pub(super) members: Members,
    pub(super) heard: Publishers,
    /// How many messages its members got.
    pub(super) delivered: u64,
}

/// The routes by the bytes of their channels. Names come from users: the hash is seeded at random.
#[derive(Debug, Default)]
pub(super) struct Routes {
    table: HashSet<Entry, RandomState>,
    /// How many messages the members of those got that are gone.
    delivered: u64,
}

/// A route, found by its name.
#[derive(Debug)]
struct Entry(Arc<Route>);

impl Route {
    pub(super) fn lock(&self) -> MutexGuard<'_, RouteState> {
        lock(&self.state)
    }
}

impl RouteState {
    /// It is gone, and keeps nothing for whoever still knows it.
    fn leave(&mut self) -> Members {
        self.gone = true;
        self.heard.clear();
        mem::take(&mut self.members)
    }

    /// Likewise without members; how many messages those got that it had.
    fn leave_empty(&mut self) -> u64 {
        let members = self.leave();
        debug_assert!(members.is_empty(), "nobody is left behind");
        self.delivered
    }

    /// The broker may have to be told something about it.
    pub(super) fn touch(&mut self, channel: &Channel, dirty: &mut VecDeque<Channel>) {
        if !self.dirty {
            self.dirty = true;
            if !self.planned {
                dirty.push_back(channel.clone());
            }
        }
    }
}

impl Routes {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.table.iter().map(|Entry(route)| route)
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Route>> {
        self.table.get(name).map(|Entry(route)| route)
    }

    pub(super) fn of(&self, channel: &Channel) -> Option<&Arc<Route>> {
        self.get(channel.as_str().as_bytes())
    }

    /// The route of a channel, made without members if there is none.
    pub(super) fn get_or_add(&mut self, channel: &Channel) -> Arc<Route> {
        if let Some(route) = self.of(channel) {
            return Arc::clone(route);
        }
        let route = Arc::new(Route {
            channel: channel.clone(),
            state: Mutex::default(),
        });
        self.table.insert(Entry(Arc::clone(&route)));
        route
    }

    /// Removes one without members.
    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(Entry(route)) = self.table.take(name) {
            self.delivered += route.lock().leave_empty();
        }
    }

    /// Removes those that have no members behind this.
    pub(super) fn retain(&mut self, mut change: impl FnMut(&mut RouteState)) {
        self.table.retain(|Entry(route)| {
            let mut state = route.lock();
            change(&mut state);
            let stays = !state.members.is_empty();
            if !stays {
                self.delivered += state.leave_empty();
            }
            stays
        });
    }

    /// Removes all, and hands out their members: queues may hold messages, and the owner of a payload may do anything when
    /// it is dropped. That is not to be under a lock.
    #[must_use]
    pub(super) fn clear(&mut self) -> Vec<Members> {
        let left = self.table.drain().map(|Entry(route)| {
            let mut state = route.lock();
            self.delivered += state.delivered;
            state.leave()
        });
        left.collect()
    }

    /// How many messages the members of all routes got since the start.
    pub(super) fn delivered(&self) -> u64 {
        let now: u64 = self.iter().map(|route| route.lock().delivered).sum();
        self.delivered + now
    }

    /// Gives back the room that a crowd has left behind.
    pub(super) fn trim(&mut self) {
        if self.table.capacity() > ROOM && self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len() * 2);
        }
    }
}

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.0.channel.as_str().as_bytes()
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let name: &[u8] = self.borrow();
        name.hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.channel == other.0.channel
    }
}

impl Eq for Entry {}
