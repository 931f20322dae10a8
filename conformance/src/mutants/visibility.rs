//! Wrong at V: visibility.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::{
    Channel, ConnectionState, Event, Events, HealthError, HealthErrorKind, Message, NodeId,
    PublishError, PublishErrorKind, StateCell, Stats,
};
use bytes::Bytes;

use super::harness::Wrong;
use super::loss::generation;
use super::node::{Inner, NodeTwist, Tap, Tasks, lock};
use super::pump::{OnMessage, Out, Parts};
use super::reconnection::Tells;
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "counts-failures-as-published",
        "V1",
        "published: expected 10, counted 11",
        "a message is counted before it is sent",
        || Wrong::new().nodes(|_| Counts(|stats| stats.published += stats.not_sent)),
    ),
    mutant!(
        "does-not-count-overflow",
        "V1",
        "expected 6 messages overflowed",
        "a full queue is not counted",
        || Wrong::new().nodes(|_| Counts(|stats| stats.overflowed = 0)),
    ),
    mutant!(
        "does-not-count-gaps",
        "V1",
        "gaps: expected 1, counted 0",
        "gaps are told and not counted",
        || Wrong::new().nodes(|_| Counts(|stats| stats.gaps = 0)),
    ),
    mutant!(
        "does-not-count-the-lost",
        "V1",
        "lost: expected",
        "messages that are known to be lost are not counted",
        || Wrong::new().nodes(|_| Counts(|stats| stats.lost = 0)),
    ),
    mutant!(
        "counts-the-first-connection-as-reconnect",
        "V1",
        "reconnects: expected 0, counted 1",
        "every connection counts as a reconnect",
        || Wrong::new().nodes(|_| Counts(|stats| stats.reconnects += 1)),
    ),
    mutant!(
        "counts-dead-subscriptions",
        "V1",
        "live subscriptions: expected 1, counted 2",
        "a dropped subscription is still counted",
        || Wrong::new().nodes(|_| CountsDead(Mutex::new(0))),
    ),
    mutant!(
        "has-no-events",
        "V1",
        "an outage made these events: []",
        "a documented callback is never called (channels_redis #406)",
        || Wrong::new()
            .nodes(|_| Silent(StateCell::new(ConnectionState::Connecting { attempt: 1 }))),
    ),
    mutant!(
        "every-attachment-is-the-first",
        "V1",
        "expected connected (generation 2), it is connected (generation 1)",
        "nobody can see that the node was away",
        || Wrong::new().nodes(|_| AlwaysFirst),
    ),
    mutant!(
        "health-always-passes",
        "V2",
        "kill: health passes in the outage",
        "the health check is green whatever happens (centrifugo #766)",
        || Wrong::new().nodes(|_| Health::Passes),
    ),
    mutant!(
        "health-is-the-state",
        "V2",
        "health passes in the outage",
        "the health check looks at the connection only (centrifugo #1189)",
        || Wrong::new().nodes(|_| Health::IsTheState),
    ),
    mutant!(
        "health-never-recovers",
        "V2",
        "expected health after the outage",
        "the health check remembers a failure for ever",
        || Wrong::new().nodes(|_| Health::Remembers(Mutex::new(false))),
    ),
    mutant!(
        "health-hangs-in-an-outage",
        "V2",
        "health does not answer within",
        "the health check waits for the broker",
        || Wrong::new().nodes(|_| Health::Waits),
    ),
    mutant!(
        "password-in-debug",
        "V3",
        "the password appears",
        "Debug of a node shows the whole URL",
        || Wrong::new().secret("hunter2").nodes(|_| ShowsUrl),
    ),
    mutant!(
        "password-in-errors",
        "V3",
        "the password appears",
        "errors show the whole URL",
        || Wrong::new()
            .secret("hunter2")
            .links(|| Tells("redis://app:hunter2@127.0.0.1:6379")),
    ),
    mutant!(
        "payload-in-errors",
        "V3",
        "a payload is in",
        "the error of a publish shows what was to be published",
        || Wrong::new().nodes(|_| ShowsPayload),
    ),
    mutant!(
        "every-node-has-the-same-id",
        "V4",
        "3 nodes have 1 different ids",
        "the id of a node is that of its image",
        || Wrong::new().nodes(|_| SameId),
    ),
    mutant!(
        "takes-the-receiver-for-the-publisher",
        "V4",
        "at first: node 1 was told that",
        "who receives a message has published it, as far as one is told",
        || Wrong::new().nodes(|_| Publisher::IsTheReceiver),
    ),
    mutant!(
        "own-messages-have-no-publisher",
        "V4",
        "at first: node 0 was told that 0000000000000000 published",
        "messages of the own node are nobody's",
        || Wrong::new().nodes(|_| Publisher::OwnIsNobody),
    ),
    mutant!(
        "every-connection-is-another-publisher",
        "V4",
        "after an outage: node 0 was told that",
        "messages carry the id of the connection, which changes with it",
        || Wrong::new().nodes(|_| Publisher::IsTheConnection),
    ),
    mutant!(
        "names-the-channel-of-the-broker",
        "V4",
        "at first: node 0 was told",
        "messages name the channel with the prefix",
        || Wrong::new().on_message(|message, out| {
            let full = Channel::new(format!("shop:{}", message.channel()));
            if let Ok(full) = full {
                let payload = message.payload().clone();
                out.message(Message::new(full, payload, message.publisher()));
            }
        }),
    ),
];

