//! Connections, groups and users across nodes: what a framework needs of a backplane.
//!
//! Each node of a real-time server makes a [`Hub`] of the same name, and [connects](Hub::connect) its clients to it. From then
//! on a [send](Hub::send) on any node reaches everybody, or connections, groups and users, wherever they are. A
//! framework calls it at four places:
//!
//! | When | Call |
//! | --- | --- |
//! | a client connects | [`Hub::connect`], and forward what [`Connection::recv`] gives |
//! | a client says something | [`Hub::send`], [`join`](ConnectionHandle::join), [`leave`](ConnectionHandle::leave) |
//! | a client disconnects | drop its [`Connection`] |
//! | [`Hub::gaps`] gives a gap | let the clients read the state again |
//!
//! # What is promised
//! - A send reaches exactly the connections that its [`Target`] means, each at most once (rules H1 to H10), and one
//!   sender's messages reach a connection in the order sent, whatever the targets (rule H18): each send is awaited before
//!   the next begins.
//! - When [`join`](ConnectionHandle::join) returns, the next send to the group from any node arrives; when
//!   [`leave`](ConnectionHandle::leave) returns, none does (rules H11 and H12).
//! - In an outage the clients of a node go on hearing each other, and the sender is told that the other nodes were not
//!   reached, or that it is not known (rule H16). The other choice is [`DeliveryMode::ThroughBackplane`].
//! - A slow client has a bounded queue and delays nobody (rule H22). Nothing is lost in silence: what a queue cannot
//!   take is [counted](Outbound::Missed) at its place, what the node has missed is told as a [gap](Hub::gaps).
//! - No task runs for a connection. Connecting, joining, leaving and disconnecting take the same time however many
//!   connections there are.
//!
//! # What is not
//! - A [`ConnectionId`] is no credential.
//! - Hubs take the channels that begin with `hub:`; an application that uses the backplane beside its hubs takes others.
//! - One node has one hub of a name: with [`DeliveryMode::LocalFirst`] a second would not hear the first.
//!
//! # Example
//! ```
//! use std::sync::Arc;
//! use backplane_core::hub::{Connect, Hub, Outbound, Target};
//! use backplane_core::{NodeOptions, Prefix};
//! use backplane_memory::MemoryBus;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = MemoryBus::new();
//! let options = NodeOptions::new(Prefix::new("shop")?);
//! let (here, there) = (bus.connect(options.clone()).await?, bus.connect(options).await?);
//! let here = Hub::builder(Arc::new(here)).name("chat").build().await?;
//! let there = Hub::builder(Arc::new(there)).name("chat").build().await?;
//!
//! let ann = here.connect(Connect::new().user("ann")).await?;
//! let mut bob = there.connect(Connect::new().user("bob")).await?;
//! ann.join("room 7").await?;
//! bob.join("room 7").await?;
//!
//! let others = Target::group("room 7").except_connection(ann.id());
//! here.send(others, "hello").await?;
//!
//! match bob.recv().await {
//!     Some(Outbound::Message(payload)) => assert_eq!(payload.bytes().as_deref(), Some(&b"hello"[..])),
//!     Some(other) => println!("{other:?}"),
//!     None => println!("the connection has ended: {:?}", bob.ended()),
//! }
//! # Ok(())
//! # }
//! ```

mod builder;
mod connection;
mod deliver;
mod error;
mod gaps;
mod id;
mod inner;
mod outbox;
mod pack;
mod payload;
mod protocol;
mod select;
mod send;
mod sink;
mod stats;
mod table;
mod target;
pub mod wire;

use std::sync::Arc;

pub use self::builder::{DeliveryMode, HubBuilder};
pub use self::connection::{Connect, Connection, ConnectionHandle, SinkConnection};
pub use self::error::{HubError, SendError};
pub use self::gaps::Gaps;
pub use self::id::{ConnectionId, InvalidConnectionId};
use self::inner::Inner;
pub use self::outbox::{Ended, Outbound, Overflow};
pub use self::payload::Payload;
pub use self::send::{Others, Sent};
pub use self::sink::Sink;
pub use self::stats::HubStats;
pub use self::target::Target;
use crate::backplane::Backplane;

/// One node of a hub: sends to connections, groups and users of every node, and has connections of its own, or none
/// (rule H26).
///
/// Clones are the same hub. Dropping the last one closes it in the background; [`close`](Self::close) waits for
/// the end.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Open>);

/// Closes the hub when it is dropped.
#[derive(Debug)]
struct Open(Arc<Inner>);

impl Hub {
    /// A hub on this node of a backplane.
    pub fn builder(backplane: Arc<dyn Backplane>) -> HubBuilder {
        HubBuilder::new(backplane)
    }

    /// The hub's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.0.name
    }

    /// Connects a client. When it returns `Ok`, whatever is sent to it, to its user or to all from then on arrives.
    ///
    /// It works in an outage too (rule H16): messages of this node arrive at once, those of others when the node is attached
    /// again.
    ///
    /// # Errors
    /// `InvalidName` of the user; `Closed`; `Subscribe` when the broker refuses the user's channel or does not confirm it
    /// in time.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn connect(&self, request: Connect) -> Result<Connection, HubError> {
        Connection::open(&self.0.0, request).await
    }

    /// Connects a client that is served through a sink of the framework's own. As [`connect`](Self::connect) otherwise; the
    /// client's queue is then used only while the sink is busy.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn connect_sink(
        &self,
        request: Connect,
        sink: Arc<dyn Sink>,
    ) -> Result<SinkConnection, HubError> {
        SinkConnection::open(&self.0.0, request, sink).await
    }

    /// Sends a message, and says what became of it.
    ///
    /// - [Local first](DeliveryMode::LocalFirst), the connections of this node have it in their queues after the first poll,
    ///   in the order of the calls, and the publish to the other nodes starts in the same poll (rule H18).
    /// - With one target it goes to the nodes concerned alone, with several in one message to all nodes, which find out
    ///   whom they have.
    ///
    /// # Errors
    /// [`SendError::Publish`] when the other nodes were not reached, or it is not known whether; it says how many
    /// connections of this node were (rule H16). A message that is too large for the backplane reaches nobody. `InvalidName`, `Closed`.
    ///
    /// # Cancel safety
    /// Not polled, it does nothing. Dropped later, what was delivered here stays; it may or may not reach the others.
    pub async fn send(
        &self,
        target: Target,
        payload: impl Into<Payload> + Send,
    ) -> Result<Sent, SendError> {
        self.0.0.send(target, payload.into()).await
    }

    /// The gaps from now on: messages of other nodes that were, or may have been, lost. Ask right after
    /// [`build`](HubBuilder::build) to miss none (rule H23).
    #[must_use]
    pub fn gaps(&self) -> Gaps {
        self.0.0.gaps.open()
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        let counts = self.0.0.read().counts();
        self.0.0.counters.snapshot(counts)
    }

    /// Closes the hub: every connection ends after what is in its queue, and later calls fail with `Closed`. When it
    /// returns, the hub's task has ended and its channels are given back. The node stays open. Closing again does nothing.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the closing.
    pub async fn close(&self) {
        self.0.0.shut();
        self.0.0.tasks.wait().await;
    }

    fn of(inner: Arc<Inner>) -> Self {
        Self(Arc::new(Open(inner)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.shut();
    }
}
