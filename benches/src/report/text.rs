//! Tables for people.

use std::fmt::Write;

use crate::compare::{CLOSED_LOOP, Comparison, FIXED_RATE, QUANTILES};

/// The whole comparison as text.
#[must_use]
pub fn text(comparison: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, comparison);
    out
}

fn write(out: &mut String, c: &Comparison) -> std::fmt::Result {
    let f = &c.figures;
    for (what, title) in [(CLOSED_LOOP, "one at a time"), (FIXED_RATE, "fixed rate")] {
        writeln!(out, "latency, {title} (us)")?;
        let names: Vec<_> = c
            .latencies
            .keys()
            .filter(|k| k.0 == what)
            .map(|k| k.1)
            .collect();
        for name in names {
            write!(out, "  {name:<20}")?;
            for (suffix, _) in QUANTILES {
                let v = f
                    .median(&format!("{what}_{suffix}_us"), name)
                    .unwrap_or(f64::NAN);
                write!(out, " {v:>9.2}")?;
            }
            writeln!(out)?;
        }
    }
    for (figure, contenders) in f.summaries() {
        if figure.starts_with("latency") || figure.starts_with("fixed") {
            continue;
        }
        for (name, s) in contenders {
            writeln!(
                out,
                "{figure:<28} {name:<20} {:>14.3} ({:.3} .. {:.3})",
                s.median, s.min, s.max
            )?;
        }
    }
    Ok(())
}
