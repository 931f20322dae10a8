//! Wrong at S: subscriptions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Driver, Inbound, Link, LinkError};
use backplane_core::{
    Channel, StateWatch, Subscribe, SubscribeError, SubscribeErrorKind, Subscribed, Subscription,
    SubscriptionHandle,
};
use backplane_memory::{MemoryDriver, MemoryLink};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::driver::{Line, LinkTwist, is_probe};
use super::envelope::with_channels;
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Tasks, lock};
use super::pump::{Control, Parts, Side};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "subscribe-does-not-wait-for-the-broker",
        "S1",
        r#"message "first" did not arrive"#,
        "subscribe returns before the broker has answered (redigo, redis-py)",
        || Wrong::new().links(|| SubscribesLate(Tasks::default())),
    ),
    mutant!(
        "handle-does-not-wait-for-the-broker",
        "S1",
        r#"message "first 0" did not arrive"#,
        "adding a channel returns before the broker has answered",
        || Wrong::new().controls(|| AddsLate(Tasks::default())),
    ),
    mutant!(
        "unsubscribe-does-nothing",
        "S2",
        "delivered after unsubscribe returned",
        "unsubscribe is accepted and forgotten",
        || Wrong::new().controls(|| StaysOn),
    ),
    mutant!(
        "delivers-what-waited-at-unsubscribe",
        "S2",
        r#"delivered after unsubscribe returned: ["\"received, not read\""]"#,
        "what was received before unsubscribe is still delivered",
        || Wrong::new().controls(|| KeepsWhatWaits),
    ),
    mutant!(
        "never-unsubscribes-at-the-broker",
        "S2",
        "expected 0 subscriptions of \"left\" on the broker, and it is 1",
        "the broker goes on sending what nobody wants any longer",
        || Wrong::new().links(|| NeverUnsubscribes),
    ),
    mutant!(
        "one-unsubscribe-ends-all",
        "S2",
        r#"message "published after" did not arrive"#,
        "the broker's subscription ends with the first of several local ones",
        || Wrong::new().nodes(|_| EndsAll(Handles::default())),
    ),
    mutant!(
        "every-subscription-has-a-connection",
        "S3",
        "expected 1 subscriptions of \"news\" on the broker",
        "each local subscription opens a connection and subscribes again",
        || Wrong::new().links(Multiplies::default),
    ),
    mutant!(
        "adding-channels-has-no-effect",
        "S6",
        "did not arrive",
        "a channel that is added later is accepted and never subscribed",
        || Wrong::new().controls(|| AddsNothing),
    ),
    mutant!(
        "a-channel-once-left-stays-out",
        "S6",
        "did not arrive",
        "a cache of what is subscribed is not told of unsubscribe",
        || Wrong::new().controls(StaleCache::default),
    ),
    mutant!(
        "adding-channels-drops-the-others",
        "S6",
        "did not arrive",
        "the set of channels is replaced and not extended",
        || Wrong::new().controls(|| Replaces),
    ),
    mutant!(
        "cancelled-subscribe-stays",
        "S7",
        "after cancelled subscribes",
        "subscribing goes on in a task when its caller has given up (channels_redis #151)",
        || Wrong::new().nodes(|_| GoesOn::default()),
    ),
    mutant!(
        "failed-subscribe-stays",
        "S7",
        "after failed subscribes",
        "a subscribe that failed in an outage comes into force after it",
        || Wrong::new().nodes(|_| ComesLater::default()),
    ),
    mutant!(
        "deferred-subscribe-is-refused",
        "S8",
        "deferred subscribe failed",
        "the request to defer is ignored",
        || Wrong::new().nodes(|_| Defers(|request| {
            let asked = Subscribe::to(request.channels().to_vec());
            if request.is_without_own() {
                asked.without_own()
            } else {
                asked
            }
        })),
    ),
    mutant!(
        "always-defers",
        "S8",
        "without deferring, expected Unavailable",
        "every subscribe in an outage is deferred, asked for or not",
        || Wrong::new().nodes(|_| Defers(Subscribe::deferred)),
    ),
    mutant!(
        "deferred-subscribe-never-takes-effect",
        "S8",
        "the deferred subscription gets nothing",
        "what is deferred in an outage is not subscribed after it",
        || Wrong::new().nodes(|_| ForgetsDeferred),
    ),
    mutant!(
        "deferred-subscribe-does-not-say-so",
        "S8",
        "a deferred subscription does not say so",
        "who has deferred cannot see it",
        || Wrong::new().controls(|| HidesDeferred),
    ),
    mutant!(
        "deferred-channel-claims-to-be-in-force",
        "S8",
        "a deferred channel claims to be in force",
        "adding a channel in an outage says that it is in force",
        || Wrong::new().controls(|| ClaimsInForce),
    ),
];

