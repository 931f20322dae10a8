//! Wrong at O: order.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Link, LinkPublishError};
use backplane_core::{
    Channel, Delivery, Message, PublishError, Stats, Subscribe, SubscribeError, Subscribed,
    Subscription, SubscriptionHandle,
};
use bytes::{BufMut, Bytes, BytesMut};

use super::driver::{Line, LinkTwist};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Tasks, lock};
use super::pump::{Control, Out, Parts, Pump, Side, Straight};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "swaps-neighbours",
        "O1",
        r#"expected message "0", got message "1""#,
        "two workers take the messages of a channel in turn (channels_redis #89)",
        || Wrong::new().pumps(|| Swaps(None)),
    ),
    mutant!(
        "every-second-publish-starts-late",
        "O2",
        r#"expected message "0", got message "1""#,
        "publishes are handed over to a task now and then (dapr/components-contrib #277)",
        || Wrong::new().nodes(|_| StartsLate(AtomicBool::new(false))),
    ),
    mutant!(
        "reverses-batches",
        "O2",
        r#"expected message "1", got message"#,
        "messages that left together arrive last in, first out",
        || Wrong::new().links(|| ReversesBatches { from: 1 }),
    ),
    mutant!(
        "reverses-batches-after-an-outage",
        "O2",
        r#"expected message "1", got message"#,
        "the connection that takes the place of a lost one sends what has collected from its end",
        || Wrong::new().links(|| ReversesBatches { from: 2 }),
    ),
    mutant!(
        "every-channel-has-a-connection",
        "O3",
        "was expected next of its publisher",
        "messages of different channels go different ways, and some are slower",
        || Wrong::new().parts(|_| {
            let ways = Ways::default();
            let control = LeavesTheWay(ways.late.clone());
            Parts::new(ways, control)
        }),
    ),
    mutant!(
        "own-messages-take-a-short-cut",
        "O4",
        "of subscription 0 is",
        "a node delivers its own messages at once, and those of others when the broker does",
        || Wrong::new().nodes(|_| ShortCut::default()),
    ),
];

/// Holds the first of two messages until the second is there.
struct Swaps(Option<Message>);

impl Pump for Swaps {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match (self.0.take(), delivery) {
            (None, Delivery::Message(first)) => self.0 = Some(first),
            (Some(first), Delivery::Message(second)) => {
                out.message(second);
                out.message(first);
            }
            (held, Delivery::Gap(gap)) => {
                self.0 = held;
                out.gap(gap);
            }
        }
    }
}

struct StartsLate(AtomicBool);

#[async_trait]
impl NodeTwist for StartsLate {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if self.0.fetch_xor(true, Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        node.publish(channel, payload).await
    }
}

/// Takes its time, so that messages collect, and turns round what has collected.
struct ReversesBatches {
    /// The first link that does so.
    from: u64,
}

#[async_trait]
impl LinkTwist for ReversesBatches {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        tokio::task::yield_now().await;
        if line.number < self.from {
            return line.link.publish(channel, frame).await;
        }
        line.link
            .publish(channel, &reversed(frame).unwrap_or_else(|| frame.clone()))
            .await
    }
}

/// The same frame with its messages in the other order. Payloads of 128 bytes and more are not needed here.
fn reversed(frame: &Frame) -> Option<Frame> {
    let payloads: Vec<_> = frame.payloads().collect();
    let body: usize = payloads.iter().map(|payload| 1 + payload.len()).sum();
    let encoded = frame.encode();
    let mut turned = BytesMut::new();
    turned.put_slice(encoded.get(..encoded.len().checked_sub(body)?)?);
    for payload in payloads.iter().rev() {
        turned.put_u8(u8::try_from(payload.len()).ok().filter(|len| *len < 128)?);
        turned.put_slice(payload);
    }
    Frame::decode(&turned.freeze()).ok()
}

/// What came on a way that is longer than others, and is not there yet. Channels with names of an odd length have one.
#[derive(Clone, Default)]
struct OnTheWay(Arc<Mutex<Vec<Message>>>);

