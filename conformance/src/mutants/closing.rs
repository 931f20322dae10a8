//! Wrong at C: closing and cancelling.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Driver, Inbound, Link, LinkError};
use backplane_core::{
    Backplane, Channel, ConnectionState, Event, HealthError, HealthErrorKind, NotSent,
    PublishError, PublishErrorKind, Subscribe, SubscribeError, SubscribeErrorKind, Subscribed,
    Subscription, SubscriptionHandle,
};
use backplane_memory::{MemoryDriver, MemoryLink};
use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::driver::{Line, LinkTwist};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, lock};
use super::pump::{Control, Out, Parts, Pump, Straight};
use super::visibility::{OtherEvents, Telling};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "streams-do-not-end",
        "C1",
        "the stream did not end within",
        "a reader waits for ever after close",
        || Wrong::new().pumps(|| NeverEnds),
    ),
    mutant!(
        "close-throws-away-what-was-received",
        "C1",
        r#"the stream ended before message "0""#,
        "close ends the streams before what was received is read",
        || Wrong::new().nodes(|_| EndsAtOnce::default()),
    ),
    mutant!(
        "second-close-hangs",
        "C1",
        "close does not return within",
        "a second close waits for the end of the first, which has come",
        || Wrong::new().nodes(|_| ClosesOnce(AtomicBool::new(false))),
    ),
    mutant!(
        "publish-after-close-is-unavailable",
        "C1",
        "publish after close: expected Closed, got",
        "a closed node looks like one in an outage",
        || Wrong::new().nodes(|_| AfterClose::Publish),
    ),
    mutant!(
        "subscribe-after-close-is-unavailable",
        "C1",
        "subscribe after close: expected Closed, got",
        "a closed node looks like one in an outage",
        || Wrong::new().nodes(|_| AfterClose::Subscribe),
    ),
    mutant!(
        "handle-after-close-succeeds",
        "C1",
        "a handle after close: expected Closed, got Ok",
        "a handle of a closed node takes channels",
        || Wrong::new().controls(|| TakesAll),
    ),
    mutant!(
        "health-after-close-passes",
        "C1",
        "health after close: expected Closed, got Ok",
        "a closed node is healthy",
        || Wrong::new().nodes(|_| AfterClose::Health),
    ),
    mutant!(
        "close-is-no-event",
        "C1",
        "the events do not end",
        "who follows the events does not learn that the node is closed",
        || Wrong::new().nodes(|_| OtherEvents::telling(|event| match event {
            Event::State(ConnectionState::Closed) => Telling::Not,
            _ => Telling::It,
        })),
    ),
    mutant!(
        "closing-one-closes-all",
        "C1",
        "subscribe failed",
        "the nodes of a process share their state",
        || {
            let everybody = Arc::new(Mutex::new(Vec::new()));
            Wrong::new().nodes(move |_| ClosesAll(Arc::clone(&everybody)))
        },
    ),
    mutant!(
        "close-waits-for-its-subscriptions",
        "C1",
        "close does not return within",
        "close waits until nobody reads any more",
        || Wrong::new().nodes(|_| ClosesAfter::Subscriptions),
    ),
    mutant!(
        "close-waits-for-the-broker",
        "C1",
        "close does not return within",
        "close waits for an answer to what is under way",
        || Wrong::new().nodes(|_| ClosesAfter::Answer),
    ),
    mutant!(
        "close-forgets-a-publish",
        "C1",
        "a call that was under way when the node was closed does not end",
        "who waits for a publish when the node is closed waits for ever",
        || Wrong::new().nodes(|_| Forgets { publish: true }),
    ),
    mutant!(
        "close-forgets-a-subscribe",
        "C1",
        "a call that was under way when the node was closed does not end",
        "who waits for a subscribe when the node is closed waits for ever",
        || Wrong::new().nodes(|_| Forgets { publish: false }),
    ),
    mutant!(
        "close-loses-what-was-accepted",
        "C1",
        "was accepted before the close, and arrived None times",
        "publish returns when a message is queued, and close throws the queue away",
        || Wrong::new().nodes(|_| ThrowsAway),
    ),
    mutant!(
        "close-leaves-the-subscriptions",
        "C2",
        "expected 0 subscriptions",
        "a connection with its subscriptions outlives its node",
        || {
            let kept = Arc::new(Mutex::new(Vec::new()));
            Wrong::new().links(move || Outlives(Arc::clone(&kept)))
        },
    ),
    mutant!(
        "close-leaves-a-connection",
        "C2",
        "connections on the broker",
        "one of a node's connections outlives it (channels_redis #279)",
        || {
            let kept = Arc::new(Mutex::new(Vec::new()));
            Wrong::new().links(move || SecondOutlives(Arc::clone(&kept)))
        },
    ),
    mutant!(
        "close-leaves-a-task",
        "C2",
        "after close has returned",
        "a task of the node runs on for ever",
        || Wrong::new().nodes(|_| TaskOutlives),
    ),
    mutant!(
        "close-does-not-wait",
        "C2",
        "after close has returned",
        "close returns while the node is being closed",
        || Wrong::new().nodes(|_| ClosesLater),
    ),
    mutant!(
        "subscriptions-keep-the-node-alive",
        "C2",
        "connections on the broker",
        "a dropped node lives on while one of its subscriptions does",
        || Wrong::new().nodes(|_| KeptAlive),
    ),
    mutant!(
        "close-in-an-outage-is-forgotten",
        "C2",
        "closed in an outage",
        "a node that is closed while it is away comes back",
        || Wrong::new().nodes(|_| ComesBack),
    ),
    mutant!(
        "a-node-that-never-attached-stays",
        "C2",
        "dropped before it was attached",
        "the task that attaches a node holds it until it has",
        || Wrong::new().nodes(|_| HeldWhileAway),
    ),
];

