//! A slow way to the bus and back: [`Lag`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long the way takes. While it takes no time, asking costs one load.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// The longest time in microseconds, above the shortest one; 0: no time.
    range: AtomicU64,
    /// How many times were drawn.
    drawn: AtomicU64,
}

impl Lag {
    pub(crate) fn set(&self, least: Duration, most: Duration) {
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let (least, most) = (micros(least), micros(most));
        let range = u64::from(most.max(least)) << 32 | u64::from(least);
        self.range.store(range, Ordering::Relaxed);
    }

    /// Whether the way takes no time.
    pub(crate) fn is_none(&self) -> bool {
        self.range.load(Ordering::Relaxed) == 0
    }

    /// Goes one way.
    pub(crate) async fn pass(&self) {
        let range = self.range.load(Ordering::Relaxed);
        if range == 0 {
            return;
        }
        let (least, most) = (range & u64::from(u32::MAX), range >> 32);
        let spread = most - least + 1;
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let time = Duration::from_micros(least + scatter(number) % spread);
        tokio::time::sleep(time).await;
    }
}

/// Spreads numbers in a row evenly, the same way each time (SplitMix64).
const fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_way_takes_as_long_as_it_was_told_to() {
        let lag = Lag::default();
        let (least, most) = (Duration::from_millis(2), Duration::from_millis(4));
        lag.set(least, most);
        for _ in 0..10 {
            let begin = Instant::now();
            lag.pass().await;
            assert!(begin.elapsed() >= least);
        }
        lag.set(Duration::from_secs(3600), most);
        lag.set(Duration::ZERO, Duration::ZERO);
        lag.pass().await;
    }
}
