//! CPU time of this process, and of another one.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// The CPU time of a process, of all its threads, in user and kernel mode together.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(ClockId);

impl CpuClock {
    /// That of this process.
    pub const THIS: Self = Self(ClockId::CLOCK_PROCESS_CPUTIME_ID);

    /// That of a process that runs.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such process, or it is not ours to look at.
    pub fn of(pid: u32) -> Result<Self> {
        i32::try_from(pid)
            .map_err(std::io::Error::other)
            .and_then(|pid| Ok(ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?))
            .map(Self)
            .map_err(Error::io(format!("the CPU clock of process {pid}")))
    }

    /// What it has used so far; nothing of a process that has ended.
    #[must_use]
    pub fn used(self) -> Duration {
        clock_gettime(self.0).map_or(Duration::ZERO, Duration::from)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_uses_cpu_time() {
        let this = CpuClock::of(std::process::id()).unwrap();
        // By its id first, so that it lies around the other.
        let by_id = this.used();
        let before = CpuClock::THIS.used();
        let begin = Instant::now();
        while CpuClock::THIS.used() - before < Duration::from_millis(5) {
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        assert!(this.used() - by_id >= Duration::from_millis(5));
    }
}
