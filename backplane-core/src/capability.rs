//! What a backend promises beyond the rules that bind all, [`Capabilities`], and what an application depends
//! on, [`Requirement`].

use std::fmt;

/// What a backend declares. The conformance suite proves what is declared and tests for a defined
/// refusal what is not: a node that [requires](crate::NodeOptions::require) it is not made.
///
/// Start from [`Capabilities::new`] and change what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The largest payload, in bytes (rules D2 and D4).
    pub max_payload: usize,
    /// How far order reaches beyond one publisher on one channel (rules O3 and O4).
    pub order: Order,
    /// Whether a gap says exactly how many messages of each live publisher were missed (rule L8).
    pub counts_loss: bool,
    /// Whether messages published during an outage are delivered after it (rules D6 and L4).
    pub replay: bool,
    /// Whether the promotion of a replica or a moved slot is an ordinary outage (rule R8).
    pub failover: bool,
}

impl Capabilities {
    /// 1 MiB, in bytes: the default of [`Capabilities::max_payload`].
    pub const DEFAULT_MAX_PAYLOAD: usize = 1 << 20;

    /// The least that a backend on the engine promises: payloads of up to 1 MiB, order per
    /// publisher and channel, counted losses, no replay, no failover.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max_payload: Self::DEFAULT_MAX_PAYLOAD,
            order: Order::Channel,
            counts_loss: true,
            replay: false,
            failover: false,
        }
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::new()
    }
}

/// How far the order of messages reaches. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Order {
    /// One publisher's messages on one channel keep their order (rules O1 and O2; binds all).
    Channel,
    /// One publisher's messages keep their order across the channels of one subscription (rule O3).
    Publisher,
    /// Besides, all subscriptions of a channel see the messages of all publishers in one order
    /// (rule O4).
    Total,
}

/// Something that an application depends on, and that not every backend promises.
///
/// A constructor refuses a node that [requires](crate::NodeOptions::require) what the backend does not declare,
/// before it connects: the mistake shows at the start, and not in the first outage.
///
/// ```
/// use backplane_core::{Capabilities, Order, Requirement};
///
/// let offered = Capabilities::new();
/// assert!(Requirement::CountsLoss.is_met_by(&offered));
/// assert!(!Requirement::Order(Order::Total).is_met_by(&offered));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Requirement {
    /// An order that reaches at least so far (rules O3 and O4).
    Order(Order),
    /// Gaps that say how many messages of each live publisher were missed (rule L8).
    CountsLoss,
    /// The delivery, after an outage, of what was published in it (rule L4).
    Replay,
    /// The promotion of a replica or a moved slot as an ordinary outage (rule R8).
    Failover,
    /// Payloads of so many bytes (rule D2).
    MaxPayload(usize),
}

impl Requirement {
    /// Whether a backend with these capabilities meets it.
    #[must_use]
    pub fn is_met_by(self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Order(order) => capabilities.order >= order,
            Self::CountsLoss => capabilities.counts_loss,
            Self::Replay => capabilities.replay,
            Self::Failover => capabilities.failover,
            Self::MaxPayload(bytes) => capabilities.max_payload >= bytes,
        }
    }
}

/// What is required, in words that fit behind "the backend does not promise".
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(Order::Channel) => f.write_str("order per publisher and channel"),
            Self::Order(Order::Publisher) => f.write_str("order per publisher across channels"),
            Self::Order(Order::Total) => f.write_str("one order of all publishers of a channel"),
            Self::CountsLoss => f.write_str("counted losses"),
            Self::Replay => f.write_str("replay after an outage"),
            Self::Failover => f.write_str("failover"),
            Self::MaxPayload(bytes) => write!(f, "payloads of {bytes} bytes"),
        }
    }
}
