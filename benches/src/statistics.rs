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
}
