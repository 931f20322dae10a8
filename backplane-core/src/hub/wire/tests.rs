use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::name::NodeId;

/// Plain bytes of every form that the specification has, written by hand.
const EXAMPLE: &[u8] =
    b"\x94\x01\x92\x92\x02\xa1g\x92\x03\xa1u\xc0\x82\xa4json\xc4\x02{}\xa0\xc4\x00";

fn address() -> impl Strategy<Value = Address> {
    let name = || "\\PC{1,40}".prop_map(|name| Arc::from(name.as_str()));
    prop_oneof![
        Just(Address::All),
        Just(Address::Connection(ConnectionId::random(NodeId::random()))),
        name().prop_map(Address::Group),
        name().prop_map(Address::User),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    vec(("[a-z]{0,40}", vec(any::<u8>(), 0..400)), 1..5).prop_map(|parts| {
        let mut parts = parts.into_iter();
        let (name, bytes) = parts.next().unwrap();
        parts.fold(Payload::with(name, bytes), |p, (name, bytes)| {
            p.and(name, bytes)
        })
    })
}

fn list(addresses: &Addresses) -> Vec<AddressRef<'_>> {
    addresses.iter().collect()
}

fn refs(addresses: &[Address]) -> Vec<AddressRef<'_>> {
    addresses.iter().map(Address::as_ref).collect()
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let targets = [Address::Group("g".into()), Address::User("u".into())];
    let payload = Payload::with("json", "{}").and("", "");
    assert_eq!(encode(Some(&targets), &[], &payload), EXAMPLE);
    let received = decode(&Bytes::from_static(EXAMPLE)).unwrap();
    assert_eq!(received.targets.as_ref().map(list), Some(refs(&targets)));
    assert_eq!(received.payload, payload);
}

#[test]
fn what_a_later_version_appends_is_passed_over_and_what_it_changes_is_skipped() {
    let read = |bytes: &'static [u8]| decode(&Bytes::from_static(bytes));
    let appended =
        read(b"\x96\x01\x91\x94\x02\xa1g\x81\xa1k\x93\x01\x02\xc0\xc3\xc0\x80\xca\0\0\0\0\x91\xc0");
    let appended = appended.unwrap().targets.unwrap();
    assert_eq!(list(&appended), [AddressRef::Group("g")]);
    for newer in [
        b"\x94\x02\xc0\xc0\x80".as_slice(),
        b"\x91\x07",
        b"\x94\x01\x91\x92\x04\x00\xc0\x80",
    ] {
        assert_eq!(read(newer), Err(Skipped::Newer), "{newer:x?}");
    }
    for malformed in [
        b"".as_slice(),
        b"hello",
        b"\x94\x00\xc0\xc0\x80",
        b"\x93\x01\xc0\xc0",
        b"\x94\x01\xc0\xc0\x80\xc0",
        b"\x94\x01\x91\x91\x02\xc0\x80",
        b"\x94\x01\x91\x92\x02\xa1\xff\xc0\x80",
        b"\x94\x01\x91\x92\x01\xc4\x02ab\xc0\x80",
        b"\x94\x01\xc0\xc0\x81\xa0\xa0",
        b"\x94\x01\xdd\xff\xff\xff\xff",
        b"\x94\x01\xc0\xc0\xdf\x7f\xff\xff\xff",
    ] {
        assert_eq!(read(malformed), Err(Skipped::Malformed), "{malformed:x?}");
    }
}

/// Reads all that a message has, and says how much memory that took.
fn bytes_allocated(message: &Bytes) -> u64 {
    let info = allocation_counter::measure(|| {
        if let Ok(received) = decode(message) {
            let addresses = received
                .except
                .iter()
                .chain(received.targets.iter().flat_map(Addresses::iter));
            std::hint::black_box(addresses.count() + received.payload.encodings().count());
        }
    });
    info.bytes_total
}

proptest! {
    #[test]
    fn what_is_written_is_read(targets in proptest::option::of(vec(address(), 0..40)), except in vec(address(), 0..20), payload in payload()) {
        let message = encode(targets.as_deref(), &except, &payload);
        let received = decode(&message).unwrap();
        prop_assert_eq!(received.targets.as_ref().map(list), targets.as_deref().map(refs));
        prop_assert_eq!(list(&received.except), refs(&except));
        prop_assert_eq!(&received.payload, &payload);
        // What arrived can be sent on.
        prop_assert_eq!(encode(targets.as_deref(), &except, &received.payload), &message);
        prop_assert!(bytes_allocated(&message) <= 256);
        for end in 0..message.len() {
            prop_assert_eq!(decode(&message.slice(..end)), Err(Skipped::Malformed));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_allocate(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(bytes_allocated(&bytes.into()) <= 256);
    }

    #[test]
    fn no_changed_byte_makes_it_panic_or_allocate(
        targets in vec(address(), 0..4), payload in payload(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(Some(&targets), &targets, &payload).to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert!(bytes_allocated(&bytes.into()) <= 256);
    }
}
