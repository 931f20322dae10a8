//! What a run found: [`Report`], as JSON and as text.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::harness::Description;
use crate::rule::{Level, Rule};
use crate::rules;
use crate::verdict::{Verdict, VerdictKind};

/// The version of the suite, in every report.
pub const SUITE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a run found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The version of the suite.
    pub suite_version: &'static str,
    /// The backend under test.
    pub backend: String,
    /// How its broker was provided.
    pub fixture: String,
    /// The broker's version, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// The seed that repeats the run's choices.
    pub seed: u64,
    /// How long the run took, in milliseconds.
    pub duration_ms: u64,
    /// How many runs this sums up, where it does; see [`Report::repeated`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetitions: Option<u64>,
    /// How many rules ended how.
    pub summary: Summary,
    /// The rules in the order they ran.
    pub rules: Vec<RuleResult>,
    /// Why rules were not tried, where the broker did not come back.
    #[serde(skip)]
    pub(crate) broker_lost: Option<String>,
}

/// How many rules ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// Kept.
    pub pass: usize,
    /// Broken.
    pub fail: usize,
    /// The trial could not tell.
    pub inconclusive: usize,
    /// Not declared, and refused as it must.
    pub refused: usize,
    /// Does not apply here.
    pub not_applicable: usize,
    /// Broken, as the backend says itself.
    pub known_failure: usize,
}

/// What a run found about one rule.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RuleResult {
    /// The rule's number.
    pub id: &'static str,
    /// Whether it binds.
    pub level: Level,
    /// What it says, in short.
    pub title: &'static str,
    /// How its trial ended.
    pub verdict: VerdictKind,
    /// Why; empty for a pass.
    pub reason: String,
    /// How long its trial took, in milliseconds.
    pub duration_ms: u64,
    /// Whether it was tried, or need not be; false where the broker was lost before.
    #[serde(skip)]
    pub(crate) tried: bool,
}

impl RuleResult {
    pub(crate) fn new(rule: &Rule, verdict: &Verdict, took: Duration) -> Self {
        Self {
            id: rule.id,
            level: rule.level,
            title: rule.title,
            verdict: verdict.kind(),
            reason: verdict.reason().to_owned(),
            duration_ms: millis(took),
            tried: true,
        }
    }

    /// Whether this result refuses the certificate.
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        matches!(self.level, Level::Must) && self.verdict.is_bad()
    }
}

impl Report {
    pub(crate) fn new(of: Description, seed: u64, took: Duration, rules: Vec<RuleResult>) -> Self {
        let mut summary = Summary::default();
        for rule in &rules {
            *summary.of(rule.verdict) += 1;
        }
        Self {
            suite_version: SUITE_VERSION,
            backend: of.backend,
            fixture: of.fixture,
            server_version: of.server,
            seed,
            duration_ms: millis(took),
            repetitions: None,
            summary,
            rules,
            broker_lost: None,
        }
    }

    /// Sums up several runs of the same rules: each rule has its worst verdict, with the reason and the seed of the
    /// first run that found it, and the time of all its trials. `None` when there is none.
    #[must_use]
    pub fn repeated(runs: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut runs = runs.into_iter();
        let mut sum = runs.next()?;
        let first = sum.seed;
        for rule in &mut sum.rules {
            rule.found_in(1, first);
        }
        let mut repetitions = 1;
        for run in runs {
            repetitions += 1;
            sum.duration_ms += run.duration_ms;
            sum.broker_lost = sum.broker_lost.or(run.broker_lost);
            for mut rule in run.rules {
                let Some(known) = sum.rules.iter_mut().find(|known| known.id == rule.id) else {
                    continue;
                };
                let duration_ms = known.duration_ms + rule.duration_ms;
                if rule.verdict.severity() > known.verdict.severity() {
                    rule.found_in(repetitions, run.seed);
                    *known = rule;
                }
                known.duration_ms = duration_ms;
            }
        }
        sum.repetitions = Some(repetitions);
        sum.summary = Summary::default();
        for rule in &sum.rules {
            *sum.summary.of(rule.verdict) += 1;
        }
        Some(sum)
    }

