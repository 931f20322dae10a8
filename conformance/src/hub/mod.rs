//! The hub under test, as section H sees it: [`HubPort`] makes [`HubNode`]s on the nodes of a backplane, and each has
//! [`HubClient`]s.
//!
//! A hub is a consumer of a backplane, and its trials certify the two together. Between them and the hub there is only this:
//! the real one, [`RealHub`], passes everything on, and the mutants put something wrong in between.

mod channels;
mod real;
mod recipients;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::hub::{
    Answers, CompleteError, ConnectionId, ConnectionInfo, DeliveryMode, Ended, HubError, HubStats,
    InvocationId, InvokeError, NodeEvent, Nodes, Outbound, Overflow, Payload, RequestError,
    SendError, Sent, Service, Sink,
};
use backplane_core::{Backplane, Gap, NodeId, Subscribed};

pub(crate) use self::channels::HubChannel;
pub use self::real::RealHub;
pub use self::recipients::{Address, Recipients};

/// Makes hubs on nodes.
///
/// It stands for a hub that keeps the [wire protocol](backplane_core::hub::wire), version 1: some rules look at its channels,
/// and write to them.
#[async_trait]
pub trait HubPort: fmt::Debug + Send + Sync + 'static {
    /// Makes one node of a hub.
    ///
    /// # Errors
    /// What the hub's own constructor says. `Unsupported` is taken for the refusal of a backend that does not declare enough.
    async fn open(
        &self,
        node: Arc<dyn Backplane>,
        spec: &HubSpec,
    ) -> Result<Arc<dyn HubNode>, HubError>;
}

/// A hub to be made.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct HubSpec {
    /// Its name.
    pub name: String,
    /// How the node's own connections get what is sent on it.
    pub delivery: DeliveryMode,
    /// How long it waits for other nodes.
    pub request_timeout: Duration,
    /// How often it is heard at least.
    pub heartbeat_interval: Duration,
    /// After how long a node that is not heard is lost.
    pub node_timeout: Duration,
    /// What answers the questions of other nodes.
    pub service: Option<Arc<dyn Service>>,
}

/// What the application on one node answers to a question.
pub type Replied = Result<Payload, RequestError>;

/// One node of a hub. Dropping the last reference closes it.
#[async_trait]
pub trait HubNode: Send + Sync + 'static {
    /// Connects a client with a queue.
    ///
    /// # Errors
    /// What the hub says.
    async fn connect(&self, client: &ClientSpec) -> Result<Box<dyn HubClient>, HubError>;

    /// Connects a client with a sink.
    ///
    /// # Errors
    /// What the hub says.
    async fn connect_sink(
        &self,
        client: &ClientSpec,
        sink: Arc<dyn Sink>,
    ) -> Result<Box<dyn HubMember>, HubError>;

    /// Sends a message.
    ///
    /// # Errors
    /// What the hub says; it may have reached connections of this node all the same.
    async fn send(&self, to: &Recipients, payload: Payload) -> Result<Sent, SendError>;

    /// Puts a connection of any node into a group.
    ///
    /// # Errors
    /// What the hub says.
    async fn join(&self, who: ConnectionId, group: &str) -> Result<Subscribed, RequestError>;

    /// Takes a connection of any node out of a group.
    ///
    /// # Errors
    /// What the hub says.
    async fn leave(&self, who: ConnectionId, group: &str) -> Result<(), RequestError>;

    /// Asks a client, and waits for its answer.
    ///
    /// # Errors
    /// What the hub says.
    async fn invoke(
        &self,
        who: ConnectionId,
        payload: Payload,
        timeout: Duration,
    ) -> Result<Payload, InvokeError>;

    /// The nodes that are there now.
    fn nodes(&self) -> Nodes;

    /// The other nodes as they come and go.
    fn presence(&self) -> Box<dyn HubPresence>;

    /// How many connections these are, node by node.
    ///
    /// # Errors
    /// What the hub says.
    async fn count(&self, who: &Recipients) -> Result<Answers<u64>, RequestError>;

    /// Which connections these are, node by node.
    ///
    /// # Errors
    /// What the hub says.
    async fn connections(
        &self,
        who: &Recipients,
    ) -> Result<Answers<Vec<ConnectionInfo>>, RequestError>;

    /// Asks the application on a node.
    ///
    /// # Errors
    /// What the hub says.
    async fn ask(&self, node: NodeId, question: Payload) -> Result<Payload, RequestError>;

    /// Asks the application on every node.
    ///
    /// # Errors
    /// What the hub says.
    async fn ask_all(&self, question: Payload) -> Result<Answers<Replied>, RequestError>;

    /// The gaps from now on.
    fn gaps(&self) -> Box<dyn HubGaps>;

    /// The counters now.
    fn stats(&self) -> HubStats;

    /// Closes it, and returns when nothing of it is left.
    async fn close(&self);
}

