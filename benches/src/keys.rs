//! The figures that a run is judged by: [`Key`], and [`KEYS`], all of them.

use crate::compare::Comparison;
use crate::contender::{BROADCAST, Floor, Form, MEMORY, REDIS};

/// The form of the raw crate that latency is held against: like ours, it wakes a task that reads.
pub const RAW_LATENCY: &str = Form::ClosureToTask.name();

/// The form of the raw crate that throughput and CPU time are held against: the one that does least.
pub const RAW_THROUGHPUT: &str = Form::Closure.name();

/// What is aimed at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Nothing in particular.
    None,
}

impl Target {
    /// Whether a value meets it.
    #[must_use]
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::None => true,
        }
    }
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in JSON.
    pub name: &'static str,
    /// What it is.
    pub meaning: &'static str,
    /// What is aimed at.
    pub target: Target,
    value: Value,
}

/// Where its value comes from.
#[derive(Clone, Copy, Debug)]
enum Value {
    /// The median of the ratios, round by round, of two contenders.
    Ratio(&'static str, &'static str, &'static str),
    /// Likewise, of two figures of two contenders.
    Across(&'static str, &'static str, &'static str, &'static str),
    /// The median of a figure of a contender.
    Median(&'static str, &'static str),
    /// Bytes for an idle subscription.
    PerSubscription(&'static str),
}

impl Key {
    /// Its value in this run.
    #[must_use]
    pub fn of(&self, comparison: &Comparison) -> Option<f64> {
        let figures = &comparison.figures;
        match self.value {
            Value::Ratio(figure, a, b) => figures.ratio((figure, a), (figure, b)),
            Value::Across(figure, a, other, b) => figures.ratio((figure, a), (other, b)),
            Value::Median(figure, who) => figures.median(figure, who),
            Value::PerSubscription(who) => comparison.counted.per_subscription.get(who).copied(),
        }
    }
}

const fn key(name: &'static str, meaning: &'static str, target: Target, value: Value) -> Key {
    Key {
        name,
        meaning,
        target,
        value,
    }
}

/// All, in the order in which they are told.
pub const KEYS: [Key; 17] = [
    key(
        "latency_p50_vs_raw",
        "latency p50 against the raw crate",
        Target::AtMost(1.05),
        Value::Ratio("latency_p50_us", REDIS, RAW_LATENCY),
    ),
    key(
        "latency_p99_vs_raw",
        "latency p99 against the raw crate",
        Target::None,
        Value::Ratio("latency_p99_us", REDIS, RAW_LATENCY),
    ),
    key(
        "latency_p50_vs_floor",
        "latency p50 against blocking sockets",
        Target::AtMost(1.30),
        Value::Ratio("latency_p50_us", REDIS, Floor::NAME),
    ),
    key(
        "throughput_1_vs_raw",
        "throughput against the raw crate, 1 awaiting publisher",
        Target::AtLeast(0.97),
        Value::Ratio("throughput_1", REDIS, RAW_THROUGHPUT),
    ),
    key(
        "throughput_64_vs_raw",
        "throughput against the raw crate, 64 awaiting publishers",
        Target::AtLeast(3.0),
        Value::Ratio("throughput_64", REDIS, RAW_THROUGHPUT),
    ),
    key(
        "throughput_1024_vs_raw",
        "throughput against the raw crate, 1024 awaiting publishers",
        Target::AtLeast(5.0),
        Value::Ratio("throughput_1024", REDIS, RAW_THROUGHPUT),
    ),
    key(
        "publish_many_msgs_per_s",
        "messages/s delivered, published by one task with publish-many",
        Target::AtLeast(1_500_000.0),
        Value::Median("throughput_many", REDIS),
    ),
    key(
        "cpu_per_msg_64_vs_raw",
        "CPU per message against the raw crate, 64 publishers",
        Target::AtMost(0.40),
        Value::Ratio("cpu_us_64", REDIS, RAW_THROUGHPUT),
    ),
    key(
        "cpu_per_msg_1024_vs_raw",
        "CPU per message against the raw crate, 1024 publishers",
        Target::AtMost(0.25),
        Value::Ratio("cpu_us_1024", REDIS, RAW_THROUGHPUT),
    ),
    key(
        "memory_throughput_vs_broadcast",
        "memory backend against tokio broadcast, 1 subscriber: throughput",
        Target::AtLeast(0.8),
        Value::Ratio("throughput_in_process", MEMORY, BROADCAST),
    ),
    key(
        "memory_latency_p50_vs_broadcast",
        "memory backend against tokio broadcast, 1 subscriber: latency p50",
        Target::AtMost(1.1),
        Value::Ratio("latency_p50_us", MEMORY, BROADCAST),
    ),
    key(
        "fanout_10k_vs_bare_loop",
        "fan-out to parked subscriptions against a bare loop of try_send",
        Target::AtMost(1.1),
        Value::Ratio("fanout_ns", MEMORY, BARE_LOOP),
    ),
    key(
        "fanout_10k_bursts_vs_bare_loop",
        "the same in bursts of 32 through receive-many, against the bare loop of single messages",
        Target::AtMost(0.5),
        Value::Across("fanout_burst_ns", MEMORY, "fanout_ns", BARE_LOOP),
    ),
    key(
        "fanout_10k_bursts_vs_bare_bursts",
        "the same against the bare loop in bursts of 32 through recv_many",
        Target::None,
        Value::Ratio("fanout_burst_ns", MEMORY, BARE_LOOP),
    ),
    key(
        "subscribe_100k_s",
        "seconds to subscribe to 100 000 channels",
        Target::AtMost(1.0),
        Value::Median("subscribe_s", REDIS),
    ),
    key(
        "resubscribe_100k_s",
        "seconds from a kill of the connections until all are back in force",
        Target::AtMost(1.0),
        Value::Median("resubscribe_s", REDIS),
    ),
    key(
        "bytes_per_subscription",
        "bytes for an idle subscription with a channel of its own",
        Target::AtMost(600.0),
        Value::PerSubscription(REDIS),
    ),
];

/// The name of the bare loop in reports.
pub const BARE_LOOP: &str = "bare loop";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_key_has_its_own_name() {
        let names: HashSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
    }

    #[test]
    fn a_target_is_met_at_its_bound() {
        assert!(Target::AtMost(1.0).is_met_by(1.0));
        assert!(!Target::AtMost(1.0).is_met_by(1.01));
        assert!(Target::AtLeast(3.0).is_met_by(3.0));
        assert!(!Target::AtLeast(3.0).is_met_by(2.99));
        assert!(Target::None.is_met_by(f64::MAX));
    }
}
