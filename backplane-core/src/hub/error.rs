//! What can go wrong: [`HubError`], [`SendError`], [`RequestError`] and [`InvokeError`].

use std::time::Duration;

use super::id::ConnectionId;
use crate::capability::Requirement;
use crate::error::{PublishError, SubscribeError};
use crate::name::{InvalidName, NodeId};

/// Why a hub was not made, a client was not connected, or did not join. It left nothing behind, and a retry works.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The hub, or its node, is closed.
    #[error("the hub is closed")]
    Closed,
    /// The connection has ended.
    #[error("the connection has ended")]
    Disconnected,
    /// A name is empty or too long.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// The metadata of a connection has too many bytes.
    #[error("the metadata of a connection has at most {limit} bytes, and this has {len}")]
    MetadataTooLong {
        /// How many it has.
        len: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The broker refused a channel of the hub, or did not confirm it in time.
    #[error(transparent)]
    Subscribe(SubscribeError),
    /// The backend does not promise what a hub is built on.
    #[error("a hub cannot keep its promises here: the backend does not promise {0}")]
    Unsupported(Requirement),
}

/// Why a message was not sent, or not to all whom it was meant for.
///
/// [`local`](Self::local) says how many connections of this node have got it all the same (rule H16).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The hub is closed. Nobody got it.
    #[error("the hub is closed")]
    Closed,
    /// A name in the target is empty or too long. Nobody got it.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// The backplane did not take it. The source says which: no other node will ever see it, or some may.
    #[error("{source} ({local} connections of this node were reached)")]
    Publish {
        /// How many connections of this node got it.
        local: usize,
        /// What became of it for the nodes that are reached through the backplane.
        source: PublishError,
    },
}

impl SendError {
    /// How many connections of this node got the message.
    #[must_use]
    pub const fn local(&self) -> usize {
        match self {
            Self::Publish { local, .. } => *local,
            Self::Closed | Self::InvalidName(_) => 0,
        }
    }

    /// Whether it is certain that nobody has got it, or will, but for the [`local`](Self::local) ones.
    #[must_use]
    pub const fn is_not_sent(&self) -> bool {
        match self {
            Self::Publish { source, .. } => source.is_not_sent(),
            Self::Closed | Self::InvalidName(_) => true,
        }
    }
}

/// Why another node did not do what it was asked for, or why it is not known whether it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The hub is closed, or was meanwhile.
    #[error("the hub is closed")]
    Closed,
    /// A name is empty or too long. Nobody was asked.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// Its node has no such connection: it has ended. Nothing was done.
    #[error("there is no connection {0}")]
    UnknownConnection(ConnectionId),
    /// The node left or crashed, and with it all its connections.
    #[error("node {0} is gone")]
    NodeGone(NodeId),
    /// The node did not answer in time. It may or may not have done it.
    #[error("node {node} did not answer within {timeout:?}")]
    Timeout {
        /// The node that was asked.
        node: NodeId,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// This node was cut off while it waited, so an answer may be lost. It may or may not have been done.
    #[error("the answer of node {0} may be lost: the connection to the broker broke")]
    AnswerLost(NodeId),
    /// The request was not published, or it is not known whether: the source says which.
    #[error(transparent)]
    Publish(PublishError),
    /// The broker refused the group's channel to this node, or did not confirm it in time.
    #[error(transparent)]
    Subscribe(SubscribeError),
    /// The node could not do it, and says why.
    #[error("node {node} failed: {reason}")]
    Failed {
        /// The node that was asked.
        node: NodeId,
        /// Its words.
        reason: String,
    },
    /// The node has no [`Service`](super::Service) that answers questions.
    #[error("node {0} answers no questions")]
    NoService(NodeId),
    /// The node is of a version that does not know the request.
    #[error("node {0} does not know this request")]
    Unsupported(NodeId),
}

impl RequestError {
    /// Whether it is certain that it was not done, and will not be.
    #[must_use]
    pub const fn is_not_done(&self) -> bool {
        match self {
            Self::InvalidName(_)
            | Self::UnknownConnection(_)
            | Self::Subscribe(_)
            | Self::NoService(_)
            | Self::Unsupported(_) => true,
            Self::Publish(source) => source.is_not_sent(),
            Self::Closed
            | Self::NodeGone(_)
            | Self::Timeout { .. }
            | Self::AnswerLost(_)
            | Self::Failed { .. } => false,
        }
    }
}

/// Why a client's answer did not come (rule H19).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvokeError {
    /// The client answered with an error: these are its words.
    #[error("the client answered with an error: {0}")]
    Client(String),
    /// The connection ended before it answered.
    #[error("connection {0} ended before it answered")]
    Disconnected(ConnectionId),
    /// The connection's queue is full: the call was not handed to it.
    #[error("the queue of connection {0} is full")]
    QueueFull(ConnectionId),
    /// The client did not answer in time, and its node was told that nobody waits any more.
    #[error("connection {connection} did not answer within {timeout:?}")]
    Timeout {
        /// The connection that was asked.
        connection: ConnectionId,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The call did not reach the connection, or its answer did not reach this node.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl From<HubError> for RequestError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::InvalidName(error) => Self::InvalidName(error),
            HubError::Subscribe(error) => Self::Subscribe(error),
            // What else there is belongs to hubs that are not made, and to connections, which the caller names.
            _ => Self::Closed,
        }
    }
}
