//! Wrong by a short cut: a table that is too small, a variable of the process, a list that is not looked at to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::{
    Channel, Message, PublishError, SubscribeError, Subscribed, Subscription, SubscriptionHandle,
};
use bytes::Bytes;

use super::crossed::matching;
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, lock};
use super::pump::{Control, Out, Parts, Pump, Straight};
use super::requests::KeptIfAdded;
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "channels-are-slots",
        "D5",
        "of 600 channels",
        "a channel is known by its slot of 16384, and two of them may have the same",
        || matching(|held, sent| held.0 == sent.0 && slot(held.1) == slot(sent.1)),
    ),
    mutant!(
        "an-added-channel-begins-with-its-last-message",
        "D6",
        r#"expected message "added 0", got message"#,
        "what is retained is delivered to who adds a channel",
        || {
            let retained = Retained::default();
            Wrong::new().nodes(move |_| RetainsForHandles(Arc::clone(&retained)))
        },
    ),
    mutant!(
        "one-channel-that-is-held-stands-for-all",
        "S6",
        "did not arrive",
        "who adds a channel that is there is answered at once, whatever else was to be added",
        || Wrong::new().controls(|| OneForAll),
    ),
    mutant!(
        "what-was-added-outlives-a-drop-in-an-outage",
        "R4",
        "came back with the reconnection",
        "a drop in an outage takes back what the subscription began with",
        || Wrong::new().nodes(|_| KeptInAnOutage(Arc::default())),
    ),
    mutant!(
        "the-prefix-is-that-of-the-last-caller",
        "I5",
        "round 0: ",
        "the node that publishes is a variable of the process, and two may publish at once",
        || {
            let last = Arc::new(Mutex::new(None));
            Wrong::new().nodes(move |_| LastCaller(Arc::clone(&last)))
        },
    ),
];

/// As the cluster of Redis has it, in spirit.
fn slot(name: &str) -> u16 {
    let mixed = name.bytes().fold(0_u32, |sum, byte| {
        (sum.rotate_left(5) ^ u32::from(byte)).wrapping_mul(0x9e37_79b9)
    });
    u16::try_from(mixed >> 18).unwrap_or_default()
}

/// The last message of each channel; the mutant is used in one prefix.
type Retained = Arc<Mutex<HashMap<Channel, Message>>>;

struct RetainsForHandles(Retained);

#[async_trait]
impl NodeTwist for RetainsForHandles {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let message = Message::new(channel.clone(), payload.clone(), node.node_id());
        node.publish(channel, payload).await?;
        lock(&self.0).insert(channel.clone(), message);
        Ok(())
    }

    fn parts(&self, _node: &Inner, _tap: &Tap) -> Option<Parts> {
        let out = Arc::new(Mutex::new(None));
        let control = DeliversTheLast {
            retained: Arc::clone(&self.0),
            out: Arc::clone(&out),
        };
        Some(Parts::new(Lends(out), control))
    }
}

/// Lends the reader's queue to the handle.
struct Lends(Arc<Mutex<Option<Out>>>);

impl Pump for Lends {
    fn begin(&mut self, out: &Out) {
        *lock(&self.0) = Some(out.clone());
    }
}

struct DeliversTheLast {
    retained: Retained,
    out: Arc<Mutex<Option<Out>>>,
}

#[async_trait]
impl Control for DeliversTheLast {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let subscribed = Straight
            .subscribe(below, channels.clone(), deferred)
            .await?;
        let retained = lock(&self.retained);
        if let Some(out) = &*lock(&self.out) {
            let last = channels.iter().filter_map(|channel| retained.get(channel));
            last.for_each(|message| out.message(message.clone()));
        }
        Ok(subscribed)
    }
}

struct OneForAll;

#[async_trait]
impl Control for OneForAll {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let held = below.channels();
        if channels.iter().any(|channel| held.contains(channel)) {
            return Ok(Subscribed::InForce);
        }
        Straight.subscribe(below, channels, deferred).await
    }
}

struct KeptInAnOutage(Arc<Mutex<Vec<Subscription>>>);

impl NodeTwist for KeptInAnOutage {
    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let first = tap.request.channels().to_vec();
        let kept = KeptIfAdded::new(first, Arc::clone(&self.0));
        let watch = tap.watch.clone();
        Some(Parts::control(
            kept.only(move || !watch.current().is_connected()),
        ))
    }
}

/// The node that publishes now, and how many messages are on their way.
type Publishing = Arc<Mutex<Option<(Inner, usize)>>>;

struct LastCaller(Publishing);

/// A message that is on its way by a node.
struct OnItsWay {
    publishing: Publishing,
    by: Inner,
}

impl OnItsWay {
    fn begin(publishing: &Publishing, own: &Inner) -> Self {
        let mut now = lock(publishing);
        let (by, count) = now.get_or_insert_with(|| (Arc::clone(own), 0));
        *count += 1;
        Self {
            publishing: Arc::clone(publishing),
            by: Arc::clone(by),
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut now = lock(&self.publishing);
        let last = now.as_mut().is_none_or(|(_, count)| {
            *count -= 1;
            *count == 0
        });
        if last {
            *now = None;
        }
    }
}

#[async_trait]
impl NodeTwist for LastCaller {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let on_its_way = OnItsWay::begin(&self.0, node);
        // That of the same prefix would do as well, and tell another publisher.
        let by = match on_its_way.by.prefix() == node.prefix() {
            true => Arc::clone(node),
            false => Arc::clone(&on_its_way.by),
        };
        let published = by.publish(channel, payload).await;
        // It takes a while until that is known.
        tokio::task::yield_now().await;
        published
    }
}
