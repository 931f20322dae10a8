#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::future::pending;
use std::num::NonZeroUsize;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use backplane_core::{Backplane, ConnectError};
use tokio::runtime::Handle;
use tokio::sync::{Barrier, Notify, oneshot};

use super::plan::trial_seed;
use super::*;
use crate::harness::{Description, Fault, Faults, NodeSpec};
use crate::memory::MemoryHarness;
use crate::rule::rule;
use crate::rules;
use crate::trial::Trial;
use crate::verdict::{Outcome, VerdictKind, broken};

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

    fn secret(&self) -> Option<String> {
        Some("s3cr3t".to_owned())
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

#[tokio::test]
async fn a_secret_in_a_reason_does_not_get_into_the_report() {
    const LEAKS: Rule = rule!("T6", "leaks", [], leaks);
    async fn leaks(_: Trial) -> Outcome {
        broken("wrong password: s3cr3t")
    }
    let report = run(&[LEAKS], 1, 99).await;
    assert_eq!(report.rules[0].reason, "wrong password: <secret>");
}

#[tokio::test]
async fn what_the_backend_declares_is_in_the_report_if_there_was_a_node() {
    const MAKES: Rule = rule!("T7", "makes a node", [], makes);
    async fn makes(trial: Trial) -> Outcome {
        trial.node().await.map(drop)
    }
    assert_eq!(run(&[PASSES], 1, 99).await.about.capabilities, None);
    let declared = run(&[PASSES, MAKES], 1, 99).await.about.capabilities;
    let limit = backplane_core::Capabilities::DEFAULT_MAX_PAYLOAD;
    assert_eq!(declared.unwrap().max_payload, limit);
}

// ---------------------------------------------------------------- several at once

/// A fleet of harnesses with so many lives each, in the order in which they are made.
fn fleet(lives: &'static [usize]) -> Fleet {
    let made = AtomicUsize::new(0);
    let jobs = NonZeroUsize::new(lives.len()).unwrap();
    Fleet::new(jobs, move || {
        let lives = lives[made.fetch_add(1, Ordering::Relaxed)];
        async move {
            let inner = MemoryHarness::new();
            let lives = AtomicUsize::new(lives);
            Ok(Mortal { inner, lives })
        }
    })
}

async fn run_on(mut fleet: Fleet, plan: Plan) -> Report {
    fleet.ready().await.unwrap();
    let report = fleet.run(plan).await;
    fleet.shut_down().await.unwrap();
    report
}

fn many() -> Vec<Rule> {
    [PASSES, FAILS, TELLS, PANICS, MUTES].repeat(8)
}

#[tokio::test]
async fn a_fleet_finds_what_one_harness_finds_and_in_the_same_order() {
    let one = run(&many(), 5, 999).await;
    for shuffled in [false, true] {
        let plan = Plan::new().rules(many()).seed(5).shuffled(shuffled);
        let report = run_on(fleet(&[999, 999, 999]), plan).await;
        assert_eq!(found(&report), found(&one), "{shuffled}");
        assert_eq!((report.about.jobs, report.about.shuffled), (3, shuffled));
    }
}

#[tokio::test]
async fn the_seed_decides_the_order_and_progress_tells_it() {
    let order = |seed| async move {
        let mut order = Vec::new();
        let harness = Arc::new(MemoryHarness::new());
        let plan = Plan::new().rules(many()).seed(seed).shuffled(true);
        let suite = Suite::new(harness).plan(plan);
        let run = suite.run_with(|progress| {
            if let Progress::Begin { index, total, .. } = progress {
                assert_eq!(total, 40);
                order.push(index);
            }
        });
        run.await;
        order
    };
    let (first, again, other) = (order(1).await, order(1).await, order(2).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_ne!(first, sorted);
    assert_eq!(sorted, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn each_worker_has_a_runtime_of_its_own() {
    static BOTH: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    const COUNTS: Rule = rule!(
        "T8",
        "counts tasks while both workers are at it",
        [],
        counts
    );
    async fn counts(trial: Trial) -> Outcome {
        BOTH.wait().await;
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let alone = || async { Ok((tasks() != 1).then(|| format!("one of {}", tasks()))) };
        trial.until("the trial to be the only task", alone).await?;
        BOTH.wait().await;
        Ok(())
    }
    let report = run_on(fleet(&[999, 999]), Plan::new().rules(vec![COUNTS; 20])).await;
    assert_eq!(report.summary.pass, 20, "{}", report.to_text());
}

#[tokio::test]
async fn a_worker_without_a_broker_leaves_the_rest_to_the_others() {
    static BOTH: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    const MEETS: Rule = rule!("T9", "begins when both workers are at it", [], meets);
    async fn meets(_: Trial) -> Outcome {
        BOTH.wait().await;
        Ok(())
    }
    let rules = [[MEETS, MEETS], [PASSES, PASSES]].concat();
    let report = run_on(fleet(&[0, 999]), Plan::new().rules(rules)).await;
    // The trial after which it did not come back, and no other.
    assert_eq!((report.summary.pass, report.summary.inconclusive), (3, 1));
    assert!(report.broker_lost.is_some() && !report.is_certified());
}

#[tokio::test]
async fn without_any_broker_every_rule_has_its_verdict() {
    static BOTH: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    const MEETS: Rule = rule!("T9", "begins when both workers are at it", [], meets);
    async fn meets(_: Trial) -> Outcome {
        BOTH.wait().await;
        Ok(())
    }
    let rules = [vec![MEETS, MEETS], [PASSES].repeat(10)].concat();
    let report = run_on(fleet(&[0, 0]), Plan::new().rules(rules)).await;
    assert_eq!(report.summary.inconclusive, 12);
    assert_eq!(report.rules.iter().filter(|rule| !rule.tried).count(), 10);
    assert!(report.broker_lost.is_some());
}

async fn panicking() -> Result<MemoryHarness, String> {
    panic!("oh")
}

#[tokio::test]
async fn a_fleet_without_a_harness_says_why() {
    let two = NonZeroUsize::new(2).unwrap();
    let mut fleet = Fleet::new(two, || async {
        Err::<MemoryHarness, _>("no server".to_owned())
    });
    assert_eq!(fleet.ready().await, Err("no server".to_owned()));
    assert_eq!(fleet.shut_down().await, Ok(()));
    let mut fleet = Fleet::new(two, panicking);
    let why = fleet.ready().await.unwrap_err();
    assert!(why.contains("ended before"), "{why}");
    assert_eq!(fleet.shut_down().await, Ok(()));
}

/// Counts itself, and takes for ever to try anything.
#[derive(Debug)]
struct Counted {
    inner: MemoryHarness,
    alive: Arc<AtomicUsize>,
}

#[async_trait]
impl Harness for Counted {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
        self.inner.node(spec).await
    }

    async fn shut_down(&self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn the_end_of_a_fleet_ends_the_trials_and_every_harness() {
    const HANGS: Rule = rule!("T9", "hangs", [], hangs);
    async fn hangs(_: Trial) -> Outcome {
        pending().await
    }
    let alive = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&alive);
    let three = NonZeroUsize::new(3).unwrap();
    let mut fleet = Fleet::new(three, move || {
        let alive = Arc::clone(&counter);
        async move {
            alive.fetch_add(1, Ordering::SeqCst);
            let inner = MemoryHarness::new();
            Ok(Counted { inner, alive })
        }
    });
    fleet.ready().await.unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 3);
    let (begun, all_begun) = oneshot::channel();
    let mut begun = Some(begun);
    let mut count = 0;
    let run = fleet.run_with(Plan::new().rules([HANGS].repeat(9)), |_| {
        count += 1;
        if count == 3 {
            let _ = begun.take().map(|begun| begun.send(()));
        }
    });
    tokio::select! {
        _ = run => panic!("nothing of this ends"),
        all = all_begun => all.unwrap(),
    }
    // What was given up does not stand in the way of the next run.
    let report = fleet.run(Plan::new().rules([PASSES].repeat(9))).await;
    assert_eq!(report.summary.pass, 9);
    fleet.shut_down().await.unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_end_while_harnesses_are_made_ends_the_making() {
    struct Half(Arc<AtomicUsize>);
    impl Drop for Half {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let alive = Arc::new(AtomicUsize::new(0));
    let (counter, begun) = (Arc::clone(&alive), Arc::new(Notify::new()));
    let begin = Arc::clone(&begun);
    let fleet = Fleet::new(NonZeroUsize::MIN, move || {
        counter.fetch_add(1, Ordering::SeqCst);
        let half = Half(Arc::clone(&counter));
        begin.notify_one();
        async move {
            let _half = half;
            pending::<Result<MemoryHarness, String>>().await
        }
    });
    begun.notified().await;
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    fleet.shut_down().await.unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}
