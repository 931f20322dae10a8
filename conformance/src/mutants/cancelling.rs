//! Wrong at C4: what a call leaves behind that was given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::{
    Channel, HealthError, HealthErrorKind, PublishError, Subscribe, SubscribeError,
    SubscribeErrorKind, Subscribed, Subscription, SubscriptionHandle, Unknown,
};
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::yield_now;

use super::harness::{Made, Make, Wrong};
use super::node::{Inner, NodeTwist, Tasks, lock};
use super::pump::{Control, Straight};
use super::{Mutant, mutant};
use crate::harness::NodeSpec;

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "cancelled-publish-stalls-the-node",
        "C4",
        "a publish beside one that was given up does not return",
        "who publishes is marked as busy, and nobody else clears the mark",
        || Wrong::new().nodes(|_| Marked::of(Call::Publish)),
    ),
    mutant!(
        "cancelled-publish-is-sent-twice",
        "C4",
        "arrived 2 times",
        "a publish that was given up is sent again, to be sure",
        || Wrong::new().nodes(|_| MakesSure::default()),
    ),
    mutant!(
        "cancelled-publish-fails-the-others",
        "C4",
        "beside one that was given up, failed",
        "the first caller sends for all that come meanwhile, and takes them with it",
        || Wrong::new().nodes(|_| SendsForAll::default()),
    ),
    mutant!(
        "cancelled-publish-drops-the-others",
        "C4",
        "whose caller stayed, did not arrive",
        "those for whom another sends are told success before it has sent",
        || Wrong::new().nodes(|_| SendsForAll {
            in_advance: true,
            ..SendsForAll::default()
        }),
    ),
    mutant!(
        "cancelled-publish-comes-late",
        "C4",
        "with publishes given up, this arrived",
        "a publish that was given up is sent by a task, when its turn is over",
        || Wrong::new().nodes(|_| SendsLate::default()),
    ),
    mutant!(
        "cancelled-subscribe-holds-a-lock",
        "C4",
        "subscribe does not return within",
        "who subscribes is marked as busy, and nobody else clears the mark",
        || Wrong::new().nodes(|_| Marked::of(Call::Subscribe)),
    ),
    mutant!(
        "cancelled-subscribe-leaves-for-others",
        "C4",
        "did not arrive within",
        "a subscribe that was given up takes its channels back from all who hold them",
        || Wrong::new().nodes(|_| TakesBack::default()),
    ),
    mutant!(
        "cancelled-channel-is-held",
        "C4",
        "subscriptions and channels after calls that were given up",
        "a channel whose adding was given up is added all the same",
        || Wrong::new().controls(AddsInATask::default),
    ),
    mutant!(
        "cancelled-health-breaks-it",
        "C4",
        "health fails because one was given up",
        "one probe at a time, and one that was given up is still under way",
        || Wrong::new().nodes(|_| OneProbe(AtomicBool::new(false))),
    ),
    mutant!(
        "cancelled-health-stalls-the-next",
        "C4",
        "health beside one that was given up does not return",
        "who probes is marked as busy, and nobody else clears the mark",
        || Wrong::new().nodes(|_| Marked::of(Call::Health)),
    ),
    mutant!(
        "cancelled-close-leaves-the-node-open",
        "C4",
        "a node whose close was given up does not close",
        "close stops half-way with its caller",
        || Wrong::new().nodes(|_| ClosesInSteps),
    ),
    mutant!(
        "cancelled-close-cannot-be-repeated",
        "C4",
        "a close after one that was given up does not return",
        "a second close waits for the first, which nobody polls",
        || Wrong::new().nodes(|_| Marked::of(Call::Close)),
    ),
    mutant!(
        "cancelled-constructor-leaves-a-connection",
        "C4",
        "connections on the broker after a constructor that was given up",
        "a node that nobody wants any more is made and kept",
        || Wrong::new().make(MakesAnyway {
            kept: Arc::default(),
            at_once: false,
        }),
    ),
    mutant!(
        "cancelled-constructor-leaves-a-task",
        "C4",
        "tasks after a constructor that was given up",
        "what the constructor has started outlives it",
        || Wrong::new().make(MakesAnyway {
            kept: Arc::default(),
            at_once: true,
        }),
    ),
];

/// A call with an await in it, even on a broker that is not far away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Publish,
    Subscribe,
    Health,
    Close,
}

/// One call of a kind at a time, in order; the mark of one that was given up stays.
struct Marked {
    call: Call,
    turn: Semaphore,
}

impl Marked {
    fn of(call: Call) -> Self {
        Self {
            call,
            turn: Semaphore::new(1),
        }
    }

    async fn alone<T>(&self, call: Call, work: impl Future<Output = T>) -> T {
        if call != self.call {
            return work.await;
        }
        if let Ok(turn) = self.turn.acquire().await {
            turn.forget();
        }
        if call != Call::Close {
            yield_now().await;
        }
        let result = work.await;
        self.turn.add_permits(1);
        result
    }
}

#[async_trait]
impl NodeTwist for Marked {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.alone(Call::Publish, node.publish(channel, payload))
            .await
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        self.alone(Call::Subscribe, node.subscribe(request)).await
    }

    async fn health(&self, node: &Inner) -> Result<(), HealthError> {
        self.alone(Call::Health, node.health()).await
    }

    async fn close(&self, node: &Inner) {
        self.alone(Call::Close, node.close()).await;
    }
}