/// Subscribes at the broker some time after it said so.
struct SubscribesLate(Tasks);

#[async_trait]
impl LinkTwist for SubscribesLate {
    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        if channels.iter().any(is_probe) {
            return line.link.subscribe(channels).await;
        }
        let (link, channels) = (Arc::clone(&line.link), channels.to_vec());
        self.0.spawn(async move {
            sleep(Duration::from_millis(30)).await;
            let _ = link.subscribe(&channels).await;
        });
        Ok(())
    }
}

/// Adds channels some time after it said so.
struct AddsLate(Tasks);

#[async_trait]
impl Control for AddsLate {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        _deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let below = below.clone();
        self.0.spawn(async move {
            sleep(Duration::from_millis(30)).await;
            let _ = below.subscribe(channels).await;
        });
        Ok(Subscribed::InForce)
    }
}

struct StaysOn;

#[async_trait]
impl Control for StaysOn {
    fn unsubscribe(&self, _side: Side<'_>, _channels: &[Channel]) {}
}

struct KeepsWhatWaits;

#[async_trait]
impl Control for KeepsWhatWaits {
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        if let Some(subscription) = side.subscription {
            while let Some(waits) = subscription.try_recv() {
                side.out.put(waits);
            }
        }
        side.below.unsubscribe(channels.to_vec());
    }
}

struct NeverUnsubscribes;

#[async_trait]
impl LinkTwist for NeverUnsubscribes {
    async fn unsubscribe(
        &self,
        _line: &Line,
        _channels: &[BrokerChannel],
    ) -> Result<(), LinkError> {
        Ok(())
    }
}

/// The handles of all subscriptions of a node.
type Handles = Arc<Mutex<Vec<SubscriptionHandle>>>;

struct EndsAll(Handles);

#[async_trait]
impl NodeTwist for EndsAll {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let subscription = node.subscribe(request).await?;
        lock(&self.0).push(subscription.handle());
        Ok(subscription)
    }

    fn parts(&self, _node: &Inner, _tap: &Tap) -> Option<Parts> {
        Some(Parts::control(EndsAllControl(Arc::clone(&self.0))))
    }
}

struct EndsAllControl(Handles);

#[async_trait]
impl Control for EndsAllControl {
    fn unsubscribe(&self, _side: Side<'_>, channels: &[Channel]) {
        for handle in lock(&self.0).iter() {
            handle.unsubscribe(channels.to_vec());
        }
    }
}

/// Connections beside the first, and what all are subscribed to. The engine asks for a ping when a
/// channel that is subscribed already gets one more local subscription.
#[derive(Default)]
struct Multiplies {
    driver: Mutex<Option<MemoryDriver>>,
    channels: Mutex<Vec<BrokerChannel>>,
    more: Mutex<Vec<MemoryLink>>,
}

