//! Wrong where something failed, ran out of time or was closed: what stays behind, and what is said of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::{
    Channel, ConnectionState, Events, NotSent, PublishError, PublishErrorKind, StateCell,
    StateWatch, Stats, Subscribe, SubscribeError, SubscribeErrorKind, Subscription,
};
use bytes::Bytes;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::harness::{Made, Make, Wrong};
use super::node::{Inner, NodeTwist, Tasks, lock};
use super::{Mutant, mutant};
use crate::harness::NodeSpec;

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "publish-timeout-is-ignored",
        "L1",
        "nobody answered did not end within",
        "the time that a publish may take is that of the default options",
        || Wrong::new().spec(|spec| {
            let mut changed = spec.clone();
            changed.options.publish_timeout = DEFAULT;
            changed
        }),
    ),
    mutant!(
        "subscribe-timeout-is-ignored",
        "S7",
        "nobody answered did not end within",
        "the time that a subscribe may take is that of the default options",
        || Wrong::new().spec(|spec| {
            let mut changed = spec.clone();
            changed.options.subscribe_timeout = DEFAULT;
            changed
        }),
    ),
    mutant!(
        "a-subscribe-that-ran-out-of-time-stays",
        "S7",
        "and no channel after unanswered subscribes",
        "a subscribe that got no answer in time is made again behind the caller's back",
        || Wrong::new().nodes(|_| TriesOn::default()),
    ),
    mutant!(
        "close-is-not-seen-by-who-watches",
        "C1",
        "the watch does not say that the node is closed",
        "who waits for a state learns of outages, and not of the end",
        || Wrong::new().nodes(|_| HalfWatched::new()),
    ),
    mutant!(
        "closed-in-an-outage-looks-like-one",
        "C1",
        "expected Closed, got",
        "who closes a node that is away leaves it as it is",
        || Wrong::new().nodes(|_| StaysAway::default()),
    ),
    mutant!(
        "a-failed-constructor-leaves-a-task",
        "C2",
        "no task of a node that was not made",
        "what the constructor has started is ended by close, and nobody can call it",
        || Wrong::new().make(LeavesATask),
    ),
    mutant!(
        "a-failed-publish-leaves-a-task",
        "C2",
        "no task of a node that was closed in an outage",
        "a task waits for the answer to what was never asked",
        || Wrong::new().nodes(|_| Forks::OfPublish),
    ),
    mutant!(
        "a-failed-subscribe-leaves-a-task",
        "C2",
        "no task of a node that was closed in an outage",
        "a task waits for the answer to what was never asked",
        || Wrong::new().nodes(|_| Forks::OfSubscribe),
    ),
    mutant!(
        "failures-in-an-outage-are-not-counted",
        "V1",
        "not sent in an outage: expected",
        "what never reached the broker's connection is in no counter",
        || Wrong::new().nodes(|_| Miscounts::default()),
    ),
    mutant!(
        "unknown-counts-as-not-sent",
        "V1",
        "unknown: expected",
        "failures are counted, and there is one counter",
        || Wrong::new().nodes(|_| super::visibility::Counts(|stats| {
            stats.not_sent += std::mem::take(&mut stats.unknown);
        })),
    ),
    mutant!(
        "events-are-for-one",
        "V1",
        "an outage made these events: []",
        "a second listener takes the place of the first",
        || Wrong::new().nodes(|_| OneListener::default()),
    ),
];

/// Longer than any of these trials asks for.
const DEFAULT: Duration = Duration::from_secs(5);

/// Longer than a failure takes for which nothing has to be waited for.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Goes on subscribing when the time is up.
#[derive(Default)]
struct TriesOn {
    tasks: Tasks,
    late: Arc<Mutex<Vec<Subscription>>>,
}

