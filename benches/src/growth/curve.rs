//! One cost against one size: [`Curve`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::Axis;
use crate::statistics::{exponent, median};

/// A cost that grows with an exponent above this counts as worse than linear; the rest is noise.
const LINEAR: f64 = 1.15;

/// The costs of a backend along an axis.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// What was varied.
    pub axis: Axis,
    /// What was measured, in seconds.
    pub cost: &'static str,
    /// Whose.
    pub who: &'static str,
    /// The values of every round, by size.
    pub values: BTreeMap<usize, Vec<f64>>,
}

/// How a cost grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No worse than in proportion.
    Linear,
    /// Worse than in proportion.
    WorseThanLinear,
}

impl Curve {
    pub(super) const fn new(axis: Axis, cost: &'static str, who: &'static str) -> Self {
        Self {
            axis,
            cost,
            who,
            values: BTreeMap::new(),
        }
    }

    pub(super) fn push(&mut self, size: usize, seconds: f64) {
        self.values.entry(size).or_default().push(seconds);
    }

    /// The medians over the rounds.
    #[must_use]
    pub fn points(&self) -> Vec<(f64, f64)> {
        let medians = self.values.iter();
        medians
            .filter_map(|(size, values)| Some((*size as f64, median(values)?)))
            .collect()
    }

    /// The fitted exponent over all sizes.
    #[must_use]
    pub fn exponent(&self) -> Option<f64> {
        exponent(&self.points())
    }

    /// The fitted exponent over the upper half of the sizes, where a fixed cost no longer hides the growth.
    #[must_use]
    pub fn upper_exponent(&self) -> Option<f64> {
        let points = self.points();
        exponent(&points[points.len() / 2..]).or_else(|| exponent(&points))
    }

    /// Whether it is worse than linear, over all or in the upper half.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let exponents = [self.exponent(), self.upper_exponent()];
        if exponents
            .into_iter()
            .flatten()
            .any(|exponent| exponent > LINEAR)
        {
            Verdict::WorseThanLinear
        } else {
            Verdict::Linear
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(cost: impl Fn(f64) -> f64) -> Curve {
        let mut curve = Curve::new(Axis::Nodes, "x", "y");
        for size in [1, 10, 100, 1000] {
            // One round in three is disturbed.
            for noise in [1.0, 50.0, 1.0] {
                curve.push(size, noise * cost(size as f64));
            }
        }
        curve
    }

    #[test]
    fn what_is_worse_than_linear_is_found_also_behind_a_fixed_cost() {
        assert_eq!(curve(|_| 3.0).verdict(), Verdict::Linear);
        assert_eq!(curve(|n| 5.0 * n).verdict(), Verdict::Linear);
        assert_eq!(curve(|n| n * n).verdict(), Verdict::WorseThanLinear);
        let hidden = curve(|n| 1e4 + n * n);
        assert!(hidden.exponent().unwrap() < 1.0);
        assert_eq!(hidden.verdict(), Verdict::WorseThanLinear);
    }
}
