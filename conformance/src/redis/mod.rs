//! The harness of the Redis backend: [`RedisHarness`].

mod faults;
mod observer;
mod server_faults;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backplane_core::{Backplane, ConnectError, ConnectErrorKind, Prefix};
use backplane_redis::{ConfigError, RedisBuilder};
use url::Url;

use self::server_faults::Changes;
#[cfg(feature = "container")]
use crate::fixtures::RedisContainer;
use crate::fixtures::{
    Backstage, ExternalRedis, FixtureError, Paths, Place, RedisObserver, RedisProcess, Server,
};
use crate::harness::{Description, Faults, Harness, NodeSpec, Observer, Start};

/// Makes nodes on one Redis server, and breaks it.
///
/// Nodes connect to the server directly. Where a trial breaks the way to single nodes
/// ([`NodeSpec::reachable`]), and always with [`proxy`](Self::proxy), each node is behind a fault proxy of its
/// own.
///
/// # Guarantees
/// * A server that it started ends with it, at the latest when it is dropped.
/// * What it needs itself (proxies, its own connections) runs on a thread of its own, so that every task of
///   the runtime that the suite runs on is a task of a node or of the suite.
/// * Its nodes are made with a password, so that a leak of it can be seen. A server that it started takes any.
pub struct RedisHarness {
    // Fields are dropped in this order: the server may need the runtime to end.
    server: Mutex<Option<Arc<dyn Server>>>,
    changes: Changes,
    paths: Paths,
    observer: Arc<RedisObserver>,
    backstage: Backstage,
    fixture: &'static str,
    version: String,
    /// How nodes connect, the password included.
    url: Url,
    secret: Option<String>,
    /// What the names of the nodes' connections start with; no other harness has the same.
    client_name: String,
}

impl RedisHarness {
    /// On a `redis-server` that is started as a child process.
    ///
    /// # Errors
    /// As [`RedisProcess::start`].
    pub async fn process() -> Result<Self, FixtureError> {
        Self::on("process", RedisProcess::start()).await
    }

    /// Likewise, with every node behind a fault proxy of its own.
    ///
    /// # Errors
    /// As [`RedisProcess::start`].
    pub async fn proxy() -> Result<Self, FixtureError> {
        Self::on("proxy", RedisProcess::start()).await
    }

    /// On a server in a container. The environment variable `BACKPLANE_REDIS_IMAGE` chooses the image.
    ///
    /// # Errors
    /// As [`RedisContainer::start`].
    #[cfg(feature = "container")]
    pub async fn container() -> Result<Self, FixtureError> {
        Self::on("container", RedisContainer::start(None)).await
    }

    /// On a server that runs already, which is never broken: only the way to it is, and other clients are left
    /// alone. It may be shared.
    ///
    /// # Errors
    /// As [`ExternalRedis::connect`]. Never repeats the URL.
    pub async fn url(url: &str) -> Result<Self, FixtureError> {
        let url = url.to_owned();
        let connect = Box::pin(async move { ExternalRedis::connect(&url).await });
        Self::on("url", connect).await
    }