pub(super) struct Counts(pub(super) fn(&mut Stats));

#[async_trait]
impl NodeTwist for Counts {
    fn stats(&self, mut stats: Stats) -> Stats {
        (self.0)(&mut stats);
        stats
    }
}

/// The most subscriptions that there were.
struct CountsDead(Mutex<u64>);

#[async_trait]
impl NodeTwist for CountsDead {
    fn stats(&self, mut stats: Stats) -> Stats {
        let mut most = lock(&self.0);
        *most = stats.subscriptions.max(*most);
        stats.subscriptions = *most;
        stats
    }
}

/// What is done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    It,
    Not,
    /// Nor any other, to those who listen now.
    NoMore,
}

/// Does not tell all events of a node.
pub(super) struct OtherEvents {
    now: Arc<Mutex<Arc<StateCell>>>,
    tells: fn(&Event) -> Telling,
    tasks: Tasks,
}

impl OtherEvents {
    pub(super) fn telling(tells: fn(&Event) -> Telling) -> Self {
        Self {
            now: Arc::new(Mutex::new(fresh())),
            tells,
            tasks: Tasks::default(),
        }
    }

    /// What tells them, to tell more.
    pub(super) fn cell(&self) -> Arc<StateCell> {
        Arc::clone(&lock(&self.now))
    }
}

fn fresh() -> Arc<StateCell> {
    Arc::new(StateCell::new(ConnectionState::Connecting { attempt: 1 }))
}

#[async_trait]
impl NodeTwist for OtherEvents {
    fn made(&self, node: &Inner) {
        let (mut events, now, tells) = (node.events(), Arc::clone(&self.now), self.tells);
        self.tasks.spawn(async move {
            while let Some(event) = events.recv().await {
                let mut now = lock(&now);
                match (tells(&event), event) {
                    (Telling::It, Event::State(state)) => now.set(state),
                    (Telling::It, other) => now.tell(other),
                    (Telling::Not, _) => {}
                    (Telling::NoMore, _) => *now = fresh(),
                }
            }
        });
    }

    fn events(&self, _node: &Inner) -> Events {
        self.cell().events()
    }
}

/// Has events of its own, which do not come.
struct Silent(StateCell);

#[async_trait]
impl NodeTwist for Silent {
    fn events(&self, _node: &Inner) -> Events {
        self.0.events()
    }
}

struct AlwaysFirst;

#[async_trait]
impl NodeTwist for AlwaysFirst {
    fn state(&self, node: &Inner) -> ConnectionState {
        match node.state() {
            ConnectionState::Connected { .. } => ConnectionState::Connected { generation: 1 },
            other => other,
        }
    }
}

enum Health {
    IsTheState,
    Passes,
    Remembers(Mutex<bool>),
    Waits,
}

#[async_trait]
impl NodeTwist for Health {
    async fn health(&self, node: &Inner) -> Result<(), HealthError> {
        match self {
            Self::Passes => Ok(()),
            Self::IsTheState if node.state().is_connected() => Ok(()),
            Self::IsTheState => Err(HealthError::new(HealthErrorKind::Unavailable, None)),
            Self::Remembers(failed) => {
                let health = node.health().await;
                let mut failed = lock(failed);
                *failed |= health.is_err();
                match *failed {
                    true => Err(HealthError::new(HealthErrorKind::Unhealthy, None)),
                    false => health,
                }
            }
            Self::Waits => {
                while node.health().await.is_err() {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Ok(())
            }
        }
    }
}

struct ShowsUrl;

#[async_trait]
impl NodeTwist for ShowsUrl {
    fn debug(&self, node: &Inner, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{node:?} on redis://app:hunter2@127.0.0.1:6379")
    }
}

struct ShowsPayload;

#[async_trait]
impl NodeTwist for ShowsPayload {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        node.publish(channel, payload.clone())
            .await
            .map_err(|error| {
                let told = format!("cannot publish {}", String::from_utf8_lossy(&payload));
                match error.kind() {
                    PublishErrorKind::NotSent(why) => {
                        PublishError::not_sent(channel, why, Some(told.into()))
                    }
                    PublishErrorKind::Unknown(why) => {
                        PublishError::unknown(channel, why, Some(told.into()))
                    }
                }
            })
    }
}

/// The id of all nodes.
struct SameId;

#[async_trait]
impl NodeTwist for SameId {
    fn node_id(&self, _node: &Inner) -> NodeId {
        NodeId::from_u64(7)
    }
}

/// Who is told to have published a message.
#[derive(Clone, Copy)]
enum Publisher {
    IsTheConnection,
    IsTheReceiver,
    OwnIsNobody,
}

#[async_trait]
impl NodeTwist for Publisher {
    fn parts(&self, node: &Inner, tap: &Tap) -> Option<Parts> {
        let (this, own, watch) = (*self, node.node_id(), tap.watch.clone());
        Some(Parts::pump(OnMessage(
            move |message: Message, out: &Out| {
                let publisher = message.publisher();
                let told = match this {
                    Self::IsTheConnection => {
                        let again = generation(&watch.current()).saturating_sub(1);
                        NodeId::from_u64(publisher.as_u64().wrapping_add(again))
                    }
                    Self::IsTheReceiver => own,
                    Self::OwnIsNobody if publisher == own => NodeId::from_u64(0),
                    Self::OwnIsNobody => publisher,
                };
                let channel = message.channel().clone();
                out.message(Message::new(channel, message.into_payload(), told));
            },
        )))
    }
}
