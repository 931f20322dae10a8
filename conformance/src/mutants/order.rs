//! Wrong at O: order.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use backplane_core::{Channel, Delivery, Message, PublishError};
use bytes::Bytes;

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
