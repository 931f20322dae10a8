//! Tables for a page.

use std::fmt::Write;

use crate::compare::Comparison;

/// The whole comparison as markdown, from headings of the second level down.
#[must_use]
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = format!("## Comparison\n\n{}\n", super::machine(&comparison.about));
    for table in super::tables(comparison) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n{}", table.markdown());
    }
    out
}