    async fn on<S: Server + 'static>(
        fixture: &'static str,
        start: impl Future<Output = Result<S, FixtureError>> + Send + 'static,
    ) -> Result<Self, FixtureError> {
        let backstage = Backstage::start()?;
        // On the heap, because a client that connects is large.
        let begin = Box::pin(async {
            let server = start.await?;
            let observer = RedisObserver::connect(&server.url()).await?;
            Ok::<_, FixtureError>((server, observer))
        });
        let (server, observer) = backstage
            .run(begin)
            .await
            .map_err(FixtureError::io("the thread of the harness"))??;
        let bad = |reason: &str| FixtureError::BadUrl {
            reason: reason.to_owned(),
        };
        let mut url = Url::parse(&server.url()).map_err(|error| bad(&error.to_string()))?;
        let secret = if fixture == "url" {
            password(&server.url())
        } else {
            let secret = format!("secret-{:016x}", rand::random::<u64>());
            url.set_username("default")
                .and_then(|()| url.set_password(Some(&secret)))
                .map_err(|()| bad("it has no place for a password"))?;
            Some(secret)
        };
        Ok(Self {
            changes: Changes::default(),
            paths: Paths::to(server.addr()),
            observer: Arc::new(observer),
            backstage,
            fixture,
            version: server.version().to_owned(),
            url,
            secret,
            client_name: format!("conformance-{:08x}", rand::random::<u32>()),
            server: Mutex::new(Some(Arc::new(server))),
        })
    }

    /// The server, unless the harness was shut down.
    fn server(&self) -> Result<Arc<dyn Server>, String> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server
            .clone()
            .ok_or_else(|| "the harness was shut down".to_owned())
    }

    fn builder(&self, spec: &NodeSpec, through: Option<SocketAddr>) -> RedisBuilder {
        let mut url = self.url.clone();
        if let Some(addr) = through {
            // A Redis URL with a host always takes another one.
            let _ = url
                .set_ip_host(addr.ip())
                .and_then(|()| url.set_port(Some(addr.port())));
        }
        RedisBuilder::new(url.as_str())
            .client_name(self.client_name.as_str())
            .node_options(spec.options.clone())
    }

    /// A node by the builder, with whatever else it is to have.
    async fn make(
        &self,
        spec: &NodeSpec,
        also: impl FnOnce(RedisBuilder) -> RedisBuilder + Send,
    ) -> Result<Arc<dyn Backplane>, ConnectError> {
        let place = match spec.reachable || self.fixture == "proxy" {
            true => Some(self.place().await?),
            false => None,
        };
        let builder = also(self.builder(spec, place.as_ref().map(Place::addr)));
        let node: Arc<dyn Backplane> = match spec.start {
            Start::Eager => Arc::new(builder.connect().await?),
            Start::Lazy => Arc::new(builder.connect_lazy().map_err(|error| match error {
                ConfigError::Node(option) => ConnectError::of_option("redis", option),
                error => {
                    let kind = ConnectErrorKind::InvalidOption;
                    ConnectError::new(kind, "redis", Some(error.into()))
                }
            })?),
        };
        if let Some(place) = place {
            place.take(&node);
        }
        Ok(node)
    }

    async fn place(&self) -> Result<Place<'_>, ConnectError> {
        self.paths.place(&self.backstage).await.map_err(|error| {
            ConnectError::new(
                ConnectErrorKind::Unreachable,
                "fault proxy",
                Some(error.into()),
            )
        })
    }
}

#[async_trait]
impl Harness for RedisHarness {
    fn describe(&self) -> Description {
        Description::new("redis")
            .backend_version(backplane_redis::VERSION)
            .fixture(self.fixture)
            .server(self.version.as_str())
    }

    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
        self.make(spec, |builder| builder).await
    }

    async fn node_elsewhere(
        &self,
        spec: &NodeSpec,
    ) -> Option<Result<Arc<dyn Backplane>, ConnectError>> {
        // Every server has 16 databases unless it is told otherwise.
        let elsewhere = if database(&self.url) == 1 { 2 } else { 1 };
        Some(self.make(spec, |builder| builder.database(elsewhere)).await)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }

    fn observer(&self) -> Option<&dyn Observer> {
        Some(self)
    }

    fn parse_url_option(&self, option: &str, value: &str) -> Option<Result<(), String>> {
        let separator = if self.url.query().is_some() { '&' } else { '?' };
        let url = format!("{}{separator}{option}={}", self.url, percent_encoded(value));
        // Nothing is wrong with the lack of a prefix here.
        let parsed = RedisBuilder::new(url).prefix(Prefix::unprefixed()).build();
        Some(parsed.map(drop).map_err(|error| error.to_string()))
    }

    fn secret(&self) -> Option<String> {
        self.secret.clone()
    }

    async fn shut_down(&self) {
        let server = self
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.paths.clear();
        // It waits for the end of a process or a container. What is left to do if that fails is done when the
        // harness is dropped.
        let _ = self.backstage.block(move || drop(server)).await;
    }
}

impl fmt::Debug for RedisHarness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL and the secret.
        f.debug_struct("RedisHarness")
            .field("fixture", &self.fixture)
            .field("version", &self.version)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

/// The number of the database that a URL names.
fn database(url: &Url) -> u32 {
    url.path().trim_matches('/').parse().unwrap_or(0)
}

/// The decoded password of a URL that a client has already taken.
fn password(url: &str) -> Option<String> {
    let client = ::redis::Client::open(url).ok()?;
    let password = client.get_connection_info().redis_settings().password()?;
    (!password.is_empty()).then(|| password.to_owned())
}

fn percent_encoded(value: &str) -> String {
    let literal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value
        .bytes()
        .map(|byte| match byte {
            byte if literal(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
