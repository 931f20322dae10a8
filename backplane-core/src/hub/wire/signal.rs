//! What nodes say to each other: requests, replies and presence.

use std::time::Duration;

use bytes::Bytes;

use super::message::{read_addresses, read_connection, read_payload};
use super::{Fields, Skipped, begin, kind};
use crate::hub::id::ConnectionId;
use crate::hub::pack::{Reader, Writer};
use crate::hub::signal::{ConnectionInfo, Query, Refusal, Reply, Request, Signal, Word};
use crate::name::NodeId;
use crate::subscription::Subscribed;

mod request {
    pub(super) const JOIN: u64 = 0;
    pub(super) const LEAVE: u64 = 1;
    pub(super) const DISCONNECT: u64 = 2;
    pub(super) const INVOKE: u64 = 3;
    pub(super) const COUNT: u64 = 4;
    pub(super) const LIST: u64 = 5;
    pub(super) const ASK: u64 = 6;
}

mod reply {
    pub(super) const DONE: u64 = 0;
    pub(super) const VALUE: u64 = 1;
    pub(super) const COUNT: u64 = 2;
    pub(super) const CONNECTIONS: u64 = 3;
    pub(super) const REFUSED: u64 = 4;
}

mod refusal {
    pub(super) const UNKNOWN_CONNECTION: u64 = 0;
    pub(super) const DISCONNECTED: u64 = 1;
    pub(super) const QUEUE_FULL: u64 = 2;
    pub(super) const NO_SERVICE: u64 = 3;
    pub(super) const UNSUPPORTED: u64 = 4;
    pub(super) const FAILED: u64 = 5;
    pub(super) const CLIENT: u64 = 6;
}

mod word {
    pub(super) const HELLO: u64 = 0;
    pub(super) const HERE: u64 = 1;
    pub(super) const BEAT: u64 = 2;
    pub(super) const BYE: u64 = 3;
}

