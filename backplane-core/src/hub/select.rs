//! Whom of this node's connections a target means.

use std::collections::HashSet;

use super::id::Key;
use super::protocol::Protocol;
use super::table::{Member, Room, RoomId, Table};
use super::target::AddressRef;
use crate::engine::ById;
use crate::name::Channel;

/// The connections of one node that a target means, before any is left out.
pub(super) enum Selection<'t> {
    One(Source<'t>),
    Union(Vec<Source<'t>>),
}

/// Connections that belong together.
pub(super) enum Source<'t> {
    All,
    Nobody,
    One(&'t Member),
    Room(RoomId, &'t Room),
}

/// Connections that are left out.
struct Excluded<'t> {
    all: bool,
    keys: HashSet<Key, ById>,
    rooms: Vec<&'t Room>,
}

impl<'t> Selection<'t> {
    /// The connections that at least one address means.
    pub(super) fn of<'a>(
        table: &'t Table,
        protocol: &dyn Protocol,
        mut addresses: impl Iterator<Item = AddressRef<'a>>,
    ) -> Self {
        let Some(first) = addresses.next() else {
            return Self::One(Source::Nobody);
        };
        let first = Source::of(table, protocol, first);
        let Some(second) = addresses.next() else {
            return Self::One(first);
        };
        if matches!(first, Source::All) {
            return Self::One(first);
        }
        let mut sources = vec![first];
        // A room that is named over and over is looked at once.
        let mut rooms: HashSet<RoomId, ById> = sources.iter().filter_map(Source::room).collect();
        for address in std::iter::once(second).chain(addresses) {
            match Source::of(table, protocol, address) {
                Source::All => return Self::One(Source::All),
                Source::Nobody => {}
                Source::Room(id, _) if !rooms.insert(id) => {}
                source => sources.push(source),
            }
        }
        Self::Union(sources)
    }

    /// The connections of the room that a channel stands for.
    pub(super) fn room(table: &'t Table, channel: &Channel) -> Self {
        Self::One(Source::of_channel(table, channel))
    }

    /// Calls for each connection once that is not left out (rules H1 to H10).
    pub(super) fn each<'a>(
        self,
        table: &'t Table,
        protocol: &dyn Protocol,
        except: impl Iterator<Item = AddressRef<'a>>,
        mut call: impl FnMut(&'t Member),
    ) {
        let excluded = Excluded::of(table, protocol, except);
        let mut call = |member: &'t Member| {
            if !excluded.has(member.outbox.id.key()) {
                call(member);
            }
        };
        match self {
            Self::One(source) => source.each(table, &mut call),
            Self::Union(sources) => {
                let mut seen: HashSet<Key, ById> = HashSet::default();
                for source in sources {
                    source.each(table, &mut |member| {
                        if seen.insert(member.outbox.id.key()) {
                            call(member);
                        }
                    });
                }
            }
        }
    }
}

impl<'t> Source<'t> {
    fn of(table: &'t Table, protocol: &dyn Protocol, address: AddressRef<'_>) -> Self {
        let channel = match address {
            AddressRef::All => return Self::All,
            AddressRef::Connection(id) => {
                return table.member(&id).map_or(Self::Nobody, Self::One);
            }
            AddressRef::Group(name) => protocol.group(name),
            AddressRef::User(id) => protocol.user(id),
        };
        // A name that no group can have has no members.
        channel.map_or(Self::Nobody, |channel| Self::of_channel(table, &channel))
    }

    fn of_channel(table: &'t Table, channel: &Channel) -> Self {
        table
            .room(channel)
            .map_or(Self::Nobody, |(id, room)| Self::Room(id, room))
    }

    const fn room(&self) -> Option<RoomId> {
        match self {
            Self::Room(id, _) => Some(*id),
            _ => None,
        }
    }

    fn each(&self, table: &'t Table, call: &mut impl FnMut(&'t Member)) {
        match self {
            Self::All => table.members().for_each(call),
            Self::Nobody => {}
            Self::One(member) => call(member),
            Self::Room(_, room) => room
                .keys()
                .filter_map(|key| table.by_key(key))
                .for_each(call),
        }
    }
}

impl<'t> Excluded<'t> {
    fn of<'a>(
        table: &'t Table,
        protocol: &dyn Protocol,
        except: impl Iterator<Item = AddressRef<'a>>,
    ) -> Self {
        let mut excluded = Self {
            all: false,
            keys: HashSet::default(),
            rooms: Vec::new(),
        };
        let mut rooms: HashSet<RoomId, ById> = HashSet::default();
        for address in except {
            match Source::of(table, protocol, address) {
                Source::All => excluded.all = true,
                Source::Nobody => {}
                Source::One(member) => {
                    excluded.keys.insert(member.outbox.id.key());
                }
                Source::Room(id, room) if rooms.insert(id) => excluded.rooms.push(room),
                Source::Room(..) => {}
            }
        }
        excluded
    }

    fn has(&self, key: Key) -> bool {
        self.all
            || !self.keys.is_empty() && self.keys.contains(&key)
            || self.rooms.iter().any(|room| room.has(key))
    }
}
