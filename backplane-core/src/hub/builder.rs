//! How a hub is made: [`HubBuilder`].

use std::sync::{Arc, RwLock};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Hub;
use super::deliver;
use super::error::HubError;
use super::gaps::GapReaders;
use super::inner::Inner;
use super::protocol::{MAX_HUB_LEN, Native, Protocol};
use super::stats::Counters;
use super::table::Table;
use crate::backplane::Backplane;
use crate::capability::{Order, Requirement};
use crate::subscription::Subscribe;

/// How a node's own connections get what is sent on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum DeliveryMode {
    /// At once, whatever becomes of the message on its way to the other nodes: clients of one node go on talking in an
    /// outage (rule H16). Clients of different nodes may see the messages of several senders in
    /// different orders. The default.
    #[default]
    LocalFirst,
    /// When it comes back from the broker, as on any other node: all clients see one order, if the backend has
    /// [one](Order::Total), and in an outage nobody gets anything (rule H17).
    ThroughBackplane,
}

/// Makes a [`Hub`].
#[derive(Clone, Debug)]
#[must_use = "there is no hub before it is built"]
pub struct HubBuilder {
    backplane: Arc<dyn Backplane>,
    name: String,
    mode: DeliveryMode,
    receive_capacity: Option<usize>,
}

impl HubBuilder {
    /// The longest name of a hub, in bytes.
    pub const MAX_NAME_LEN: usize = MAX_HUB_LEN;

    pub(super) fn new(backplane: Arc<dyn Backplane>) -> Self {
        Self {
            backplane,
            name: "hub".to_owned(),
            mode: DeliveryMode::default(),
            receive_capacity: None,
        }
    }

    /// The hub's name: hubs of one name on the nodes of a backplane are one, and others know nothing of them (rule H25).
    /// Default `hub`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How this node's own connections get what is sent here. Default: [`DeliveryMode::LocalFirst`].
    pub const fn delivery(mut self, mode: DeliveryMode) -> Self {
        self.mode = mode;
        self
    }

    /// How many messages from the backplane wait for the hub at most; what does not fit is told as a gap (rules B2
    /// and H23). Default: what [`NodeOptions::queue_capacity`](crate::NodeOptions::queue_capacity) says.
    pub const fn receive_capacity(mut self, messages: usize) -> Self {
        self.receive_capacity = Some(messages);
        self
    }

    /// Makes the hub. In an outage too: it then serves its own connections, and the others when the node is attached.
    ///
    /// # Errors
    /// `Unsupported` when the backend does not promise order across channels (rule O3), without which a hub could not
    /// keep rule H18; `InvalidName`; `Subscribe` when the broker refuses the hub's channels or does
    /// not confirm them in time; `Closed`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn build(self) -> Result<Hub, HubError> {
        let order = Requirement::Order(Order::Publisher);
        if !order.is_met_by(&self.backplane.capabilities()) {
            return Err(HubError::Unsupported(order));
        }
        let protocol = Native::new(&self.name)?;
        let node = self.backplane.node_id();
        let node_channel = protocol.node(node)?;
        let mut request = Subscribe::to([protocol.all().clone(), node_channel.clone()]).deferred();
        if self.mode == DeliveryMode::LocalFirst {
            request = request.without_own();
        }
        if let Some(capacity) = self.receive_capacity {
            request = request.capacity(capacity);
        }
        let subscription = self.backplane.subscribe(request).await?;
        let inner = Arc::new(Inner {
            node,
            name: self.name,
            mode: self.mode,
            protocol: Box::new(protocol),
            node_channel,
            subscription: subscription.handle(),
            counters: Counters::default(),
            gaps: Arc::new(GapReaders::default()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            table: RwLock::new(Table::default()),
            backplane: self.backplane,
        });
        let task = deliver::run(Arc::clone(&inner), subscription);
        inner.tasks.spawn(task);
        inner.tasks.close();
        Ok(Hub::of(inner))
    }
}
