//! How much slower this machine may be: one factor for every time limit of the suite.
//!
//! The factor of a run stretches what its trials wait for. The factor of the process, which the command line or the
//! environment variable `BACKPLANE_TIME_SCALE` gives, stretches the rest as well: servers that start, faults
//! that have to be proven, and what is ended in the end.

use std::env;
use std::sync::OnceLock;
use std::time::Duration;

/// The environment variable.
pub(crate) const VARIABLE: &str = "BACKPLANE_TIME_SCALE";

static PROCESS: OnceLock<f64> = OnceLock::new();

/// Reads a factor.
///
/// # Errors
/// What it has to be.
pub(crate) fn parse(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (1.0..=100.0).contains(&scale) => Ok(scale),
        _ => Err("it must be a number from 1 to 100".to_owned()),
    }
}

/// What the environment says; 1 if it says nothing.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn of_environment() -> Result<f64, String> {
    let wrong = |what| format!("{VARIABLE}: {what}");
    match env::var(VARIABLE) {
        Ok(text) => parse(&text).map_err(wrong),
        Err(env::VarError::NotPresent) => Ok(1.0),
        Err(env::VarError::NotUnicode(_)) => Err(wrong("it is not text".to_owned())),
    }
}

/// Sets the factor of this process; the first one counts.
pub(crate) fn set(scale: f64) {
    let _ = PROCESS.set(scale);
}

/// A limit of the suite itself, on a machine as slow as the factor of this process says.
pub(crate) fn stretched(limit: Duration) -> Duration {
    // Who cannot be understood is told so by the run.
    limit.mul_f64(*PROCESS.get_or_init(|| of_environment().unwrap_or(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_scale_stretches_and_never_shortens() {
        for right in ["1", "1.5", "100"] {
            assert!(parse(right).is_ok(), "{right}");
        }
        for wrong in ["0.9", "0", "-1", "101", "inf", "NaN", "x", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
