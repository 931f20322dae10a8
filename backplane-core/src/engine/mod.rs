//! The engine: everything between [`Backplane`] and a [`Link`](crate::driver::Link), once, for every backend.
//!
//! ```text
//! publish -> lane -> link -> broker -> link -> router -> subscription queue
//!                      supervisor (lifecycle, backoff, probe)
//! ```

mod backoff;
mod core;
mod fate;
mod lane;
mod lifecycle;
mod outcome;
mod patience;
mod probe;
mod publisher;
mod router;
mod supervisor;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use self::core::Core;
pub(crate) use self::fate::LinkFate;
use self::lane::{Entered, Limits};
pub use self::publisher::Publisher;
pub(crate) use self::router::{ById, Route, Router};
use self::router::{Claimed, SubscriptionId};
use self::supervisor::{FirstResult, Supervisor};
use crate::backplane::Backplane;
use crate::capability::Capabilities;
use crate::driver::Driver;
use crate::error::{
    ConnectError, ConnectErrorKind, HealthError, HealthErrorKind, InvalidOption, PublishError,
    SubscribeError, SubscribeErrorKind,
};
use crate::name::{Channel, NodeId, Prefix};
use crate::options::NodeOptions;
use crate::publish_many::PublishManyError;
use crate::state::{ConnectionState, Events, StateCell, StateWatch};
use crate::stats::Stats;
use crate::subscription::{Subscribe, Subscribed, Subscription, SubscriptionControl};

/// A node on any [`Driver`]: the engine that makes a [`Backplane`] of it.
///
/// It reconnects by itself, for ever (rule R1); subscriptions outlive outages (rule L9). Dropping it
/// closes it in the background; [`close`](Backplane::close) waits for the end.
pub struct Node<D: Driver> {
    core: Arc<Core<D::Link>>,
    capabilities: Capabilities,
    endpoint: String,
}

impl<D: Driver> Node<D> {
    /// Attaches to the broker, and fails when that does not work at the first try (rule R6).
    ///
    /// # Errors
    /// [`ConnectError`] names the address and the reason. `Unsupported`, before anything is opened, when the driver
    /// does not declare what the options [require](NodeOptions::require).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect(driver: D, options: NodeOptions) -> Result<Self, ConnectError> {
        let endpoint = driver.endpoint();
        let (first, attached) = oneshot::channel();
        let node = Self::start(driver, options, Some(first))
            .map_err(|error| ConnectError::of_option(&endpoint, error))?;
        match attached.await {
            Ok(Ok(())) => Ok(node),
            Ok(Err(error)) => {
                node.close().await;
                Err(error)
            }
            // The supervisor answers before it ends, unless the runtime ends it.
            Err(_) => Err(ConnectError::new(
                ConnectErrorKind::Unreachable,
                endpoint,
                None,
            )),
        }
    }

    /// Returns at once a node that attaches when the broker appears (rule R6).
    ///
    /// # Errors
    /// [`InvalidOption`] when an option has an impossible value, or requires what the driver does not declare.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect_lazy(driver: D, options: NodeOptions) -> Result<Self, InvalidOption> {
        Self::start(driver, options, None)
    }

    /// Does what [`Backplane::publish`] does, without an allocation for its future. That future is not `Unpin`: pin it to
    /// poll it by hand.
    ///
    /// # Errors
    /// Those of [`Backplane::publish`]: what is `NotSent` will never be delivered, and what is `Unknown` may be.
    ///
    /// # Cancel safety
    /// That of [`Backplane::publish`].
    pub async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<(), PublishError> {
        let outcome = match publisher::enter(&self.core, || self.core.lane(channel), payload) {
            Entered::Done(outcome) => outcome,
            entered => entered.await,
        };
        tokio::task::consume_budget().await;
        outcome.map_err(|failure| failure.into_error(channel))
    }

    /// What publishes to one channel: for a channel that gets many messages, as it need not be looked up for each.
    ///
    /// What the node knows of the channel stays in memory until the publisher is dropped. It does not keep the node open.
    #[must_use]
    pub fn publisher(&self, channel: Channel) -> Publisher<D> {
        Publisher::new(&self.core, channel)
    }

    fn start(
        driver: D,
        options: NodeOptions,
        first: Option<FirstResult>,
    ) -> Result<Self, InvalidOption> {
        let capabilities = driver.capabilities();
        options.validate_for(&capabilities)?;
        let capabilities = options.lowered(capabilities);
        let state = StateCell::new(ConnectionState::Connecting { attempt: 1 });
        let endpoint = driver.endpoint();
        let limits = Limits {
            messages: options.max_batch_messages,
            bytes: options.max_batch_bytes.min(capabilities.max_payload),
            payload: capabilities.max_payload,
        };
        let core = Arc::new(Core::new(
            options,
            limits,
            state,
            runtime::Handle::current(),
        ));
        let supervisor = Supervisor::new(Arc::clone(&core), driver, first);
        let clock = Arc::clone(&core);
        core.tasks.spawn(async move {
            // As long as the supervisor works, those that wait for the broker hear of time.
            tokio::select! {
                () = supervisor.run() => {}
                () = clock.patience.run(clock.options.publish_timeout / 2) => {}
            }
        });
        core.tasks.close();
        Ok(Self {
            core,
            capabilities,
            endpoint,
        })
    }
}

