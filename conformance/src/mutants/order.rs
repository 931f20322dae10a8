//! Wrong at O: order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Link, LinkPublishError};
use backplane_core::{
    Channel, Delivery, Message, PublishError, Subscribe, SubscribeError, Subscription,
};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::driver::{Line, LinkTwist, is_probe};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Tasks, lock};
use super::pump::{Out, Parts, Pump};
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
        || Wrong::new().links(Ways::default),
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

#[async_trait]
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

/// A way of its own for each channel, some longer than others. A frame counts as accepted when it is on its way.
#[derive(Default)]
struct Ways {
    of: Mutex<HashMap<BrokerChannel, mpsc::Sender<Frame>>>,
    tasks: Tasks,
}

impl Ways {
    fn of(&self, line: &Line, channel: &BrokerChannel) -> mpsc::Sender<Frame> {
        let mut ways = lock(&self.of);
        let way = ways.entry(channel.clone()).or_insert_with(|| {
            let (way, mut frames) = mpsc::channel::<Frame>(1024);
            let (link, channel) = (Arc::clone(&line.link), channel.clone());
            self.tasks.spawn(async move {
                while let Some(frame) = frames.recv().await {
                    for _ in 0..channel.as_str().len() % 5 * 10 {
                        tokio::task::yield_now().await;
                    }
                    let _ = link.publish(&channel, &frame).await;
                }
            });
            way
        });
        way.clone()
    }
}

#[async_trait]
impl LinkTwist for Ways {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        if is_probe(channel) {
            return line.link.publish(channel, frame).await;
        }
        let way = self.of(line, channel);
        // It ends with the node only.
        let _ = way.send(frame.clone()).await;
        Ok(())
    }
}

/// The channels that each subscription of a node has, and its queue.
type Outs = Arc<Mutex<Vec<(Vec<Channel>, Out)>>>;

/// Delivers what the node publishes before the broker has it, and not again after.
#[derive(Default)]
struct ShortCut(Outs);

#[async_trait]
impl NodeTwist for ShortCut {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        for (channels, out) in lock(&self.0).iter() {
            if channels.contains(channel) {
                let message = Message::new(channel.clone(), payload.clone(), node.node_id());
                out.message(message);
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
        // Who leaves out own messages gets none this way either.
        let channels = match tap.request.is_without_own() {
            true => Vec::new(),
            false => tap.request.channels().to_vec(),
        };
        Some(Parts::pump(TakesShortCut {
            outs: Arc::clone(&self.0),
            channels,
        }))
    }
}

struct TakesShortCut {
    outs: Outs,
    channels: Vec<Channel>,
}

#[async_trait]
impl Pump for TakesShortCut {
    fn begin(&mut self, out: &Out) {
        lock(&self.outs).push((self.channels.clone(), out.clone()));
    }
}
