//! Errors: a small kind, the name of the thing, and the source.
//!
//! [`NotSent`] and [`Unknown`] are different answers: after `NotSent` no node will ever see the
//! message, after `Unknown` it may have been delivered, at most once. Neither is ever given for the
//! other (rules L2 and L3), and nothing is retried behind your back.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::name::Channel;

/// The source of an error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why [`publish`](crate::Backplane::publish) failed.
#[derive(Debug)]
pub struct PublishError {
    kind: PublishErrorKind,
    channel: Channel,
    source: Option<BoxError>,
}

/// The two answers of a failed publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum PublishErrorKind {
    /// The message will not be delivered to anyone.
    NotSent(NotSent),
    /// The message may or may not have been delivered, at most once.
    Unknown(Unknown),
}

/// Why a message was not sent. No node will ever see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotSent {
    /// The node is closed.
    Closed,
    /// Too many publishes are waiting already; see
    /// [`NodeOptions::max_pending`](crate::NodeOptions::max_pending).
    Overloaded,
    /// The broker refused it.
    Refused,
    /// The payload is larger than [`Capabilities::max_payload`](crate::Capabilities::max_payload).
    TooLarge {
        /// The payload's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The node is not attached to the broker.
    Unavailable,
}

/// Why it is not known whether a message was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// The connection was lost while the message was on its way.
    ConnectionLost,
    /// The broker did not answer within the configured time.
    Timeout(Duration),
}

impl PublishError {
    /// A message that was not sent.
    #[must_use]
    pub fn not_sent(channel: &Channel, why: NotSent, source: Option<BoxError>) -> Self {
        Self {
            kind: PublishErrorKind::NotSent(why),
            channel: channel.clone(),
            source,
        }
    }

    /// A message whose fate is unknown.
    #[must_use]
    pub fn unknown(channel: &Channel, why: Unknown, source: Option<BoxError>) -> Self {
        Self {
            kind: PublishErrorKind::Unknown(why),
            channel: channel.clone(),
            source,
        }
    }

    /// What happened to the message, and why.
    #[must_use]
    pub const fn kind(&self) -> PublishErrorKind {
        self.kind
    }

    /// Whether it is certain that no node will ever see the message.
    #[must_use]
    pub const fn is_not_sent(&self) -> bool {
        matches!(self.kind, PublishErrorKind::NotSent(_))
    }

    /// The channel it was meant for.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channel = &self.channel;
        match self.kind {
            PublishErrorKind::NotSent(why) => {
                write!(f, "message to channel {channel:?} was not sent: ")?;
                match why {
                    NotSent::Closed => f.write_str("the node is closed"),
                    NotSent::Overloaded => f.write_str("too many publishes are waiting"),
                    NotSent::Refused => f.write_str("the broker refused it"),
                    NotSent::TooLarge { size, limit } => {
                        write!(f, "its payload has {size} bytes, and the limit is {limit}")
                    }
                    NotSent::Unavailable => f.write_str("the backplane is not connected"),
                }
            }
            PublishErrorKind::Unknown(why) => {
                write!(
                    f,
                    "message to channel {channel:?} may or may not have been delivered: "
                )?;
                match why {
                    Unknown::ConnectionLost => f.write_str("the connection was lost on the way"),
                    Unknown::Timeout(after) => write!(f, "no answer from the broker in {after:?}"),
                }
            }
        }
    }
}

impl StdError for PublishError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        source(&self.source)
    }
}

/// Why a subscribe failed. It left nothing behind, and a retry works (rule S7).
#[derive(Debug)]
pub struct SubscribeError {
    kind: SubscribeErrorKind,
    source: Option<BoxError>,
}

/// The kinds of [`SubscribeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeErrorKind {
    /// The node, or the subscription, is closed.
    Closed,
    /// The broker refused the subscription.
    Refused,
    /// The broker did not confirm within the configured time.
    Timeout,
    /// The node is not attached to the broker (rule R3). See
    /// [`Subscribe::deferred`](crate::Subscribe::deferred) for the other choice.
    Unavailable,
}

