//! What a backend author writes: a [`Driver`] that opens one [`Link`] at a time, and hands what
//! arrives to [`Inbound`].
//!
//! A driver never retries, buffers, reconnects or resubscribes, and needs no time-outs: the engine
//! ([`Node`](crate::Node)) does all that, once, for every backend.
//!
//! | the driver | the engine |
//! | --- | --- |
//! | opens a connection | decides when, bounds the time, tries again with backoff |
//! | sends a frame, says whether it was [accepted](Link::publish) | batches, numbers, keeps the order, fails fast while away |
//! | subscribes what it is told to | knows the desired set, resubscribes it, one subscription per channel |
//! | hands over what arrives, and the news that the connection broke | routes, queues, counts losses, tells gaps |

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::capability::Capabilities;
use crate::engine::{LinkFate, Route, Router};
use crate::error::{BoxError, ConnectErrorKind};
use crate::name::NodeId;
use crate::state::DisconnectKind;

pub use crate::frame::{Frame, FrameError};
pub use crate::name::BrokerChannel;
pub use crate::queue::Wakes;

/// Opens connections to one broker.
#[async_trait]
pub trait Driver: Debug + Send + Sync + 'static {
    /// A live connection.
    type Link: Link;

    /// The broker's address for errors and logs. Never a secret (rule V3).
    fn endpoint(&self) -> String;

    /// What the backend promises.
    fn capabilities(&self) -> Capabilities;

    /// Opens one connection. Whatever arrives on it from then on goes to `inbound`, and so does the news
    /// of its end.
    ///
    /// # Errors
    /// [`LinkError`], with the kind that fits: a wrong password is `Unauthorized`, an unsuitable broker
    /// `Incompatible`. It must not contain a secret.
    ///
    /// # Cancel safety
    /// The engine drops the future when it takes too long; nothing may be left open then.
    async fn connect(&self, inbound: Inbound) -> Result<Self::Link, LinkError>;
}

/// One live connection of one node. Dropping it closes it.
///
/// All methods are called concurrently, bounded in time by the engine, and their futures may
/// be dropped at any point.
#[async_trait]
pub trait Link: Debug + Send + Sync + 'static {
    /// Hands a frame to the broker and waits until it is accepted. Frames to one channel are published one after the
    /// other; frames to several channels at once. The broker must deliver it to every
    /// subscribed link, this one included, in the order of publishing per channel.
    ///
    /// # Errors
    /// [`LinkPublishError::NotSent`] only when it is certain that the broker will never deliver
    /// the frame, [`LinkPublishError::Unknown`] in every other case. A broker that refuses a frame and lives
    /// is `Refused`; it costs the link nothing (rule L10).
    async fn publish(&self, channel: &BrokerChannel, frame: &Frame)
    -> Result<(), LinkPublishError>;

    /// Does what [`publish`](Self::publish) does, for a link that need not wait for anything at this moment; `None`
    /// when it would, and nothing was done. Saves the price of a future. By default always `None`.
    ///
    /// Never blocks, and wakes nobody: the engine holds a lock. Who delivers meanwhile does it by
    /// [`Inbound::deliver_then`] or [`Inlet::deliver_then`], with these `wakes`; the other methods of [`Inbound`] wake by
    /// themselves, and are not to be called here.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    fn publish_now(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Option<Result<(), LinkPublishError>> {
        let _ = (channel, frame, wakes);
        None
    }

    /// Subscribes to channels, exactly as named, without patterns. When it returns, messages published anywhere
    /// from then on arrive, and everything that the broker had sent on this link before has been handed to
    /// [`Inbound`]. Subscribing twice does no harm.
    ///
    /// Two requests may be on their way at once, each about other channels: what the broker answers must be matched
    /// with the request it belongs to.
    ///
    /// # Errors
    /// `Refused` when the broker lives but does not allow it; then none of the channels needs to be
    /// subscribed. Every other kind ends the link.
    async fn subscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError>;

    /// Ends the subscription of channels.
    ///
    /// # Errors
    /// `Refused` when the broker does not allow it; what goes on arriving is ignored then. Every other
    /// kind ends the link.
    async fn unsubscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError>;

    /// A round trip on the path by which messages arrive: when it returns, everything that the broker had sent on
    /// this link before the call has been handed to [`Inbound`] (rule D6).
    ///
    /// # Errors
    /// [`LinkError`] when the link is dead.
    async fn ping(&self) -> Result<(), LinkError>;

    /// Closes the connection in good order, so that the broker forgets it at once. The link is dropped
    /// afterwards. What is still published on it, by a caller that had found it before, must fail.
    async fn close(&self);
}

/// Where a [`Link`] hands what arrives: from its read path, without blocking.
///
/// Each link has its own; what an old link delivers after its end is ignored.
#[derive(Clone)]
pub struct Inbound {
    router: Arc<Router>,
    fate: LinkFate,
}

