//! `verify`: runs the suite.

use std::process::ExitCode;
use std::sync::Arc;

use super::args::{Backend, RunArgs};
use super::screen::Screen;
use super::{Place, complain, refuse, servers};
use crate::harness::{Description, Harness};
use crate::memory::MemoryHarness;
use crate::report::Report;
use crate::rules;
use crate::runner::Suite;

pub(super) async fn run(backend: Backend, place: Place) -> ExitCode {
    let (Backend::Memory(args) | Backend::Redis { run: args, .. }) = &backend;
    let rules = match rules::select(&args.rules) {
        Ok(rules) => rules,
        Err(unknown) => {
            return refuse(format_args!(
                "there is no rule {unknown:?}; `list` prints the rules"
            ));
        }
    };
    let harness: Arc<dyn Harness> = match &backend {
        Backend::Memory(_) => Arc::new(MemoryHarness::new()),
        Backend::Redis { server, .. } => match servers::start(server).await {
            Ok(harness) => harness,
            Err(why) => return refuse(why),
        },
    };
    // The place is empty: this is the only one who fills it, once.
    let _ = place.set(Arc::clone(&harness));

    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let mut screen = Screen::new(args.format, args.repeat);
    screen.open(&harness.describe(), seed);
    let mut runs: Vec<Report> = Vec::new();
    for repetition in 0..args.repeat {
        let seed = seed.wrapping_add(repetition);
        screen.begin(seed);
        let suite = Suite::new(Arc::clone(&harness));
        let suite = suite
            .rules(rules.clone())
            .seed(seed)
            .time_scale(args.time_scale);
        let report = suite.run_with(|progress| screen.show(&progress)).await;
        screen.end(&report);
        let lost = report.broker_lost.clone();
        runs.push(report);
        if let Some(why) = lost {
            complain(format_args!(
                "the broker is lost, and the rest was not tried: {why}"
            ));
            break;
        }
    }
    finish(&screen, runs, &harness.describe(), args)
}

fn finish(screen: &Screen, mut runs: Vec<Report>, of: &Description, args: &RunArgs) -> ExitCode {
    let reproductions = reproductions(&runs, of, args);
    let report = match args.repeat {
        1 => runs.pop(),
        _ => Report::repeated(runs),
    };
    // There was at least one run.
    let Some(report) = report else {
        return refuse("nothing was run");
    };
    screen.close(&report, &reproductions);
    if report.is_certified() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// For each rule that did not pass, the command line that repeats its first bad trial.
fn reproductions(runs: &[Report], of: &Description, args: &RunArgs) -> Vec<String> {
    let mut lines: Vec<(&str, String)> = Vec::new();
    for run in runs {
        for rule in run
            .rules
            .iter()
            .filter(|rule| rule.tried && rule.verdict.is_bad())
        {
            if !lines.iter().any(|(id, _)| *id == rule.id) {
                lines.push((rule.id, reproduction(rule.id, run.seed, of, args)));
            }
        }
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

fn reproduction(rule: &str, seed: u64, of: &Description, args: &RunArgs) -> String {
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
        "cargo run --release -p backplane-conformance -- verify {}{fixture} --rule {rule} --seed \
         {seed}{scale}",
        of.backend
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Cli, Command};
    use super::*;

    fn line(fixture: &str, arguments: &[&str]) -> String {
        let of = Description {
            backend: "redis".to_owned(),
            backend_version: None,
            fixture: fixture.to_owned(),
            server: None,
        };
        let all = ["x", "verify", "memory"].iter().chain(arguments);
        let Command::Verify {
            backend: Backend::Memory(args),
        } = Cli::parse_from(all).command
        else {
            unreachable!()
        };
        reproduction("L5", 123, &of, &args)
    }

    #[test]
    fn a_failure_comes_with_the_command_line_that_repeats_it() {
        const COMMAND: &str = "cargo run --release -p backplane-conformance -- verify redis";
        assert_eq!(
            line("process", &["--seed", "9", "--repeat", "5"]),
            format!("{COMMAND} --fixture process --rule L5 --seed 123")
        );
        assert_eq!(
            line("none", &["--time-scale", "2.5"]),
            format!("{COMMAND} --rule L5 --seed 123 --time-scale 2.5")
        );
        assert_eq!(
            line("url", &[]),
            format!("{COMMAND} --fixture url --url \"$URL\" --rule L5 --seed 123")
        );
    }
}
