//! Backends that are wrong on purpose: every backend in here is wrong!
//!
//! A suite that nothing fails proves nothing. Each mutant breaks one rule in one way and works otherwise, and the
//! suite must fail it at that rule, for that reason; a failure for another reason does not count. Every
//! rule has at least one. What else a mutant must fail by consequence is written down too (`expected.txt`), and
//! [`MatrixRun`] shows that it fails that and nothing else.
//!
//! The mutants sit on the memory backend, in `node` (around a node), `pump` (around its subscriptions),
//! `driver` (around its driver) or `harness` (around its constructors); `crossed` is a broker that matches names
//! wrongly. The other files have the mutants, a section of the contract each, or a part of one.

mod afterwards;
mod backpressure;
mod cancelling;
mod chart;
mod closing;
mod concurrency;
mod content;
mod crossed;
mod delivery;
mod driver;
mod expected;
mod gaps;
mod harness;
mod hoarding;
mod hub_apart;
mod hub_clients;
mod hub_groups;
mod hub_outage;
mod hub_requests;
mod hub_targets;
mod hubs;
mod isolation;
mod leftovers;
mod limits;
mod loss;
mod malformed;
mod matrix;
mod neighbours;
mod network;
mod node;
mod order;
mod pending;
mod promise;
mod pump;
mod reconnection;
mod requests;
mod resubscription;
mod shortcuts;
mod subscriptions;
mod together;
mod visibility;

use std::fmt;
use std::sync::Arc;

use self::harness::Wrong;
use self::matrix::Cell;
pub use self::matrix::{ControlRow, Matrix, MatrixRun, Protection, Row};
use crate::harness::Harness;
use crate::rules;
use crate::verdict::VerdictKind;

/// How much shorter the limits of a trial are here: nothing is far away.
const TIME_SCALE: f64 = 0.4;

/// A backend that is wrong on purpose.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Mutant {
    /// What is wrong, in a few words with dashes.
    pub name: &'static str,
    /// The rule that names its fault.
    pub rule: &'static str,
    /// A part of the reason with which it must fail.
    pub reason: &'static str,
    /// What is wrong, and where such a thing was seen, if it was.
    pub about: &'static str,
    make: fn() -> Wrong,
}

/// All mutants, in the order of the contract.
#[must_use]
pub fn all() -> Vec<Mutant> {
    let mut all = [
        delivery::MUTANTS,
        order::MUTANTS,
        together::MUTANTS,
        subscriptions::MUTANTS,
        concurrency::MUTANTS,
        pending::MUTANTS,
        isolation::MUTANTS,
        loss::MUTANTS,
        gaps::MUTANTS,
        limits::MUTANTS,
        reconnection::MUTANTS,
        resubscription::MUTANTS,
        backpressure::MUTANTS,
        hoarding::MUTANTS,
        closing::MUTANTS,
        cancelling::MUTANTS,
        neighbours::MUTANTS,
        malformed::MUTANTS,
        network::MUTANTS,
        visibility::MUTANTS,
        promise::MUTANTS,
        content::MUTANTS,
        requests::MUTANTS,
        afterwards::MUTANTS,
        leftovers::MUTANTS,
        shortcuts::MUTANTS,
        hub_targets::MUTANTS,
        hub_groups::MUTANTS,
        hub_outage::MUTANTS,
        hub_clients::MUTANTS,
        hub_apart::MUTANTS,
        hub_requests::MUTANTS,
    ]
    .concat();
    let rules = rules::all();
    all.sort_by_key(|mutant| rules.iter().position(|rule| rule.id == mutant.rule));
    all
}

