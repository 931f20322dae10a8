//! The supervisor: does the steps of the [`Lifecycle`] on a real driver, with real time.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::driver::{BrokerChannel, Driver, Inbound, Link, LinkError, LinkErrorKind};
use crate::engine::backoff;
use crate::engine::core::{Attached, Core};
use crate::engine::fate::{LinkFate, LinkId};
use crate::engine::lifecycle::{Input, Lifecycle, Step};
use crate::engine::probe::probe;
use crate::engine::router::Plan;
use crate::error::ConnectError;
use crate::state::{ConnectionState, Disconnect};

/// How long a broker may take to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How often changes that come in while a node attaches are waited for, before it goes on without
/// them. They are deferred subscriptions and unsubscriptions only, and follow at once.
const LATE_ROUNDS: usize = 3;

/// Hears the first result of an eager constructor.
pub(crate) type FirstResult = oneshot::Sender<Result<(), ConnectError>>;

/// Keeps one node attached until it is closed.
pub(crate) struct Supervisor<D: Driver> {
    core: Arc<Core<D::Link>>,
    driver: D,
    links: u64,
    open: Option<Arc<Attached<D::Link>>>,
    first: Option<FirstResult>,
}

impl<D: Driver> Supervisor<D> {
    pub(crate) const fn new(
        core: Arc<Core<D::Link>>,
        driver: D,
        first: Option<FirstResult>,
    ) -> Self {
        Self {
            core,
            driver,
            links: 0,
            open: None,
            first,
        }
    }

    pub(crate) async fn run(mut self) {
        let mut life = Lifecycle::new();
        let (_, mut step) = Lifecycle::first();
        while step != Step::Finish {
            let input = self.input_of(step).await;
            let turn = life.on(input);
            match (step, turn.step) {
                (Step::Attach, Step::Serve) => self.go_live(),
                (_, Step::Pause { .. } | Step::Finish) => self.go_down(turn.step).await,
                _ => {}
            }
            if let Some(state) = turn.announce {
                self.announce(state);
            }
            step = turn.step;
        }
    }

    /// Does one step, unless the node is closed meanwhile.
    async fn input_of(&mut self, step: Step) -> Input {
        let closing = self.core.closing.clone();
        tokio::select! {
            biased;
            () = closing.cancelled() => Input::Close,
            input = self.perform(step) => input,
        }
    }

    async fn perform(&mut self, step: Step) -> Input {
        let result = match step {
            Step::Open => self.open().await.map(|()| Input::Opened),
            Step::Attach => self.attach().await.map(|()| Input::Attached),
            Step::Serve => self.serve().await.map(|never| match never {}),
            Step::Pause { failures } => {
                let options = &self.core.options;
                let (initial, max) = (options.backoff_initial, options.backoff_max);
                sleep(backoff::pause(initial, max, failures, rand::random())).await;
                return Input::PauseOver;
            }
            Step::Finish => return Input::Close,
        };
        match result {
            Ok(input) => input,
            Err(error) => {
                let reason = self.reason(&error);
                match self.first.take() {
                    None => Input::Failed(reason),
                    // An eager constructor does not try again (rule R6).
                    Some(first) => {
                        let kind = error.kind().as_connect_error();
                        let endpoint = self.driver.endpoint();
                        let error = ConnectError::new(kind, endpoint, Some(error.into()));
                        let _ = first.send(Err(error));
                        Input::Close
                    }
                }
            }
        }
    }

    /// Why the node is not attached, in words that name the broker.
    fn reason(&self, error: &LinkError) -> Disconnect {
        let (kind, text) = (error.kind().as_disconnect(), error.to_string());
        let endpoint = self.driver.endpoint();
        if text.contains(&endpoint) {
            Disconnect::new(kind, text)
        } else {
            Disconnect::new(kind, format_args!("{endpoint}: {text}"))
        }
    }

    async fn open(&mut self) -> Result<(), LinkError> {
        self.links += 1;
        let fate = LinkFate::new(LinkId(self.links), self.core.patience.signs());
        let inbound = Inbound::new(Arc::clone(&self.core.router), fate.clone());
        let within = self.core.options.connect_timeout;
        let link = bounded(within, "connection", self.driver.connect(inbound)).await?;
        self.open = Some(Arc::new(Attached {
            link: Arc::new(link),
            fate,
        }));
        Ok(())
    }

