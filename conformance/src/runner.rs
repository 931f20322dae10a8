//! Runs the rules on a harness: [`Suite`].

#[cfg(all(test, feature = "memory"))]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::harness::{Fault, Harness};
use crate::report::{Report, RuleResult};
use crate::rule::{Need, Rule};
use crate::rules;
use crate::trial::Trial;
use crate::verdict::{Ending, Outcome, Verdict};

/// How long one trial may take, before the scale factor.
const TRIAL_LIMIT: Duration = Duration::from_secs(120);

/// How long a trial that was given up may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A run of the suite, to be configured.
///
/// ```no_run
/// # async fn f(harness: std::sync::Arc<dyn backplane_conformance::Harness>) {
/// let report = backplane_conformance::Suite::new(harness).run().await;
/// println!("{}", report.to_text());
/// assert!(report.is_certified());
/// # }
/// ```
#[derive(Debug)]
pub struct Suite {
    harness: Arc<dyn Harness>,
    rules: Vec<Rule>,
    seed: u64,
    scale: f64,
}

/// What a run tells while it runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A trial begins.
    Begin {
        /// The rule.
        rule: &'a Rule,
        /// Its place in the run, from 0.
        index: usize,
        /// How many trials the run has.
        total: usize,
    },
    /// A trial has ended.
    End {
        /// What it found.
        result: &'a RuleResult,
        /// Its place in the run, from 0.
        index: usize,
        /// How many trials the run has.
        total: usize,
    },
}

impl Suite {
    /// A run of all rules, with a random seed.
    #[must_use]
    pub fn new(harness: Arc<dyn Harness>) -> Self {
        // Small enough to survive readers of JSON that know only doubles.
        let seed = rand::random::<u32>().into();
        Self {
            harness,
            rules: rules::all(),
            seed,
            scale: 1.0,
        }
    }

    /// Runs only these rules.
    #[must_use]
    pub fn rules(mut self, rules: Vec<Rule>) -> Self {
        self.rules = rules;
        self
    }

    /// Fixes the seed, which decides names and random choices. A rule makes the same choices whether it runs
    /// alone or among others.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Stretches every time limit by this factor, for a slow machine. Default 1.
    #[must_use]
    pub const fn time_scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Runs the rules one after the other.
    ///
    /// After each trial every fault is ended. If the broker does not come back, twice in a row, the rest is not
    /// tried: it is inconclusive, and says so.
    ///
    /// # Cancel safety
    /// Dropping the future ends the trial that runs, and leaves the broker as it is then.
    pub async fn run(self) -> Report {
        self.run_with(|_| {}).await
    }

