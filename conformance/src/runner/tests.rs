use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use backplane_core::{Backplane, ConnectError};

use super::*;
use crate::harness::{Description, Faults, NodeSpec};
use crate::memory::MemoryHarness;
use crate::rule::rule;
use crate::verdict::{VerdictKind, broken};

const PASSES: Rule = rule!("T1", "passes", [], passes);
const TELLS: Rule = rule!("T2", "tells its seed", [], tells);
const PANICS: Rule = rule!("T3", "panics", [], panics);
const FAILS: Rule = rule!("T4", "fails", [], fails);
const MUTES: Rule = rule!("T5", "needs to mute", [Mute], fails);

async fn passes(_: Trial) -> Outcome {
    Ok(())
}

async fn tells(trial: Trial) -> Outcome {
    broken(trial.seed())
}

async fn panics(_: Trial) -> Outcome {
    panic!("oh")
}

async fn fails(_: Trial) -> Outcome {
    broken("no")
}

/// In memory, with a broker that comes back only so many times.
#[derive(Debug)]
struct Mortal {
    inner: MemoryHarness,
    lives: AtomicUsize,
}

#[async_trait]
impl Harness for Mortal {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
        self.inner.node(spec).await
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }
}

#[async_trait]
impl Faults for Mortal {
    fn supports(&self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Mute => Err("it cannot be muted".to_owned()),
            fault => self.inner.supports(fault),
        }
    }

    async fn inject(&self, fault: Fault) -> Result<(), String> {
        self.inner.inject(fault).await
    }

    async fn heal(&self) -> Result<(), String> {
        let less = |lives: usize| lives.checked_sub(1);
        let left = self
            .lives
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        left.map(drop).map_err(|_| "it is dead".to_owned())
    }
}

async fn run(rules: &[Rule], seed: u64, lives: usize) -> Report {
    let harness = Mortal {
        inner: MemoryHarness::new(),
        lives: AtomicUsize::new(lives),
    };
    let suite = Suite::new(Arc::new(harness)).rules(rules.to_vec());
    suite.seed(seed).run().await
}

fn found(report: &Report) -> Vec<(&str, VerdictKind, &str)> {
    report
        .rules
        .iter()
        .map(|rule| (rule.id, rule.verdict, &*rule.reason))
        .collect()
}

#[tokio::test]
async fn a_rule_has_the_same_seed_alone_as_among_others() {
    let alone = run(&[TELLS], 5, 99).await;
    let last = run(&[PASSES, FAILS, TELLS], 5, 99).await;
    assert_eq!(alone.rules[0].reason, last.rules[2].reason);
    let other = run(&[TELLS], 6, 99).await;
    assert_ne!(alone.rules[0].reason, other.rules[0].reason);
}

#[test]
fn two_rules_have_two_seeds() {
    let seeds: std::collections::HashSet<u64> = rules::all()
        .iter()
        .flat_map(|rule| (0..100).map(|seed| trial_seed(seed, rule.id)))
        .collect();
    assert_eq!(seeds.len(), rules::all().len() * 100);
}

#[tokio::test]
async fn a_panic_breaks_its_rule_and_no_other() {
    let report = run(&[PANICS, PASSES], 1, 99).await;
    let expected = [
        ("T3", VerdictKind::Fail, "panic: oh"),
        ("T1", VerdictKind::Pass, ""),
    ];
    assert_eq!(found(&report), expected);
}

#[tokio::test]
async fn nothing_is_tried_on_a_broker_that_does_not_come_back() {
    let report = run(&[PASSES, FAILS, PASSES, MUTES], 1, 1).await;
    let away = "not tried: the broker is away";
    let expected = [
        ("T1", VerdictKind::Pass, ""),
        (
            "T4",
            VerdictKind::Inconclusive,
            "the broker failed in the trial or after it: it is dead; the trial found: no",
        ),
        ("T1", VerdictKind::Inconclusive, away),
        ("T5", VerdictKind::NotApplicable, "it cannot be muted"),
    ];
    assert_eq!(found(&report), expected);
    let why = "it did not come back after the trial of T4: it is dead";
    assert_eq!(report.broker_lost.as_deref(), Some(why));
    assert!(!report.is_certified());
}

#[tokio::test]
async fn a_broker_lost_in_the_last_trial_is_lost_too() {
    let report = run(&[PASSES], 1, 0).await;
    assert!(report.broker_lost.is_some());
    assert!(!report.is_certified());
}
