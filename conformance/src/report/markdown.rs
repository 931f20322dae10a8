//! The report as Markdown, to be pasted into a README.

use std::fmt::Write as _;

use super::Report;
use super::text::{one_line, word};
use crate::verdict::VerdictKind;

pub(super) fn document(report: &Report) -> String {
    let mut out = format!("# Conformance of {}\n\n", escaped(&report.about.backend));
    // Writing to a string does not fail.
    let _ = writeln!(out, "**{}**\n", escaped(&report.to_summary()));
    out.push_str("| | |\n|---|---|\n");
    for (name, value) in report.about.facts() {
        let value = match name {
            "reproduce" => code(&value),
            _ => escaped(&value),
        };
        let _ = writeln!(out, "| {} | {value} |", name.replace('_', " "));
    }
    for (section, rules) in report.sections() {
        let _ = writeln!(out, "\n## {}\n", escaped(section));
        out.push_str("| Rule | Verdict | What it says | Why |\n|---|---|---|---|\n");
        for rule in rules {
            let verdict = match rule.verdict {
                VerdictKind::Fail => "**FAIL**",
                VerdictKind::Inconclusive => "**INCONCLUSIVE**",
                verdict => word(verdict),
            };
            let mut why = escaped(&rule.reason);
            if let Some(command) = &rule.reproduce {
                let _ = write!(why, "<br>{}", code(command));
            }
            let (id, title) = (rule.id, escaped(rule.title));
            let _ = writeln!(out, "| {id} | {verdict} | {title} | {why} |");
        }
    }
    out
}

/// Text that means nothing to Markdown, in one line.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        if "\\`*_<>[]|~".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Code in a cell of a table.
pub(crate) fn code(text: &str) -> String {
    let text = one_line(text);
    // A fence is longer than what it holds.
    let fence = "`".repeat(1 + longest_run(&text));
    let space = if fence.len() > 1 { " " } else { "" };
    format!("{fence}{space}{}{space}{fence}", text.replace('|', "\\|"))
}

fn longest_run(text: &str) -> usize {
    let runs = text.split(|c| c != '`').map(str::len);
    runs.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_does_not_leave_its_cell() {
        let wild = "a | b\n# <img> *x* `y` [z]";
        assert_eq!(escaped(wild), "a \\| b # \\<img\\> \\*x\\* \\`y\\` \\[z\\]");
        assert_eq!(code("a | b"), "`a \\| b`");
        assert_eq!(code("a `b` c"), "`` a `b` c ``");
    }
}
