//! The messages of the hub on a backplane, version 1: the specification, and the code that keeps it.
//!
//! A second implementation needs this page, and nothing of the code.
//!
//! # Channels
//! `HUB` is the hub's name, in which `%` is written as `%25` and `:` as `%3A`; what follows it is literal.
//! All names are UTF-8 and compared byte for byte.
//!
//! | Channel | Who is subscribed | Who is meant when a message names no targets |
//! | --- | --- | --- |
//! | `hub:HUB:all` | every node of the hub | every connection |
//! | `hub:HUB:node:ID` | the node with this id, 16 hexadecimal digits in lower case | nobody: targets are needed |
//! | `hub:HUB:group:NAME` | nodes with a member of the group | the members of the group |
//! | `hub:HUB:user:NAME` | nodes with a connection of the user | the connections of the user |
//!
//! A node subscribes to all its channels in one subscription, so that one sender's order holds across them (rules
//! O3 and H18).
//!
//! # Messages
//! A message is one MessagePack value, an array of four elements or more:
//!
//! | | Element | Type |
//! | --- | --- | --- |
//! | 0 | version | integer, 1 |
//! | 1 | targets | nil, or an array of addresses |
//! | 2 | exceptions | nil, or an array of addresses |
//! | 3 | payload | map of encoding names (str) to bytes (bin) |
//!
//! An address is an array: a kind, and a name whose type depends on it. Whoever is named by at least one target and by no
//! exception gets the message, once.
//!
//! | Kind | Name |
//! | --- | --- |
//! | 0, everybody | none |
//! | 1, connection | bin of 24 bytes: the node's id (8 bytes, big endian), then 16 that are the connection's own |
//! | 2, group | str |
//! | 3, user | str |
//!
//! As text a connection's id is those 24 bytes in hexadecimal digits in lower case.
//!
//! # Which channel a sender takes
//! One target goes to the channel of that group or user, to the channel of all, or, as an address, to the channel of the
//! connection's node. So do several connections that are all on one node. All else goes in one message to the
//! channel of all, with the targets inside: one message, so that nobody gets it twice, and each node finds out whom it has.
//!
//! # What a reader does
//! - Integers may be of any unsigned form, lengths of any form of their type. Further elements of the message or of an
//!   address are passed over, whatever they are: a later version may append some. What follows the
//!   message makes it malformed.
//! - A message of another version, or with an address of a kind that is not above, is newer: it is skipped and counted
//!   as incompatible. Anything else that is not as described is skipped and counted as malformed (rule H27).
//! - A count says nothing before it was held against the bytes that are there (rule M1). This reader checks the whole
//!   message first and then reads lists in place: it allocates the same few bytes for every message.

use bytes::Bytes;

use super::id::ConnectionId;
use super::pack::{Malformed, Reader, Writer};
use super::payload::Payload;
use super::target::{Address, AddressRef};

/// The version that is written, and the only one that is read.
const VERSION: u8 = 1;

const ALL: u8 = 0;
const CONNECTION: u8 = 1;
const GROUP: u8 = 2;
const USER: u8 = 3;

/// What a message says. Reads its lists in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// Nobody in particular: whoever the channel stands for.
    pub(super) targets: Option<Addresses>,
    pub(super) except: Addresses,
    pub(super) payload: Payload,
}

/// A list of addresses, as it arrived. Checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    bytes: Bytes,
    count: usize,
}

/// Why a message was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skipped {
    Malformed,
    Newer,
}

/// Writes a message. Without targets it is for whomever its channel stands for.
pub(super) fn encode(targets: Option<&[Address]>, except: &[Address], payload: &Payload) -> Bytes {
    let names = targets.unwrap_or_default().iter().chain(except);
    let room = names.map(room_for).sum::<usize>() + payload.wire_len() + 16;
    let mut writer = Writer::with_capacity(room);
    writer.array(4);
    writer.uint(VERSION);
    write_addresses(targets, &mut writer);
    write_addresses((!except.is_empty()).then_some(except), &mut writer);
    payload.write_to(&mut writer);
    writer.into_bytes().into()
}

/// Reads a message.
pub(super) fn decode(message: &Bytes) -> Result<Received, Skipped> {
    let mut reader = Reader::new(message);
    let fields = reader.array()?;
    match reader.uint()? {
        0 => return Err(Skipped::Malformed),
        version if version > u64::from(VERSION) => return Err(Skipped::Newer),
        _ if fields < 4 => return Err(Skipped::Malformed),
        _ => {}
    }
    let targets = read_addresses(message, &mut reader)?;
    let except = read_addresses(message, &mut reader)?.unwrap_or_default();
    let count = reader.map()?;
    let begin = reader.position();
    for _ in 0..count {
        reader.str()?;
        reader.bin()?;
    }
    let payload = Payload::from_wire(message.slice(begin..reader.position()), count);
    for _ in 4..fields {
        reader.skip()?;
    }
    match reader.is_at_end() {
        true => Ok(Received {
            targets,
            except,
            payload,
        }),
        false => Err(Skipped::Malformed),
    }
}

impl Addresses {
    pub(super) fn iter(&self) -> impl Iterator<Item = AddressRef<'_>> {
        let mut reader = Reader::new(&self.bytes);
        // They were checked when they arrived.
        (0..self.count).map_while(move |_| read_address(&mut reader).ok())
    }
}

impl From<Malformed> for Skipped {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

fn room_for(address: &Address) -> usize {
    4 + match address {
        Address::All => 0,
        Address::Connection(_) => ConnectionId::LEN,
        Address::Group(name) | Address::User(name) => name.len(),
    }
}

fn write_addresses(list: Option<&[Address]>, writer: &mut Writer) {
    let Some(list) = list else {
        return writer.nil();
    };
    writer.array(list.len());
    for address in list {
        writer.array(2 - usize::from(*address == Address::All));
        match address {
            Address::All => writer.uint(ALL),
            Address::Connection(id) => {
                writer.uint(CONNECTION);
                writer.bin(&id.to_bytes());
            }
            Address::Group(name) => {
                writer.uint(GROUP);
                writer.str(name);
            }
            Address::User(id) => {
                writer.uint(USER);
                writer.str(id);
            }
        }
    }
}

fn read_addresses(message: &Bytes, reader: &mut Reader<'_>) -> Result<Option<Addresses>, Skipped> {
    if reader.nil() {
        return Ok(None);
    }
    let count = reader.array()?;
    let begin = reader.position();
    for _ in 0..count {
        read_address(reader)?;
    }
    let bytes = message.slice(begin..reader.position());
    Ok(Some(Addresses { bytes, count }))
}

fn read_address<'a>(reader: &mut Reader<'a>) -> Result<AddressRef<'a>, Skipped> {
    let fields = reader.array()?;
    let kind = reader.uint()?;
    let read = 1 + usize::from(kind != u64::from(ALL));
    if fields < read {
        return Err(Skipped::Malformed);
    }
    let address = match u8::try_from(kind) {
        Ok(ALL) => AddressRef::All,
        Ok(CONNECTION) => {
            let id = ConnectionId::from_bytes(reader.bin()?);
            AddressRef::Connection(id.ok_or(Skipped::Malformed)?)
        }
        Ok(GROUP) => AddressRef::Group(reader.str()?),
        Ok(USER) => AddressRef::User(reader.str()?),
        _ => return Err(Skipped::Newer),
    };
    for _ in read..fields {
        reader.skip()?;
    }
    Ok(address)
}

#[cfg(test)]
mod tests;
