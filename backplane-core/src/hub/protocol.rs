//! What hubs say to each other, and where: [`Protocol`]. The native one is [`Native`].

use std::fmt::Debug;

use bytes::Bytes;

use super::payload::Payload;
use super::signal::{Packet, Signal};
use super::target::{Address, Target};
use super::wire::{self, Skipped};
use crate::name::{Channel, InvalidName, NameKind, NodeId, check};

/// The longest name of a hub, in bytes. Escaped, it is three times as long at most.
pub(super) const MAX_HUB_LEN: usize = 64;

/// The names of a hub's channels, and how its messages are written.
pub(super) trait Protocol: Debug + Send + Sync + 'static {
    /// The channel of every node.
    fn all(&self) -> &Channel;

    /// The channel of one node.
    fn node(&self, node: NodeId) -> Result<Channel, InvalidName>;

    /// The channel of a group. Meets no other channel of any hub.
    fn group(&self, name: &str) -> Result<Channel, InvalidName>;

    /// The channel of a user, likewise.
    fn user(&self, id: &str) -> Result<Channel, InvalidName>;

    /// The group whose channel this is.
    fn group_name<'a>(&self, channel: &'a Channel) -> &'a str;

    /// The user whose channel this is.
    fn user_name<'a>(&self, channel: &'a Channel) -> &'a str;

    /// Writes a message. Without targets it is for whomever its channel stands for.
    fn encode(&self, targets: Option<&[Address]>, except: &[Address], payload: &Payload) -> Bytes;

    /// Writes what a node says to others.
    fn encode_signal(&self, signal: &Signal) -> Bytes;

    /// Reads whatever arrives.
    fn decode(&self, bytes: &Bytes) -> Result<Packet, Skipped>;
}

/// The protocol of [`wire`].
#[derive(Debug)]
pub(super) struct Native {
    /// What all channels of the hub begin with.
    base: String,
    all: Channel,
}

const GROUP: &str = "group:";
const USER: &str = "user:";

impl Native {
    pub(super) fn new(hub: &str) -> Result<Self, InvalidName> {
        check(NameKind::Hub, hub, MAX_HUB_LEN)?;
        // The first colon after the name ends it, so no two hubs meet (rule H25).
        let base = format!("hub:{}:", hub.replace('%', "%25").replace(':', "%3A"));
        let all = Channel::new(format!("{base}all"))?;
        Ok(Self { base, all })
    }

    fn named(&self, kind: NameKind, sort: &str, name: &str) -> Result<Channel, InvalidName> {
        check(kind, name, Target::MAX_NAME_LEN)?;
        let mut channel = String::with_capacity(self.base.len() + sort.len() + name.len());
        channel.push_str(&self.base);
        channel.push_str(sort);
        channel.push_str(name);
        Channel::new(channel)
    }
}

impl Protocol for Native {
    fn all(&self) -> &Channel {
        &self.all
    }

    fn node(&self, node: NodeId) -> Result<Channel, InvalidName> {
        Channel::new(format!("{}node:{node}", self.base))
    }

    fn group(&self, name: &str) -> Result<Channel, InvalidName> {
        self.named(NameKind::Group, GROUP, name)
    }

    fn user(&self, id: &str) -> Result<Channel, InvalidName> {
        self.named(NameKind::User, USER, id)
    }

    fn group_name<'a>(&self, channel: &'a Channel) -> &'a str {
        let name = channel.as_str().get(self.base.len() + GROUP.len()..);
        name.unwrap_or_default()
    }

    fn user_name<'a>(&self, channel: &'a Channel) -> &'a str {
        let name = channel.as_str().get(self.base.len() + USER.len()..);
        name.unwrap_or_default()
    }

    fn encode(&self, targets: Option<&[Address]>, except: &[Address], payload: &Payload) -> Bytes {
        wire::encode(targets, except, payload)
    }

    fn encode_signal(&self, signal: &Signal) -> Bytes {
        wire::encode_signal(signal)
    }

    fn decode(&self, bytes: &Bytes) -> Result<Packet, Skipped> {
        wire::decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// The channel of something in a hub.
    fn channel(hub: &str, what: &str, name: &str) -> Channel {
        let native = Native::new(hub).unwrap();
        match what {
            "all" => native.all().clone(),
            "node" => native.node(NodeId::from_u64(name.len() as u64)).unwrap(),
            "group" => native.group(name).unwrap(),
            _ => native.user(name).unwrap(),
        }
    }

    #[test]
    fn the_longest_names_fit_and_longer_ones_are_refused() {
        let native = Native::new(&":".repeat(MAX_HUB_LEN)).unwrap();
        assert!(native.node(NodeId::from_u64(1)).is_ok());
        let longest = "g".repeat(Target::MAX_NAME_LEN);
        assert_eq!(native.group_name(&native.group(&longest).unwrap()), longest);
        assert!(native.user(&longest).is_ok());
        assert_eq!(native.group(""), Err(InvalidName::Empty(NameKind::Group)));
        let too_long = native.user(&format!("{longest}u")).unwrap_err();
        assert_eq!(
            too_long.to_string(),
            "a user id must have at most 256 bytes, and this one has 257"
        );
        assert!(Native::new("").is_err() && Native::new(&"h".repeat(65)).is_err());
    }

    #[test]
    fn the_classic_collisions_do_not_meet() {
        let names = [
            ("a", "group", "b:c"),
            ("a:group", "group", "b:c"),
            ("a:group:b", "group", "c"),
            ("a", "user", "b:c"),
            ("a%3Agroup", "group", "b:c"),
            ("a", "all", ""),
            ("a", "node", "b:c"),
            ("a", "group", "0000000000000003"),
            ("a", "group", "all"),
            ("A", "group", "all"),
        ];
        let channels = names.map(|(hub, what, name)| channel(hub, what, name));
        assert_eq!(channels.iter().collect::<HashSet<_>>().len(), names.len());
    }

    proptest! {
        #[test]
        fn no_two_names_share_a_channel(
            h1 in "[a:%3A]{1,5}", k1 in "group|user", n1 in "[a:%]{1,3}|all|group:a|user:a",
            h2 in "[a:%3A]{1,5}", k2 in "group|user|all|node", n2 in "[a:%]{1,3}|all|group:a|user:a",
        ) {
            let same = h1 == h2 && k1 == k2 && n1 == n2;
            prop_assert_eq!(channel(&h1, &k1, &n1) == channel(&h2, &k2, &n2), same);
        }
    }
}
