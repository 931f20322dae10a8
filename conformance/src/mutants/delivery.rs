//! Wrong at D: delivery.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Frame, Link, LinkError, LinkErrorKind, LinkPublishError,
};
use backplane_core::{
    Channel, Message, NotSent, PublishError, PublishErrorKind, Subscribe, SubscribeError,
    Subscribed, Subscription, SubscriptionHandle,
};
use bytes::Bytes;

use super::crossed::{glob, matching};
use super::driver::{Line, LinkTwist, is_probe};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Wish, lock};
use super::pump::{Control, OnMessage, Out, Parts, Pump, Side, Straight};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "delivers-twice",
        "D1",
        "arrived 2 times",
        "every message is delivered twice (phoenix_pubsub_redis #26)",
        || Wrong::new().on_message(|message, out| {
            out.message(message.clone());
            out.message(message);
        }),
    ),
    mutant!(
        "never-delivers-to-its-own-node",
        "D1",
        "the sentinel did not arrive",
        "a node takes every own message for an echo (phoenix_pubsub_redis PR #50)",
        || Wrong::new().nodes(|_| Asks(Subscribe::without_own)),
    ),
    mutant!(
        "ignores-without-own",
        "D1",
        "messages arrived that nobody sent",
        "own messages are delivered to who does not want them (channels: echo not filtered)",
        || Wrong::new().nodes(|_| Asks(|request| {
            Wish {
                without_own: false,
                ..Wish::of(&request)
            }
            .request()
        })),
    ),
    mutant!(
        "one-subscription-per-channel-and-node",
        "D1",
        "the sentinel did not arrive",
        "a second subscription of a channel on a node takes the place of the first",
        || Wrong::new().nodes(|_| TakesThePlace::default()),
    ),
    mutant!(
        "takes-payloads-for-text",
        "D2",
        "expected message of 1 bytes, got message",
        "payloads pass through a lossy conversion to UTF-8",
        || Wrong::new().on_message(|message, out| {
            let text = String::from_utf8_lossy(message.payload()).into_owned();
            out.message(with_payload(&message, text));
        }),
    ),
    mutant!(
        "cuts-payloads-at-nul",
        "D2",
        r#"expected message "\0", got message """#,
        "payloads are handled as C strings",
        || Wrong::new().on_message(|message, out| {
            let text: Vec<u8> = message
                .payload()
                .iter()
                .copied()
                .take_while(|b| *b != 0)
                .collect();
            out.message(with_payload(&message, text));
        }),
    ),
    mutant!(
        "drops-empty-payloads",
        "D2",
        r#"expected message "", got message "x""#,
        "an empty payload counts as no message",
        || Wrong::new().on_message(|message, out| {
            if !message.payload().is_empty() {
                out.message(message);
            }
        }),
    ),
    mutant!(
        "cuts-payloads-at-64-kib",
        "D2",
        "expected message of 70000 bytes, got message of 65535 bytes",
        "a length is kept in 16 bits",
        || Wrong::new().on_message(|message, out| {
            let len = message.payload().len().min(usize::from(u16::MAX));
            out.message(with_payload(&message, message.payload().slice(..len)));
        }),
    ),
    mutant!(
        "refuses-the-largest-payload",
        "D2",
        "publish failed",
        "the limit itself is over the limit",
        || Wrong::new().nodes(|_| Oversize::FromLimit),
    ),
    mutant!(
        "fails-where-nobody-subscribes",
        "D3",
        "publish failed",
        "a message without receivers is an error, as with a mandatory flag",
        || {
            let subscribed = Arc::new(Mutex::new(HashSet::new()));
            Wrong::new().links(move || NeedsReceivers(Arc::clone(&subscribed)))
        },
    ),
    mutant!(
        "cuts-oversize-payloads",
        "D4",
        "bytes was accepted",
        "a payload over the limit is cut and accepted",
        || Wrong::new().nodes(|_| Oversize::Cut),
    ),
    mutant!(
        "calls-oversize-unavailable",
        "D4",
        "got NotSent(Unavailable)",
        "a payload over the limit is refused as if the broker were away",
        || Wrong::new().nodes(|_| Oversize::Unavailable),
    ),
    mutant!(
        "sends-before-it-refuses",
        "D4",
        r#"expected message "after", got message of"#,
        "a payload over the limit is refused when its first part has left",
        || Wrong::new().nodes(|_| Oversize::SentFirst),
    ),
    mutant!(
        "ignores-case-of-channels",
        "D5",
        r#"channel "a" should get only"#,
        "channel names are compared in lower case",
        || matching(|held, sent| held.0 == sent.0 && held.1.to_lowercase() == sent.1.to_lowercase()),
    ),
    mutant!(
        "takes-channels-for-patterns",
        "D5",
        r#"channel "a*" should get only"#,
        "subscribes by pattern",
        || matching(|held, sent| held.0 == sent.0 && glob(held.1, sent.1)),
    ),
    mutant!(
        "takes-channels-for-beginnings",
        "D5",
        r#"channel "a" should get only"#,
        "a subscription gets every channel whose name begins with its own",
        || matching(|held, sent| held.0 == sent.0 && sent.1.starts_with(held.1)),
    ),
    mutant!(
        "trims-channels",
        "D5",
        r#"channel "a" should get only"#,
        "white space around a channel name does not count",
        || matching(|held, sent| held.0 == sent.0 && held.1.trim() == sent.1.trim()),
    ),
    mutant!(
        "names-the-wrong-channel",
        "D5",
        r#"channel "A" got a message named "a""#,
        "a message arrives where it should, and names another channel",
        || Wrong::new().on_message(|message, out| {
            let lower = message.channel().as_str().to_lowercase();
            let named = Channel::new(lower).unwrap_or_else(|_| message.channel().clone());
            out.message(Message::new(
                named,
                message.payload().clone(),
                message.publisher(),
            ));
        }),
    ),
    mutant!(
        "replays-the-last-message",
        "D6",
        r#"expected message "after 0", got message "before 0.19""#,
        "a new subscription begins with the last message, as with a retain flag",
        || {
            let retained = Retains::nothing(1);
            Wrong::new().nodes(move |_| retained.clone())
        },
    ),
];

