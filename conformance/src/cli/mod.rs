//! The command line: the command `backplane-conformance`, and the same `verify` for a backend of another crate
//! ([`main`](crate::main), [`try_main`](crate::try_main)).
//!
//! ```text
//! backplane-conformance verify memory
//! backplane-conformance verify redis [--fixture container|process|proxy|url] [--url URL]
//! backplane-conformance list
//! backplane-conformance rules
//! backplane-conformance mutants
//! ```
//!
//! # What is printed
//! `verify` prints for people, in the order of the contract, or, with `--format json|junit|markdown`, one document and
//! nothing else; progress and complaints go to standard error then. `--output FILE` writes the document to a file
//! instead, and `--report FORMAT:FILE` writes further ones. A file is there as a whole or not at all.
//!
//! For each rule that did not pass there is the command line that repeats its trial.
//!
//! # How it runs
//! `--rule ID` (repeatable), `--seed N`, `--repeat N`, `--jobs N`, `--shuffle` and `--time-scale F`. `--expect FILE` also
//! fails when a verdict is not the one in the file; see [`Expected`](crate::Expected).
//!
//! With the feature `model`, `--soak DURATION` runs random operations against the model instead of the rules.
//!
//! The environment variable `BACKPLANE_TIME_SCALE` stands for `--time-scale`, and
//! `BACKPLANE_CONFORMANCE_SEED` for `--seed`.
//!
//! # Exit codes
//! 0 only if the backend is [certified](crate::Report::is_certified) and as expected; 1 if not; 2 if the suite could not be
//! run, because of wrong arguments or because there is no server; 130 after an interrupt (143 after a SIGTERM), when
//! everything that was started has been ended.

pub(crate) mod args;
#[cfg(feature = "cli")]
mod commands;
pub(crate) mod embedded;
#[cfg(feature = "cli")]
mod list;
#[cfg(feature = "cli")]
mod mutants;
mod outputs;
mod reproduction;
#[cfg(feature = "cli")]
mod rules;
mod screen;
#[cfg(feature = "cli")]
mod servers;
mod session;
#[cfg(feature = "model")]
mod soak;
#[cfg(feature = "cli")]
mod verify;

use std::fmt;
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0    certified: no MUST rule failed or stayed inconclusive, and all is as expected
  1    not certified, or not as expected
  2    the suite could not be run: wrong arguments, or no server
  130  interrupted";

/// Runs the command with the arguments of this process.
#[cfg(feature = "cli")]
#[must_use]
pub fn main() -> ExitCode {
    use clap::Parser as _;

    let commands::Cli { command } = commands::Cli::parse();
    match command {
        commands::Command::List { format } => {
            list::print(format);
            ExitCode::SUCCESS
        }
        commands::Command::Mutants(args) => mutants::run(&args),
        commands::Command::Rules { format } => {
            rules::print(format);
            ExitCode::SUCCESS
        }
        commands::Command::Verify { backend } => verify::run(backend),
    }
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
