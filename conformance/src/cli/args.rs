//! The arguments of the command.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Proves that a backend keeps the contract of backplane, rule by rule.
#[derive(Debug, Parser)]
#[command(name = "backplane-conformance", version, after_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    certified: no MUST rule failed or stayed inconclusive
  1    not certified
  2    the suite could not be run: wrong arguments, or no server
  130  interrupted";

const MUTANT_CODES: &str = "\
Exit codes:
  0    every mutant fails what it must, for the expected reason, and nothing else
  1    not so
  2    wrong arguments";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the suite on a backend
    #[command(after_help = EXIT_CODES)]
    Verify {
        #[command(subcommand)]
        backend: Backend,
    },
    /// Show that the suite catches backends that are wrong on purpose
    #[command(after_help = MUTANT_CODES)]
    Mutants(MutantArgs),
    /// Print the rules
    List {
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Backend {
    /// The in-memory backend; needs nothing
    Memory(RunArgs),
    /// The Redis backend, on a server that the suite starts or is given
    Redis {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        run: RunArgs,
    },
}

/// Which Redis to run on.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Where the server comes from [default: url with --url, else container, else process]
    #[arg(long, value_enum)]
    pub(super) fixture: Option<Fixture>,
    /// The server to use, for the fixture url, such as redis://user:password@host:6379/0
    #[arg(long)]
    pub(super) url: Option<String>,
}

/// How to run.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    /// Run only this rule; may be given several times
    #[arg(long = "rule", value_name = "ID", value_delimiter = ',')]
    pub(super) rules: Vec<String>,
    /// Repeat the choices of an earlier run [default: random]
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Run everything so many times, with the seeds N, N+1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) repeat: u64,
    /// Stretch every time limit by this factor, for a slow machine: 1 to 100
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = time_scale)]
    pub(super) time_scale: f64,
}

/// Which mutants to run, and how.
#[derive(Debug, Args)]
pub(super) struct MutantArgs {
    /// How to print the matrix
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    /// Run only this mutant; may be given several times
    #[arg(long = "mutant", value_name = "NAME", value_delimiter = ',')]
    pub(super) mutants: Vec<String>,
    /// Try only this rule; may be given several times
    #[arg(long = "rule", value_name = "ID", value_delimiter = ',')]
    pub(super) rules: Vec<String>,
    /// How many trials run at once [default: 8 for each core]
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// Stretch every time limit by this factor, for a slow machine: 1 to 100
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = time_scale)]
    pub(super) time_scale: f64,
    /// Write what was seen as the table of what is expected
    #[arg(long, value_name = "FILE")]
    pub(super) write_expected: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Fixture {
    /// A container
    Container,
    /// A redis-server of this machine
    Process,
    /// Likewise, with each node behind a fault proxy of its own
    Proxy,
    /// A server that runs already; it is never broken, only the way to it
    Url,
}

impl Fixture {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Process => "process",
            Self::Proxy => "proxy",
            Self::Url => "url",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Lines for people
    #[default]
    Text,
    /// One JSON document
    Json,
}

fn time_scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (1.0..=100.0).contains(&scale) => Ok(scale),
        _ => Err("it must be a number from 1 to 100".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_time_scale_stretches_and_never_shortens() {
        for right in ["1", "1.5", "100"] {
            assert!(time_scale(right).is_ok(), "{right}");
        }
        for wrong in ["0.9", "0", "-1", "101", "inf", "NaN", "x", ""] {
            assert!(time_scale(wrong).is_err(), "{wrong}");
        }
    }
}
