//! A matrix for people: [`Matrix::to_text`].

use std::fmt::Write as _;
use std::time::Duration;

use super::matrix::{Matrix, Protection, Row};

impl Matrix {
    /// For people: one line for each mutant with a column for each rule, then what is wrong.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let width = self
            .mutants
            .iter()
            .map(|row| row.name.len())
            .max()
            .unwrap_or(0);
        let _ = writeln!(
            text,
            "# fails, as it must   ? may fail, and does   ! fails, and must not"
        );
        let _ = writeln!(
            text,
            "- passes, and must not   . passes                 blank: not tried\n"
        );
        for line in 0..3 {
            let _ = write!(text, "{:width$}  ", "");
            for rule in &self.rules {
                text.push(rule.chars().nth(line).unwrap_or(' '));
            }
            text.push('\n');
        }
        for row in &self.mutants {
            let _ = write!(text, "{:width$}  ", row.name);
            text.extend(self.rules.iter().map(|rule| row.mark(rule)));
            let state = match (row.killed, row.exact) {
                (true, true) => "",
                (true, false) => "  not exact",
                (false, _) if !self.rules.contains(&row.rule) => "",
                (false, _) => "  ALIVE",
            };
            let _ = writeln!(text, "{state}");
        }
        for control in &self.controls {
            let _ = writeln!(
                text,
                "{:width$}  nothing wrong, {} failed",
                control.name,
                control.failed.len()
            );
        }
        for Protection {
            name,
            off,
            rule,
            fails,
        } in &self.protections
        {
            let verdict = if *fails { "fails" } else { "PASSES" };
            let _ = writeln!(text, "{off:width$}  without {name}, {rule} {verdict}");
        }
        text.push('\n');
        self.write_complaints(&mut text);
        text.push_str(&self.to_summary());
        text
    }

    /// In one line.
    #[must_use]
    pub fn to_summary(&self) -> String {
        let killed = self.mutants.iter().filter(|row| row.killed).count();
        let exact = self.mutants.iter().filter(|row| row.exact).count();
        let bad = self
            .controls
            .iter()
            .filter(|control| !control.failed.is_empty())
            .count();
        format!(
            "{killed} of {} mutants killed for their reason, {exact} fail exactly the rules that they should, {bad} of \
             {} controls fail, in {:.1} s",
            self.mutants.len(),
            self.controls.len(),
            Duration::from_millis(self.took_ms).as_secs_f64(),
        )
    }

    fn write_complaints(&self, text: &mut String) {
        let start = text.len();
        for row in &self.mutants {
            if !row.killed && self.rules.contains(&row.rule) {
                let _ = writeln!(
                    text,
                    "{} is not killed by {}: {}",
                    row.name, row.rule, row.reason
                );
            }
            if !row.unsteady.is_empty() {
                let rules = row.unsteady.join(" ");
                let _ = writeln!(text, "{} went both ways in {rules}", row.name);
            }
            for rule in row.missing().filter(|rule| *rule != row.rule) {
                let _ = writeln!(text, "{} does not fail {rule}, as it should", row.name);
            }
            for rule in row.strange() {
                let _ = writeln!(text, "{} fails {rule}, and should not", row.name);
            }
        }
        for control in &self.controls {
            if !control.unsteady.is_empty() {
                let rules = control.unsteady.join(" ");
                let _ = writeln!(text, "{} went both ways in {rules}", control.name);
            }
            for (rule, reason) in &control.failed {
                let _ = writeln!(
                    text,
                    "{} fails {rule}, with nothing wrong: {reason}",
                    control.name
                );
            }
        }
        if text.len() > start {
            text.push('\n');
        }
    }
}

impl Row {
    fn mark(&self, rule: &'static str) -> char {
        match (self.failed.contains(&rule), self.expected.contains(&rule)) {
            (true, true) => '#',
            (true, false) if self.tolerated.contains(&rule) => '?',
            (true, false) => '!',
            (false, true) => '-',
            (false, false) if self.tried.contains(&rule) => '.',
            (false, false) => ' ',
        }
    }
}