    /// Brings every desired subscription into force, then proves that messages get through.
    async fn attach(&self) -> Result<(), LinkError> {
        let open = self.link()?;
        until_lost(&open.fate, async {
            let link = &*open.link;
            let probes = [self.core.router.probe_channel().clone()];
            self.subscribe(link, &probes).await?;
            let todo = AtomicUsize::new(self.core.router.plan_all());
            tokio::try_join!(
                self.resubscribe(open, &todo, AtOnce::First),
                self.resubscribe(open, &todo, AtOnce::Further)
            )?;
            self.probe(open).await
        })
        .await
    }

    /// Keeps the subscriptions right and the heart beating, until the link is dead.
    async fn serve(&self) -> Result<Never, LinkError> {
        let open = self.link()?;
        until_lost(&open.fate, async {
            tokio::select! {
                ended = self.keep_subscribed(open) => ended,
                ended = self.keep_up(open) => ended,
                ended = self.keep_beating(open) => ended,
            }
        })
        .await
    }

    /// Brings what is `todo` into force, and what has come in late.
    async fn resubscribe(
        &self,
        open: &Attached<D::Link>,
        todo: &AtomicUsize,
        at_once: AtOnce,
    ) -> Result<(), LinkError> {
        let mut late = 0;
        while late < LATE_ROUNDS
            && let Some(plan) = self.plan(at_once)
        {
            let taken = |todo: usize| Some(todo.saturating_sub(plan.len()));
            if todo.fetch_update(Relaxed, Relaxed, taken) == Ok(0) {
                late += 1;
            }
            let refused = self.execute(open, &plan).await?;
            // One that is only deferred stays so; one that was in force must be again (rule R2).
            if let Some(channel) = self.core.router.first_held(&refused, open.fate.id()) {
                let told = format!("subscribing to {channel:?} was refused");
                return Err(LinkError::new(LinkErrorKind::Refused, told));
            }
        }
        Ok(())
    }

    async fn keep_subscribed(&self, open: &Attached<D::Link>) -> Result<Never, LinkError> {
        loop {
            // Changes that came in while the node attached are here already.
            while let Some(plan) = self.plan(AtOnce::First) {
                self.execute(open, &plan).await?;
            }
            self.core.router.changed().await;
        }
    }

    /// Helps as long as there is more than one request can hold.
    async fn keep_up(&self, open: &Attached<D::Link>) -> Result<Never, LinkError> {
        loop {
            self.core.router.backlog().await;
            while let Some(plan) = self.plan(AtOnce::Further) {
                self.execute(open, &plan).await?;
            }
        }
    }

    fn plan(&self, at_once: AtOnce) -> Option<Plan> {
        let limit = self.core.options.subscribe_batch;
        let least = match at_once {
            AtOnce::First => 1,
            AtOnce::Further => limit,
        };
        self.core.router.plan(limit, least)
    }

    async fn keep_beating(&self, open: &Attached<D::Link>) -> Result<Never, LinkError> {
        loop {
            sleep(self.core.options.heartbeat_interval).await;
            match self.probe(open).await {
                // A broker that takes no messages lives, and may deliver those of others (rule L10).
                Err(error) if error.kind() == LinkErrorKind::Refused => {
                    let within = self.core.options.heartbeat_timeout;
                    bounded(within, "ping", open.link.ping()).await?;
                }
                other => other?,
            }
        }
    }

    async fn probe(&self, open: &Attached<D::Link>) -> Result<(), LinkError> {
        let within = self.core.options.heartbeat_timeout;
        bounded(
            within,
            "probe through the broker",
            probe(&self.core.router, open.fate.id(), &*open.link),
        )
        .await
    }

    fn link(&self) -> Result<&Attached<D::Link>, LinkError> {
        let none = || LinkError::new(LinkErrorKind::Lost, "there is no link");
        self.open.as_deref().ok_or_else(none)
    }