#[async_trait]
impl<D: Driver> Backplane for Node<D> {
    fn node_id(&self) -> NodeId {
        self.core.router.node_id()
    }

    fn prefix(&self) -> &Prefix {
        self.core.router.prefix()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn publish(&self, channel: &Channel, payload: Bytes) -> Result<(), PublishError> {
        Self::publish(self, channel, payload).await
    }

    async fn publish_many(
        &self,
        channel: &Channel,
        payloads: Vec<Bytes>,
    ) -> Result<(), PublishManyError> {
        let lane = || self.core.lane(channel);
        publisher::publish_many(&self.core, lane, channel, payloads).await
    }

    async fn subscribe(&self, request: Subscribe) -> Result<Subscription, SubscribeError> {
        let capacity = request
            .queue_capacity()
            .unwrap_or(self.core.options.queue_capacity);
        let max_bytes = request
            .queue_bytes()
            .unwrap_or(self.core.options.queue_bytes);
        let without_own = request.is_without_own();
        let Some((id, queue)) = self.core.router.open(capacity, max_bytes, without_own) else {
            return Err(SubscribeError::new(SubscribeErrorKind::Closed, None));
        };
        let control = Arc::new(Control {
            router: Arc::clone(&self.core.router),
            id,
            within: self.core.options.subscribe_timeout,
        });
        // From here on, dropping the subscription takes everything back (rule S7).
        let subscription = Subscription::new(queue, Arc::clone(&control) as _);
        control
            .subscribe(request.channels().to_vec(), request.is_deferred())
            .await?;
        Ok(subscription)
    }

    fn state(&self) -> ConnectionState {
        self.core.state.current()
    }

    fn watch(&self) -> StateWatch {
        self.core.state.watch()
    }

    fn events(&self) -> Events {
        self.core.state.events()
    }

    async fn health(&self) -> Result<(), HealthError> {
        if self.core.is_closed() {
            return Err(HealthError::new(HealthErrorKind::Closed, None));
        }
        let attached = self
            .core
            .attached()
            .filter(|attached| !attached.fate.is_ended());
        let Some(attached) = attached else {
            return Err(HealthError::new(HealthErrorKind::Unavailable, None));
        };
        let probe = probe::probe(&self.core.router, attached.fate.id(), &*attached.link);
        tokio::select! {
            biased;
            probed = timeout(self.core.options.heartbeat_timeout, probe) => match probed {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    Err(HealthError::new(HealthErrorKind::Unhealthy, Some(error.into())))
                }
                Err(_) => Err(HealthError::new(HealthErrorKind::Unhealthy, None)),
            },
            () = attached.fate.ended() => {
                Err(HealthError::new(HealthErrorKind::Unavailable, None))
            }
        }
    }

    fn stats(&self) -> Stats {
        self.core.router.stats(self.core.lanes.published())
    }

    async fn close(&self) {
        self.core.set_closed();
        self.core.tasks.wait().await;
    }
}

impl<D: Driver> Drop for Node<D> {
    fn drop(&mut self) {
        self.core.set_closed();
    }
}

impl<D: Driver> fmt::Debug for Node<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.node_id())
            .field("prefix", self.prefix())
            .field("endpoint", &self.endpoint)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// What a [`Subscription`] holds of the engine.
struct Control {
    router: Arc<Router>,
    id: SubscriptionId,
    within: std::time::Duration,
}

#[async_trait]
impl SubscriptionControl for Control {
    async fn subscribe(
        &self,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let failed = |kind| SubscribeError::new(kind, None);
        let until = Instant::now() + self.within;
        loop {
            let (claim, done) = match self.router.claim(self.id, &channels, deferred) {
                Ok(Claimed::InForce) => return Ok(Subscribed::InForce),
                Ok(Claimed::Deferred) => return Ok(Subscribed::Deferred),
                Ok(Claimed::Waiting(claim, done)) => (claim, done),
                Err(kind) => return Err(failed(kind)),
            };
            match timeout_at(until, done).await {
                Ok(Ok(Ok(()))) => {
                    claim.confirm();
                    return Ok(Subscribed::InForce);
                }
                // The outage began meanwhile.
                Ok(Ok(Err(SubscribeErrorKind::Unavailable))) if deferred => {}
                Ok(Ok(Err(kind))) => return Err(failed(kind)),
                Ok(Err(_)) => return Err(failed(SubscribeErrorKind::Closed)),
                Err(_) => return Err(failed(SubscribeErrorKind::Timeout)),
            }
        }
    }

    fn unsubscribe(&self, channels: &[Channel]) {
        self.router.leave(self.id, channels);
    }

    fn channels(&self) -> Vec<Channel> {
        self.router.channels(self.id)
    }

    fn is_deferred(&self) -> bool {
        self.router.is_deferred(self.id)
    }

    fn close(&self) {
        self.router.remove(self.id);
    }
}
