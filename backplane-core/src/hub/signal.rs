//! What the nodes of a hub say to each other besides messages: requests, replies, and who is there.

use std::time::Duration;

use bytes::Bytes;

use super::id::ConnectionId;
use super::payload::Payload;
use super::wire::{Addresses, Received};
use crate::name::NodeId;
use crate::subscription::Subscribed;

/// Everything that arrives on a hub's channels.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Message(Received),
    Signal(Signal),
}

/// What is said from node to node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Wants one reply, from each node that it is sent to.
    Request {
        /// Names the request among those of the node that asks.
        id: u64,
        /// How long the asking node waits.
        patience: Duration,
        request: Request,
    },
    /// The node that asked does not want the result any more.
    Cancel {
        id: u64,
    },
    /// To a request of the node that it is sent to.
    Reply {
        id: u64,
        reply: Reply,
    },
    Presence {
        birth: Birth,
        word: Word,
    },
}

/// What a node is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Join {
        connection: ConnectionId,
        group: String,
    },
    Leave {
        connection: ConnectionId,
        group: String,
    },
    Disconnect(ConnectionId),
    Invoke {
        connection: ConnectionId,
        payload: Payload,
    },
    /// How many connections of the node these are.
    Count(Query),
    /// Which connections of the node these are.
    List(Query),
    /// For the application.
    Ask(Payload),
    /// Something that a later version asks for.
    Newer,
}

/// Whom a question is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) targets: Addresses,
    pub(super) except: Addresses,
}

/// What a node answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Done(Subscribed),
    Value(Payload),
    Count(u64),
    /// A part of a list: the last of so many, or with 0 one that others follow.
    Connections {
        list: Vec<ConnectionInfo>,
        parts: u64,
    },
    Refused(Refusal),
}

/// Why a node did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    UnknownConnection,
    /// The connection ended before it answered.
    Disconnected,
    /// The connection's queue was full.
    QueueFull,
    /// Nobody there answers what an application asks.
    NoService,
    /// It does not know this request.
    Unsupported,
    /// The application, or the broker, says why.
    Failed(String),
    /// The client says why.
    Client(String),
}

/// Names one hub on one node: another number each time that it is built.
pub(super) type Birth = u64;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It is new, or back, and asks who is there.
    Hello,
    /// The answer, to the one that asked.
    Here {
        /// The node is sure that it knows everybody.
        settled: bool,
        known: Vec<NodeId>,
    },
    /// It is still there.
    Beat,
    /// It goes.
    Bye,
}

/// A connection, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its name.
    pub id: ConnectionId,
    /// Whose it is, if anybody's in particular.
    pub user: Option<String>,
    /// What the framework that connected it wanted to be known: see [`Connect::metadata`](super::Connect::metadata).
    pub metadata: Bytes,
}

impl Reply {
    /// Whether nothing follows it.
    pub(super) const fn is_last(&self) -> bool {
        !matches!(self, Self::Connections { parts: 0, .. })
    }
}
