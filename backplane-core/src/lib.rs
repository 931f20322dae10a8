//! The semantics of a backplane for real-time servers.
//!
//! A real-time server that outgrows one process needs a *backplane*: what one node sends must reach
//! the clients on every node. This crate defines what that means, rule by rule, and keeps the rules for every
//! backend: reconnection, resubscription, gaps, heartbeats, batching, routing and backpressure are here;
//! a backend is a [`driver`] of about 150 lines.
//!
//! - Framework authors hold an `Arc<dyn` [`Backplane`]`>`.
//! - Backends (`backplane-memory`, `backplane-redis`, yours) implement [`driver::Driver`]; [`Node`] makes a
//!   [`Backplane`] of it.
//! - The crate `backplane-conformance` proves the rules on any backend.
//!
//! The guarantee in one line: **at most once, in order, and no silent loss**. Every published message
//! is delivered exactly once to every live subscription, or its loss is reported: to the publisher as an
//! error, or to the subscriber as a [`Gap`]. In these docs `rule D1` and the like name a rule of
//! that contract and the trial of the suite that proves it.
//!
//! # Example
//! The backend here is `backplane-memory`; all others read the same.
//!
//! ```
//! use backplane_core::{Backplane, Channel, Delivery, NodeOptions, Prefix, Subscribe};
//! use backplane_memory::MemoryBus;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = MemoryBus::new();
//! let options = NodeOptions::new(Prefix::new("shop")?);
//! let (alice, bob) = (bus.connect(options.clone()).await?, bus.connect(options).await?);
//!
//! let news = Channel::new("news")?;
//! let mut subscription = bob.subscribe(Subscribe::to([news.clone()])).await?;
//! alice.publish(&news, "hello".into()).await?;
//!
//! match subscription.recv().await {
//!     Some(Delivery::Message(message)) => assert_eq!(&message.payload()[..], b"hello"),
//!     Some(Delivery::Gap(gap)) => println!("read the state again: {gap}"),
//!     None => println!("the node was closed"),
//! }
//! # Ok(())
//! # }
//! ```

mod backplane;
mod capability;
pub mod driver;
mod engine;
mod error;
mod frame;
pub mod hub;
mod message;
mod name;
mod options;
mod publish_many;
mod queue;
mod state;
mod stats;
mod subscription;

pub use backplane::Backplane;
pub use capability::{Capabilities, Order, Requirement};
pub use engine::{Node, Publisher};
pub use error::{
    BoxError, ConnectError, ConnectErrorKind, HealthError, HealthErrorKind, InvalidOption, NotSent,
    PublishError, PublishErrorKind, SubscribeError, SubscribeErrorKind, Unknown,
};
pub use message::{Delivery, Gap, Message, Missed, OutageAccount};
pub use name::{Channel, InvalidName, NameKind, NodeId, Prefix};
pub use options::NodeOptions;
pub use publish_many::{PublishFailure, PublishManyError};
pub use queue::{Pushed, QueueReader, QueueWriter, TryRecvError, queue};
pub use state::{
    ConnectionState, Disconnect, DisconnectKind, Event, Events, StateCell, StateWatch,
};
pub use stats::Stats;
pub use subscription::{
    Subscribe, Subscribed, Subscription, SubscriptionControl, SubscriptionHandle,
};
