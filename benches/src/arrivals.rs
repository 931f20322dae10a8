//! Where every contender counts what it has received: [`Arrivals`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::clock;
use crate::error::{Error, Result};

/// The longest latency that is told apart from longer ones.
const LONGEST: u64 = 60_000_000_000;

/// Counts messages at their receiver, and, when asked to, their latencies. Shared by a receiver and the measurement.
#[derive(Debug)]
pub struct Arrivals {
    contender: &'static str,
    count: AtomicU64,
    /// The count that is waited for.
    goal: AtomicU64,
    /// When it was reached.
    reached: AtomicU64,
    is_timing: AtomicBool,
    latencies: Mutex<Histogram<u64>>,
    changed: Notify,
    failure: Mutex<Option<String>>,
    has_failed: AtomicBool,
}

impl Arrivals {
    /// Nothing yet.
    #[must_use]
    pub fn new(contender: &'static str) -> Self {
        Self {
            contender,
            count: AtomicU64::new(0),
            goal: AtomicU64::new(u64::MAX),
            reached: AtomicU64::new(0),
            is_timing: AtomicBool::new(false),
            latencies: Mutex::new(histogram()),
            changed: Notify::new(),
            failure: Mutex::new(None),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Counts one message that has arrived.
    pub fn take(&self, payload: &[u8]) {
        if self.is_timing.load(Ordering::Relaxed) {
            let now = clock::now();
            let latency = clock::stamp(payload).map_or(LONGEST, |sent| now.saturating_sub(sent));
            self.latencies().saturating_record(latency);
        }
        self.add(1);
    }

    /// Counts several messages that have arrived and whose latencies are not wanted.
    pub fn add(&self, messages: u64) {
        let count = self.count.fetch_add(messages, Ordering::SeqCst) + messages;
        if count >= self.goal.load(Ordering::SeqCst) {
            self.reached.store(clock::now(), Ordering::SeqCst);
            self.changed.notify_one();
        }
    }

    /// Whether latencies are wanted, so that each message has to be looked at.
    #[must_use]
    pub fn is_timing(&self) -> bool {
        self.is_timing.load(Ordering::Relaxed)
    }

    /// The receiver has failed, or has lost messages: the measurement is void.
    pub fn fail(&self, what: impl Into<String>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| what.into());
        drop(failure);
        self.has_failed.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// How many have arrived so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether the receiver has failed.
    ///
    /// # Errors
    /// [`Error::Receiver`] if it has.
    pub fn check(&self) -> Result<()> {
        if !self.has_failed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        Err(Error::Receiver {
            contender: self.contender,
            what: failure.clone().unwrap_or_default(),
        })
    }

    /// Waits until `goal` messages have arrived in all, or the receiver has failed. Sets no timer.
    pub async fn reach(&self, goal: u64) {
        self.goal.store(goal, Ordering::SeqCst);
        while self.count() < goal && !self.has_failed.load(Ordering::SeqCst) {
            self.changed.notified().await;
        }
    }

    /// Waits until exactly `goal` messages have arrived in all, `begin` of them before the measurement, and returns when
    /// the last of them did.
    ///
    /// # Errors
    /// [`Error::Lost`] if fewer or more arrived, [`Error::Receiver`] if the receiver has failed.
    pub async fn wait_for(&self, goal: u64, begin: u64, within: Duration) -> Result<u64> {
        self.reached.store(0, Ordering::SeqCst);
        // In time or not, the count tells.
        let _ = timeout(within, self.reach(goal)).await;
        self.check()?;
        self.goal.store(u64::MAX, Ordering::SeqCst);
        let count = self.count();
        if count != goal {
            return Err(Error::Lost {
                contender: self.contender,
                published: goal - begin.min(goal),
                delivered: count - begin.min(count),
                within,
            });
        }
        // All had arrived before the goal was set: just now, as far as anyone can tell.
        let reached = self.reached.load(Ordering::SeqCst);
        Ok(if reached == 0 { clock::now() } else { reached })
    }

    /// Starts to measure latencies, from nothing.
    pub fn start_timing(&self) {
        self.latencies().reset();
        self.is_timing.store(true, Ordering::SeqCst);
    }

    /// Ends to measure latencies, and returns them.
    #[must_use]
    pub fn stop_timing(&self) -> Histogram<u64> {
        self.is_timing.store(false, Ordering::SeqCst);
        self.latencies().clone()
    }

    fn latencies(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An empty histogram of nanoseconds.
#[must_use]
#[allow(clippy::expect_used)]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn what_is_missing_and_what_is_too_much_is_an_error() {
        let arrivals = Arrivals::new("x");
        arrivals.add(3);
        assert!(arrivals.wait_for(3, 0, SOON).await.is_ok());
        let missing = arrivals.wait_for(4, 3, SOON).await.unwrap_err();
        let Error::Lost {
            published,
            delivered,
            ..
        } = missing
        else {
            panic!("{missing}");
        };
        assert_eq!((published, delivered), (1, 0));
        assert!(matches!(
            arrivals.wait_for(2, 0, SOON).await,
            Err(Error::Lost { .. })
        ));
    }

    #[tokio::test]
    async fn a_receiver_that_failed_voids_the_measurement() {
        let arrivals = Arrivals::new("x");
        arrivals.add(3);
        arrivals.fail("a gap");
        let error = arrivals.wait_for(3, 0, SOON).await.unwrap_err();
        assert_eq!(error.to_string(), "x: a gap");
    }

    #[test]
    fn latencies_are_taken_from_the_stamp_and_only_while_timing() {
        let arrivals = Arrivals::new("x");
        arrivals.take(&clock::stamped(clock::now(), 8));
        arrivals.start_timing();
        let sent = clock::now();
        clock::sleep_until(sent + 100_000);
        arrivals.take(&clock::stamped(sent, 8));
        let latencies = arrivals.stop_timing();
        assert_eq!(latencies.len(), 1);
        assert!(latencies.min() >= 99_000);
        assert_eq!(arrivals.count(), 2);
    }
}
