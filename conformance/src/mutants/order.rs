//! Wrong at O: order.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Link, LinkPublishError};
use backplane_core::{Channel, Delivery, Message, PublishError};
use bytes::{BufMut, Bytes, BytesMut};

use super::driver::{Line, LinkTwist};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist};
use super::pump::{Out, Pump};
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
        || Wrong::new().links(|| ReversesBatches),
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
struct ReversesBatches;

#[async_trait]
impl LinkTwist for ReversesBatches {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        tokio::task::yield_now().await;
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