/// A client to be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct ClientSpec {
    /// Its user, if it is anybody.
    pub user: Option<String>,
    /// How many messages wait for it at most.
    pub capacity: usize,
    /// What happens when that many wait.
    pub overflow: Overflow,
    /// Whether it is told gaps.
    pub with_gaps: bool,
}

/// A client that is connected. Dropping it disconnects it.
pub trait HubMember: Send + Sync + 'static {
    /// Its connection, which others may know and which does not keep it connected.
    fn handle(&self) -> Arc<dyn HubHandle>;
}

/// Likewise, with a queue.
#[async_trait]
pub trait HubClient: HubMember {
    /// The next item; `None` when the connection has ended.
    ///
    /// # Cancel safety
    /// It must not lose an item when it is dropped.
    async fn recv(&mut self) -> Option<Outbound>;
}

/// A connection.
#[async_trait]
pub trait HubHandle: Send + Sync + 'static {
    /// Its name.
    fn id(&self) -> ConnectionId;

    /// Puts it into a group.
    ///
    /// # Errors
    /// What the hub says.
    async fn join(&self, group: &str) -> Result<Subscribed, HubError>;

    /// Takes it out of a group.
    ///
    /// # Errors
    /// What the hub says.
    async fn leave(&self, group: &str) -> Result<(), HubError>;

    /// Answers a call.
    ///
    /// # Errors
    /// What the hub says.
    fn complete(
        &self,
        call: InvocationId,
        answer: Result<Payload, String>,
    ) -> Result<(), CompleteError>;

    /// The groups that it is in, in any order.
    fn groups(&self) -> Vec<String>;

    /// Ends it.
    fn disconnect(&self);

    /// Why it has ended, if it has.
    fn ended(&self) -> Option<Ended>;
}

/// The other nodes of a hub as they come and go.
#[async_trait]
pub trait HubPresence: Send + 'static {
    /// The next change; `None` when the hub was closed.
    async fn recv(&mut self) -> Option<NodeEvent>;
}

/// The gaps of a hub.
#[async_trait]
pub trait HubGaps: Send + 'static {
    /// The next one; `None` when the hub was closed.
    async fn recv(&mut self) -> Option<Gap>;
}

impl HubSpec {
    /// A hub of this name, with the default way to deliver.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            delivery: DeliveryMode::default(),
            request_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(1),
            node_timeout: Duration::from_secs(4),
            service: None,
        }
    }

    /// Waits so long for other nodes.
    #[must_use]
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Is heard this often, and takes who is not heard for so long for lost.
    #[must_use]
    pub const fn heartbeats(mut self, interval: Duration, node_timeout: Duration) -> Self {
        self.heartbeat_interval = interval;
        self.node_timeout = node_timeout;
        self
    }

    /// Has this answer the questions of other nodes.
    #[must_use]
    pub fn service(mut self, service: Arc<dyn Service>) -> Self {
        self.service = Some(service);
        self
    }

    /// Delivers in this way.
    #[must_use]
    pub const fn delivery(mut self, delivery: DeliveryMode) -> Self {
        self.delivery = delivery;
        self
    }
}

impl ClientSpec {
    /// A client that is nobody in particular, with a queue that is long enough for any trial that reads it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            user: None,
            capacity: 10_000,
            overflow: Overflow::DropAndTell,
            with_gaps: false,
        }
    }

    /// A client of a user.
    #[must_use]
    pub fn of(user: impl Into<String>) -> Self {
        Self {
            user: Some(user.into()),
            ..Self::new()
        }
    }

    /// With a queue of so many messages, and what happens when it is full.
    #[must_use]
    pub const fn queue(mut self, capacity: usize, overflow: Overflow) -> Self {
        self.capacity = capacity;
        self.overflow = overflow;
        self
    }

    /// Told gaps.
    #[must_use]
    pub const fn with_gaps(mut self) -> Self {
        self.with_gaps = true;
        self
    }
}

impl Default for ClientSpec {
    fn default() -> Self {
        Self::new()
    }
}
