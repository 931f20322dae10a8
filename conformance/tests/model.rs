//! The reference model on the backends: random operations, faults among them, after which the record must be right.
//! Failures shrink, and are kept in `proptest-regressions`.
//!
//! - `BACKPLANE_MODEL_CASES` raises the number of cases on memory (default 2000), `BACKPLANE_MODEL_REDIS_CASES` that
//!   on Redis (default 6; it needs a `redis-server`), `BACKPLANE_MODEL_HUB_SEEDS` that of the runs on hubs (default 4).
#![cfg(all(feature = "memory", feature = "model"))]
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy knows tests only by their attribute

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backplane_conformance::model::{
    Class, Kinds, Op, Part, Reference, Soak, SoakReport, SoakVerdict, State, System, supported,
};
use backplane_conformance::{Description, Harness, MemoryHarness, NodeSpec, mutants};
use backplane_core::{Backplane, ConnectError};
use proptest::test_runner::{Config, FileFailurePersistence};
use proptest_state_machine::StateMachineTest;
use tokio::runtime::{Builder, Runtime};

/// A system and the runtime that its tasks live in.
struct Running {
    system: System,
    runtime: Runtime,
}

impl Running {
    fn apply(&mut self, op: &Op) {
        self.runtime
            .block_on(self.system.apply(op))
            .expect("the environment works");
        self.check();
    }

    fn finish(mut self) {
        self.runtime
            .block_on(self.system.finish())
            .expect("the environment works");
        self.check();
    }

    fn check(&self) {
        let violations = self.system.violations();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

fn cases(variable: &str, default: u32) -> u32 {
    std::env::var(variable)
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default)
}

fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/proptest-regressions/model.txt"
        )))),
        max_shrink_iters: 2000,
        ..Config::default()
    }
}

