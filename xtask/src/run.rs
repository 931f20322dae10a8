//! Running commands: printed before they run, from the workspace root, without cargo's leftovers.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Why a step failed, in words for the person at the terminal.
pub(crate) type Result<T, E = String> = std::result::Result<T, E>;

/// A command line that prints exactly as it runs.
#[derive(Clone, Debug)]
pub(crate) struct Cmd {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Cmd {
    /// A call of `program`, looked up on `PATH`.
    pub(crate) fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Adds arguments.
    pub(crate) fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable, which is printed as part of the command line.
    pub(crate) fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Prints the command line and runs it on this terminal; anything but exit code 0 is an error.
    pub(crate) fn run(&self) -> Result<()> {
        println!("$ {self}");
        let status = self.command().status().map_err(|e| self.not_started(&e))?;
        self.check(status)
    }

    /// Like [`Cmd::run`], but killed and failed after `limit`.
    pub(crate) fn run_within(&self, limit: Duration) -> Result<()> {
        println!("$ {self}");
        let child = self.command().spawn().map_err(|e| self.not_started(&e))?;
        let output = self.wait_within(child, limit)?;
        self.check(output.status)
    }

    /// Like [`Cmd::stdout`], but killed and failed after `limit`. For answers of a few lines.
    pub(crate) fn stdout_within(&self, limit: Duration) -> Result<String> {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| self.not_started(&e))?;
        self.text(&self.wait_within(child, limit)?)
    }

    fn wait_within(&self, mut child: Child, limit: Duration) -> Result<Output> {
        let end = Instant::now() + limit;
        loop {
            match child.try_wait() {
                Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
                Ok(None) => {
                    // Both can only fail if the process has just ended by itself.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("`{self}` did not end within {limit:?}"));
                }
                Ok(Some(_)) => break,
                Err(e) => return Err(format!("cannot wait for `{self}`: {e}")),
            }
        }
        child
            .wait_with_output()
            .map_err(|e| format!("cannot wait for `{self}`: {e}"))
    }

    /// Runs the command silently and returns what it wrote, whatever its exit code.
    pub(crate) fn output(&self) -> Result<Output> {
        self.command().output().map_err(|e| self.not_started(&e))
    }

    /// Runs the command silently and returns its standard output; a failure carries its errors.
    pub(crate) fn stdout(&self) -> Result<String> {
        self.text(&self.output()?)
    }

    fn text(&self, output: &Output) -> Result<String> {
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{self}`: {}: {}", output.status, errors.trim()))
        }
    }

    /// The command for [`std::process`].
    ///
    /// `cargo run` leaves variables about this package in the environment. Build scripts that watch
    /// them (that of `ring`, for one) would run again on each change between xtask and plain cargo,
    /// and `ldd` would search the paths of the toolchain, so they are taken out.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .current_dir(workspace())
            .stdin(Stdio::null());
        for (key, _) in env::vars_os() {
            if key.to_str().is_some_and(is_leftover) {
                command.env_remove(key);
            }
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            Ok(())
        } else {
            Err(format!("`{self}`: {status}"))
        }
    }

    fn not_started(&self, error: &std::io::Error) -> String {
        format!("cannot run `{}`: {error}", self.program)
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.env {
            write!(f, "{key}={} ", quoted(value))?;
        }
        f.write_str(&quoted(&self.program))?;
        for arg in &self.args {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

/// Whether `cargo run` set this variable for us and it must not reach another cargo.
fn is_leftover(key: &str) -> bool {
    key.starts_with("CARGO_PKG_")
        || key.starts_with("CARGO_MANIFEST_")
        || matches!(
            key,
            "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "LD_LIBRARY_PATH"
        )
}

/// `word` as a shell would have to be given it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The first executable of this name on `PATH`.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_line_can_be_pasted_into_a_shell() {
        let cmd = Cmd::new("docker")
            .args(["import", "--change", r#"ENTRYPOINT ["a", "it's"]"#, ""])
            .env("FLAGS", "-D warnings");
        assert_eq!(
            cmd.to_string(),
            r#"FLAGS='-D warnings' docker import --change 'ENTRYPOINT ["a", "it'\''s"]' ''"#
        );
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_at_its_limit() {
        let begun = Instant::now();
        let error = Cmd::new("sleep")
            .args(["600"])
            .run_within(Duration::from_millis(50));
        assert!(error.unwrap_err().contains("did not end within"));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_failing_or_missing_command_is_an_error_that_names_it() {
        assert!(Cmd::new("false").run().unwrap_err().contains("false"));
        assert!(
            Cmd::new("no-such-program")
                .run()
                .unwrap_err()
                .contains("no-such-program")
        );
    }
}
