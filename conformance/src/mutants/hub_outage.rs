//! Wrong at H16, H17 and H23: a hub in an outage.

use std::sync::Mutex;

use async_trait::async_trait;
use backplane_core::hub::{DeliveryMode, HubError, Others, Payload, SendError, Sent};
use backplane_core::{Gap, NotSent, PublishError};

use super::harness::Wrong;
use super::hubs::{Here, HubTwist};
use super::node::lock;
use super::{Mutant, mutant};
use crate::hub::{ClientSpec, HubGaps, HubSpec, Recipients};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "always-waits-for-the-broker",
        "H16",
        "2 connections of the node were to be reached, and 0 are told",
        "messages go to the broker first, whatever was asked for",
        || Wrong::new().hubs(Delivers(DeliveryMode::ThroughBackplane)),
    ),
    mutant!(
        "local-first-tells-success-in-an-outage",
        "H16",
        "a send in an outage was told as",
        "a message that reached the own node has been sent",
        || Wrong::new().hubs(TellsSuccess(DeliveryMode::LocalFirst)),
    ),
    mutant!(
        "nobody-comes-in-an-outage",
        "H16",
        "connect failed",
        "a client can only be connected while the node is attached",
        || Wrong::new().hubs(Closed),
    ),
    mutant!(
        "local-first-sends-it-again-later",
        "H16",
        "after the outage",
        "what was told as not sent is kept and sent after the outage",
        || Wrong::new().hubs(Again::new(DeliveryMode::LocalFirst)),
    ),
    mutant!(
        "unknown-is-told-as-not-sent",
        "H16",
        "what arrived was told as not sent",
        "every send that failed is told as not sent",
        || Wrong::new().hubs(NeverUnknown),
    ),
    mutant!(
        "always-local-first",
        "H17",
        "here, and",
        "the own node gets a message at once, whatever was asked for",
        || Wrong::new().hubs(Delivers(DeliveryMode::LocalFirst)),
    ),
    mutant!(
        "through-the-backplane-tells-success-in-an-outage",
        "H17",
        "a send in an outage was told as",
        "who waits for the broker is not told that it did not come",
        || Wrong::new().hubs(TellsSuccess(DeliveryMode::ThroughBackplane)),
    ),
    mutant!(
        "through-the-backplane-sends-it-again-later",
        "H17",
        "after the outage",
        "what was told as not sent is kept and sent after the outage",
        || Wrong::new().hubs(Again::new(DeliveryMode::ThroughBackplane)),
    ),
    mutant!(
        "the-framework-is-told-no-gap",
        "H23",
        "neither a gap nor the end of the gaps came",
        "a gap ends where the hub reads the subscription",
        || Wrong::new().hubs(NoGap),
    ),
    mutant!(
        "the-framework-is-told-each-gap-twice",
        "H23",
        "another gap was told after two outages",
        "each of two channels of the hub tells the gap",
        || Wrong::new().hubs(Twice::default()),
    ),
    mutant!(
        "gaps-are-told-to-everybody",
        "H23",
        "clients should be told",
        "connections that did not ask for gaps are told them",
        || Wrong::new().hubs(ToEverybody),
    ),
];

/// Delivers in one way whatever was asked for.
struct Delivers(DeliveryMode);

impl HubTwist for Delivers {
    fn spec(&self, asked: HubSpec) -> HubSpec {
        asked.delivery(self.0)
    }
}

/// Tells every failure as success, in this way of delivery.
struct TellsSuccess(DeliveryMode);

#[async_trait]
impl HubTwist for TellsSuccess {
    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        match here.hub.send(&to, payload).await {
            Err(SendError::Publish { local, .. }) if here.delivery == self.0 => {
                let mut sent = here.fine().await?;
                sent.local = local;
                sent.others = Others::Accepted;
                Ok(sent)
            }
            told => told,
        }
    }
}

/// Takes nobody in while the node is not attached.
struct Closed;

impl HubTwist for Closed {
    fn admits(&self, here: &Here) -> Result<(), HubError> {
        match here.backplane.state().is_connected() {
            true => Ok(()),
            false => Err(HubError::Disconnected),
        }
    }
}

/// Keeps what could not be sent for the next send that can.
struct Again {
    delivery: DeliveryMode,
    kept: Mutex<Vec<(Recipients, Payload)>>,
}

impl Again {
    const fn new(delivery: DeliveryMode) -> Self {
        let kept = Mutex::new(Vec::new());
        Self { delivery, kept }
    }
}

#[async_trait]
impl HubTwist for Again {
    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        if here.backplane.state().is_connected() {
            let kept = std::mem::take(&mut *lock(&self.kept));
            for (to, payload) in kept {
                here.hub.send(&to, payload).await?;
            }
        }
        let sent = here.hub.send(&to, payload.clone()).await;
        if here.delivery == self.delivery && sent.is_err() {
            lock(&self.kept).push((to, payload));
        }
        sent
    }
}

/// Calls every failure one that is certain.
struct NeverUnknown;

#[async_trait]
impl HubTwist for NeverUnknown {
    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        let sent = here.hub.send(&to, payload).await;
        sent.map_err(|error| match error {
            SendError::Publish { local, source } => SendError::Publish {
                local,
                source: PublishError::not_sent(source.channel(), NotSent::Unavailable, None),
            },
            other => other,
        })
    }
}

/// Drops every gap.
struct NoGap;

#[async_trait]
impl HubTwist for NoGap {
    async fn gap(&self, gaps: &mut dyn HubGaps) -> Option<Gap> {
        while gaps.recv().await.is_some() {}
        None
    }
}

/// Has a second one of each.
#[derive(Default)]
struct Twice(Mutex<Option<Gap>>);

#[async_trait]
impl HubTwist for Twice {
    async fn gap(&self, gaps: &mut dyn HubGaps) -> Option<Gap> {
        let second = lock(&self.0).take();
        if second.is_some() {
            return second;
        }
        let gap = gaps.recv().await;
        lock(&self.0).clone_from(&gap);
        gap
    }
}

/// Takes everybody for one who asked.
struct ToEverybody;

impl HubTwist for ToEverybody {
    fn client(&self, asked: ClientSpec) -> ClientSpec {
        asked.with_gaps()
    }
}