#[async_trait]
impl LinkTwist for Multiplies {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        *lock(&self.driver) = Some(driver.clone());
        driver.connect(inbound).await
    }

    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        lock(&self.channels).extend(channels.iter().filter(|c| !is_probe(c)).cloned());
        line.link.subscribe(channels).await
    }

    async fn ping(&self, line: &Line) -> Result<(), LinkError> {
        let (driver, channels) = (lock(&self.driver).clone(), lock(&self.channels).clone());
        if let Some(driver) = driver {
            let one_more = driver.connect(line.inbound.clone()).await?;
            one_more.subscribe(&channels).await?;
            lock(&self.more).push(one_more);
        }
        line.link.ping().await
    }
}

struct AddsNothing;

#[async_trait]
impl Control for AddsNothing {
    async fn subscribe(
        &self,
        _below: &SubscriptionHandle,
        _channels: Vec<Channel>,
        _deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        Ok(Subscribed::InForce)
    }
}

/// Channels that were left, and are taken for subscribed.
#[derive(Default)]
struct StaleCache(Mutex<Vec<Channel>>);

#[async_trait]
impl Control for StaleCache {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        mut channels: Vec<Channel>,
        _deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        channels.retain(|channel| !lock(&self.0).contains(channel));
        below
            .subscribe(channels)
            .await
            .map(|()| Subscribed::InForce)
    }

    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        lock(&self.0).extend(channels.iter().cloned());
        side.below.unsubscribe(channels.to_vec());
        side.out.purge(channels);
    }
}

struct Replaces;

#[async_trait]
impl Control for Replaces {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        _deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        below.subscribe(channels.clone()).await?;
        below.unsubscribe(
            below
                .channels()
                .into_iter()
                .filter(|held| !channels.contains(held)),
        );
        Ok(Subscribed::InForce)
    }
}

/// Subscribes in tasks, and keeps what nobody takes.
#[derive(Default)]
struct GoesOn {
    tasks: Tasks,
    kept: Arc<Mutex<Vec<Subscription>>>,
}

#[async_trait]
impl NodeTwist for GoesOn {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let (done, result) = oneshot::channel();
        let (node, kept) = (Arc::clone(node), Arc::clone(&self.kept));
        self.tasks.spawn(async move {
            if let Err(Ok(subscription)) = done.send(node.subscribe(request).await) {
                lock(&kept).push(subscription);
            }
        });
        let lost = || SubscribeError::new(SubscribeErrorKind::Closed, None);
        result.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// Defers what has failed.
#[derive(Default)]
struct ComesLater(Mutex<Vec<Subscription>>);

#[async_trait]
impl NodeTwist for ComesLater {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let result = node.subscribe(request.clone()).await;
        if result.is_err() {
            let later = node.subscribe(request.deferred()).await;
            lock(&self.0).extend(later);
        }
        result
    }
}

/// Has its own mind about deferring.
struct Defers(fn(Subscribe) -> Subscribe);

#[async_trait]
impl NodeTwist for Defers {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        node.subscribe((self.0)(request)).await
    }
}

struct ForgetsDeferred;

#[async_trait]
impl NodeTwist for ForgetsDeferred {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        if request.is_deferred() && !node.state().is_connected() {
            return node.subscribe(with_channels(&request, [])).await;
        }
        node.subscribe(request).await
    }

    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let forgotten = tap.request.is_deferred() && !tap.watch.current().is_connected();
        forgotten.then(|| Parts::control(SaysDeferred(tap.watch.clone())))
    }
}

struct SaysDeferred(StateWatch);

#[async_trait]
impl Control for SaysDeferred {
    fn is_deferred(&self, _below: Option<&Subscription>) -> bool {
        !self.0.current().is_connected()
    }
}

struct HidesDeferred;

#[async_trait]
impl Control for HidesDeferred {
    fn is_deferred(&self, _below: Option<&Subscription>) -> bool {
        false
    }
}

struct ClaimsInForce;

#[async_trait]
impl Control for ClaimsInForce {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        if deferred {
            below.subscribe_deferred(channels).await?;
        } else {
            below.subscribe(channels).await?;
        }
        Ok(Subscribed::InForce)
    }
}
