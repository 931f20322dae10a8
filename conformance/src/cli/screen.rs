//! What the command prints while it runs, and where.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use super::args::Format;
use crate::harness::Description;
use crate::report::{Report, RuleResult, header};
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
    format: Format,
    /// How many runs there will be.
    repeat: u64,
    /// Which run this is, from 1.
    repetition: u64,
    seed: u64,
    /// Whether a person looks at standard error, so that a line may be overwritten.
    live: bool,
}

/// Back to the start of the line, and clear it.
const CLEAR: &str = "\r\x1b[K";

impl Screen {
    pub(super) fn new(format: Format, repeat: u64) -> Self {
        Self {
            format,
            repeat,
            repetition: 0,
            seed: 0,
            live: io::stderr().is_terminal(),
        }
    }

    /// Before all runs.
    pub(super) fn open(&self, of: &Description, seed: u64) {
        let line = header(of, seed);
        match self.format {
            Format::Text => to_stdout(format_args!("{line}\n\n")),
            Format::Json => to_stderr(format_args!("{line}\n")),
        }
    }

    /// Before one run.
    pub(super) fn begin(&mut self, seed: u64) {
        self.repetition += 1;
        self.seed = seed;
    }

    /// While it runs.
    pub(super) fn show(&self, progress: &Progress<'_>) {
        match *progress {
            Progress::Begin { rule, index, total } if self.live => {
                let place = self.place(index, total);
                to_stderr(format_args!("{CLEAR}{place} {} {}", rule.id, rule.title));
            }
            Progress::Begin { .. } => {}
            Progress::End {
                result,
                index,
                total,
            } => self.show_result(result, index, total),
        }
    }

    fn show_result(&self, result: &RuleResult, index: usize, total: usize) {
        self.clear();
        // Why nothing is tried any more is said once, at the end.
        let is_news = result.tried && (self.repeat == 1 || result.verdict.is_bad());
        match self.format {
            Format::Text if is_news => to_stdout(format_args!("{}\n", result.to_line())),
            Format::Json if is_news => {
                let place = self.place(index, total);
                to_stderr(format_args!("{place} {} {}\n", result.verdict, result.id));
            }
            _ => {}
        }
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
            Format::Json => to_stderr(line),
        }
    }

    /// After all runs.
    pub(super) fn close(&self, report: &Report, reproductions: &[String]) {
        match self.format {
            Format::Text => to_stdout(format_args!("\n{}\n", report.to_summary())),
            Format::Json => to_stdout(format_args!("{}\n", report.to_json())),
        }
        if reproductions.is_empty() {
            return;
        }
        let lines = format!(
            "\nto repeat what did not pass:\n  {}\n",
            reproductions.join("\n  ")
        );
        match self.format {
            Format::Text => to_stdout(lines),
            Format::Json => to_stderr(lines),
        }
    }

    fn clear(&self) {
        if self.live {
            to_stderr(CLEAR);
        }
    }

    fn place(&self, index: usize, total: usize) -> String {
        let place = format!("[{}/{total}]", index + 1);
        match self.repeat {
            1 => place,
            of => format!("[{} of {of}] {place}", self.repetition),
        }
    }
}
