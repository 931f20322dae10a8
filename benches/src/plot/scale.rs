//! Logarithmic axes.

/// A logarithmic axis from one round number to another.
#[derive(Clone, Debug)]
pub(super) struct LogScale {
    low: f64,
    high: f64,
}

impl LogScale {
    /// An axis that holds these values; those that are not positive are left out.
    pub(super) fn around(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        let low = steps(low).rfind(|step| *step <= low * 1.0001);
        let high = steps(high).find(|step| *step >= high * 0.9999);
        let (low, high) = (low.unwrap_or(1.0), high.unwrap_or(10.0));
        Self {
            low,
            high: if high > low { high } else { low * 10.0 },
        }
    }

    /// Where a value is, from 0 at the low end to 1 at the high end.
    pub(super) fn at(&self, value: f64) -> f64 {
        (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
    }

    /// The values that get a line: every 1, 2 and 5 on a short axis, powers of ten on a long one.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let all = (exponent(self.low)..=exponent(self.high)).flat_map(|power| {
            let ten = 10_f64.powi(power);
            let steps: &[f64] = match decades {
                decades if decades <= 2.5 => &[1.0, 2.0, 5.0],
                _ => &[1.0],
            };
            steps.iter().map(move |step| step * ten)
        });
        all.filter(|tick| *tick >= self.low * 0.999 && *tick <= self.high * 1.001)
            .collect()
    }
}

/// The round numbers around a value.
fn steps(value: f64) -> impl DoubleEndedIterator<Item = f64> {
    let power = exponent(value);
    (power - 1..=power + 1).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)))
}

fn exponent(value: f64) -> i32 {
    value.log10().floor() as i32
}

/// A number as short as an axis needs it: 0.1, 20, 5k, 1M.
pub(super) fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        _ if value >= 999_999_999.0 => (value / 1e9, "G"),
        _ if value >= 999_999.0 => (value / 1e6, "M"),
        _ if value >= 999.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let rounded = (scaled * 1000.0).round() / 1000.0;
    format!("{rounded}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_its_values_between_round_numbers() {
        let scale = LogScale::around([30.0, 1900.0, f64::NAN, 0.0].into_iter());
        assert_eq!((scale.low, scale.high), (20.0, 2000.0));
        assert!(scale.at(20.0).abs() < 1e-9);
        assert!((scale.at(200.0) - 0.5).abs() < 1e-9);
        assert_eq!(
            scale.ticks(),
            [20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]
        );
    }

    #[test]
    fn an_axis_of_one_value_or_none_is_still_one() {
        for values in [vec![], vec![1.0], vec![100.0]] {
            let scale = LogScale::around(values.into_iter());
            assert!(scale.low < scale.high);
            assert!(!scale.ticks().is_empty());
        }
    }

    #[test]
    fn numbers_on_an_axis_are_short() {
        let texts = [0.1, 20.0, 1000.0, 2500.0, 1e6, 5e9].map(short);
        assert_eq!(texts, ["0.1", "20", "1k", "2.5k", "1M", "5G"]);
    }
}
