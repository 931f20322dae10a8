//! How a node is made: [`RedisBuilder`].

use std::path::PathBuf;
use std::time::Duration;

use backplane_core::{ConnectError, ConnectErrorKind, Node, NodeOptions, Prefix, Requirement};

use crate::RedisNode;
use crate::config::{Config, Secret};
use crate::driver::RedisDriver;
use crate::error::ConfigError;
use crate::setting::Setting;

/// Makes a node on a Redis server from a URL and, on top of it, options.
///
/// # URL
/// | form | connects by |
/// | --- | --- |
/// | `redis://[[user]:password@]host[:port][/database][?options]` | TCP; the port is 6379 by default |
/// | `rediss://...`, likewise | TLS, with the feature `tls` |
/// | `unix:///path/to/socket[?options]`, or `redis+unix://` | a unix socket; the further options `user`, `pass` and `db` |
///
/// User name, password and the values of options are percent-decoded (`@` is `%40`); a `+` is a plus.
///
/// # Options
/// The options of the URL are named like the methods of this builder: `prefix`, `connect_timeout`,
/// `publish_timeout`, `subscribe_timeout`, `heartbeat_interval`, `heartbeat_timeout`, `backoff_initial`,
/// `backoff_max` (durations are written `250ms`, `2s` or `1m`), `queue_capacity`, `queue_bytes`, `max_payload`,
/// `max_pending`, `max_pending_bytes`, `max_batch_messages`, `max_batch_bytes`, `subscribe_batch` (whole numbers), `client_name` and
/// `ca_cert`. `protocol=resp3` is accepted, as other clients know it. Anything else, and anything twice, is
/// refused by name (rule M4).
///
/// What a method of the builder sets wins over the URL, whatever the order of the calls. The prefix is the
/// only thing that has no default.
///
/// # Errors
/// No method fails; what is wrong is told by [`connect`](Self::connect), [`connect_lazy`](Self::connect_lazy) or
/// [`build`](Self::build).
///
/// ```no_run
/// use std::time::Duration;
/// use backplane_core::Prefix;
/// use backplane_redis::RedisBuilder;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let url = "redis://:secret@localhost?prefix=staging&heartbeat_interval=500ms";
/// let node = RedisBuilder::new(url)
///     .prefix(Prefix::new("shop")?) // wins over the URL
///     .queue_capacity(10_000)
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until connect, connect_lazy or build is called"]
pub struct RedisBuilder {
    url: Result<(Config, Vec<Setting>), ConfigError>,
    username: Option<String>,
    password: Option<Secret>,
    database: Option<u32>,
    client_name: Option<String>,
    ca_cert: Option<PathBuf>,
    node_options: Option<NodeOptions>,
    settings: Vec<Setting>,
}

impl RedisBuilder {
    /// Starts from a URL.
    pub fn new(url: impl AsRef<str>) -> Self {
        Self {
            url: Config::parse(url.as_ref()),
            username: None,
            password: None,
            database: None,
            client_name: None,
            ca_cert: None,
            node_options: None,
            settings: Vec::new(),
        }
    }

