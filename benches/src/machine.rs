//! Where and with what was measured: [`About`].

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The machine and the versions of a run.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// When it was begun, in UTC.
    pub date: String,
    /// The version of this project.
    pub version: &'static str,
    /// The operating system and its kernel.
    pub kernel: String,
    /// The processor.
    pub cpu: String,
    /// How many cores this process may use.
    pub cores: usize,
    /// Main memory, in GiB.
    pub memory_gib: u64,
    /// The compiler on `PATH`, which under cargo is the one that compiled this.
    pub rustc: String,
    /// The version that the server told.
    pub redis: String,
    /// The version of the `redis` crate.
    pub redis_crate: String,
    /// The length of a message, in bytes.
    pub payload: usize,
    /// How often everything was measured.
    pub rounds: usize,
    /// Whether it was the short form.
    pub quick: bool,
    /// Whether it was compiled with optimisation.
    pub optimised: bool,
}

impl About {
    /// Looks at this machine.
    #[must_use]
    pub fn this_machine(redis: &str, payload: usize, rounds: usize, quick: bool) -> Self {
        Self {
            date: date(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION"),
            kernel: format!("{} {}", std::env::consts::OS, kernel()),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: field("/proc/meminfo", "MemTotal")
                .and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok())
                .map_or(0, |kib| (kib + (1 << 19)) >> 20),
            rustc: rustc().unwrap_or_else(unknown),
            redis: redis.to_owned(),
            redis_crate: locked("redis").unwrap_or_else(unknown),
            payload,
            rounds,
            quick,
            optimised: !cfg!(debug_assertions),
        }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

/// The value of the first `name : value` in a file of `/proc`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.filter(|value| !value.is_empty())
}

fn rustc() -> Option<String> {
    let output = Command::new("rustc").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.strip_prefix("rustc ")?.split(' ').next()?;
    Some(version.to_owned())
}

/// The version of a package in the lock file that this was compiled with.
fn locked(package: &str) -> Option<String> {
    let lock = include_str!("../../Cargo.lock");
    let name = format!("name = \"{package}\"\nversion = \"");
    let (_, rest) = lock.split_once(&name)?;
    rest.split('"').next().map(str::to_owned)
}

/// Day and minute in UTC, as in RFC 3339.
fn date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Counted from March, so that a leap day is the last of its year; 719 468 days lie before 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (minutes / 60, minutes % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_right_also_around_leap_days() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00Z");
        assert_eq!(at(1_709_251_200), "2024-03-01T00:00Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59Z");
    }

    #[test]
    fn the_machine_and_the_client_are_known() {
        let about = About::this_machine("7.0.15", 128, 5, true);
        assert!(about.cores > 0);
        assert!(about.redis_crate.starts_with(char::is_numeric), "{about:?}");
    }
}