/// The protections of the engine, each with the mutant that runs without it: the same trial that passes with
/// the protection must fail with it off.
pub const PROTECTIONS: &[(&str, &str)] = &[
    ("heartbeat", "has-no-heartbeat"),
    (
        "probe through the delivery path",
        "takes-a-ping-for-a-delivery",
    ),
    ("reconnection", "gives-up-after-a-failed-try"),
    ("resubscription", "does-not-resubscribe"),
    ("cap of the backoff", "backoff-has-no-cap"),
    ("jitter of the backoff", "backoff-has-no-jitter"),
    ("connect timeout", "connecting-never-times-out"),
    ("publish timeout", "publish-waits-for-ever"),
    ("failing fast in an outage", "publish-waits-for-the-broker"),
    ("gap of an outage", "tells-no-gap"),
    ("gap of an overflow", "overflow-is-dropped-silently"),
    ("queue_capacity", "capacity-option-is-ignored"),
    ("queue_bytes", "queue-has-no-bound-in-bytes"),
    ("max_pending", "pending-has-no-bound"),
    ("max_pending_bytes", "pending-bytes-have-no-bound"),
    ("prefix", "ignores-the-prefix"),
];

/// A backend with the wrappers of the mutants and nothing wrong, which must pass: what kills a mutant
/// is its mutation.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Control {
    /// Which wrappers it has.
    pub name: &'static str,
    /// The rules that it is there for; none: all.
    pub only: &'static [&'static str],
    make: fn() -> Wrong,
}

/// All controls.
#[must_use]
pub fn controls() -> Vec<Control> {
    vec![
        Control {
            name: "a-wrapped-driver",
            only: &[],
            make: || Wrong::new().links(|| driver::Straight),
        },
        Control {
            name: "a-wrapped-node",
            only: &[],
            make: || Wrong::new().nodes(|_| node::Straight),
        },
        Control {
            name: "a-wrapped-node-with-pumps",
            only: &[],
            make: || Wrong::new().pumps(|| pump::Straight),
        },
        Control {
            name: "a-wrapped-hub",
            only: &[],
            make: || Wrong::new().hubs(hubs::Straight),
        },
        Control {
            name: "declares-no-more-order-than-it-must",
            only: &["O2", "O3", "O4", "H1"],
            make: || promise::declaring(|c| c.order = backplane_core::Order::Channel),
        },
        Control {
            name: "does-not-count-what-is-lost",
            only: &["L5", "L8"],
            make: promise::counting_nothing,
        },
        Control {
            name: "replays-and-says-so",
            only: &["D6", "L4", "L5", "L8"],
            make: || promise::replaying(loss::Missed::default()),
        },
        Control {
            name: "has-a-place-that-looks-apart",
            only: &["I7"],
            make: || Wrong::new().elsewhere(harness::Elsewhere::Here),
        },
    ]
}

impl Control {
    /// Whether it is asked for a rule.
    fn is_asked(&self, rule: &str) -> bool {
        self.only.is_empty() || self.only.contains(&rule)
    }

    /// A backend of its own.
    #[must_use]
    pub fn harness(&self) -> Arc<dyn Harness> {
        (self.make)().harness()
    }
}

impl Mutant {
    /// The wrong backend itself, on a bus of its own.
    #[must_use]
    pub fn harness(&self) -> Arc<dyn Harness> {
        (self.make)().harness()
    }

    /// Whether it must fail a rule.
    fn fails(&self, rule: &str) -> bool {
        expected::of(self).0.contains(&rule)
    }

    /// Whether this is its rule's verdict on it.
    fn is_killed_by(&self, cell: &Cell) -> bool {
        cell.verdict == VerdictKind::Fail && cell.reason.contains(self.reason)
    }
}

impl fmt::Debug for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutant")
            .field("name", &self.name)
            .field("rule", &self.rule)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Writes a mutant: `mutant!("name", "D1", "reason", "about", || Wrong::new()...)`.
macro_rules! mutant {
    ($name:literal, $rule:literal, $reason:literal, $about:literal, $make:expr $(,)?) => {
        $crate::mutants::Mutant {
            name: $name,
            rule: $rule,
            reason: $reason,
            about: $about,
            make: $make,
        }
    };
}
use mutant;
