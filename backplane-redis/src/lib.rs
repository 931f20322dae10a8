//! The Redis backend of Backplane: nodes that share a Redis server and a prefix share their messages.
//!
//! ```no_run
//! use backplane_core::{Backplane, Channel, Delivery, Subscribe};
//! use backplane_redis::RedisBuilder;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let node = RedisBuilder::new("redis://localhost:6379?prefix=shop").connect().await?;
//!
//! let news = Channel::new("news")?;
//! let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await?;
//! node.publish(&news, "hello".into()).await?;
//!
//! while let Some(delivery) = subscription.recv().await {
//!     match delivery {
//!         Delivery::Message(message) => println!("{:?}", message.payload()),
//!         Delivery::Gap(gap) => println!("read the state again: {gap}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`RedisBuilder`] describes the URL and the options, [`RedisBuilder::connect_lazy`] starts while the server is still
//! away. A [`RedisNode`] is a [`Backplane`](backplane_core::Backplane): what it promises is said there, and the
//! suite `backplane-conformance` proves it.
//!
//! # The server
//! Redis 6 or later, or a server that is compatible with it, alone or as the primary of its replicas; RESP3 is
//! required. A node uses Pub/Sub only (`PUBLISH`, and `SUBSCRIBE` without patterns): it writes no keys, so neither
//! persistence nor the memory limit matters, and a server that restarts empty makes no difference.
//!
//! Each node has two connections, one to publish and one to receive. In `CLIENT LIST` they are called
//! `backplane-ID-pub` and `backplane-ID-sub`.
//!
//! # Permissions
//! A user of the server's ACL needs the channels of its prefix, with the node's own ones, and a few commands. For the prefix
//! `shop`:
//!
//! ```text
//! ACL SETUSER shop on >PASSWORD resetchannels &shop:* &shop!* +publish +subscribe +unsubscribe +ping
//! ```
//!
//! `+client|setname +client|setinfo` gives the connections their names, and `+select` is needed only with a database
//! other than 0. A channel that is not allowed is refused as such, and the node stays attached.
//!
//! # What it promises
//! Beyond the rules that bind all, a node on one server declares [`Order::Total`](backplane_core::Order): the server
//! does one publish after the other and hands each to all subscribers before the next, so all subscriptions see the
//! messages of all publishers in one order. Losses are counted. It has no replay, because Pub/Sub keeps nothing, and no
//! failover: that takes Redis Sentinel or Cluster, which this version does not know. A node that
//! [requires](RedisBuilder::require) either is refused before it connects.
//!
//! # What does not isolate
//! The database number: Redis delivers a message to the subscribers of all databases (rule I7). Deployments on one
//! server are kept apart by their prefix.
//!
//! # Slow subscribers
//! Redis disconnects a subscriber for which too much waits (`client-output-buffer-limit pubsub`: more than
//! 32 MiB, or 8 MiB for 60 s). A node reads without waiting for its subscriptions, so this takes a slow network or a
//! starved process. It is an ordinary outage then, with its gap.
//!
//! # Features
//! - `tls`: `rediss://` through rustls. It trusts the certificates of the system, or
//!   [those that it is given](RedisBuilder::ca_cert). If the process has no rustls `CryptoProvider` yet, it installs ring.

mod builder;
mod config;
mod driver;
mod error;
mod fault;
mod link;
mod setting;

pub use builder::RedisBuilder;
pub use driver::RedisDriver;
pub use error::ConfigError;
pub use link::RedisLink;

/// A node on a Redis server.
pub type RedisNode = backplane_core::Node<RedisDriver>;

/// What [publishes to one channel](backplane_core::Node::publisher) of a [`RedisNode`].
pub type RedisPublisher = backplane_core::Publisher<RedisDriver>;

/// The version of this crate, for reports.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
