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
//! | a client answers a [call](Hub::invoke) | [`ConnectionHandle::complete`] |
//! | a client disconnects | drop its [`Connection`] |
//! | [`Hub::gaps`] gives a gap | let the clients read the state again |
//!
//! The [guide] says more about each, and what else a framework needs to know.
//!
//! From any node, too: [put a connection into a group](Hub::join), [ask a client and wait for its answer](Hub::invoke),
//! [count](Hub::count) and [list](Hub::connections) connections, see [which nodes there are](Hub::presence), and
//! [ask the application](Hub::ask) on another node.
//!
//! # What is promised
//! - A send reaches exactly the connections that its [`Target`] means, each at most once (rules H1 to H10), and one
//!   sender's messages reach a connection in the order sent, whatever the targets (rule H18): each send is awaited before
//!   the next begins.
//! - When [`join`](ConnectionHandle::join) returns, the next send to the group from any node arrives; when
//!   [`leave`](ConnectionHandle::leave) returns, none does (rules H11 and H12). So for a connection of another node,
//!   whose node alone is asked, and answers (rule H14).
//! - Whatever waits for another node ends as soon as that node is known to be gone, and leaves nothing behind when
//!   nobody waits for it any more (rules H14, H19 and H21). A result that is not complete says so and names the nodes that are missing.
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

mod answers;
mod ask;
mod builder;
mod connection;
mod deliver;
mod error;
mod gaps;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod id;
mod inner;
mod invocations;
mod keeper;
mod outbox;
mod pack;
mod payload;
mod presence;
mod protocol;
mod requests;
mod roster;
mod scatter;
mod select;
mod send;
mod serve;
mod service;
mod signal;
mod sink;
mod stats;
mod table;
mod target;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