impl OnTheWay {
    fn arrive(&self, out: &Out) {
        let arrived = std::mem::take(&mut *lock(&self.0));
        arrived.into_iter().for_each(|message| out.message(message));
    }
}

/// Lets what comes on a short way overtake what is on a longer one. What nothing follows is not late for long.
#[derive(Default)]
struct Ways {
    late: OnTheWay,
    tasks: Tasks,
}

impl Pump for Ways {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) if message.channel().as_str().len() % 2 == 1 => {
                lock(&self.late.0).push(message);
                let (late, out) = (self.late.clone(), out.clone());
                self.tasks.spawn(async move {
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                    late.arrive(&out);
                });
            }
            Delivery::Message(message) => {
                out.message(message);
                self.late.arrive(out);
            }
            Delivery::Gap(gap) => {
                self.late.arrive(out);
                out.gap(gap);
            }
        }
    }

    fn on_end(&mut self, out: &Out) {
        self.late.arrive(out);
        out.end();
    }
}

/// Leaves what is on its way where it is left, too.
struct LeavesTheWay(OnTheWay);

impl Control for LeavesTheWay {
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        lock(&self.0.0).retain(|message| !channels.contains(message.channel()));
        Straight.unsubscribe(side, channels);
    }
}

/// The subscriptions of a node that want own messages: their channels, and their queues.
type Outs = Arc<Mutex<Vec<Arc<WantsOwn>>>>;

#[derive(Default)]
struct WantsOwn {
    channels: Mutex<Vec<Channel>>,
    out: Mutex<Option<Out>>,
}

/// Delivers what the node publishes before the broker has it, and not again after.
#[derive(Default)]
struct ShortCut {
    outs: Outs,
    delivered: AtomicU64,
}

#[async_trait]
impl NodeTwist for ShortCut {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let fits = payload.len() <= node.capabilities().max_payload;
        if fits && node.state().is_connected() {
            for wants in lock(&self.outs).iter() {
                let message = Message::new(channel.clone(), payload.clone(), node.node_id());
                if let (true, Some(out)) =
                    (lock(&wants.channels).contains(channel), &*lock(&wants.out))
                {
                    out.message(message);
                    self.delivered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        node.publish(channel, payload).await
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        node.subscribe(request.without_own()).await
    }

    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let wants = Arc::new(WantsOwn::default());
        // Who leaves out own messages gets none this way either.
        if !tap.request.is_without_own() {
            lock(&wants.channels).extend(tap.request.channels().iter().cloned());
            lock(&self.outs).push(Arc::clone(&wants));
        }
        let control = TakesShortCut {
            outs: Arc::clone(&self.outs),
            wants: Arc::clone(&wants),
        };
        Some(Parts::new(Lends(wants), control))
    }

    fn stats(&self, mut stats: Stats) -> Stats {
        stats.delivered += self.delivered.load(Ordering::Relaxed);
        stats
    }
}

/// Lends the reader's queue to those who publish.
struct Lends(Arc<WantsOwn>);

impl Pump for Lends {
    fn begin(&mut self, out: &Out) {
        *lock(&self.0.out) = Some(out.clone());
    }

    fn on_end(&mut self, out: &Out) {
        *lock(&self.0.out) = None;
        out.end();
    }
}

struct TakesShortCut {
    outs: Outs,
    wants: Arc<WantsOwn>,
}

#[async_trait]
impl Control for TakesShortCut {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let subscribed = Straight
            .subscribe(below, channels.clone(), deferred)
            .await?;
        lock(&self.wants.channels).extend(channels);
        Ok(subscribed)
    }

    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        lock(&self.wants.channels).retain(|channel| !channels.contains(channel));
        Straight.unsubscribe(side, channels);
    }

    fn close(&self, below: Subscription) {
        lock(&self.outs).retain(|other| !Arc::ptr_eq(other, &self.wants));
        drop(below);
    }
}
