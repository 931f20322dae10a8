//! `verify`: runs the suite on a backend of this repository.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use super::commands::{Backend, Fixture, ServerArgs};
use super::session::Session;
use super::{refuse, servers};
use crate::harness::{Description, Harness};
use crate::memory::MemoryHarness;

/// How many rules are tried at once in memory: most of them wait.
const MEMORY_JOBS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

pub(super) fn run(backend: Backend) -> ExitCode {
    match backend {
        Backend::Memory(args) => Session {
            args: *args,
            jobs: MEMORY_JOBS,
            command,
        }
        .run(|| async {
            let harness: Arc<dyn Harness> = Arc::new(MemoryHarness::new());
            Ok(harness)
        }),
        Backend::Redis { server, run } => {
            if let Err(why) = one_server(&server, run.jobs) {
                return refuse(why);
            }
            let server = Arc::new(server);
            Session {
                args: *run,
                jobs: NonZeroUsize::MIN,
                command,
            }
            .run(move || {
                let server = Arc::clone(&server);
                async move { servers::start(&server).await }
            })
        }
    }
}

/// A server that runs already is not shared by several jobs: the faults of one would reach the others.
fn one_server(server: &ServerArgs, jobs: Option<NonZeroUsize>) -> Result<(), &'static str> {
    let is_given = server.url.is_some() || server.fixture == Some(Fixture::Url);
    match jobs {
        Some(jobs) if jobs.get() > 1 && is_given => {
            Err("--jobs needs a server for each job, and --url gives one")
        }
        _ => Ok(()),
    }
}

/// The command line that runs the whole suite on this backend.
fn command(of: &Description) -> String {
    let fixture = match &*of.fixture {
        "none" => String::new(),
        // Not the URL itself: it may hold a password.
        "url" => " --fixture url --url \"$URL\"".to_owned(),
        fixture => format!(" --fixture {fixture}"),
    };
    format!(
        "cargo run --release -p backplane-conformance -- verify {}{fixture}",
        of.backend
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_fixture_and_never_the_url() {
        const COMMAND: &str = "cargo run --release -p backplane-conformance -- verify redis";
        let of = |fixture: &str| command(&Description::new("redis").fixture(fixture));
        assert_eq!(of("none"), COMMAND);
        assert_eq!(of("process"), format!("{COMMAND} --fixture process"));
        assert_eq!(of("url"), format!("{COMMAND} --fixture url --url \"$URL\""));
    }

    #[test]
    fn a_server_that_is_given_has_one_job() {
        let server = |fixture, url: Option<&str>| ServerArgs {
            fixture,
            url: url.map(str::to_owned),
        };
        let given = server(None, Some("redis://h"));
        assert!(one_server(&given, NonZeroUsize::new(2)).is_err());
        assert!(one_server(&given, NonZeroUsize::new(1)).is_ok());
        assert!(one_server(&given, None).is_ok());
        assert!(one_server(&server(Some(Fixture::Process), None), NonZeroUsize::new(2)).is_ok());
    }
}