pub use self::answers::Answers;
pub use self::builder::{DeliveryMode, HubBuilder};
pub use self::connection::{Connect, Connection, ConnectionHandle, SinkConnection};
pub use self::error::{HubError, InvokeError, RequestError, SendError};
pub use self::gaps::Gaps;
pub use self::id::{ConnectionId, InvalidConnectionId};
use self::inner::Inner;
pub use self::invocations::{CompleteError, Invocation, InvocationId};
pub use self::outbox::{Ended, Outbound, Overflow};
pub use self::payload::Payload;
pub use self::presence::{NodeEvent, Nodes, Presence};
pub use self::requests::Missing;
pub use self::roster::Departure;
pub use self::send::{Others, Sent};
pub use self::service::Service;
pub use self::signal::ConnectionInfo;
pub use self::sink::Sink;
pub use self::stats::HubStats;
pub use self::target::Target;
use crate::backplane::Backplane;
use crate::name::NodeId;
use crate::subscription::Subscribed;

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

    /// Puts a connection of any node into a group. When it returns `Ok`, whatever is sent to the group from then on, from
    /// any node, reaches the connection (rule H11). Joining again changes nothing (rule H13).
    ///
    /// The node of the connection alone is asked, and answers when the group's channel is subscribed there (rule
    /// H14). For a connection of this node it is [`ConnectionHandle::join`].
    ///
    /// # Errors
    /// `UnknownConnection` at once, when its node has no such connection; `NodeGone` when that node left or crashed, also
    /// while it is waited for; `Timeout` after [`request_timeout`](HubBuilder::request_timeout); `AnswerLost` when this node was cut
    /// off meanwhile; `Failed` when the broker refused the channel there; `Publish`, `InvalidName`, `Closed`.
    ///
    /// # Cancel safety
    /// Dropped after the first poll, it may or may not join the connection, until a [`leave`](Self::leave) returns:
    /// no earlier join undoes that.
    pub async fn join(
        &self,
        connection: ConnectionId,
        group: impl AsRef<str> + Send,
    ) -> Result<Subscribed, RequestError> {
        self.0.0.join_anywhere(connection, group.as_ref()).await
    }

    /// Takes a connection of any node out of a group. When it returns `Ok`, nothing that is sent to the group from then on
    /// reaches the connection (rule H12). Leaving a group that it is not in changes nothing (rule H13).
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// # Cancel safety
    /// Dropped after the first poll, it may or may not happen.
    pub async fn leave(
        &self,
        connection: ConnectionId,
        group: impl AsRef<str> + Send,
    ) -> Result<(), RequestError> {
        self.0.0.leave_anywhere(connection, group.as_ref()).await
    }

    /// Disconnects a connection of any node: it gets what is in its queue, then the end, and
    /// [`ended`](ConnectionHandle::ended) says [`Removed`](Ended::Removed). It goes the way of messages: what was sent to it
    /// before comes before.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// # Cancel safety
    /// Dropped after the first poll, it may or may not happen.
    pub async fn disconnect(&self, connection: ConnectionId) -> Result<(), RequestError> {
        self.0.0.disconnect_anywhere(connection).await
    }

    /// Asks a client something, on whatever node it is connected, and waits for its answer (rule H19).
    ///
    /// The connection gets an [`Outbound::Invoke`], in order with what was sent to it before; the answer is what its node
    /// hands to [`ConnectionHandle::complete`].
    ///
    /// # Errors
    /// `Client` with the client's words when it answers with an error; `Disconnected` at once when it disconnects;
    /// `QueueFull`; `Timeout`. As [`Request`](InvokeError::Request): `UnknownConnection` at once; `NodeGone` when its
    /// node leaves, or as soon as its crash is noticed; and what can go wrong on the way.
    ///
    /// # Cancel safety
    /// Dropping the future takes the call back: nobody waits for it any longer, on any node, and the connection is told by
    /// [`Outbound::Cancelled`].
    pub async fn invoke(
        &self,
        connection: ConnectionId,
        payload: impl Into<Payload> + Send,
        timeout: Duration,
    ) -> Result<Payload, InvokeError> {
        self.0.0.invoke(connection, payload.into(), timeout).await
    }

    /// The nodes that are there now, this one first (rule H20).
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        self.0.0.presence.nodes()
    }

    /// The other nodes as they come and go, from now on: begins with those that are there (rule H20).
    ///
    /// Every node says hello when it is attached and bye when its hub is closed or dropped; one that is silent for the
    /// [node timeout](HubBuilder::node_timeout) is lost. In an outage of its own, a node judges nobody.
    #[must_use]
    pub fn presence(&self) -> Presence {
        self.0.0.presence.watch()
    }

    /// How many connections a target means, node by node (rule H21).
    ///
    /// Every node is asked that is there. Each is waited for until it answers, goes, or
    /// [`request_timeout`](HubBuilder::request_timeout) is over, and the result names those that are missing. In an outage it comes at
    /// once, from this node alone. For a moment after the start the nodes are not all known: it waits until they are.
    ///
    /// # Errors
    /// `InvalidName`, `Closed`; `Publish` when the question is too large.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn count(&self, target: Target) -> Result<Answers<u64>, RequestError> {
        self.0.0.count(target).await
    }

    /// Which connections a target means, node by node. As [`count`](Self::count) otherwise; a node that goes while
    /// it lists its connections is named as missing, and what came before is there all the same.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn connections(
        &self,
        target: Target,
    ) -> Result<Answers<Vec<ConnectionInfo>>, RequestError> {
        self.0.0.connections(target).await
    }

    /// Asks the application on one node: its [`Service`] answers.
    ///
    /// # Errors
    /// `NoService` when there is none; `Failed` with the service's words; otherwise as [`join`](Self::join).
    ///
    /// # Cancel safety
    /// Dropped after the first poll, the question may or may not be heard.
    pub async fn ask(
        &self,
        node: NodeId,
        question: impl Into<Payload> + Send,
    ) -> Result<Payload, RequestError> {
        self.0.0.ask(node, question.into()).await
    }

    /// Asks the application on every node, this one included, and gives what each of them answers. As
    /// [`count`](Self::count) otherwise.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    ///
    /// # Cancel safety
    /// Dropped after the first poll, the question may or may not be heard.
    pub async fn ask_all(
        &self,
        question: impl Into<Payload> + Send,
    ) -> Result<Answers<Result<Payload, RequestError>>, RequestError> {
        self.0.0.ask_all(question.into()).await
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
        let inner = &self.0.0;
        let table = inner.read().counts();
        let pending = (inner.requests.len(), inner.invocations.len());
        inner.counters.snapshot(table, pending)
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
