//! Mutants against rules: [`Matrix`].

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Control, Mutant, PROTECTIONS, TIME_SCALE, controls, expected};
use crate::harness::Harness;
use crate::rule::Rule;
use crate::rules;
use crate::runner::Suite;
use crate::verdict::VerdictKind;

/// How long what a trial has left behind may take to end with its runtime.
const RUNTIME_LIMIT: Duration = Duration::from_secs(1);

/// How often a verdict that is not the expected one is looked at, unless it is said otherwise.
const LOOKS: u32 = 5;

/// How many trials run at once for each core: most of them wait for something that does not happen.
const AT_ONCE_PER_CORE: usize = 8;

/// A run of mutants against rules, to be configured.
#[derive(Debug)]
pub struct MatrixRun {
    mutants: Vec<Mutant>,
    rules: Vec<Rule>,
    controls: bool,
    named_only: bool,
    others: usize,
    jobs: usize,
    looks: u32,
    scale: f64,
}

/// What every rule said of every mutant.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Matrix {
    /// The version of the suite.
    pub suite_version: &'static str,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The rules that were tried, in the order of the contract.
    pub rules: Vec<&'static str>,
    /// One row for each mutant.
    pub mutants: Vec<Row>,
    /// The backends with the same wrappers and nothing wrong, which must fail nothing.
    pub controls: Vec<ControlRow>,
    /// The protections of the engine, each off in one of the mutants that were run.
    pub protections: Vec<Protection>,
}

/// A protection of the engine, and what the trial says when it is off.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Protection {
    /// The protection.
    pub name: &'static str,
    /// The mutant that runs without it.
    pub off: &'static str,
    /// The rule that is broken then.
    pub rule: &'static str,
    /// Whether its trial fails then.
    pub fails: bool,
}

/// What the rules said of one mutant.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The mutant.
    pub name: &'static str,
    /// What is wrong with it.
    pub about: &'static str,
    /// The rule that names its fault.
    pub rule: &'static str,
    /// The rules that it must fail, of those that were tried.
    pub expected: Vec<&'static str>,
    /// The rules that it may fail or pass, because a race decides, of those that were tried.
    pub tolerated: Vec<&'static str>,
    /// The rules that it failed.
    pub failed: Vec<&'static str>,
    /// The rules that first said something else than expected, and the expected thing when they were tried again.
    pub unsteady: Vec<&'static str>,
    /// Whether the rule that names its fault failed, for the expected reason.
    pub killed: bool,
    /// Whether it failed what it must, and nothing that it must not.
    pub exact: bool,
    /// What the rule that names its fault said.
    pub reason: String,
    /// What the rules that it failed said, in their order.
    pub reasons: Vec<(&'static str, String)>,
    /// The rules that it was tried against.
    #[serde(skip)]
    pub(super) tried: Vec<&'static str>,
}

/// What the rules said of a backend with nothing wrong.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ControlRow {
    /// Which wrappers it has.
    pub name: &'static str,
    /// The rules that it failed, with the reasons.
    pub failed: Vec<(&'static str, String)>,
    /// The rules that it failed at first, and passed each time that they were tried again.
    pub unsteady: Vec<&'static str>,
}

