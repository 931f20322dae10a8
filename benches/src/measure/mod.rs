//! The measurements: each takes a contender and gives numbers of one round.

pub mod churn;
pub mod fanout;
pub mod latency;
pub mod parallel;
pub mod routing;
pub mod throughput;

use std::time::Duration;

/// How long stragglers are waited for before they count as lost.
pub const PATIENCE: Duration = Duration::from_secs(20);
