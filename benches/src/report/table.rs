//! A table, as text or as markdown.

use std::fmt::Write;

/// A table with its title, and what has to be known to read it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// How to read it; may be empty.
    pub note: String,
    /// The names of the columns. The first is that of the rows.
    pub columns: Vec<String>,
    /// The rows, each as long as the columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.title);
        let widths = self.widths();
        for row in std::iter::once(&self.columns).chain(&self.rows) {
            let mut line = String::from(" ");
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Writing to a String cannot fail.
                let _ = match column {
                    0 => write!(line, " {cell:<width$}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        for line in self.note.lines() {
            let _ = writeln!(out, "  ({line})");
        }
        out
    }

    /// For a page.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = format!("### {}\n\n{}", self.title, self.bare_markdown());
        if !self.note.is_empty() {
            let _ = write!(out, "\n{}\n", self.note);
        }
        out
    }

    /// Likewise, without title and note.
    #[must_use]
    pub fn bare_markdown(&self) -> String {
        let mut out = String::new();
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        out.push_str(&line(&self.columns));
        let rules: Vec<_> = (0..self.columns.len())
            .map(|column| if column == 0 { "---" } else { "---:" }.to_owned())
            .collect();
        out.push_str(&line(&rules));
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out
    }

    fn widths(&self) -> Vec<usize> {
        (0..self.columns.len())
            .map(|column| {
                let cells = std::iter::once(&self.columns).chain(&self.rows);
                let widths = cells.filter_map(|row| row.get(column));
                widths.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect()
    }
}

/// A number with three digits that mean something.
#[must_use]
pub fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    };
    grouped(&text)
}

/// A whole number.
#[must_use]
pub fn whole(value: usize) -> String {
    grouped(&value.to_string())
}

/// The number if there is one.
#[must_use]
pub fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

/// Long integers with a space between groups of three digits.
fn grouped(text: &str) -> String {
    let digits = text.trim_start_matches('-').len();
    if text.contains('.') || digits < 5 {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + digits / 3);
    for (at, digit) in text.chars().enumerate() {
        let left = text.len() - at;
        if at > 0 && left.is_multiple_of(3) && digit.is_ascii_digit() && !out.ends_with('-') {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_mean_something() {
        let numbers = [
            0.0,
            0.012_34,
            0.123_4,
            1.234,
            12.34,
            123.4,
            1234.0,
            1_234_567.0,
        ];
        let texts = numbers.map(number);
        let expected = [
            "0.00",
            "0.0123",
            "0.123",
            "1.23",
            "12.3",
            "123",
            "1234",
            "1 234 567",
        ];
        assert_eq!(texts, expected);
        assert_eq!(number(-123_456.0), "-123 456");
        assert_eq!(cell(None), "-");
        assert_eq!([whole(10), whole(100_000)], ["10", "100 000"]);
    }

    #[test]
    fn a_table_is_aligned_as_text_and_valid_as_markdown() {
        let table = Table {
            title: "Speed".to_owned(),
            note: "as seen".to_owned(),
            columns: ["who", "a"].map(str::to_owned).to_vec(),
            rows: vec![["x", "12.3"].map(str::to_owned).to_vec()],
        };
        assert_eq!(
            table.text(),
            "Speed\n  who     a\n  x    12.3\n  (as seen)\n"
        );
        assert_eq!(
            table.markdown(),
            "### Speed\n\n| who | a |\n| --- | ---: |\n| x | 12.3 |\n\nas seen\n"
        );
    }
}
