//! The name of a connection: [`ConnectionId`].

use std::fmt;
use std::str::FromStr;

use crate::name::NodeId;

/// The name of one connection, on whatever node it is. Opaque: its text is what to keep and to send.
///
/// It says which node the connection is on, so that a message to it goes to that node alone, and has 128 random bits,
/// so that nobody can guess it. It is no proof of who somebody is.
///
/// ```
/// use backplane_core::hub::ConnectionId;
///
/// let text = "00000000000000aa0123456789abcdef0123456789abcdef";
/// let id: ConnectionId = text.parse()?;
/// assert_eq!(id.to_string(), text);
/// # Ok::<(), backplane_core::hub::InvalidConnectionId>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    node: NodeId,
    key: Key,
    rest: u64,
}

/// What a connection is found by on its own node: half of the random bits.
pub(super) type Key = u64;

impl ConnectionId {
    /// How many bytes it has on the wire.
    pub(super) const LEN: usize = 24;

    pub(super) fn random(node: NodeId) -> Self {
        Self {
            node,
            key: rand::random(),
            rest: rand::random(),
        }
    }

    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    pub(super) const fn key(&self) -> Key {
        self.key
    }

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.node.as_u64().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.key.to_be_bytes());
        bytes[16..].copy_from_slice(&self.rest.to_be_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (parts, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let [node, key, rest] = *parts else {
            return None;
        };
        Some(Self {
            node: NodeId::from_u64(u64::from_be_bytes(node)),
            key: u64::from_be_bytes(key),
            rest: u64::from_be_bytes(rest),
        })
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:016x}{:016x}", self.node, self.key, self.rest)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not the text of a [`ConnectionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a connection id has 48 digits out of 0 to 9 and a to f")]
#[non_exhaustive]
pub struct InvalidConnectionId;

impl FromStr for ConnectionId {
    type Err = InvalidConnectionId;

    /// Takes exactly what `Display` writes: no two texts are the same id.
    fn from_str(text: &str) -> Result<Self, InvalidConnectionId> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::LEN {
            return Err(InvalidConnectionId);
        }
        let mut bytes = [0; Self::LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Self::from_bytes(&bytes).ok_or(InvalidConnectionId)
    }
}

const fn digit(c: u8) -> Result<u8, InvalidConnectionId> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(InvalidConnectionId),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_its_bytes_and_other_texts_are_refused() {
        let node = NodeId::from_u64(7);
        let id = ConnectionId::random(node);
        assert_ne!(id, ConnectionId::random(node));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ConnectionId::from_bytes(&id.to_bytes()), Some(id));
        for wrong in [
            "",
            "7",
            &id.to_string()[1..],
            &format!("{id}0"),
            &"A".repeat(48),
        ] {
            assert_eq!(wrong.parse::<ConnectionId>(), Err(InvalidConnectionId));
        }
    }
}
