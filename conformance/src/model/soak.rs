//! The model for as long as one likes: [`Soak`].

use std::collections::VecDeque;
use std::future::{self, Future};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::account::{Account, Violation};
use super::round::{Part, Round, has_hubs};
use crate::harness::{Description, Harness};
use crate::report::SUITE_VERSION;

/// After so many operations everything is checked, so that the record stays small.
const CHECK_EVERY: u32 = 25;

/// After so many operations every node is closed, and new ones begin in new prefixes.
const ROUND: u32 = 150;

/// How many of the latest operations a report has.
const RECENT: usize = 40;

/// How long one operation may take, before the scale factor, before it counts as hanging.
const OP_LIMIT: Duration = Duration::from_secs(300);

/// A run of random operations on a harness, to be configured.
///
/// ```no_run
/// # async fn f(harness: std::sync::Arc<dyn backplane_conformance::Harness>) {
/// use std::time::Duration;
/// use backplane_conformance::model::Soak;
///
/// let report = Soak::new(harness)
///     .duration(Duration::from_secs(600))
///     .run(|progress| eprintln!("{} operations", progress.ops))
///     .await;
/// println!("{}", report.account);
/// assert!(report.is_passed());
/// # }
/// ```
#[derive(Debug)]
pub struct Soak {
    harness: Arc<dyn Harness>,
    duration: Duration,
    operations: u64,
    seed: u64,
    scale: f64,
    only: Option<Part>,
}

/// How a [`Soak`] goes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SoakProgress {
    /// How long it runs.
    pub elapsed: Duration,
    /// How many operations were done.
    pub ops: u64,
    /// What they came to. Deliveries are counted from check to check.
    pub account: Account,
}

/// What a [`Soak`] found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SoakReport {
    /// The version of the suite.
    pub suite_version: &'static str,
    /// The backend under test.
    pub backend: String,
    /// How its broker was provided.
    pub fixture: String,
    /// The broker's version, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// The seed of the run.
    pub seed: u64,
    /// The seed with which a run begins with what was done last, a violation included.
    pub last_seed: u64,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// How many operations were done.
    pub ops: u64,
    /// What it says of the backend.
    pub verdict: SoakVerdict,
    /// Whether it was ended before its time.
    pub interrupted: bool,
    /// Why it could not go on, if the environment did not work, or why it proves nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The sum.
    pub account: Account,
    /// What was wrong.
    pub violations: Vec<Violation>,
    /// The operations before a violation, the latest last.
    pub recent: Vec<String>,
}

/// What a [`Soak`] says of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SoakVerdict {
    /// Nothing was wrong, and enough was done to say so.
    Pass,
    /// Something was wrong.
    Fail,
    /// The environment did not work, or too little was done.
    Inconclusive,
}

impl Soak {
    /// A run of ten seconds, with a random seed.
    #[must_use]
    pub fn new(harness: Arc<dyn Harness>) -> Self {
        Self {
            harness,
            duration: Duration::from_secs(10),
            operations: u64::MAX,
            seed: rand::random::<u32>().into(),
            scale: 1.0,
            only: None,
        }
    }

    /// How long it runs. It ends with the operation during which the time runs out, and a last check.
    #[must_use]
    pub const fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Ends it after so many operations, if the time is not over before. Default: no bound.
    #[must_use]
    pub const fn operations(mut self, operations: u64) -> Self {
        self.operations = operations;
        self
    }

    /// Fixes the seed, which decides the operations. What a backend makes of them depends on time, too.
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

    /// Does its operations on this alone. Default: on both by turns, which the seed's lowest bit begins, hubs only where the
    /// backend declares what they are built on.
    #[must_use]
    pub const fn only(mut self, part: Part) -> Self {
        self.only = Some(part);
        self
    }

    /// Runs until the time is over, or something is wrong.
    ///
    /// # Cancel safety
    /// Dropping the future ends the run, and leaves the broker as it is then.
    pub async fn run(self, progress: impl FnMut(&SoakProgress) + Send) -> SoakReport {
        self.run_until(future::pending(), progress).await
    }

    /// Likewise, or until it is told to stop; then it ends with the account so far, without a last check.
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    pub async fn run_until(
        self,
        stop: impl Future<Output = ()> + Send,
        mut progress: impl FnMut(&SoakProgress) + Send,
    ) -> SoakReport {
        let mut run = Run {
            begin: Instant::now(),
            harness: Arc::clone(&self.harness),
            scale: self.scale,
            duration: self.duration,
            operations: self.operations,
            only: self.only,
            rounds: 0,
            seed: self.seed,
            done: Account::default(),
            now: Account::default(),
            ops: 0,
            recent: VecDeque::new(),
            violations: Vec::new(),
        };
        let mut seed = self.seed;
        let work = async {
            if run.only.is_none() && !has_hubs(&*run.harness).await? {
                run.only = Some(Part::Backplane);
            }
            loop {
                run.seed = seed;
                run.round(&mut progress).await?;
                if run.is_over() || !run.violations.is_empty() {
                    return Ok(());
                }
                seed = seed.wrapping_add(1);
            }
        };
        let (interrupted, result) = tokio::select! {
            biased;
            () = stop => (true, Ok(())),
            result = work => (false, result),
        };
        let healed = match self.harness.faults() {
            Some(faults) if interrupted => faults.heal().await,
            _ => Ok(()),
        };
        run.report(
            &self.harness.describe(),
            self.seed,
            interrupted,
            result.and(healed),
        )
    }
}

