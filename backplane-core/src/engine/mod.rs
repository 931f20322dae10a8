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
mod router;
mod supervisor;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use self::core::Core;
pub(crate) use self::fate::LinkFate;
use self::lane::{Entered, Limits, Payloads};
use self::outcome::Failure;
pub(crate) use self::router::{ById, Route, Router};
use self::router::{Claimed, SubscriptionId};
use self::supervisor::{FirstResult, Supervisor};
use crate::backplane::Backplane;
use crate::capability::Capabilities;
use crate::driver::Driver;
use crate::error::{
    ConnectError, ConnectErrorKind, HealthError, HealthErrorKind, InvalidOption, NotSent,
    PublishError, SubscribeError, SubscribeErrorKind,
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
        let outcome = match self.enter(channel, payload) {
            Ok(Entered::Done(outcome)) => outcome,
            Ok(entered) => entered.await,
            Err(refused) => {
                self.core.counters.not_sent.add(1);
                Err(Failure::not_sent(refused, None))
            }
        };
        // A backend that never makes anyone wait must not starve the other tasks of a publishing loop.
        tokio::task::consume_budget().await;
        outcome.map_err(|failure| failure.into_error(channel))
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

    /// Lets a message enter its lane, unless it can be refused at once.
    fn enter(&self, channel: &Channel, payload: Bytes) -> Result<Entered<D::Link>, NotSent> {
        if self.core.is_closed() {
            return Err(NotSent::Closed);
        }
        self.check_size(&payload)?;
        lane::enter(&self.core, channel, Payloads::One(payload), None)
    }

    fn check_size(&self, payload: &Bytes) -> Result<(), NotSent> {
        let (size, limit) = (payload.len(), self.capabilities.max_payload);
        match size > limit {
            true => Err(NotSent::TooLarge { size, limit }),
            false => Ok(()),
        }
    }

    /// Lets messages enter their lane in parts that leave in one frame each.
    fn enter_many(
        &self,
        channel: &Channel,
        payloads: Vec<Bytes>,
    ) -> VecDeque<(Range<usize>, Part<D>)> {
        if self.core.is_closed() {
            let all = 0..payloads.len();
            return VecDeque::from([(all, Err(NotSent::Closed))]);
        }
        let mut parts = VecDeque::new();
        let mut payloads = payloads.into_iter();
        let mut at = 0;
        let mut is_full = false;
        while let Some(first) = payloads.as_slice().first() {
            if let Err(too_large) = self.check_size(first) {
                payloads.next();
                parts.push_back((at..at + 1, Err(too_large)));
                at += 1;
                continue;
            }
            let len = self.part_len(payloads.as_slice());
            let room = match is_full {
                true => None,
                false => self.core.room_for_some(&payloads.as_slice()[..len]),
            };
            // What comes after one that found no room must not overtake it.
            let Some(room) = room else {
                is_full = true;
                payloads.by_ref().take(len).for_each(drop);
                parts.push_back((at..at + len, Err(NotSent::Overloaded)));
                at += len;
                continue;
            };
            let len = room.messages();
            let part = payloads.by_ref().take(len).collect();
            let part = Payloads::Many(part);
            parts.push_back((
                at..at + len,
                lane::enter(&self.core, channel, part, Some(room)),
            ));
            at += len;
        }
        parts
    }

    /// How many of these, which are not too large, leave in one frame. At least one.
    fn part_len(&self, payloads: &[Bytes]) -> usize {
        let limits = self.core.limits;
        let mut bytes = 0;
        let fits = |payload: &&Bytes| {
            bytes += payload.len();
            bytes <= limits.bytes && self.check_size(payload).is_ok()
        };
        let some = payloads.iter().take(limits.messages);
        some.take_while(fits).count().max(1)
    }
}

/// Messages in a row that have entered their lane, or why they have not.
type Part<D> = Result<Entered<<D as Driver>::Link>, NotSent>;

/// The parts of a call. Dropped, it gives the last ones up first, so that what leaves the node all the same are the
/// first ones.
struct Parts<D: Driver>(VecDeque<(Range<usize>, Part<D>)>);

impl<D: Driver> Drop for Parts<D> {
    fn drop(&mut self) {
        while self.0.pop_back().is_some() {}
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
        let total = payloads.len();
        let mut failures = Vec::new();
        let mut parts = Parts::<D>(self.enter_many(channel, payloads));
        while let Some((range, part)) = parts.0.front_mut() {
            let outcome = match part {
                Ok(entered) => entered.await,
                Err(refused) => {
                    self.core.counters.not_sent.add(range.len() as u64);
                    Err(Failure::not_sent(*refused, None))
                }
            };
            failures.extend(
                outcome
                    .err()
                    .map(|f| (range.clone(), f.into_error(channel))),
            );
            parts.0.pop_front();
        }
        tokio::task::consume_budget().await;
        PublishManyError::of(total, failures)
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