impl MatrixRun {
    /// A run of these mutants against all rules, and of the controls.
    #[must_use]
    pub fn new(mutants: Vec<Mutant>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            mutants,
            rules: rules::all(),
            controls: true,
            named_only: false,
            others: usize::MAX,
            jobs: cores * AT_ONCE_PER_CORE,
            looks: LOOKS,
            scale: 1.0,
        }
    }

    /// Tries only these rules.
    #[must_use]
    pub fn rules(mut self, rules: Vec<Rule>) -> Self {
        self.rules = rules;
        self
    }

    /// Whether the controls are run too. Default: they are.
    #[must_use]
    pub const fn controls(mut self, controls: bool) -> Self {
        self.controls = controls;
        self
    }

    /// Tries each mutant only against the rule that names its fault, and no controls: much quicker.
    #[must_use]
    pub const fn named_rules_only(mut self) -> Self {
        self.named_only = true;
        self.controls = false;
        self
    }

    /// Of the rules that a mutant should pass, tries only so many, always the same ones. Default: all.
    #[must_use]
    pub const fn others(mut self, others: usize) -> Self {
        self.others = others;
        self
    }

    /// How many trials run at once, at least one. Default: 8 for each core.
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs.max(1);
        self
    }

    /// How often a verdict that is not the expected one is looked at, the first time included, before it counts. They are
    /// looked at one after the other, so a matrix with many new rows or rules is written with one look. Default 5, one at
    /// least.
    #[must_use]
    pub const fn looks(mut self, looks: u32) -> Self {
        self.looks = looks;
        self
    }

    /// Stretches every time limit by this factor, for a slow machine. Default 1.
    #[must_use]
    pub const fn time_scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Runs every rule on every mutant, each trial on a bus and a runtime of its own. Blocks.
    ///
    /// `progress` is told how many trials of how many have ended.
    #[must_use]
    pub fn run(self, mut progress: impl FnMut(usize, usize)) -> Matrix {
        let begin = Instant::now();
        let mut work = VecDeque::new();
        for (row, mutant) in self.mutants.iter().enumerate() {
            let asked = self.asked(mutant);
            let is_asked = |rule: &usize| asked.contains(&self.rules[*rule].id);
            let rules = (0..self.rules.len()).filter(is_asked);
            work.extend(rules.map(|rule| Job::Mutant { row, rule }));
        }
        let controls = if self.controls {
            controls()
        } else {
            Vec::new()
        };
        for (row, control) in controls.iter().enumerate() {
            let is_asked = |rule: &usize| control.is_asked(self.rules[*rule].id);
            let asked = (0..self.rules.len()).filter(is_asked);
            work.extend(asked.map(|rule| Job::Control { row, rule }));
        }
        let total = work.len();
        let work = Mutex::new(work);
        let next = || {
            work.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()
        };
        let (done, results) = mpsc::channel();
        let mut cells = Vec::with_capacity(total);
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                let done = done.clone();
                scope.spawn(|| {
                    // Moved in: the last worker ends the results.
                    let done = done;
                    while let Some(job) = next() {
                        let cell = self.try_one(job, &controls);
                        // Nobody goes away before the last one.
                        let _ = done.send((job, cell));
                    }
                });
            }
            drop(done);
            for cell in results {
                cells.push(cell);
                progress(cells.len(), total);
            }
        });
        let unsteady = self.look_again(&mut cells, &controls);
        let mut matrix = self.matrix(cells, &controls, begin.elapsed());
        for job in unsteady {
            let (unsteady, rule) = match job {
                Job::Mutant { row, rule } => (&mut matrix.mutants[row].unsteady, rule),
                Job::Control { row, rule } => (&mut matrix.controls[row].unsteady, rule),
            };
            unsteady.push(self.rules[rule].id);
        }
        matrix
    }

    /// Looks again at every verdict that is not the expected one, when nothing else runs, and takes the expected one if it
    /// [comes back](Self::comes_back). Returns the jobs whose verdict changed so: they are unsteady.
    fn look_again(&self, cells: &mut [(Job, Cell)], controls: &[Control]) -> Vec<Job> {
        let mut unsteady = Vec::new();
        for (job, cell) in cells {
            if !self.is_odd(*job, cell) {
                continue;
            }
            let looks = (1..self.looks).map(|_| self.try_one(*job, controls));
            if let Some(expected) = self.comes_back(*job, looks) {
                *cell = expected;
                unsteady.push(*job);
            }
        }
        unsteady
    }

    /// The expected verdict, if these looks give it.
    ///
    /// What a mutant does to the rules beside its own can depend on a race: there once is enough. The rule that names its
    /// fault kills it each time, and a control passes each time: a busy machine is excused once, and never again.
    fn comes_back(&self, job: Job, looks: impl Iterator<Item = Cell>) -> Option<Cell> {
        let by_race = match job {
            Job::Mutant { row, rule } => self.rules[rule].id != self.mutants[row].rule,
            Job::Control { .. } => false,
        };
        let mut last = None;
        for cell in looks {
            match (self.is_odd(job, &cell), by_race) {
                (true, false) => return None,
                (true, true) => {}
                (false, true) => return Some(cell),
                (false, false) => last = Some(cell),
            }
        }
        last
    }

    /// Whether this is not what the rule should say of it.
    fn is_odd(&self, job: Job, cell: &Cell) -> bool {
        let Job::Mutant { row, rule } = job else {
            return cell.verdict.is_bad();
        };
        let (mutant, id) = (&self.mutants[row], self.rules[rule].id);
        if id == mutant.rule {
            return !mutant.is_killed_by(cell);
        }
        let (must, may) = expected::of(mutant);
        !may.contains(&id) && cell.verdict.is_bad() != must.contains(&id)
    }

    /// The rules that a mutant is tried against.
    fn asked(&self, mutant: &Mutant) -> Vec<&'static str> {
        let ids = self.rules.iter().map(|rule| rule.id);
        if self.named_only {
            return ids.filter(|id| *id == mutant.rule).collect();
        }
        let (mut asked, mut others): (Vec<_>, Vec<_>) = ids.partition(|id| mutant.fails(id));
        others.sort_by_cached_key(|id| {
            let mut hasher = DefaultHasher::new();
            (mutant.name, id).hash(&mut hasher);
            hasher.finish()
        });
        asked.extend(others.into_iter().take(self.others));
        asked
    }

    fn try_one(&self, job: Job, controls: &[Control]) -> Cell {
        let (harness, rule) = match job {
            Job::Mutant { row, rule } => (self.mutants[row].harness(), rule),
            Job::Control { row, rule } => (controls[row].harness(), rule),
        };
        let factor = match job {
            // What must fail, fails soon: nothing is far away.
            Job::Mutant { row, rule } if self.mutants[row].fails(self.rules[rule].id) => TIME_SCALE,
            _ => 1.0,
        };
        try_rule(harness, self.rules[rule], self.scale, factor)
    }

    fn matrix(&self, cells: Vec<(Job, Cell)>, controls: &[Control], took: Duration) -> Matrix {
        let row = |mutant| {
            let asked = self.asked(mutant);
            Row::of(mutant, |id| asked.contains(&id))
        };
        let mut rows: Vec<_> = self.mutants.iter().map(row).collect();
        let control_row = |control: &Control| ControlRow {
            name: control.name,
            failed: Vec::new(),
            unsteady: Vec::new(),
        };
        let mut control_rows: Vec<_> = controls.iter().map(control_row).collect();
        let mut cells = cells;
        cells.sort_by_key(|(job, _)| *job);
        for (job, cell) in cells {
            match job {
                Job::Mutant { row, rule } => {
                    rows[row].add(&self.mutants[row], self.rules[rule].id, cell);
                }
                Job::Control { row, rule } if cell.verdict.is_bad() => {
                    control_rows[row]
                        .failed
                        .push((self.rules[rule].id, cell.reason));
                }
                Job::Control { .. } => {}
            }
        }
        for row in &mut rows {
            row.judge();
        }
        Matrix {
            suite_version: crate::report::SUITE_VERSION,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            rules: self.rules.iter().map(|rule| rule.id).collect(),
            protections: protections(&rows),
            mutants: rows,
            controls: control_rows,
        }
    }
}

