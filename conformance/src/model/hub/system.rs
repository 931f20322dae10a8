//! Does the operations of the model on real hubs: [`System`].

mod asking;
mod checkpoint;
mod members;
mod nodes;
mod sending;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backplane_core::hub::{ConnectionId, DeliveryMode, Hub};
use backplane_core::{Backplane, Prefix};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

use super::client::Client;
use super::draw::View;
use super::op::{CLIENTS, NODES, Op};
use super::record::{Group, Record, User};
use crate::harness::Harness;
use crate::model::account::{Account, Class, Violation};
use crate::model::breaker::{self, Breaker};
use crate::model::ledger::PublisherId;
use crate::model::op::FaultKind;
use crate::model::patience::Patience;
use crate::model::reference::supported;

/// The name of the hubs.
const HUB: &str = "soak";

/// How often a node's heart beats.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// How often a hub is heard.
const HUB_HEARTBEAT: Duration = Duration::from_millis(200);

/// After how long a hub that is not heard is lost.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a hub waits for others.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How much longer than it may a call takes on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// How many clients are remembered that have gone.
const GONE: usize = 6;

/// The record, for the driver and those who read.
#[derive(Debug)]
pub(in crate::model::hub) struct Shared(Mutex<Record>);

pub(in crate::model::hub) type SharedRecord = Arc<Shared>;

/// Hubs under the model: their nodes, their clients, and the record of what happened to them.
#[derive(Debug)]
pub(in crate::model) struct System {
    harness: Arc<dyn Harness>,
    prefix: Prefix,
    record: SharedRecord,
    breaker: Breaker,
    kinds: Vec<FaultKind>,
    mode: DeliveryMode,
    scale: f64,
    patience: Patience,
    /// Whether nodes can be made so that faults that need a way reach them.
    ways: bool,
    nodes: [Option<Node>; NODES],
    clients: [Option<Client>; CLIENTS],
    gone: VecDeque<Gone>,
    /// How many calls were made.
    calls: u64,
    /// How many connections there were before.
    connections: Option<u64>,
    period: Period,
}

/// A node and its hub.
#[derive(Debug)]
struct Node {
    id: PublisherId,
    backplane: Arc<dyn Backplane>,
    hub: Hub,
    /// How often it had been attached again when the period began.
    reconnects: u64,
}

/// A client that has gone.
#[derive(Clone, Copy, Debug)]
struct Gone {
    connection: ConnectionId,
    hub: PublisherId,
}

/// The time since the last check.
#[derive(Debug, Default)]
struct Period {
    number: u32,
    /// A fault was made, or a node has gone that had an outage.
    faulty: bool,
}

