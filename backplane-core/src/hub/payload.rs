//! What is sent: [`Payload`], one message in one or several encodings.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::pack::{Reader, Writer};

/// One message, in one or several encodings, so that clients of different protocols get it without anybody encoding
/// it anew: the sender does it once, whatever the number of nodes and connections.
///
/// Cloning shares everything. `Debug` shows the names of the encodings and their lengths, never their bytes (rule V3).
///
/// ```
/// use backplane_core::hub::Payload;
///
/// let greeting = Payload::with("json", r#"{"text":"hi"}"#).and("msgpack", b"\x81\xa4text\xa2hi".as_slice());
/// assert_eq!(greeting.get("json").as_deref(), Some(br#"{"text":"hi"}"#.as_slice()));
/// assert_eq!(greeting.get("xml"), None);
/// ```
#[derive(Clone)]
pub struct Payload(Arc<Repr>);

#[derive(Clone)]
enum Repr {
    Parts(Vec<(Cow<'static, str>, Bytes)>),
    /// So many names and encodings, as they arrived. Checked.
    Wire {
        entries: Bytes,
        count: usize,
    },
}

impl Payload {
    /// A message in a single encoding that needs no name: [`bytes`](Self::bytes) gives it back.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self::with("", bytes)
    }

    /// A message in this encoding.
    #[must_use]
    pub fn with(encoding: impl Into<Cow<'static, str>>, bytes: impl Into<Bytes>) -> Self {
        Self(Arc::new(Repr::Parts(vec![(encoding.into(), bytes.into())])))
    }

    /// The same message in one more encoding. One of the same name is replaced.
    #[must_use]
    pub fn and(mut self, encoding: impl Into<Cow<'static, str>>, bytes: impl Into<Bytes>) -> Self {
        let (encoding, bytes) = (encoding.into(), bytes.into());
        if let Repr::Wire { .. } = &*self.0 {
            let parts = self.encodings();
            let parts = parts.map(|(name, bytes)| (Cow::Owned(name.to_owned()), bytes));
            self = Self(Arc::new(Repr::Parts(parts.collect())));
        }
        if let Repr::Parts(parts) = Arc::make_mut(&mut self.0) {
            match parts.iter_mut().find(|(name, _)| *name == encoding) {
                Some(part) => part.1 = bytes,
                None => parts.push((encoding, bytes)),
            }
        }
        self
    }

    /// The message in this encoding, without a copy.
    #[must_use]
    pub fn get(&self, encoding: &str) -> Option<Bytes> {
        let mut encodings = self.encodings();
        encodings.find_map(|(name, bytes)| (name == encoding).then_some(bytes))
    }

    /// The message in the encoding without a name, or else in the only one that there is.
    #[must_use]
    pub fn bytes(&self) -> Option<Bytes> {
        self.get("").or_else(|| {
            let mut encodings = self.encodings();
            let (_, only) = encodings.next()?;
            encodings.next().is_none().then_some(only)
        })
    }

    /// All encodings, with their names.
    pub fn encodings(&self) -> impl Iterator<Item = (&str, Bytes)> {
        let mut reader = match &*self.0 {
            Repr::Parts(_) => Reader::new(&[]),
            Repr::Wire { entries, .. } => Reader::new(entries),
        };
        let mut at = 0..self.count();
        std::iter::from_fn(move || {
            let at = at.next()?;
            match &*self.0 {
                Repr::Parts(parts) => parts.get(at).map(|(name, bytes)| (&**name, bytes.clone())),
                // They were checked when they arrived.
                Repr::Wire { entries, .. } => {
                    let name = reader.str().ok()?;
                    Some((name, entries.slice_ref(reader.bin().ok()?)))
                }
            }
        })
    }

    fn count(&self) -> usize {
        match &*self.0 {
            Repr::Parts(parts) => parts.len(),
            Repr::Wire { count, .. } => *count,
        }
    }

    /// What arrived: so many names and encodings, which were checked.
    pub(super) fn from_wire(entries: Bytes, count: usize) -> Self {
        Self(Arc::new(Repr::Wire { entries, count }))
    }

    /// About how many bytes it takes on the wire.
    pub(super) fn wire_len(&self) -> usize {
        match &*self.0 {
            Repr::Parts(parts) => parts.iter().map(|(n, b)| n.len() + b.len() + 10).sum(),
            Repr::Wire { entries, .. } => entries.len() + 5,
        }
    }

    pub(super) fn write_to(&self, writer: &mut Writer) {
        match &*self.0 {
            Repr::Parts(parts) => {
                writer.map(parts.len());
                for (name, bytes) in parts {
                    writer.str(name);
                    writer.bin(bytes);
                }
            }
            Repr::Wire { entries, count } => {
                writer.map(*count);
                writer.raw(entries);
            }
        }
    }
}

macro_rules! payload_from {
    ($($bytes:ty),*) => {$(
        impl From<$bytes> for Payload {
            fn from(bytes: $bytes) -> Self {
                Self::new(bytes)
            }
        }
    )*};
}

payload_from!(Bytes, Vec<u8>, String, &'static [u8], &'static str);

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.count() == other.count() && self.encodings().eq(other.encodings())
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.encodings().map(|(name, bytes)| (name, bytes.len()));
        f.write_str("Payload ")?;
        f.debug_map().entries(lengths).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_found_by_its_name_and_the_bytes_are_not_in_debug() {
        let payload = Payload::with("json", "secret")
            .and("msgpack", "old")
            .and("msgpack", "x");
        assert_eq!(payload.get("json").as_deref(), Some(b"secret".as_slice()));
        assert_eq!(payload.get("msgpack").as_deref(), Some(b"x".as_slice()));
        assert_eq!((payload.get("xml"), payload.bytes()), (None, None));
        assert_eq!(Payload::from("x").bytes().as_deref(), Some(b"x".as_slice()));
        assert_eq!(
            Payload::with("json", "y").bytes().as_deref(),
            Some(b"y".as_slice())
        );
        assert_eq!(
            format!("{payload:?}"),
            r#"Payload {"json": 6, "msgpack": 1}"#
        );
    }
}