fn protections(rows: &[Row]) -> Vec<Protection> {
    let without = |(name, off): &(&'static str, &str)| {
        let row = rows.iter().find(|row| row.name == *off)?;
        Some(Protection {
            name,
            off: row.name,
            rule: row.rule,
            fails: row.killed,
        })
    };
    PROTECTIONS.iter().filter_map(without).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    Mutant { row: usize, rule: usize },
    Control { row: usize, rule: usize },
}

/// What one rule said of one backend.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) verdict: VerdictKind,
    pub(super) reason: String,
}

/// Runs one rule, on a runtime of its own, because some rules count its tasks.
pub(super) fn try_rule(harness: Arc<dyn Harness>, rule: Rule, scale: f64, factor: f64) -> Cell {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return Cell {
                verdict: VerdictKind::Inconclusive,
                reason: format!("cannot start a runtime: {error}"),
            };
        }
    };
    let suite = Suite::new(harness)
        .rules(vec![rule])
        .time_scale(scale)
        .times(factor);
    let report = runtime.block_on(suite.run());
    runtime.shutdown_timeout(RUNTIME_LIMIT);
    match report.rules.into_iter().next() {
        Some(result) => Cell {
            verdict: result.verdict,
            reason: result.reason,
        },
        None => Cell {
            verdict: VerdictKind::Inconclusive,
            reason: "the rule was not run".to_owned(),
        },
    }
}

