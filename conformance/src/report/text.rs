//! The report for people: [`Paint`].

use std::fmt::Write as _;

use super::{Report, RuleResult};
use crate::verdict::VerdictKind;

/// How wide a paragraph may be.
const WIDTH: usize = 100;

/// Writes for people, in colour or plain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    pub(crate) const PLAIN: Self = Self::new(false);

    pub(crate) const fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// The whole report.
    pub(super) fn document(self, report: &Report) -> String {
        let mut out = format!("{}\n", self.bold(&report.about.title()));
        for (section, rules) in report.sections() {
            // Writing to a string does not fail.
            let _ = writeln!(out, "\n{}", self.bold(section));
            for rule in rules {
                let _ = writeln!(out, "{}", self.line(rule));
            }
        }
        out.push_str(&self.end(report));
        out
    }

    /// The heading of a section, with an empty line before it.
    pub(crate) fn heading(self, section: &str) -> String {
        format!("\n{}\n", self.bold(section))
    }

    /// A result as a line, and the reason in one more where it did not pass.
    pub(crate) fn line(self, rule: &RuleResult) -> String {
        let word = self.verdict(rule.verdict, &format!("{:<12}", word(rule.verdict)));
        let (id, took, title) = (rule.id, rule.duration_ms, rule.title);
        let mut line = format!("{word} {id:<4} {took:>6} ms  {title}");
        if !rule.reason.is_empty() {
            let _ = write!(line, "\n{:17} {}", "", one_line(&rule.reason));
        }
        line
    }

    /// What follows the lines: what did not pass, what does not apply, how to repeat it, and the summary.
    pub(crate) fn end(self, report: &Report) -> String {
        let mut out = String::new();
        for rule in report
            .rules
            .iter()
            .filter(|rule| rule.tried && rule.verdict.is_bad())
        {
            let word = self.verdict(rule.verdict, word(rule.verdict));
            let _ = writeln!(
                out,
                "\n{word} {} {} ({})",
                rule.id,
                rule.title,
                rule.level.as_str()
            );
            self.part(&mut out, "found", &rule.reason);
            self.part(&mut out, "the rule", rule.text);
            if let Some(command) = &rule.reproduce {
                // In one piece, to be copied.
                let _ = writeln!(out, "  {:<9} {command}", "repeat");
            }
        }
        let not_tried = report.rules.iter().filter(|rule| !rule.tried).count();
        if not_tried > 0 {
            let why = report
                .broker_lost
                .as_deref()
                .unwrap_or("the broker is away");
            let _ = writeln!(out, "\n{not_tried} not tried: {why}");
        }
        for kind in [
            VerdictKind::Refused,
            VerdictKind::NotApplicable,
            VerdictKind::KnownFailure,
        ] {
            let of_it: Vec<_> = report
                .rules
                .iter()
                .filter(|rule| rule.verdict == kind)
                .collect();
            if of_it.is_empty() {
                continue;
            }
            let title = format!("{} {}", of_it.len(), counted(kind, of_it.len()));
            let _ = writeln!(out, "\n{}", self.verdict(kind, &title));
            for rule in of_it {
                let _ = writeln!(out, "  {:<4} {}", rule.id, one_line(&rule.reason));
            }
        }
        out.push('\n');
        let about = &report.about;
        let _ = writeln!(out, "{:<12} {}", "started", about.started);
        if let Some(declared) = &about.capabilities {
            let _ = writeln!(out, "{:<12} {declared}", "declared");
        }
        if let Some(command) = &about.reproduce {
            let _ = writeln!(out, "{:<12} {command}", "run it again");
        }
        let summary = report.to_summary();
        let kind = match report.is_certified() {
            true => VerdictKind::Pass,
            false => VerdictKind::Fail,
        };
        let _ = writeln!(out, "\n{}", self.verdict(kind, &summary));
        out
    }

    fn part(self, out: &mut String, name: &str, text: &str) {
        let mut name = name;
        for line in text.lines().flat_map(|line| wrapped(line, WIDTH)) {
            let _ = writeln!(out, "  {name:<9} {line}");
            name = "";
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn verdict(self, kind: VerdictKind, text: &str) -> String {
        let style = match kind {
            VerdictKind::Pass => "32",
            VerdictKind::Fail => "1;31",
            VerdictKind::Inconclusive => "1;33",
            VerdictKind::Refused => "36",
            VerdictKind::NotApplicable => "2",
            VerdictKind::KnownFailure => "33",
        };
        self.with(style, text)
    }

    fn with(self, style: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{style}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// A verdict as people read it in a column.
pub(super) const fn word(verdict: VerdictKind) -> &'static str {
    match verdict {
        VerdictKind::Pass => "pass",
        VerdictKind::Fail => "FAIL",
        VerdictKind::Inconclusive => "INCONCLUSIVE",
        VerdictKind::Refused => "refused",
        VerdictKind::NotApplicable => "n/a",
        VerdictKind::KnownFailure => "known fail",
    }
}

/// A verdict after a number.
pub(super) const fn counted(verdict: VerdictKind, number: usize) -> &'static str {
    match verdict {
        VerdictKind::Pass => "passed",
        VerdictKind::Fail => "failed",
        VerdictKind::Inconclusive => "inconclusive",
        VerdictKind::Refused => "refused as declared",
        VerdictKind::NotApplicable => "not applicable",
        VerdictKind::KnownFailure if number == 1 => "known failure",
        VerdictKind::KnownFailure => "known failures",
    }
}

/// The text without line ends and other control characters, so that a column stays a column and a terminal is told
/// nothing by a backend.
pub(crate) fn one_line(text: &str) -> String {
    let plain = |c: char| match c {
        '\n' | '\t' => ' '.to_string(),
        c if c.is_control() => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    text.trim().chars().map(plain).collect()
}

/// A paragraph in lines; a word that is too long has a line of its own.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in one_line(text).split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_is_wrapped_at_its_words() {
        assert_eq!(
            wrapped("a bb  ccc dddddd e", 6),
            ["a bb", "ccc", "dddddd", "e"]
        );
        assert!(wrapped(" ", 6).is_empty());
    }

    #[test]
    fn a_reason_tells_the_terminal_nothing() {
        assert_eq!(one_line("a\nb\x1b[31mc\r"), "a b\\u{1b}[31mc");
    }
}
