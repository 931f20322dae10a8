//! The same `verify` for a backend of another crate: [`main`] and [`try_main`].

use std::env;
use std::fmt::Display;
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use super::EXIT_CODES;
use super::args::RunArgs;
use super::screen::to_stdout;
use super::session::Session;
use crate::harness::{Description, Harness};
use crate::rules;

/// Proves that this backend keeps the contract of backplane, rule by rule.
#[derive(Debug, Parser)]
#[command(after_help = EXIT_CODES)]
struct Embedded {
    /// Run only these rules, as --rule does
    #[arg(value_name = "ID")]
    wanted: Vec<String>,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs the suite on a backend, with the command line of [`verify`](crate::cli); for a test target with
/// `harness = false`.
///
/// The harness is made inside the runtime that its nodes will run in, one for each job, each with a broker of its
/// own. Rules can also be chosen without a flag (`cargo test --test conformance -- D1 L5`), and what `cargo test` passes
/// on to every test binary is understood. The exit code says whether the backend is certified.
#[must_use]
pub fn main<H: Harness>(harness: impl Fn() -> H + Send + Sync + 'static) -> ExitCode {
    try_main(move || {
        let harness = harness();
        async move { Ok::<_, String>(harness) }
    })
}

/// Like [`main`], for a harness that takes time to make, or that cannot always be made.
///
/// An error ends the run with exit code 2, and its text says what is missing.
#[must_use]
pub fn try_main<H, F, E>(make: impl Fn() -> F + Send + Sync + 'static) -> ExitCode
where
    H: Harness,
    F: Future<Output = Result<H, E>> + 'static,
    E: Display,
{
    let args = match understood(env::args().skip(1)) {
        Asked::Run(args) => args,
        Asked::List => {
            for rule in rules::all() {
                to_stdout(format_args!("{}: test\n", rule.id));
            }
            return ExitCode::SUCCESS;
        }
        Asked::Nothing(why) => {
            to_stdout(format_args!("{why}: nothing was run\n"));
            return ExitCode::SUCCESS;
        }
    };
    let name = env::args().next().unwrap_or_default();
    let matches = Embedded::command().try_get_matches_from([name].into_iter().chain(args));
    let Embedded { wanted, mut run } =
        match matches.and_then(|all| Embedded::from_arg_matches(&all)) {
            Ok(arguments) => arguments,
            Err(error) => error.exit(),
        };
    run.rules.extend(wanted);
    let session = Session {
        args: run,
        jobs: NonZeroUsize::MIN,
        command,
    };
    session.run(move || {
        let made = make();
        async move {
            let harness: Arc<dyn Harness> = Arc::new(made.await.map_err(|e| e.to_string())?);
            Ok(harness)
        }
    })
}

/// What the arguments of a test binary ask for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// A run with these arguments.
    Run(Vec<String>),
    /// The names of the tests.
    List,
    /// Nothing that is here, for this reason.
    Nothing(String),
}

/// Takes out what `cargo test` passes on to every test binary.
fn understood(args: impl IntoIterator<Item = String>) -> Asked {
    const IGNORED: &[&str] = &[
        "--nocapture",
        "--no-capture",
        "--show-output",
        "--quiet",
        "-q",
        "--exact",
        "--include-ignored",
    ];
    const WITH_VALUE: &[&str] = &["--test-threads", "--skip", "--logfile", "-Z"];
    let mut rest = Vec::new();
    let mut filter = None;
    let mut after_option = false;
    let mut args = args.into_iter();
    let mut list = false;
    while let Some(arg) = args.next() {
        let name = arg.split('=').next().unwrap_or_default();
        if after_option {
            after_option = false;
            rest.push(arg);
        } else if IGNORED.contains(&&*arg) {
        } else if WITH_VALUE.contains(&name) {
            if name == arg {
                args.next();
            }
        } else if arg == "--list" {
            list = true;
        } else if arg == "--ignored" {
            filter = Some("no rule is ignored".to_owned());
        } else if arg.starts_with('-') {
            after_option = arg.starts_with("--") && takes_value(&arg);
            rest.push(arg);
        } else if is_number_of_rule(&arg) {
            rest.push(arg);
        } else {
            // The name of a test of another binary: cargo tells it to all.
            filter = Some(format!("{arg:?} is not the number of a rule"));
        }
    }
    match filter {
        _ if list => Asked::List,
        Some(why) => Asked::Nothing(why),
        None => Asked::Run(rest),
    }
}

/// Whether the argument after this one is its value.
fn takes_value(arg: &str) -> bool {
    let command = Embedded::command();
    let option = command
        .get_arguments()
        .find(|option| option.get_long().map(|long| format!("--{long}")).as_deref() == Some(arg));
    option.is_some_and(|option| option.get_action().takes_values())
}

/// Whether this looks like `D1`.
fn is_number_of_rule(text: &str) -> bool {
    let mut chars = text.chars();
    let letter = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
    letter && chars.as_str().parse::<u32>().is_ok()
}

/// The command line that runs the whole suite again.
fn command(_: &Description) -> String {
    let exe = env::current_exe().unwrap_or_default();
    match env::var("CARGO_PKG_NAME") {
        Ok(package) => format!("cargo test -p {package} --test {} --", target(&exe)),
        Err(_) => exe.display().to_string(),
    }
}

/// The test target that cargo made a binary of: the name without the hash.
fn target(exe: &Path) -> String {
    let stem = exe.file_stem().unwrap_or_default().to_string_lossy();
    match stem.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()) => {
            name.to_owned()
        }
        _ => stem.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Asked {
        understood(line.split_whitespace().map(str::to_owned))
    }

    fn run(line: &str) -> Asked {
        Asked::Run(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
        Embedded::command().debug_assert();
    }

    #[test]
    fn what_cargo_test_tells_every_binary_is_understood() {
        assert_eq!(
            asked("--nocapture -q --test-threads 2 --test-threads=2"),
            run("")
        );
        assert_eq!(asked("--exact D1 --nocapture"), run("D1"));
        assert_eq!(asked("--list --format terse"), Asked::List);
        assert!(matches!(asked("--ignored"), Asked::Nothing(_)));
        assert!(matches!(asked("a_test_elsewhere"), Asked::Nothing(_)));
    }

    #[test]
    fn our_own_arguments_arrive_as_they_are() {
        for line in [
            "D1 L5 --seed 7 --format junit --expect a_file --color always",
            "--report junit:file --shuffle D1",
            "--rule Z9",
            "Z9",
            "--no-such-flag",
        ] {
            assert_eq!(asked(line), run(line), "{line}");
        }
        // Where a word follows that is no value, it is a filter.
        assert!(matches!(asked("--shuffle somewhere"), Asked::Nothing(_)));
    }

    #[test]
    fn the_target_is_named_without_its_hash() {
        assert_eq!(
            target(Path::new("/x/conformance-0123456789abcdef")),
            "conformance"
        );
        assert_eq!(target(Path::new("/x/my-suite")), "my-suite");
    }
}