fn run<T: StateMachineTest>(cases: u32, ops: std::ops::Range<usize>)
where
    T::Reference: 'static,
{
    let config = config(cases);
    let mut runner = proptest::test_runner::TestRunner::new(config.clone());
    let strategy =
        <T::Reference as proptest_state_machine::ReferenceStateMachine>::sequential_strategy(ops);
    let result = runner.run(&strategy, |(state, ops, seen)| {
        T::test_sequential(config.clone(), state, ops, seen);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[derive(Debug)]
struct OnMemory;

impl Kinds for OnMemory {
    fn kinds() -> Vec<backplane_conformance::model::FaultKind> {
        supported(&MemoryHarness::new())
    }
}

impl StateMachineTest for OnMemory {
    type SystemUnderTest = Running;
    type Reference = Reference<Self>;

    fn init_test(_: &State) -> Running {
        let runtime = paused();
        let system = System::new(Arc::new(MemoryHarness::new()), "model", 1, 1.0);
        Running { system, runtime }
    }

    fn apply(mut running: Running, _: &State, op: Op) -> Running {
        running.apply(&op);
        running
    }

    fn teardown(running: Running, _: State) {
        running.finish();
    }
}

#[test]
fn memory_keeps_the_guarantee() {
    run::<OnMemory>(cases("BACKPLANE_MODEL_CASES", 2000), 1..40);
}

/// What is wrong with each of these backends, the model must find by itself, in this class and with these words. Two of
/// them are noticed by what they do to the counts, before anything else.
#[test]
fn wrong_backends_are_found() {
    use Class::{Duplicated, Reordered, Unexpected, UnreportedLost};
    const WRONG: [(&str, Class, &str); 26] = [
        ("delivers-twice", Duplicated, "arrived again"),
        (
            "ignores-without-own",
            Unexpected,
            "whose messages it leaves out",
        ),
        (
            "takes-channels-for-patterns",
            Unexpected,
            "and came as of channel 0",
        ),
        (
            "replays-the-last-message",
            Unexpected,
            "was published before the subscription",
        ),
        ("swaps-neighbours", Reordered, "arrived after number"),
        ("reverses-batches", Reordered, "arrived after number"),
        (
            "subscribe-does-not-wait-for-the-broker",
            UnreportedLost,
            "did not arrive",
        ),
        (
            "unsubscribe-does-nothing",
            Unexpected,
            "or came after its end",
        ),
        ("cancelled-subscribe-stays", Unexpected, "the broker has"),
        ("ignores-the-prefix", Unexpected, "is of another prefix"),
        (
            "joins-names-without-delimiter",
            Unexpected,
            "is of another prefix",
        ),
        (
            "joins-names-without-escape",
            Unexpected,
            "is of another prefix",
        ),
        (
            "sends-later-what-was-not-sent",
            Unexpected,
            "was reported as not sent, and was delivered",
        ),
        // What was sent and is called not sent cannot be missing, and is counted as missing.
        (
            "calls-unknown-not-sent",
            Unexpected,
            "as missed in outages, and at most",
        ),
        // What is sent again is counted as missing where it was sent first, which is noticed before.
        (
            "retries-after-unknown",
            Unexpected,
            "as missed in outages, and at most",
        ),
        (
            "loses-a-message-now-and-then",
            UnreportedLost,
            "as missed in outages, and at least",
        ),
        (
            "tells-no-gap",
            UnreportedLost,
            "did not arrive, and no gap covers them",
        ),
        (
            "tells-the-gap-too-late",
            UnreportedLost,
            "did not arrive, and no gap covers them",
        ),
        (
            "does-not-count-the-loss",
            UnreportedLost,
            "as missed in outages, and at least",
        ),
        (
            "counts-one-too-many",
            Unexpected,
            "as missed in outages, and at most",
        ),
        (
            "does-not-resubscribe",
            UnreportedLost,
            "did not arrive, and no gap covers them",
        ),
        (
            "overflow-is-dropped-silently",
            UnreportedLost,
            "did not arrive, and no gap covers them",
        ),
        (
            "overflow-counts-one",
            UnreportedLost,
            "[gap: 1 messages missed (after a full queue)]",
        ),
        (
            "a-call-is-started-by-a-task",
            Reordered,
            "arrived after number",
        ),
        (
            "a-call-in-an-outage-is-sent-after-it",
            Unexpected,
            "was reported as not sent, and was delivered",
        ),
        (
            "what-is-cut-of-a-call-is-told-as-not-sent",
            Unexpected,
            "as missed in outages, and at most",
        ),
    ];
    find(Part::Backplane, &WRONG);
}

/// What is wrong below a hub, the model of the hub must find by itself, in this class and with these words.
#[test]
fn hubs_on_wrong_backends_are_found() {
    use Class::{Duplicated, Reordered, Unexpected, UnreportedLost};
    const WRONG: [(&str, Class, &str); 6] = [
        ("delivers-twice", Duplicated, "again"),
        ("swaps-neighbours", Reordered, "of the same sender"),
        (
            "subscribe-does-not-wait-for-the-broker",
            UnreportedLost,
            "no gap covers them",
        ),
        ("tells-no-gap", UnreportedLost, "no gap covers them"),
        (
            "loses-a-message-now-and-then",
            UnreportedLost,
            "no gap covers them",
        ),
        (
            "sends-later-what-was-not-sent",
            Unexpected,
            "or was not sent",
        ),
    ];
    find(Part::Hub, &WRONG);
}

#[test]
fn hubs_keep_the_guarantee() {
    for seed in 1..=cases("BACKPLANE_MODEL_HUB_SEEDS", 4).into() {
        let report = quick_on(Part::Hub, Arc::new(MemoryHarness::new()), seed, 1200);
        assert!(report.is_passed(), "{report:#?}");
        for operation in [
            "connect",
            "join",
            "remote join",
            "send",
            "invoke",
            "hang up",
            "count",
        ] {
            assert!(report.account.hub.contains_key(operation), "{report:#?}");
        }
    }
}

#[test]
fn a_soak_has_rounds_on_the_backplane_and_on_hubs_however_short_it_is() {
    for seed in SEEDS {
        let soak = Soak::new(Arc::new(MemoryHarness::new()))
            .duration(Duration::MAX)
            .operations(120)
            .seed(seed);
        let mut last = 0;
        let mut counts = (false, false);
        let report = paused().block_on(soak.run(|progress| {
            let on_hub: u64 = progress.account.hub.values().sum();
            match on_hub > last {
                true => counts.1 = true,
                false => counts.0 |= progress.ops > 10,
            }
            last = on_hub;
        }));
        assert_eq!(counts, (true, true), "{report:#?}");
        assert!(report.account.is_clean(), "{report:#?}");
    }
}

/// The wrappers that wrong backends are made of, with nothing wrong.
#[test]
fn wrapped_backends_with_nothing_wrong_pass() {
    // Those that are there for some rules only promise something else, such as a replay.
    let whole = mutants::controls()
        .into_iter()
        .filter(|control| control.only.is_empty());
    for control in whole {
        for seed in SEEDS {
            for part in [Part::Backplane, Part::Hub] {
                let report = quick_on(part, control.harness(), seed, 600);
                assert!(report.is_passed(), "{}: {report:#?}", control.name);
            }
        }
    }
}

/// A backend that nobody can break.
#[derive(Debug)]
struct Unbreakable(MemoryHarness);

#[async_trait]
impl Harness for Unbreakable {
    fn describe(&self) -> Description {
        self.0.describe()
    }

    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
        self.0.node(spec).await
    }
}

#[test]
fn a_soak_that_breaks_nothing_proves_nothing() {
    let report = quick(Arc::new(Unbreakable(MemoryHarness::new())), 1, 300);
    assert!(
        report.account.is_clean() && report.account.delivered > 0,
        "{report:#?}"
    );
    assert_eq!(report.verdict, SoakVerdict::Inconclusive);
    assert_eq!(report.reason.as_deref(), Some("no fault was made"));
}

#[test]
fn a_soak_that_is_interrupted_ends_with_the_account_so_far() {
    let soak = Soak::new(Arc::new(MemoryHarness::new())).duration(Duration::MAX);
    let stop = async { tokio::time::sleep(Duration::from_secs(60)).await };
    let report = paused().block_on(soak.run_until(stop, |_| {}));
    assert!(report.interrupted, "{report:#?}");
    assert_eq!(report.verdict, SoakVerdict::Inconclusive);
}

const SEEDS: [u64; 4] = [1, 2, 3, 4];

/// A run on the backplane itself, with a clock that jumps.
/// Looks for each of these mutants with this part of the soak, which must find it in this class and with these words.
fn find(part: Part, wrong: &[(&str, Class, &str)]) {
    let all = mutants::all();
    let mut alive = Vec::new();
    for (name, class, why) in wrong {
        let mut all = all.iter();
        let mutant = all.find(|mutant| mutant.name == *name).expect("it exists");
        let found = SEEDS.into_iter().find_map(|seed| {
            let report = quick_on(part, mutant.harness(), seed, 600);
            let in_account = match class {
                Class::Duplicated => report.account.duplicated,
                Class::Reordered => report.account.reordered,
                Class::Unexpected => report.account.unexpected,
                _ => report.account.unreported_lost,
            };
            let mut violations = report.violations.iter();
            let for_its_own_reason = violations.any(|v| v.class == *class && v.text.contains(why));
            (in_account > 0 && for_its_own_reason).then_some((seed, report.ops))
        });
        match found {
            Some((seed, ops)) => println!("{name}: {class} after {ops} operations, seed {seed}"),
            None => alive.push((name, class)),
        }
    }
    assert!(alive.is_empty(), "not found: {alive:?}");
}

fn quick(harness: Arc<dyn Harness>, seed: u64, operations: u64) -> SoakReport {
    quick_on(Part::Backplane, harness, seed, operations)
}

fn quick_on(part: Part, harness: Arc<dyn Harness>, seed: u64, operations: u64) -> SoakReport {
    paused().block_on(
        Soak::new(harness)
            .only(part)
            .duration(Duration::MAX)
            .operations(operations)
            .seed(seed)
            .run(|_| {}),
    )
}

/// The clock stands still while anything can go on, and jumps when nothing can.
fn paused() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime can be made")
}

/// Redis, one server for all cases.
#[cfg(feature = "redis")]
mod redis {
    use std::sync::OnceLock;
    use std::thread;

    use backplane_conformance::RedisHarness;

    use super::*;

    #[derive(Debug)]
    struct OnRedis;

    fn harness() -> Arc<RedisHarness> {
        static HARNESS: OnceLock<Arc<RedisHarness>> = OnceLock::new();
        let start = || {
            // Not in the runtime of a case, which ends with it.
            let start = || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                let started = runtime.block_on(RedisHarness::process());
                Arc::new(started.expect("a redis-server can be started"))
            };
            thread::spawn(start).join().expect("the start works")
        };
        Arc::clone(HARNESS.get_or_init(start))
    }

    impl Kinds for OnRedis {
        fn kinds() -> Vec<backplane_conformance::model::FaultKind> {
            supported(&*harness())
        }
    }

    impl StateMachineTest for OnRedis {
        type SystemUnderTest = Running;
        type Reference = Reference<Self>;

        fn init_test(_: &State) -> Running {
            static CASES: AtomicU64 = AtomicU64::new(0);
            let tag = format!("model-{}", CASES.fetch_add(1, Ordering::Relaxed));
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime can be made");
            let system = System::new(harness(), &tag, 1, 1.0);
            Running { system, runtime }
        }

        fn apply(mut running: Running, _: &State, op: Op) -> Running {
            running.apply(&op);
            running
        }

        fn teardown(running: Running, _: State) {
            running.finish();
        }
    }

    #[test]
    fn redis_keeps_the_guarantee() {
        run::<OnRedis>(cases("BACKPLANE_MODEL_REDIS_CASES", 6), 1..30);
        Runtime::new().unwrap().block_on(harness().shut_down());
    }
}
