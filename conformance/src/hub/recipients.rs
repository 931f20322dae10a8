//! Who is to get a message, in a form that can be looked at: [`Recipients`].

use backplane_core::hub::{ConnectionId, Target};

/// Who is to get a message, and who is left out. A hub's own [`Target`] says the same and shows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Recipients {
    /// Whoever one of these names gets it.
    pub include: Vec<Address>,
    /// Whoever one of these names does not.
    pub except: Vec<Address>,
}

/// A part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Address {
    /// Everybody; only to be included.
    All,
    /// A connection.
    Connection(ConnectionId),
    /// The members of a group.
    Group(String),
    /// The connections of a user.
    User(String),
}

impl Recipients {
    /// Whoever one of these names.
    pub fn of(include: impl IntoIterator<Item = Address>) -> Self {
        Self {
            include: include.into_iter().collect(),
            except: Vec::new(),
        }
    }

    /// Everybody.
    #[must_use]
    pub fn all() -> Self {
        Self::of([Address::All])
    }

    /// A connection.
    #[must_use]
    pub fn connection(id: ConnectionId) -> Self {
        Self::connections([id])
    }

    /// Several connections.
    pub fn connections(ids: impl IntoIterator<Item = ConnectionId>) -> Self {
        Self::of(ids.into_iter().map(Address::Connection))
    }

    /// The members of a group.
    pub fn group(name: impl Into<String>) -> Self {
        Self::groups([name])
    }

    /// The members of several groups.
    pub fn groups<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::of(names.into_iter().map(|name| Address::Group(name.into())))
    }

    /// The connections of a user.
    pub fn user(id: impl Into<String>) -> Self {
        Self::users([id])
    }

    /// The connections of several users.
    pub fn users<N: Into<String>>(ids: impl IntoIterator<Item = N>) -> Self {
        Self::of(ids.into_iter().map(|id| Address::User(id.into())))
    }

    /// And whoever the other names; whom either leaves out is left out.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.include.extend(other.include);
        self.except.extend(other.except);
        self
    }

    /// But nobody whom the other names.
    #[must_use]
    pub fn but(mut self, other: Self) -> Self {
        self.except.extend(other.include);
        self
    }
}

impl From<&Recipients> for Target {
    fn from(to: &Recipients) -> Self {
        let one = |address: &Address| match address {
            Address::All => Self::all(),
            Address::Connection(id) => Self::connection(*id),
            Address::Group(name) => Self::group(name),
            Address::User(id) => Self::user(id),
        };
        let include = to.include.iter().map(one);
        let target = include.fold(Self::connections([]), Self::and);
        let except = to.except.iter();
        except.fold(target, |target, address| match address {
            // There is nothing to say it with, and nobody asks.
            Address::All => target,
            Address::Connection(id) => target.except_connection(*id),
            Address::Group(name) => target.except_group(name),
            Address::User(id) => target.except_user(id),
        })
    }
}