impl Row {
    fn of(mutant: &Mutant, is_tried: impl Fn(&str) -> bool) -> Self {
        let (expected, tolerated) = expected::of(mutant);
        Self {
            name: mutant.name,
            about: mutant.about,
            rule: mutant.rule,
            expected: expected.into_iter().filter(|id| is_tried(id)).collect(),
            tolerated: tolerated.into_iter().filter(|id| is_tried(id)).collect(),
            failed: Vec::new(),
            unsteady: Vec::new(),
            killed: false,
            exact: false,
            reason: String::new(),
            reasons: Vec::new(),
            tried: Vec::new(),
        }
    }

    fn add(&mut self, mutant: &Mutant, rule: &'static str, cell: Cell) {
        self.tried.push(rule);
        // That a trial could not tell, is bad for the mutant as well: the report is not certified.
        let told = format!("{}: {}", cell.verdict, cell.reason);
        if cell.verdict.is_bad() {
            self.failed.push(rule);
            self.reasons.push((rule, told.clone()));
        }
        if rule == mutant.rule {
            self.killed = mutant.is_killed_by(&cell);
            self.reason = told;
        }
    }

    fn judge(&mut self) {
        let missing = self.missing().next().is_some();
        let strange = self.strange().next().is_some();
        self.exact = !missing && !strange;
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = &'static str> + '_ {
        let failed = |rule: &&'static str| self.failed.contains(rule);
        self.expected
            .iter()
            .copied()
            .filter(move |rule| !failed(rule))
    }

    pub(super) fn strange(&self) -> impl Iterator<Item = &'static str> + '_ {
        let known =
            |rule: &&'static str| self.expected.contains(rule) || self.tolerated.contains(rule);
        self.failed.iter().copied().filter(move |rule| !known(rule))
    }
}

impl Matrix {
    /// Whether every mutant was killed by the rule that names its fault, for the expected reason, failed exactly
    /// what it must, and no control failed anything.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let named = |row: &Row| self.rules.contains(&row.rule);
        self.mutants
            .iter()
            .all(|row| row.exact && (row.killed || !named(row)))
            && self
                .controls
                .iter()
                .all(|control| control.failed.is_empty())
    }

    /// As JSON: `{"mutants": [{"name", "expected", "failed", "killed", ...}], ...}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists: there is nothing in it that JSON cannot say.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants;

    const PASS: VerdictKind = VerdictKind::Pass;
    const FAIL: VerdictKind = VerdictKind::Fail;

    /// What comes back when these verdicts are given after an odd one.
    fn after(run: &MatrixRun, job: Job, looks: &[VerdictKind]) -> Option<VerdictKind> {
        let reason = run.mutants[0].reason;
        let cell = |verdict: &VerdictKind| Cell {
            verdict: *verdict,
            reason: reason.to_owned(),
        };
        let back = run.comes_back(job, looks.iter().map(cell));
        back.map(|cell| cell.verdict)
    }

    #[test]
    fn a_mutant_that_lived_once_has_to_be_killed_each_time_after_that() {
        let run = MatrixRun::new(mutants::all());
        let own = run.mutants[0].rule;
        let rule = run.rules.iter().position(|rule| rule.id == own).unwrap();
        let job = Job::Mutant { row: 0, rule };
        assert_eq!(after(&run, job, &[FAIL, FAIL]), Some(FAIL));
        assert_eq!(after(&run, job, &[FAIL, PASS, FAIL]), None);
        assert_eq!(after(&run, job, &[]), None);
    }

    #[test]
    fn a_control_that_failed_once_has_to_pass_each_time_after_that() {
        let run = MatrixRun::new(mutants::all());
        let job = Job::Control { row: 0, rule: 0 };
        assert_eq!(after(&run, job, &[PASS, PASS]), Some(PASS));
        assert_eq!(after(&run, job, &[PASS, FAIL, PASS]), None);
    }

    #[test]
    fn a_rule_beside_the_own_one_says_the_expected_thing_once() {
        let run = MatrixRun::new(mutants::all());
        let own = run.mutants[0].rule;
        let (must, _) = expected::of(&run.mutants[0]);
        let is_beside = |rule: &Rule| rule.id != own && must.contains(&rule.id);
        let rule = run.rules.iter().position(is_beside).unwrap();
        let job = Job::Mutant { row: 0, rule };
        assert_eq!(after(&run, job, &[PASS, FAIL, PASS]), Some(FAIL));
        assert_eq!(after(&run, job, &[PASS, PASS]), None);
    }
}