impl SubscribeError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: SubscribeErrorKind, source: Option<BoxError>) -> Self {
        Self { kind, source }
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> SubscribeErrorKind {
        self.kind
    }
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            SubscribeErrorKind::Closed => "cannot subscribe: the node or subscription is closed",
            SubscribeErrorKind::Refused => "the broker refused the subscription",
            SubscribeErrorKind::Timeout => "the broker did not confirm the subscription in time",
            SubscribeErrorKind::Unavailable => "cannot subscribe: the backplane is not connected",
        })
    }
}

impl StdError for SubscribeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        source(&self.source)
    }
}

/// Why an eager constructor failed (rule R6). Names the address, never a secret.
#[derive(Debug)]
pub struct ConnectError {
    kind: ConnectErrorKind,
    endpoint: String,
    source: Option<BoxError>,
}

/// The kinds of [`ConnectError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The broker does not take these credentials.
    Unauthorized,
    /// An option has an impossible value.
    InvalidOption,
    /// The broker answers, but is not one that this backend can use.
    Incompatible,
    /// The broker did not answer in time.
    Timeout,
    /// The broker refused to serve this node.
    Refused,
    /// The broker cannot be reached.
    Unreachable,
    /// The backend does not declare what the node [requires](crate::NodeOptions::require).
    Unsupported,
}

impl ConnectError {
    /// An error of this kind about this endpoint, which must not contain a secret.
    #[must_use]
    pub fn new(
        kind: ConnectErrorKind,
        endpoint: impl Into<String>,
        source: Option<BoxError>,
    ) -> Self {
        Self {
            kind,
            endpoint: endpoint.into(),
            source,
        }
    }

    /// The error for an option that a constructor does not take: `Unsupported` when it is a
    /// [requirement](crate::NodeOptions::require) that is not met, and `InvalidOption` otherwise.
    #[must_use]
    pub fn of_option(endpoint: impl Into<String>, option: InvalidOption) -> Self {
        let kind = match option.name {
            InvalidOption::REQUIRE => ConnectErrorKind::Unsupported,
            _ => ConnectErrorKind::InvalidOption,
        };
        Self::new(kind, endpoint, Some(option.into()))
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// The address of the broker, without credentials.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = &self.endpoint;
        match self.kind {
            ConnectErrorKind::Unauthorized => {
                write!(f, "{endpoint} does not take these credentials")
            }
            ConnectErrorKind::InvalidOption => write!(f, "invalid option for {endpoint}"),
            ConnectErrorKind::Incompatible => write!(f, "{endpoint} is not compatible"),
            ConnectErrorKind::Timeout => write!(f, "{endpoint} did not answer in time"),
            ConnectErrorKind::Refused => write!(f, "{endpoint} refused to serve this node"),
            ConnectErrorKind::Unreachable => write!(f, "{endpoint} cannot be reached"),
            ConnectErrorKind::Unsupported => {
                write!(f, "{endpoint} does not offer what the node requires")
            }
        }?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        source(&self.source)
    }
}

/// Why [`health`](crate::Backplane::health) failed (rule V2).
#[derive(Debug)]
pub struct HealthError {
    kind: HealthErrorKind,
    source: Option<BoxError>,
}

/// The kinds of [`HealthError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthErrorKind {
    /// The node is closed.
    Closed,
    /// The node is not attached to the broker.
    Unavailable,
    /// A probe was published and did not come back.
    Unhealthy,
}

impl HealthError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: HealthErrorKind, source: Option<BoxError>) -> Self {
        Self { kind, source }
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> HealthErrorKind {
        self.kind
    }
}

impl fmt::Display for HealthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            HealthErrorKind::Closed => "the node is closed",
            HealthErrorKind::Unavailable => "the backplane is not connected",
            HealthErrorKind::Unhealthy => "a probe through the broker did not come back",
        })
    }
}

impl StdError for HealthError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        source(&self.source)
    }
}

/// An option with an impossible value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {name}: {problem}")]
pub struct InvalidOption {
    /// The option's name.
    pub name: &'static str,
    /// What is wrong with its value.
    pub problem: String,
}

impl InvalidOption {
    /// The name under which an unmet [requirement](crate::NodeOptions::require) is told.
    pub const REQUIRE: &'static str = "require";
}

fn source(source: &Option<BoxError>) -> Option<&(dyn StdError + 'static)> {
    source.as_ref().map(|s| &**s as &(dyn StdError + 'static))
}
