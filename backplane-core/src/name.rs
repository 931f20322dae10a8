//! Names: [`Prefix`], [`Channel`], [`NodeId`], and how a prefix and a channel become the one name
//! that a broker sees, [`BrokerChannel`].

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The namespace of a deployment: nodes of one prefix share everything, nodes of two prefixes share
/// nothing, whatever broker they share (rules I1 to I5).
///
/// 1 to [`Prefix::MAX_LEN`] bytes of UTF-8. No character is special: `*`, `?`, `[a]`, `:`, spaces and
/// upper and lower case are literal. The empty prefix exists, but only by name
/// ([`Prefix::unprefixed`]): an unset variable must not join a deployment by accident.
///
/// ```
/// use backplane_core::Prefix;
///
/// let prefix = Prefix::new("shop-production")?;
/// assert_eq!(prefix.as_str(), "shop-production");
/// assert!(Prefix::new("").is_err());
/// # Ok::<(), backplane_core::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// The longest prefix, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Parses a prefix.
    ///
    /// # Errors
    /// [`InvalidName`] when it is empty or longer than [`Prefix::MAX_LEN`] bytes (rule M3).
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
        parse(NameKind::Prefix, name.as_ref(), Self::MAX_LEN).map(Self)
    }

    /// The empty prefix, for a broker that serves a single deployment. It meets no other prefix
    /// (rule I3).
    #[must_use]
    pub fn unprefixed() -> Self {
        Self(Arc::from(""))
    }

    /// The prefix as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A literal name below a prefix, compared byte for byte (rule D5).
///
/// 1 to [`Channel::MAX_LEN`] bytes of UTF-8, any characters. Cloning is cheap.
///
/// ```
/// use backplane_core::Channel;
///
/// let a = Channel::new("room:*")?;
/// let b = Channel::new("room:lobby")?;
/// assert_ne!(a, b); // a star is a star
/// # Ok::<(), backplane_core::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

impl Channel {
    /// The longest channel name, in bytes.
    pub const MAX_LEN: usize = 512;

    /// Parses a channel name.
    ///
    /// # Errors
    /// [`InvalidName`] when it is empty or longer than [`Channel::MAX_LEN`] bytes (rule M3).
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
        parse(NameKind::Channel, name.as_ref(), Self::MAX_LEN).map(Self)
    }

    /// The channel name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A random number that names one incarnation of one node: 64 bits, new at each start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

impl NodeId {
    /// A new random id.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The id as a number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The id with this number, for a backend that carries ids in its own way.
    #[must_use]
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }
}

/// The full name of a channel on the broker: what a [`Link`](crate::driver::Link) publishes and
/// subscribes to.
///
/// The prefix is escaped (`%`, `:`, `!`, `{` and `}` become `%25`, `%3A`, `%21`, `%7B` and `%7D`) and
/// closed by `:`, then the channel follows as it is. The first `:` therefore always ends the prefix, so no
/// two pairs of prefix and channel ever meet (rule I3), the names stay readable in a broker's
/// tools, and a prefix never pins a whole deployment to one slot of a cluster. The engine's own
/// channels are closed by `!` instead, so an application channel never meets one.
///
/// ```
/// use backplane_core::{driver::BrokerChannel, Channel, Prefix};
///
/// let name = |p: &str, c: &str| -> Result<String, backplane_core::InvalidName> {
///     Ok(BrokerChannel::new(&Prefix::new(p)?, &Channel::new(c)?).as_str().to_owned())
/// };
/// assert_eq!(name("app", "room:7")?, "app:room:7");
/// assert_eq!(name("app:room", "7")?, "app%3Aroom:7");
/// # Ok::<(), backplane_core::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BrokerChannel(Arc<str>);

impl BrokerChannel {
    /// The name of an application channel.
    #[must_use]
    pub fn new(prefix: &Prefix, channel: &Channel) -> Self {
        Namespace::new(prefix).name(channel)
    }

    /// The name of the private channel on which a node hears its own probes. The engine alone publishes there.
    #[must_use]
    pub fn probe(prefix: &Prefix, node: NodeId) -> Self {
        let mut name = escaped(prefix, 24);
        name.push_str("!probe:");
        name.push_str(&node.to_string());
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What the full names of all application channels of one prefix begin with.
#[derive(Clone, Debug)]
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new(prefix: &Prefix) -> Self {
        let mut name = escaped(prefix, 1);
        name.push(':');
        Self(name)
    }

    /// The full name of a channel.
    pub(crate) fn name(&self, channel: &Channel) -> BrokerChannel {
        let mut name = String::with_capacity(self.0.len() + channel.0.len());
        name.push_str(&self.0);
        name.push_str(&channel.0);
        BrokerChannel(name.into())
    }

    /// The channel that a full name stands for, if it is one of this prefix.
    pub(crate) fn channel<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        name.strip_prefix(self.0.as_bytes())
    }
}

