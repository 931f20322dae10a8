//! The pauses between tries to attach: doubling, capped, jittered, for ever (rule R1).

use std::time::Duration;

/// The pause after `failures` failures in a row (1 or more): `initial * 2^(failures - 1)`, at most
/// `max`, and then a random part of it between a half and the whole, given by `jitter` in `0.0..1.0`.
pub(crate) fn pause(initial: Duration, max: Duration, failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let whole = initial.saturating_mul(1 << doublings).min(max);
    whole.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_for_ever() {
        let ms = Duration::from_millis;
        let whole: Vec<_> = (1..8).map(|n| pause(ms(50), ms(500), n, 1.0)).collect();
        assert_eq!(whole, [50, 100, 200, 400, 500, 500, 500].map(ms));
        assert_eq!(pause(ms(50), ms(500), u32::MAX, 1.0), ms(500));
    }

    #[test]
    fn jitter_takes_away_up_to_a_half() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(50), ms(500), 9, 0.0), ms(250));
        assert_eq!(pause(ms(50), ms(500), 9, 0.5), ms(375));
    }
}
