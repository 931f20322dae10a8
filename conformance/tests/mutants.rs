//! The suite is itself tested: every mutant must be killed by the rule that it breaks, for the reason that it
//! gives, and the wrappers that mutants are made of must pass when nothing is wrong with them.
//!
//! The whole matrix, every mutant against every rule, is run by `backplane-conformance mutants`. The environment
//! variable `BACKPLANE_MUTANTS` chooses one rule or one mutant while one works on it.
#![cfg(feature = "memory")]

use std::collections::HashSet;

use backplane_conformance::mutants::{self, MatrixRun, Mutant};
use backplane_conformance::rules;

#[test]
fn every_rule_has_a_mutant() {
    let broken: HashSet<_> = mutants::all().iter().map(|mutant| mutant.rule).collect();
    let known: HashSet<_> = rules::all().iter().map(|rule| rule.id).collect();
    let without: Vec<_> = known.difference(&broken).collect();
    assert!(without.is_empty(), "rules without a mutant: {without:?}");
    let unknown: Vec<_> = broken.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "mutants of rules that do not exist: {unknown:?}"
    );
}

#[test]
fn names_are_unique() {
    let mut seen = HashSet::new();
    for mutant in mutants::all() {
        assert!(
            seen.insert(mutant.name),
            "two mutants are named {}",
            mutant.name
        );
    }
}

#[test]
fn every_protection_is_off_in_a_mutant() {
    for (protection, off) in mutants::PROTECTIONS {
        let known = mutants::all().iter().any(|mutant| mutant.name == *off);
        assert!(known, "without {protection}: there is no mutant {off}");
    }
}

#[test]
fn every_mutant_is_killed_for_its_reason() {
    let mut mutants = mutants::all();
    if let Some(chosen) = chosen() {
        mutants.retain(|mutant: &Mutant| mutant.rule == chosen || mutant.name == chosen);
    }
    let matrix = MatrixRun::new(mutants).named_rules_only().run(|_, _| {});
    for row in &matrix.mutants {
        println!("{} {}: {}", row.rule, row.name, row.reason);
    }
    let alive: Vec<_> = matrix.mutants.iter().filter(|row| !row.killed).collect();
    assert!(alive.is_empty(), "{} survive:\n{alive:#?}", alive.len());
}

#[test]
fn nothing_wrong_passes() {
    let mut run = MatrixRun::new(Vec::new());
    if let Some(id) = chosen() {
        run = run.rules(rules::select(&[id]).unwrap_or_default());
    }
    let matrix = run.run(|_, _| {});
    assert_eq!(matrix.controls.len(), mutants::controls().len());
    for control in &matrix.controls {
        assert!(control.failed.is_empty(), "{control:#?}");
    }
}

fn chosen() -> Option<String> {
    std::env::var("BACKPLANE_MUTANTS").ok()
}
