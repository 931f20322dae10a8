//! Frames: what travels over a network broker, one frame a broker message.
//!
//! # Wire format, version 1
//! All numbers are little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | `C1 42`, which begins neither a text in UTF-8 nor a value in MessagePack |
//! | 1 | version, 1 |
//! | 8 | the publisher's [`NodeId`]; stands here in every version |
//! | 1 | flags: bit 0, the stream starts here; the others are zero and ignored |
//! | 8 | the sequence number of the first message |
//! | rest | at least one message: its length as a varint (LEB128, at most 5 bytes), then its bytes |
//!
//! A publisher numbers the messages of each channel one by one. A receiver that sees a number skipped knows
//! how many messages it missed; one that sees a number again knows the message. The first frame of a
//! numbering has the start flag: nothing came before it.

use std::io::{self, Write};

use bytes::Bytes;

use crate::name::NodeId;

const VERSION: u8 = 1;
const MAGIC: [u8; 2] = [0xc1, 0x42];
/// Magic, version and publisher: what every version has in common.
const COMMON_LEN: usize = 2 + 1 + 8;
const HEADER_LEN: usize = COMMON_LEN + 1 + 8;
const FLAG_START: u8 = 1;

/// One or more messages of one publisher to one channel, with consecutive sequence numbers.
///
/// Cloning shares the payloads.
#[derive(Clone, Debug)]
pub struct Frame {
    publisher: NodeId,
    sequence: u64,
    start: bool,
    payloads: Payloads,
}

/// Why bytes are not a frame that this version reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes are not a frame (rules I6 and M1).
    #[error("not a frame: {0}")]
    Malformed(&'static str),
    /// The frame has a newer wire version (rule M2).
    #[error("publisher {publisher} speaks wire version {version}, and this node reads {VERSION}")]
    Incompatible {
        /// Its version.
        version: u8,
        /// Who sent it.
        publisher: NodeId,
    },
}

impl Frame {
    /// A frame of one message.
    #[must_use]
    pub(crate) const fn one(publisher: NodeId, sequence: u64, start: bool, payload: Bytes) -> Self {
        Self {
            publisher,
            sequence,
            start,
            payloads: Payloads::One(payload),
        }
    }

    /// A frame of several messages; there must be at least one.
    #[must_use]
    pub(crate) fn many(
        publisher: NodeId,
        sequence: u64,
        start: bool,
        mut payloads: Vec<Bytes>,
    ) -> Self {
        let payloads = match payloads.pop() {
            Some(only) if payloads.is_empty() => Payloads::One(only),
            last => {
                payloads.extend(last);
                Payloads::Many(payloads.into())
            }
        };
        Self {
            publisher,
            sequence,
            start,
            payloads,
        }
    }

    /// Who published it.
    #[must_use]
    pub const fn publisher(&self) -> NodeId {
        self.publisher
    }

    /// The sequence number of its first message.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether its numbering starts here.
    #[must_use]
    pub const fn is_start(&self) -> bool {
        self.start
    }

