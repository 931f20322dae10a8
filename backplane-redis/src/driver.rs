//! Opens the connections of a link: [`RedisDriver`].

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{Driver, Inbound, LinkError, LinkErrorKind};
use backplane_core::{Capabilities, Order};
use redis::aio::{MultiplexedConnection, SendError};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, Value,
};
use tokio::sync::watch;

use crate::config::{Address, Config, Secret};
use crate::error::ConfigError;
use crate::fault;
use crate::link::{End, PushReceiver, RedisLink, Role};

/// How many requests may wait for the connection task. More wait in their callers.
const PIPELINE_BUFFER: usize = 1024;

/// A second net below the heartbeat of the engine: it also keeps idle connections in the tables of routers.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Opens links to one Redis server.
///
/// Made by [`RedisBuilder::build`](crate::RedisBuilder::build). Its capabilities:
///
/// - Payloads of up to [`RedisDriver::MAX_PAYLOAD`] bytes.
/// - [`Order::Total`]: Redis runs one command after the other, so all
///   subscriptions of a channel see the messages of all publishers in one order.
/// - Losses are counted. There is no replay, and no failover.
pub struct RedisDriver {
    client: Client,
    config: Config,
}

impl RedisDriver {
    /// The largest payload, in bytes: 16 MiB. [`RedisBuilder::max_payload`](crate::RedisBuilder::max_payload)
    /// lowers it.
    ///
    /// Redis itself takes 512 MiB (`proto-max-bulk-len`), but by default it disconnects a subscriber for
    /// which more than 32 MiB wait (`client-output-buffer-limit pubsub`), so a larger payload could cost
    /// subscribers their connection that did nothing wrong. And a node receives on one connection: all that
    /// follows waits behind a large payload, heartbeats included.
    pub const MAX_PAYLOAD: usize = 16 << 20;

    /// A driver for a valid configuration.
    pub(crate) fn new(config: Config) -> Result<Self, ConfigError> {
        let client = client(&config)?;
        Ok(Self { client, config })
    }

    /// Opens one of the two connections of a link.
    async fn open(&self, role: Role, inbound: Inbound) -> Result<End, LinkError> {
        let name = format!("{}-{}-{role}", self.config.client_name, inbound.node_id());
        let (alive, over) = watch::channel(());
        let receiver = PushReceiver::new(role, self.config.address.to_string(), inbound, alive);
        // The engine bounds every wait.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_BUFFER)
            .set_push_sender(move |push| {
                receiver.take(push);
                Ok::<(), SendError>(())
            });
        let opened = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await;
        // From here on only the task of the connection holds the receiver.
        drop(config);
        let mut connection = opened.map_err(|error| self.refused(&error))?;
        self.introduce(&mut connection, &name).await?;
        Ok(End { connection, over })
    }

    /// Selects the database, and says who we are for those who look at `CLIENT LIST`.
    ///
    /// This is not left to the client library: with more than one command in its handshake it reports
    /// a closed connection instead of the reason that a refusing server gives.
    async fn introduce(
        &self,
        connection: &mut MultiplexedConnection,
        name: &str,
    ) -> Result<(), LinkError> {
        let mut pipe = redis::pipe();
        let client = |pipe: &mut redis::Pipeline, args: &[&str]| {
            pipe.cmd("CLIENT").arg(args);
        };
        client(&mut pipe, &["SETNAME", name]);
        client(&mut pipe, &["SETINFO", "LIB-NAME", env!("CARGO_PKG_NAME")]);
        client(
            &mut pipe,
            &["SETINFO", "LIB-VER", env!("CARGO_PKG_VERSION")],
        );
        if self.config.database != 0 {
            pipe.cmd("SELECT").arg(self.config.database);
        }
        // Asked again, because the client library keeps the first answer to itself. Every user may ask.
        pipe.cmd("HELLO").arg(3);
        let mut replies = connection
            .send_packed_commands(&pipe, 0, pipe.len())
            .await
            .map_err(|error| self.refused(&error))?;
        let hello = replies.pop();
        // Names are a courtesy: Redis before 7.2 has no SETINFO, and an ACL may forbid CLIENT.
        if let Some(Err(error)) = replies.into_iter().nth(3).map(Value::extract_error) {
            return Err(self.refused(&error));
        }
        if hello.as_ref().is_some_and(is_replica) {
            let endpoint = self.endpoint();
            return Err(LinkError::new(
                LinkErrorKind::Refused,
                format_args!(
                    "{endpoint} is a replica: what is published there does not reach the primary"
                ),
            ));
        }
        Ok(())
    }

