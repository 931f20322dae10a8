//! Who is here: the connections of this node, and the groups and users that they make up.
//!
//! No IO happens here, and nobody else's code is called. One lock guards the table, and is never held across an await.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use ahash::RandomState;

use super::id::{ConnectionId, Key};
use super::outbox::Outbox;
use crate::engine::ById;
use crate::name::Channel;

/// The connections and rooms of one node.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) closed: bool,
    connections: HashMap<Key, Member, ById>,
    rooms: HashMap<RoomId, Room, ById>,
    by_channel: HashMap<Name, RoomId, RandomState>,
    last_room: RoomId,
    last_ticket: Ticket,
    gap_listeners: HashSet<Key, ById>,
}

/// Names a room as long as it exists, and is never used again.
pub(super) type RoomId = u64;

/// The order in which joins began.
pub(super) type Ticket = u64;

/// What became of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    Yes,
    /// A leave that came after it is done already.
    Overtaken,
    /// The connection is gone.
    Disconnected,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) outbox: Arc<Outbox>,
    user: Option<RoomId>,
    groups: HashSet<RoomId, ById>,
}

/// A group or a user with connections here, or on the way to it.
#[derive(Debug)]
pub(super) struct Room {
    channel: Channel,
    members: HashSet<Key, ById>,
    /// Calls that wait for the channel to be subscribed.
    claims: usize,
    /// Connections that have left while calls wait, and the last of the joins that this undoes.
    left: Option<Box<Left>>,
}

/// The last of the joins that a leave of a connection undoes.
#[derive(Debug, Default)]
struct Left(HashMap<Key, Ticket, ById>);

/// The channel of a room, found by its text.
#[derive(Debug, PartialEq, Eq)]
struct Name(Channel);

/// Tables give room back when they have more than this, and most of it is free.
const ROOM: usize = 64;

impl Table {
    /// A call begins to wait for the channel of this room.
    pub(super) fn claim(&mut self, channel: &Channel) -> (RoomId, Ticket) {
        let id = match self.by_channel.get(channel.as_str()) {
            Some(id) => *id,
            None => {
                self.last_room += 1;
                self.by_channel
                    .insert(Name(channel.clone()), self.last_room);
                self.last_room
            }
        };
        let room = self.rooms.entry(id).or_insert_with(|| Room {
            channel: channel.clone(),
            members: HashSet::default(),
            claims: 0,
            left: None,
        });
        room.claims += 1;
        self.last_ticket += 1;
        (id, self.last_ticket)
    }

    /// The call is over. Gives the channel that is not needed any more.
    pub(super) fn release(&mut self, id: RoomId) -> Option<Channel> {
        let room = self.rooms.get_mut(&id)?;
        room.claims -= 1;
        if room.claims == 0 {
            room.left = None;
        }
        self.tidy(id)
    }

    /// Registers a connection.
    pub(super) fn connect(&mut self, outbox: Arc<Outbox>, user: Option<RoomId>, with_gaps: bool) {
        let key = outbox.id.key();
        if let Some(room) = user.and_then(|user| self.rooms.get_mut(&user)) {
            room.members.insert(key);
        }
        if with_gaps {
            self.gap_listeners.insert(key);
        }
        let member = Member {
            outbox,
            user,
            groups: HashSet::default(),
        };
        self.connections.insert(key, member);
    }

    /// Whether there is a connection with the key of this one.
    pub(super) fn has_key(&self, id: &ConnectionId) -> bool {
        self.connections.contains_key(&id.key())
    }

    /// Puts a connection into a claimed room.
    pub(super) fn join(&mut self, id: &ConnectionId, room: RoomId, ticket: Ticket) -> Joined {
        let (Some(member), Some(to)) = (
            self.connections.get_mut(&id.key()),
            self.rooms.get_mut(&room),
        ) else {
            return Joined::Disconnected;
        };
        let left = to.left.as_ref().and_then(|left| left.0.get(&id.key()));
        if left.is_some_and(|undone| ticket <= *undone) {
            return Joined::Overtaken;
        }
        member.groups.insert(room);
        to.members.insert(id.key());
        Joined::Yes
    }

