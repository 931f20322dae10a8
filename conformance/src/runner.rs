//! Runs the rules: [`Suite`] on one harness, [`Fleet`] on several at once.

mod fleet;
mod plan;
mod stand;
#[cfg(all(test, feature = "memory"))]
mod tests;

use std::sync::Arc;

use tokio::time::Instant;

pub use self::fleet::Fleet;
pub use self::plan::Plan;
use self::stand::Stand;
use crate::harness::Harness;
use crate::report::{About, Report, RuleResult, millis};
use crate::rule::Rule;

/// A run of the suite on one harness, to be configured. The rules run one after the other, in the runtime that it is
/// awaited in.
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
    plan: Plan,
}

/// What a run tells while it runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A trial begins.
    Begin {
        /// The rule.
        rule: &'a Rule,
        /// Its place in the contract's order, from 0.
        index: usize,
        /// How many trials the run has.
        total: usize,
    },
    /// A trial has ended.
    End {
        /// What it found.
        result: &'a RuleResult,
        /// Its place in the contract's order, from 0.
        index: usize,
        /// How many trials the run has.
        total: usize,
    },
}

impl Suite {
    /// A run of all rules, with a random seed.
    #[must_use]
    pub fn new(harness: Arc<dyn Harness>) -> Self {
        let plan = Plan::new();
        Self { harness, plan }
    }

    /// Runs this plan.
    #[must_use]
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = plan;
        self
    }

    /// Runs only these rules.
    #[must_use]
    pub fn rules(mut self, rules: Vec<Rule>) -> Self {
        self.plan = self.plan.rules(rules);
        self
    }

    /// As [`Plan::seed`].
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.plan = self.plan.seed(seed);
        self
    }

    /// As [`Plan::time_scale`].
    #[must_use]
    pub fn time_scale(mut self, scale: f64) -> Self {
        self.plan = self.plan.time_scale(scale);
        self
    }

    /// Shortens every time limit, for backends that are next door.
    #[cfg(feature = "memory")]
    pub(crate) fn times(mut self, factor: f64) -> Self {
        self.plan = self.plan.times(factor);
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
        let Self { harness, plan } = self;
        let mut about = plan.about(harness.describe(), 1);
        let begin = Instant::now();
        let mut stand = Stand::new(harness);
        let total = plan.rules.len();
        let mut results: Vec<Option<RuleResult>> = vec![None; total];
        for index in plan.order() {
            let Some(rule) = plan.rules.get(index) else {
                continue;
            };
            progress(Progress::Begin { rule, index, total });
            let result = stand.attempt(rule, &plan).await;
            progress(Progress::End {
                result: &result,
                index,
                total,
            });
            if let Some(place) = results.get_mut(index) {
                *place = Some(result);
            }
        }
        let end = stand.leave().await;
        about.capabilities = end.capabilities.map(Into::into);
        finished(about, begin, results, end.lost)
    }
}

fn finished(
    mut about: About,
    begin: Instant,
    results: Vec<Option<RuleResult>>,
    lost: Option<String>,
) -> Report {
    about.duration_ms = millis(begin.elapsed());
    let mut report = Report::new(about, results.into_iter().flatten().collect());
    report.broker_lost = lost;
    report
}