    /// How many messages it holds. At least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        match &self.payloads {
            Payloads::One(_) => 1,
            Payloads::Many(payloads) => payloads.len(),
            Payloads::Encoded { count, .. } => *count,
        }
    }

    /// Its payloads in order, each sharing the frame's memory.
    pub fn payloads(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut next = 0;
        let mut at = 0;
        std::iter::from_fn(move || {
            let payload = match &self.payloads {
                Payloads::One(payload) => (next == 0).then(|| payload.clone()),
                Payloads::Many(payloads) => payloads.get(next).cloned(),
                Payloads::Encoded { body, .. } => {
                    // The lengths were checked when the frame was decoded.
                    let (start, end) = message_at(body, at).ok().flatten()?;
                    at = end;
                    Some(body.slice(start..end))
                }
            };
            next += 1;
            payload
        })
    }

    /// Its payload, if it holds a single message.
    pub(crate) fn only(&self) -> Option<Bytes> {
        match &self.payloads {
            Payloads::One(payload) => Some(payload.clone()),
            _ if self.len() == 1 => self.payloads().next(),
            _ => None,
        }
    }

    /// How many bytes [`Frame::encode`] returns.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let body = match &self.payloads {
            Payloads::One(payload) => message_len(payload),
            Payloads::Many(payloads) => payloads.iter().map(message_len).sum(),
            Payloads::Encoded { body, .. } => body.len(),
        };
        HEADER_LEN + body
    }

    /// The frame as the bytes of one broker message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.encoded_len());
        // A vector takes everything.
        let _ = self.write_to(&mut out);
        out.into()
    }

    /// Writes what [`encode`](Self::encode) returns to where the broker's client collects its request, which saves a
    /// copy.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut header = [0; HEADER_LEN];
        header[..2].copy_from_slice(&MAGIC);
        header[2] = VERSION;
        header[3..COMMON_LEN].copy_from_slice(&self.publisher.as_u64().to_le_bytes());
        header[COMMON_LEN] = if self.start { FLAG_START } else { 0 };
        header[COMMON_LEN + 1..].copy_from_slice(&self.sequence.to_le_bytes());
        out.write_all(&header)?;
        match &self.payloads {
            Payloads::One(payload) => write_message(out, payload),
            Payloads::Many(payloads) => payloads.iter().try_for_each(|p| write_message(out, p)),
            Payloads::Encoded { body, .. } => out.write_all(body),
        }
    }

    /// Reads a frame. Allocates nothing: the payloads are slices of `bytes` (rule M1).
    ///
    /// # Errors
    /// [`FrameError`] says what is wrong; it holds for the whole frame, no part of it is usable.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(FrameError::Malformed("it does not begin like one"));
        }
        let Some((common, _)) = bytes.split_at_checked(COMMON_LEN) else {
            return Err(FrameError::Malformed("shorter than its header"));
        };
        let publisher = NodeId::from_u64(read_u64(&common[3..]));
        match common[2] {
            VERSION => {}
            0 => return Err(FrameError::Malformed("version 0")),
            version => return Err(FrameError::Incompatible { version, publisher }),
        }
        let Some((header, body)) = bytes.split_at_checked(HEADER_LEN) else {
            return Err(FrameError::Malformed("shorter than its header"));
        };
        let (flags, sequence) = (header[COMMON_LEN], read_u64(&header[COMMON_LEN + 1..]));
        let mut count = 0_usize;
        let mut at = 0;
        while let Some((_, end)) = message_at(body, at)? {
            at = end;
            count += 1;
        }
        if count == 0 {
            return Err(FrameError::Malformed("no message"));
        }
        if sequence.checked_add(count as u64).is_none() {
            return Err(FrameError::Malformed("sequence numbers overflow"));
        }
        let payloads = Payloads::Encoded {
            body: bytes.slice(HEADER_LEN..),
            count,
        };
        Ok(Self {
            publisher,
            sequence,
            start: flags & FLAG_START != 0,
            payloads,
        })
    }
}

#[derive(Clone, Debug)]
enum Payloads {
    One(Bytes),
    Many(std::sync::Arc<[Bytes]>),
    Encoded { body: Bytes, count: usize },
}

/// Where the message at `at` starts and ends; `None` at the end of the body.
fn message_at(body: &[u8], at: usize) -> Result<Option<(usize, usize)>, FrameError> {
    let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) else {
        return Ok(None);
    };
    let mut len = 0_u64;
    for (i, byte) in rest.iter().enumerate().take(5) {
        len |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let start = at + i + 1;
            let end = usize::try_from(len)
                .ok()
                .and_then(|len| start.checked_add(len));
            return match end {
                Some(end) if end <= body.len() => Ok(Some((start, end))),
                _ => Err(FrameError::Malformed("a message is longer than the frame")),
            };
        }
    }
    Err(FrameError::Malformed("a length that does not end"))
}

fn message_len(payload: &Bytes) -> usize {
    varint_len(payload.len()) + payload.len()
}

fn varint_len(len: usize) -> usize {
    match len {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x001f_ffff => 3,
        0x0020_0000..=0x0fff_ffff => 4,
        _ => 5,
    }
}

