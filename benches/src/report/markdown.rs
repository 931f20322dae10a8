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

/// The ratios and targets alone, with what has to be known to read them.
#[must_use]
pub fn headline(comparison: &Comparison) -> String {
    let tables = super::tables(comparison);
    let Some(table) = tables.first() else {
        return String::new();
    };
    let machine = super::machine(&comparison.about);
    format!("{}\n{}\n\n{machine}\n", table.bare_markdown(), table.note)
}
