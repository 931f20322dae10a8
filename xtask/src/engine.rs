//! The container engine, through the `docker` command or, without it, through its Unix socket.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::run::{Cmd, Result, on_path};

/// How long an engine may take to say that it is there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// An engine that answered.
#[derive(Clone, Debug)]
pub(crate) enum Engine {
    /// Reached through the `docker` command.
    Command {
        /// The engine's version.
        version: String,
    },
    /// Reached through its socket, because there is no `docker` command that gets an answer.
    Socket(PathBuf),
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { version } => write!(f, "engine {version}, through the docker command"),
            Self::Socket(path) => {
                write!(
                    f,
                    "engine at {} (no working docker command)",
                    path.display()
                )
            }
        }
    }
}

impl Engine {
    /// Finds an engine, or says why none was found.
    pub(crate) fn find() -> Result<Self> {
        let mut reasons = Vec::new();
        if on_path("docker").is_none() {
            reasons.push("there is no docker command on PATH".to_owned());
        } else {
            let server = ["version", "--format", "{{.Server.Version}}"];
            match docker(server).stdout_within(ANSWERS_WITHIN) {
                Ok(version) => return Ok(Self::Command { version }),
                Err(reason) => reasons.push(reason),
            }
        }
        for socket in sockets() {
            match request(&socket, "GET", "/_ping", None, ANSWERS_WITHIN) {
                Ok(200) => return Ok(Self::Socket(socket)),
                Ok(status) => reasons.push(format!("{}: status {status}", socket.display())),
                Err(e) => reasons.push(format!("{}: {e}", socket.display())),
            }
        }
        Err(reasons.join("; "))
    }

    /// Whether the engine holds this image.
    pub(crate) fn has_image(&self, image: &str) -> Result<bool> {
        match self {
            Self::Command { .. } => {
                let inspect = docker(["image", "inspect", "--format", "{{.Id}}", image]);
                Ok(inspect.output()?.status.success())
            }
            Self::Socket(socket) => {
                let target = format!("/images/{}/json", encoded(image));
                match request(socket, "GET", &target, None, ANSWERS_WITHIN) {
                    Ok(200) => Ok(true),
                    Ok(404) => Ok(false),
                    Ok(status) => Err(format!("asking for image {image}: status {status}")),
                    Err(e) => Err(format!("asking for image {image}: {e}")),
                }
            }
        }
    }

    /// Pulls an image, giving up after `limit`.
    pub(crate) fn pull(&self, image: &str, limit: Duration) -> Result<()> {
        match self {
            Self::Command { .. } => docker(["pull", "--quiet", image]).run_within(limit),
            Self::Socket(socket) => {
                let target = format!("/images/create?fromImage={}", encoded(image));
                println!("POST {target} on {}", socket.display());
                match request(socket, "POST", &target, None, limit) {
                    // The stream of progress ends with status 200 after an error as well.
                    Ok(200) if self.has_image(image)? => Ok(()),
                    Ok(status) => Err(format!("pulling {image}: status {status}")),
                    Err(e) => Err(format!("pulling {image}: {e}")),
                }
            }
        }
    }

    /// Makes an image of one layer out of a tar file, with these Dockerfile instructions.
    ///
    /// An import needs neither a base image nor a builder: the classic one is deprecated, and
    /// BuildKit is a separate package.
    pub(crate) fn import(&self, tar: &Path, image: &str, changes: &[String]) -> Result<()> {
        match self {
            Self::Command { .. } => {
                let changes = changes.iter().flat_map(|change| ["--change", change]);
                let file = tar.to_string_lossy();
                docker(["import"]).args(changes).args([&*file, image]).run()
            }
            Self::Socket(socket) => {
                let (repo, tag) = image.split_once(':').unwrap_or((image, "latest"));
                let mut target = format!(
                    "/images/create?fromSrc=-&repo={}&tag={}",
                    encoded(repo),
                    encoded(tag)
                );
                for change in changes {
                    target.push_str("&changes=");
                    target.push_str(&encoded(change));
                }
                println!("POST {target} on {}", socket.display());
                match request(socket, "POST", &target, Some(tar), Duration::from_secs(120)) {
                    Ok(200) if self.has_image(image)? => Ok(()),
                    Ok(status) => Err(format!("importing {image}: status {status}")),
                    Err(e) => Err(format!("importing {image}: {e}")),
                }
            }
        }
    }

    /// Starts the image once to see that its program finds all its libraries.
    ///
    /// Returns what `program --version` says; nothing is started through a bare socket.
    pub(crate) fn version_inside(&self, image: &str, program: &str) -> Result<Option<String>> {
        match self {
            Self::Command { .. } => {
                let run = [
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "--entrypoint",
                    program,
                    image,
                ];
                docker(run).args(["--version"]).stdout().map(Some)
            }
            Self::Socket(_) => Ok(None),
        }
    }
}

fn docker<const N: usize>(args: [&str; N]) -> Cmd {
    Cmd::new("docker").args(args)
}

/// Where an engine's socket may be, as the container fixture looks for it.
fn sockets() -> Vec<PathBuf> {
    match env::var("DOCKER_HOST") {
        Ok(host) => host
            .strip_prefix("unix://")
            .map(PathBuf::from)
            .into_iter()
            .collect(),
        Err(_) => vec![PathBuf::from("/var/run/docker.sock")],
    }
}

/// One HTTP request on a Unix socket; returns the status after reading the answer to its end.
///
/// HTTP/1.0, so that the answer is never chunked and ends with the connection.
fn request(
    socket: &Path,
    method: &str,
    target: &str,
    body: Option<&Path>,
    limit: Duration,
) -> io::Result<u16> {
    let end = Instant::now() + limit;
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(limit))?;
    let mut body = body.map(File::open).transpose()?;
    let length = body
        .as_ref()
        .map_or(Ok(0), |file| file.metadata().map(|meta| meta.len()))?;
    write!(
        stream,
        "{method} {target} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/x-tar\r\n\
         Content-Length: {length}\r\n\r\n"
    )?;
    if let Some(file) = &mut body {
        io::copy(file, &mut stream)?;
    }
    let mut answer = Vec::new();
    let mut block = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no end in {limit:?}"),
            ));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut block)? {
            0 => return status(&answer),
            read => answer.extend_from_slice(&block[..read]),
        }
    }
}

/// The status code of an HTTP answer.
fn status(answer: &[u8]) -> io::Result<u16> {
    let line = answer
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    str::from_utf8(line)
        .ok()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

/// `text` for the query of a URL.
fn encoded(text: &str) -> String {
    let mut result = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            result.push(char::from(byte));
        } else {
            result.push_str(&format!("%{byte:02X}"));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_http_and_from_nothing_else() {
        assert_eq!(status(b"HTTP/1.0 404 Not Found\r\n\r\n{}").unwrap(), 404);
        assert!(status(b"").is_err());
        assert!(status(b"-ERR unknown command\r\n").is_err());
    }

    #[test]
    fn a_change_survives_the_query() {
        assert_eq!(encoded(r#"ENV A="b &c""#), "ENV%20A%3D%22b%20%26c%22");
    }
}
