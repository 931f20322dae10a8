//! Wrong at L5 and L8: gaps, and what they count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use backplane_core::{Capabilities, Delivery, Gap, NodeId, OutageAccount};

use super::harness::{Trouble, Wrong};
use super::node::{Inner, NodeTwist, Tap};
use super::pump::{OnGap, Out, Parts, Pump};
use super::{Mutant, mutant};
use crate::harness::Fault;

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "tells-no-gap",
        "L5",
        r#"expected a gap, got message "round 1""#,
        "nobody is told of an outage (channels_redis #259, #406)",
        || Wrong::new().on_gap(|_, _| {}),
    ),
    mutant!(
        "tells-every-gap-twice",
        "L5",
        r#"expected message "round 1", got a gap"#,
        "an outage is told when it begins and when it ends",
        || Wrong::new().on_gap(|gap, out| {
            out.gap(gap.clone());
            out.gap(gap);
        }),
    ),
    mutant!(
        "tells-the-gap-too-late",
        "L5",
        r#"expected a gap, got message "round 1""#,
        "the gap comes after the first message",
        || Wrong::new().pumps(|| Late(None)),
    ),
    mutant!(
        "tells-the-first-gap-only",
        "L5",
        r#"expected a gap, got message "round 2""#,
        "a flag that says that the gap was told is never taken back",
        || Wrong::new().nodes(|_| FirstGapOnly),
    ),
    mutant!(
        "tells-one-subscription-only",
        "L5",
        "expected a gap, got message",
        "one of several subscriptions of a node hears of the outage (channels_redis #256)",
        || Wrong::new().nodes(|_| OneIsTold::default()),
    ),
    mutant!(
        "claims-to-know-all",
        "L5",
        "a gap stands for 0 outages",
        "a gap says that nothing was lost, because nothing could be counted",
        || Wrong::new().on_gap(|_, out| out.gap(Gap::dropped(0))),
    ),
    mutant!(
        "does-not-count-the-loss",
        "L8",
        "7 missed, told None",
        "the capability is declared, and gaps know nothing (gateway-api #3651)",
        || Wrong::new().on_gap(|_, out| out.gap(Gap::outage(OutageAccount::default()))),
    ),
    mutant!(
        "counts-one-too-many",
        "L8",
        "7 missed, told Some(8)",
        "the first message after the outage is counted as missed",
        || Wrong::new().pumps(CountsMore::default),
    ),
    mutant!(
        "counts-and-does-not-declare-it",
        "L8",
        "and does not declare it",
        "the capability is not declared, and honoured",
        || Wrong::new().nodes(|_| Undeclared),
    ),
];

/// Holds a gap until a message was there.
struct Late(Option<Gap>);

impl Pump for Late {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) => {
                out.message(message);
                if let Some(gap) = self.0.take() {
                    out.gap(gap);
                }
            }
            Delivery::Gap(gap) => self.0 = Some(gap),
        }
    }
}

struct FirstGapOnly;

#[async_trait]
impl NodeTwist for FirstGapOnly {
    fn parts(&self, _node: &Inner, _tap: &Tap) -> Option<Parts> {
        let mut told = false;
        Some(Parts::pump(OnGap(move |gap, out: &Out| {
            if !std::mem::replace(&mut told, true) {
                out.gap(gap);
            }
        })))
    }
}

/// How many subscriptions there were. The first is told.
#[derive(Default)]
struct OneIsTold(AtomicU64);

#[async_trait]
impl NodeTwist for OneIsTold {
    fn parts(&self, _node: &Inner, _tap: &Tap) -> Option<Parts> {
        let is_first = self.0.fetch_add(1, Ordering::Relaxed) == 0;
        Some(Parts::pump(OnGap(move |gap, out: &Out| {
            if is_first {
                out.gap(gap);
            }
        })))
    }
}

/// Which faults are meant.
type Such = fn(Fault) -> bool;

/// Keeps an account of its own, beside the right one.
#[derive(Default)]
pub(super) struct CountsMore {
    right: Gap,
    told: OutageAccount,
    counted: HashMap<NodeId, u64>,
    /// After which trouble only.
    only: Option<(Trouble, Such)>,
}

impl CountsMore {
    pub(super) fn only(trouble: Trouble, such: Such) -> Self {
        Self {
            only: Some((trouble, such)),
            ..Self::default()
        }
    }
}

impl Pump for CountsMore {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) => {
                let publisher = message.publisher();
                if let Some(missed) = self.right.missed_from(publisher) {
                    let before = self.counted.insert(publisher, missed);
                    self.told.add(
                        publisher,
                        before.map_or(missed + 1, |before| missed - before),
                    );
                }
                out.message(message);
            }
            Delivery::Gap(gap) => {
                let only = self.only.take();
                let such = only
                    .as_ref()
                    .is_none_or(|(trouble, such)| trouble.was(*such));
                *self = Self {
                    only,
                    ..Self::default()
                };
                if !such {
                    return out.gap(gap);
                }
                self.right = gap;
                out.gap(Gap::outage(self.told.clone()));
            }
        }
    }
}

struct Undeclared;

#[async_trait]
impl NodeTwist for Undeclared {
    fn capabilities(&self, node: &Inner) -> Capabilities {
        let mut capabilities = node.capabilities();
        capabilities.counts_loss = false;
        capabilities
    }
}
