//! `mutants`: shows that the suite catches backends that are wrong on purpose.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;

use super::commands::{ListFormat, MutantArgs};
use super::{complain, refuse, screen};
use crate::mutants::{self, Matrix, MatrixRun};
use crate::rules;

/// Runs the matrix of mutants against rules.
pub(super) fn run(args: &MutantArgs) -> ExitCode {
    let rules = match rules::select(&args.rules) {
        Ok(rules) => rules,
        Err(unknown) => {
            return refuse(format_args!(
                "there is no rule {unknown:?}; `list` prints the rules"
            ));
        }
    };
    let mut chosen = mutants::all();
    let is_known = |name: &&String| !chosen.iter().any(|mutant| mutant.name == **name);
    if let Some(unknown) = args.mutants.iter().find(is_known) {
        return refuse(format_args!("there is no mutant {unknown:?}"));
    }
    if !args.mutants.is_empty() {
        chosen.retain(|mutant| args.mutants.iter().any(|name| name == mutant.name));
    }
    if args.mutants.is_empty() {
        chosen.retain(|mutant| rules.iter().any(|rule| rule.id == mutant.rule));
    }
    let mut run = MatrixRun::new(chosen).rules(rules);
    if let Some(scale) = args.time_scale {
        run = run.time_scale(scale);
    }
    if let Some(others) = args.others {
        run = run.others(others);
    }
    if let Some(jobs) = args.jobs {
        run = run.jobs(jobs.get());
    }
    if let Some(looks) = args.looks {
        run = run.looks(looks.get());
    }
    let matrix = tell_progress(run);
    match args.format {
        ListFormat::Text => screen::to_stdout(format_args!("{}\n", matrix.to_text())),
        ListFormat::Json => screen::to_stdout(format_args!("{}\n", matrix.to_json())),
    }
    if let Some(file) = &args.write_expected {
        return write(file, &matrix);
    }
    match matrix.is_sound() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn tell_progress(run: MatrixRun) -> Matrix {
    let live = io::stderr().is_terminal();
    let matrix = run.run(|done, total| {
        if live {
            screen::to_stderr(format_args!("\r{done} of {total} trials"));
        } else if done % 1000 == 0 {
            complain(format_args!("{done} of {total} trials"));
        }
    });
    if live {
        complain("");
    }
    matrix
}

fn write(file: &Path, matrix: &Matrix) -> ExitCode {
    match fs::write(file, matrix.to_table()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(format_args!("cannot write {}: {error}", file.display())),
    }
}