    /// Like [`run`](Self::run), and tells how it goes.
    pub async fn run_with(self, mut progress: impl FnMut(Progress<'_>) + Send) -> Report {
        let begin = Instant::now();
        let known = self.harness.known_failures();
        let mut results = Vec::new();
        let mut health = Health::Well;
        let total = self.rules.len();
        for (index, rule) in self.rules.iter().enumerate() {
            progress(Progress::Begin { rule, index, total });
            let start = Instant::now();
            self.look_again(&mut health).await;
            let mut tried = true;
            let verdict = match (missing_need(&*self.harness, rule), &health) {
                (Some(reason), _) => Verdict::NotApplicable(reason),
                (None, Health::Dead(_)) => {
                    tried = false;
                    Verdict::Inconclusive("not tried: the broker is away".to_owned())
                }
                (None, _) => self.run_rule(rule, &mut health).await,
            };
            let verdict = with_known_failures(rule, verdict, &known);
            let mut result = RuleResult::new(rule, &verdict, start.elapsed());
            result.tried = tried;
            progress(Progress::End {
                result: &result,
                index,
                total,
            });
            results.push(result);
        }
        // Also after the last one: whoever repeats the run has to know.
        self.look_again(&mut health).await;
        let mut report = Report::new(self.harness.describe(), self.seed, begin.elapsed(), results);
        if let Health::Dead(why) = health {
            report.broker_lost = Some(why);
        }
        report
    }

    /// Tries once more to get a broker back that did not come back after a trial.
    async fn look_again(&self, health: &mut Health) {
        if let Health::Ailing(after) = health
            && let Err(why) = self.heal().await
        {
            *health = Health::Dead(format!(
                "it did not come back after the trial of {after}: {why}"
            ));
        } else if let Health::Ailing(_) = health {
            *health = Health::Well;
        }
    }

    async fn run_rule(&self, rule: &Rule, health: &mut Health) -> Verdict {
        let seed = trial_seed(self.seed, rule.id);
        let trial = Trial::new(Arc::clone(&self.harness), rule, seed, self.scale);
        let limit = TRIAL_LIMIT.mul_f64(self.scale);
        // A set, because dropping it ends the trial.
        let mut task = JoinSet::new();
        task.spawn((rule.trial)(trial.clone()));
        let outcome = match timeout(limit, task.join_next()).await {
            Ok(Some(Ok(outcome))) => outcome,
            Ok(Some(Err(error))) if error.is_panic() => Err(Ending::Broken(format!(
                "panic: {}",
                panic_text(error.into_panic())
            ))),
            Ok(Some(Err(error))) => Err(Ending::Inconclusive(error.to_string())),
            Ok(None) => Err(Ending::Inconclusive("the trial did not run".to_owned())),
            Err(_) => Err(Ending::Broken(format!(
                "the trial did not end within {limit:?}"
            ))),
        };
        // Not before the trial has ended: it must not make another fault after this.
        let _ = timeout(END_LIMIT, task.shutdown()).await;
        let healed = self.heal().await;
        let cleaned_up = trial.clean_up().await;
        if let Err(why) = healed {
            *health = Health::Ailing(rule.id);
            return without_broker(&outcome, &why);
        }
        // The first thing that went wrong is the reason.
        Verdict::from(outcome.and(cleaned_up))
    }

    async fn heal(&self) -> Result<(), String> {
        match self.harness.faults() {
            Some(faults) => faults.heal().await,
            None => Ok(()),
        }
    }
}

/// Whether the broker can still be worked with.
#[derive(Debug)]
enum Health {
    Well,
    /// It did not come back after the trial of this rule.
    Ailing(&'static str),
    /// It did not come back at the second try either.
    Dead(String),
}

/// The seed of one trial: from the seed of the run and the number of the rule, nothing else.
fn trial_seed(seed: u64, id: &str) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mixed = id.bytes().fold(seed, |mixed, byte| {
        (mixed.rotate_left(8) ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    StdRng::seed_from_u64(mixed).random()
}

/// The verdict of a trial after which the broker did not come back, so that what it found proves nothing.
fn without_broker(outcome: &Outcome, why: &str) -> Verdict {
    let found = match outcome {
        Err(Ending::Broken(how) | Ending::Inconclusive(how)) => format!("; the trial found: {how}"),
        _ => String::new(),
    };
    Verdict::Inconclusive(format!(
        "the broker failed in the trial or after it: {why}{found}"
    ))
}

/// What a rule needs and the harness does not have.
fn missing_need(harness: &dyn Harness, rule: &Rule) -> Option<String> {
    rule.needs.iter().find_map(|need| match need {
        Need::Observer => harness
            .observer()
            .is_none()
            .then(|| "the harness has no observer of the broker".to_owned()),
        Need::Url => harness
            .parse_url_option("prefix", "x")
            .is_none()
            .then(|| "this backend is configured without a URL".to_owned()),
        need => {
            let Some(faults) = harness.faults() else {
                return Some("the harness has no fault handles".to_owned());
            };
            let mut why = None;
            for alternative in need.faults() {
                let lacking = alternative
                    .iter()
                    .find_map(|f: &Fault| faults.supports(*f).err());
                why = Some(lacking?);
            }
            why
        }
    })
}

/// A failure that the backend has announced is a known one; an announced one that does not happen is a
/// failure.
fn with_known_failures(rule: &Rule, verdict: Verdict, known: &[(String, String)]) -> Verdict {
    let Some((_, reason)) = known.iter().find(|(id, _)| id == rule.id) else {
        return verdict;
    };
    match verdict {
        Verdict::Fail(_) => Verdict::KnownFailure(reason.clone()),
        Verdict::Pass => Verdict::Fail(format!(
            "passes, and is listed as a known failure: {reason}"
        )),
        other => other,
    }
}

fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(_) => "without a text".to_owned(),
        },
    }
}
