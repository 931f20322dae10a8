//! What was measured, round by round: [`Figures`].

use std::collections::BTreeMap;

use serde::Serialize;

use crate::statistics::{median, ratio};

/// The values of every figure, of every contender, of every round.
#[derive(Clone, Debug, Default)]
pub struct Figures(BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>);

/// The values of one figure of one contender, summed up.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The median of the rounds.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All, in the order of the rounds.
    pub rounds: Vec<f64>,
}

impl Figures {
    /// Adds a value of one more round.
    pub fn push(&mut self, figure: impl Into<String>, contender: &'static str, value: f64) {
        let contenders = self.0.entry(figure.into()).or_default();
        contenders.entry(contender).or_default().push(value);
    }

    /// The median over the rounds.
    #[must_use]
    pub fn median(&self, figure: &str, contender: &str) -> Option<f64> {
        median(self.rounds(figure, contender))
    }

    /// The median over the rounds of the ratio of two, each a figure and a contender.
    #[must_use]
    pub fn ratio(&self, of: (&str, &str), to: (&str, &str)) -> Option<f64> {
        ratio(self.rounds(of.0, of.1), self.rounds(to.0, to.1))
    }

    /// The values of all rounds.
    #[must_use]
    pub fn rounds(&self, figure: &str, contender: &str) -> &[f64] {
        self.0
            .get(figure)
            .and_then(|contenders| contenders.get(contender))
            .map_or(&[], Vec::as_slice)
    }

    /// Everything, summed up, by figure and contender.
    #[must_use]
    pub fn summaries(&self) -> BTreeMap<&str, BTreeMap<&'static str, Summary>> {
        let summed = |values: &Vec<f64>| {
            Some(Summary {
                median: median(values)?,
                min: values.iter().copied().reduce(f64::min)?,
                max: values.iter().copied().reduce(f64::max)?,
                rounds: values.clone(),
            })
        };
        self.0
            .iter()
            .map(|(figure, contenders)| {
                let contenders = contenders
                    .iter()
                    .filter_map(|(name, values)| Some((*name, summed(values)?)));
                (figure.as_str(), contenders.collect())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_kept_by_round_and_summed_up() {
        let mut figures = Figures::default();
        for (a, b) in [(2.0, 1.0), (40.0, 20.0), (6.0, 2.0)] {
            figures.push("latency", "a", a);
            figures.push("latency", "b", b);
        }
        assert_eq!(figures.median("latency", "a"), Some(6.0));
        assert_eq!(figures.ratio(("latency", "a"), ("latency", "b")), Some(2.0));
        assert_eq!(figures.ratio(("latency", "a"), ("latency", "c")), None);
        let summary = &figures.summaries()["latency"]["b"];
        assert_eq!((summary.min, summary.max), (1.0, 20.0));
        assert_eq!(summary.rounds, [1.0, 20.0, 2.0]);
    }
}
