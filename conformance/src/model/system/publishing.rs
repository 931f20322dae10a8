//! Publishes, and records what came of it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use backplane_core::{Backplane, PublishError, PublishErrorKind};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Names, Node, SharedLedger, System, lock};
use crate::model::account::{Class, Violation};
use crate::model::ledger::{Fate, MessageId, PublisherId, Topic};
use crate::model::op::{TOPICS, Topics};

/// The pause between two messages of [`Traffic`], so that it lasts as long as what happens meanwhile.
const PACE: Duration = Duration::from_millis(1);

/// How likely it is that a call of [`Traffic`] publishes many.
const TOGETHER: f64 = 0.1;

/// What publishing takes.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    backplane: Arc<dyn Backplane>,
    id: PublisherId,
    ledger: SharedLedger,
    names: Arc<Names>,
    within: Duration,
}

/// What became of each message of a call.
type Publishing = Pin<Box<dyn Future<Output = Vec<Fate>> + Send>>;

/// A call that was begun, while it has not returned, and its messages.
struct Begun {
    messages: Vec<MessageId>,
    call: Option<Publishing>,
}

/// Calls that were begun in order and are polled together.
struct Batch(Vec<Begun>);

impl Publisher {
    pub(super) fn of(system: &System, node: &Node) -> Self {
        Self {
            backplane: Arc::clone(&node.backplane),
            id: node.id,
            ledger: Arc::clone(&system.ledger),
            names: Arc::clone(&system.names),
            within: system.within(),
        }
    }

    /// Publishes one message; returns it if it was accepted.
    pub(super) async fn publish(&self, topic: Topic) -> Option<MessageId> {
        let id = lock(&self.ledger).attempt(self.id, topic);
        let payload = Bytes::from(id.to_payload());
        let call = self.backplane.publish(self.names.channel(topic), payload);
        let fate = match timeout(self.within, call).await {
            Ok(outcome) => fate(&outcome),
            Err(_) => {
                self.stuck();
                Fate::Unknown
            }
        };
        lock(&self.ledger).settle(id, fate);
        (fate == Fate::Accepted).then_some(id)
    }

    /// Publishes messages in one call.
    async fn publish_many(&self, topic: Topic, count: usize) {
        self.finish(Batch(vec![self.begin_many(topic, count)]))
            .await;
    }

    fn begin(&self, topic: Topic) -> Begun {
        let id = lock(&self.ledger).attempt(self.id, topic);
        let (backplane, names) = (Arc::clone(&self.backplane), Arc::clone(&self.names));
        let call = async move {
            let payload = Bytes::from(id.to_payload());
            vec![fate(
                &backplane.publish(names.channel(topic), payload).await,
            )]
        };
        Begun {
            messages: vec![id],
            call: Some(Box::pin(call)),
        }
    }

    fn begin_many(&self, topic: Topic, count: usize) -> Begun {
        let messages: Vec<MessageId> = {
            let mut ledger = lock(&self.ledger);
            (0..count).map(|_| ledger.attempt(self.id, topic)).collect()
        };
        let payloads = messages.iter().map(|id| Bytes::from(id.to_payload()));
        let payloads: Vec<_> = payloads.collect();
        let (backplane, names) = (Arc::clone(&self.backplane), Arc::clone(&self.names));
        let call = async move {
            let told = backplane.publish_many(names.channel(topic), payloads).await;
            let error = told.err();
            let of = |at| error.as_ref().and_then(|error| error.of_message(at));
            (0..count)
                .map(|at| of(at).map_or(Fate::Accepted, failed))
                .collect()
        };
        Begun {
            messages,
            call: Some(Box::pin(call)),
        }
    }

    /// Begins a call between others, which is dropped after so many polls.
    async fn among(
        &self,
        topic: Topic,
        others: u8,
        call: impl FnOnce() -> Begun,
        cancel: Option<u8>,
    ) {
        let others = usize::from(others);
        let mut batch = Batch((0..others).map(|_| self.begin(topic)).collect());
        batch.0.push(call());
        batch.0.extend((0..others).map(|_| self.begin(topic)));
        if let Some(polls) = cancel {
            for _ in 0..polls {
                poll_fn(|cx| Poll::Ready(batch.poll(cx, &self.ledger))).await;
                tokio::task::yield_now().await;
            }
            batch.0[others].cancel(&self.ledger);
        }
        self.finish(batch).await;
    }

