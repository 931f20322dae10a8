//! Who there is, and whom a target means.

use std::fmt;

use super::{GROUPS, Groups};

/// A group, by its number.
pub(in crate::model) type Group = u8;

/// A user, by its number.
pub(in crate::model) type User = u8;

/// Names a client that was connected, for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::model) struct ClientId(pub(in crate::model::hub) u64);

/// What is known of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::model) enum Sure {
    No,
    Maybe,
    Yes,
}

/// Whom a message is for.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::model) struct Target {
    pub(in crate::model) include: Vec<Name>,
    pub(in crate::model) except: Vec<Name>,
}

/// A part of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Name {
    All,
    Client(ClientId),
    Group(Group),
    User(User),
}

impl Target {
    /// Whoever one of these names.
    pub(in crate::model) fn of(include: impl IntoIterator<Item = Name>) -> Self {
        Self {
            include: include.into_iter().collect(),
            except: Vec::new(),
        }
    }

    /// Whether it means this client. Whom it leaves out it does not mean.
    pub(super) fn means(&self, id: ClientId, user: Option<User>, groups: &Groups) -> Sure {
        let any = |names: &[Name]| {
            let each = names.iter().map(|name| match name {
                Name::All => Sure::Yes,
                Name::Client(of) => Sure::of(*of == id),
                Name::User(of) => Sure::of(Some(*of) == user),
                Name::Group(group) => groups[usize::from(group % GROUPS)],
            });
            each.max().unwrap_or(Sure::No)
        };
        match any(&self.except) {
            Sure::Yes => Sure::No,
            Sure::Maybe => any(&self.include).min(Sure::Maybe),
            Sure::No => any(&self.include),
        }
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Client(id) => write!(f, "{id:?}"),
            Self::Group(group) => write!(f, "group {group}"),
            Self::User(user) => write!(f, "user {user}"),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.include)?;
        match &self.except[..] {
            [] => Ok(()),
            except => write!(f, " but {except:?}"),
        }
    }
}
