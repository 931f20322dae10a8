//! Wrong at S9, L11, R10 and R11: when a request is cut, an attempt is refused, or the way is slow.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkErrorKind, LinkPublishError,
};
use backplane_core::{
    Channel, PublishError, PublishErrorKind, Subscribe, SubscribeError, Subscription, Unknown,
};
use backplane_memory::{MemoryDriver, MemoryLink};
use bytes::Bytes;

use super::driver::{Line, LinkTwist, is_probe};
use super::harness::{Trouble, Wrong};
use super::loss::SendsLater;
use super::node::{Inner, NodeTwist, lock};
use super::{Mutant, mutant};
use crate::harness::Fault;

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "cut-subscribe-told-as-ok-and-forgotten",
        "S9",
        "a subscribe that was told Ok has 0 subscriptions on the broker",
        "a subscribe that got no answer is taken for done, and is not made again",
        || Wrong::new().in_trouble(|wrong, trouble| wrong.nodes(move |_| CutSubscribe {
            slip: Cut::IsForgotten,
            trouble: trouble.clone(),
        })),
    ),
    mutant!(
        "cut-subscribe-fails-and-stays",
        "S9",
        "after a subscribe that was cut, and it is",
        "a subscribe that got no answer fails, and comes back with the reconnection",
        || Wrong::new().in_trouble(|wrong, trouble| wrong.nodes(move |_| CutSubscribe {
            slip: Cut::Stays(Mutex::default()),
            trouble: trouble.clone(),
        })),
    ),
    mutant!(
        "cut-subscribe-never-returns",
        "S9",
        "a subscribe whose connection broke did not end within",
        "who waits for an answer waits for ever",
        || Wrong::new().in_trouble(|wrong, trouble| wrong.nodes(move |_| CutSubscribe {
            slip: Cut::NeverReturns,
            trouble: trouble.clone(),
        })),
    ),
    mutant!(
        "cut-publish-told-as-not-sent",
        "L11",
        "was reported as not sent, and arrived",
        "a connection that broke is reported as a message that was not sent",
        || Wrong::new().links(|| CutPublish::IsNotSent),
    ),
    mutant!(
        "cut-publish-told-as-sent",
        "L11",
        "accepted messages were lost",
        "what was handed to the socket is reported as sent",
        || Wrong::new().links(|| CutPublish::IsSent),
    ),
    mutant!(
        "cut-publish-sent-again",
        "L11",
        "arrived 2 times",
        "what got no answer is sent again on the next connection",
        || Wrong::new().nodes(|_| SendsLater::of(|kind| kind == LOST)),
    ),
    mutant!(
        "cut-publish-never-returns",
        "L11",
        "a publish whose connection broke did not end within",
        "an answer is waited for on a connection that is gone",
        || Wrong::new().nodes(|_| NeverReturns),
    ),
    mutant!(
        "connecting-never-times-out",
        "R10",
        "accept and never answer: the eager constructor did not end within",
        "a broker that accepts and says nothing is waited for",
        || Wrong::new().spec(|spec| {
            let mut spec = spec.clone();
            spec.options = spec.options.connect_timeout(Duration::from_secs(3600));
            spec
        }),
    ),
    mutant!(
        "connects-anew-for-each-publish",
        "R10",
        "publish failed",
        "a publish needs a connection of its own, so who was connected feels that others are refused",
        || Wrong::new().links(ConnectsAnew::default),
    ),
    mutant!(
        "gives-up-when-refused",
        "R10",
        "the node does not reconnect",
        "a node that was refused once is refused for ever",
        || Wrong::new().in_trouble(|wrong, trouble| wrong.links(move || GivesUpWhenRefused {
            trouble: trouble.clone(),
            gave_up: AtomicBool::new(false),
        })),
    ),
    mutant!(
        "takes-a-slow-way-for-an-outage",
        "R11",
        "delay is told as an outage",
        "the heartbeat has no patience, whatever was configured",
        || hasty(true),
    ),
    mutant!(
        "fails-what-is-answered-late",
        "R11",
        "a publish on a slow way failed",
        "a publish has no patience, whatever was configured",
        || hasty(false),
    ),
    mutant!(
        "sends-again-what-is-answered-late",
        "R11",
        "on a slow way, expected one of",
        "a publish without an answer is sent again after a while, on a connection that is well",
        || slips(|| Slip::SendsAgain),
    ),
    mutant!(
        "overtakes-on-a-slow-way",
        "R11",
        "on a slow way, expected one of",
        "on a slow way every other message takes another way",
        || slips(|| Slip::Overtakes),
    ),
    mutant!(
        "loses-the-rest-of-a-partial-read",
        "R11",
        "on a slow way, expected one of",
        "what does not come in one piece is taken for the whole",
        || slips(|| Slip::LosesTheRest),
    ),
];

/// An answer that takes longer came on a slow way.
const SLOW: Duration = Duration::from_millis(6);

/// What is told of a publish whose connection broke.
const LOST: PublishErrorKind = PublishErrorKind::Unknown(Unknown::ConnectionLost);

/// Makes something else of a subscribe that is cut.
struct CutSubscribe {
    slip: Cut,
    trouble: Trouble,
}

