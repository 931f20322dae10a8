//! Mutants against rules: [`Matrix`].

use std::collections::VecDeque;
use std::fmt::Write as _;
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

/// How often a verdict has to come that is not the expected one, unless it is said otherwise.
const LOOKS: u32 = 3;

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
    tried: Vec<&'static str>,
}

/// What the rules said of a backend with nothing wrong.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ControlRow {
    /// Which wrappers it has.
    pub name: &'static str,
    /// The rules that it failed, with the reasons.
    pub failed: Vec<(&'static str, String)>,
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

    /// How often a verdict has to come that is not the expected one before it counts. They are looked at one after the other,
    /// so a matrix with many new rows or rules is written with one look. Default 3, one at least.
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
        for (row, rule) in unsteady {
            matrix.mutants[row].unsteady.push(self.rules[rule].id);
        }
        matrix
    }

    /// What a mutant does to the rules beside its own can depend on a race. A verdict that is not the expected one counts
    /// when it comes as often as [`looks`](Self::looks) says; else the expected one is taken, and the cell is told to be unsteady.
    fn look_again(&self, cells: &mut [(Job, Cell)], controls: &[Control]) -> Vec<(usize, usize)> {
        let mut unsteady = Vec::new();
        for (job, cell) in cells {
            let Job::Mutant { row, rule } = *job else {
                continue;
            };
            let (mutant, id) = (&self.mutants[row], self.rules[rule].id);
            let (must, may) = expected::of(mutant);
            let is_odd = |cell: &Cell| match id == mutant.rule {
                // One that lives, lives. One that dies of something else may have met a busy machine.
                true => cell.verdict.is_bad() && !mutant.is_killed_by(cell),
                false => !may.contains(&id) && cell.verdict.is_bad() != must.contains(&id),
            };
            let mut looks = 1;
            while is_odd(cell) && looks < self.looks {
                looks += 1;
                *cell = self.try_one(*job, controls);
            }
            if looks > 1 && !is_odd(cell) {
                unsteady.push((row, rule));
            }
        }
        unsteady
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

    fn missing(&self) -> impl Iterator<Item = &'static str> + '_ {
        let failed = |rule: &&'static str| self.failed.contains(rule);
        self.expected
            .iter()
            .copied()
            .filter(move |rule| !failed(rule))
    }

    fn strange(&self) -> impl Iterator<Item = &'static str> + '_ {
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

    /// For people: one line for each mutant with a column for each rule, then what is wrong.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let width = self
            .mutants
            .iter()
            .map(|row| row.name.len())
            .max()
            .unwrap_or(0);
        let _ = writeln!(
            text,
            "# fails, as it must   ? may fail, and does   ! fails, and must not"
        );
        let _ = writeln!(
            text,
            "- passes, and must not   . passes                 blank: not tried\n"
        );
        for line in 0..3 {
            let _ = write!(text, "{:width$}  ", "");
            for rule in &self.rules {
                text.push(rule.chars().nth(line).unwrap_or(' '));
            }
            text.push('\n');
        }
        for row in &self.mutants {
            let _ = write!(text, "{:width$}  ", row.name);
            text.extend(self.rules.iter().map(|rule| row.mark(rule)));
            let state = match (row.killed, row.exact) {
                (true, true) => "",
                (true, false) => "  not exact",
                (false, _) if !self.rules.contains(&row.rule) => "",
                (false, _) => "  ALIVE",
            };
            let _ = writeln!(text, "{state}");
        }
        for control in &self.controls {
            let _ = writeln!(
                text,
                "{:width$}  nothing wrong, {} failed",
                control.name,
                control.failed.len()
            );
        }
        for Protection {
            name,
            off,
            rule,
            fails,
        } in &self.protections
        {
            let verdict = if *fails { "fails" } else { "PASSES" };
            let _ = writeln!(text, "{off:width$}  without {name}, {rule} {verdict}");
        }
        text.push('\n');
        self.write_complaints(&mut text);
        text.push_str(&self.to_summary());
        text
    }

    /// In one line.
    #[must_use]
    pub fn to_summary(&self) -> String {
        let killed = self.mutants.iter().filter(|row| row.killed).count();
        let exact = self.mutants.iter().filter(|row| row.exact).count();
        let bad = self
            .controls
            .iter()
            .filter(|control| !control.failed.is_empty())
            .count();
        format!(
            "{killed} of {} mutants killed for their reason, {exact} fail exactly the rules that they should, {bad} of \
             {} controls fail, in {:.1} s",
            self.mutants.len(),
            self.controls.len(),
            Duration::from_millis(self.took_ms).as_secs_f64(),
        )
    }

    fn write_complaints(&self, text: &mut String) {
        let start = text.len();
        for row in &self.mutants {
            if !row.killed && self.rules.contains(&row.rule) {
                let _ = writeln!(
                    text,
                    "{} is not killed by {}: {}",
                    row.name, row.rule, row.reason
                );
            }
            if !row.unsteady.is_empty() {
                let rules = row.unsteady.join(" ");
                let _ = writeln!(text, "{} went both ways in {rules}", row.name);
            }
            for rule in row.missing().filter(|rule| *rule != row.rule) {
                let _ = writeln!(text, "{} does not fail {rule}, as it should", row.name);
            }
            for rule in row.strange() {
                let _ = writeln!(text, "{} fails {rule}, and should not", row.name);
            }
        }
        for control in &self.controls {
            for (rule, reason) in &control.failed {
                let _ = writeln!(
                    text,
                    "{} fails {rule}, with nothing wrong: {reason}",
                    control.name
                );
            }
        }
        if text.len() > start {
            text.push('\n');
        }
    }
}

impl Row {
    fn mark(&self, rule: &'static str) -> char {
        match (self.failed.contains(&rule), self.expected.contains(&rule)) {
            (true, true) => '#',
            (true, false) if self.tolerated.contains(&rule) => '?',
            (true, false) => '!',
            (false, true) => '-',
            (false, false) if self.tried.contains(&rule) => '.',
            (false, false) => ' ',
        }
    }
}
