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
            backend_version: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn result(id: &'static str, verdict: &Verdict) -> RuleResult {
        let rules = rules::all();
        let rule = rules.iter().find(|rule| rule.id == id).unwrap();
        RuleResult::new(rule, verdict, Duration::from_millis(10))
    }

    fn run(seed: u64, verdicts: [Verdict; 2]) -> Report {
        let [d1, d2] = verdicts;
        let of = Description {
            backend: "b".to_owned(),
            backend_version: None,
            fixture: "f".to_owned(),
            server: None,
        };
        let results = vec![result("D1", &d1), result("D2", &d2)];
        Report::new(of, seed, Duration::from_millis(25), results)
    }

    fn fail(why: &str) -> Verdict {
        Verdict::Fail(why.to_owned())
    }

    fn unclear(why: &str) -> Verdict {
        Verdict::Inconclusive(why.to_owned())
    }

    #[test]
    fn repetitions_sum_up_to_the_worst_verdict_with_its_first_reason() {
        let sum = Report::repeated([
            run(7, [Verdict::Pass, Verdict::Pass]),
            run(8, [unclear("x"), Verdict::Pass]),
            run(9, [fail("y"), Verdict::Pass]),
            run(10, [fail("z"), Verdict::Pass]),
        ])
        .unwrap();
        assert_eq!((sum.seed, sum.repetitions), (7, Some(4)));
        assert_eq!(sum.duration_ms, 100);
        let [d1, d2] = &sum.rules[..] else {
            panic!("{sum:?}")
        };
        assert_eq!((d1.verdict, d1.duration_ms), (VerdictKind::Fail, 40));
        assert_eq!(d1.reason, "repetition 3, seed 9: y");
        assert_eq!((d2.verdict, &*d2.reason), (VerdictKind::Pass, ""));
        assert_eq!((sum.summary.pass, sum.summary.fail), (1, 1));
        assert!(!sum.is_certified());
    }

    #[test]
    fn a_bad_first_repetition_is_named_too() {
        let sum = Report::repeated([run(7, [fail("x"), Verdict::Pass])]).unwrap();
        assert_eq!(sum.rules[0].reason, "repetition 1, seed 7: x");
        assert!(Report::repeated([]).is_none());
    }

    #[test]
    fn nothing_is_certified_by_rules_that_do_not_apply() {
        let away = || Verdict::NotApplicable("x".to_owned());
        assert!(!run(1, [away(), away()]).is_certified());
        assert!(run(1, [away(), Verdict::Pass]).is_certified());
        assert!(!run(1, [unclear("x"), Verdict::Pass]).is_certified());
    }

    #[test]
    fn the_document_has_its_fixed_shape() {
        let document = run(1, [fail("x"), Verdict::Pass]).to_json();
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        let expected = serde_json::json!({
            "suite_version": SUITE_VERSION, "backend": "b", "fixture": "f", "seed": 1, "duration_ms": 25,
            "summary": {"pass": 1, "fail": 1, "inconclusive": 0, "refused": 0, "not_applicable": 0, "known_failure": 0},
            "rules": [
                {"id": "D1", "level": "MUST", "title": result("D1", &Verdict::Pass).title,
                 "verdict": "fail", "reason": "x", "duration_ms": 10},
                {"id": "D2", "level": "MUST", "title": result("D2", &Verdict::Pass).title,
                 "verdict": "pass", "reason": "", "duration_ms": 10},
            ],
        });
        assert_eq!(document, expected);
    }
}
