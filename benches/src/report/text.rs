//! Tables for people.

use std::fmt::Write;

use crate::compare::Comparison;

/// The whole comparison as text.
#[must_use]
pub fn text(comparison: &Comparison) -> String {
    let about = &comparison.about;
    let mut out = format!(
        "backplane {} beside what it is built on\n{}\n",
        about.version,
        super::machine(about)
    );
    for table in super::tables(comparison) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n{}", table.text());
    }
    out
}
