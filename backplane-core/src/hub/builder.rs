//! How a hub is made: [`HubBuilder`].

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Hub;
use super::deliver;
use super::error::HubError;
use super::gaps::GapReaders;
use super::inner::Inner;
use super::invocations::Invocations;
use super::keeper;
use super::presence::Shared;
use super::protocol::{MAX_HUB_LEN, Native, Protocol};
use super::requests::Requests;
use super::roster::Roster;
use super::serve::{MAX_ASIDES, MAX_CALLS, MAX_SERVED};
use super::service::Service;
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

/// How long what takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) request_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) node_timeout: Duration,
}

/// What takes longer takes for ever: a hundred years. No sum of such times is more than a clock can tell.
pub(super) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Makes a [`Hub`].
#[derive(Clone, Debug)]
#[must_use = "there is no hub before it is built"]
pub struct HubBuilder {
    backplane: Arc<dyn Backplane>,
    name: String,
    mode: DeliveryMode,
    receive_capacity: Option<usize>,
    timing: Timing,
    service: Option<Arc<dyn Service>>,
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
            timing: Timing {
                request_timeout: Duration::from_secs(5),
                heartbeat_interval: Duration::from_secs(1),
                node_timeout: Duration::from_secs(4),
            },
            service: None,
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

    /// How long this node waits for answers of others: to joins, leaves, questions and queries (rules H14 and H21).
    /// Default 5 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.timing.request_timeout = timeout.min(FOREVER);
        self
    }

    /// How often this node is heard at least: it says something to all others when it had nothing to say for half as long
    /// (rule H20). The same on all nodes. Default 1 s, at least 2 ms.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.timing.heartbeat_interval = interval.clamp(Duration::from_millis(2), FOREVER);
        self
    }

    /// After how long a node that is not heard is [lost](super::Departure::Lost) (rule H20): with half an interval more, the bound within which
    /// a crash is noticed. Several intervals, so that a short silence is no crash. Default 4 s.
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.timing.node_timeout = timeout.min(FOREVER);
        self
    }

    /// What answers the [questions](Hub::ask) that the application on other nodes has. Default: nothing, and they are told so.
    pub fn service(mut self, service: Arc<dyn Service>) -> Self {
        self.service = Some(service);
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
        let Timing {
            heartbeat_interval,
            node_timeout,
            ..
        } = self.timing;
        let mut roster = Roster::new(node, heartbeat_interval, node_timeout);
        if self.backplane.state().is_connected() {
            roster.attach(Instant::now());
        }
        let stop = CancellationToken::new();
        let inner = Arc::new_cyclic(|me| Inner {
            me: Weak::clone(me),
            node,
            birth: rand::random(),
            timing: self.timing,
            name: self.name,
            mode: self.mode,
            protocol: Box::new(protocol),
            node_channel,
            subscription: subscription.handle(),
            counters: Counters::default(),
            gaps: Arc::new(GapReaders::default()),
            presence: Arc::new(Shared::new(node, roster, stop.clone())),
            spoke: AtomicBool::new(false),
            requests: Requests::default(),
            invocations: Invocations::default(),
            served: Arc::new(Semaphore::new(MAX_SERVED)),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            asides: Arc::new(Semaphore::new(MAX_ASIDES)),
            service: self.service,
            stop,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            table: RwLock::new(Table::default()),
            backplane: self.backplane,
        });
        let task = deliver::run(Arc::clone(&inner), subscription);
        inner.tasks.spawn(task);
        inner.tasks.spawn(keeper::run(Arc::clone(&inner)));
        inner.tasks.close();
        Ok(Hub::of(inner))
    }
}
