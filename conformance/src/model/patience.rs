//! Waiting for what has to come true when every fault has ended.

use std::time::Duration;

use backplane_core::{Backplane, Channel, Prefix};
use tokio::time::{Instant, sleep};

use crate::harness::Observer;
use crate::trial::{LOOK_AGAIN, WITHIN, chain};

/// How long a model waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(Duration);

impl Patience {
    /// That of the rules, on a scale of time.
    pub(super) fn new(scale: f64) -> Self {
        Self(WITHIN.mul_f64(scale))
    }

    /// So long.
    pub(super) const fn of(limit: Duration) -> Self {
        Self(limit)
    }

    pub(super) const fn limit(self) -> Duration {
        self.0
    }

    /// Whether this holds in time.
    pub(super) async fn until(self, mut holds: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + self.0;
        while !holds() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK_AGAIN).await;
        }
        true
    }

    /// Whether a node is attached and healthy in time; why not, else.
    pub(super) async fn until_well(self, node: &dyn Backplane) -> Result<(), String> {
        let deadline = Instant::now() + self.0;
        loop {
            let why = match node.health().await {
                Ok(()) if node.state().is_connected() => return Ok(()),
                Ok(()) => node.state().to_string(),
                Err(error) => chain(&error),
            };
            if Instant::now() >= deadline {
                return Err(why);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// How many subscriptions of a channel the broker has: the expected number, or what it is when the time is over.
    pub(super) async fn subscriptions(
        self,
        observer: &dyn Observer,
        (prefix, channel): (&Prefix, &Channel),
        expected: u64,
    ) -> Result<u64, String> {
        let deadline = Instant::now() + self.0;
        loop {
            let seen = observer.subscriptions(prefix, channel).await?;
            if seen == expected || Instant::now() >= deadline {
                return Ok(seen);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// How many connections more than before the broker has: none, or what it is when the time is over.
    pub(super) async fn connections_left(
        self,
        observer: &dyn Observer,
        before: u64,
    ) -> Result<u64, String> {
        let deadline = Instant::now() + self.0;
        loop {
            let more = observer.connections().await?.saturating_sub(before);
            if more == 0 || Instant::now() >= deadline {
                return Ok(more);
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
