//! Running the steps one after the other, and the table at the end.

use std::time::{Duration, Instant};

use crate::checks::{self, Check, Needs};
use crate::run::Result;
use crate::setup::{self, Containers, IMAGE_VARIABLE, Image};

/// Tells the tests that their container trials cannot run here; set by nobody else.
const WITHOUT_VARIABLE: &str = "BACKPLANE_WITHOUT_CONTAINER";

/// Sets up what the chosen checks need, runs them up to the first failure, prints the table.
///
/// With an empty `only`, all checks are chosen.
pub(crate) fn test(only: &[String], containers: Containers) -> Result<()> {
    let chosen: Vec<Check> = checks::all()
        .into_iter()
        .filter(|check| only.is_empty() || only.iter().any(|name| check.is_meant_by(name)))
        .collect();
    let mut report = Report::default();
    let env = report.set_up(Wanted::by(&chosen), containers);
    for check in &chosen {
        if report.failed() {
            report.add(&check.name, Outcome::NotRun, Duration::ZERO);
        } else if check.needs == Needs::Container && containers == Containers::Declined {
            let outcome = Outcome::LeftOut("--without-container".to_owned());
            report.add(&check.name, outcome, Duration::ZERO);
        } else if check.needs == Needs::Container && report.no_engine {
            let outcome = Outcome::CannotRun("no container engine answers".to_owned());
            report.add(&check.name, outcome, Duration::ZERO);
        } else {
            report.step(&check.name, || check.run(&env).map(|()| String::new()));
        }
    }
    report.finish(if only.is_empty() {
        "checks"
    } else {
        "chosen checks"
    })
}

/// Only the set-up.
pub(crate) fn setup(containers: Containers) -> Result<()> {
    let mut report = Report::default();
    report.set_up(Wanted::ALL, containers);
    report.finish("set-up steps")
}

/// The parts of the set-up that are wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    fmt_and_clippy: bool,
    redis_server: bool,
    nats_server: bool,
    image: bool,
}

impl Wanted {
    const ALL: Self = Self {
        fmt_and_clippy: true,
        redis_server: true,
        nats_server: true,
        image: true,
    };

    fn by(checks: &[Check]) -> Self {
        let any = |needs: &[Needs]| checks.iter().any(|check| needs.contains(&check.needs));
        Self {
            fmt_and_clippy: ["fmt", "clippy"]
                .iter()
                .any(|group| checks.iter().any(|check| check.is_meant_by(group))),
            redis_server: any(&[Needs::RedisServer, Needs::ServersAndImage, Needs::Container]),
            nats_server: any(&[Needs::NatsServer, Needs::ServersAndImage]),
            image: any(&[Needs::ServersAndImage, Needs::Container]),
        }
    }
}

/// How a step ended, with a word on it.
#[derive(Debug)]
enum Outcome {
    Passed(String),
    Failed(String),
    /// Something is missing here, and nobody asked to leave the step out: a failure.
    CannotRun(String),
    /// Left out because the person asked for it.
    LeftOut(String),
    /// An earlier step failed.
    NotRun,
}

#[derive(Debug, Default)]
struct Report {
    rows: Vec<(String, Outcome, Duration)>,
    no_engine: bool,
}

impl Report {
    /// Sets the machine up; returns the variables for the checks.
    fn set_up(&mut self, wanted: Wanted, containers: Containers) -> Vec<(String, String)> {
        let mut env = Vec::new();
        if wanted.fmt_and_clippy {
            self.step("set-up: rustfmt and clippy", setup::fmt_and_clippy);
        }
        if wanted.redis_server && !self.failed() {
            self.step("set-up: redis-server", || setup::server("redis-server"));
        }
        if wanted.nats_server && !self.failed() {
            self.step("set-up: nats-server", || setup::server("nats-server"));
        }
        if !wanted.image || self.failed() {
            return env;
        }
        let name = "set-up: container image";
        if containers == Containers::Declined {
            let outcome = Outcome::LeftOut("--without-container".to_owned());
            self.add(name, outcome, Duration::ZERO);
            env.push((WITHOUT_VARIABLE.to_owned(), "1".to_owned()));
            return env;
        }
        println!("\n=== {name}");
        let begun = Instant::now();
        let outcome = match setup::image() {
            Ok(Image::Ready(image)) => {
                env.push((IMAGE_VARIABLE.to_owned(), image.clone()));
                Outcome::Passed(image)
            }
            Ok(Image::NoEngine(reason)) if containers == Containers::Required => Outcome::Failed(
                format!("a container engine is required, and none answers: {reason}"),
            ),
            Ok(Image::NoEngine(reason)) => {
                self.no_engine = true;
                env.push((WITHOUT_VARIABLE.to_owned(), "1".to_owned()));
                println!(
                    "!!! No container engine answers: {reason}\n\
                     !!! The checks that need one cannot run on this machine. The others run, and \
                     the whole fails at the end.\n\
                     !!! To leave them out knowingly, give --without-container."
                );
                Outcome::CannotRun("no container engine answers".to_owned())
            }
            Err(reason) => Outcome::Failed(reason),
        };
        self.end(name, outcome, begun.elapsed());
        env
    }

