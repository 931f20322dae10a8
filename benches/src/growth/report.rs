//! Growth for people, for a page, for programs, and as plots.

use std::fmt::Write;

use serde_json::json;

use super::{Axis, Growth, Verdict};
use crate::contender::MEMORY;
use crate::plot::{Chart, Series};
use crate::report::machine;
use crate::report::table::{Table, cell, number, whole};

/// A table for each axis.
#[must_use]
pub fn tables(growth: &Growth) -> Vec<Table> {
    Axis::ALL
        .into_iter()
        .map(|axis| {
            let curves = || growth.curves.iter().filter(|curve| curve.axis == axis);
            let sizes: Vec<usize> = curves()
                .next()
                .map(|curve| curve.values.keys().copied().collect())
                .unwrap_or_default();
            let rows = curves().map(|curve| {
                let mut row = vec![format!("{}: {}", curve.who, curve.cost)];
                row.extend(curve.points().iter().map(|(_, seconds)| time(*seconds)));
                row.push(cell(curve.exponent()));
                row.push(cell(curve.upper_exponent()));
                row
            });
            let mut columns = vec![String::new()];
            columns.extend(sizes.iter().map(|size| whole(*size)));
            columns.extend(["exponent", "upper half"].map(str::to_owned));
            Table {
                title: format!("Against {}", axis.name()),
                note: axis.note().to_owned(),
                columns,
                rows: rows.collect(),
            }
        })
        .collect()
}

/// What grows worse than in proportion, or that nothing does.
fn findings(growth: &Growth) -> String {
    let worse: Vec<String> = growth
        .curves
        .iter()
        .filter(|curve| curve.verdict() == Verdict::WorseThanLinear)
        .map(|curve| {
            format!(
                "{}: {} against {} (exponent {}, in the upper half {})",
                curve.who,
                curve.cost,
                curve.axis.name(),
                cell(curve.exponent()),
                cell(curve.upper_exponent())
            )
        })
        .collect();
    if worse.is_empty() {
        "Nothing grows worse than linear.".to_owned()
    } else {
        format!("Worse than linear:\n- {}", worse.join("\n- "))
    }
}

/// How to read it.
const METHOD: &str = "Times are medians over the rounds. The exponent is the slope through the logarithms: 0 is constant, \
     1 is linear. The upper half of the sizes has one of its own, because a fixed cost hides growth among small ones.";

/// For a terminal.
#[must_use]
pub fn text(growth: &Growth) -> String {
    let mut out = format!("how cost grows\n{}\n", machine(&growth.about));
    // Writing to a String cannot fail.
    for table in tables(growth) {
        let _ = write!(out, "\n{}", table.text());
    }
    let _ = write!(out, "\n{METHOD}\n\n{}\n", findings(growth));
    out
}

/// For a page, from headings of the second level down.
#[must_use]
pub fn markdown(growth: &Growth) -> String {
    let mut out = format!("## Growth\n\n{METHOD}\n\n{}\n", findings(growth));
    for table in tables(growth) {
        let _ = write!(out, "\n{}", table.markdown());
    }
    out
}

/// For programs.
#[must_use]
pub fn json(growth: &Growth) -> String {
    let curves: Vec<_> = growth
        .curves
        .iter()
        .map(|curve| {
            json!({
                "axis": curve.axis,
                "cost": curve.cost,
                "who": curve.who,
                "exponent": curve.exponent(),
                "upper_exponent": curve.upper_exponent(),
                "worse_than_linear": curve.verdict() == Verdict::WorseThanLinear,
                "seconds": curve.values,
            })
        })
        .collect();
    let all = json!({ "about": growth.about, "plan": growth.plan, "curves": curves });
    format!("{all:#}")
}

/// A plot for each axis.
#[must_use]
pub fn charts(growth: &Growth) -> Vec<Chart> {
    Axis::ALL
        .into_iter()
        .map(|axis| {
            let curves = || growth.curves.iter().filter(|curve| curve.axis == axis);
            let series = curves().enumerate().map(|(at, curve)| {
                let backend = if curve.who == MEMORY {
                    "memory"
                } else {
                    "redis"
                };
                Series {
                    name: format!("{backend}: {}", curve.cost),
                    colour: at,
                    is_ours: false,
                    points: curve
                        .points()
                        .iter()
                        .map(|(size, seconds)| (*size, seconds * 1e6))
                        .collect(),
                }
            });
            let sizes = curves().next().map(|curve| curve.values.keys().copied());
            Chart {
                title: format!("Cost against {}", axis.name()),
                y_label: "us; both axes are logarithmic".to_owned(),
                x_label: axis.name().to_owned(),
                x_ticks: sizes
                    .into_iter()
                    .flatten()
                    .map(|size| (size as f64, whole(size)))
                    .collect(),
                series: series.collect(),
            }
        })
        .collect()
}

/// Seconds in the unit that suits them.
fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 1.0 => format!("{} s", number(seconds)),
        _ if seconds >= 1e-3 => format!("{} ms", number(seconds * 1e3)),
        _ if seconds >= 1e-6 => format!("{} us", number(seconds * 1e6)),
        _ => format!("{} ns", number(seconds * 1e9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_that_suits_them() {
        let texts = [2.5, 0.0025, 2.5e-6, 2.5e-9].map(time);
        assert_eq!(texts, ["2.50 s", "2.50 ms", "2.50 us", "2.50 ns"]);
    }
}
