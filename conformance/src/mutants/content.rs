//! Wrong for some messages only: what they say, how large they are, or what is sent beside them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Link, LinkPublishError};
use backplane_core::{Channel, Message, NotSent, PublishError};
use bytes::Bytes;

use super::driver::{Line, LinkTwist, is_probe};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Tasks, WithParts};
use super::pump::{OnMessage, Out, Parts};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "equal-messages-are-one",
        "D1",
        r#"expected message "same", got message "no longer the same""#,
        "a message that says what the one before it said is taken for it (NOTIFY of PostgreSQL in a transaction)",
        || Wrong::new().nodes(|_| WithParts(|_: &Tap| {
            let mut last = HashMap::new();
            Parts::pump(OnMessage(move |message: Message, out: &Out| {
                let from = (message.channel().clone(), message.publisher());
                let before = last.insert(from, message.payload().clone());
                if before.as_ref() != Some(message.payload()) {
                    out.message(message);
                }
            }))
        })),
    ),
    mutant!(
        "a-payload-that-says-ping-is-one",
        "D2",
        r#"expected message "ping", got message"#,
        "the heartbeat goes the way of the messages, and what looks like it is it",
        || Wrong::new().on_message(|message, out| {
            if !message.payload().eq_ignore_ascii_case(b"ping") {
                out.message(message);
            }
        }),
    ),
    mutant!(
        "a-full-buffer-is-a-byte-short",
        "D2",
        "expected message of 8192 bytes, got message of 8191 bytes",
        "a payload that just fills the buffer of a read loses its last byte",
        || Wrong::new().on_message(|message, out| {
            let len = message.payload().len();
            let payload = message.payload().slice(..len - usize::from(len == 8192));
            out.message(Message::new(
                message.channel().clone(),
                payload,
                message.publisher(),
            ));
        }),
    ),
    mutant!(
        "an-oversize-payload-fails-those-beside-it",
        "D4",
        "beside an oversize payload failed",
        "a batch is refused as a whole because of one payload that is too large",
        || Wrong::new().nodes(|_| FailsTogether(AtomicU64::new(0))),
    ),
    mutant!(
        "large-messages-take-another-way",
        "O1",
        "expected message of",
        "what is large goes by a way of its own, and what is small overtakes it",
        || Wrong::new().links(LargeGoApart::default),
    ),
];

/// How many oversize payloads there were; who publishes meanwhile fails as they do.
struct FailsTogether(AtomicU64);

#[async_trait]
impl NodeTwist for FailsTogether {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let (size, limit) = (payload.len(), node.capabilities().max_payload);
        if size > limit {
            self.0.fetch_add(1, Ordering::Relaxed);
            return node.publish(channel, payload).await;
        }
        let before = self.0.load(Ordering::Relaxed);
        node.publish(channel, payload).await?;
        // What went in one batch.
        tokio::task::yield_now().await;
        if self.0.load(Ordering::Relaxed) == before {
            return Ok(());
        }
        let too_large = NotSent::TooLarge { size, limit };
        Err(PublishError::not_sent(channel, too_large, None))
    }
}

/// Large frames count as accepted when they are on their way.
#[derive(Default)]
struct LargeGoApart(Tasks);

#[async_trait]
impl LinkTwist for LargeGoApart {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        if is_probe(channel) || frame.encoded_len() < 10_000 {
            return line.link.publish(channel, frame).await;
        }
        let (link, channel, frame) = (Arc::clone(&line.link), channel.clone(), frame.clone());
        self.0.spawn(async move {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let _ = link.publish(&channel, &frame).await;
        });
        Ok(())
    }
}
