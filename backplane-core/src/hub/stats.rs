//! Counters: [`HubStats`].

use crate::stats::Counter;

/// A snapshot of what a hub counts on this node, all since its start but for those that say now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubStats {
    /// Connections of this node now.
    pub connections: u64,
    /// Groups and users now that have a connection on this node.
    pub rooms: u64,
    /// Messages that this hub's node was asked to send.
    pub sent: u64,
    /// Messages that came through the backplane.
    pub received: u64,
    /// Messages put into the queues of connections: one message for three connections counts three times.
    pub delivered: u64,
    /// Messages that did not fit into the queue of a connection (rule H22).
    pub missed: u64,
    /// Gaps told (rule H23).
    pub gaps: u64,
    /// Connections that ended because their sink failed (rule H24).
    pub sinks_failed: u64,
    /// Requests of this node that it waits for now.
    pub requests: u64,
    /// Calls to connections of this node that are not answered yet.
    pub invocations: u64,
    /// Requests of other nodes that were refused because too many were in work.
    pub refused: u64,
    /// Replies of other nodes that nobody waited for: they came too late, or twice.
    pub late: u64,
    /// Messages skipped because they are not messages of a hub (rule H27).
    pub malformed: u64,
    /// Messages skipped because they are of a newer version (rule H27).
    pub incompatible: u64,
}

/// The live counters behind [`HubStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: Counter,
    pub(super) received: Counter,
    pub(super) delivered: Counter,
    pub(super) missed: Counter,
    pub(super) gaps: Counter,
    pub(super) sinks_failed: Counter,
    pub(super) refused: Counter,
    pub(super) late: Counter,
    pub(super) malformed: Counter,
    pub(super) incompatible: Counter,
}

impl Counters {
    pub(super) fn snapshot(
        &self,
        (connections, rooms): (usize, usize),
        (requests, invocations): (usize, usize),
    ) -> HubStats {
        HubStats {
            connections: connections as u64,
            rooms: rooms as u64,
            sent: self.sent.get(),
            received: self.received.get(),
            delivered: self.delivered.get(),
            missed: self.missed.get(),
            gaps: self.gaps.get(),
            sinks_failed: self.sinks_failed.get(),
            requests: requests as u64,
            invocations: invocations as u64,
            refused: self.refused.get(),
            late: self.late.get(),
            malformed: self.malformed.get(),
            incompatible: self.incompatible.get(),
        }
    }
}
