//! Messages for connections: addresses and payloads.

use bytes::Bytes;

use super::{Fields, Skipped, begin, kind};
use crate::hub::id::ConnectionId;
use crate::hub::pack::{Reader, Writer};
use crate::hub::payload::Payload;
use crate::hub::target::{Address, AddressRef};

const ALL: u64 = 0;
const CONNECTION: u64 = 1;
const GROUP: u64 = 2;
const USER: u64 = 3;

/// What a message says. Reads its lists in place.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub) struct Received {
    /// Nobody in particular: whoever the channel stands for.
    pub(in crate::hub) targets: Option<Addresses>,
    pub(in crate::hub) except: Addresses,
    pub(in crate::hub) payload: Payload,
}

/// A list of addresses, as it is on the wire. Checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::hub) struct Addresses {
    bytes: Bytes,
    count: usize,
}

/// Writes a message. Without targets it is for whomever its channel stands for.
pub(in crate::hub) fn encode(
    targets: Option<&[Address]>,
    except: &[Address],
    payload: &Payload,
) -> Bytes {
    let names = targets.unwrap_or_default().iter().chain(except);
    let room = names.map(room_for).sum::<usize>() + payload.wire_len() + 16;
    let mut writer = Writer::with_capacity(room);
    begin(&mut writer, kind::MESSAGE, 3);
    write_list(targets, &mut writer);
    write_list((!except.is_empty()).then_some(except), &mut writer);
    payload.write_to(&mut writer);
    writer.into_bytes().into()
}

pub(super) fn read(bytes: &Bytes, fields: &mut Fields<'_, '_>) -> Result<Received, Skipped> {
    Ok(Received {
        targets: read_addresses(bytes, fields.next()?)?,
        except: read_addresses(bytes, fields.next()?)?.unwrap_or_default(),
        payload: read_payload(bytes, fields.next()?)?,
    })
}

impl Addresses {
    pub(in crate::hub) fn of(list: &[Address]) -> Self {
        let mut writer = Writer::with_capacity(list.iter().map(room_for).sum());
        list.iter()
            .for_each(|address| write_address(address, &mut writer));
        Self {
            bytes: writer.into_bytes().into(),
            count: list.len(),
        }
    }

    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = AddressRef<'_>> {
        let mut reader = Reader::new(&self.bytes);
        // They were checked when they arrived.
        (0..self.count).map_while(move |_| read_address(&mut reader).ok())
    }

    pub(super) fn write_to(&self, writer: &mut Writer) {
        writer.array(self.count);
        writer.raw(&self.bytes);
    }

    pub(super) const fn wire_len(&self) -> usize {
        self.bytes.len() + 5
    }
}

pub(super) fn read_addresses(
    bytes: &Bytes,
    reader: &mut Reader<'_>,
) -> Result<Option<Addresses>, Skipped> {
    if reader.nil() {
        return Ok(None);
    }
    let count = reader.array()?;
    let begin = reader.position();
    for _ in 0..count {
        read_address(reader)?;
    }
    let bytes = bytes.slice(begin..reader.position());
    Ok(Some(Addresses { bytes, count }))
}

pub(super) fn read_payload(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Payload, Skipped> {
    let count = reader.map()?;
    let begin = reader.position();
    for _ in 0..count {
        reader.str()?;
        reader.bin()?;
    }
    let entries = bytes.slice(begin..reader.position());
    Ok(Payload::from_wire(entries, count))
}

pub(super) fn read_connection(reader: &mut Reader<'_>) -> Result<ConnectionId, Skipped> {
    ConnectionId::from_bytes(reader.bin()?).ok_or(Skipped::Malformed)
}

fn read_address<'a>(reader: &mut Reader<'a>) -> Result<AddressRef<'a>, Skipped> {
    let mut fields = Fields::of(reader)?;
    let address = match fields.next()?.uint()? {
        ALL => AddressRef::All,
        CONNECTION => AddressRef::Connection(read_connection(fields.next()?)?),
        GROUP => AddressRef::Group(fields.next()?.str()?),
        USER => AddressRef::User(fields.next()?.str()?),
        _ => return Err(Skipped::Newer),
    };
    fields.end()?;
    Ok(address)
}

fn room_for(address: &Address) -> usize {
    4 + match address {
        Address::All => 0,
        Address::Connection(_) => ConnectionId::LEN,
        Address::Group(name) | Address::User(name) => name.len(),
    }
}

fn write_list(list: Option<&[Address]>, writer: &mut Writer) {
    let Some(list) = list else {
        return writer.nil();
    };
    writer.array(list.len());
    list.iter()
        .for_each(|address| write_address(address, writer));
}

fn write_address(address: &Address, writer: &mut Writer) {
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
