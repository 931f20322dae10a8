//! Who waits for the broker, and for long: [`Patience`].
//!
//! A timer for each publish would cost more than the publish: most often it is the earliest one of its runtime, which
//! then has to be woken to hear of it. So a publish is only told when time has passed, and those that live to
//! hear it, a few in an outage, start a timer of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

/// The publishes that wait for the broker.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    waiting: AtomicUsize,
    /// Nobody has waited for a while, and the clock stands still.
    still: AtomicBool,
    start: Notify,
    signs: Arc<Notify>,
}

/// One that waits, as long as this lives.
#[must_use = "who does not wait has no clock"]
pub(crate) struct Wait<'a>(&'a Patience);

impl Patience {
    /// Where those that wait hear that time has passed, at the latest after the period; and of other things.
    pub(crate) const fn signs(&self) -> &Arc<Notify> {
        &self.signs
    }

    /// Somebody waits from now on.
    pub(crate) fn wait(&self) -> Wait<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if self.still.load(Ordering::SeqCst) && self.still.swap(false, Ordering::SeqCst) {
            self.start.notify_one();
        }
        Wait(self)
    }

    /// Tells those that wait whenever this time has passed. Never ends.
    pub(crate) async fn run(&self, period: Duration) {
        loop {
            self.still.store(true, Ordering::SeqCst);
            // Who came before that has not seen it.
            if self.waiting.load(Ordering::SeqCst) == 0 {
                self.start.notified().await;
            }
            self.still.store(false, Ordering::SeqCst);
            // A busy node is not to start the clock for each publish.
            let mut idle = 0;
            while idle < 2 {
                sleep(period).await;
                idle = match self.waiting.load(Ordering::SeqCst) {
                    0 => idle + 1,
                    _ => 0,
                };
                self.signs.notify_waiters();
            }
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_waits_hears_of_time_and_a_clock_without_anybody_stands_still() {
        let patience = Arc::new(Patience::default());
        let clock = Arc::clone(&patience);
        let clock = tokio::spawn(async move { clock.run(PERIOD).await });
        for _ in 0..3 {
            let begin = Instant::now();
            let wait = patience.wait();
            patience.signs.notified().await;
            assert!(begin.elapsed() <= PERIOD, "{:?}", begin.elapsed());
            drop(wait);
            while !patience.still.load(Ordering::SeqCst) {
                assert!(begin.elapsed() <= 5 * PERIOD);
                sleep(PERIOD / 10).await;
            }
            let ticks = patience.signs.notified();
            assert!(timeout(10 * PERIOD, ticks).await.is_err());
        }
        clock.abort();
    }
}