/// Writes a signal.
pub(in crate::hub) fn encode_signal(signal: &Signal) -> Bytes {
    let mut writer = Writer::with_capacity(64 + room_for(signal));
    match signal {
        Signal::Request {
            id,
            patience,
            request,
        } => {
            begin(&mut writer, kind::REQUEST, 5);
            writer.uint(*id);
            writer.uint(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
            write_request(request, &mut writer);
        }
        Signal::Cancel { id } => {
            begin(&mut writer, kind::CANCEL, 1);
            writer.uint(*id);
        }
        Signal::Reply { id, reply } => {
            begin(&mut writer, kind::REPLY, 4);
            writer.uint(*id);
            write_reply(reply, &mut writer);
        }
        Signal::Presence { birth, word } => {
            begin(&mut writer, kind::PRESENCE, 4);
            writer.uint(*birth);
            write_word(word, &mut writer);
        }
    }
    writer.into_bytes().into()
}

pub(super) fn read(
    bytes: &Bytes,
    kind: u64,
    fields: &mut Fields<'_, '_>,
) -> Result<Signal, Skipped> {
    Ok(match kind {
        kind::REQUEST => Signal::Request {
            id: fields.next()?.uint()?,
            patience: Duration::from_millis(fields.next()?.uint()?),
            request: read_request(bytes, fields)?,
        },
        kind::CANCEL => Signal::Cancel {
            id: fields.next()?.uint()?,
        },
        kind::REPLY => Signal::Reply {
            id: fields.next()?.uint()?,
            reply: read_reply(bytes, fields)?,
        },
        kind::PRESENCE => Signal::Presence {
            birth: fields.next()?.uint()?,
            word: read_word(fields)?,
        },
        _ => return Err(Skipped::Newer),
    })
}

/// Three elements.
fn write_request(request: &Request, writer: &mut Writer) {
    let of_group = |kind, connection: &ConnectionId, group: &str, writer: &mut Writer| {
        writer.uint(kind);
        writer.bin(&connection.to_bytes());
        writer.str(group);
    };
    let about = |kind, query: &Query, writer: &mut Writer| {
        writer.uint(kind);
        query.targets.write_to(writer);
        query.except.write_to(writer);
    };
    match request {
        Request::Join { connection, group } => of_group(request::JOIN, connection, group, writer),
        Request::Leave { connection, group } => of_group(request::LEAVE, connection, group, writer),
        Request::Disconnect(connection) => {
            writer.uint(request::DISCONNECT);
            writer.bin(&connection.to_bytes());
            writer.nil();
        }
        Request::Invoke {
            connection,
            payload,
        } => {
            writer.uint(request::INVOKE);
            writer.bin(&connection.to_bytes());
            payload.write_to(writer);
        }
        Request::Count(query) => about(request::COUNT, query, writer),
        Request::List(query) => about(request::LIST, query, writer),
        Request::Ask(payload) => {
            writer.uint(request::ASK);
            payload.write_to(writer);
            writer.nil();
        }
        // Nobody asks for it: it is what a reader makes of what it does not know.
        Request::Newer => {
            writer.uint(u64::MAX);
            writer.nil();
            writer.nil();
        }
    }
}

fn read_request(bytes: &Bytes, fields: &mut Fields<'_, '_>) -> Result<Request, Skipped> {
    Ok(match fields.next()?.uint()? {
        request::JOIN => Request::Join {
            connection: read_connection(fields.next()?)?,
            group: fields.next()?.str()?.to_owned(),
        },
        request::LEAVE => Request::Leave {
            connection: read_connection(fields.next()?)?,
            group: fields.next()?.str()?.to_owned(),
        },
        request::DISCONNECT => Request::Disconnect(read_connection(fields.next()?)?),
        request::INVOKE => Request::Invoke {
            connection: read_connection(fields.next()?)?,
            payload: read_payload(bytes, fields.next()?)?,
        },
        request::COUNT => Request::Count(read_query(bytes, fields)?),
        request::LIST => Request::List(read_query(bytes, fields)?),
        request::ASK => Request::Ask(read_payload(bytes, fields.next()?)?),
        _ => Request::Newer,
    })
}

fn read_query(bytes: &Bytes, fields: &mut Fields<'_, '_>) -> Result<Query, Skipped> {
    Ok(Query {
        targets: read_addresses(bytes, fields.next()?)?.unwrap_or_default(),
        except: read_addresses(bytes, fields.next()?)?.unwrap_or_default(),
    })
}

/// Three elements.
fn write_reply(reply: &Reply, writer: &mut Writer) {
    match reply {
        Reply::Done(subscribed) => {
            writer.uint(reply::DONE);
            writer.uint(u64::from(*subscribed == Subscribed::Deferred));
            writer.nil();
        }
        Reply::Value(payload) => {
            writer.uint(reply::VALUE);
            payload.write_to(writer);
            writer.nil();
        }
        Reply::Count(count) => {
            writer.uint(reply::COUNT);
            writer.uint(*count);
            writer.nil();
        }
        Reply::Connections { list, parts } => {
            writer.uint(reply::CONNECTIONS);
            writer.array(list.len());
            list.iter().for_each(|info| write_info(info, writer));
            writer.uint(*parts);
        }
        Reply::Refused(why) => {
            let (why, text) = match why {
                Refusal::UnknownConnection => (refusal::UNKNOWN_CONNECTION, ""),
                Refusal::Disconnected => (refusal::DISCONNECTED, ""),
                Refusal::QueueFull => (refusal::QUEUE_FULL, ""),
                Refusal::NoService => (refusal::NO_SERVICE, ""),
                Refusal::Unsupported => (refusal::UNSUPPORTED, ""),
                Refusal::Failed(text) => (refusal::FAILED, text.as_str()),
                Refusal::Client(text) => (refusal::CLIENT, text.as_str()),
            };
            writer.uint(reply::REFUSED);
            writer.uint(why);
            writer.str(text);
        }
    }
}

fn read_reply(bytes: &Bytes, fields: &mut Fields<'_, '_>) -> Result<Reply, Skipped> {
    Ok(match fields.next()?.uint()? {
        reply::DONE => Reply::Done(match fields.next()?.uint()? {
            0 => Subscribed::InForce,
            _ => Subscribed::Deferred,
        }),
        reply::VALUE => Reply::Value(read_payload(bytes, fields.next()?)?),
        reply::COUNT => Reply::Count(fields.next()?.uint()?),
        reply::CONNECTIONS => Reply::Connections {
            list: read_infos(bytes, fields.next()?)?,
            parts: fields.next()?.uint()?,
        },
        reply::REFUSED => {
            let why = fields.next()?.uint()?;
            let text = fields.next()?.str()?;
            Reply::Refused(match why {
                refusal::UNKNOWN_CONNECTION => Refusal::UnknownConnection,
                refusal::DISCONNECTED => Refusal::Disconnected,
                refusal::QUEUE_FULL => Refusal::QueueFull,
                refusal::NO_SERVICE => Refusal::NoService,
                refusal::UNSUPPORTED => Refusal::Unsupported,
                refusal::FAILED => Refusal::Failed(text.to_owned()),
                refusal::CLIENT => Refusal::Client(text.to_owned()),
                _ => return Err(Skipped::Newer),
            })
        }
        _ => return Err(Skipped::Newer),
    })
}

fn write_info(info: &ConnectionInfo, writer: &mut Writer) {
    writer.array(3);
    writer.bin(&info.id.to_bytes());
    match &info.user {
        Some(user) => writer.str(user),
        None => writer.nil(),
    }
    writer.bin(&info.metadata);
}

fn read_infos(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Vec<ConnectionInfo>, Skipped> {
    let count = reader.array()?;
    // As many as are there, which is not what the count says.
    let mut list = Vec::new();
    for _ in 0..count {
        let mut fields = Fields::of(reader)?;
        let id = read_connection(fields.next()?)?;
        let user = fields.next()?;
        let user = match user.nil() {
            true => None,
            false => Some(user.str()?.to_owned()),
        };
        let metadata = bytes.slice_ref(fields.next()?.bin()?);
        fields.end()?;
        list.push(ConnectionInfo { id, user, metadata });
    }
    Ok(list)
}

/// Three elements.
fn write_word(word: &Word, writer: &mut Writer) {
    let alone = |word, writer: &mut Writer| {
        writer.uint(word);
        writer.nil();
        writer.nil();
    };
    match word {
        Word::Hello => alone(word::HELLO, writer),
        Word::Here { settled, known } => {
            writer.uint(word::HERE);
            writer.uint(u64::from(*settled));
            writer.array(known.len());
            known.iter().for_each(|node| writer.uint(node.as_u64()));
        }
        Word::Beat => alone(word::BEAT, writer),
        Word::Bye => alone(word::BYE, writer),
    }
}

fn read_word(fields: &mut Fields<'_, '_>) -> Result<Word, Skipped> {
    Ok(match fields.next()?.uint()? {
        word::HELLO => Word::Hello,
        word::HERE => {
            let settled = fields.next()?.uint()? != 0;
            let reader = fields.next()?;
            let mut known = Vec::new();
            for _ in 0..reader.array()? {
                known.push(NodeId::from_u64(reader.uint()?));
            }
            Word::Here { settled, known }
        }
        word::BEAT => Word::Beat,
        word::BYE => Word::Bye,
        _ => return Err(Skipped::Newer),
    })
}

/// About how many bytes the variable parts take.
fn room_for(signal: &Signal) -> usize {
    let of_query = |query: &Query| query.targets.wire_len() + query.except.wire_len();
    match signal {
        Signal::Request { request, .. } => match request {
            Request::Join { group, .. } | Request::Leave { group, .. } => group.len(),
            Request::Invoke { payload, .. } | Request::Ask(payload) => payload.wire_len(),
            Request::Count(query) | Request::List(query) => of_query(query),
            Request::Disconnect(_) | Request::Newer => 0,
        },
        Signal::Reply { reply, .. } => match reply {
            Reply::Value(payload) => payload.wire_len(),
            Reply::Connections { list, .. } => list.iter().map(wire_len).sum(),
            Reply::Refused(Refusal::Failed(text) | Refusal::Client(text)) => text.len(),
            Reply::Done(_) | Reply::Count(_) | Reply::Refused(_) => 0,
        },
        Signal::Presence {
            word: Word::Here { known, .. },
            ..
        } => 9 * known.len(),
        Signal::Presence { .. } | Signal::Cancel { .. } => 0,
    }
}

/// About how many bytes a connection takes in a list.
pub(in crate::hub) fn wire_len(info: &ConnectionInfo) -> usize {
    40 + info.user.as_ref().map_or(0, String::len) + info.metadata.len()
}