/// What close waits for.
enum ClosesAfter {
    Answer,
    Subscriptions,
}

#[async_trait]
impl NodeTwist for ClosesAfter {
    async fn close(&self, node: &Inner) {
        match self {
            Self::Answer => {
                // Only an outage ends the waiting.
                while node.state().is_connected() && node.health().await.is_err() {
                    yield_now().await;
                }
            }
            Self::Subscriptions => {
                while node.stats().subscriptions > 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
        node.close().await;
    }
}

/// Does not tell a caller that the node was closed meanwhile.
struct Forgets {
    publish: bool,
}

impl Forgets {
    async fn unless_closed<T, E>(
        &self,
        node: &Inner,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let before = node.state();
        let result = work.await;
        let closed = |state| state == ConnectionState::Closed;
        if result.is_err() && !closed(before) && closed(node.state()) {
            std::future::pending::<()>().await;
        }
        result
    }
}

#[async_trait]
impl NodeTwist for Forgets {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let publish = node.publish(channel, payload);
        match self.publish {
            true => self.unless_closed(node, publish).await,
            false => publish.await,
        }
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let subscribe = node.subscribe(request);
        match self.publish {
            true => subscribe.await,
            false => self.unless_closed(node, subscribe).await,
        }
    }
}

/// Tells success of what is under way when the node is closed, and is not sent any more.
struct ThrowsAway;

#[async_trait]
impl NodeTwist for ThrowsAway {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let before = node.state();
        let published = node.publish(channel, payload).await;
        let thrown_away = before != ConnectionState::Closed
            && node.state() == ConnectionState::Closed
            && published.is_err();
        match thrown_away {
            true => Ok(()),
            false => published,
        }
    }
}

struct ComesBack;

#[async_trait]
impl NodeTwist for ComesBack {
    async fn close(&self, node: &Inner) {
        if node.state().is_connected() {
            return node.close().await;
        }
        // Nothing ends it any more, not even the end of its last holder.
        std::mem::forget(Arc::clone(node));
    }
}

struct NeverEnds;

impl Pump for NeverEnds {
    fn on_end(&mut self, _out: &Out) {}
}

/// The queues of a node's readers, and their channels.
type Readers = Arc<Mutex<Vec<(Out, Vec<Channel>)>>>;

#[derive(Default)]
struct EndsAtOnce(Readers);

#[async_trait]
impl NodeTwist for EndsAtOnce {
    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let channels = tap.request.channels().to_vec();
        Some(Parts::pump(Known {
            channels,
            readers: Arc::clone(&self.0),
        }))
    }

    async fn close(&self, node: &Inner) {
        for (out, channels) in lock(&self.0).iter() {
            out.end();
            out.purge(channels);
        }
        node.close().await;
    }
}

