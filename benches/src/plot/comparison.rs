//! The plots of a comparison.

use super::chart::{Chart, Series};
use crate::compare::{CLOSED_LOOP, Comparison, QUANTILES};
use crate::contender::{BROADCAST, Floor, Form, MEMORY, REDIS};

/// Every contender with its colour.
const COLOURS: [(&str, usize); 7] = [
    (REDIS, 0),
    (MEMORY, 2),
    (Form::Closure.name(), 1),
    (Form::ClosureToTask.name(), 3),
    (Form::Stream.name(), 5),
    (Floor::NAME, 4),
    (BROADCAST, 6),
];

/// Latency, and throughput.
#[must_use]
pub fn comparison(comparison: &Comparison) -> [Chart; 2] {
    [latencies(comparison), throughput(comparison)]
}

/// Quantiles of the latency of one message at a time.
fn latencies(comparison: &Comparison) -> Chart {
    // Equal steps on a logarithmic axis.
    let place = |at: usize| 10_f64.powi(at as i32 + 1);
    let quantiles = || QUANTILES.iter().enumerate();
    let series = COLOURS.iter().filter_map(|(name, _)| {
        let histogram = comparison.latencies.get(&(CLOSED_LOOP, name))?;
        let points = quantiles()
            .map(|(at, (_, quantile))| {
                let micros = histogram.value_at_quantile(*quantile) as f64 / 1e3;
                (place(at), micros)
            })
            .collect();
        Some(line(name, points))
    });
    Chart {
        title: format!(
            "Latency of one message of {} bytes at a time",
            comparison.plan.payload
        ),
        y_label: "us from publish to delivered; lower is better".to_owned(),
        x_label: "quantile".to_owned(),
        series: series.collect(),
        x_ticks: quantiles()
            .map(|(at, (_, quantile))| (place(at), format!("{}%", quantile * 100.0)))
            .collect(),
    }
}

/// Throughput against the number of awaiting publishers.
fn throughput(comparison: &Comparison) -> Chart {
    let publishers = &comparison.plan.publishers;
    let series = COLOURS.iter().filter_map(|(name, _)| {
        let points: Vec<_> = publishers
            .iter()
            .filter_map(|n| {
                let rate = comparison
                    .figures
                    .median(&format!("throughput_{n}"), name)?;
                Some((*n as f64, rate))
            })
            .collect();
        (!points.is_empty()).then(|| line(name, points))
    });
    Chart {
        title: format!(
            "Throughput through Redis, messages of {} bytes",
            comparison.plan.payload
        ),
        y_label: "messages/s delivered; higher is better".to_owned(),
        x_label: "publishers, each awaiting its publish".to_owned(),
        series: series.collect(),
        x_ticks: publishers
            .iter()
            .map(|n| (*n as f64, n.to_string()))
            .collect(),
    }
}

fn line(name: &str, points: Vec<(f64, f64)>) -> Series {
    let colour = COLOURS.iter().find(|(other, _)| *other == name);
    Series {
        name: name.to_owned(),
        colour: colour.map_or(0, |(_, colour)| *colour),
        is_ours: [REDIS, MEMORY].contains(&name),
        points,
    }
}