    /// Tells the broker what is planned; returns the channels that it refused.
    async fn execute(
        &self,
        open: &Attached<D::Link>,
        plan: &Plan,
    ) -> Result<Vec<BrokerChannel>, LinkError> {
        let link = &*open.link;
        let within = self.core.options.subscribe_timeout;
        let mut refused = Vec::new();
        if !plan.subscribe.is_empty() {
            match self.subscribe(link, &plan.subscribe).await {
                Err(error) if error.kind() == LinkErrorKind::Refused => {
                    refused = self.subscribe_one_by_one(link, &plan.subscribe).await?;
                }
                other => other?,
            }
        }
        if !plan.refresh.is_empty() {
            bounded(within, "ping", link.ping()).await?;
        }
        if !plan.unsubscribe.is_empty() {
            match bounded(within, "unsubscribe", link.unsubscribe(&plan.unsubscribe)).await {
                // What goes on arriving has no route any more.
                Err(error) if error.kind() == LinkErrorKind::Refused => {
                    tracing::warn!(%error, "the broker refused an unsubscribe");
                }
                other => other?,
            }
        }
        self.core.router.done(plan, &refused, open.fate.id());
        Ok(refused)
    }

    async fn subscribe(&self, link: &D::Link, names: &[BrokerChannel]) -> Result<(), LinkError> {
        bounded(
            self.core.options.subscribe_timeout,
            "subscribe",
            link.subscribe(names),
        )
        .await
    }

    /// One channel that is not allowed must not take the others of its batch with it.
    async fn subscribe_one_by_one(
        &self,
        link: &D::Link,
        names: &[BrokerChannel],
    ) -> Result<Vec<BrokerChannel>, LinkError> {
        if let [only] = names {
            return Ok(vec![only.clone()]);
        }
        let mut refused = Vec::new();
        for name in names {
            match self.subscribe(link, std::slice::from_ref(name)).await {
                Err(error) if error.kind() == LinkErrorKind::Refused => refused.push(name.clone()),
                other => other?,
            }
        }
        Ok(refused)
    }

    /// Deliveries count from here on; then publishes may leave; then the state is announced.
    fn go_live(&self) {
        if let Some(open) = &self.open {
            self.core.router.go_live(open.fate.id());
            self.core.attach(Some(open));
        }
    }

    /// The other way round: no publish leaves, what is in flight ends, and the gap is owed.
    async fn go_down(&mut self, next: Step) {
        self.core.attach(None);
        let open = self.open.take();
        if let Some(open) = &open {
            open.fate.end();
        }
        if next == Step::Finish {
            self.core.set_closed();
            self.core.router.close();
        } else {
            self.core.router.go_down(LinkId(self.links));
        }
        if let Some(open) = open {
            // A broker that does not take the goodbye loses the connection with the link. Publishes that
            // nobody polls may hold the link; closed, it costs nothing.
            let close = async move { drop(timeout(CLOSE_TIMEOUT, open.link.close()).await) };
            match next {
                Step::Finish => close.await,
                _ => drop(self.core.tasks.spawn(close)),
            }
        }
    }

    fn announce(&mut self, state: ConnectionState) {
        let node = self.core.router.node_id();
        match &state {
            ConnectionState::Connected { generation } => {
                if *generation > 1 {
                    self.core.counters.reconnects.add(1);
                }
                tracing::info!(%node, generation, "attached to the broker");
            }
            ConnectionState::Disconnected { reason } => {
                tracing::warn!(%node, %reason, "not attached to the broker");
            }
            state => tracing::debug!(%node, %state, "state changed"),
        }
        let connected = state.is_connected();
        self.core.state.set(state);
        if connected && let Some(first) = self.first.take() {
            let _ = first.send(Ok(()));
        }
    }
}

/// However the supervisor ends, by a panic in a driver or with the runtime, it leaves a node that says
/// that it is closed.
impl<D: Driver> Drop for Supervisor<D> {
    fn drop(&mut self) {
        self.core.attach(None);
        if let Some(open) = self.open.take() {
            open.fate.end();
        }
        self.core.set_closed();
        self.core.router.close();
        self.core.state.set(ConnectionState::Closed);
    }
}

/// Two requests to subscribe are on their way at once when there is enough for full ones: the broker works on one while
/// the answer to the other is taken in.
#[derive(Clone, Copy, Debug)]
enum AtOnce {
    /// Takes whatever there is.
    First,
    /// Takes full requests only: few changes are better collected until the first is done.
    Further,
}

/// A value that cannot be.
enum Never {}

/// Does something on a link, until the link is lost.
async fn until_lost<T>(
    fate: &LinkFate,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::select! {
        biased;
        () = fate.ended() => Err(fate.error()),
        done = work => done,
    }
}

async fn bounded<T>(
    within: Duration,
    what: &str,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(within, work).await.unwrap_or_else(|_| {
        let told = format!("no answer to a {what} within {within:?}");
        Err(LinkError::new(LinkErrorKind::Timeout, told))
    })
}
