//! The suite is itself tested: every mutant must be killed by the rule that it breaks, for the reason that it gives.
#![cfg(feature = "memory")]

use std::collections::HashSet;
use std::sync::Arc;

use backplane_conformance::mutants::{self, Kill, Mutant};
use backplane_conformance::{Suite, rules};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How many mutants run at once; most of them wait for something that does not happen.
const AT_ONCE: usize = 24;

#[test]
fn every_rule_has_a_mutant() {
    let broken: HashSet<_> = mutants::all().iter().map(|mutant| mutant.rule).collect();
    let without: Vec<_> = rules::all()
        .iter()
        .map(|rule| rule.id)
        .filter(|id| !broken.contains(id))
        .collect();
    assert!(without.is_empty(), "rules without a mutant: {without:?}");
    let known: HashSet<_> = rules::all().iter().map(|rule| rule.id).collect();
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

#[tokio::test(flavor = "multi_thread")]
async fn every_mutant_is_killed_for_its_reason() {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut runs = JoinSet::new();
    for mutant in mutants::all().into_iter().filter(wanted) {
        let room = Arc::clone(&room);
        runs.spawn(async move {
            let _place = room.acquire().await.expect("the semaphore is never closed");
            let kill = mutants::run(&mutant).await;
            (mutant, kill)
        });
    }
    let mut survivors = Vec::new();
    while let Some(run) = runs.join_next().await {
        let (mutant, kill) = run.expect("a run does not panic");
        println!("{}", line(&mutant, &kill));
        if !kill.killed {
            survivors.push(line(&mutant, &kill));
        }
    }
    survivors.sort();
    assert!(
        survivors.is_empty(),
        "{} survive:\n{}",
        survivors.len(),
        survivors.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_wrong_passes() {
    let mut runs = JoinSet::new();
    for (name, harness) in mutants::controls() {
        let chosen = std::env::var("BACKPLANE_MUTANTS").map_or_else(
            |_| rules::all(),
            |id| rules::select(&[id]).unwrap_or_default(),
        );
        runs.spawn(async move { (name, Suite::new(harness).rules(chosen).run().await) });
    }
    while let Some(run) = runs.join_next().await {
        let (name, report) = run.expect("a run does not panic");
        println!("{name}: {}", report.to_summary());
        assert!(report.is_certified(), "{name}:\n{}", report.to_text());
    }
}

/// The environment variable `BACKPLANE_MUTANTS` chooses a rule or a mutant while one works on it.
fn wanted(mutant: &Mutant) -> bool {
    match std::env::var("BACKPLANE_MUTANTS") {
        Ok(chosen) => mutant.rule == chosen || mutant.name == chosen,
        Err(_) => true,
    }
}

fn line(mutant: &Mutant, kill: &Kill) -> String {
    format!(
        "{:<7} {:<3} {} ({:.1} s)\n        expected {:?}\n        got {}: {}",
        if kill.killed { "killed" } else { "ALIVE" },
        mutant.rule,
        mutant.name,
        kill.took.as_secs_f64(),
        mutant.reason,
        kill.verdict,
        kill.reason,
    )
}