/// Changes what is asked for when subscribing.
pub(super) struct Asks(pub(super) fn(Subscribe) -> Subscribe);

#[async_trait]
impl NodeTwist for Asks {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        node.subscribe((self.0)(request)).await
    }
}

/// Which subscription of a node has a channel.
#[derive(Clone, Default)]
struct TakesThePlace {
    places: Arc<Mutex<HashMap<Channel, u64>>>,
    subscriptions: Arc<AtomicU64>,
}

impl NodeTwist for TakesThePlace {
    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let places = Arc::clone(&self.places);
        let mine = self.subscriptions.fetch_add(1, Ordering::Relaxed);
        let control = HasPlaces {
            places: Arc::clone(&places),
            mine,
        };
        control.take(tap.request.channels());
        let pump = OnMessage(move |message: Message, out: &Out| {
            let place = lock(&places).get(message.channel()).copied();
            if place.is_none_or(|place| place == mine) {
                out.message(message);
            }
        });
        Some(Parts::new(pump, control))
    }
}

struct HasPlaces {
    places: Arc<Mutex<HashMap<Channel, u64>>>,
    mine: u64,
}

impl HasPlaces {
    fn take(&self, channels: &[Channel]) {
        let mine = channels.iter().map(|channel| (channel.clone(), self.mine));
        lock(&self.places).extend(mine);
    }

    fn give_back(&self, which: impl Fn(&Channel) -> bool) {
        lock(&self.places).retain(|channel, place| *place != self.mine || !which(channel));
    }
}

#[async_trait]
impl Control for HasPlaces {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let subscribed = Straight
            .subscribe(below, channels.clone(), deferred)
            .await?;
        self.take(&channels);
        Ok(subscribed)
    }

    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        self.give_back(|channel| channels.contains(channel));
        Straight.unsubscribe(side, channels);
    }

    fn close(&self, below: Subscription) {
        self.give_back(|_| true);
        drop(below);
    }
}

fn with_payload(message: &Message, payload: impl Into<Bytes>) -> Message {
    Message::new(
        message.channel().clone(),
        payload.into(),
        message.publisher(),
    )
}

/// The channels that anybody was ever subscribed to.
struct NeedsReceivers(Arc<Mutex<HashSet<BrokerChannel>>>);

#[async_trait]
impl LinkTwist for NeedsReceivers {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        let known = lock(&self.0).contains(channel);
        if !known && !is_probe(channel) {
            let error = LinkError::new(LinkErrorKind::Refused, "no receivers");
            return Err(LinkPublishError::NotSent(error));
        }
        line.link.publish(channel, frame).await
    }

    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        lock(&self.0).extend(channels.iter().cloned());
        line.link.subscribe(channels).await
    }
}

/// What is done with a payload over the limit.
enum Oversize {
    Cut,
    FromLimit,
    SentFirst,
    Unavailable,
}

#[async_trait]
impl NodeTwist for Oversize {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let limit = node.capabilities().max_payload;
        if payload.len() == limit && matches!(self, Self::FromLimit) {
            let too_large = NotSent::TooLarge { size: limit, limit };
            return Err(PublishError::not_sent(channel, too_large, None));
        }
        if payload.len() > limit && matches!(self, Self::Cut | Self::SentFirst) {
            node.publish(channel, payload.slice(..limit)).await?;
            if matches!(self, Self::Cut) {
                return Ok(());
            }
        }
        node.publish(channel, payload)
            .await
            .map_err(|error| match (self, error.kind()) {
                (Self::Unavailable, PublishErrorKind::NotSent(NotSent::TooLarge { .. })) => {
                    PublishError::not_sent(channel, NotSent::Unavailable, None)
                }
                _ => error,
            })
    }
}

/// Keeps the last message of each channel, for those who come later; the mutant is used in one prefix.
#[derive(Clone)]
pub(super) struct Retains {
    last: Arc<Mutex<HashMap<Channel, Message>>>,
    times: usize,
}

impl Retains {
    /// Nothing yet; what comes is delivered so many times.
    pub(super) fn nothing(times: usize) -> Self {
        Self {
            last: Arc::default(),
            times,
        }
    }
}

#[async_trait]
impl NodeTwist for Retains {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let message = Message::new(channel.clone(), payload.clone(), node.node_id());
        node.publish(channel, payload).await?;
        lock(&self.last).insert(channel.clone(), message);
        Ok(())
    }

    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let retained = lock(&self.last);
        let last = tap
            .request
            .channels()
            .iter()
            .filter_map(|c| retained.get(c).cloned())
            .flat_map(|message| vec![message; self.times])
            .collect();
        Some(Parts::pump(BeginsWith(last)))
    }
}

struct BeginsWith(Vec<Message>);

impl Pump for BeginsWith {
    fn begin(&mut self, out: &Out) {
        self.0.drain(..).for_each(|message| out.message(message));
    }
}