    /// Takes a connection out of a group, into which no join comes back that has begun before. Gives the channel that is
    /// not needed any more.
    pub(super) fn leave(&mut self, id: &ConnectionId, channel: &Channel) -> Option<Channel> {
        let room = *self.by_channel.get(channel.as_str())?;
        let member = self.connections.get_mut(&id.key())?;
        if let Some(claimed) = self.rooms.get_mut(&room).filter(|room| room.claims > 0) {
            let left = claimed.left.get_or_insert_default();
            left.0.insert(id.key(), self.last_ticket);
        }
        if !member.groups.remove(&room) {
            return None;
        }
        trim_set(&mut member.groups);
        self.remove(id.key(), room)
    }

    /// Takes a connection out of everything. Gives the channels that are not needed any more.
    pub(super) fn disconnect(&mut self, id: &ConnectionId) -> Option<(Member, Vec<Channel>)> {
        let key = id.key();
        let member = self.connections.remove(&key)?;
        self.gap_listeners.remove(&key);
        let rooms = member.user.iter().chain(&member.groups);
        let unused = rooms.filter_map(|room| self.remove(key, *room)).collect();
        trim_map(&mut self.connections);
        trim_set(&mut self.gap_listeners);
        Some((member, unused))
    }

    /// Empties the table for ever.
    pub(super) fn close(&mut self) -> Vec<Member> {
        let table = std::mem::take(self);
        self.closed = true;
        self.last_room = table.last_room;
        self.last_ticket = table.last_ticket;
        table.connections.into_values().collect()
    }

    /// The connection with this id.
    pub(super) fn member(&self, id: &ConnectionId) -> Option<&Member> {
        let member = self.connections.get(&id.key())?;
        (member.outbox.id == *id).then_some(member)
    }

    /// The connection with this key, which is here.
    pub(super) fn by_key(&self, key: Key) -> Option<&Member> {
        self.connections.get(&key)
    }

    pub(super) fn room(&self, channel: &Channel) -> Option<(RoomId, &Room)> {
        let id = *self.by_channel.get(channel.as_str())?;
        Some((id, self.rooms.get(&id)?))
    }

    /// The channel of a connection's user.
    pub(super) fn user(&self, member: &Member) -> Option<Channel> {
        let room = self.rooms.get(&member.user?)?;
        Some(room.channel.clone())
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.connections.values()
    }

    pub(super) fn gap_listeners(&self) -> impl Iterator<Item = &Member> {
        let listeners = self.gap_listeners.iter();
        listeners.filter_map(|key| self.connections.get(key))
    }

    /// The channels of the groups that a connection is in.
    pub(super) fn groups(&self, id: &ConnectionId) -> Vec<Channel> {
        let groups = self.member(id).map(|member| member.groups.iter());
        let groups = groups.into_iter().flatten();
        let rooms = groups.filter_map(|group| self.rooms.get(group));
        rooms.map(|room| room.channel.clone()).collect()
    }

    /// How many connections there are, and how many groups and users that are not empty.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.connections.len(), self.rooms.len())
    }

    fn remove(&mut self, key: Key, id: RoomId) -> Option<Channel> {
        let room = self.rooms.get_mut(&id)?;
        room.members.remove(&key);
        trim_set(&mut room.members);
        self.tidy(id)
    }

    /// Forgets a room that nobody needs.
    fn tidy(&mut self, id: RoomId) -> Option<Channel> {
        let room = self.rooms.get(&id)?;
        if room.claims > 0 || !room.members.is_empty() {
            return None;
        }
        let room = self.rooms.remove(&id)?;
        self.by_channel.remove(room.channel.as_str());
        trim_map(&mut self.rooms);
        trim_map(&mut self.by_channel);
        Some(room.channel)
    }
}

impl Room {
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.members.iter().copied()
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.members.contains(&key)
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

fn trim_map<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if map.capacity() > ROOM && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

fn trim_set<K: Eq + Hash, S: BuildHasher>(set: &mut HashSet<K, S>) {
    if set.capacity() > ROOM && set.len() < set.capacity() / 8 {
        set.shrink_to(set.len() * 2);
    }
}
