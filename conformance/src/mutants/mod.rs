//! Backends that are wrong on purpose: every backend in here is wrong!
//!
//! A suite that nothing fails proves nothing. Each mutant breaks one rule in one way and works otherwise, and the
//! suite must fail it at that rule, for that reason; a failure for another reason does not count. Every
//! rule has at least one.
//!
//! The mutants sit on the memory backend, in `node` (around a node), `pump` (around its subscriptions),
//! `driver` (around its driver) or `harness` (around its constructors); `envelope` is a backend that matches names
//! by itself. The other files have the mutants, a section of the contract each, or a part of one.

mod backpressure;
mod closing;
mod delivery;
mod driver;
mod envelope;
mod gaps;
mod harness;
mod hoarding;
mod isolation;
mod loss;
mod malformed;
mod node;
mod order;
mod pending;
mod pump;
mod reconnection;
mod resubscription;
mod subscriptions;
mod visibility;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::harness::Wrong;
use crate::harness::Harness;
use crate::rules;
use crate::runner::Suite;
use crate::verdict::VerdictKind;

/// How much shorter the limits of a trial are here: nothing is far away.
const TIME_SCALE: f64 = 0.4;

/// A backend that is wrong on purpose.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Mutant {
    /// What is wrong, in a few words with dashes.
    pub name: &'static str,
    /// The rule that it must fail.
    pub rule: &'static str,
    /// A part of the reason with which it must fail.
    pub reason: &'static str,
    /// What is wrong, and where such a thing was seen, if it was.
    pub about: &'static str,
    make: fn() -> Wrong,
}

/// What the suite said of a mutant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Kill {
    /// Whether its rule failed for the expected reason.
    pub killed: bool,
    /// How the trial ended.
    pub verdict: VerdictKind,
    /// Why.
    pub reason: String,
    /// How long it took.
    pub took: Duration,
}

/// All mutants, in the order of the contract.
#[must_use]
pub fn all() -> Vec<Mutant> {
    let mut all = [
        delivery::MUTANTS,
        order::MUTANTS,
        subscriptions::MUTANTS,
        pending::MUTANTS,
        isolation::MUTANTS,
        loss::MUTANTS,
        gaps::MUTANTS,
        reconnection::MUTANTS,
        resubscription::MUTANTS,
        backpressure::MUTANTS,
        hoarding::MUTANTS,
        closing::MUTANTS,
        malformed::MUTANTS,
        visibility::MUTANTS,
    ]
    .concat();
    let rules = rules::all();
    all.sort_by_key(|mutant| rules.iter().position(|rule| rule.id == mutant.rule));
    all
}

/// A backend with the wrappers of the mutants and nothing wrong, which must pass: what kills a mutant
/// is its mutation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Control {
    /// Which wrappers it has.
    pub name: &'static str,
    /// The rules that it cannot be asked for.
    pub except: &'static [&'static str],
    /// The backend.
    pub harness: Arc<dyn Harness>,
}

/// All controls.
#[must_use]
pub fn controls() -> Vec<Control> {
    let control = |name, except, wrong: Wrong| {
        let harness = wrong.harness();
        Control {
            name,
            except,
            harness,
        }
    };
    vec![
        control(
            "a wrapped driver",
            &[],
            Wrong::new().links(|| driver::Straight),
        ),
        control(
            "a wrapped node",
            &[],
            Wrong::new().nodes(|_| node::Straight),
        ),
        control(
            "a wrapped node with pumps",
            // These trials take it that all subscriptions of a node have a message as soon as one has; a pump is
            // a task, and may be late.
            &["B1", "B2", "B3", "B4"],
            Wrong::new().pumps(|| pump::Straight),
        ),
    ]
}

/// Runs the rule that a mutant must fail, on a bus of its own.
///
/// # Cancel safety
/// Dropping the future ends the run.
pub async fn run(mutant: &Mutant) -> Kill {
    let begin = Instant::now();
    let rules = rules::select(&[mutant.rule.to_owned()]).unwrap_or_default();
    let suite = Suite::new(mutant.harness())
        .rules(rules)
        .time_scale(TIME_SCALE);
    let report = suite.run().await;
    let (verdict, reason) = match report.rules.first() {
        Some(result) => (result.verdict, result.reason.clone()),
        None => (
            VerdictKind::NotApplicable,
            format!("there is no rule {}", mutant.rule),
        ),
    };
    let killed = verdict == VerdictKind::Fail && reason.contains(mutant.reason);
    Kill {
        killed,
        verdict,
        reason,
        took: begin.elapsed(),
    }
}

impl Mutant {
    /// The wrong backend itself.
    #[must_use]
    pub fn harness(&self) -> Arc<dyn Harness> {
        (self.make)().harness()
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
