//! Wrong at L: loss in an outage.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Link, LinkPublishError};
use backplane_core::{
    Channel, ConnectionState, Event, Events, Gap, Message, NodeId, NotSent, OutageAccount,
    PublishError, PublishErrorKind, StateCell, StateWatch, SubscribeError, SubscribeErrorKind,
    Subscribed, SubscriptionHandle, Unknown,
};
use bytes::Bytes;

use super::driver::{Line, LinkTwist, is_probe};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, Tasks, lock};
use super::pump::{Control, OnGap, Out, Parts, Straight};
use super::visibility::{OtherEvents, Telling};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "publish-waits-for-the-broker",
        "L1",
        "a publish in the outage did not end within",
        "publishing in an outage waits for its end (centrifugo #925)",
        || Wrong::new().nodes(|_| Outcome::Waits),
    ),
    mutant!(
        "publish-in-an-outage-succeeds",
        "L1",
        "a publish in the outage succeeded",
        "a publish that was not sent returns success (phoenix_pubsub_redis)",
        || Wrong::new().nodes(|_| Outcome::Succeeds),
    ),
    mutant!(
        "publish-in-an-outage-is-unknown",
        "L1",
        "expected NotSent(Unavailable), got Unknown",
        "one error for everything: nobody knows what may be sent again",
        || Wrong::new().nodes(|_| Outcome::IsUnknown),
    ),
    mutant!(
        "sends-later-what-was-not-sent",
        "L2",
        "reported as not sent, and delivered",
        "a message of an outage is kept and sent after it (default of the NATS client)",
        || Wrong::new()
            .nodes(|_| SendsLater::of(|kind| matches!(kind, PublishErrorKind::NotSent(_)))),
    ),
    mutant!(
        "calls-unknown-not-sent",
        "L3",
        "was reported as not sent, and arrived",
        "a publish without an answer is reported as not sent",
        || Wrong::new().nodes(|_| Outcome::IsNotSent),
    ),
    mutant!(
        "retries-after-unknown",
        "L3",
        "arrived 2 times",
        "a publish without an answer is sent again",
        || Wrong::new()
            .nodes(|_| SendsLater::of(|kind| matches!(kind, PublishErrorKind::Unknown(_)))),
    ),
    mutant!(
        "loses-a-message-now-and-then",
        "L3",
        "accepted messages were lost",
        "one in fifty messages is dropped and reported as sent",
        || Wrong::new().nodes(|_| LosesSome(AtomicU64::new(0))),
    ),
    mutant!(
        "replays-the-outage",
        "L4",
        "delivered later",
        "what others published in a node's outage is delivered after it, and nothing declares that",
        || {
            let missed = Missed::default();
            Wrong::new().nodes(move |_| Replays(missed.clone()))
        },
    ),
    mutant!(
        "has-no-heartbeat",
        "L6",
        "freeze: the idle node did not notice",
        "a connection that says nothing is believed to live",
        || Wrong::new().spec(|spec| {
            let mut spec = spec.clone();
            spec.options = spec.options.heartbeat_interval(Duration::from_secs(3600));
            spec
        }),
    ),
    mutant!(
        "state-stays-connected",
        "L6",
        "kill: the idle node did not notice",
        "the state tells the first connection only",
        || Wrong::new().nodes(|_| StaysConnected::new()),
    ),
    mutant!(
        "takes-a-ping-for-a-delivery",
        "L7",
        "a mute broker was not noticed",
        "the heartbeat asks for an answer and not for a delivery (centrifugo #1189, redis #6545)",
        || Wrong::new().links(|| PingsOnly),
    ),
    mutant!(
        "streams-end-in-an-outage",
        "L9",
        "the stream ended before",
        "a subscription ends when its connection does",
        || Wrong::new().on_gap(|_, out| out.end()),
    ),
    mutant!(
        "handles-die-in-an-outage",
        "L9",
        "a handle from before does not work",
        "a handle belongs to the connection on which it was made",
        || Wrong::new().parts(|tap| Parts::control(Dies(tap.watch.clone()))),
    ),
    mutant!(
        "events-end-in-an-outage",
        "L9",
        "three outages made only 0 events",
        "the events belong to the connection on which they were asked for",
        || Wrong::new().nodes(|_| OtherEvents::telling(|event| match event {
            Event::State(ConnectionState::Disconnected { .. }) => Telling::NoMore,
            _ => Telling::It,
        })),
    ),
];

/// What is made of the outcome of a publish.
pub(super) enum Outcome {
    IsNotSent,
    IsUnknown,
    Succeeds,
    Waits,
}

#[async_trait]
impl NodeTwist for Outcome {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if matches!(self, Self::Waits) && !node.state().is_connected() {
            node.watch().connected().await;
        }
        let error = match node.publish(channel, payload).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match (self, error.kind()) {
            (Self::Succeeds, PublishErrorKind::NotSent(NotSent::Unavailable)) => Ok(()),
            (Self::IsUnknown, PublishErrorKind::NotSent(NotSent::Unavailable)) => Err(
                PublishError::unknown(channel, Unknown::ConnectionLost, None),
            ),
            (Self::IsNotSent, PublishErrorKind::Unknown(_)) => {
                Err(PublishError::not_sent(channel, NotSent::Unavailable, None))
            }
            _ => Err(error),
        }
    }
}

