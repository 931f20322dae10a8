//! Publishing: from a call to what the caller is told. [`Publisher`] does it for one channel.

use std::borrow::Borrow;
use std::cell::LazyCell;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::core::Core;
use super::lane::{self, Entered, Lane};
use super::outcome::Failure;
use crate::driver::{Driver, Link};
use crate::error::{NotSent, PublishError};
use crate::name::Channel;
use crate::publish_many::PublishManyError;

/// Publishes to one channel of a [`Node`](super::Node), made by [`Node::publisher`](super::Node::publisher).
///
/// Does what the node does, without looking the channel up for each message: what enters first leaves first, whichever
/// of both it is published with. Clones share their channel.
///
/// It does not keep the node open. When that is closed or dropped, everything fails with [`NotSent::Closed`]. Behind
/// `dyn` [`Backplane`](crate::Backplane) there is none: who needs one keeps the [`Node`](super::Node).
///
/// ```
/// # use backplane_core::{Backplane, Channel, NodeOptions, Prefix, Subscribe};
/// # use backplane_memory::MemoryBus;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = MemoryBus::new().connect(NodeOptions::new(Prefix::new("app")?)).await?;
/// let prices = Channel::new("prices")?;
/// let mut subscription = node.subscribe(Subscribe::to([prices.clone()])).await?;
///
/// let publisher = node.publisher(prices);
/// for price in ["1.07", "1.08"] {
///     publisher.publish(price.into()).await?;
/// }
/// # for price in ["1.07", "1.08"] {
/// #     let Some(backplane_core::Delivery::Message(message)) = subscription.recv().await else { panic!() };
/// #     assert_eq!(message.payload(), price);
/// # }
/// # Ok(())
/// # }
/// ```
pub struct Publisher<D: Driver> {
    core: Arc<Core<D::Link>>,
    lane: Arc<Lane<D::Link>>,
    channel: Channel,
}

impl<D: Driver> Publisher<D> {
    pub(super) fn new(core: &Arc<Core<D::Link>>, channel: Channel) -> Self {
        Self {
            lane: core.lane(&channel),
            core: Arc::clone(core),
            channel,
        }
    }

    /// Where it publishes to.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Does what [`Backplane::publish`](crate::Backplane::publish) does. The future is not `Unpin`: pin it to poll it by hand.
    ///
    /// # Errors
    /// Those of [`Backplane::publish`](crate::Backplane::publish): what is `NotSent` will never be delivered, and what is
    /// `Unknown` may be.
    ///
    /// # Cancel safety
    /// That of [`Backplane::publish`](crate::Backplane::publish).
    pub async fn publish(&self, payload: Bytes) -> Result<(), PublishError> {
        let outcome = match enter(&self.core, || &self.lane, payload) {
            Entered::Done(outcome) => outcome,
            entered => entered.await,
        };
        tokio::task::consume_budget().await;
        outcome.map_err(|failure| failure.into_error(&self.channel))
    }

    /// Does what [`Backplane::publish_many`](crate::Backplane::publish_many) does.
    ///
    /// # Errors
    /// Those of [`Backplane::publish_many`](crate::Backplane::publish_many), which name the messages that they are about.
    ///
    /// # Cancel safety
    /// That of [`Backplane::publish_many`](crate::Backplane::publish_many).
    pub async fn publish_many(&self, payloads: Vec<Bytes>) -> Result<(), PublishManyError> {
        publish_many(&self.core, || &self.lane, &self.channel, payloads).await
    }
}

impl<D: Driver> Clone for Publisher<D> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
            lane: Arc::clone(&self.lane),
            channel: self.channel.clone(),
        }
    }
}

impl<D: Driver> fmt::Debug for Publisher<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("node", &self.core.router.node_id())
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

/// Lets a message enter its lane, unless it is refused at once.
///
/// Who calls this gives way afterwards (`consume_budget`), as a backend that never makes anyone wait must not starve the
/// other tasks of a publishing loop. That is not done here: a future within theirs would be copied for each message.
pub(super) fn enter<L: Link, P: Borrow<Arc<Lane<L>>>>(
    core: &Arc<Core<L>>,
    lane: impl FnOnce() -> P,
    payload: Bytes,
) -> Entered<L> {
    let entered = match core.admit(&payload) {
        Ok(()) => lane::enter(core, lane().borrow(), payload),
        Err(refused) => Err(refused),
    };
    entered.unwrap_or_else(|refused| {
        core.counters.not_sent.add(1);
        Entered::Done(Err(Failure::not_sent(refused, None)))
    })
}

/// Publishes messages to one channel, in order.
pub(super) async fn publish_many<L: Link, P: Borrow<Arc<Lane<L>>>>(
    core: &Arc<Core<L>>,
    lane: impl FnOnce() -> P,
    channel: &Channel,
    payloads: Vec<Bytes>,
) -> Result<(), PublishManyError> {
    let total = payloads.len();
    let mut failures = Vec::new();
    let mut parts = Parts(enter_many(core, lane, payloads));
    while let Some((range, part)) = parts.0.front_mut() {
        let outcome = match part {
            Ok(entered) => entered.await,
            Err(refused) => {
                core.counters.not_sent.add(range.len() as u64);
                Err(Failure::not_sent(*refused, None))
            }
        };
        let failure = outcome.err();
        failures.extend(failure.map(|f| (range.clone(), f.into_error(channel))));
        parts.0.pop_front();
    }
    tokio::task::consume_budget().await;
    PublishManyError::of(total, failures)
}

/// Messages in a row that have entered their lane, or why they have not.
type Part<L> = (Range<usize>, Result<Entered<L>, NotSent>);

/// The parts of a call. Dropped, it gives the last ones up first, so that what leaves the node all the same are the
/// first ones.
struct Parts<L: Link>(VecDeque<Part<L>>);

impl<L: Link> Drop for Parts<L> {
    fn drop(&mut self) {
        while self.0.pop_back().is_some() {}
    }
}

/// Lets messages enter their lane in parts that leave in one frame each.
fn enter_many<L: Link, P: Borrow<Arc<Lane<L>>>>(
    core: &Arc<Core<L>>,
    lane: impl FnOnce() -> P,
    payloads: Vec<Bytes>,
) -> VecDeque<Part<L>> {
    if core.is_closed() {
        let all = 0..payloads.len();
        return VecDeque::from([(all, Err(NotSent::Closed))]);
    }
    let mut parts = VecDeque::new();
    let mut payloads = payloads.into_iter();
    // Those that are all refused need none.
    let lane = LazyCell::new(lane);
    let mut at = 0;
    let mut is_full = false;
    while let Some(first) = payloads.as_slice().first() {
        if let Err(too_large) = core.limits.check(first) {
            payloads.next();
            parts.push_back((at..at + 1, Err(too_large)));
            at += 1;
            continue;
        }
        let len = core.limits.first_of(payloads.as_slice());
        let room = match is_full {
            true => None,
            false => core.room_for_some(&payloads.as_slice()[..len]),
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
        let entered = lane::enter_with(core, (*lane).borrow(), part, room);
        parts.push_back((at..at + len, entered));
        at += len;
    }
    parts
}