    fn refused(&self, error: &redis::RedisError) -> LinkError {
        fault::on_connect(&self.endpoint(), self.config.password.as_ref(), error)
    }
}

#[async_trait]
impl Driver for RedisDriver {
    type Link = RedisLink;

    fn endpoint(&self) -> String {
        self.config.address.to_string()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new();
        capabilities.max_payload = Self::MAX_PAYLOAD;
        capabilities.order = Order::Total;
        capabilities
    }

    async fn connect(&self, inbound: Inbound) -> Result<RedisLink, LinkError> {
        let (publish, subscribe) = tokio::try_join!(
            self.open(Role::Publish, inbound.clone()),
            self.open(Role::Subscribe, inbound)
        )?;
        Ok(RedisLink::new(self.endpoint(), publish, subscribe))
    }
}

impl fmt::Debug for RedisDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDriver")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Whether the answer to HELLO comes from a replica. Servers that do not say are taken as primaries.
fn is_replica(hello: &Value) -> bool {
    let Value::Map(fields) = hello else {
        return false;
    };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    };
    fields
        .iter()
        .any(|(key, value)| text(key) == "role" && matches!(&*text(value), "replica" | "slave"))
}

fn client(config: &Config) -> Result<Client, ConfigError> {
    let mut server = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name();
    if let Some(username) = &config.username {
        server = server.set_username(username);
    }
    if let Some(password) = config.password.as_ref().map(Secret::expose) {
        server = server.set_password(password);
    }
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(
        TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL),
    );
    let (address, tls) = match &config.address {
        Address::Tcp {
            host,
            port,
            tls: false,
        } => (ConnectionAddr::Tcp(host.clone(), *port), false),
        Address::Tcp {
            host,
            port,
            tls: true,
        } => {
            let (host, port) = (host.clone(), *port);
            (
                ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: false,
                    tls_params: None,
                },
                true,
            )
        }
        Address::Unix(path) => (ConnectionAddr::Unix(path.clone()), false),
    };
    let refused = |error: redis::RedisError| ConfigError::Client {
        problem: error.to_string(),
    };
    let info = address
        .into_connection_info()
        .map_err(refused)?
        .set_tcp_settings(tcp)
        .set_redis_settings(server);
    if tls {
        tls_client(info, config)
    } else {
        Client::open(info).map_err(refused)
    }
}

#[cfg(feature = "tls")]
fn tls_client(info: redis::ConnectionInfo, config: &Config) -> Result<Client, ConfigError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Rustls panics without one. If another thread was faster, its choice is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let Some(path) = &config.ca_cert else {
        return Client::open(info).map_err(|error| ConfigError::Client {
            problem: error.to_string(),
        });
    };
    let unusable = |problem: String| ConfigError::CaCert {
        path: path.clone(),
        problem,
    };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    if !pem.windows(PEM_HEADER.len()).any(|text| text == PEM_HEADER) {
        return Err(unusable("it holds no certificate in PEM format".to_owned()));
    }
    let certificates = redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(pem),
    };
    Client::build_with_tls(info, certificates).map_err(|error| unusable(error.to_string()))
}

#[cfg(feature = "tls")]
const PEM_HEADER: &[u8] = b"-----BEGIN CERTIFICATE-----";

#[cfg(not(feature = "tls"))]
fn tls_client(_: redis::ConnectionInfo, _: &Config) -> Result<Client, ConfigError> {
    Err(ConfigError::TlsNotEnabled)
}
