//! The command line.
//!
//! ```text
//! backplane-benches compare [--quick] [--format text|json|markdown] [--plot FILE.svg]
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::runtime::Runtime;

use crate::compare::{Comparison, Plan};
use crate::error::{Error, Result};
use crate::{plot, report};

/// How fast the backplane crates are, beside what they are built on.
#[derive(Debug, Parser)]
#[command(name = "backplane-benches", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare with blocking sockets, the raw redis crate and tokio broadcast, in one run.
    Compare(CompareArgs),
}

#[derive(Args, Debug)]
struct CompareArgs {
    /// At most a minute, and noisier figures
    #[arg(long)]
    quick: bool,
    /// Also draw latencies and throughput into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// A few seconds, to see that it runs: the figures mean nothing
    #[arg(long, hide = true)]
    tiny: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables for people
    Text,
    /// One object for programs
    Json,
    /// The same tables for a page
    Markdown,
}

/// Runs the command with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let done = match command {
        Command::Compare(args) => compare(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &CompareArgs) -> Result<()> {
    let plan = match (args.tiny, args.quick) {
        (true, _) => Plan::tiny(),
        (_, true) => Plan::quick(),
        _ => Plan::full(),
    };
    let runtime = Runtime::new().map_err(Error::io("a runtime"))?;
    let comparison = runtime.block_on(Comparison::run(plan, |step| eprintln!("{step}")))?;
    if let Some(file) = &args.plot {
        let charts = [plot::latencies(&comparison), plot::throughput(&comparison)];
        write(file, &plot::page(&charts))?;
    }
    match args.format {
        Format::Text => print!("{}", report::text::text(&comparison)),
        Format::Json => println!("{}", report::json::json(&comparison)),
        Format::Markdown => print!("{}", report::markdown::markdown(&comparison)),
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(Error::io(format!("{}", file.display())))
}