/// Why a name was refused (rule M3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// The name has no bytes.
    #[error("a {0} must not be empty")]
    Empty(NameKind),
    /// The name is longer than its limit.
    #[error("a {kind} must have at most {limit} bytes, and this one has {len}")]
    TooLong {
        /// What the name was meant to be.
        kind: NameKind,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// What a refused name was meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameKind {
    /// A [`Channel`].
    Channel,
    /// A group of a [hub](crate::hub).
    Group,
    /// A [hub](crate::hub).
    Hub,
    /// A [`Prefix`].
    Prefix,
    /// A user of a [hub](crate::hub).
    User,
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel => "channel name",
            Self::Group => "group name",
            Self::Hub => "hub name",
            Self::Prefix => "prefix",
            Self::User => "user id",
        })
    }
}

fn parse(kind: NameKind, name: &str, limit: usize) -> Result<Arc<str>, InvalidName> {
    check(kind, name, limit).map(|()| Arc::from(name))
}

/// Whether a name has a length that it may have.
pub(crate) const fn check(kind: NameKind, name: &str, limit: usize) -> Result<(), InvalidName> {
    match name.len() {
        0 => Err(InvalidName::Empty(kind)),
        len if len > limit => Err(InvalidName::TooLong { kind, len, limit }),
        _ => Ok(()),
    }
}

fn escaped(prefix: &Prefix, more: usize) -> String {
    let mut out = String::with_capacity(prefix.0.len() + more);
    for c in prefix.0.chars() {
        match c {
            '%' => out.push_str("%25"),
            ':' => out.push_str("%3A"),
            '!' => out.push_str("%21"),
            '{' => out.push_str("%7B"),
            '}' => out.push_str("%7D"),
            c => out.push(c),
        }
    }
    out
}

macro_rules! text_name {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_name!(BrokerChannel, Channel, Prefix);

macro_rules! parsed_name {
    ($($name:ident),*) => {$(
        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;

            fn try_from(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }
    )*};
}

parsed_name!(Channel, Prefix);

impl Hash for BrokerChannel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for BrokerChannel {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(prefix: &str, channel: &str) -> String {
        let prefix = match prefix {
            "" => Prefix::unprefixed(),
            p => Prefix::new(p).unwrap(),
        };
        BrokerChannel::new(&prefix, &Channel::new(channel).unwrap()).to_string()
    }

    #[test]
    fn the_classic_collisions_do_not_meet() {
        assert_ne!(name("a", "b:c"), name("a:b", "c"));
        assert_ne!(name("", "a:b"), name("a", "b"));
        assert_ne!(name("a", "x"), name("a%3A", "x"));
        assert_ne!(name("app", "2:x"), name("app2", "x"));
    }

    #[test]
    fn limits_are_exact() {
        assert!(Channel::new("x".repeat(Channel::MAX_LEN)).is_ok());
        assert_eq!(
            Channel::new("x".repeat(Channel::MAX_LEN + 1)),
            Err(InvalidName::TooLong {
                kind: NameKind::Channel,
                len: 513,
                limit: 512
            })
        );
        assert_eq!(Prefix::new(""), Err(InvalidName::Empty(NameKind::Prefix)));
    }

    proptest! {
        #[test]
        fn no_two_pairs_share_a_name(
            p1 in "[a:%!{}2]{0,4}", c1 in "[a:%!{}2]{1,4}",
            p2 in "[a:%!{}2]{0,4}", c2 in "[a:%!{}2]{1,4}",
        ) {
            prop_assert_eq!(name(&p1, &c1) == name(&p2, &c2), p1 == p2 && c1 == c2);
        }

        #[test]
        fn a_full_name_leads_back_to_its_channel_in_its_own_prefix_only(
            p1 in "[a:%!{}2]{1,4}", p2 in "[a:%!{}2]{1,4}", c in "[a:%!{}2]{1,4}",
        ) {
            let name = name(&p1, &c);
            let of = |p: &str| Namespace::new(&Prefix::new(p).unwrap());
            prop_assert_eq!(of(&p1).channel(name.as_bytes()), Some(c.as_bytes()));
            prop_assert_eq!(of(&p2).channel(name.as_bytes()).is_some(), p1 == p2);
        }

        #[test]
        fn no_application_channel_meets_a_probe(p1 in "[a:%!]{1,4}", p2 in "[a:%!]{1,4}", c in "\\PC{1,20}") {
            let probe = BrokerChannel::probe(&Prefix::new(&p1).unwrap(), NodeId::from_u64(7));
            prop_assert_ne!(name(&p2, &c), probe.to_string());
        }
    }
}
