//! What is compared: each contender is a way from a publisher to a subscriber.
//!
//! | contender | what it is |
//! | --- | --- |
//! | [`Floor`] | two blocking sockets and RESP written by hand: as fast as Redis answers |
//! | [`Raw`] with [`Form::Stream`] | the `redis` crate with its `PubSubStream` |
//! | [`Raw`] with [`Form::ClosureToTask`] | the `redis` crate, RESP3, a push closure that hands over to a task |
//! | [`Raw`] with [`Form::Closure`] | the same, used up inside the closure: nothing waits for the message |
//! | [`Ours`] on Redis | two nodes of `backplane-redis` |
//! | [`Broadcast`] | `tokio::sync::broadcast` |
//! | [`Ours`] in memory | two nodes of `backplane-memory` |

mod broadcast;
mod floor;
mod ours;
mod raw;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

pub use self::broadcast::{BROADCAST, Broadcast};
pub use self::floor::Floor;
pub use self::ours::{BACKPLANE, MEMORY, Ours, REDIS, node_options, redis_node};
pub use self::raw::{Form, Raw};
use crate::arrivals::Arrivals;
use crate::error::Result;

/// A publisher, and a subscriber that has taken its place already.
pub trait Contender: Send + Sync + 'static {
    /// What publishes.
    type Publisher: Publisher;

    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Where its subscriber counts.
    fn arrivals(&self) -> &Arc<Arrivals>;

    /// One more publisher, on the same connection.
    fn publisher(&self) -> Self::Publisher;
}

/// Publishes many messages with one call.
pub trait PublishMany: Publisher {
    /// Publishes all, in order; returns when the broker has accepted them.
    fn publish_many(&mut self, payloads: Vec<Bytes>) -> impl Future<Output = Result<()>> + Send;
}

/// Publishes one message after the other.
pub trait Publisher: Send + 'static {
    /// Publishes, and waits as long as its kind waits: for the broker, where there is one.
    fn publish(&mut self, payload: Bytes) -> impl Future<Output = Result<()>> + Send;
}
