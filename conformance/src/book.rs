//! The rule book: every rule of the contract with its text, its trial's needs, and its mutants.
//!
//! `conformance/RULES.md` is [`to_markdown`], and a test compares them.

use std::fmt::Write as _;

use serde::Serialize;

use crate::contract::{self, Clause};
use crate::mutants;
use crate::peers;
use crate::report::markdown::escaped;
use crate::report::text::wrapped;
use crate::rule::{Need, Rule};
use crate::rules;

/// The command that writes the file anew.
pub const COMMAND: &str =
    "cargo run -p backplane-conformance -- rules --format markdown > conformance/RULES.md";

/// A rule, as the book has it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// Its number.
    pub id: &'static str,
    /// The heading of its section, such as `D. Delivery`.
    pub section: String,
    /// What it says, in full.
    pub text: &'static str,
    /// Its trial; none where it is not tested yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Tested>,
}

/// What is known of the trial of a rule.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Tested {
    /// The rule in short.
    pub title: &'static str,
    /// `MUST` or `SHOULD`.
    pub level: &'static str,
    /// What the trial needs of the harness; without one of these the rule is not applicable, with the reason.
    pub needs: Vec<&'static str>,
    /// The capabilities that the rule speaks of; a backend that does not declare one is tested for the refusal.
    pub capabilities: Vec<&'static str>,
    /// The backends that are wrong in this rule.
    pub mutants: Vec<Wrong>,
}

/// A backend that is wrong on purpose.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Wrong {
    /// Its name.
    pub name: &'static str,
    /// What is wrong with it.
    pub about: &'static str,
}

/// The whole book, in the order of the contract.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let trials = rules::all();
    contract::all()
        .iter()
        .map(|clause| {
            let rule = trials.iter().find(|rule| rule.id == clause.id);
            Entry {
                id: &clause.id,
                section: contract::heading(&clause.id),
                text: &clause.text,
                trial: rule.map(|rule| tested(rule, clause)),
            }
        })
        .collect()
}

fn tested(rule: &Rule, clause: &'static Clause) -> Tested {
    let mutants = mutants::all().into_iter().filter(|it| it.rule == rule.id);
    Tested {
        title: rule.title,
        level: rule.level.as_str(),
        needs: rule.needs.iter().copied().map(Need::as_str).collect(),
        capabilities: (clause.tags().into_iter())
            .filter(|tag| *tag != "observer")
            .collect(),
        mutants: mutants
            .map(|it| Wrong {
                name: it.name,
                about: it.about,
            })
            .collect(),
    }
}

/// The book as JSON.
#[must_use]
pub fn to_json() -> String {
    // Strings only: this cannot fail.
    serde_json::to_string_pretty(&entries()).unwrap_or_default()
}

/// The book for a terminal.
#[must_use]
pub fn to_text() -> String {
    let mut out = String::new();
    each_section(|section, entries| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{section}");
        for entry in entries {
            let title = match &entry.trial {
                Some(trial) => format!("{} {}", trial.level, trial.title),
                None => "not tested yet".to_owned(),
            };
            let _ = writeln!(out, "\n{:<4} {title}", entry.id);
            for line in wrapped(entry.text, 95) {
                let _ = writeln!(out, "     {line}");
            }
            let Some(trial) = &entry.trial else { continue };
            for (what, list) in [
                ("needs", &trial.needs),
                ("capabilities", &trial.capabilities),
            ] {
                if !list.is_empty() {
                    let _ = writeln!(out, "     {what}: {}", list.join(", "));
                }
            }
            for mutant in &trial.mutants {
                let _ = writeln!(out, "     mutant {}: {}", mutant.name, mutant.about);
            }
        }
        out.push('\n');
    });
    out
}