/// Does something when it is dropped, unless that is called off.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    fn call_off(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

/// Sends what was given up once more.
#[derive(Default)]
struct MakesSure(Arc<Tasks>);

#[async_trait]
impl NodeTwist for MakesSure {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let (again, on, copy) = (Arc::clone(node), channel.clone(), payload.clone());
        let tasks = Arc::clone(&self.0);
        let guard = OnDrop(Some(move || {
            tasks.spawn(async move { drop(again.publish(&on, copy).await) });
        }));
        let result = node.publish(channel, payload).await;
        yield_now().await;
        guard.call_off();
        result
    }
}

/// What waits for the one who sends for all, and where the outcome goes.
type Waiting = Vec<(Channel, Bytes, oneshot::Sender<Result<(), PublishError>>)>;

#[derive(Default)]
struct SendsForAll {
    /// `None`: nobody sends now.
    waiting: Arc<Mutex<Option<Waiting>>>,
    in_advance: bool,
}

#[async_trait]
impl NodeTwist for SendsForAll {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let told = {
            let mut waiting = lock(&self.waiting);
            waiting.as_mut().map(|waiting| {
                let (done, told) = oneshot::channel();
                waiting.push((channel.clone(), payload.clone(), done));
                told
            })
        };
        if let Some(told) = told {
            let lost = || PublishError::unknown(channel, Unknown::ConnectionLost, None);
            return match self.in_advance {
                true => Ok(()),
                false => told.await.unwrap_or_else(|_| Err(lost())),
            };
        }
        *lock(&self.waiting) = Some(Waiting::new());
        let waiting = Arc::clone(&self.waiting);
        let _free = OnDrop(Some(move || *lock(&waiting) = None));
        yield_now().await;
        let own = node.publish(channel, payload).await;
        loop {
            let next = lock(&self.waiting).as_mut().map(std::mem::take);
            let Some(next) = next.filter(|next| !next.is_empty()) else {
                return own;
            };
            for (channel, payload, done) in next {
                let _ = done.send(node.publish(&channel, payload).await);
            }
        }
    }
}

/// Sends what was given up, after those that came later.
#[derive(Default)]
struct SendsLate(Arc<Tasks>);

#[async_trait]
impl NodeTwist for SendsLate {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let (late, on, copy) = (Arc::clone(node), channel.clone(), payload.clone());
        let tasks = Arc::clone(&self.0);
        let guard = OnDrop(Some(move || {
            tasks.spawn(async move { drop(late.publish(&on, copy).await) });
        }));
        yield_now().await;
        guard.call_off();
        node.publish(channel, payload).await
    }
}

/// Takes the channels of a subscribe that was given up back from everybody.
#[derive(Default)]
struct TakesBack(Arc<Mutex<Vec<SubscriptionHandle>>>);

#[async_trait]
impl NodeTwist for TakesBack {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let channels = request.channels().to_vec();
        let handles = Arc::clone(&self.0);
        let guard = OnDrop(Some(move || {
            for handle in lock(&handles).iter() {
                handle.unsubscribe(channels.iter().cloned());
            }
        }));
        let subscribed = node.subscribe(request).await;
        guard.call_off();
        let subscription = subscribed?;
        lock(&self.0).push(subscription.handle());
        Ok(subscription)
    }
}

/// Adds channels in tasks.
#[derive(Default)]
struct AddsInATask(Tasks);

#[async_trait]
impl Control for AddsInATask {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let (done, result) = oneshot::channel();
        let below = below.clone();
        self.0.spawn(async move {
            let _ = done.send(Straight.subscribe(&below, channels, deferred).await);
        });
        let lost = || SubscribeError::new(SubscribeErrorKind::Closed, None);
        result.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// Refuses to probe while another probe is under way.
struct OneProbe(AtomicBool);

#[async_trait]
impl NodeTwist for OneProbe {
    async fn health(&self, node: &Inner) -> Result<(), HealthError> {
        // The other one answers for it, unless that one has been under way for long.
        for _ in 0..1000 {
            if !self.0.swap(true, Ordering::AcqRel) {
                yield_now().await;
                let health = node.health().await;
                self.0.store(false, Ordering::Release);
                return health;
            }
            yield_now().await;
        }
        Err(HealthError::new(HealthErrorKind::Unhealthy, None))
    }
}

struct ClosesInSteps;

#[async_trait]
impl NodeTwist for ClosesInSteps {
    async fn close(&self, node: &Inner) {
        yield_now().await;
        node.close().await;
    }
}

/// Makes nodes in tasks.
struct MakesAnyway {
    kept: Arc<Mutex<Vec<Inner>>>,
    /// Whether the node itself is given up, and only what it has started stays.
    at_once: bool,
}

#[async_trait]
impl Make for MakesAnyway {
    async fn make(&self, harness: &Wrong, spec: &NodeSpec) -> Made {
        if self.at_once {
            let (done, gone) = oneshot::channel::<()>();
            tokio::spawn(async move {
                // It ends with the node: if that is ever made.
                if gone.await.is_err() {
                    std::future::pending::<()>().await;
                }
            });
            let made = harness.plain(spec).await;
            let _ = done.send(());
            return made;
        }
        let kept = Arc::clone(&self.kept);
        let node = harness.plain(spec).await?;
        let copy = Arc::clone(&node);
        let guard = OnDrop(Some(move || lock(&kept).push(copy)));
        yield_now().await;
        guard.call_off();
        Ok(node)
    }
}
