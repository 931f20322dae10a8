//! Wrong at R: reconnection.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{Driver, Inbound, LinkError, LinkErrorKind};
use backplane_core::{
    ConnectError, ConnectErrorKind, ConnectionState, Delivery, Event, Events, StateCell,
    StateWatch, Subscribe, SubscribeError, Subscription,
};
use backplane_memory::{MemoryDriver, MemoryLink};
use tokio::time::{Instant, sleep, sleep_until};

use super::driver::LinkTwist;
use super::harness::{Made, Make, Trouble, Wrong};
use super::loss::generation;
use super::node::{Inner, NodeTwist, Tap, Tasks, lock, with_channels};
use super::pump::{Out, Parts, Pump};
use super::{Mutant, mutant};
use crate::harness::{Fault, NodeSpec, Start};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "gives-up-after-a-failed-try",
        "R1",
        "of the broker's return",
        "a node that could not reconnect at once never does (phoenix_pubsub_redis #27)",
        || Wrong::new().links(|| GivesUp::when(|failed, _| failed)),
    ),
    mutant!(
        "gives-up-after-five-tries",
        "R1",
        "of the broker's return",
        "the number of tries is limited",
        || Wrong::new().links(|| GivesUpAfter::tries(5)),
    ),
    mutant!(
        "gives-up-after-fifteen-tries",
        "R1",
        "the node does not reconnect",
        "the number of tries is limited, and not by a little",
        || Wrong::new().links(|| GivesUpAfter::tries(15)),
    ),
    mutant!(
        "reconnects-without-a-pause",
        "R1",
        "passed between two tries",
        "a broker that comes back is met by a storm of connections",
        || Wrong::new().spec(|spec| backoff(
            spec,
            Duration::from_millis(1),
            Duration::from_millis(1)
        )),
    ),
    mutant!(
        "backoff-has-no-jitter",
        "R1",
        "the pauses are not jittered",
        "all nodes come back in step",
        || Wrong::new()
            .spec(|spec| {
                let spec = backoff(spec, Duration::from_millis(1), Duration::from_millis(1));
                let options = spec.options.clone();
                NodeSpec {
                    options: options.connect_timeout(Duration::from_secs(60)),
                    ..spec
                }
            })
            .links(InStep::default),
    ),
    mutant!(
        "a-long-backoff-ignores-its-cap",
        "R1",
        "passed between two tries, and",
        "the longest pause is that of the default options",
        || Wrong::new().spec(|spec| {
            let longest = spec.options.backoff_max.max(Duration::from_secs(2));
            match spec.options.backoff_max < Duration::from_millis(500) {
                true => backoff(spec, longest, longest),
                false => spec.clone(),
            }
        }),
    ),
    mutant!(
        "waits-ten-seconds-between-tries",
        "R1",
        "of the broker's return",
        "the pause between two tries is long from the start",
        || Wrong::new().spec(|spec| backoff(
            spec,
            Duration::from_secs(10),
            Duration::from_secs(10)
        )),
    ),
    mutant!(
        "backoff-has-no-cap",
        "R1",
        "passed between two tries, and",
        "the pause between two tries doubles for ever",
        || Wrong::new().spec(|spec| backoff(
            spec,
            Duration::from_millis(5),
            Duration::from_secs(3600)
        )),
    ),
    mutant!(
        "leaks-a-connection-per-reconnect",
        "R5",
        "connections on the broker",
        "the old connection's successor opens one more (channels_redis #279)",
        || Wrong::new().links(LeaksConnections::default),
    ),
    mutant!(
        "reconnects-with-a-crowd",
        "R5",
        "on the way back there were",
        "a reconnect opens many connections, and keeps the first that works",
        || Wrong::new().links(|| Crowd(Tasks::default())),
    ),
    mutant!(
        "generation-stays-one",
        "R5",
        "the events told of generations",
        "who compares generations does not see that there was an outage",
        || Wrong::new().nodes(|_| Retells::new(true, |state| {
            Some(match state {
                ConnectionState::Connected { .. } => ConnectionState::Connected { generation: 1 },
                other => other,
            })
        })),
    ),
    mutant!(
        "events-miss-every-second-return",
        "R5",
        "the events told of generations",
        "what happens in quick succession is told once",
        || Wrong::new().nodes(|_| Retells::new(false, |state| {
            let generation = generation(&state);
            let missed = generation > 0 && generation.is_multiple_of(2);
            (!missed).then_some(state)
        })),
    ),
    mutant!(
        "leaks-a-task-per-reconnect",
        "R5",
        "tasks, and it is",
        "each connection starts a task that nothing ends",
        || Wrong::new().links(|| LeaksTasks(Tasks::default())),
    ),
    mutant!(
        "delivers-once-more-with-every-reconnect",
        "R5",
        r#"expected message "0", got message "marker""#,
        "the same k-fold delivery, after a row of flaps",
        || Wrong::new().parts(|tap| Parts::pump(Repeats::new(tap))),
    ),
    mutant!(
        "eager-constructor-is-lazy",
        "R6",
        "the eager constructor made",
        "the eager constructor returns a node that is not attached",
        || Wrong::new().make(Constructor::EagerIsLazy),
    ),
    mutant!(
        "start-error-without-address",
        "R6",
        "the error does not name the address",
        "the eager constructor's error does not say what could not be reached",
        || Wrong::new().make(Constructor::NoAddress),
    ),
    mutant!(
        "start-error-with-password",
        "R6",
        "the error contains the password",
        "the eager constructor's error has the whole URL",
        || Wrong::new()
            .secret("hunter2")
            .links(|| Tells("redis://app:hunter2@127.0.0.1:6379")),
    ),
    mutant!(
        "lazy-constructor-is-eager",
        "R6",
        "the lazy constructor failed in the outage",
        "no node without a broker",
        || Wrong::new().make(Constructor::LazyIsEager),
    ),
    mutant!(
        "lazy-node-tries-once",
        "R6",
        "the node does not reconnect",
        "a lazy node whose first try fails stays away",
        || Wrong::new().links(|| GivesUp::when(|failed, number| failed && number == 1)),
    ),
    mutant!(
        "lazy-node-forgets-what-was-deferred",
        "R6",
        r#"message "hello" did not arrive"#,
        "what is subscribed before the first attachment is lost with it",
        || Wrong::new().nodes(|_| ForgetsBeforeTheFirst {
            attached: Arc::default(),
            tasks: Tasks::default(),
        }),
    ),
    mutant!(
        "lazy-node-claims-to-be-connected",
        "R6",
        "a lazy node claims to be connected in the outage",
        "a node is connected until it has failed",
        || Wrong::new().nodes(|_| ClaimsConnected),
    ),
    mutant!(
        "a-killed-connection-is-not-replaced",
        "R9",
        "the node does not notice and recover",
        "only a broker that was away is a reason to connect again",
        || Wrong::new().in_trouble(|wrong, trouble| wrong.links(move || {
            StaysAwayAfter::such(&trouble, |fault| {
                matches!(fault, Fault::KillSubscribers | Fault::KillPublishers)
            })
        })),
    ),
];

