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

/// The ratios and targets alone, with the machine below.
#[must_use]
pub fn headline(comparison: &Comparison) -> String {
    let tables = super::tables(comparison);
    let table = tables.first().map(super::table::Table::bare_markdown);
    let machine = super::machine(&comparison.about);
    format!("{}\n{machine}\n", table.unwrap_or_default())
}
