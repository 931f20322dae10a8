//! Wrong at S7 and S8: subscriptions that were cancelled, have failed, or are deferred.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::{
    Channel, StateWatch, Subscribe, SubscribeError, SubscribeErrorKind, Subscribed, Subscription,
    SubscriptionHandle,
};
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::delivery::Asks;
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Tasks, Wish, lock, with_channels};
use super::pump::{Control, Parts, Straight};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "cancelled-subscribe-stays",
        "S7",
        "after cancelled subscribes",
        "subscribing goes on in a task when its caller has given up (channels_redis #151)",
        || Wrong::new().nodes(|_| GoesOn::default()),
    ),
    mutant!(
        "cancelled-channel-stays",
        "S7",
        "after cancelled subscribes",
        "adding a channel goes on in a task when its caller has given up",
        || Wrong::new().controls(AddsAnyway::default),
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
        || Wrong::new().nodes(|_| Asks(|request| {
            Wish {
                deferred: false,
                ..Wish::of(&request)
            }
            .request()
        })),
    ),
    mutant!(
        "always-defers",
        "S8",
        "without deferring, expected Unavailable",
        "every subscribe in an outage is deferred, asked for or not",
        || Wrong::new().nodes(|_| Asks(Subscribe::deferred)),
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
            some_time().await;
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

/// Adds channels in tasks.
#[derive(Default)]
struct AddsAnyway(Tasks);

#[async_trait]
impl Control for AddsAnyway {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let (done, result) = oneshot::channel();
        let below = below.clone();
        self.0.spawn(async move {
            some_time().await;
            let _ = done.send(Straight.subscribe(&below, channels, deferred).await);
        });
        let lost = || SubscribeError::new(SubscribeErrorKind::Closed, None);
        result.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// The broker is not far away, and not here either.
async fn some_time() {
    for _ in 0..50 {
        yield_now().await;
    }
}