fn write_message(out: &mut impl Write, payload: &Bytes) -> io::Result<()> {
    let mut prefix = [0; 10];
    let mut len = payload.len();
    let mut at = 0;
    while len > 0x7f {
        prefix[at] = (len & 0x7f) as u8 | 0x80;
        len >>= 7;
        at += 1;
    }
    prefix[at] = len as u8;
    out.write_all(&prefix[..=at])?;
    out.write_all(payload)
}

fn read_u64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payloads(frame: &Frame) -> Vec<Bytes> {
        frame.payloads().collect()
    }

    #[test]
    fn the_header_is_as_documented() {
        let frame = Frame::one(NodeId::from_u64(0x0102), 3, true, Bytes::from_static(b"hi"));
        let expected = [
            0xc1, 0x42, 1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 2, b'h', b'i',
        ];
        assert_eq!(&frame.encode()[..], expected);
    }

    #[test]
    fn a_newer_version_is_incompatible_and_names_its_publisher() {
        let mut bytes = Frame::one(NodeId::from_u64(9), 0, true, Bytes::new())
            .encode()
            .to_vec();
        bytes[2] = 2;
        assert_eq!(
            Frame::decode(&bytes.into()).unwrap_err(),
            FrameError::Incompatible {
                version: 2,
                publisher: NodeId::from_u64(9)
            }
        );
    }

    #[test]
    fn text_and_messagepack_are_malformed_not_newer() {
        for foreign in [
            "{\"type\":\"a message of a stranger\"}",
            "\u{7f}abcdefghijklmnopqrstuvwxyz",
        ] {
            let error = Frame::decode(&Bytes::from_static(foreign.as_bytes())).unwrap_err();
            assert!(matches!(error, FrameError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn lying_lengths_are_malformed() {
        let whole = Frame::one(NodeId::from_u64(9), 0, true, Bytes::from_static(b"abc")).encode();
        for len in 0..whole.len() {
            let error = Frame::decode(&whole.slice(..len)).unwrap_err();
            assert!(matches!(error, FrameError::Malformed(_)), "{len}: {error}");
        }
        let mut lying = whole.to_vec();
        lying.truncate(HEADER_LEN);
        lying.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(Frame::decode(&lying.into()).is_err());
        let wrapping = Frame::one(NodeId::from_u64(9), u64::MAX, false, Bytes::new()).encode();
        assert!(Frame::decode(&wrapping).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            publisher: u64,
            sequence in 0..u64::MAX / 2,
            start: bool,
            sizes in prop::collection::vec(prop_oneof![0..300_usize, 16_380..16_390_usize], 1..20),
        ) {
            let sent: Vec<Bytes> = sizes.iter().map(|n| Bytes::from(vec![*n as u8; *n])).collect();
            let frame = Frame::many(NodeId::from_u64(publisher), sequence, start, sent.clone());
            prop_assert_eq!(&payloads(&frame), &sent);
            let bytes = frame.encode();
            prop_assert_eq!(bytes.len(), frame.encoded_len());
            let back = Frame::decode(&bytes).unwrap();
            prop_assert_eq!(payloads(&back), sent);
            prop_assert_eq!(back.len(), sizes.len());
            prop_assert_eq!(back.publisher().as_u64(), publisher);
            prop_assert_eq!(back.sequence(), sequence);
            prop_assert_eq!(back.is_start(), start);
            prop_assert_eq!(back.encode(), bytes);
        }

        #[test]
        fn random_bytes_never_panic_and_never_lie(mut bytes in prop::collection::vec(any::<u8>(), 0..200), v1: bool) {
            if v1 && bytes.len() > 2 {
                bytes[..2].copy_from_slice(&MAGIC);
                bytes[2] = VERSION;
            }
            let len = bytes.len();
            if let Ok(frame) = Frame::decode(&bytes.into()) {
                let total: usize = frame.payloads().map(|p| p.len() + 1).sum();
                prop_assert!(total + HEADER_LEN <= len);
                prop_assert_eq!(frame.payloads().count(), frame.len());
            }
        }
    }
}
