//! A way of the framework's own to a client: [`Sink`].

use crate::error::BoxError;

use super::outbox::Outbound;

/// Takes what a connection is to get, instead of a queue that the framework reads.
///
/// It is called by whoever delivers, which may be the task that reads from the backplane or one that sends:
/// never by two at once for one connection, in order, and with no lock held, so it may use the hub. It must not block:
/// hand over to a channel or a socket that takes it at once, and fail when that is full.
pub trait Sink: Send + Sync + 'static {
    /// Hands one item over to the client.
    ///
    /// # Errors
    /// Any error disconnects this connection, as a panic does, and touches no other and no sender (rule H24).
    fn deliver(&self, outbound: Outbound) -> Result<(), BoxError>;
}
