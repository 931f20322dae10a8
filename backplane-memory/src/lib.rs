//! An in-process backplane: any number of nodes on one [`MemoryBus`], with an outage switch.
//!
//! It keeps the same contract as a network backend, proven by the same suite, so it serves for
//! single-process deployments and for other people's tests: an application can be tested against
//! an outage, a frozen broker or a mute one, without a broker.
//!
//! Messages are passed by reference count: nothing is encoded, and no task stands between a publisher and
//! the subscribers' queues.
//!
//! # Example
//! ```
//! use backplane_core::{Backplane, Channel, Delivery, NodeOptions, Prefix, Subscribe};
//! use backplane_memory::MemoryBus;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = MemoryBus::new();
//! let node = bus.connect(NodeOptions::new(Prefix::new("app")?)).await?;
//! let news = Channel::new("news")?;
//! let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await?;
//!
//! bus.stop(); // an outage ...
//! node.watch().wait_for(|state| !state.is_connected()).await;
//! assert!(node.publish(&news, "lost".into()).await.unwrap_err().is_not_sent());
//!
//! bus.start(); // ... and its end
//! node.watch().connected().await;
//! node.publish(&news, "back".into()).await?;
//!
//! assert!(matches!(subscription.recv().await, Some(Delivery::Gap(_))));
//! assert!(matches!(subscription.recv().await, Some(Delivery::Message(_))));
//! # Ok(())
//! # }
//! ```

mod bus;
mod driver;
mod lag;
mod trap;

pub use bus::MemoryBus;
pub use driver::{MemoryDriver, MemoryLink};
pub use trap::{Moment, Trap};

/// The version of this crate, for reports.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
