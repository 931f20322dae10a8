//! The decoder of frames, fed with whatever a broker may hand over (rule M1).

mod support;

use backplane_core::NodeId;
use backplane_core::driver::{Frame, FrameError};
use bytes::Bytes;
use proptest::prelude::*;
use support::wire::{Wire, anything, lying, right, varint};

const HEADER: usize = 20;

/// What a frame says, to be compared.
fn told(frame: &Frame) -> (NodeId, u64, bool, Vec<Bytes>) {
    let payloads = frame.payloads().collect();
    (
        frame.publisher(),
        frame.sequence(),
        frame.is_start(),
        payloads,
    )
}

#[test]
fn lengths_beyond_the_bytes_are_malformed_up_to_the_largest_number() {
    for shift in 0..64 {
        for claim in [1_u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
            let mut wire = Wire::new(7, 0, &[b"a"]);
            wire.body = varint(claim);
            wire.body.push(b'x');
            match Frame::decode(&wire.bytes()) {
                // One byte is there; or none is claimed, and the other one claims 120.
                Ok(frame) => assert_eq!((claim, frame.len()), (1, 1)),
                Err(FrameError::Malformed(_)) => assert_ne!(claim, 1),
                Err(error) => panic!("{claim}: {error}"),
            }
        }
    }
}

#[test]
fn a_length_of_more_than_five_bytes_is_malformed_even_if_it_is_small() {
    for (zeros, well) in [(0, true), (3, true), (4, false), (10, false)] {
        let mut wire = Wire::new(7, 0, &[]);
        wire.body = [vec![0x81], vec![0x80; zeros], vec![0, b'x']].concat();
        assert_eq!(Frame::decode(&wire.bytes()).is_ok(), well, "{zeros}");
    }
}

#[test]
fn numbers_that_overflow_are_malformed() {
    let last = u64::MAX - 2;
    assert!(Frame::decode(&Wire::new(7, last, &[b"a", b"b"]).bytes()).is_ok());
    assert!(Frame::decode(&Wire::new(7, last, &[b"a", b"b", b"c"]).bytes()).is_err());
}

#[test]
fn every_version_but_this_one_is_newer_or_none() {
    for version in 0..=u8::MAX {
        let mut wire = Wire::new(7, 0, &[b"a"]);
        wire.version = version;
        // Nothing behind the publisher need be there, or make sense.
        for len in [11, 15, HEADER, wire.bytes().len()] {
            let decoded = Frame::decode(&wire.bytes().slice(..len));
            match (version, decoded) {
                (0, Err(FrameError::Malformed(_))) => {}
                (1, decoded) => assert_eq!(decoded.is_ok(), len > HEADER),
                (
                    2..,
                    Err(FrameError::Incompatible {
                        version: named,
                        publisher,
                    }),
                ) => assert_eq!((named, publisher.as_u64()), (version, 7)),
                (_, decoded) => panic!("{version}, {len}: {decoded:?}"),
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_by_hand_is_read_and_written_the_same(wire in right()) {
        let bytes = wire.bytes();
        let frame = Frame::decode(&bytes).unwrap();
        prop_assert_eq!(frame.publisher().as_u64(), wire.publisher);
        prop_assert_eq!(frame.sequence(), wire.sequence);
        prop_assert_eq!(frame.is_start(), wire.flags == 1);
        prop_assert_eq!(frame.encode(), bytes);
    }

    #[test]
    fn the_unused_flags_are_ignored(mut wire in right(), flags: u8) {
        let before = told(&Frame::decode(&wire.bytes()).unwrap());
        wire.flags = wire.flags & 1 | flags & !1;
        prop_assert_eq!(told(&Frame::decode(&wire.bytes()).unwrap()), before);
    }

    #[test]
    fn every_frame_that_ends_too_early_is_malformed(wire in right(), end: prop::sample::Index) {
        // One message: the beginning of several can be a frame of fewer.
        let wire = Wire::new(wire.publisher, wire.sequence, &[&wire.body]);
        let bytes = wire.bytes();
        let decoded = Frame::decode(&bytes.slice(..end.index(bytes.len())));
        prop_assert!(matches!(decoded, Err(FrameError::Malformed(_))), "{:?}", decoded);
    }

    #[test]
    fn one_lie_makes_the_whole_frame_malformed(bytes in lying()) {
        let decoded = Frame::decode(&bytes);
        prop_assert!(matches!(decoded, Err(FrameError::Malformed(_))), "{:?}", decoded);
    }

    #[test]
    fn whatever_is_read_is_within_the_bytes_and_written_the_same(bytes in anything()) {
        let Ok(frame) = Frame::decode(&bytes) else {
            return Ok(());
        };
        let payloads: Vec<Bytes> = frame.payloads().collect();
        prop_assert_eq!(payloads.len(), frame.len());
        let place = bytes.as_ptr_range();
        for payload in payloads.iter().filter(|payload| !payload.is_empty()) {
            let part = payload.as_ptr_range();
            prop_assert!(place.start <= part.start && part.end <= place.end, "not a slice");
        }
        // Each message has a length of at least one byte before it.
        let total: usize = payloads.iter().map(|payload| payload.len() + 1).sum();
        prop_assert!(HEADER + total <= bytes.len());
        prop_assert_eq!(frame.encoded_len(), bytes.len());
        let again = Frame::decode(&frame.encode()).unwrap();
        prop_assert_eq!(told(&again), told(&frame));
    }
}
