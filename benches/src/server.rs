//! The Redis server that the comparison starts for itself: [`OwnServer`].

use std::time::{Duration, Instant};

use backplane_conformance::fixtures::{RedisProcess, Server};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};

use crate::cpu::CpuClock;
use crate::error::{Error, Result};

/// How long the server may take for what is asked of it besides measurements.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `redis-server` process on a free port of loopback, without persistence. It ends when this is dropped.
#[derive(Debug)]
pub struct OwnServer {
    process: RedisProcess,
    cpu: CpuClock,
    pid: u32,
}

impl OwnServer {
    /// Starts one.
    ///
    /// # Errors
    /// [`Error::Server`] says what to install where there is no `redis-server` on `PATH`.
    pub async fn start() -> Result<Self> {
        let process = RedisProcess::start().await?;
        let pid = process.pid().await;
        let cpu = CpuClock::of(pid)?;
        Ok(Self { process, cpu, pid })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        self.process.url()
    }

    /// Where it is, as `host:port`.
    #[must_use]
    pub fn addr(&self) -> std::net::SocketAddr {
        self.process.addr()
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.process.version()
    }

    /// Its CPU clock.
    #[must_use]
    pub const fn cpu(&self) -> CpuClock {
        self.cpu
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// A connection that takes no part in any measurement.
    ///
    /// # Errors
    /// [`Error::Redis`].
    pub async fn admin(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let client = Client::open(self.url())?;
        Ok(client
            .get_multiplexed_async_connection_with_config(&config)
            .await?)
    }

    /// Breaks every connection but the one that asks for it.
    ///
    /// # Errors
    /// [`Error::Redis`].
    pub async fn kill_connections(&self) -> Result<()> {
        let mut admin = self.admin().await?;
        for kind in ["normal", "pubsub"] {
            let () = redis::cmd("CLIENT")
                .arg(&["KILL", "TYPE", kind, "SKIPME", "yes"])
                .query_async(&mut admin)
                .await?;
        }
        Ok(())
    }

    /// How many channels have a subscriber.
    ///
    /// # Errors
    /// [`Error::Redis`].
    pub async fn channels(&self) -> Result<usize> {
        let mut admin = self.admin().await?;
        let names: Vec<Vec<u8>> = redis::cmd("PUBSUB")
            .arg("CHANNELS")
            .query_async(&mut admin)
            .await?;
        Ok(names.len())
    }

    /// Waits until at least, or with `at_most` until no more than, this many channels have a subscriber.
    ///
    /// # Errors
    /// [`Error::TooLong`] if that takes more than half a minute.
    pub async fn wait_for_channels(&self, count: usize, at_most: bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            let channels = self.channels().await?;
            if (at_most && channels <= count) || (!at_most && channels >= count) {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(Error::TooLong {
                    what: format!("{count} channels on the server ({channels} are there)"),
                    within: PATIENCE,
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