    /// Whether the backend is certified: some rule passed, and no MUST rule failed or stayed inconclusive.
    #[must_use]
    pub fn is_certified(&self) -> bool {
        self.summary.pass > 0 && !self.rules.iter().any(RuleResult::is_bad)
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and numbers only: this cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The report for people: a line for each rule, then the summary.
    #[must_use]
    pub fn to_text(&self) -> String {
        let of = Description {
            backend: self.backend.clone(),
            fixture: self.fixture.clone(),
            server: self.server_version.clone(),
        };
        let mut out = format!("{}\n\n", header(&of, self.seed));
        for rule in &self.rules {
            out.push_str(&rule.to_line());
            out.push('\n');
        }
        // Writing to a string does not fail.
        let _ = writeln!(out, "\n{}", self.to_summary());
        out
    }

    /// The last line of the report.
    #[must_use]
    pub fn to_summary(&self) -> String {
        let s = &self.summary;
        let counts: Vec<String> = [
            (s.pass, "passed"),
            (s.fail, "failed"),
            (s.inconclusive, "inconclusive"),
            (s.refused, "refused as declared"),
            (s.not_applicable, "not applicable"),
            (s.known_failure, "known failures"),
        ]
        .into_iter()
        .filter(|(n, what)| *n > 0 || *what == "passed" || *what == "failed")
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
        let certified = if self.is_certified() {
            "certified"
        } else {
            "NOT certified"
        };
        let seconds = self.duration_ms as f64 / 1000.0;
        let repetitions = match self.repetitions {
            None => String::new(),
            Some(1) => ", 1 repetition".to_owned(),
            Some(n) => format!(", {n} repetitions"),
        };
        let (ran, all) = (self.rules.len(), rules::all().len());
        let part = match ran < all {
            true => format!(" ({ran} of {all} rules)"),
            false => String::new(),
        };
        let counts = counts.join(", ");
        format!(
            "{} is {certified}{part}: {counts} in {seconds:.1} s{repetitions}",
            self.backend
        )
    }
}

impl RuleResult {
    fn found_in(&mut self, repetition: u64, seed: u64) {
        if self.verdict.is_bad() {
            self.reason = format!("repetition {repetition}, seed {seed}: {}", self.reason);
        }
    }

    /// The result as one line for people.
    #[must_use]
    pub fn to_line(&self) -> String {
        let verdict = match self.verdict {
            VerdictKind::Pass => "pass",
            VerdictKind::Fail => "FAIL",
            VerdictKind::Inconclusive => "INCONCLUSIVE",
            VerdictKind::Refused => "refused",
            VerdictKind::NotApplicable => "n/a",
            VerdictKind::KnownFailure => "known failure",
        };
        let mut line = format!(
            "{verdict:<12} {:<4} {} ({} ms)",
            self.id, self.title, self.duration_ms
        );
        if !self.reason.is_empty() {
            let _ = write!(line, "\n{:17} {}", "", self.reason);
        }
        line
    }
}

impl Summary {
    fn of(&mut self, verdict: VerdictKind) -> &mut usize {
        match verdict {
            VerdictKind::Pass => &mut self.pass,
            VerdictKind::Fail => &mut self.fail,
            VerdictKind::Inconclusive => &mut self.inconclusive,
            VerdictKind::Refused => &mut self.refused,
            VerdictKind::NotApplicable => &mut self.not_applicable,
            VerdictKind::KnownFailure => &mut self.known_failure,
        }
    }
}

/// The first line of a report.
pub(crate) fn header(of: &Description, seed: u64) -> String {
    let server = of
        .server
        .as_ref()
        .map(|version| format!(" {version}"))
        .unwrap_or_default();
    let (backend, fixture) = (&of.backend, &of.fixture);
    format!(
        "backplane conformance {SUITE_VERSION}: {backend}{server}, fixture {fixture}, seed {seed}"
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