/// What is known while it runs.
struct Run {
    begin: Instant,
    harness: Arc<dyn Harness>,
    scale: f64,
    duration: Duration,
    operations: u64,
    /// What the rounds are on, if not on both.
    only: Option<Part>,
    /// How many rounds are over.
    rounds: u64,
    /// The seed of this round.
    seed: u64,
    /// The account of the rounds before,
    done: Account,
    /// and of this one.
    now: Account,
    ops: u64,
    recent: VecDeque<String>,
    violations: Vec<Violation>,
}

impl Run {
    /// Does one round of operations in prefixes of its own.
    async fn round(
        &mut self,
        progress: &mut (impl FnMut(&SoakProgress) + Send),
    ) -> Result<(), String> {
        self.recent.clear();
        let mut rng = StdRng::seed_from_u64(self.seed);
        // Not from the seed: the broker may know the names of an earlier run.
        let tag = format!("soak-{:016x}", rand::random::<u64>());
        let part = self.only.unwrap_or_else(|| Part::of_seed(self.seed));
        let mut round = Round::new(part, &self.harness, &tag, self.seed, self.scale);
        for step in 1..=ROUND {
            let last = step == ROUND || self.is_round_over();
            let op = round.next(step % CHECK_EVERY == 0, &mut rng);
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            let text = op.text();
            self.recent.push_back(text.clone());
            let limit = OP_LIMIT.mul_f64(self.scale);
            let done = async {
                match last {
                    true => round.finish().await,
                    false => round.apply(&op).await,
                }
            };
            let done = timeout(limit, done).await;
            self.ops += 1;
            self.now = round.account();
            self.violations = round.violations();
            progress(&self.progress());
            done.map_err(|_| format!("{text} did not end within {limit:?}"))??;
            if last || !self.violations.is_empty() {
                break;
            }
        }
        self.rounds += 1;
        self.done.add(&std::mem::take(&mut self.now));
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.begin.elapsed() >= self.duration || self.ops >= self.operations
    }

    /// Each part has its turn: the first round has half of what there is at most.
    fn is_round_over(&self) -> bool {
        let first = self.only.is_none() && self.rounds == 0;
        let half =
            || self.begin.elapsed() >= self.duration / 2 || self.ops >= self.operations.div_ceil(2);
        self.is_over() || first && half()
    }

    fn progress(&self) -> SoakProgress {
        let mut account = self.done.clone();
        account.add(&self.now);
        SoakProgress {
            elapsed: self.begin.elapsed(),
            ops: self.ops,
            account,
        }
    }

    fn report(
        self,
        of: &Description,
        seed: u64,
        interrupted: bool,
        result: Result<(), String>,
    ) -> SoakReport {
        let account = self.progress().account;
        let reason = match result {
            Err(why) => Some(why),
            Ok(()) if interrupted => Some("interrupted before the last check".to_owned()),
            Ok(()) => {
                let hub = self.only != Some(Part::Backplane) && account.hub.is_empty();
                let hub = hub.then_some("nothing was done on a hub");
                account.vacuous().or(hub).map(str::to_owned)
            }
        };
        let verdict = match &reason {
            _ if !account.is_clean() => SoakVerdict::Fail,
            Some(_) => SoakVerdict::Inconclusive,
            None => SoakVerdict::Pass,
        };
        let recent = match self.violations.is_empty() {
            true => Vec::new(),
            false => self.recent.iter().cloned().collect(),
        };
        SoakReport {
            suite_version: SUITE_VERSION,
            backend: of.backend.clone(),
            fixture: of.fixture.clone(),
            server_version: of.server.clone(),
            seed,
            last_seed: self.seed,
            duration_ms: u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            ops: self.ops,
            verdict,
            interrupted,
            reason,
            account,
            violations: self.violations,
            recent,
        }
    }
}

impl SoakReport {
    /// The report for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let seconds = Duration::from_millis(self.duration_ms).as_secs();
        let interrupted = match self.interrupted {
            true => ", interrupted",
            false => "",
        };
        let mut lines = vec![format!(
            "{} operations in {seconds} s{interrupted}",
            self.ops
        )];
        let account = &self.account;
        let counts = [
            ("attempted", account.attempted),
            ("delivered", account.delivered),
            ("not sent", account.not_sent),
            ("unknown", account.unknown),
            ("counted lost", account.counted_lost),
            ("unreported lost", account.unreported_lost),
            ("duplicated", account.duplicated),
            ("reordered", account.reordered),
            ("unexpected", account.unexpected),
        ];
        let count = |name: &str, count: u64| format!("  {name:<16} {count:>12}");
        lines.extend(counts.map(|(name, n)| count(name, n)));
        lines.push("faults".to_owned());
        lines.extend(account.faults.iter().map(|(kind, n)| count(kind, *n)));
        if !account.hub.is_empty() {
            lines.push("hub operations".to_owned());
            lines.extend(account.hub.iter().map(|(kind, n)| count(kind, *n)));
        }
        for violation in &self.violations {
            lines.push(format!("\n{violation}"));
        }
        if !self.recent.is_empty() {
            lines.push("\nthe operations before, the latest last:".to_owned());
            lines.extend(self.recent.iter().map(|op| format!("  {op}")));
        }
        let verdict = match self.verdict {
            SoakVerdict::Pass => "pass",
            SoakVerdict::Fail => "fail",
            SoakVerdict::Inconclusive => "inconclusive",
        };
        let reason = self.reason.iter().map(|why| format!(": {why}"));
        lines.push(format!("\n{verdict}{}", reason.collect::<String>()));
        lines.join("\n")
    }

    /// Whether nothing was wrong, and enough was done to say so.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.verdict == SoakVerdict::Pass
    }
}