/// Makes its reader's queue known.
struct Known {
    channels: Vec<Channel>,
    readers: Readers,
}

impl Pump for Known {
    fn begin(&mut self, out: &Out) {
        lock(&self.readers).push((out.clone(), self.channels.clone()));
    }
}

struct ClosesOnce(AtomicBool);

#[async_trait]
impl NodeTwist for ClosesOnce {
    async fn close(&self, node: &Inner) {
        if self.0.swap(true, Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        node.close().await;
    }
}

/// What a closed node does not call closed.
enum AfterClose {
    Health,
    Publish,
    Subscribe,
}

#[async_trait]
impl NodeTwist for AfterClose {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        node.publish(channel, payload)
            .await
            .map_err(|error| match (self, error.kind()) {
                (Self::Publish, PublishErrorKind::NotSent(NotSent::Closed)) => {
                    PublishError::not_sent(channel, NotSent::Unavailable, None)
                }
                _ => error,
            })
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        node.subscribe(request)
            .await
            .map_err(|error| match (self, error.kind()) {
                (Self::Subscribe, SubscribeErrorKind::Closed) => {
                    SubscribeError::new(SubscribeErrorKind::Unavailable, None)
                }
                _ => error,
            })
    }

    async fn health(&self, node: &Inner) -> Result<(), HealthError> {
        match (self, node.health().await) {
            (Self::Health, Err(error)) if error.kind() == HealthErrorKind::Closed => Ok(()),
            (_, health) => health,
        }
    }
}

struct TakesAll;

#[async_trait]
impl Control for TakesAll {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        match Straight.subscribe(below, channels, deferred).await {
            Err(error) if error.kind() == SubscribeErrorKind::Closed => Ok(Subscribed::InForce),
            subscribed => subscribed,
        }
    }
}

/// All nodes of the process.
struct ClosesAll(Arc<Mutex<Vec<Weak<dyn Backplane>>>>);

#[async_trait]
impl NodeTwist for ClosesAll {
    fn made(&self, node: &Inner) {
        lock(&self.0).push(Arc::downgrade(node));
    }

    async fn close(&self, node: &Inner) {
        let all: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        for other in all {
            other.close().await;
        }
        node.close().await;
    }
}

/// Connections that are not closed with their node.
struct Outlives(Arc<Mutex<Vec<Arc<MemoryLink>>>>);

#[async_trait]
impl LinkTwist for Outlives {
    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        lock(&self.0).push(Arc::clone(&line.link));
        line.link.subscribe(channels).await
    }

    async fn close(&self, _line: &Line) {}
}

/// Second connections, which are not closed with their node.
struct SecondOutlives(Arc<Mutex<Vec<MemoryLink>>>);

#[async_trait]
impl LinkTwist for SecondOutlives {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        let second = driver.connect(inbound.clone()).await?;
        lock(&self.0).push(second);
        driver.connect(inbound).await
    }
}

struct TaskOutlives;

#[async_trait]
impl NodeTwist for TaskOutlives {
    fn made(&self, _node: &Inner) {
        // Nobody owns it, and nothing ends it: that is what is wrong.
        tokio::spawn(std::future::pending::<()>());
    }
}

struct KeptAlive;

#[async_trait]
impl NodeTwist for KeptAlive {
    fn parts(&self, node: &Inner, _tap: &Tap) -> Option<Parts> {
        Some(Parts::control(Keeps(Arc::clone(node))))
    }
}

/// Holds its node.
struct Keeps(#[allow(dead_code)] Inner);

#[async_trait]
impl Control for Keeps {}

struct ClosesLater;

#[async_trait]
impl NodeTwist for ClosesLater {
    async fn close(&self, node: &Inner) {
        let node = Arc::clone(node);
        // It ends by itself, and nobody has to wait for it: that is what is wrong.
        tokio::spawn(async move {
            sleep(Duration::from_millis(400)).await;
            node.close().await;
        });
    }
}

struct HeldWhileAway;

#[async_trait]
impl NodeTwist for HeldWhileAway {
    fn made(&self, node: &Inner) {
        if !node.state().is_connected() {
            std::mem::forget(Arc::clone(node));
        }
    }
}
