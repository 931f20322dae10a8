//! Wrong only afterwards: after an outage, with the second one, on a node that began lazily, beyond a number.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Link, LinkPublishError};
use backplane_core::{Channel, Delivery, Gap, NodeId, OutageAccount};

use super::driver::{Line, LinkTwist, is_probe};
use super::harness::Wrong;
use super::loss::generation;
use super::pump::{Control, Out, Parts, Pump, Side, Straight};
use super::{Mutant, mutant};
use crate::harness::Start;

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "a-new-subscription-hears-of-an-old-outage",
        "L5",
        "got a gap",
        "the gap of the last outage is told to all that subscribe on its connection",
        || Wrong::new().parts(|tap| Parts::pump(HearsOfIt(generation(&tap.watch.current()) > 1))),
    ),
    mutant!(
        "unsubscribe-dies-in-an-outage",
        "L9",
        "delivered after an outage, and left before",
        "a handle knows the table of the connection that it was made on",
        || Wrong::new().controls(|| DeadToLeave),
    ),
    mutant!(
        "a-frozen-broker-is-noticed-once",
        "L6",
        "freeze: the idle node did not notice",
        "the watchdog has bitten, and is not set again",
        || Wrong::new().links(NoticesOnce::default),
    ),
    mutant!(
        "a-lazy-node-has-no-heartbeat",
        "L6",
        "freeze: the lazy node did not notice",
        "the heartbeat is started by the constructor that connects",
        || Wrong::new().spec(|spec| {
            let mut changed = spec.clone();
            if spec.start == Start::Lazy {
                changed.options.heartbeat_interval = Duration::from_secs(3600);
            }
            changed
        }),
    ),
    mutant!(
        "counts-in-a-byte",
        "L8",
        "of a, 310 missed, told",
        "the number of a gap begins again after 255",
        || Wrong::new().pumps(|| Recounts::new(|missed, _| missed % 256)),
    ),
    mutant!(
        "counts-the-last-of-two-outages",
        "L8",
        "in two outages",
        "what is known of a publisher is thrown away with every connection, heard or not",
        || Wrong::new().pumps(|| Recounts::new(|missed, first| match first {
            true => missed,
            false => 0,
        })),
    ),
];

struct HearsOfIt(bool);

impl Pump for HearsOfIt {
    fn begin(&mut self, out: &Out) {
        if self.0 {
            out.gap(Gap::outage(OutageAccount::default()));
        }
    }
}

struct DeadToLeave;

#[async_trait]
impl Control for DeadToLeave {
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        if generation(&side.watch.current()) < 2 {
            Straight.unsubscribe(side, channels);
        }
    }
}

/// Whether a probe was given up once. From then on they do not reach the broker.
#[derive(Default)]
struct NoticesOnce(Arc<AtomicBool>);

#[async_trait]
impl LinkTwist for NoticesOnce {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        if !is_probe(channel) {
            return line.link.publish(channel, frame).await;
        }
        if self.0.load(Ordering::Relaxed) {
            line.inbound.deliver(channel.as_bytes(), frame);
            return Ok(());
        }
        let mut given_up = GivenUp(Some(Arc::clone(&self.0)));
        let published = line.link.publish(channel, frame).await;
        given_up.0 = None;
        published
    }
}

struct GivenUp(Option<Arc<AtomicBool>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(given_up) = &self.0 {
            given_up.store(true, Ordering::Relaxed);
        }
    }
}

/// Keeps an account of its own beside the right one. The function is told what was missed, and whether a message came
/// between the gap and the one before it.
struct Recounts {
    of: fn(u64, bool) -> u64,
    right: Gap,
    told: OutageAccount,
    counted: HashMap<NodeId, u64>,
    /// Whether no message came since the last gap, and whether that was so with the gap before.
    fresh: bool,
    first: bool,
}

impl Recounts {
    fn new(of: fn(u64, bool) -> u64) -> Self {
        Self {
            of,
            right: Gap::default(),
            told: OutageAccount::default(),
            counted: HashMap::new(),
            fresh: false,
            first: true,
        }
    }
}

impl Pump for Recounts {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) => {
                self.fresh = false;
                let publisher = message.publisher();
                if let Some(missed) = self.right.missed_from(publisher) {
                    let told = (self.of)(missed, self.first);
                    let before = self.counted.insert(publisher, told);
                    let more = told.saturating_sub(before.unwrap_or_default());
                    self.told.add(publisher, more);
                }
                out.message(message);
            }
            Delivery::Gap(gap) => {
                let first = !self.fresh;
                *self = Self::new(self.of);
                (self.right, self.fresh, self.first) = (gap, true, first);
                out.gap(Gap::outage(self.told.clone()));
            }
        }
    }
}
