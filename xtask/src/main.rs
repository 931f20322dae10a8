//! `cargo xtask`: sets a machine up and runs the checks of this workspace.

mod checks;
mod engine;
mod image;
mod report;
mod run;
mod setup;

use std::env;
use std::process::ExitCode;

use crate::setup::Containers;

const USAGE: &str = "\
cargo xtask test     set the machine up, then run every check; stops at the first failure
cargo xtask setup    only the set-up: redis-server, nats-server, and an image for the container fixture
cargo xtask image    build the image backplane-redis:local from this machine's redis-server
cargo xtask list     the checks, with their command lines
cargo xtask help     this text

Options of test:
  --only NAME           run this check, or this group of checks (repeatable; see list)
Options of test and setup:
  --require-container   fail at once if no container engine answers (the default if CI is set)
  --without-container   leave out what needs a container engine

Environment:
  BACKPLANE_REDIS_IMAGE  the image of the container fixture; without it backplane-redis:local,
                         redis:7-alpine (pulled if need be), or a new backplane-redis:local
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Test {
        only: Vec<String>,
        containers: Containers,
    },
    Setup {
        containers: Containers,
    },
    Image,
    List,
    Help,
}

fn main() -> ExitCode {
    let task = match parse(env::args().skip(1), Containers::from_env()) {
        Ok(task) => task,
        Err(reason) => {
            eprint!("error: {reason}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Test { only, containers } => report::test(&only, containers),
        Task::Setup { containers } => report::setup(containers),
        Task::Image => setup::rebuild_image(),
        Task::List => {
            for check in checks::all() {
                println!("{:<46} {}", check.name, check.cmd);
            }
            Ok(())
        }
        Task::Help => {
            print!("{USAGE}");
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line; `containers` is what holds if it says nothing about them.
fn parse(args: impl IntoIterator<Item = String>, containers: Containers) -> Result<Task, String> {
    let mut args = args.into_iter();
    let task = args.next().ok_or("what should be done?")?;
    let mut only = Vec::new();
    let mut choice = None;
    let takes_containers = matches!(task.as_str(), "test" | "setup");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" if task == "test" => only.push(args.next().ok_or("--only needs a name")?),
            "--require-container" | "--without-container" if takes_containers => {
                let chosen = if arg == "--require-container" {
                    Containers::Required
                } else {
                    Containers::Declined
                };
                if choice
                    .replace(chosen)
                    .is_some_and(|before| before != chosen)
                {
                    return Err(
                        "--require-container and --without-container exclude each other".to_owned(),
                    );
                }
            }
            _ => return Err(format!("`{task}` does not take `{arg}`")),
        }
    }
    let checks = checks::all();
    if let Some(name) = only
        .iter()
        .find(|name| !checks.iter().any(|c| c.is_meant_by(name)))
    {
        return Err(format!(
            "there is no check `{name}`: see `cargo xtask list`"
        ));
    }
    let containers = choice.unwrap_or(containers);
    match task.as_str() {
        "test" => Ok(Task::Test { only, containers }),
        "setup" => Ok(Task::Setup { containers }),
        "image" => Ok(Task::Image),
        "list" => Ok(Task::List),
        "help" | "--help" | "-h" => Ok(Task::Help),
        _ => Err(format!("there is no task `{task}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Task, String> {
        parse(
            line.split_whitespace().map(str::to_owned),
            Containers::Wanted,
        )
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in [
            "",
            "tset",
            "test fmt",
            "test --only",
            "test --only no-such-check",
            "test --skip fmt",
            "setup --only fmt",
            "image --require-container",
            "list --all",
            "test --require-container --without-container",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn only_adds_up_and_an_explicit_choice_beats_the_environment() {
        let expected = Task::Test {
            only: vec!["fmt".to_owned(), "suite".to_owned()],
            containers: Containers::Declined,
        };
        let line = "test --only fmt --without-container --only suite";
        let args = line.split(' ').map(str::to_owned);
        assert_eq!(parse(args, Containers::Required), Ok(expected));
    }

    #[test]
    fn without_a_choice_the_environment_decides() {
        assert_eq!(
            parsed("setup"),
            Ok(Task::Setup {
                containers: Containers::Wanted
            })
        );
    }
}