    /// Runs one step between two printed lines.
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<String>) {
        println!("\n=== {name}");
        let begun = Instant::now();
        let outcome = match step() {
            Ok(word) => Outcome::Passed(word),
            Err(reason) => Outcome::Failed(reason),
        };
        self.end(name, outcome, begun.elapsed());
    }

    fn end(&mut self, name: &str, outcome: Outcome, took: Duration) {
        println!("=== {name}: {outcome} ({:.1} s)", took.as_secs_f64());
        self.add(name, outcome, took);
    }

    fn add(&mut self, name: &str, outcome: Outcome, took: Duration) {
        self.rows.push((name.to_owned(), outcome, took));
    }

    /// Whether a step failed that stops the rest.
    fn failed(&self) -> bool {
        self.rows
            .iter()
            .any(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_)))
    }

    /// Prints the table and judges the whole.
    fn finish(&self, what: &str) -> Result<()> {
        println!("\n{:<46} {:>8}  outcome", "step", "seconds");
        for (name, outcome, took) in &self.rows {
            println!("{name:<46} {:>8.1}  {outcome}", took.as_secs_f64());
        }
        let total: Duration = self.rows.iter().map(|(_, _, took)| *took).sum();
        println!("{:<46} {:>8.1}", "total", total.as_secs_f64());
        let verdict = self.verdict(what)?;
        println!("\n{verdict}");
        Ok(())
    }

    fn verdict(&self, what: &str) -> Result<String> {
        let count = |meant: fn(&Outcome) -> bool| {
            self.rows
                .iter()
                .filter(|(_, outcome, _)| meant(outcome))
                .count()
        };
        if let Some((name, outcome, _)) = self
            .rows
            .iter()
            .find(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_)))
        {
            let left = count(|outcome| matches!(outcome, Outcome::NotRun));
            let rest = if left > 0 {
                format!("; {left} {what} not run")
            } else {
                String::new()
            };
            return Err(format!("{name}: {outcome}{rest}"));
        }
        let missing = count(|outcome| matches!(outcome, Outcome::CannotRun(_)));
        if missing > 0 {
            return Err(format!(
                "{missing} {what} cannot run on this machine: no container engine answers (to \
                 leave them out knowingly, give --without-container)"
            ));
        }
        Ok(
            match count(|outcome| matches!(outcome, Outcome::LeftOut(_))) {
                0 => format!("all {what} passed"),
                left_out => format!("all {what} passed, except {left_out} left out on request"),
            },
        )
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (word, detail) = match self {
            Self::Passed(detail) => ("passed", detail.as_str()),
            Self::Failed(detail) => ("FAILED", detail.as_str()),
            Self::CannotRun(detail) => ("CANNOT RUN", detail.as_str()),
            Self::LeftOut(detail) => ("left out", detail.as_str()),
            Self::NotRun => ("not run", ""),
        };
        f.write_str(word)?;
        if detail.is_empty() {
            Ok(())
        } else {
            write!(f, ": {detail}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(outcomes: Vec<Outcome>) -> Result<String> {
        let mut report = Report::default();
        for outcome in outcomes {
            report.add("step", outcome, Duration::ZERO);
        }
        report.verdict("checks")
    }

    #[test]
    fn what_cannot_run_fails_the_whole_and_what_was_left_out_on_request_is_told() {
        let passed = || Outcome::Passed(String::new());
        assert_eq!(verdict(vec![passed()]), Ok("all checks passed".to_owned()));
        let left_out = verdict(vec![passed(), Outcome::LeftOut(String::new())]);
        assert_eq!(
            left_out,
            Ok("all checks passed, except 1 left out on request".to_owned())
        );
        let cannot = verdict(vec![passed(), Outcome::CannotRun(String::new())]);
        assert!(cannot.unwrap_err().contains("cannot run"));
        let failed = verdict(vec![Outcome::Failed("boom".to_owned()), Outcome::NotRun]);
        assert!(failed.unwrap_err().contains("boom; 1 checks not run"));
    }

    #[test]
    fn a_check_that_needs_no_machine_brings_no_set_up() {
        let fmt: Vec<_> = checks::all()
            .into_iter()
            .filter(|c| c.name == "doc")
            .collect();
        let wanted = Wanted::by(&fmt);
        assert!(!wanted.fmt_and_clippy && !wanted.redis_server && !wanted.image);
    }
}