    /// Polls a batch until everything in it has returned.
    async fn finish(&self, mut batch: Batch) {
        let all = poll_fn(|cx| match batch.poll(cx, &self.ledger) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        if timeout(self.within, all).await.is_err() {
            self.stuck();
        }
    }

    fn stuck(&self) {
        let text = format!("a publish of node {} does not return", self.id.0);
        lock(&self.ledger).violate(Violation::new(Class::Unexpected, 1, text));
    }
}

impl Batch {
    /// Polls in order what has not returned; returns whether everything has.
    fn poll(&mut self, cx: &mut Context<'_>, ledger: &SharedLedger) -> bool {
        let mut done = true;
        for begun in &mut self.0 {
            let Some(polled) = begun.call.as_mut().map(|call| call.as_mut().poll(cx)) else {
                continue;
            };
            match polled {
                Poll::Ready(fates) => begun.settle(ledger, fates),
                Poll::Pending => done = false,
            }
        }
        done
    }
}

impl Begun {
    fn settle(&mut self, ledger: &SharedLedger, fates: impl IntoIterator<Item = Fate>) {
        self.call = None;
        let mut ledger = lock(ledger);
        for (id, fate) in self.messages.iter().zip(fates) {
            ledger.settle(*id, fate);
        }
    }

    /// Gives the call up if it has not returned.
    fn cancel(&mut self, ledger: &SharedLedger) {
        if self.call.is_some() {
            self.settle(ledger, std::iter::repeat(Fate::Unknown));
        }
    }
}

fn fate(outcome: &Result<(), PublishError>) -> Fate {
    outcome.as_ref().err().map_or(Fate::Accepted, failed)
}

fn failed(error: &PublishError) -> Fate {
    match error.kind() {
        PublishErrorKind::NotSent(_) => Fate::NotSent,
        PublishErrorKind::Unknown(_) => Fate::Unknown,
    }
}

impl System {
    pub(super) async fn publish(&self, at: usize, topic: Topic) {
        if let Some(node) = self.node(at) {
            Publisher::of(self, node).publish(topic).await;
        }
    }

    pub(super) async fn burst(&self, at: usize, topics: Topics, count: u8) {
        let Some(node) = self.node(at) else {
            return;
        };
        let publisher = Publisher::of(self, node);
        let topics = topics.iter().cycle().take(count.into());
        let batch = Batch(topics.map(|topic| publisher.begin(topic)).collect());
        publisher.finish(batch).await;
    }

    pub(super) async fn cancel(&self, at: usize, topic: Topic, others: u8, polls: u8) {
        let Some(node) = self.node(at) else {
            return;
        };
        let publisher = Publisher::of(self, node);
        let call = || publisher.begin(topic);
        publisher.among(topic, others, call, Some(polls)).await;
    }

    pub(super) async fn together(
        &self,
        at: usize,
        topic: Topic,
        others: u8,
        count: u8,
        cancel: Option<u8>,
    ) {
        let Some(node) = self.node(at) else {
            return;
        };
        let publisher = Publisher::of(self, node);
        let call = || publisher.begin_many(topic, count.into());
        publisher.among(topic, others, call, cancel).await;
    }
}

/// Every node publishes on its own, or most of them do, until it is ended.
#[derive(Debug)]
pub(super) struct Traffic {
    tasks: JoinSet<()>,
    over: Arc<AtomicBool>,
}

impl Traffic {
    /// Each publishes at least and at most so many messages.
    pub(super) fn start(system: &System, least: usize, most: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for node in system.nodes.iter().flatten() {
            let publisher = Publisher::of(system, node);
            let over = Arc::clone(&over);
            let mut rng = StdRng::seed_from_u64(system.seed ^ node.id.0);
            // A node that publishes notices more than one that does not.
            if least < most && rng.random_bool(0.4) {
                continue;
            }
            tasks.spawn(async move {
                for count in 0..most {
                    if count >= least && over.load(Ordering::Relaxed) {
                        break;
                    }
                    let topic = rng.random_range(0..TOPICS);
                    if rng.random_bool(TOGETHER) {
                        publisher.publish_many(topic, rng.random_range(1..30)).await;
                    } else {
                        publisher.publish(topic).await;
                    }
                    if least < most {
                        sleep(PACE).await;
                    }
                }
            });
        }
        Self { tasks, over }
    }

    /// Ends it, and waits for what was begun.
    pub(super) async fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
    }
}