/// Keeps messages that failed in some way, and sends them before the next that may succeed.
pub(super) struct SendsLater {
    which: fn(PublishErrorKind) -> bool,
    kept: Mutex<Vec<(Channel, Bytes)>>,
}

impl SendsLater {
    pub(super) fn of(which: fn(PublishErrorKind) -> bool) -> Self {
        Self {
            which,
            kept: Mutex::default(),
        }
    }
}

#[async_trait]
impl NodeTwist for SendsLater {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if node.state().is_connected() {
            let kept = std::mem::take(&mut *lock(&self.kept));
            for (channel, payload) in kept {
                if node.publish(&channel, payload.clone()).await.is_err() {
                    lock(&self.kept).push((channel, payload));
                }
            }
        }
        let result = node.publish(channel, payload.clone()).await;
        if result
            .as_ref()
            .is_err_and(|error| (self.which)(error.kind()))
        {
            lock(&self.kept).push((channel.clone(), payload));
        }
        result
    }
}

struct LosesSome(AtomicU64);

#[async_trait]
impl NodeTwist for LosesSome {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if self.0.fetch_add(1, Ordering::Relaxed) % 50 == 49 {
            return Ok(());
        }
        node.publish(channel, payload).await
    }
}

/// A node, whether it is away, and what it has missed then.
type MissedBy = (NodeId, StateWatch, Arc<Mutex<Vec<Message>>>);

/// What each node has missed, as long as it is away.
#[derive(Clone, Default)]
pub(super) struct Missed {
    of: Arc<Mutex<Vec<MissedBy>>>,
    backwards: bool,
}

impl Missed {
    /// Delivered with the latest message first.
    pub(super) fn backwards() -> Self {
        Self {
            backwards: true,
            ..Self::default()
        }
    }
}

/// Delivers after an outage what was published in it. The gap knows of no loss.
pub(super) struct Replays(pub(super) Missed);

impl Replays {
    /// What a node has missed.
    pub(super) fn of(&self, node: NodeId) -> Option<Arc<Mutex<Vec<Message>>>> {
        let all = lock(&self.0.of);
        let (_, _, missed) = all.iter().find(|(id, _, _)| *id == node)?;
        Some(Arc::clone(missed))
    }
}

#[async_trait]
impl NodeTwist for Replays {
    fn made(&self, node: &Inner) {
        lock(&self.0.of).push((node.node_id(), node.watch(), Arc::default()));
    }

    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        node.publish(channel, payload.clone()).await?;
        for (_, watch, missed) in lock(&self.0.of).iter() {
            if !watch.current().is_connected() {
                let message = Message::new(channel.clone(), payload.clone(), node.node_id());
                lock(missed).push(message);
            }
        }
        Ok(())
    }

    fn parts(&self, node: &Inner, _tap: &Tap) -> Option<Parts> {
        let (missed, backwards) = (self.of(node.node_id())?, self.0.backwards);
        Some(Parts::pump(OnGap(move |_, out: &Out| {
            out.gap(Gap::outage(OutageAccount::default()));
            let mut missed = std::mem::take(&mut *lock(&missed));
            if backwards {
                missed.reverse();
            }
            missed.into_iter().for_each(|message| out.message(message));
        })))
    }
}

/// Mirrors the state until the node was connected once.
struct StaysConnected {
    state: Arc<StateCell>,
    mirror: Tasks,
}

impl StaysConnected {
    fn new() -> Self {
        let first = ConnectionState::Connecting { attempt: 1 };
        Self {
            state: Arc::new(StateCell::new(first)),
            mirror: Tasks::default(),
        }
    }
}

#[async_trait]
impl NodeTwist for StaysConnected {
    fn made(&self, node: &Inner) {
        self.state.set(node.state());
        let (state, mut watch) = (Arc::clone(&self.state), node.watch());
        self.mirror.spawn(async move {
            if let Some(connected) = watch.wait_for(ConnectionState::is_connected).await {
                state.set(connected);
            }
        });
    }

    fn state(&self, _node: &Inner) -> ConnectionState {
        self.state.current()
    }

    fn watch(&self, _node: &Inner) -> StateWatch {
        self.state.watch()
    }

    fn events(&self, _node: &Inner) -> Events {
        self.state.events()
    }
}

struct PingsOnly;

#[async_trait]
impl LinkTwist for PingsOnly {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        if is_probe(channel) {
            line.link.ping().await.map_err(LinkPublishError::Unknown)?;
            line.inbound.deliver(channel.as_bytes(), frame);
            return Ok(());
        }
        line.link.publish(channel, frame).await
    }
}

struct Dies(StateWatch);

#[async_trait]
impl Control for Dies {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        if generation(&self.0.current()) > 1 {
            return Err(SubscribeError::new(SubscribeErrorKind::Closed, None));
        }
        Straight.subscribe(below, channels, deferred).await
    }
}

/// How often a node was attached; 0 while it is not.
pub(super) const fn generation(state: &ConnectionState) -> u64 {
    match state {
        ConnectionState::Connected { generation } => *generation,
        _ => 0,
    }
}
