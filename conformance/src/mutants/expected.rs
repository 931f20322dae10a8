//! Which rules each mutant must fail, by consequence: `expected.txt`.
//!
//! One line for each mutant: its name, a colon, and the rules. A rule with a question mark may pass or fail, because a
//! race decides. The file is written by `backplane-conformance mutants --write-expected FILE`, and a change of it
//! is to be looked at like a change of code.

use super::{Matrix, Mutant};
use crate::rules;

const TABLE: &str = include_str!("expected.txt");

/// The rules that a mutant must fail, and those that it may fail. A mutant that is not in the table fails the rule that
/// names its fault.
pub(super) fn of(mutant: &Mutant) -> (Vec<&'static str>, Vec<&'static str>) {
    let mut must = vec![mutant.rule];
    let mut may = Vec::new();
    for entry in entries()
        .find(|(name, _)| *name == mutant.name)
        .into_iter()
        .flat_map(|e| e.1)
    {
        match entry.strip_suffix('?') {
            Some(id) => may.push(id),
            None if !must.contains(&entry) => must.push(entry),
            None => {}
        }
    }
    let place = |id: &&str| rules::all().iter().position(|rule| rule.id == *id);
    must.sort_by_key(place);
    may.sort_by_key(place);
    (must, may)
}

/// The names of the table, each with its rules.
fn entries() -> impl Iterator<Item = (&'static str, impl Iterator<Item = &'static str>)> {
    TABLE
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, rules)| (name, rules.split_whitespace()))
}

impl Matrix {
    /// The table of what was seen, for `expected.txt`. What the table so far leaves to a race, stays so, and what went both
    /// ways is left to it from now on.
    #[must_use]
    pub fn to_table(&self) -> String {
        let line = |row: &super::Row| {
            let is_open = |rule: &&str| row.tolerated.contains(rule) || row.unsteady.contains(rule);
            let must = row
                .failed
                .iter()
                .filter(|rule| !is_open(rule))
                .map(|rule| (*rule).to_owned());
            let open = row.tolerated.iter().chain(&row.unsteady);
            let may = open.map(|rule| format!("{rule}?"));
            let rules: Vec<_> = must.chain(may).collect();
            format!("{}: {}\n", row.name, rules.join(" "))
        };
        self.mutants.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::mutants;

    #[test]
    fn the_table_has_every_mutant_once_and_knows_every_rule() {
        let known: HashSet<_> = rules::all().iter().map(|rule| rule.id).collect();
        let mut named: Vec<_> = mutants::all().iter().map(|mutant| mutant.name).collect();
        let mut listed = Vec::new();
        for (name, rules) in entries() {
            listed.push(name);
            for rule in rules {
                let id = rule.strip_suffix('?').unwrap_or(rule);
                assert!(known.contains(id), "{name}: there is no rule {rule}");
            }
        }
        named.sort_unstable();
        listed.sort_unstable();
        assert_eq!(
            listed, named,
            "regenerate it: `backplane-conformance mutants --write-expected`"
        );
    }

    #[test]
    fn a_mutant_must_fail_the_rule_that_names_its_fault() {
        for mutant in mutants::all() {
            let (must, may) = of(&mutant);
            assert!(must.contains(&mutant.rule), "{}", mutant.name);
            assert!(
                !may.iter().any(|rule| must.contains(rule)),
                "{}",
                mutant.name
            );
        }
    }
}
