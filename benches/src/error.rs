//! Why a measurement could not be made: [`Error`].

use std::time::Duration;

/// Why a measurement could not be made. Whatever was lost on the way is such a reason, never a footnote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no server, or it cannot be used.
    #[error("the comparison starts a redis-server of its own: {0}")]
    Server(#[from] backplane_conformance::fixtures::FixtureError),
    /// The raw client failed.
    #[error("the raw redis client failed: {0}")]
    Redis(#[from] redis::RedisError),
    /// A node could not be made.
    #[error(transparent)]
    Connect(#[from] backplane_core::ConnectError),
    /// A URL or an option was refused.
    #[error(transparent)]
    Config(#[from] backplane_redis::ConfigError),
    /// A subscription could not be made.
    #[error(transparent)]
    Subscribe(#[from] backplane_core::SubscribeError),
    /// A name was refused.
    #[error(transparent)]
    Name(#[from] backplane_core::InvalidName),
    /// A publish failed.
    #[error(transparent)]
    Publish(#[from] backplane_core::PublishError),
    /// A publish of many failed.
    #[error(transparent)]
    PublishMany(#[from] backplane_core::PublishManyError),
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no place for the numbers in this file.
    #[error("{0} has no marks <!-- numbers --> and <!-- end of numbers -->, in this order")]
    Unmarked(String),
    /// Not every message that was published arrived, or more did.
    #[error(
        "{contender}: {published} messages were published and {delivered} arrived within {within:?}"
    )]
    Lost {
        /// Whose messages.
        contender: &'static str,
        /// How many publishes succeeded.
        published: u64,
        /// How many messages were counted at the receiver.
        delivered: u64,
        /// How long was waited.
        within: Duration,
    },
    /// A receiver ended or told of a loss.
    #[error("{contender}: {what}")]
    Receiver {
        /// Whose receiver.
        contender: &'static str,
        /// What it told.
        what: String,
    },
    /// The program that counts allocations is missing, or failed.
    #[error("allocations could not be counted: {0}")]
    Counting(String),
    /// Something took too long.
    #[error("{what} took longer than {within:?}")]
    TooLong {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
    },
    /// A task ended before its time.
    #[error("a task of the measurement ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// A measurement that this contender does not take part in.
    pub(crate) fn not_so(contender: &'static str) -> Self {
        Self::Receiver {
            contender,
            what: "it takes no part in this measurement".to_owned(),
        }
    }

    /// The system refused `what`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What a measurement gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;