    /// Attaches a node: opens the connections and returns when messages get through.
    ///
    /// # Errors
    /// [`ConnectError`] names the address and never a secret. Its kind is `InvalidOption` for what is wrong
    /// here (the source is a [`ConfigError`]), `Unreachable`, `Timeout` (after the
    /// [`connect_timeout`](Self::connect_timeout)), `Unauthorized` for the password or user, `Incompatible` for a
    /// server that does not speak RESP3 (Redis before 6) or whose certificate is not trusted, `Refused` when the
    /// server does not serve this node (too many clients, permissions), and `Unsupported`, before anything is
    /// opened, for what this backend does not offer and the node [requires](Self::require).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn connect(self) -> Result<RedisNode, ConnectError> {
        let endpoint = self.endpoint();
        let (driver, options) = self.build().map_err(|error| {
            ConnectError::new(
                ConnectErrorKind::InvalidOption,
                endpoint,
                Some(Box::new(error)),
            )
        })?;
        Node::connect(driver, options).await
    }

    /// Starts a node that attaches by itself, now or whenever the server appears (rule R6). To be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ConfigError`]. Everything that can go wrong with the server is told by the state and the events of the
    /// node.
    pub fn connect_lazy(self) -> Result<RedisNode, ConfigError> {
        let (driver, options) = self.build()?;
        Ok(Node::connect_lazy(driver, options)?)
    }

    /// The driver and the options, for those who make the [`Node`] themselves. Opens no connection; reads the
    /// file of [`ca_cert`](Self::ca_cert).
    ///
    /// # Errors
    /// [`ConfigError`] names the first mistake.
    pub fn build(self) -> Result<(RedisDriver, NodeOptions), ConfigError> {
        let (mut config, url_settings) = self.url?;
        config.username = self.username.or(config.username);
        config.password = self.password.or(config.password);
        config.database = self.database.unwrap_or(config.database);
        config.client_name = self.client_name.unwrap_or(config.client_name);
        config.ca_cert = self.ca_cert.or(config.ca_cert);
        config.validate()?;

        let is_prefix = |setting: &Setting| matches!(setting, Setting::Prefix(_));
        let (base, url_settings) = match self.node_options {
            Some(options) => (options, Vec::new()),
            None if url_settings.iter().chain(&self.settings).any(is_prefix) => {
                (NodeOptions::new(Prefix::unprefixed()), url_settings)
            }
            None => return Err(ConfigError::MissingPrefix),
        };
        let options = url_settings
            .into_iter()
            .chain(self.settings)
            .fold(base, |options, setting| setting.apply(options));
        options.validate()?;
        Ok((RedisDriver::new(config)?, options))
    }

    fn endpoint(&self) -> String {
        match &self.url {
            Ok((config, _)) => config.address.to_string(),
            Err(_) => "redis".to_owned(),
        }
    }

    fn set(mut self, setting: Setting) -> Self {
        self.settings.push(setting);
        self
    }
}

/// The connection.
impl RedisBuilder {
    /// The user of the server's ACL. Needs a [password](Self::password). Default: the user of the URL, or
    /// else `default`, which needs none.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// The password. It is shown nowhere. Default: the password of the URL, or none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret::new(password));
        self
    }

    /// The number of the database, for servers whose users may not enter 0. It does **not** isolate: a message reaches
    /// the subscribers of all databases (rule I7); isolate by the [prefix](Self::prefix). Default: the database of
    /// the URL, or 0.
    pub const fn database(mut self, database: u32) -> Self {
        self.database = Some(database);
        self
    }

    /// What the names of the connections start with, for people who read `CLIENT LIST`: `NAME-ID-pub` and
    /// `NAME-ID-sub`, where ID is the id of the node. 1 to 64 visible ASCII characters. Default
    /// `backplane`.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = Some(name.into());
        self
    }

    /// A file of certificates in PEM format: the authorities that may have signed the server's certificate. They
    /// replace those of the system. Only for `rediss://`. Default: the system's.
    pub fn ca_cert(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_cert = Some(path.into());
        self
    }
}

/// The node. See [`NodeOptions`] for details.
impl RedisBuilder {
    /// Ready-made options of the node, prefix included, in place of the defaults and of what the URL says about the
    /// node. The methods below still win over it.
    pub fn node_options(mut self, options: NodeOptions) -> Self {
        self.node_options = Some(options);
        self
    }

    /// The namespace of the deployment. There is no default; [`Prefix::unprefixed`] is the empty
    /// one.
    pub fn prefix(self, prefix: Prefix) -> Self {
        self.set(Setting::Prefix(prefix))
    }

