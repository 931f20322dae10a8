//! What can go wrong: [`HubError`] and [`SendError`].

use crate::capability::Requirement;
use crate::error::{PublishError, SubscribeError};
use crate::name::InvalidName;

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
