//! The command `backplane-conformance`: [`main`].
//!
//! ```text
//! backplane-conformance verify memory
//! backplane-conformance verify redis [--fixture container|process|proxy|url] [--url URL]
//! backplane-conformance list
//! ```
//!
//! Both take `--format text|json`. With `json`, standard output holds one document and nothing else; progress and
//! complaints go to standard error.
//!
//! `verify` also takes `--rule ID` (repeatable), `--seed N`, `--repeat N` and `--time-scale F`. For each rule that
//! did not pass it prints the command line that repeats it.
//!
//! # Exit codes
//! 0 only if the backend is [certified](crate::Report::is_certified); 1 if not; 2 if the suite could not be run, because
//! of wrong arguments or because there is no server; 130 after an interrupt (143 after a SIGTERM), when everything
//! that was started has been ended.

mod args;
mod list;
mod mutants;
mod screen;
mod servers;
mod verify;

use std::fmt;
use std::future;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use self::args::{Cli, Command};
use crate::harness::Harness;

/// How long the end of the harness may take: a container has to be removed.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(30);

/// How long what still runs may take to notice that it is over.
const RUNTIME_LIMIT: Duration = Duration::from_secs(5);

/// Runs the command with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    match command {
        Command::List { format } => {
            list::print(format);
            ExitCode::SUCCESS
        }
        Command::Mutants(args) => mutants::run(&args),
        Command::Verify { backend } => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return refuse(format_args!("cannot start the runtime: {error}")),
            };
            let code = runtime.block_on(until_interrupted(|place| verify::run(backend, place)));
            runtime.shutdown_timeout(RUNTIME_LIMIT);
            code
        }
    }
}

/// Where the harness is put as soon as there is one, so that it can be ended whatever happens.
type Place = Arc<OnceLock<Arc<dyn Harness>>>;

/// Runs until the end or an interrupt, then ends the harness.
async fn until_interrupted<F: Future<Output = ExitCode>>(run: impl FnOnce(Place) -> F) -> ExitCode {
    let place = Place::default();
    let code = tokio::select! {
        biased;
        code = arrival(SignalKind::interrupt(), 130) => code,
        code = arrival(SignalKind::terminate(), 143) => code,
        code = run(Arc::clone(&place)) => code,
    };
    if let Some(harness) = place.get()
        && timeout(SHUT_DOWN_LIMIT, harness.shut_down()).await.is_err()
    {
        complain(format_args!(
            "the server did not end within {SHUT_DOWN_LIMIT:?}"
        ));
    }
    code
}

async fn arrival(kind: SignalKind, code: u8) -> ExitCode {
    let Ok(mut signal) = signal(kind) else {
        return future::pending().await;
    };
    if signal.recv().await.is_none() {
        return future::pending().await;
    }
    complain("interrupted");
    ExitCode::from(code)
}

/// Says why the suite cannot be run.
fn refuse(why: impl fmt::Display) -> ExitCode {
    complain(format_args!("error: {why}"));
    ExitCode::from(2)
}

/// A line on standard error. Where nobody reads it, there is nobody to tell.
fn complain(line: impl fmt::Display) {
    screen::to_stderr(format_args!("{line}\n"));
}