    /// How long one try to attach may take, until the connections are ready. Default 2 s.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.set(Setting::ConnectTimeout(timeout))
    }

    /// How long the server may take to accept a message. After it the outcome is
    /// [`Unknown`](backplane_core::Unknown), and the server counts as gone. Default 2 s.
    pub fn publish_timeout(self, timeout: Duration) -> Self {
        self.set(Setting::PublishTimeout(timeout))
    }

    /// How long a subscribe may wait for the server's confirmation. Default 5 s.
    pub fn subscribe_timeout(self, timeout: Duration) -> Self {
        self.set(Setting::SubscribeTimeout(timeout))
    }

    /// How often a probe is sent through the server and back. A frozen or mute server is noticed
    /// within this interval plus the [timeout](Self::heartbeat_timeout). Default 2 s.
    pub fn heartbeat_interval(self, interval: Duration) -> Self {
        self.set(Setting::HeartbeatInterval(interval))
    }

    /// How long a probe may take. It waits behind what is on its way: leave time for the largest payloads
    /// on a slow network. Default 2 s.
    pub fn heartbeat_timeout(self, timeout: Duration) -> Self {
        self.set(Setting::HeartbeatTimeout(timeout))
    }

    /// The pause after the first failed try to attach; it doubles up to [`backoff_max`](Self::backoff_max).
    /// Default 50 ms.
    pub fn backoff_initial(self, pause: Duration) -> Self {
        self.set(Setting::BackoffInitial(pause))
    }

    /// The longest pause between two tries to attach. Default 500 ms.
    pub fn backoff_max(self, pause: Duration) -> Self {
        self.set(Setting::BackoffMax(pause))
    }

    /// How many messages the queue of a subscription holds, unless the subscription says otherwise. At
    /// least 1. Default 4096.
    pub fn queue_capacity(self, messages: usize) -> Self {
        self.set(Setting::QueueCapacity(messages))
    }

    /// How many bytes of payload the queue of a subscription holds, unless the subscription says otherwise; a
    /// single larger payload may be in it. Default 64 MiB.
    pub fn queue_bytes(self, bytes: usize) -> Self {
        self.set(Setting::QueueBytes(bytes))
    }

    /// Lowers the largest payload, in bytes. Default and upper bound: [`RedisDriver::MAX_PAYLOAD`].
    pub fn max_payload(self, bytes: usize) -> Self {
        self.set(Setting::MaxPayload(bytes))
    }

    /// How many publishes may wait for their turn, over all channels. At least 1. Default 65 536.
    pub fn max_pending(self, messages: usize) -> Self {
        self.set(Setting::MaxPending(messages))
    }

    /// How many payload bytes may wait for their turn, over all channels; a single larger payload may. Default
    /// 64 MiB.
    pub fn max_pending_bytes(self, bytes: usize) -> Self {
        self.set(Setting::MaxPendingBytes(bytes))
    }

    /// How many messages to one channel may leave in one Redis message. At least 1. Default 512.
    pub fn max_batch_messages(self, messages: usize) -> Self {
        self.set(Setting::MaxBatchMessages(messages))
    }

    /// How many payload bytes may leave in one Redis message of several messages; a larger payload leaves
    /// alone. Default 256 KiB.
    pub fn max_batch_bytes(self, bytes: usize) -> Self {
        self.set(Setting::MaxBatchBytes(bytes))
    }

    /// How many channels one SUBSCRIBE or UNSUBSCRIBE names at most. At least 1. Default 1024.
    pub fn subscribe_batch(self, channels: usize) -> Self {
        self.set(Setting::SubscribeBatch(channels))
    }

    /// States what the application depends on; see [`NodeOptions::require`]. May be called several times. A URL
    /// cannot say it.
    pub fn require(self, requirement: Requirement) -> Self {
        self.set(Setting::Require(requirement))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str =
        "redis://u:s3cr3t@h/1?prefix=url&queue_capacity=7&max_pending=8&client_name=url";

    fn shop() -> Prefix {
        Prefix::new("shop").unwrap()
    }

    fn built(builder: RedisBuilder) -> NodeOptions {
        builder.build().unwrap().1
    }

    #[test]
    fn the_builder_wins_over_the_url_whatever_the_order() {
        let expected = NodeOptions::new(shop()).queue_capacity(9).max_pending(8);
        let one = RedisBuilder::new(URL).prefix(shop()).queue_capacity(9);
        let other = RedisBuilder::new(URL).queue_capacity(9).prefix(shop());
        assert_eq!(built(one), expected);
        assert_eq!(built(other), expected);
        let (driver, _) = RedisBuilder::new(URL)
            .username("x")
            .database(3)
            .client_name("y")
            .build()
            .unwrap();
        let shown = format!("{driver:?}");
        for part in ["\"x\"", "database: 3", "\"y\""] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn ready_made_options_replace_those_of_the_url_and_yield_to_single_ones() {
        let options = NodeOptions::new(shop()).queue_capacity(1);
        assert_eq!(
            built(RedisBuilder::new(URL).node_options(options.clone())),
            options
        );
        let later = RedisBuilder::new(URL)
            .node_options(options.clone())
            .max_pending(2);
        let earlier = RedisBuilder::new(URL)
            .max_pending(2)
            .node_options(options.clone());
        assert_eq!(built(later), options.clone().max_pending(2));
        assert_eq!(built(earlier), options.max_pending(2));
    }

    #[test]
    fn there_is_no_node_without_a_prefix() {
        let error = RedisBuilder::new("redis://h").build().unwrap_err();
        assert!(matches!(error, ConfigError::MissingPrefix));
        assert!(
            error.to_string().contains("Prefix::unprefixed()"),
            "{error}"
        );
        let open = RedisBuilder::new("redis://h").prefix(Prefix::unprefixed());
        assert_eq!(built(open), NodeOptions::new(Prefix::unprefixed()));
    }

    #[test]
    fn a_password_may_come_from_the_builder_alone() {
        let url = "redis://alice@h?prefix=a";
        assert!(matches!(
            RedisBuilder::new(url).build().unwrap_err(),
            ConfigError::MissingPassword
        ));
        assert!(RedisBuilder::new(url).password("p").build().is_ok());
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (url, text) in [
            ("redis://h?prefix=a&queue_capacity=0", "queue_capacity"),
            ("redis://h?prefix=a&connect_timeout=0s", "connect_timeout"),
            (
                "redis://h?prefix=a&backoff_initial=1m&backoff_max=1s",
                "backoff_initial",
            ),
        ] {
            let error = RedisBuilder::new(url).build().unwrap_err().to_string();
            assert!(error.contains(text), "{url}: {error}");
        }
    }

    #[test]
    fn debug_output_shows_no_password() {
        let builder = RedisBuilder::new(URL).password("0ther");
        let shown = format!("{builder:?} {:?}", RedisBuilder::new(URL).build().unwrap());
        assert!(
            !shown.contains("s3cr3t") && !shown.contains("0ther"),
            "{shown}"
        );
    }

    #[tokio::test]
    async fn what_redis_does_not_promise_is_refused_before_it_is_dialled() {
        // Nobody listens there.
        let builder = || RedisBuilder::new("redis://127.0.0.1:1?prefix=a");
        let error = builder().require(Requirement::Replay).connect().await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Unsupported, "{error}");
        let error = builder().require(Requirement::Failover).connect_lazy();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("does not promise failover"), "{error}");

        let met = builder()
            .require(Requirement::Order(backplane_core::Order::Total))
            .require(Requirement::CountsLoss)
            .require(Requirement::MaxPayload(RedisDriver::MAX_PAYLOAD));
        assert!(met.connect_lazy().is_ok());
    }

    #[tokio::test]
    async fn the_eager_constructor_tells_a_bad_configuration_as_a_connect_error() {
        let error = RedisBuilder::new("redis://u:s3cr3t@h?prefx=a")
            .connect()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::InvalidOption);
        assert!(error.to_string().contains("`prefx`"), "{error}");
        let source = std::error::Error::source(&error).unwrap();
        assert!(matches!(
            source.downcast_ref::<ConfigError>(),
            Some(ConfigError::UnknownOption { .. })
        ));
    }
}
