//! Wrong at L10, B6, R12 and R13: the broker's own limits.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkErrorKind, LinkPublishError,
};
use backplane_core::{
    Channel, ConnectError, ConnectErrorKind, Delivery, Gap, NotSent, PublishError,
    PublishErrorKind, Unknown,
};
use backplane_memory::{MemoryDriver, MemoryLink};
use bytes::Bytes;

use super::driver::{Line, LinkTwist, is_probe};
use super::gaps::CountsMore;
use super::harness::{Made, Make, Trouble, Wrong};
use super::loss::{Outcome, SendsLater};
use super::node::{Inner, NodeTwist, Tap, WithParts};
use super::pump::{OnGap, Out, Parts, Pump};
use super::reconnection::StaysAwayAfter;
use super::{Mutant, mutant};
use crate::harness::{Fault, NodeSpec};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "refusal-told-as-unknown",
        "L10",
        "expected a delivery or NotSent(Refused), got Unknown(ConnectionLost)",
        "every error of a publish is an unknown outcome",
        || Wrong::new().nodes(|_| ToldAs::Unknown),
    ),
    mutant!(
        "refusal-told-as-success",
        "L10",
        "did not arrive within",
        "the answer to a publish is not looked at",
        || Wrong::new().nodes(|_| ToldAs::Success),
    ),
    mutant!(
        "refusal-told-as-unavailable",
        "L10",
        "expected a delivery or NotSent(Refused), got NotSent(Unavailable)",
        "who is told to wait for the connection waits for ever",
        || Wrong::new().nodes(|_| ToldAs::Unavailable),
    ),
    mutant!(
        "refusal-is-an-outage",
        "L10",
        "the refusal became an outage",
        "every error reply is a reason to connect again",
        || Wrong::new().links(|| RefusalEndsLink { probes: false }),
    ),
    mutant!(
        "a-refused-probe-is-an-outage",
        "L10",
        "the refusal became an outage",
        "a heartbeat that the broker refuses is taken for one that it did not answer",
        || Wrong::new().links(|| RefusalEndsLink { probes: true }),
    ),
    mutant!(
        "refused-is-sent-later",
        "L10",
        "nothing was accepted, and delivered was",
        "what the broker refused is kept and sent again",
        || Wrong::new()
            .nodes(|_| SendsLater::of(|kind| kind == PublishErrorKind::NotSent(NotSent::Refused))),
    ),
    mutant!(
        "gives-up-when-full",
        "R12",
        "the node does not reconnect",
        "a broker that says no is not asked again",
        || Wrong::new().links(|| GivesUpAt::new(LinkErrorKind::Refused)),
    ),
    mutant!(
        "full-is-told-as-unreachable",
        "R12",
        "the broker has no room: expected Refused, got Unreachable",
        "the broker's words are thrown away with the connection that carried them",
        || Wrong::new().links(|| Tells::kind(LinkErrorKind::Refused)),
    ),
    mutant!(
        "hangs-when-full",
        "R12",
        "the broker has no room: expected Refused, got Timeout",
        "the constructor waits for room",
        || Wrong::new().links(|| WaitsForRoom),
    ),
    mutant!(
        "connects-for-each-publish",
        "R12",
        "publish failed",
        "a connection is opened for each publish, as scripts do",
        || Wrong::new().links(|| ConnectsForEach(OnceLock::new())),
    ),
    mutant!(
        "revoked-gives-up",
        "R13",
        "the node does not reconnect",
        "a password that was wrong once is wrong for ever",
        || Wrong::new().links(|| GivesUpAt::new(LinkErrorKind::Unauthorized)),
    ),
    mutant!(
        "revoked-told-as-lost",
        "R13",
        "the broker takes no credentials: the node does not say that it is refused",
        "a node without credentials looks like one without a network",
        || Wrong::new().links(|| Tells::kind(LinkErrorKind::Unauthorized)),
    ),
    mutant!(
        "secret-in-the-refusal",
        "R13",
        "the refusal tells the password",
        "the command that was refused is part of the error",
        || Wrong::new()
            .secret("hunter2")
            .links(|| Tells::words("-WRONGPASS AUTH app hunter2")),
    ),
    mutant!(
        "publishes-of-a-revoked-node-are-unknown",
        "R13",
        "expected NotSent, got Err",
        "an outage for want of credentials leaves the outcome of a publish open",
        || Wrong::new().in_trouble(
            |wrong, trouble| wrong.nodes(move |_| { RevokedIsUnknown(trouble.clone()) })
        ),
    ),
    mutant!(
        "start-error-hides-the-credentials",
        "R13",
        "the broker takes no credentials: expected Unauthorized, got Unreachable",
        "the eager constructor knows one kind of error",
        || Wrong::new().make(AlwaysUnreachable),
    ),
    mutant!(
        "overrun-loses-silently",
        "B6",
        "messages are lost without a gap",
        "a connection that the broker broke off is replaced, and nobody is told",
        || after_an_overrun(|trouble, _| Parts::pump(OnGap(move |gap, out: &Out| {
            if !trouble.was(overrun) {
                out.gap(gap);
            }
        }))),
    ),
    mutant!(
        "overrun-counts-one-too-many",
        "B6",
        "expected a gap of Some(",
        "the first message after the outage is counted as missed",
        || after_an_overrun(|trouble, _| Parts::pump(CountsMore::only(trouble, overrun))),
    ),
    mutant!(
        "overrun-is-told-twice",
        "B6",
        "one outage, and more than one gap",
        "the lost messages and the lost connection are a gap each",
        || after_an_overrun(|trouble, _| Parts::pump(OnGap(move |gap: Gap, out: &Out| {
            if trouble.was(overrun) {
                out.gap(gap.clone());
            }
            out.gap(gap);
        }))),
    ),
    mutant!(
        "after-an-overrun-all-comes-twice",
        "B6",
        "expected message",
        "the subscription of the old connection is left in place",
        || after_an_overrun(|trouble, _| Parts::pump(Doubles { trouble, times: 1 })),
    ),
    mutant!(
        "an-overrun-node-stays-away",
        "B6",
        "the node does not notice that it was broken off, and recover",
        "a node that the broker threw out does not come back",
        || Wrong::new().in_trouble(
            |wrong, trouble| wrong.links(move || { StaysAwayAfter::such(&trouble, overrun) })
        ),
    ),
];

