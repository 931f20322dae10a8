//! Wrong at R2, R3, R4 and R7: subscriptions in an outage, and after it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Link, LinkError, LinkPublishError};
use backplane_core::{
    Channel, StateWatch, Subscribe, SubscribeError, SubscribeErrorKind, Subscribed, Subscription,
    SubscriptionHandle,
};
use tokio::time::sleep;

use super::driver::{Line, LinkTwist, is_probe};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Tasks, lock};
use super::pump::{Control, Parts, Side, Straight};
use super::reconnection::Repeats;
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "connected-before-subscribed",
        "R2",
        r#"message "end" did not arrive"#,
        "`Connected` is announced while the subscriptions are on their way",
        || Wrong::new().links(|| ResubscribesLate::by(Duration::from_millis(300))),
    ),
    mutant!(
        "connected-a-moment-before-subscribed",
        "R2",
        r#"message "end" did not arrive"#,
        "the same, by no more than a round trip over a long way",
        || Wrong::new().links(|| ResubscribesLate::by(Duration::from_millis(20))),
    ),
    mutant!(
        "registers-again-with-every-reconnect",
        "R2",
        "instead of one message",
        "each reconnect adds a handler: k-fold delivery (node-busmq #48, node-redis-sentinel #31)",
        || Wrong::new().parts(|tap| Parts::pump(Repeats::new(tap))),
    ),
    mutant!(
        "subscribe-waits-for-the-broker",
        "R3",
        "subscribe in the outage did not fail within",
        "subscribing in an outage waits for its end",
        || Wrong::new().nodes(|_| Subscribing::Waits),
    ),
    mutant!(
        "handle-waits-for-the-broker",
        "R3",
        "adding a channel in the outage did not fail within",
        "adding a channel in an outage waits for its end",
        || Wrong::new().parts(|tap| Parts::control(AddsAfter(tap.watch.clone()))),
    ),
    mutant!(
        "subscribe-in-an-outage-times-out",
        "R3",
        "expected Unavailable, got Err(Timeout)",
        "one error for everything",
        || Wrong::new().nodes(|_| Subscribing::TimesOut),
    ),
    mutant!(
        "forgets-unsubscribe-in-an-outage",
        "R4",
        r#""left" came back with the reconnection"#,
        "what is unsubscribed in an outage is subscribed again after it (StackExchange.Redis #273)",
        || Wrong::new().controls(|| ForgetsUnsubscribe),
    ),
    mutant!(
        "forgets-drop-in-an-outage",
        "R4",
        r#""dropped" came back with the reconnection"#,
        "a subscription that is dropped in an outage lives again after it",
        || Wrong::new().nodes(|_| ForgetsDropNode::default()),
    ),
    mutant!(
        "unsubscribes-with-the-reconnect",
        "R4",
        "left and subscribed again delivered 0 times",
        "what is unsubscribed in an outage is remembered, and who comes back meanwhile is not",
        || Wrong::new().controls(UnsubscribesLater::default),
    ),
    mutant!(
        "does-not-resubscribe",
        "R7",
        "on the broker, and it is 0",
        "a reconnect leaves the subscriptions behind (redix #133, channels_redis #20, tornado-redis #74)",
        || Wrong::new().links(Resubscribes::none),
    ),
    mutant!(
        "resubscribes-all-but-one",
        "R7",
        "on the broker, and it is 0",
        "a reconnect forgets one class of channels (centrifuge, shared poll channels)",
        || Wrong::new().links(Resubscribes::all_but_one),
    ),
];

/// Subscribes late on every connection but the first.
struct ResubscribesLate {
    tasks: Tasks,
    by: Duration,
}

impl ResubscribesLate {
    fn by(by: Duration) -> Self {
        Self {
            tasks: Tasks::default(),
            by,
        }
    }
}

#[async_trait]
impl LinkTwist for ResubscribesLate {
    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        if line.number == 1 || channels.iter().any(is_probe) {
            return line.link.subscribe(channels).await;
        }
        let (link, channels, by) = (Arc::clone(&line.link), channels.to_vec(), self.by);
        self.tasks.spawn(async move {
            sleep(by).await;
            let _ = link.subscribe(&channels).await;
        });
        Ok(())
    }
}

enum Subscribing {
    TimesOut,
    Waits,
}

#[async_trait]
impl NodeTwist for Subscribing {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        if matches!(self, Self::Waits) {
            node.watch().connected().await;
        }
        node.subscribe(request)
            .await
            .map_err(|error| match (self, error.kind()) {
                (Self::TimesOut, SubscribeErrorKind::Unavailable) => {
                    SubscribeError::new(SubscribeErrorKind::Timeout, None)
                }
                _ => error,
            })
    }
}

struct AddsAfter(StateWatch);

#[async_trait]
impl Control for AddsAfter {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        if !deferred {
            self.0.clone().connected().await;
        }
        Straight.subscribe(below, channels, deferred).await
    }
}

struct ForgetsUnsubscribe;

#[async_trait]
impl Control for ForgetsUnsubscribe {
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        if side.watch.current().is_connected() {
            side.below.unsubscribe(channels.to_vec());
        }
        side.out.purge(channels);
    }
}

/// Leaves its channels in an outage at once, and once more when it is over.
#[derive(Default)]
struct UnsubscribesLater(Tasks);

#[async_trait]
impl Control for UnsubscribesLater {
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        side.below.unsubscribe(channels.to_vec());
        side.out.purge(channels);
        let mut watch = side.watch.clone();
        if watch.current().is_connected() {
            return;
        }
        let (below, channels) = (side.below.clone(), channels.to_vec());
        self.0.spawn(async move {
            watch.connected().await;
            below.unsubscribe(channels);
        });
    }
}

struct ForgetsDrop {
    watch: StateWatch,
    /// What was dropped in an outage.
    kept: Arc<Mutex<Vec<Subscription>>>,
}

#[async_trait]
impl NodeTwist for ForgetsDropNode {
    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let kept = Arc::clone(&self.0);
        Some(Parts::control(ForgetsDrop {
            watch: tap.watch.clone(),
            kept,
        }))
    }
}

#[derive(Default)]
struct ForgetsDropNode(Arc<Mutex<Vec<Subscription>>>);

#[async_trait]
impl Control for ForgetsDrop {
    fn close(&self, below: Subscription) {
        if !self.watch.current().is_connected() {
            lock(&self.kept).push(below);
        }
    }
}

/// Leaves out channels while a link after the first is being attached, which ends with a probe.
struct Resubscribes {
    keep: fn(usize) -> usize,
    attached: Mutex<u64>,
}

impl Resubscribes {
    fn none() -> Self {
        Self {
            keep: |_| 0,
            attached: Mutex::new(1),
        }
    }

    fn all_but_one() -> Self {
        Self {
            keep: |len| len.saturating_sub(1),
            attached: Mutex::new(1),
        }
    }
}

#[async_trait]
impl LinkTwist for Resubscribes {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        *lock(&self.attached) = line.number;
        line.link.publish(channel, frame).await
    }

    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        let attaching = *lock(&self.attached) < line.number && !channels.iter().any(is_probe);
        if !attaching {
            return line.link.subscribe(channels).await;
        }
        let mut channels = channels.to_vec();
        channels.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        channels.truncate((self.keep)(channels.len()));
        line.link.subscribe(&channels).await
    }
}
