//! `verify --soak`: runs the model for as long as one likes.

use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::args::Format;
use super::refuse;
use super::screen::{to_stderr, to_stdout};
use crate::harness::{Description, Harness};
use crate::model::{Soak, SoakProgress, SoakReport, SoakVerdict};
use crate::report::SUITE_VERSION;

/// The pause between two lines of progress.
const EVERY: Duration = Duration::from_secs(5);

/// Likewise, where one line is written over and over.
const EVERY_LIVE: Duration = Duration::from_millis(500);

/// Back to the start of the line, and clear it.
const CLEAR: &str = "\r\x1b[K";

/// What is to be run.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) duration: Duration,
    pub(super) seed: u64,
    pub(super) scale: f64,
    pub(super) format: Format,
    /// The command line that runs it again, without its seed.
    pub(super) reproduction: String,
}

/// Runs the model until its time is over or the first interrupt, which says an exit code.
pub(super) async fn run(
    harness: Arc<dyn Harness>,
    wanted: &Wanted,
    interrupt: impl Future<Output = u8> + Send,
) -> ExitCode {
    let of = harness.describe();
    if let Format::Junit | Format::Markdown = wanted.format {
        return refuse("a soak is printed as text or json");
    }
    match wanted.format {
        Format::Json => to_stderr(title(&of, wanted)),
        _ => to_stdout(title(&of, wanted)),
    }
    let code = AtomicU8::new(0);
    let stop = async { code.store(interrupt.await, Ordering::Relaxed) };
    let mut line = Line::new();
    let report = Soak::new(harness)
        .duration(wanted.duration)
        .seed(wanted.seed)
        .time_scale(wanted.scale)
        .run_until(stop, |progress| line.show(progress))
        .await;
    line.clear();
    match wanted.format {
        Format::Json => match serde_json::to_string_pretty(&report) {
            Ok(json) => {
                to_stdout(format_args!("{json}\n"));
                to_stderr(text(&report, wanted));
            }
            Err(error) => return refuse(format_args!("the report cannot be written: {error}")),
        },
        _ => to_stdout(text(&report, wanted)),
    }
    match (report.verdict, code.into_inner()) {
        (SoakVerdict::Fail | SoakVerdict::Inconclusive, 0) => ExitCode::FAILURE,
        (SoakVerdict::Fail, _) => ExitCode::FAILURE,
        (SoakVerdict::Pass, 0) => ExitCode::SUCCESS,
        (_, interrupted) => ExitCode::from(interrupted),
    }
}

fn title(of: &Description, wanted: &Wanted) -> String {
    let server = of.server.iter().map(|server| format!(" {server}"));
    format!(
        "backplane-conformance {SUITE_VERSION}: soak of {}{}, fixture {}, seed {}, for {:?}\n",
        of.backend,
        server.collect::<String>(),
        of.fixture,
        wanted.seed,
        wanted.duration,
    )
}

/// The progress: one line that is written over where a person looks, a line now and then otherwise.
struct Line {
    live: bool,
    shown: Option<Duration>,
}

impl Line {
    fn new() -> Self {
        Self {
            live: io::stderr().is_terminal(),
            shown: None,
        }
    }

    fn show(&mut self, progress: &SoakProgress) {
        let every = if self.live { EVERY_LIVE } else { EVERY };
        let due = self
            .shown
            .is_none_or(|last| progress.elapsed >= last + every);
        if !due {
            return;
        }
        self.shown = Some(progress.elapsed);
        let seconds = progress.elapsed.as_secs_f64();
        let account = &progress.account;
        let faults: u64 = account.faults.values().sum();
        let line = format!(
            "{seconds:.0} s: {} operations, {faults} faults, {:.0} messages/s; {account}",
            progress.ops,
            account.attempted as f64 / seconds.max(0.001),
        );
        match self.live {
            true => to_stderr(format_args!("{CLEAR}{line}")),
            false => to_stderr(format_args!("{line}\n")),
        }
    }

    fn clear(&self) {
        if self.live {
            to_stderr(CLEAR);
        }
    }
}

/// What a run came to, for people.
fn text(report: &SoakReport, wanted: &Wanted) -> String {
    let text = report.to_text();
    if report.is_passed() {
        return format!("\n{text}\n");
    }
    let (line, seed) = (&wanted.reproduction, report.last_seed);
    format!("\n{text}\nto repeat the operations of the last round:\n  {line} --seed {seed}\n")
}
