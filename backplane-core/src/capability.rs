//! What a backend promises beyond the rules that bind all: [`Capabilities`].

/// What a backend declares. The conformance suite proves what is declared and tests for a defined
/// refusal what is not.
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