impl Shared {
    pub(in crate::model::hub) fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl System {
    /// A system without nodes. `tag` keeps its names apart from those of others on the same broker; `scale`
    /// stretches every time limit.
    pub(in crate::model) fn new(
        harness: Arc<dyn Harness>,
        tag: &str,
        seed: u64,
        scale: f64,
    ) -> Self {
        let breaker = Breaker::new(Arc::clone(&harness), scale);
        let mode = match StdRng::seed_from_u64(seed).random_bool(0.6) {
            true => DeliveryMode::LocalFirst,
            false => DeliveryMode::ThroughBackplane,
        };
        let record = Record::new(mode == DeliveryMode::LocalFirst);
        Self {
            prefix: Prefix::new(tag).unwrap_or_else(|_| Prefix::unprefixed()),
            record: Arc::new(Shared(Mutex::new(record))),
            kinds: supported(&*harness),
            mode,
            scale,
            patience: Patience::new(scale),
            ways: breaker.has_ways(),
            breaker,
            harness,
            nodes: Default::default(),
            clients: Default::default(),
            gone: VecDeque::new(),
            calls: 0,
            connections: None,
            period: Period::default(),
        }
    }

    /// What it has come to so far. Deliveries are counted at each [`Op::Checkpoint`].
    pub(in crate::model) fn account(&self) -> Account {
        self.record.lock().account().clone()
    }

    /// What was wrong so far.
    pub(in crate::model) fn violations(&self) -> Vec<Violation> {
        self.record.lock().violations().to_vec()
    }

    /// Chooses an operation.
    pub(in crate::model) fn draw(&self, rng: &mut StdRng) -> Op {
        let nodes = self.nodes.iter().enumerate();
        let clients = self.clients.iter().enumerate();
        let view = View {
            nodes: nodes
                .filter_map(|(at, node)| node.as_ref().map(|_| at))
                .collect(),
            clients: clients
                .filter_map(|(at, client)| Some((at, client.as_ref()?.id)))
                .collect(),
            gone: self.gone.len(),
            kinds: &self.kinds,
            faults: self.breaker.faults(),
            wild: !self.period.number.is_multiple_of(3),
        };
        view.draw(rng)
    }

    /// Does one operation. What the hub does wrong is found in the [account](Self::account).
    ///
    /// # Errors
    /// What went wrong with the environment, such as a broker that does not come back.
    pub(in crate::model) async fn apply(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Open { node } => self.open(*node).await?,
            Op::Close { node } => self.close(*node).await,
            Op::Connect {
                client,
                node,
                user,
                small,
            } => self.connect(*client, *node, *user, *small).await,
            Op::Disconnect { client, way } => self.disconnect(*client, *way).await,
            Op::Change {
                client,
                group,
                join,
                through,
                quiet,
            } => {
                if *quiet {
                    self.arrived().await;
                }
                self.change(*client, *group, *join, *through).await;
            }
            Op::Send { node, to } => self.send(*node, to).await,
            Op::Burst { node, to } => self.burst(*node, to).await,
            Op::Invoke { node, client, call } => self.invoke(*node, *client, *call).await,
            Op::Stray { node, gone, want } => self.stray(*node, *gone, *want).await,
            Op::Count { node, of } => self.count(*node, of).await,
            Op::List { node, of } => self.list(*node, of).await,
            Op::Break {
                fault,
                noticed,
                node,
                to,
            } => {
                self.period.faulty = true;
                let sender = self.node(*node).map(|node| self.sender(node));
                let burst = async {
                    if let Some(sender) = sender {
                        sender.burst(to).await;
                    }
                };
                let Some(about) = self.node(fault.node).map(Node::target) else {
                    return Ok(());
                };
                let nodes = self.targets();
                let (made, ()) =
                    tokio::join!(self.breaker.inject(fault.kind, &about, &nodes), burst);
                if let Some(made) = made {
                    self.record.lock().account_mut().fault(fault.kind.name());
                    if *noticed {
                        made.noticed().await;
                    }
                }
            }
            Op::Heal { settled } => {
                self.heal().await?;
                if *settled {
                    self.attached().await;
                }
            }
            Op::Checkpoint => self.checkpoint().await?,
        }
        Ok(())
    }

    // --- help

    fn within(&self) -> Duration {
        self.patience.limit()
    }

    /// What must not be at any time.
    fn unexpected(&self, text: impl Into<String>) {
        let violation = Violation::new(Class::Unexpected, 1, text);
        self.record.lock().violate(violation);
    }

    /// What must not be without a fault or an outage: whether there was one is known at the next check.
    fn suspect(&self, text: impl Into<String>) {
        if !self.period.faulty {
            let violation = Violation::new(Class::Unexpected, 1, text);
            self.record.lock().suspect(violation);
        }
    }

    /// Counts an operation that was done.
    fn done(&self, what: &str) {
        self.record.lock().account_mut().hub_operation(what);
    }

    /// Awaits a call, which has an end in this time; `None` if it has not.
    async fn in_time<T>(
        &self,
        what: &str,
        limit: Duration,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        let limit = limit + SLACK.mul_f64(self.scale);
        let answer = timeout(limit, call).await.ok();
        if answer.is_none() {
            self.unexpected(format!("{what} has not returned after {limit:?}"));
        }
        answer
    }

    /// Waits until a condition holds; returns whether it does in the end.
    async fn until(&self, holds: impl FnMut() -> bool) -> bool {
        self.patience.until(holds).await
    }
}

/// The name of a group.
fn group(group: Group) -> String {
    format!("group {group}")
}

/// The name of a user.
fn user(user: User) -> String {
    // As a group may be called, too.
    format!("group {user}")
}

impl Node {
    fn target(&self) -> breaker::Target {
        breaker::Target {
            backplane: Arc::clone(&self.backplane),
            direct: false,
        }
    }
}