fn backoff(spec: &NodeSpec, initial: Duration, max: Duration) -> NodeSpec {
    let mut spec = spec.clone();
    spec.options = spec.options.backoff_max(max).backoff_initial(initial);
    spec
}

/// Stops to connect when something about a try is so: whether tries before it failed since the last
/// link or it fails itself, and its number.
pub(super) struct GivesUp {
    when: fn(bool, u64) -> bool,
    gave_up: AtomicBool,
    failed: AtomicBool,
}

impl GivesUp {
    pub(super) fn when(when: fn(bool, u64) -> bool) -> Self {
        Self {
            when,
            gave_up: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl LinkTwist for GivesUp {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        number: u64,
    ) -> Result<MemoryLink, LinkError> {
        let gone = || LinkError::new(LinkErrorKind::Unreachable, "no more tries");
        if self.gave_up.load(Ordering::Relaxed) {
            return Err(gone());
        }
        let link = driver.connect(inbound).await;
        let failed = link.is_err() || self.failed.load(Ordering::Relaxed);
        self.failed.store(link.is_err(), Ordering::Relaxed);
        if (self.when)(failed, number) {
            self.gave_up.store(true, Ordering::Relaxed);
            return Err(gone());
        }
        link
    }
}

/// Does not connect again after such a fault.
pub(super) struct StaysAwayAfter {
    trouble: Trouble,
    such: fn(Fault) -> bool,
}

impl StaysAwayAfter {
    pub(super) fn such(trouble: &Trouble, such: fn(Fault) -> bool) -> Self {
        let trouble = trouble.clone();
        Self { trouble, such }
    }
}

#[async_trait]
impl LinkTwist for StaysAwayAfter {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        number: u64,
    ) -> Result<MemoryLink, LinkError> {
        if number > 1 && self.trouble.was(self.such) {
            return Err(LinkError::new(LinkErrorKind::Unreachable, "no more tries"));
        }
        driver.connect(inbound).await
    }
}

/// Delivers every message as often as the node was attached.
pub(super) struct Repeats {
    watch: StateWatch,
    times: u64,
}

impl Repeats {
    pub(super) fn new(tap: &Tap) -> Self {
        Self {
            watch: tap.watch.clone(),
            times: 1,
        }
    }
}

impl Pump for Repeats {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        self.times = self.times.max(generation(&self.watch.current()));
        match delivery {
            Delivery::Message(message) => {
                (0..self.times).for_each(|_| out.message(message.clone()));
            }
            Delivery::Gap(gap) => out.gap(gap),
        }
    }
}

