//! Counters: [`Stats`].

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of a node's counters, all since its start (rule V1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that the broker accepted.
    pub published: u64,
    /// Publishes that ended with [`NotSent`](crate::NotSent).
    pub not_sent: u64,
    /// Publishes that ended with [`Unknown`](crate::Unknown).
    pub unknown: u64,
    /// Messages put into subscription queues: one message for three subscriptions counts three times.
    pub delivered: u64,
    /// Messages that did not fit into a subscription's queue (rules B2 and B3).
    pub overflowed: u64,
    /// Gaps told to subscriptions.
    pub gaps: u64,
    /// Messages known to be missing by their sequence numbers: once per message and channel of this
    /// node (rule L8).
    pub lost: u64,
    /// How often the node attached again after an outage.
    pub reconnects: u64,
    /// Broker messages skipped because they are not frames of ours (rules I6 and M1).
    pub malformed: u64,
    /// Broker messages skipped because they have a newer wire version (rule M2).
    pub incompatible: u64,
    /// Messages skipped because they had arrived before.
    pub duplicates: u64,
    /// Subscriptions that live now.
    pub subscriptions: u64,
    /// Channels that live subscriptions hold now.
    pub channels: u64,
}

/// The live counters behind [`Stats`]. What was published is counted in each lane and what was delivered in each route,
/// under a lock that is held anyway: one count for all would be what publishers on several cores wait for.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) not_sent: Counter,
    pub(crate) unknown: Counter,
    pub(crate) overflowed: Counter,
    pub(crate) gaps: Counter,
    pub(crate) lost: Counter,
    pub(crate) reconnects: Counter,
    pub(crate) malformed: Counter,
    pub(crate) incompatible: Counter,
    pub(crate) duplicates: Counter,
}

impl Counters {
    /// The numbers, with those that are counted elsewhere.
    pub(crate) fn snapshot(&self, published: u64, delivered: u64) -> Stats {
        Stats {
            published,
            not_sent: self.not_sent.get(),
            unknown: self.unknown.get(),
            delivered,
            overflowed: self.overflowed.get(),
            gaps: self.gaps.get(),
            lost: self.lost.get(),
            reconnects: self.reconnects.get(),
            malformed: self.malformed.get(),
            incompatible: self.incompatible.get(),
            duplicates: self.duplicates.get(),
            subscriptions: 0,
            channels: 0,
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
