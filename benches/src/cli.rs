//! The command line.
//!
//! ```text
//! backplane-benches compare [--quick] [--format text|json|markdown] [--plot FILE.svg]
//! backplane-benches growth  [--quick] [--format text|json|markdown] [--plot FILE.svg]
//! backplane-benches page    [--quick] [--directory DIR] [--readme FILE]
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::runtime::Runtime;

use crate::compare::{self, Comparison};
use crate::error::{Error, Result};
use crate::growth::{self, Growth};
use crate::{page, plot, report};

/// How fast the backplane crates are, beside what they are built on.
#[derive(Debug, Parser)]
#[command(name = "backplane-benches", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare with blocking sockets, the raw redis crate and tokio broadcast, in one run
    Compare(RunArgs),
    /// How cost grows with channels, subscriptions, nodes and the length of a message
    Growth(RunArgs),
    /// Both, into NUMBERS.md and its plots
    Page(PageArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    extent: Extent,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Also draw it into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct PageArgs {
    #[command(flatten)]
    extent: Extent,
    /// Where to write; the page of this repository by default
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR")), hide_default_value = true)]
    directory: PathBuf,
    /// Also put the first table into this file, between its marks `<!-- numbers -->` and `<!-- end of numbers -->`
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
}

#[derive(Args, Clone, Copy, Debug)]
struct Extent {
    /// At most a minute, and noisier figures
    #[arg(long)]
    quick: bool,
    /// A few seconds, to see that it runs: the figures mean nothing
    #[arg(long, hide = true)]
    tiny: bool,
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

impl Extent {
    fn comparison(self) -> compare::Plan {
        match (self.tiny, self.quick) {
            (true, _) => compare::Plan::tiny(),
            (_, true) => compare::Plan::quick(),
            _ => compare::Plan::full(),
        }
    }

    fn growth(self) -> growth::Plan {
        match (self.tiny, self.quick) {
            (true, _) => growth::Plan::tiny(),
            (_, true) => growth::Plan::quick(),
            _ => growth::Plan::full(),
        }
    }
}

/// Runs the command with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let runtime = Runtime::new().map_err(Error::io("a runtime"))?;
    match command {
        Command::Compare(args) => {
            let plan = args.extent.comparison();
            let comparison = runtime.block_on(Comparison::run(plan, progress))?;
            if let Some(file) = &args.plot {
                write(file, &plot::page(&plot::comparison(&comparison)))?;
            }
            match args.format {
                Format::Text => print!("{}", report::text::text(&comparison)),
                Format::Json => println!("{}", report::json::json(&comparison)),
                Format::Markdown => print!("{}", report::markdown::markdown(&comparison)),
            }
        }
        Command::Growth(args) => {
            let growth = runtime.block_on(Growth::run(args.extent.growth(), progress))?;
            if let Some(file) = &args.plot {
                write(file, &plot::page(&growth::charts(&growth)))?;
            }
            match args.format {
                Format::Text => print!("{}", growth::text(&growth)),
                Format::Json => println!("{}", growth::json(&growth)),
                Format::Markdown => print!("{}", growth::markdown(&growth)),
            }
        }
        Command::Page(args) => {
            let readme = args.readme.map(Readme::open).transpose()?;
            let plan = args.extent.comparison();
            let comparison = runtime.block_on(Comparison::run(plan, progress))?;
            let growth = runtime.block_on(Growth::run(args.extent.growth(), progress))?;
            for (name, text) in page::files(&comparison, &growth) {
                write(&args.directory.join(name), &text)?;
            }
            if let Some(readme) = readme {
                readme.update(&page::headline(&comparison))?;
            }
        }
    }
    Ok(())
}

/// A file with marks, which are looked for before minutes are spent on measuring.
struct Readme(PathBuf);

impl Readme {
    fn open(file: PathBuf) -> Result<Self> {
        let readme = Self(file);
        readme.with("").map(|_| readme)
    }

    /// Its text, with these numbers.
    fn with(&self, numbers: &str) -> Result<String> {
        let of = || format!("{}", self.0.display());
        let text = std::fs::read_to_string(&self.0).map_err(Error::io(of()))?;
        let (before, after) = page::around_numbers(&text).ok_or_else(|| Error::Unmarked(of()))?;
        Ok(format!("{before}\n{numbers}{after}"))
    }

    fn update(&self, numbers: &str) -> Result<()> {
        write(&self.0, &self.with(numbers)?)
    }
}

fn progress(step: &str) {
    eprintln!("{step}");
}

fn write(file: &Path, text: &str) -> Result<()> {
    let write = || {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(file, text)
    };
    write().map_err(Error::io(format!("{}", file.display())))
}
