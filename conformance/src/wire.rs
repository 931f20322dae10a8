//! What the suite writes to a channel from outside, for the rules on malformed input: [`Wire`], and the frames of
//! `backplane-core` as [`EngineWire`].

use std::fmt;

use backplane_core::NodeId;
use bytes::Bytes;

/// The frames of a backend: right ones, newer ones, and ones that lie (rules M1 and M2).
///
/// A publisher numbers the messages of a channel from 0; a number that comes again is the same message again.
pub trait Wire: fmt::Debug + Send + Sync {
    /// A right frame of one message. Its beginning, however much of it there is, must not be a right frame.
    fn frame(&self, publisher: NodeId, sequence: u64, payload: &[u8]) -> Bytes;

    /// A frame that lies: about its lengths and counts, its numbers, or what it is. Each with what is wrong. They say
    /// that they are of this publisher.
    fn lies(&self, publisher: NodeId) -> Vec<(String, Bytes)>;

    /// The version that the backend writes.
    fn version(&self) -> u8;

    /// The frame of a publisher with a newer version than that.
    fn newer(&self, version: u8, publisher: NodeId) -> Bytes;
}

/// The frames of every backend that is a driver below the engine of `backplane-core`, and sends what
/// [`Frame::encode`](backplane_core::driver::Frame::encode) returns.
///
/// They are written by hand from the documented format, so that the decoder is not tested with its own encoder.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EngineWire;

const MAGIC: [u8; 2] = [0xc1, 0x42];
const VERSION: u8 = 1;
/// The numbering starts with the frame.
const START: u8 = 1;

impl Wire for EngineWire {
    fn frame(&self, publisher: NodeId, sequence: u64, payload: &[u8]) -> Bytes {
        written(VERSION, publisher, sequence, &message(payload))
    }

    fn lies(&self, publisher: NodeId) -> Vec<(String, Bytes)> {
        // Far beyond what the publisher has sent: whoever believes any of it tells a gap.
        let body = |body: &[u8]| written(VERSION, publisher, 1 << 30, body);
        let mut lies = Vec::new();
        for claimed in [
            4,
            0x7f,
            0x80,
            0x3fff,
            1 << 21,
            1 << 28,
            u64::from(u32::MAX),
            (1 << 35) - 1,
            1 << 40,
            1 << 63,
            u64::MAX,
        ] {
            let lie = [varint(claimed).as_slice(), b"abc"].concat();
            lies.push((format!("3 bytes that claim to be {claimed}"), body(&lie)));
            let half = [message(b"right").as_slice(), &lie].concat();
            let what = format!("a right message and 3 bytes that claim to be {claimed}");
            lies.push((what, body(&half)));
        }
        let mut others = |what: &str, bytes: Bytes| lies.push((what.to_owned(), bytes));
        others("a length that does not end", body(&[0xff; 64 << 10]));
        others(
            "a length of ten bytes, all zero",
            body(&[[0x80; 9].as_slice(), &[0]].concat()),
        );
        others("a frame without a message", body(&[]));
        let behind = [message(b"right").as_slice(), &[9, b'x']].concat();
        others("a right frame with more behind it", body(&behind));
        let last = written(VERSION, publisher, u64::MAX, &message(b"last"));
        others("a number that has none after it", last);
        others("version 0", written(0, publisher, 0, &message(b"zero")));
        let mut magic = self.frame(publisher, 0, b"magic").to_vec();
        magic[1] ^= 1;
        others("a frame that begins like another thing", magic.into());
        lies
    }

    fn version(&self) -> u8 {
        VERSION
    }

    fn newer(&self, version: u8, publisher: NodeId) -> Bytes {
        // Who takes it for this version finds a message.
        written(version, publisher, 0, &message(b"of a newer version"))
    }
}

fn written(version: u8, publisher: NodeId, sequence: u64, body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(20 + body.len());
    frame.extend(MAGIC);
    frame.push(version);
    frame.extend(publisher.as_u64().to_le_bytes());
    frame.push(if sequence == 0 { START } else { 0 });
    frame.extend(sequence.to_le_bytes());
    frame.extend_from_slice(body);
    frame.into()
}

fn message(payload: &[u8]) -> Vec<u8> {
    let mut bytes = varint(payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// A number in LEB128, also where it is larger than a length may be.
fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use backplane_core::driver::{Frame, FrameError};

    use super::*;

    #[test]
    fn right_frames_are_right_and_every_lie_is_one() {
        let publisher = NodeId::from_u64(0x0102_0304_0506_0708);
        let right = EngineWire.frame(publisher, 5, b"payload");
        let frame = Frame::decode(&right).unwrap();
        assert_eq!((frame.publisher(), frame.sequence()), (publisher, 5));
        assert_eq!(frame.encode(), right);
        let mut beginnings = (0..right.len()).map(|len| right.slice(..len));
        assert!(beginnings.all(|beginning| Frame::decode(&beginning).is_err()));
        for (what, bytes) in EngineWire.lies(publisher) {
            let error = Frame::decode(&bytes).unwrap_err();
            assert!(matches!(error, FrameError::Malformed(_)), "{what}: {error}");
        }
        for version in [2, 255] {
            let error = Frame::decode(&EngineWire.newer(version, publisher)).unwrap_err();
            assert_eq!(error, FrameError::Incompatible { version, publisher });
        }
    }
}