enum Cut {
    IsForgotten,
    Stays(Mutex<Vec<Subscription>>),
    NeverReturns,
}

#[async_trait]
impl NodeTwist for CutSubscribe {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let failed = match node.subscribe(request.clone()).await {
            Ok(subscription) => return Ok(subscription),
            Err(error) => error,
        };
        if !self
            .trouble
            .was(|fault| matches!(fault, Fault::CutInSubscribe(_)))
        {
            return Err(failed);
        }
        match &self.slip {
            Cut::IsForgotten => node.subscribe(Subscribe::to([]).deferred()).await,
            Cut::Stays(all) => {
                let again = node.subscribe(request.deferred()).await?;
                lock(all).push(again);
                Err(failed)
            }
            Cut::NeverReturns => std::future::pending().await,
        }
    }
}

/// What is made of a publish that failed with the connection.
enum CutPublish {
    IsNotSent,
    IsSent,
}

#[async_trait]
impl LinkTwist for CutPublish {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        let Err(error) = line.link.publish(channel, frame).await else {
            return Ok(());
        };
        match self {
            Self::IsSent if !is_probe(channel) => Ok(()),
            Self::IsSent => Err(error),
            Self::IsNotSent => {
                let (LinkPublishError::NotSent(error) | LinkPublishError::Unknown(error)) = error;
                Err(LinkPublishError::NotSent(error))
            }
        }
    }
}

struct NeverReturns;

#[async_trait]
impl NodeTwist for NeverReturns {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        match node.publish(channel, payload).await {
            Err(error) if error.kind() == LOST => std::future::pending().await,
            told => told,
        }
    }
}

#[derive(Default)]
struct ConnectsAnew(Mutex<Option<MemoryDriver>>);

#[async_trait]
impl LinkTwist for ConnectsAnew {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        *lock(&self.0) = Some(driver.clone());
        driver.connect(inbound).await
    }

    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        let driver = lock(&self.0).clone();
        let none = || LinkError::new(LinkErrorKind::Lost, "there was no connection");
        let driver = driver.ok_or_else(|| LinkPublishError::NotSent(none()))?;
        if is_probe(channel) {
            return line.link.publish(channel, frame).await;
        }
        let own = driver.connect(line.inbound.clone()).await;
        own.map_err(LinkPublishError::NotSent)?
            .publish(channel, frame)
            .await
    }
}

/// Does not connect again when that was refused once.
struct GivesUpWhenRefused {
    trouble: Trouble,
    gave_up: AtomicBool,
}

#[async_trait]
impl LinkTwist for GivesUpWhenRefused {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        if self.gave_up.load(Ordering::Relaxed) {
            let gone = "no more tries";
            return Err(LinkError::new(LinkErrorKind::Unreachable, gone));
        }
        let link = driver.connect(inbound).await;
        let refused = link.is_err() && self.trouble.is(|fault| fault == Fault::RefuseNew);
        self.gave_up.store(refused, Ordering::Relaxed);
        link
    }
}

const fn is_slow(fault: Fault) -> bool {
    matches!(fault, Fault::Delay)
}

/// A backend without patience on a slow way, with its probes or with everything else.
fn hasty(probes: bool) -> Wrong {
    Wrong::new().in_trouble(|wrong, trouble| {
        wrong.links(move || Hasty {
            trouble: trouble.clone(),
            probes,
        })
    })
}

struct Hasty {
    trouble: Trouble,
    probes: bool,
}

#[async_trait]
impl LinkTwist for Hasty {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        if is_probe(channel) != self.probes || !self.trouble.is(is_slow) {
            return line.link.publish(channel, frame).await;
        }
        let late = || LinkError::new(LinkErrorKind::Timeout, "no answer yet");
        let published = tokio::time::timeout(SLOW, line.link.publish(channel, frame)).await;
        if published.is_err() && self.probes {
            line.inbound.lost(late());
        }
        published.unwrap_or_else(|_| Err(LinkPublishError::Unknown(late())))
    }
}

/// A backend that slips on a slow way.
fn slips(slip: fn() -> Slip) -> Wrong {
    Wrong::new().in_trouble(|wrong, trouble| {
        wrong.nodes(move |_| SlowWay {
            slip: slip(),
            trouble: trouble.clone(),
            count: AtomicU64::new(0),
        })
    })
}

/// What goes wrong on a slow way.
enum Slip {
    SendsAgain,
    Overtakes,
    LosesTheRest,
}

struct SlowWay {
    slip: Slip,
    trouble: Trouble,
    count: AtomicU64,
}

#[async_trait]
impl NodeTwist for SlowWay {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        mut payload: Bytes,
    ) -> Result<(), PublishError> {
        if self.trouble.is(is_slow) {
            match self.slip {
                Slip::SendsAgain => {
                    let first = node.publish(channel, payload.clone());
                    if let Ok(told) = tokio::time::timeout(SLOW, first).await {
                        return told;
                    }
                }
                Slip::Overtakes if self.count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => {
                    tokio::time::sleep(SLOW).await;
                }
                Slip::LosesTheRest => payload.truncate(payload.len() / 2),
                Slip::Overtakes => {}
            }
        }
        node.publish(channel, payload).await
    }
}
