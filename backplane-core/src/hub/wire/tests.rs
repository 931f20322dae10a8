use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::hub::id::ConnectionId;
use crate::hub::payload::Payload;
use crate::hub::signal::{ConnectionInfo, Query, Refusal, Reply, Request, Signal, Word};
use crate::hub::target::{Address, AddressRef};
use crate::name::NodeId;
use crate::subscription::Subscribed;

/// Plain bytes of every form that the specification has, written by hand.
const EXAMPLE: &[u8] =
    b"\x95\x01\x00\x92\x92\x02\xa1g\x92\x03\xa1u\xc0\x82\xa4json\xc4\x02{}\xa0\xc4\x00";

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

/// Reads a message.
fn decode_message(bytes: &Bytes) -> Result<Received, Skipped> {
    match decode(bytes)? {
        Packet::Message(received) => Ok(received),
        Packet::Signal(signal) => panic!("{signal:?} is no message"),
    }
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
    let received = decode_message(&Bytes::from_static(EXAMPLE)).unwrap();
    assert_eq!(received.targets.as_ref().map(list), Some(refs(&targets)));
    assert_eq!(received.payload, payload);
}

#[test]
fn the_bytes_of_signals_are_those_of_the_specification() {
    let node = NodeId::from_u64(0x0102_0304_0506_0708);
    let connection =
        ConnectionId::from_bytes(&std::array::from_fn::<u8, 24, _>(|n| n as u8)).unwrap();
    let id = b"\xc4\x18\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17";
    let request = |request| Signal::Request {
        id: 5,
        patience: Duration::from_millis(300),
        request,
    };
    let reply = |reply| Signal::Reply { id: 5, reply };
    let presence = |word| Signal::Presence { birth: 9, word };
    let query = || Query {
        targets: Addresses::of(&[Address::All]),
        except: Addresses::of(&[Address::User("u".into())]),
    };
    let info = ConnectionInfo {
        id: connection,
        user: Some("u".to_owned()),
        metadata: Bytes::from_static(b"m"),
    };
    let nobody = ConnectionInfo {
        user: None,
        ..info.clone()
    };
    let group = "g".to_owned();
    let join = Request::Join {
        connection,
        group: group.clone(),
    };
    let leave = Request::Leave { connection, group };
    let invoke = Request::Invoke {
        connection,
        payload: "x".into(),
    };
    let here = Word::Here {
        settled: true,
        known: vec![node],
    };
    let refused = |why| reply(Reply::Refused(why));
    let list = Reply::Connections {
        list: vec![info, nobody],
        parts: 1,
    };
    let all: Vec<(Signal, Vec<&[u8]>)> = vec![
        (
            request(join),
            vec![b"\x97\x01\x01\x05\xcd\x01\x2c\x00", id, b"\xa1g"],
        ),
        (
            request(leave),
            vec![b"\x97\x01\x01\x05\xcd\x01\x2c\x01", id, b"\xa1g"],
        ),
        (
            request(Request::Disconnect(connection)),
            vec![b"\x97\x01\x01\x05\xcd\x01\x2c\x02", id, b"\xc0"],
        ),
        (
            request(invoke),
            vec![
                b"\x97\x01\x01\x05\xcd\x01\x2c\x03",
                id,
                b"\x81\xa0\xc4\x01x",
            ],
        ),
        (
            request(Request::Count(query())),
            vec![b"\x97\x01\x01\x05\xcd\x01\x2c\x04\x91\x91\x00\x91\x92\x03\xa1u"],
        ),
        (
            request(Request::List(query())),
            vec![b"\x97\x01\x01\x05\xcd\x01\x2c\x05\x91\x91\x00\x91\x92\x03\xa1u"],
        ),
        (
            request(Request::Ask("x".into())),
            vec![b"\x97\x01\x01\x05\xcd\x01\x2c\x06\x81\xa0\xc4\x01x\xc0"],
        ),
        (Signal::Cancel { id: 5 }, vec![b"\x93\x01\x02\x05"]),
        (
            reply(Reply::Done(Subscribed::InForce)),
            vec![b"\x96\x01\x03\x05\x00\x00\xc0"],
        ),
        (
            reply(Reply::Done(Subscribed::Deferred)),
            vec![b"\x96\x01\x03\x05\x00\x01\xc0"],
        ),
        (
            reply(Reply::Value("x".into())),
            vec![b"\x96\x01\x03\x05\x01\x81\xa0\xc4\x01x\xc0"],
        ),
        (
            reply(Reply::Count(200)),
            vec![b"\x96\x01\x03\x05\x02\xcc\xc8\xc0"],
        ),
        (
            reply(list),
            vec![
                b"\x96\x01\x03\x05\x03\x92\x93",
                id,
                b"\xa1u\xc4\x01m\x93",
                id,
                b"\xc0\xc4\x01m\x01",
            ],
        ),
        (
            refused(Refusal::UnknownConnection),
            vec![b"\x96\x01\x03\x05\x04\x00\xa0"],
        ),
        (
            refused(Refusal::Disconnected),
            vec![b"\x96\x01\x03\x05\x04\x01\xa0"],
        ),
        (
            refused(Refusal::QueueFull),
            vec![b"\x96\x01\x03\x05\x04\x02\xa0"],
        ),
        (
            refused(Refusal::NoService),
            vec![b"\x96\x01\x03\x05\x04\x03\xa0"],
        ),
        (
            refused(Refusal::Unsupported),
            vec![b"\x96\x01\x03\x05\x04\x04\xa0"],
        ),
        (
            refused(Refusal::Failed("f".to_owned())),
            vec![b"\x96\x01\x03\x05\x04\x05\xa1f"],
        ),
        (
            refused(Refusal::Client("c".to_owned())),
            vec![b"\x96\x01\x03\x05\x04\x06\xa1c"],
        ),
        (presence(Word::Hello), vec![b"\x96\x01\x04\x09\x00\xc0\xc0"]),
        (
            presence(here),
            vec![b"\x96\x01\x04\x09\x01\x01\x91\xcf\x01\x02\x03\x04\x05\x06\x07\x08"],
        ),
        (presence(Word::Beat), vec![b"\x96\x01\x04\x09\x02\xc0\xc0"]),
        (presence(Word::Bye), vec![b"\x96\x01\x04\x09\x03\xc0\xc0"]),
    ];
    for (signal, bytes) in all {
        let bytes = Bytes::from(bytes.concat());
        assert_eq!(encode_signal(&signal), bytes, "{signal:?}");
        for end in 0..bytes.len() {
            assert_eq!(
                decode(&bytes.slice(..end)),
                Err(Skipped::Malformed),
                "{signal:?}"
            );
        }
        assert_eq!(decode(&bytes), Ok(Packet::Signal(signal)));
    }
}

