//! The commands of `backplane-conformance`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::EXIT_CODES;
use super::args::RunArgs;
use crate::scale;

/// Proves that a backend keeps the contract of backplane, rule by rule.
#[derive(Debug, Parser)]
#[command(name = "backplane-conformance", version, after_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

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
    /// Print the rules that have a trial
    List {
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
    },
    /// Print the rule book: every rule of the contract in full, what it needs, and its mutants
    Rules {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        format: RulesFormat,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Backend {
    /// The in-memory backend; needs nothing
    Memory(Box<RunArgs>),
    /// The Redis backend, on a server that the suite starts or is given
    Redis {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        run: Box<RunArgs>,
    },
}

/// Which Redis to run on.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// Where the server comes from [default: url with --url, else container, else process]
    #[arg(long, value_enum)]
    pub(super) fixture: Option<Fixture>,
    /// The server to use, for the fixture url, such as redis://user:password@host:6379/0
    #[arg(long)]
    pub(super) url: Option<String>,
}

/// Which mutants to run, and how.
#[derive(Debug, Args)]
pub(super) struct MutantArgs {
    /// How to print the matrix
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: ListFormat,
    /// Run only this mutant; may be given several times
    #[arg(long = "mutant", value_name = "NAME", value_delimiter = ',')]
    pub(super) mutants: Vec<String>,
    /// Try only this rule, and only its mutants unless --mutant names some; may be given several times
    #[arg(long = "rule", value_name = "ID", value_delimiter = ',')]
    pub(super) rules: Vec<String>,
    /// Of the rules that a mutant should pass, try only so many, always the same ones [default: all]
    #[arg(long, value_name = "N")]
    pub(super) others: Option<usize>,
    /// How many trials run at once [default: 8 for each core]
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// How often a verdict that is not the expected one is looked at before it counts [default: 5]
    #[arg(long, value_name = "N")]
    pub(super) looks: Option<NonZeroU32>,
    /// Stretch every time limit by this factor, for a slow machine: 1 to 100 [default: $BACKPLANE_TIME_SCALE, else 1]
    #[arg(long, value_name = "F", value_parser = scale::parse)]
    pub(super) time_scale: Option<f64>,
    /// Write what was seen as the table of what is expected
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mutants", "rules", "others"])]
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
pub(super) enum ListFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON document
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum RulesFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON document
    Json,
    /// The file conformance/RULES.md
    Markdown,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
        Cli::command().debug_assert();
    }
}
