//! One harness, and what has become of its broker so far: [`Stand`].

use std::sync::Arc;
use std::time::Duration;

use backplane_core::Capabilities;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::plan::{Plan, trial_seed};
use crate::harness::{Fault, Harness};
use crate::report::RuleResult;
use crate::rule::{Need, Rule};
use crate::trial::Trial;
use crate::verdict::{Ending, Outcome, Verdict};

/// How long one trial may take, before the scale factor.
const TRIAL_LIMIT: Duration = Duration::from_secs(120);

/// How long a trial that was given up may take to end, before the scale factor.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Where rules are tried, one at a time.
#[derive(Debug)]
pub(super) struct Stand {
    harness: Arc<dyn Harness>,
    known: Vec<(String, String)>,
    secret: Option<String>,
    health: Health,
    capabilities: Option<Capabilities>,
}

/// What is known in the end.
#[derive(Debug)]
pub(super) struct End {
    /// What the backend declares, if a node was made.
    pub(super) capabilities: Option<Capabilities>,
    /// Why rules were not tried, if the broker did not come back.
    pub(super) lost: Option<String>,
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

impl Stand {
    pub(super) fn new(harness: Arc<dyn Harness>) -> Self {
        Self {
            known: harness.known_failures(),
            secret: harness.secret().filter(|secret| !secret.is_empty()),
            harness,
            health: Health::Well,
            capabilities: None,
        }
    }

    /// Whether nothing can be tried any more.
    pub(super) const fn is_dead(&self) -> bool {
        matches!(self.health, Health::Dead(_))
    }

    /// Tries a rule, and ends every fault.
    pub(super) async fn attempt(&mut self, rule: &Rule, plan: &Plan) -> RuleResult {
        let start = Instant::now();
        self.look_again().await;
        let mut tried = true;
        let verdict = match (
            missing_need(&*self.harness, rule),
            &self.health,
            &plan.scale,
        ) {
            (Some(reason), _, _) => Verdict::NotApplicable(reason),
            (None, Health::Dead(_), _) => {
                tried = false;
                Verdict::Inconclusive("not tried: the broker is away".to_owned())
            }
            (None, _, Err(wrong)) => Verdict::Inconclusive(wrong.clone()),
            (None, _, Ok(scale)) => self.run(rule, plan.seed, *scale).await,
        };
        let verdict = with_known_failures(rule, verdict, &self.known);
        let mut result = RuleResult::new(rule, &verdict, start.elapsed());
        result.tried = tried;
        if let Some(secret) = &self.secret {
            // Whatever a backend puts into an error, it does not get into a report.
            result.reason = result.reason.replace(secret, "<secret>");
        }
        result
    }

    /// After the last rule: whoever repeats the run has to know what has become of the broker.
    pub(super) async fn leave(&mut self) -> End {
        self.look_again().await;
        End {
            capabilities: self.capabilities,
            lost: match &self.health {
                Health::Dead(why) => Some(why.clone()),
                _ => None,
            },
        }
    }

    /// Tries once more to get a broker back that did not come back after a trial.
    pub(super) async fn look_again(&mut self) {
        if let Health::Ailing(after) = self.health {
            self.health = match self.heal().await {
                Ok(()) => Health::Well,
                Err(why) => Health::Dead(format!(
                    "it did not come back after the trial of {after}: {why}"
                )),
            };
        }
    }

    async fn run(&mut self, rule: &Rule, seed: u64, scale: f64) -> Verdict {
        let seed = trial_seed(seed, rule.id);
        let trial = Trial::new(Arc::clone(&self.harness), rule, seed, scale);
        let limit = TRIAL_LIMIT.mul_f64(scale);
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
        let _ = timeout(END_LIMIT.mul_f64(scale.max(1.0)), task.shutdown()).await;
        self.capabilities = self.capabilities.or_else(|| trial.capabilities());
        let healed = self.heal().await;
        let cleaned_up = trial.clean_up().await;
        if let Err(why) = healed {
            self.health = Health::Ailing(rule.id);
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
