//! What the command prints while it runs, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use clap::ColorChoice;

use super::args::{Format, RunArgs};
use super::outputs::document;
use crate::expected::Difference;
use crate::harness::Description;
use crate::report::text::Paint;
use crate::report::{About, Report, RuleResult};
use crate::runner::Progress;

/// Writes to standard output. A reader that went away is no error: the exit code still tells the
/// result.
pub(super) fn to_stdout(text: impl fmt::Display) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Writes to standard error, likewise.
pub(super) fn to_stderr(text: impl fmt::Display) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Prints the progress of runs, and their results.
#[derive(Debug)]
pub(super) struct Screen {
    /// What standard output holds.
    format: Format,
    paint: Paint,
    /// How many runs there will be.
    repeat: u64,
    /// Which run this is, from 1.
    repetition: u64,
    seed: u64,
    /// Whether a person looks at standard error, so that a line may be overwritten.
    live: bool,
    /// The rules that are being tried.
    trying: Vec<&'static str>,
    ended: usize,
    /// Results that wait for the ones before them, by their places.
    waiting: BTreeMap<usize, RuleResult>,
    /// The place of the next result to be printed.
    next: usize,
    /// The section that was printed last.
    section: String,
}

/// Back to the start of the line, and clear it.
const CLEAR: &str = "\r\x1b[K";

impl Screen {
    pub(super) fn new(args: &RunArgs) -> Self {
        let format = match args.output {
            Some(_) => Format::Text,
            None => args.format,
        };
        Self {
            format,
            paint: Paint::new(is_coloured(args.color)),
            repeat: args.repeat,
            repetition: 0,
            seed: 0,
            live: io::stderr().is_terminal(),
            trying: Vec::new(),
            ended: 0,
            waiting: BTreeMap::new(),
            next: 0,
            section: String::new(),
        }
    }

    /// Before one run.
    pub(super) fn begin(&mut self, of: &Description, seed: u64) {
        if self.repetition == 0 {
            let title = About::new(of.clone(), seed).title();
            match self.format {
                Format::Text => to_stdout(format_args!("{}\n", self.paint.bold(&title))),
                _ => to_stderr(format_args!("{title}\n")),
            }
        }
        self.repetition += 1;
        self.seed = seed;
        self.trying.clear();
        self.ended = 0;
        self.waiting.clear();
        self.next = 0;
        self.section.clear();
    }

    /// While it runs.
    pub(super) fn show(&mut self, progress: &Progress<'_>) {
        self.clear();
        let total = match *progress {
            Progress::Begin { rule, total, .. } => {
                self.trying.push(rule.id);
                total
            }
            Progress::End {
                result,
                index,
                total,
            } => {
                self.trying.retain(|id| *id != result.id);
                self.ended += 1;
                self.show_result(result, index, total);
                total
            }
        };
        if self.live && !self.trying.is_empty() {
            let (place, trying) = (self.place(self.ended + 1, total), self.trying.join(" "));
            to_stderr(format_args!("{place} {trying}"));
        }
    }

    /// Prints results in the order of the contract, whatever the order in which they end.
    fn show_result(&mut self, result: &RuleResult, index: usize, total: usize) {
        self.waiting.insert(index, result.clone());
        while let Some(result) = self.waiting.remove(&self.next) {
            self.next += 1;
            if self.is_news(&result) {
                self.print(&result, total);
            }
        }
    }

    fn print(&mut self, result: &RuleResult, total: usize) {
        if self.format != Format::Text {
            let place = self.place(self.next, total);
            to_stderr(format_args!("{place} {} {}\n", result.verdict, result.id));
            return;
        }
        if self.section != result.section {
            self.section.clone_from(&result.section);
            to_stdout(self.paint.heading(&result.section));
        }
        to_stdout(format_args!("{}\n", self.paint.line(result)));
    }

    /// Why nothing is tried any more is said once, at the end.
    const fn is_news(&self, result: &RuleResult) -> bool {
        result.tried && (self.repeat == 1 || result.verdict.is_bad())
    }

    /// After one run.
    pub(super) fn end(&self, report: &Report) {
        self.clear();
        if self.repeat == 1 {
            return;
        }
        let (n, of, seed) = (self.repetition, self.repeat, self.seed);
        let line = format!(
            "repetition {n} of {of}, seed {seed}: {}\n",
            report.to_summary()
        );
        match self.format {
            Format::Text => to_stdout(line),
            _ => to_stderr(line),
        }
    }

    /// After all runs.
    pub(super) fn close(&self, report: &Report) {
        match self.format {
            Format::Text => to_stdout(self.paint.end(report)),
            format => {
                to_stdout(document(report, format));
                // A person who waits for the document reads how it went here.
                to_stderr(Paint::PLAIN.end(report));
            }
        }
    }

    /// Where the verdicts are not the expected ones.
    pub(super) fn differences(&self, file: &Path, differences: &[Difference]) {
        if differences.is_empty() {
            return;
        }
        let mut text = format!("\nnot as {} expects:\n", file.display());
        for difference in differences {
            text.push_str(&format!("  {difference}\n"));
        }
        text.push_str("if that is right, --write-expected writes the file anew\n");
        match self.format {
            Format::Text => to_stdout(text),
            _ => to_stderr(text),
        }
    }

    fn clear(&self) {
        if self.live {
            to_stderr(CLEAR);
        }
    }

    fn place(&self, n: usize, total: usize) -> String {
        let place = format!("[{n}/{total}]");
        match self.repeat {
            1 => place,
            of => format!("[{} of {of}] {place}", self.repetition),
        }
    }
}

/// Whether standard output is coloured.
fn is_coloured(choice: ColorChoice) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            io::stdout().is_terminal() && !is_set("NO_COLOR") && !dumb
        }
    }
}
