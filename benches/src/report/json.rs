//! One JSON object for programs.

use serde_json::{Map, Value, json};

use crate::compare::{Comparison, QUANTILES};
use crate::keys::KEYS;

/// The whole comparison: the [keys](KEYS) at the top, each a number, and beside them `about` and `details`.
#[must_use]
pub fn json(comparison: &Comparison) -> String {
    let keys = KEYS.map(|key| (key.name.to_owned(), json!(key.of(comparison))));
    let mut all = Map::from_iter(keys);
    all.insert("about".to_owned(), json!(comparison.about));
    all.insert(
        "details".to_owned(),
        json!({
            "plan": comparison.plan,
            "figures": comparison.figures.summaries(),
            "allocations": comparison.counted,
            "latencies_us": latencies(comparison),
        }),
    );
    format!("{:#}", Value::Object(all))
}

/// The quantiles of all rounds together.
fn latencies(comparison: &Comparison) -> Value {
    let mut measurements: Map<String, Value> = Map::new();
    for ((measurement, who), histogram) in &comparison.latencies {
        let mut quantiles: Map<String, Value> = QUANTILES
            .iter()
            .map(|(name, quantile)| {
                let micros = histogram.value_at_quantile(*quantile) as f64 / 1e3;
                ((*name).to_owned(), json!(micros))
            })
            .collect();
        quantiles.insert("messages".to_owned(), json!(histogram.len()));
        let contenders = measurements
            .entry(*measurement)
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(contenders) = contenders {
            contenders.insert((*who).to_owned(), Value::Object(quantiles));
        }
    }
    Value::Object(measurements)
}