/// Connections that nobody needs.
#[derive(Default)]
struct LeaksConnections(Mutex<Vec<MemoryLink>>);

#[async_trait]
impl LinkTwist for LeaksConnections {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        number: u64,
    ) -> Result<MemoryLink, LinkError> {
        if number > 1 {
            let one_more = driver.connect(inbound.clone()).await?;
            lock(&self.0).push(one_more);
        }
        driver.connect(inbound).await
    }
}

/// Opens many, and closes those that it does not need a little later.
struct Crowd(Tasks);

#[async_trait]
impl LinkTwist for Crowd {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        number: u64,
    ) -> Result<MemoryLink, LinkError> {
        let link = driver.connect(inbound.clone()).await?;
        if number > 1 {
            let mut others = Vec::new();
            for _ in 0..10 {
                others.push(driver.connect(inbound.clone()).await?);
            }
            // Attaching takes some time, and so does closing.
            self.0.spawn(async move {
                sleep(Duration::from_millis(200)).await;
                drop(others);
            });
            sleep(Duration::from_millis(50)).await;
        }
        Ok(link)
    }
}

struct LeaksTasks(Tasks);

#[async_trait]
impl LinkTwist for LeaksTasks {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        self.0.spawn(std::future::pending());
        driver.connect(inbound).await
    }
}

enum Constructor {
    EagerIsLazy,
    LazyIsEager,
    NoAddress,
}

#[async_trait]
impl Make for Constructor {
    async fn make(&self, harness: &Wrong, spec: &NodeSpec) -> Made {
        let with = |start| NodeSpec {
            start,
            ..spec.clone()
        };
        match self {
            Self::EagerIsLazy => match harness.plain(spec).await {
                Err(error) if error.kind() == ConnectErrorKind::Unreachable => {
                    harness.plain(&with(Start::Lazy)).await
                }
                made => made,
            },
            Self::LazyIsEager => harness.plain(&with(Start::Eager)).await,
            Self::NoAddress => harness
                .plain(spec)
                .await
                .map_err(|error| ConnectError::new(error.kind(), "", Some(error.into()))),
        }
    }
}

