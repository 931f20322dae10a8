//! `verify --soak`: runs the model for as long as one likes.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::signal::unix::SignalKind;

use super::args::{Backend, Format, RunArgs};
use super::screen::{to_stderr, to_stdout};
use super::{arrival, refuse, servers, shut_down};
use crate::harness::{Description, Harness};
use crate::memory::MemoryHarness;
use crate::model::{Soak, SoakProgress, SoakReport, SoakVerdict};
use crate::report::header;

/// The pause between two lines of progress.
const EVERY: Duration = Duration::from_secs(5);

/// Likewise, where one line is written over and over.
const EVERY_LIVE: Duration = Duration::from_millis(500);

/// Back to the start of the line, and clear it.
const CLEAR: &str = "\r\x1b[K";

/// How long to run the model, if that is what is wanted.
pub(super) fn wanted(backend: &Backend) -> Option<Duration> {
    args(backend).soak
}

/// Runs the model. An interrupt ends it with the account so far.
pub(super) async fn run(backend: Backend, duration: Duration) -> ExitCode {
    let made = async {
        let harness: Arc<dyn Harness> = match &backend {
            Backend::Memory(_) => Arc::new(MemoryHarness::new()),
            Backend::Redis { server, .. } => servers::start(server).await?,
        };
        Ok::<_, String>(harness)
    };
    let harness = tokio::select! {
        biased;
        code = interrupt() => return ExitCode::from(code),
        made = made => match made {
            Ok(harness) => harness,
            Err(why) => return refuse(why),
        },
    };
    let args = args(&backend);
    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let of = harness.describe();
    let title = format!("{}\nsoak for {duration:?}\n", header(&of, seed));
    match args.format {
        Format::Text => to_stdout(title),
        _ => to_stderr(title),
    }

    let code = AtomicU8::new(0);
    let stop = async { code.store(interrupt().await, Ordering::Relaxed) };
    let mut line = Line::new();
    let report = Soak::new(Arc::clone(&harness))
        .duration(duration)
        .seed(seed)
        .time_scale(args.time_scale)
        .run_until(stop, |progress| line.show(progress))
        .await;
    line.clear();
    shut_down(&*harness).await;

    match args.format {
        Format::Json => match serde_json::to_string_pretty(&report) {
            Ok(json) => {
                to_stdout(format_args!("{json}\n"));
                to_stderr(text(&report, &of, duration, args));
            }
            Err(error) => return refuse(format_args!("the report cannot be written: {error}")),
        },
        _ => to_stdout(text(&report, &of, duration, args)),
    }
    match (report.verdict, code.into_inner()) {
        (SoakVerdict::Fail | SoakVerdict::Inconclusive, 0) => ExitCode::FAILURE,
        (SoakVerdict::Fail, _) => ExitCode::FAILURE,
        (SoakVerdict::Pass, 0) => ExitCode::SUCCESS,
        (_, interrupted) => ExitCode::from(interrupted),
    }
}

const fn args(backend: &Backend) -> &RunArgs {
    let (Backend::Memory(args) | Backend::Redis { run: args, .. }) = backend;
    args
}

/// The exit code of the first interrupt.
async fn interrupt() -> u8 {
    tokio::select! {
        _ = arrival(SignalKind::interrupt(), 130) => 130,
        _ = arrival(SignalKind::terminate(), 143) => 143,
    }
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
fn text(report: &SoakReport, of: &Description, duration: Duration, args: &RunArgs) -> String {
    let text = report.to_text();
    if report.is_passed() {
        return format!("\n{text}\n");
    }
    let line = reproduction(report.last_seed, of, duration, args);
    format!("\n{text}\nto repeat the operations of the last round:\n  {line}\n")
}

fn reproduction(seed: u64, of: &Description, duration: Duration, args: &RunArgs) -> String {
    let fixture = match &*of.fixture {
        "none" => String::new(),
        // Not the URL itself: it may hold a password.
        "url" => " --fixture url --url \"$URL\"".to_owned(),
        fixture => format!(" --fixture {fixture}"),
    };
    let scale = match args.time_scale {
        1.0 => String::new(),
        scale => format!(" --time-scale {scale}"),
    };
    format!(
        "cargo run --release -p backplane-conformance -- verify {}{fixture} --soak {}s --seed {seed}{scale}",
        of.backend,
        duration.as_secs()
    )
}
