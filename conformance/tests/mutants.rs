//! The suite is itself tested: every mutant must be killed by the rule that it breaks, for the reason that it
//! gives, and the wrappers that mutants are made of must pass when nothing is wrong with them.
//!
//! The environment variable `BACKPLANE_MUTANTS` chooses one rule or one mutant while one works on it.
#![cfg(feature = "memory")]
#![allow(clippy::expect_used)] // clippy knows tests only by their attribute

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use backplane_conformance::mutants::{self, Kill, Mutant};
use backplane_conformance::{Suite, rules};

/// How many run at once; most of them wait for something that does not happen.
const AT_ONCE: usize = 16;

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
fn every_mutant_is_killed_for_its_reason() {
    let chosen = |mutant: &Mutant| match chosen() {
        Some(chosen) => mutant.rule == chosen || mutant.name == chosen,
        None => true,
    };
    let mutants: Vec<_> = mutants::all().into_iter().filter(chosen).collect();
    let kills = each(mutants, |mutant| (*mutant, alone(mutants::run(mutant))));
    let mut survivors = Vec::new();
    for (mutant, kill) in kills {
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

#[test]
fn nothing_wrong_passes() {
    let reports = each(mutants::controls(), |control| {
        let mut rules = match chosen() {
            Some(id) => rules::select(&[id]).unwrap_or_default(),
            None => rules::all(),
        };
        rules.retain(|rule| {
            !control.except.contains(&rule.id)
                && (control.only.is_empty() || control.only.contains(&rule.id))
        });
        let suite = Suite::new(Arc::clone(&control.harness)).rules(rules);
        (control.name, alone(suite.run()))
    });
    for (name, report) in reports {
        println!("{name}: {}", report.to_summary());
        assert!(report.is_certified(), "{name}:\n{}", report.to_text());
    }
}

fn chosen() -> Option<String> {
    std::env::var("BACKPLANE_MUTANTS").ok()
}

/// Runs in a runtime of its own, because some rules count tasks.
fn alone<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let result = runtime.block_on(run);
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Does the work for each, some at once.
fn each<T: Send, R: Send>(all: Vec<T>, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let waiting = Mutex::new(VecDeque::from(all));
    let results = Mutex::new(Vec::new());
    let next = || waiting.lock().expect("no worker panics").pop_front();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(one) = next() {
                    let result = work(&one);
                    results.lock().expect("no worker panics").push(result);
                }
            });
        }
    });
    results.into_inner().expect("no worker panics")
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
