//! Frames written by hand from the documented format, right or wrong.

use bytes::Bytes;
use proptest::prelude::*;

/// What a frame is written from.
#[derive(Clone, Debug)]
pub struct Wire {
    pub version: u8,
    pub publisher: u64,
    pub flags: u8,
    pub sequence: u64,
    pub body: Vec<u8>,
}

impl Wire {
    /// A frame of these messages.
    pub fn new(publisher: u64, sequence: u64, payloads: &[&[u8]]) -> Self {
        let mut body = Vec::new();
        for payload in payloads {
            body.extend(varint(payload.len() as u64));
            body.extend_from_slice(payload);
        }
        Self {
            version: 1,
            publisher,
            flags: 0,
            sequence,
            body,
        }
    }

    pub fn bytes(&self) -> Bytes {
        let mut bytes = vec![0xc1, 0x42, self.version];
        bytes.extend(self.publisher.to_le_bytes());
        bytes.push(self.flags);
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.body);
        bytes.into()
    }
}

/// A number in LEB128, of as many bytes as it takes: more than five for lengths that no frame can have.
pub fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// Frames with a right header and a body of right messages.
pub fn right() -> impl Strategy<Value = Wire> {
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    let payloads = prop::collection::vec(payload, 1..20);
    (any::<u64>(), 0..1_u64 << 50, any::<bool>(), payloads).prop_map(
        |(publisher, sequence, start, payloads)| {
            let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            let mut wire = Wire::new(publisher, sequence, &payloads);
            wire.flags = start.into();
            wire
        },
    )
}

/// Frames whose last message claims to have more bytes than there are, by one up to 2^64.
pub fn lying() -> impl Strategy<Value = Bytes> {
    let more = prop_oneof![1..10_u64, any::<u32>().prop_map(u64::from), any::<u64>()];
    let there = prop::collection::vec(any::<u8>(), 0..100);
    (right(), more, there).prop_map(|(mut wire, more, there)| {
        let claim = (there.len() as u64).saturating_add(more.max(1));
        wire.body.extend(varint(claim));
        wire.body.extend(there);
        wire.bytes()
    })
}

/// Right frames to which a few random things were done.
pub fn damaged() -> impl Strategy<Value = Bytes> {
    let edit = (0..4_u8, any::<prop::sample::Index>(), any::<u8>());
    (right(), prop::collection::vec(edit, 1..5)).prop_map(|(wire, edits)| {
        let mut bytes = wire.bytes().to_vec();
        for (what, at, byte) in edits {
            let at = at.index(bytes.len() + 1);
            match what {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 if at < bytes.len() => bytes[at] = byte,
                _ if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.push(byte),
            }
        }
        bytes.into()
    })
}

/// Any bytes, half of which begin like a frame of this version.
pub fn random() -> impl Strategy<Value = Bytes> {
    (any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(begins, mut bytes)| {
        if begins && bytes.len() > 2 {
            bytes[..3].copy_from_slice(&[0xc1, 0x42, 1]);
        }
        bytes.into()
    })
}

/// Whatever a broker may hand over.
pub fn anything() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        right().prop_map(|wire| wire.bytes()),
        lying(),
        damaged(),
        random()
    ]
}