/// Calls itself by another name.
pub(super) struct Tells(pub(super) &'static str);

#[async_trait]
impl LinkTwist for Tells {
    fn endpoint(&self, _driver: &MemoryDriver) -> String {
        self.0.to_owned()
    }
}

/// Counts failed tries in a row.
struct GivesUpAfter {
    tries: u64,
    failed: AtomicU64,
}

impl GivesUpAfter {
    const fn tries(tries: u64) -> Self {
        Self {
            tries,
            failed: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl LinkTwist for GivesUpAfter {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        if self.failed.load(Ordering::Relaxed) >= self.tries {
            return Err(LinkError::new(LinkErrorKind::Unreachable, "no more tries"));
        }
        let link = driver.connect(inbound).await;
        match link {
            Ok(_) => self.failed.store(0, Ordering::Relaxed),
            Err(_) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
        }
        link
    }
}

/// Pauses by itself after failed tries, and never by another time than every other node.
#[derive(Default)]
struct InStep(Mutex<Option<Instant>>);

#[async_trait]
impl LinkTwist for InStep {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        let turn = *lock(&self.0);
        if let Some(turn) = turn {
            sleep_until(turn).await;
        }
        let link = driver.connect(inbound).await;
        let next = Instant::now() + Duration::from_millis(150);
        *lock(&self.0) = link.is_err().then_some(next);
        link
    }
}

struct ClaimsConnected;

impl NodeTwist for ClaimsConnected {
    fn state(&self, node: &Inner) -> ConnectionState {
        match node.state() {
            ConnectionState::Connecting { .. } => ConnectionState::Connected { generation: 1 },
            other => other,
        }
    }
}

/// Tells another story of its states.
struct Retells {
    cell: Arc<StateCell>,
    /// Whether that holds for the state as well as for the events.
    state: bool,
    change: fn(ConnectionState) -> Option<ConnectionState>,
    tasks: Tasks,
}

impl Retells {
    fn new(state: bool, change: fn(ConnectionState) -> Option<ConnectionState>) -> Self {
        let initial = ConnectionState::Connecting { attempt: 1 };
        Self {
            cell: Arc::new(StateCell::new(initial)),
            state,
            change,
            tasks: Tasks::default(),
        }
    }
}

#[async_trait]
impl NodeTwist for Retells {
    fn made(&self, node: &Inner) {
        let mut events = node.events();
        self.cell.set(node.state());
        let (cell, change) = (Arc::clone(&self.cell), self.change);
        self.tasks.spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    Event::State(state) => change(state).into_iter().for_each(|it| cell.set(it)),
                    other => cell.tell(other),
                }
            }
        });
    }

    fn state(&self, node: &Inner) -> ConnectionState {
        let state = node.state();
        match self.state {
            true => (self.change)(state.clone()).unwrap_or(state),
            false => state,
        }
    }

    fn watch(&self, node: &Inner) -> StateWatch {
        match self.state {
            true => self.cell.watch(),
            false => node.watch(),
        }
    }

    fn events(&self, _node: &Inner) -> Events {
        self.cell.events()
    }
}

/// Whether it was attached once.
struct ForgetsBeforeTheFirst {
    attached: Arc<AtomicBool>,
    tasks: Tasks,
}

#[async_trait]
impl NodeTwist for ForgetsBeforeTheFirst {
    fn made(&self, node: &Inner) {
        let (mut watch, attached) = (node.watch(), Arc::clone(&self.attached));
        attached.store(node.state().is_connected(), Ordering::Release);
        self.tasks.spawn(async move {
            watch.connected().await;
            attached.store(true, Ordering::Release);
        });
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let never = !self.attached.load(Ordering::Acquire) && !node.state().is_connected();
        let request = match never && request.is_deferred() {
            true => with_channels(&request, []),
            false => request,
        };
        node.subscribe(request).await
    }
}