/// The book as Markdown: the file `conformance/RULES.md`.
#[must_use]
pub fn to_markdown() -> String {
    let all = entries();
    let tested = all.iter().filter(|entry| entry.trial.is_some()).count();
    let mut out = format!(
        "<!-- Generated: {COMMAND} -->\n\n# The rule book\n\n{tested} of the {} rules of \
         [the contract](../CONTRACT.md) have a trial in this version. {HEAD}",
        all.len()
    );
    each_section(|section, entries| {
        let _ = writeln!(out, "\n## {section}");
        for entry in entries {
            match &entry.trial {
                Some(trial) => chapter(&mut out, entry, trial),
                None => {
                    let _ = writeln!(out, "\n**{}** {} *(not tested yet)*", entry.id, entry.text);
                }
            }
        }
    });
    out + &peers::to_markdown()
}

const HEAD: &str = "\
Each trial is tested
in turn: a *mutant* is a backend that is wrong on purpose, and the trial has to fail it for the right reason.

What is in brackets in the text of a rule is a capability. A backend that does not declare it is tested for the refusal,
and the verdict is `refused`. What a trial *needs* is a handle of the harness: a fault, or the observer. Where the harness
does not have it the verdict is `not applicable`, with the reason. Neither is silent: every report lists and counts both, and
a file of [expected verdicts](expected/) fails the run when a rule stops applying.

## To contest a rule

A rule may be wrong, or its trial may ask for more than the rule says. Open an issue with

1. the number of the rule, and the sentence of its text that you read otherwise;
2. the report (`--report json:FILE`) and the command line that it gives for the rule;
3. what the broker or its client did, with evidence: a packet trace, a log, its documentation.

If the trial is wrong, it is changed together with a mutant or a control that shows the difference. If the rule is wrong, its
text is changed in the contract; its number never means anything else, and a rule that is given up keeps its number. Until
that is decided, a backend lists the rule in `Harness::known_failures` with the reason: it is then reported as a known
failure, does not refuse the certificate, and must still fail, so that the entry cannot outlive its cause.
";

fn chapter(out: &mut String, entry: &Entry, trial: &Tested) {
    let (id, title) = (entry.id, escaped(trial.title));
    let _ = writeln!(out, "\n### {id} {title}\n");
    let _ = writeln!(out, "**{}** {}\n", trial.level, entry.text);
    if !trial.needs.is_empty() {
        let needs = trial.needs.join(", ");
        let _ = writeln!(out, "- Needs: {needs}. Without: not applicable.");
    }
    if !trial.capabilities.is_empty() {
        let capabilities = trial.capabilities.join(", ");
        let _ = writeln!(
            out,
            "- Capability: {capabilities}. Not declared: tested for the refusal."
        );
    }
    out.push_str("- Mutants:\n");
    for mutant in &trial.mutants {
        let about = escaped(mutant.about);
        let _ = writeln!(out, "  - `{}`: {about}", mutant.name);
    }
}

fn each_section(mut with: impl FnMut(&str, &[Entry])) {
    let all = entries();
    for section in all.chunk_by(|a, b| a.section == b.section) {
        if let Some(first) = section.first() {
            with(&first.section, section);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_trial() {
        let open: Vec<&str> = entries()
            .iter()
            .filter(|entry| entry.trial.is_none())
            .map(|entry| entry.id)
            .collect();
        assert!(open.is_empty(), "without a trial: {open:?}");
    }

    #[test]
    fn every_trial_in_the_book_has_a_text_and_a_mutant() {
        for entry in entries() {
            let Some(trial) = entry.trial else { continue };
            assert!(
                !entry.text.is_empty() && !trial.mutants.is_empty(),
                "{}",
                entry.id
            );
        }
    }

    #[test]
    fn the_file_is_up_to_date() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/RULES.md");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            text == to_markdown(),
            "RULES.md is out of date; write it anew with\n  {COMMAND}"
        );
    }

    #[test]
    fn the_file_says_of_each_rule_what_the_book_knows() {
        let text = to_markdown();
        for entry in entries() {
            assert!(text.contains(entry.text), "{}", entry.id);
            for mutant in entry.trial.iter().flat_map(|trial| &trial.mutants) {
                assert!(
                    text.contains(&format!("`{}`", mutant.name)),
                    "{}",
                    mutant.name
                );
            }
        }
    }
}
