//! Wrong at S: subscriptions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Driver, Inbound, Link, LinkError};
use backplane_core::{
    Channel, StateWatch, Subscribe, SubscribeError, Subscribed, Subscription, SubscriptionHandle,
};
use backplane_memory::{MemoryDriver, MemoryLink};
use tokio::time::sleep;

use super::driver::{Line, LinkTwist, is_probe};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Tasks, lock};
use super::pump::{Control, Parts, Side, Straight};
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
        || Wrong::new().parts(|tap| Parts::control(AddsLate {
            tasks: Tasks::default(),
            watch: tap.watch.clone(),
        })),
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
        "subscribes-channel-by-channel",
        "S5",
        "10000 channels of a subscription were 10000 requests to the broker",
        "each channel is a round trip of its own",
        || Wrong::new().links(|| OneByOne { from: 1 }),
    ),
    mutant!(
        "comes-back-channel-by-channel",
        "S5",
        "10000 channels of a reconnection were",
        "after an outage each channel is a round trip of its own",
        || Wrong::new().links(|| OneByOne { from: 2 }),
    ),
    mutant!(
        "a-batch-has-its-limit",
        "S5",
        "did not arrive",
        "the broker takes so many channels in one request, and the others are dropped",
        || Wrong::new().links(|| Limited),
    ),
    mutant!(
        "adding-channels-has-no-effect",
        "S6",
        "did not arrive",
        "a channel that is added later is accepted and never subscribed",
        || Wrong::new().parts(|tap| Parts::control(AddsNothing(tap.watch.clone()))),
    ),
    mutant!(
        "a-channel-once-left-stays-out",
        "S6",
        "did not arrive",
        "a cache of what is subscribed is not told of unsubscribe",
        || Wrong::new().controls(StaleCache::default),
    ),
    mutant!(
        "unsubscribe-comes-late",
        "S6",
        "did not arrive",
        "an unsubscribe overtakes the subscribe after it (StackExchange.Redis #273, #1110)",
        || Wrong::new().links(|| UnsubscribesLate(Tasks::default())),
    ),
    mutant!(
        "lists-channels-that-were-left",
        "S6",
        "channels instead of 22",
        "the list of channels only grows",
        || Wrong::new().parts(|tap| Parts::control(Lists(tap.request.channels().to_vec().into()))),
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
struct AddsLate {
    tasks: Tasks,
    watch: StateWatch,
}

#[async_trait]
impl Control for AddsLate {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        if !self.watch.current().is_connected() {
            return Straight.subscribe(below, channels, deferred).await;
        }
        let below = below.clone();
        self.tasks.spawn(async move {
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
            while let Ok(waits) = subscription.try_recv() {
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
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        for handle in lock(&self.0).iter() {
            handle.unsubscribe(channels.to_vec());
        }
        side.out.purge(channels);
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

struct AddsNothing(StateWatch);

#[async_trait]
impl Control for AddsNothing {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        if !self.0.current().is_connected() {
            return Straight.subscribe(below, channels, deferred).await;
        }
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
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        channels.retain(|channel| !lock(&self.0).contains(channel));
        Straight.subscribe(below, channels, deferred).await
    }

    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        lock(&self.0).extend(channels.iter().cloned());
        side.below.unsubscribe(channels.to_vec());
        side.out.purge(channels);
    }
}

/// Every channel that was ever subscribed.
struct Lists(Mutex<Vec<Channel>>);

#[async_trait]
impl Control for Lists {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let subscribed = Straight
            .subscribe(below, channels.clone(), deferred)
            .await?;
        lock(&self.0).extend(channels);
        Ok(subscribed)
    }

    fn channels(&self, _below: &SubscriptionHandle) -> Vec<Channel> {
        lock(&self.0).clone()
    }
}

/// Subscribes one channel at a time, from the link with this number on.
struct OneByOne {
    from: u64,
}

#[async_trait]
impl LinkTwist for OneByOne {
    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        if line.number < self.from {
            return line.link.subscribe(channels).await;
        }
        for channel in channels {
            line.link.subscribe(std::slice::from_ref(channel)).await?;
        }
        Ok(())
    }
}

/// Takes a thousand channels in one request.
struct Limited;

#[async_trait]
impl LinkTwist for Limited {
    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        line.link
            .subscribe(&channels[..channels.len().min(1000)])
            .await
    }
}

/// Unsubscribes at the broker some time after it said so.
struct UnsubscribesLate(Tasks);

#[async_trait]
impl LinkTwist for UnsubscribesLate {
    async fn unsubscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        let (link, channels) = (Arc::clone(&line.link), channels.to_vec());
        self.0.spawn(async move {
            sleep(Duration::from_millis(1)).await;
            let _ = link.unsubscribe(&channels).await;
        });
        Ok(())
    }
}
