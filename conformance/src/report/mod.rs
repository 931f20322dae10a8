//! What a run found: [`Report`], as text, JSON, JUnit XML and Markdown.

mod about;
mod json;
mod junit;
pub(crate) mod markdown;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::about::{About, Declared};
use crate::contract;
use crate::rule::{Level, Need, Rule};
use crate::rules;
use crate::verdict::{Verdict, VerdictKind};

/// The version of the suite, in every report.
pub const SUITE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a run found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// What ran, on what, when, and how to repeat it.
    pub about: About,
    /// How many runs this sums up, where it does; see [`Report::repeated`].
    pub repetitions: Option<u64>,
    /// How many rules ended how.
    pub summary: Summary,
    /// The rules in the order of the contract.
    pub rules: Vec<RuleResult>,
    /// Why rules were not tried, where the broker did not come back.
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
    /// The section of the contract, such as `D. Delivery`.
    pub section: String,
    /// What it says, in full.
    pub text: &'static str,
    /// What its trial needs of the harness.
    pub needs: Vec<&'static str>,
    /// The faults that those needs stand for.
    pub faults: Vec<String>,
    /// The command line that repeats the trial, where it did not pass and the command is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reproduce: Option<String>,
    /// Whether it was tried, or need not be; false where the broker was lost before.
    #[serde(skip)]
    pub(crate) tried: bool,
}

impl RuleResult {
    pub(crate) fn new(rule: &Rule, verdict: &Verdict, took: Duration) -> Self {
        let faults = rule.needs.iter().flat_map(|need| need.faults().iter());
        let mut faults: Vec<String> = faults.copied().flatten().map(ToString::to_string).collect();
        faults.dedup();
        Self {
            id: rule.id,
            level: rule.level,
            title: rule.title,
            verdict: verdict.kind(),
            reason: verdict.reason().to_owned(),
            duration_ms: millis(took),
            section: contract::heading(rule.id),
            text: contract::text(rule.id),
            needs: rule.needs.iter().copied().map(Need::as_str).collect(),
            faults,
            reproduce: None,
            tried: true,
        }
    }

    /// Whether this result refuses the certificate.
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        matches!(self.level, Level::Must) && self.verdict.is_bad()
    }

    /// The result as one line for people, and one more with the reason where it did not pass.
    #[must_use]
    pub fn to_line(&self) -> String {
        text::Paint::PLAIN.line(self)
    }

    fn found_in(&mut self, repetition: u64, seed: u64) {
        if self.verdict.is_bad() {
            self.reason = format!("repetition {repetition}, seed {seed}: {}", self.reason);
        }
    }
}

impl Report {
    pub(crate) fn new(about: About, rules: Vec<RuleResult>) -> Self {
        let mut report = Self {
            about,
            repetitions: None,
            summary: Summary::default(),
            rules,
            broker_lost: None,
        };
        report.sum_up();
        report
    }

    fn sum_up(&mut self) {
        self.summary = Summary::default();
        for rule in &self.rules {
            *self.summary.of(rule.verdict) += 1;
        }
    }

    /// Sums up several runs of the same rules: each rule has its worst verdict, with the reason and the seed of the
    /// first run that found it, and the time of all its trials. `None` when there is none.
    #[must_use]
    pub fn repeated(runs: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut runs = runs.into_iter();
        let mut sum = runs.next()?;
        let first = sum.about.seed;
        for rule in &mut sum.rules {
            rule.found_in(1, first);
        }
        let places: BTreeMap<&str, usize> = (sum.rules.iter().enumerate())
            .map(|(place, rule)| (rule.id, place))
            .collect();
        let mut repetitions = 1;
        for run in runs {
            repetitions += 1;
            sum.about.duration_ms += run.about.duration_ms;
            sum.about.capabilities = sum.about.capabilities.or(run.about.capabilities);
            sum.broker_lost = sum.broker_lost.or(run.broker_lost);
            for mut rule in run.rules {
                let Some(known) = places.get(rule.id).and_then(|at| sum.rules.get_mut(*at)) else {
                    continue;
                };
                let duration_ms = known.duration_ms + rule.duration_ms;
                if rule.verdict.severity() > known.verdict.severity() {
                    rule.found_in(repetitions, run.about.seed);
                    *known = rule;
                }
                known.duration_ms = duration_ms;
            }
        }
        sum.repetitions = Some(repetitions);
        sum.sum_up();
        Some(sum)
    }

    /// Adds how to repeat the run, and each trial that did not pass.
    #[must_use]
    pub fn reproduced_by(mut self, run: String, trial: impl Fn(&str) -> String) -> Self {
        self.about.reproduce = Some(run);
        for rule in &mut self.rules {
            if rule.tried && rule.verdict.is_bad() {
                rule.reproduce = Some(trial(rule.id));
            }
        }
        self
    }

    /// Whether the backend is certified: some rule passed, and no MUST rule failed or stayed inconclusive.
    #[must_use]
    pub fn is_certified(&self) -> bool {
        self.summary.pass > 0 && !self.rules.iter().any(RuleResult::is_bad)
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        json::document(self)
    }

    /// The report for people: a line for each rule under the heading of its section, what did not pass with the rule
    /// in full and the command that repeats it, and the summary.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::Paint::PLAIN.document(self)
    }

    /// The report as JUnit XML: a suite for each section, a case for each rule.
    ///
    /// What is inconclusive is an error, and what is refused, not applicable or a known failure is skipped, with the
    /// reason.
    #[must_use]
    pub fn to_junit(&self) -> String {
        junit::document(self)
    }

    /// The report as Markdown: a table for each section.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        markdown::document(self)
    }

    /// The last line of the report.
    #[must_use]
    pub fn to_summary(&self) -> String {
        let counts: Vec<String> = self
            .summary
            .counts()
            .filter(|(kind, n)| *n > 0 || matches!(kind, VerdictKind::Pass | VerdictKind::Fail))
            .map(|(kind, n)| format!("{n} {}", text::counted(kind, n)))
            .collect();
        let certified = match self.is_certified() {
            true => "certified",
            false => "NOT certified",
        };
        let seconds = self.about.duration_ms as f64 / 1000.0;
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
            self.about.backend
        )
    }

    /// The rules, section by section.
    fn sections(&self) -> Vec<(&str, Vec<&RuleResult>)> {
        let mut sections: Vec<(&str, Vec<&RuleResult>)> = Vec::new();
        for rule in &self.rules {
            match sections.last_mut() {
                Some((section, rules)) if *section == rule.section => rules.push(rule),
                _ => sections.push((&rule.section, vec![rule])),
            }
        }
        sections
    }
}

impl Summary {
    /// How many rules ended how, from the best to the worst.
    fn counts(&self) -> impl Iterator<Item = (VerdictKind, usize)> + use<> {
        [
            (VerdictKind::Pass, self.pass),
            (VerdictKind::Fail, self.fail),
            (VerdictKind::Inconclusive, self.inconclusive),
            (VerdictKind::Refused, self.refused),
            (VerdictKind::NotApplicable, self.not_applicable),
            (VerdictKind::KnownFailure, self.known_failure),
        ]
        .into_iter()
    }

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

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
