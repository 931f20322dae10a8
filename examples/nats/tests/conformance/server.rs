//! How a `nats-server` is started and recognised.

use std::ffi::OsString;
use std::{fmt, io};

use async_trait::async_trait;
use backplane_conformance::fixtures::{ServerPlace, ServerProgram};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

pub(crate) const USER: &str = "backplane";

/// The program, with the name and the password that the server is given.
#[derive(Clone)]
pub(crate) struct NatsServer {
    pub(crate) name: String,
    pub(crate) password: String,
}

#[async_trait]
impl ServerProgram for NatsServer {
    fn binary(&self) -> &'static str {
        "nats-server"
    }

    fn hint(&self) -> &'static str {
        "install it (Debian and Ubuntu: apt-get install nats-server)"
    }

    /// The port of the monitoring endpoint.
    fn more_ports(&self) -> usize {
        1
    }

    fn args(&self, place: &ServerPlace) -> Vec<OsString> {
        let monitor = place.more[0].port().to_string();
        let (ip, port) = (place.addr.ip().to_string(), place.addr.port().to_string());
        let at = ["-a", &ip, "-p", &port, "-m", &monitor, "-n", &self.name];
        let login = ["--user", USER, "--pass", &self.password];
        at.into_iter().chain(login).map(OsString::from).collect()
    }

    /// A server greets every connection with its name and version.
    async fn ask(&self, place: &ServerPlace, _pid: u32) -> io::Result<String> {
        let mut greeting = String::new();
        let mut stream = BufReader::new(TcpStream::connect(place.addr).await?);
        stream.read_line(&mut greeting).await?;
        let info = greeting.strip_prefix("INFO ").unwrap_or_default();
        let info: serde_json::Value = serde_json::from_str(info)?;
        match info["version"].as_str() {
            Some(version) if info["server_name"] == *self.name => Ok(version.to_owned()),
            _ => Err(io::Error::other("a stranger answers")),
        }
    }
}

impl fmt::Debug for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsServer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