#[async_trait]
impl NodeTwist for TriesOn {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let begin = Instant::now();
        let subscribed = node.subscribe(request.clone()).await;
        // Whatever it is called: a connection that is not there fails at once.
        if subscribed.is_err() && begin.elapsed() > AT_ONCE {
            let (node, late) = (Arc::clone(node), Arc::clone(&self.late));
            self.tasks.spawn(async move {
                loop {
                    match node.subscribe(request.clone()).await {
                        Ok(subscription) => return lock(&late).push(subscription),
                        Err(error) if error.kind() == SubscribeErrorKind::Closed => return,
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        }
        subscribed
    }
}

/// A watch that is told everything but the end.
struct HalfWatched {
    state: Arc<StateCell>,
    mirror: Tasks,
}

impl HalfWatched {
    fn new() -> Self {
        let first = ConnectionState::Connecting { attempt: 1 };
        Self {
            state: Arc::new(StateCell::new(first)),
            mirror: Tasks::default(),
        }
    }
}

#[async_trait]
impl NodeTwist for HalfWatched {
    fn made(&self, node: &Inner) {
        self.state.set(node.state());
        let (state, mut watch) = (Arc::clone(&self.state), node.watch());
        self.mirror.spawn(async move {
            loop {
                let before = state.current();
                match watch.wait_for(|now| *now != before).await {
                    None | Some(ConnectionState::Closed) => return,
                    Some(now) => state.set(now),
                }
            }
        });
    }

    fn watch(&self, _node: &Inner) -> StateWatch {
        self.state.watch()
    }
}

/// Whether it was closed while it was away.
#[derive(Default)]
struct StaysAway(Mutex<bool>);

#[async_trait]
impl NodeTwist for StaysAway {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if *lock(&self.0) {
            return Err(PublishError::not_sent(channel, NotSent::Unavailable, None));
        }
        node.publish(channel, payload).await
    }

    async fn close(&self, node: &Inner) {
        let state = node.state();
        if !state.is_connected() && state != ConnectionState::Closed {
            *lock(&self.0) = true;
        }
        node.close().await;
    }
}

struct LeavesATask;

#[async_trait]
impl Make for LeavesATask {
    async fn make(&self, harness: &Wrong, spec: &NodeSpec) -> Made {
        let made = harness.plain(spec).await;
        if made.is_err() {
            tokio::spawn(std::future::pending::<()>());
        }
        made
    }
}

/// Leaves a task with each failure.
enum Forks {
    OfPublish,
    OfSubscribe,
}

#[async_trait]
impl NodeTwist for Forks {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let published = node.publish(channel, payload).await;
        if published.is_err() && matches!(self, Self::OfPublish) {
            tokio::spawn(std::future::pending::<()>());
        }
        published
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let subscribed = node.subscribe(request).await;
        if subscribed.is_err() && matches!(self, Self::OfSubscribe) {
            tokio::spawn(std::future::pending::<()>());
        }
        subscribed
    }
}

/// How many publishes failed because the node was away.
#[derive(Default)]
struct Miscounts(AtomicU64);

#[async_trait]
impl NodeTwist for Miscounts {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let published = node.publish(channel, payload).await;
        let unavailable = PublishErrorKind::NotSent(NotSent::Unavailable);
        if published
            .as_ref()
            .is_err_and(|error| error.kind() == unavailable)
        {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        published
    }

    fn stats(&self, mut stats: Stats) -> Stats {
        stats.not_sent -= self.0.load(Ordering::Relaxed);
        stats
    }
}

/// Who listens now. Each listener costs a task.
#[derive(Default)]
struct OneListener {
    now: Mutex<Option<AbortHandle>>,
}

#[async_trait]
impl NodeTwist for OneListener {
    fn events(&self, node: &Inner) -> Events {
        let first = ConnectionState::Connecting { attempt: 1 };
        let cell = StateCell::new(first);
        let (told, mut events) = (cell.events(), node.events());
        let task = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                cell.tell(event);
            }
        });
        if let Some(before) = lock(&self.now).replace(task.abort_handle()) {
            before.abort();
        }
        told
    }
}

impl Drop for OneListener {
    fn drop(&mut self) {
        if let Some(last) = lock(&self.now).take() {
            last.abort();
        }
    }
}
