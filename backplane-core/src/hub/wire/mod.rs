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
//! O3 and H18). Who said something is known from the backplane: the id of the node that published it.
//!
//! # Packets
//! Whatever is published is one MessagePack value, an array that begins with the version, 1, and a kind:
//!
//! | Kind | Elements after it | Channel |
//! | --- | --- | --- |
//! | 0, message | targets, exceptions, payload | any |
//! | 1, request | id, patience, what is asked for, and what that needs | of a node, or of all |
//! | 2, cancel | id | of the node that was asked |
//! | 3, reply | id, what it is, and what that needs | of the node that asked |
//! | 4, presence | birth, word, and what that needs | of all, or of a node |
//!
//! - *Targets* are nil or an array of addresses, *exceptions* likewise, and a *payload* is a map of encoding names (str) to bytes
//!   (bin). Whoever is named by at least one target and by no exception gets the message, once.
//! - An *id* is an integer that the asking node chooses, not one that an earlier hub of it has used; together with that node it names the request. A *patience* is in
//!   milliseconds: after it nobody waits for the reply.
//! - A *birth* is an integer chosen at random when a node starts the hub.
//!
//! An address is an array: a kind, and a name whose type depends on it.
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
//! # Requests and replies
//! | Request | Needs | Reply |
//! | --- | --- | --- |
//! | 0, join | connection (bin), group (str) | done, as soon as what is sent to the group from then on arrives |
//! | 1, leave | connection (bin), group (str) | done |
//! | 2, disconnect | connection (bin) | done |
//! | 3, invoke | connection (bin), payload | value: what the client answers |
//! | 4, count | targets, exceptions | count |
//! | 5, list | targets, exceptions | connections, in any number of parts |
//! | 6, ask | payload | value: what the application answers |
//!
//! | Reply | Elements |
//! | --- | --- |
//! | 0, done | 1 if it only takes effect when the node is attached again, else 0 |
//! | 1, value | payload |
//! | 2, count | integer |
//! | 3, connections | array of connections, and how many parts there are if it is the last, else 0 |
//! | 4, refused | why, and a text (str) |
//!
//! A connection in a list is an array: its id (bin), its user (str, or nil for none) and its metadata (bin). The
//! reasons of a refusal are 0 unknown connection, 1 disconnected before it answered, 2 its queue is full, 3 nobody answers what
//! an application asks, 4 unknown request, 5 failed, which the text explains, 6 the client says no, in the text.
//!
//! Elements that a packet does not need are written as nil, and may be left out.
//!
//! A node replies to each request once, to the channel of the node that asked. A request that cannot be carried out is
//! refused at once, and one of a kind that is not above too. After a cancel, of an invocation, nothing is replied.
//! A reply or a cancel of which it is not known whether an outage took it is published again after the outage: whichever
//! comes second is nobody's.
//!
//! # Presence
//! | Word | Elements | When |
//! | --- | --- | --- |
//! | 0, hello | none | to all, whenever the node was attached, when all its channels are subscribed; to a node that says something and is not known |
//! | 1, here | 1 if the node is settled, else 0; array of the ids (integers) of the other nodes that it knows | to a node, when it says hello |
//! | 2, beat | none | to all, when the node has published nothing to all for half the interval |
//! | 3, bye | none | to all, when the node goes |
//!
//! A node is there from its first word, until its bye, or until nothing was heard of it for the node timeout; a word with
//! another birth means that it has started anew. A node is settled when a settled node has answered its hello and all
//! that were named have been heard or have timed out, or when it was attached for two intervals.
//!
//! # What a reader does
//! - Integers may be of any unsigned form, lengths of any form of their type. Further elements of a packet, of an
//!   address or of a connection in a list are passed over, whatever they are: a later version may append some. What follows
//!   the packet makes it malformed.
//! - A packet of another version or kind, or with an address of a kind that is not above, is newer: it is skipped and counted
//!   as incompatible. So are words, replies and refusals that are not above. Anything else that is not as described is skipped
//!   and counted as malformed (rule H27).
//! - A count says nothing before it was held against the bytes that are there (rule M1). This reader checks a whole
//!   message first and then reads its lists in place: it allocates the same few bytes for every message.

mod message;
mod signal;

use bytes::Bytes;

pub(super) use self::message::{Addresses, Received, encode};
pub(super) use self::signal::{encode_signal, wire_len};
use super::pack::{Malformed, Reader, Writer};
use super::signal::Packet;

/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;

/// The kinds of packets.
mod kind {
    pub(super) const MESSAGE: u64 = 0;
    pub(super) const REQUEST: u64 = 1;
    pub(super) const CANCEL: u64 = 2;
    pub(super) const REPLY: u64 = 3;
    pub(super) const PRESENCE: u64 = 4;
}

/// Why a packet was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skipped {
    Malformed,
    Newer,
}

/// Reads the elements of an array one after another, and passes over those that a later version has appended.
struct Fields<'r, 'a> {
    reader: &'r mut Reader<'a>,
    left: usize,
}

/// Reads a packet.
pub(super) fn decode(bytes: &Bytes) -> Result<Packet, Skipped> {
    let mut reader = Reader::new(bytes);
    let mut fields = Fields::of(&mut reader)?;
    match fields.next()?.uint()? {
        0 => return Err(Skipped::Malformed),
        VERSION => {}
        _ => return Err(Skipped::Newer),
    }
    let packet = match fields.next()?.uint()? {
        kind::MESSAGE => Packet::Message(message::read(bytes, &mut fields)?),
        other => Packet::Signal(signal::read(bytes, other, &mut fields)?),
    };
    fields.end()?;
    match reader.is_at_end() {
        true => Ok(packet),
        false => Err(Skipped::Malformed),
    }
}

impl<'r, 'a> Fields<'r, 'a> {
    fn of(reader: &'r mut Reader<'a>) -> Result<Self, Malformed> {
        let left = reader.array()?;
        Ok(Self { reader, left })
    }

    /// What reads the next element, which must be there.
    fn next(&mut self) -> Result<&mut Reader<'a>, Malformed> {
        self.left = self.left.checked_sub(1).ok_or(Malformed)?;
        Ok(self.reader)
    }

    /// Passes over the rest.
    fn end(self) -> Result<(), Malformed> {
        (0..self.left).try_for_each(|_| self.reader.skip())
    }
}

impl From<Malformed> for Skipped {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The beginning of a packet with so many elements of its own.
fn begin(writer: &mut Writer, kind: u64, elements: usize) {
    writer.array(2 + elements);
    writer.uint(VERSION);
    writer.uint(kind);
}

#[cfg(test)]
mod tests;
