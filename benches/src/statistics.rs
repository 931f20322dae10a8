//! Medians, ratios and slopes.

/// The median; of an even number the mean of the two in the middle. `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median of the ratios, round by round: what disturbed a whole round is in both and cancels out.
/// `None` of nothing.
#[must_use]
pub fn ratio(numerators: &[f64], denominators: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = numerators
        .iter()
        .zip(denominators)
        .map(|(a, b)| a / b)
        .collect();
    median(&ratios)
}

/// The exponent of the power law that fits best: the slope through the logarithms, by least squares. 1 is linear, 0 is
/// constant. `None` of fewer than two different sizes, or of values that are not positive.
#[must_use]
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    if points.iter().any(|(x, y)| *x <= 0.0 || *y <= 0.0) {
        return None;
    }
    let logs: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean_x = logs.iter().map(|log| log.0).sum::<f64>() / count;
    let mean_y = logs.iter().map(|log| log.1).sum::<f64>() / count;
    let covariance: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_ignores_one_wild_value() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[1.0, 4.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[1.0, 1e9, 2.0]), Some(2.0));
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        // The machine was ten times slower in the second round.
        let ours = [1.0, 10.0, 1.0];
        let theirs = [2.0, 20.0, 2.0];
        assert_eq!(ratio(&ours, &theirs), Some(0.5));
        assert_eq!(ratio(&[], &theirs), None);
    }

    #[test]
    fn an_exponent_is_found_whatever_the_factor() {
        let of = |power: f64| {
            let points: Vec<_> = [1.0, 10.0, 100.0, 1000.0]
                .map(|x: f64| (x, 7.0 * x.powf(power)))
                .to_vec();
            exponent(&points).unwrap()
        };
        for power in [0.0, 0.5, 1.0, 2.0] {
            assert!((of(power) - power).abs() < 1e-9);
        }
        assert_eq!(exponent(&[]), None);
        assert_eq!(exponent(&[(1.0, 1.0)]), None);
        assert_eq!(exponent(&[(1.0, 1.0), (2.0, 0.0)]), None);
    }
}