/// What a refusal is told as.
enum ToldAs {
    Unknown,
    Success,
    Unavailable,
}

#[async_trait]
impl NodeTwist for ToldAs {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let published = node.publish(channel, payload).await;
        let refused = PublishErrorKind::NotSent(NotSent::Refused);
        if !published.as_ref().is_err_and(|e| e.kind() == refused) {
            return published;
        }
        match self {
            Self::Unknown => {
                let why = Unknown::ConnectionLost;
                Err(PublishError::unknown(channel, why, None))
            }
            Self::Success => Ok(()),
            Self::Unavailable => Err(PublishError::not_sent(channel, NotSent::Unavailable, None)),
        }
    }
}

struct RefusalEndsLink {
    probes: bool,
}

#[async_trait]
impl LinkTwist for RefusalEndsLink {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        let published = line.link.publish(channel, frame).await;
        if published.is_err() && is_probe(channel) == self.probes {
            let told = "an error reply";
            line.inbound.lost(LinkError::new(LinkErrorKind::Lost, told));
        }
        published
    }
}

/// Does not connect again after an error of this kind.
struct GivesUpAt {
    kind: LinkErrorKind,
    gave_up: AtomicBool,
}

impl GivesUpAt {
    fn new(kind: LinkErrorKind) -> Self {
        Self {
            kind,
            gave_up: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl LinkTwist for GivesUpAt {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        if self.gave_up.load(Ordering::Relaxed) {
            return Err(LinkError::new(self.kind, "no more tries"));
        }
        let link = driver.connect(inbound).await;
        let refused = link.as_ref().is_err_and(|error| error.kind() == self.kind);
        self.gave_up.store(refused, Ordering::Relaxed);
        link
    }
}

/// Tells something else than the broker did.
struct Tells {
    /// An error of this kind.
    of: LinkErrorKind,
    /// As one of this kind.
    kind: LinkErrorKind,
    /// In these words.
    words: &'static str,
}

impl Tells {
    const fn kind(of: LinkErrorKind) -> Self {
        Self {
            of,
            kind: LinkErrorKind::Unreachable,
            words: "no connection",
        }
    }

    const fn words(words: &'static str) -> Self {
        Self {
            of: LinkErrorKind::Unauthorized,
            kind: LinkErrorKind::Unauthorized,
            words,
        }
    }
}

#[async_trait]
impl LinkTwist for Tells {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        let link = driver.connect(inbound).await;
        link.map_err(|error| match error.kind() == self.of {
            true => LinkError::new(self.kind, self.words),
            false => error,
        })
    }
}

struct WaitsForRoom;

#[async_trait]
impl LinkTwist for WaitsForRoom {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        match driver.connect(inbound).await {
            Err(error) if error.kind() == LinkErrorKind::Refused => std::future::pending().await,
            connected => connected,
        }
    }
}

/// The driver, once it was used.
struct ConnectsForEach(OnceLock<MemoryDriver>);

#[async_trait]
impl LinkTwist for ConnectsForEach {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        self.0.get_or_init(|| driver.clone());
        driver.connect(inbound).await
    }

    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        let Some(driver) = self.0.get() else {
            return line.link.publish(channel, frame).await;
        };
        let one_more = driver.connect(line.inbound.clone()).await;
        let one_more = one_more.map_err(LinkPublishError::NotSent)?;
        one_more.publish(channel, frame).await
    }
}

/// A backend with such parts, which are told what trouble there was.
fn after_an_overrun(parts: fn(Trouble, &Tap) -> Parts) -> Wrong {
    Wrong::new().in_trouble(|wrong, trouble| {
        wrong.nodes(move |_| {
            let trouble = trouble.clone();
            WithParts(move |tap: &Tap| parts(trouble.clone(), tap))
        })
    })
}

const fn overrun(fault: Fault) -> bool {
    matches!(fault, Fault::Overrun(_))
}

/// Delivers everything once more for each time that the node was overrun.
struct Doubles {
    trouble: Trouble,
    times: usize,
}

impl Pump for Doubles {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) => {
                (0..self.times).for_each(|_| out.message(message.clone()));
            }
            Delivery::Gap(gap) => {
                self.times += usize::from(self.trouble.was(overrun));
                out.gap(gap);
            }
        }
    }
}

/// Does not know what became of a message when the credentials were taken back.
struct RevokedIsUnknown(Trouble);

#[async_trait]
impl NodeTwist for RevokedIsUnknown {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        match self.0.is(|fault| fault == Fault::RevokeAuth) {
            true => Outcome::IsUnknown.publish(node, channel, payload).await,
            false => node.publish(channel, payload).await,
        }
    }
}

struct AlwaysUnreachable;

#[async_trait]
impl Make for AlwaysUnreachable {
    async fn make(&self, harness: &Wrong, spec: &NodeSpec) -> Made {
        harness.plain(spec).await.map_err(|error| {
            if error.kind() != ConnectErrorKind::Unauthorized {
                return error;
            }
            let endpoint = error.endpoint().to_owned();
            ConnectError::new(ConnectErrorKind::Unreachable, endpoint, Some(error.into()))
        })
    }
}
