//! Time as messages carry it, and sending at a fixed rate.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

/// The time now, in nanoseconds since the first call in this process.
#[must_use]
pub fn now() -> u64 {
    static BASE: OnceLock<Instant> = OnceLock::new();
    nanos(BASE.get_or_init(Instant::now).elapsed())
}

/// A duration in nanoseconds; the longest possible one if it has more than 64 bits.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A payload of this length, at least 8 bytes, that says when it was, or should have been, sent.
#[must_use]
pub fn stamped(sent: u64, len: usize) -> Bytes {
    let mut payload = BytesMut::with_capacity(len.max(8));
    payload.put_u64_le(sent);
    payload.resize(len.max(8), b'.');
    payload.freeze()
}

/// When a payload says that it was sent.
#[must_use]
pub fn stamp(payload: &[u8]) -> Option<u64> {
    payload
        .first_chunk::<8>()
        .map(|bytes| u64::from_le_bytes(*bytes))
}

/// Intended send times at a fixed rate.
///
/// A send that comes late, because the one before it took too long, keeps its intended time, and so its
/// delay is counted: that is the correction of coordinated omission.
#[derive(Clone, Debug)]
pub struct Schedule {
    next: u64,
    interval: u64,
}

impl Schedule {
    /// Sends every `interval` nanoseconds, for the first time at `begin`.
    #[must_use]
    pub const fn new(begin: u64, interval: u64) -> Self {
        Self {
            next: begin,
            interval,
        }
    }

    /// The next intended time.
    pub const fn take(&mut self) -> u64 {
        let intended = self.next;
        self.next += self.interval;
        intended
    }
}

/// Blocks this thread until `time`, exactly: it sleeps most of the wait and spins the rest.
pub fn sleep_until(time: u64) {
    const SPIN: u64 = 30_000;
    loop {
        let now = now();
        if now >= time {
            return;
        }
        if time - now > SPIN {
            std::thread::sleep(Duration::from_nanos(time - now - SPIN));
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Lets [`sleep_until`] of this thread sleep to the microsecond. Without it the kernel adds 50.
pub fn sleep_precisely() {
    // Where it is refused, the spinning is longer, and the times are as exact.
    let _ = nix::sys::prctl::set_timerslack(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_carries_its_time_and_has_its_length() {
        let payload = stamped(0x0102_0304_0506_0708, 128);
        assert_eq!(payload.len(), 128);
        assert_eq!(stamp(&payload), Some(0x0102_0304_0506_0708));
        assert_eq!(stamp(b"short"), None);
    }

    #[test]
    fn a_late_send_keeps_its_intended_time() {
        let mut schedule = Schedule::new(1_000, 10);
        let intended: Vec<u64> = (0..4).map(|_| schedule.take()).collect();
        assert_eq!(intended, [1_000, 1_010, 1_020, 1_030]);
        // A stall from 1000 to 1025: with a latency of 1 as such, the three that it delayed are slow, too.
        let sent = [1_000, 1_025, 1_025, 1_030];
        let arrived = sent.map(|sent| sent + 1);
        let corrected: Vec<u64> = arrived.iter().zip(&intended).map(|(a, i)| a - i).collect();
        assert_eq!(corrected, [1, 16, 6, 1]);
    }

    #[test]
    fn sleeping_never_ends_early() {
        sleep_precisely();
        let until = now() + 200_000;
        sleep_until(until);
        assert!(now() >= until);
    }
}