#[test]
fn what_a_later_version_appends_is_passed_over_and_what_it_changes_is_skipped() {
    let read = |bytes: &'static [u8]| decode(&Bytes::from_static(bytes));
    let appended = Bytes::from_static(
        b"\x97\x01\x00\x91\x94\x02\xa1g\x81\xa1k\x93\x01\x02\xc0\xc3\xc0\x80\xca\0\0\0\0\x91\xc0",
    );
    let appended = decode_message(&appended).unwrap().targets.unwrap();
    assert_eq!(list(&appended), [AddressRef::Group("g")]);
    // What is not needed may be left out.
    let bye = Signal::Presence {
        birth: 9,
        word: Word::Bye,
    };
    assert_eq!(read(b"\x94\x01\x04\x09\x03"), Ok(Packet::Signal(bye)));
    // A request of a kind that is not known is refused by whoever serves it.
    let newer = Signal::Request {
        id: 5,
        patience: Duration::from_millis(1),
        request: Request::Newer,
    };
    assert_eq!(
        read(b"\x96\x01\x01\x05\x01\x63\xc3"),
        Ok(Packet::Signal(newer))
    );
    for newer in [
        b"\x95\x02\x00\xc0\xc0\x80".as_slice(),
        b"\x91\x07",
        b"\x92\x01\x63",
        b"\x95\x01\x00\x91\x92\x04\x00\xc0\x80",
        b"\x96\x01\x03\x05\x63\xc0\xc0",
        b"\x96\x01\x03\x05\x04\x63\xa0",
        b"\x94\x01\x04\x09\x63",
    ] {
        assert_eq!(read(newer), Err(Skipped::Newer), "{newer:x?}");
    }
    for malformed in [
        b"".as_slice(),
        b"hello",
        b"\x95\x00\x00\xc0\xc0\x80",
        b"\x91\x01",
        b"\x94\x01\x00\xc0\xc0",
        b"\x95\x01\x00\xc0\xc0\x80\xc0",
        b"\x95\x01\x00\x91\x91\x02\xc0\x80",
        b"\x95\x01\x00\x91\x92\x02\xa1\xff\xc0\x80",
        b"\x95\x01\x00\x91\x92\x01\xc4\x02ab\xc0\x80",
        b"\x95\x01\x00\xc0\xc0\x81\xa0\xa0",
        b"\x95\x01\x00\xdd\xff\xff\xff\xff",
        b"\x95\x01\x00\xc0\xc0\xdf\x7f\xff\xff\xff",
        b"\x96\x01\x03\x05\x03\xdd\x7f\xff\xff\xff\x00",
        b"\x96\x01\x04\x09\x01\x01\xdd\x7f\xff\xff\xff",
    ] {
        assert_eq!(read(malformed), Err(Skipped::Malformed), "{malformed:x?}");
    }
}

/// Messages take less; lists and texts of signals take a few times as much as they have bytes, of which there are 200.
const BOUND: u64 = 4096;

/// Reads all that a message has, and says how much memory that took.
fn bytes_allocated(message: &Bytes) -> u64 {
    let info = allocation_counter::measure(|| {
        if let Ok(Packet::Message(received)) = decode(message) {
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
        let received = decode_message(&message).unwrap();
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
    fn no_bytes_make_it_panic_or_allocate(mut bytes in vec(any::<u8>(), 0..200), kind in 0..6_u8) {
        prop_assert!(bytes_allocated(&bytes.clone().into()) <= BOUND);
        // Those that get as far as a kind.
        for (at, byte) in [0x97, 1, kind].into_iter().enumerate() {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        prop_assert!(bytes_allocated(&bytes.into()) <= BOUND);
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
        prop_assert!(bytes_allocated(&bytes.into()) <= BOUND);
    }
}