impl Inbound {
    pub(crate) const fn new(router: Arc<Router>, fate: LinkFate) -> Self {
        Self { router, fate }
    }

    /// Takes in the bytes of one broker message. Bytes that are not a frame are skipped and
    /// counted (rules I6, M1 and M2). Never blocks.
    pub fn deliver_bytes(&self, channel: &[u8], bytes: &Bytes) {
        match Frame::decode(bytes) {
            Ok(frame) => self.deliver(channel, &frame),
            Err(error) => self.router.reject(self.fate.id(), &error),
        }
    }

    /// Takes in a frame, for a driver that does not need to encode it. Never blocks.
    pub fn deliver(&self, channel: &[u8], frame: &Frame) {
        let mut wakes = Wakes::default();
        self.deliver_then(channel, frame, &mut wakes);
    }

    /// Likewise, and leaves it to the caller to wake the readers, for a driver that holds locks meanwhile. Dropping `wakes`
    /// wakes them; readers that are never woken do not see what has come.
    pub fn deliver_then(&self, channel: &[u8], frame: &Frame, wakes: &mut Wakes) {
        self.router.deliver(self.fate.id(), channel, frame, wakes);
    }

    /// One channel of this link, for a driver that knows beforehand which one a frame is for. It may be made before
    /// anybody has subscribed to the channel, and kept as long as the link.
    #[must_use]
    pub fn inlet(&self, channel: BrokerChannel) -> Inlet {
        Inlet {
            inbound: self.clone(),
            channel,
            route: None,
        }
    }

    /// Says that the connection broke; the first word counts.
    pub fn lost(&self, reason: LinkError) {
        self.fate.lost(reason);
    }

    /// The node that the link belongs to, for drivers that name their connections.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.router.node_id()
    }
}

/// Where a [`Link`] hands the frames of one channel. Does what [`Inbound`] does, and finds who the channel concerns once,
/// not for each frame. Bytes that may not be a frame go to its [`inbound`](Self::inbound).
pub struct Inlet {
    inbound: Inbound,
    channel: BrokerChannel,
    route: Option<Arc<Route>>,
}

impl Inlet {
    /// Takes in a frame, as [`Inbound::deliver_then`] does.
    pub fn deliver_then(&mut self, frame: &Frame, wakes: &mut Wakes) {
        let Inbound { router, fate } = &self.inbound;
        let name = self.channel.as_bytes();
        router.deliver_known(&mut self.route, fate.id(), name, frame, wakes);
    }

    /// Where everything else goes that arrives on this link.
    #[must_use]
    pub const fn inbound(&self) -> &Inbound {
        &self.inbound
    }
}

impl Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet")
            .field("node", &self.inbound.node_id())
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

impl Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("node", &self.node_id())
            .finish_non_exhaustive()
    }
}

/// What went wrong with a link.
#[derive(Debug)]
pub struct LinkError {
    kind: LinkErrorKind,
    message: String,
    source: Option<BoxError>,
}

/// The kinds of [`LinkError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkErrorKind {
    /// The broker is not one that this driver can use: too old, another protocol.
    Incompatible,
    /// The connection broke.
    Lost,
    /// The broker lives and refuses this request.
    Refused,
    /// The broker did not answer in time.
    Timeout,
    /// The broker does not take the credentials.
    Unauthorized,
    /// The broker cannot be reached.
    Unreachable,
}

impl LinkError {
    /// An error of this kind. The message names the thing, never a secret; the engine adds the broker's
    /// address where the message does not have it.
    #[must_use]
    pub fn new(kind: LinkErrorKind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            source: None,
        }
    }

    /// Adds the source. Its text is not part of this error's text.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> LinkErrorKind {
        self.kind
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

impl LinkErrorKind {
    pub(crate) const fn as_connect_error(self) -> ConnectErrorKind {
        match self {
            Self::Incompatible => ConnectErrorKind::Incompatible,
            Self::Refused => ConnectErrorKind::Refused,
            Self::Timeout => ConnectErrorKind::Timeout,
            Self::Unauthorized => ConnectErrorKind::Unauthorized,
            Self::Lost | Self::Unreachable => ConnectErrorKind::Unreachable,
        }
    }

    pub(crate) const fn as_disconnect(self) -> DisconnectKind {
        match self {
            Self::Incompatible | Self::Refused | Self::Unauthorized => DisconnectKind::Refused,
            Self::Lost => DisconnectKind::Lost,
            Self::Timeout => DisconnectKind::Unresponsive,
            Self::Unreachable => DisconnectKind::Unreachable,
        }
    }
}

/// Why a link could not publish a frame.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums)]
pub enum LinkPublishError {
    /// The broker will certainly never deliver the frame.
    NotSent(LinkError),
    /// The frame may or may not be delivered, at most once.
    Unknown(LinkError),
}
