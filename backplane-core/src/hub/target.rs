//! Who is to get a message: [`Target`].

use std::sync::Arc;

use super::id::ConnectionId;

/// Who is to get a message: everybody, connections, groups, users, any union of them, and those to leave out.
///
/// A connection gets a message at most once, however many parts of its target it matches, and whoever is left
/// out gets it in no case (rules H1 to H10). Names are literal and case-sensitive, and a group, a user and a connection of
/// one name are different (rule H13); a send refuses names that are empty or longer than
/// [`Target::MAX_NAME_LEN`]. A group without members, or a connection that is gone, is no error.
///
/// ```
/// use backplane_core::hub::Target;
///
/// let room_and_moderators = Target::group("room 7")
///     .and(Target::users(["ann", "bob"]))
///     .except_group("muted");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a target does nothing before something is sent to it"]
pub struct Target {
    pub(super) include: Vec<Address>,
    pub(super) except: Vec<Address>,
}

/// One part of a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Address {
    All,
    Connection(ConnectionId),
    Group(Arc<str>),
    User(Arc<str>),
}

/// The same, wherever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressRef<'a> {
    All,
    Connection(ConnectionId),
    Group(&'a str),
    User(&'a str),
}

impl Target {
    /// The longest name of a group, and the longest id of a user, in bytes.
    pub const MAX_NAME_LEN: usize = 256;

    /// Every connection of the hub, on every node (rule H1).
    pub fn all() -> Self {
        Self::of([Address::All])
    }

    /// One connection (rule H3).
    pub fn connection(id: ConnectionId) -> Self {
        Self::connections([id])
    }

    /// Several connections (rule H4).
    pub fn connections(ids: impl IntoIterator<Item = ConnectionId>) -> Self {
        Self::of(ids.into_iter().map(Address::Connection))
    }

    /// The members of a group (rule H5).
    pub fn group(name: impl AsRef<str>) -> Self {
        Self::groups([name])
    }

    /// The members of several groups (rule H6).
    pub fn groups<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::of(groups(names))
    }

    /// The connections of a user (rule H8).
    pub fn user(id: impl AsRef<str>) -> Self {
        Self::users([id])
    }

    /// The connections of several users (rule H9).
    pub fn users<N: AsRef<str>>(ids: impl IntoIterator<Item = N>) -> Self {
        Self::of(users(ids))
    }

    /// Whoever one or the other target names. Whom either leaves out is left out of the whole.
    pub fn and(mut self, other: Self) -> Self {
        self.include.extend(other.include);
        self.except.extend(other.except);
        self
    }

    /// Leaves one connection out, as the one that a chat message came from (rules H2 and H7).
    pub fn except_connection(self, id: ConnectionId) -> Self {
        self.except_connections([id])
    }

    /// Leaves connections out.
    pub fn except_connections(mut self, ids: impl IntoIterator<Item = ConnectionId>) -> Self {
        self.except.extend(ids.into_iter().map(Address::Connection));
        self
    }

    /// Leaves the members of a group out.
    pub fn except_group(self, name: impl AsRef<str>) -> Self {
        self.except_groups([name])
    }

    /// Leaves the members of several groups out.
    pub fn except_groups<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.except.extend(groups(names));
        self
    }

    /// Leaves the connections of a user out.
    pub fn except_user(self, id: impl AsRef<str>) -> Self {
        self.except_users([id])
    }

    /// Leaves the connections of several users out.
    pub fn except_users<N: AsRef<str>>(mut self, ids: impl IntoIterator<Item = N>) -> Self {
        self.except.extend(users(ids));
        self
    }

    fn of(include: impl IntoIterator<Item = Address>) -> Self {
        Self {
            include: include.into_iter().collect(),
            except: Vec::new(),
        }
    }

    /// Takes out what is said twice, and all else when everybody is meant.
    pub(super) fn simplified(mut self) -> Self {
        for list in [&mut self.include, &mut self.except] {
            if list.len() > 1 {
                list.sort_unstable();
                list.dedup();
            }
            if list.first() == Some(&Address::All) {
                list.truncate(1);
            }
        }
        self
    }
}

impl Address {
    pub(super) fn as_ref(&self) -> AddressRef<'_> {
        match self {
            Self::All => AddressRef::All,
            Self::Connection(id) => AddressRef::Connection(*id),
            Self::Group(name) => AddressRef::Group(name),
            Self::User(id) => AddressRef::User(id),
        }
    }
}

fn groups<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> impl Iterator<Item = Address> {
    names
        .into_iter()
        .map(|name| Address::Group(Arc::from(name.as_ref())))
}

fn users<N: AsRef<str>>(ids: impl IntoIterator<Item = N>) -> impl Iterator<Item = Address> {
    ids.into_iter()
        .map(|id| Address::User(Arc::from(id.as_ref())))
}
