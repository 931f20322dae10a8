//! Does the operations of the model on a real backend: [`System`].

mod checkpoint;
mod publishing;
mod reader;
mod subscribing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backplane_core::{Backplane, Channel, NodeOptions, Prefix};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::publishing::Traffic;
use self::reader::Reader;
use super::account::{Account, Class, Violation};
use super::breaker::{Breaker, Target, generation, options};
use super::ledger::{Generation, Ledger, PublisherId, Terms, Topic};
use super::op::{Break, FaultKind, NODES, Op, OpenNode, SUBSCRIPTIONS};
use super::patience::Patience;
use crate::harness::{Harness, NodeSpec, Start};
use crate::trial::chain;

type SharedLedger = Arc<Mutex<Ledger>>;

/// A backend under the model: its nodes, its subscriptions, and the record of what happened to them.
#[derive(Debug)]
pub struct System {
    harness: Arc<dyn Harness>,
    names: Arc<Names>,
    ledger: SharedLedger,
    scale: f64,
    patience: Patience,
    seed: u64,
    /// Whether nodes can be made so that faults that need a way reach them.
    ways: bool,
    nodes: [Option<Node>; NODES],
    subscriptions: [Option<Reader>; SUBSCRIPTIONS],
    breaker: Breaker,
    /// How many connections there were before.
    connections: Option<u64>,
}

/// A node that was made.
#[derive(Debug)]
struct Node {
    backplane: Arc<dyn Backplane>,
    id: PublisherId,
    prefix: u8,
    direct: bool,
}

/// The names on the broker.
#[derive(Debug)]
struct Names {
    prefixes: Vec<Prefix>,
    channels: Vec<Channel>,
}

impl Names {
    /// They are such that they meet where prefix and channel are put together without care: as they are, the third
    /// channel of the first prefix is the first of the second; joined by a delimiter that nobody escapes, the second of
    /// the first prefix is. Taken for a pattern, the first channel fits the others.
    fn new(tag: &str) -> Self {
        let prefix = |name: String| Prefix::new(name).unwrap_or_else(|_| Prefix::unprefixed());
        let channels = ["*b", "a:*b", ":a*b"];
        Self {
            prefixes: vec![prefix(tag.to_owned()), prefix(format!("{tag}:a"))],
            channels: channels
                .into_iter()
                .filter_map(|name| Channel::new(name).ok())
                .collect(),
        }
    }

    fn channel(&self, topic: Topic) -> &Channel {
        &self.channels[usize::from(topic)]
    }

    fn topic(&self, channel: &Channel) -> Option<Topic> {
        let at = self.channels.iter().position(|known| known == channel)?;
        Topic::try_from(at).ok()
    }
}

impl System {
    /// A system without nodes. `tag` keeps its names apart from those of others on the same broker; `scale`
    /// stretches every time limit.
    #[must_use]
    pub fn new(harness: Arc<dyn Harness>, tag: &str, seed: u64, scale: f64) -> Self {
        let breaker = Breaker::new(Arc::clone(&harness), scale);
        let ways = breaker.has_ways();
        let terms = Terms {
            counts_loss: false,
            replay: false,
        };
        Self {
            harness,
            names: Arc::new(Names::new(tag)),
            ledger: Arc::new(Mutex::new(Ledger::new(terms))),
            scale,
            patience: Patience::new(scale),
            seed,
            ways,
            nodes: Default::default(),
            subscriptions: Default::default(),
            breaker,
            connections: None,
        }
    }

    /// What it has come to so far. Deliveries are counted at each [`Op::Checkpoint`].
    #[must_use]
    pub fn account(&self) -> Account {
        self.ledger().account().clone()
    }

    /// What was wrong so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.ledger().violations().to_vec()
    }

    /// Does one operation. What the backend does wrong is found in the [account](Self::account).
    ///
    /// # Errors
    /// What went wrong with the environment, such as a broker that does not come back.
    pub async fn apply(&mut self, op: &Op) -> Result<(), String> {
        self.seed = self.seed.wrapping_add(1);
        self.note_deferred();
        match op {
            Op::Open(open) => self.open(open).await?,
            Op::Close { node } => self.close(*node, true).await,
            Op::Drop { node } => self.close(*node, false).await,
            Op::Subscribe(new) => self.subscribe(new).await,
            Op::Add {
                subscription,
                topics,
                deferred,
                cancel,
            } => self.add(*subscription, *topics, *deferred, *cancel).await,
            Op::Remove {
                subscription,
                topics,
            } => self.remove(*subscription, *topics),
            Op::Leave { subscription } => self.leave(*subscription),
            Op::Pause { subscription } => self.pause(*subscription, true),
            Op::Resume { subscription } => self.pause(*subscription, false),
            Op::Publish { node, topic } => self.publish(*node, *topic).await,
            Op::Burst {
                node,
                topics,
                count,
            } => self.burst(*node, *topics, *count).await,
            Op::Storm { count } => {
                let traffic = self.traffic(usize::from(*count), usize::from(*count));
                traffic.end().await;
            }
            Op::Cancel {
                node,
                topic,
                others,
                polls,
            } => self.cancel(*node, *topic, *others, *polls).await,
            Op::Together {
                node,
                topic,
                others,
                count,
                cancel,
            } => {
                self.together(*node, *topic, *others, *count, *cancel).await;
            }
            Op::Break { faults, noticed } => {
                let traffic = self.traffic(5, 300);
                for fault in faults {
                    self.inject(*fault, *noticed).await;
                }
                traffic.end().await;
            }
            Op::Flap {
                fault,
                times,
                lasting,
            } => {
                let traffic = self.traffic(5, 300);
                let lasting = Duration::from_millis((*lasting).into()).mul_f64(self.scale);
                for _ in 0..*times {
                    self.inject(*fault, false).await;
                    sleep(lasting).await;
                    self.heal().await?;
                }
                traffic.end().await;
            }
            Op::Heal { traffic, settled } => {
                let traffic = traffic.then(|| self.traffic(5, 300));
                let healed = self.heal().await;
                if *settled {
                    self.attached().await;
                }
                if let Some(traffic) = traffic {
                    traffic.end().await;
                }
                healed?;
            }
            Op::Checkpoint => self.checkpoint().await?,
        }
        Ok(())
    }

    // --- nodes

    async fn open(&mut self, open: &OpenNode) -> Result<(), String> {
        let observer = self.harness.observer();
        if let (None, Some(observer)) = (self.connections, observer)
            && self.breaker.faults().is_empty()
        {
            self.connections = Some(observer.connections().await?);
        }
        let direct = open.direct || !self.ways;
        let spec = NodeSpec {
            options: self.options(open),
            start: if open.lazy { Start::Lazy } else { Start::Eager },
            reachable: !direct,
        };
        let made = timeout(self.within(), self.harness.node(&spec)).await;
        let backplane = match made {
            Ok(Ok(backplane)) => backplane,
            Ok(Err(error)) => {
                if self.breaker.faults().is_empty() {
                    let why = chain(&error);
                    self.unexpected(format!(
                        "a node cannot be made while no fault is in force: {why}"
                    ));
                }
                return Ok(());
            }
            Err(_) => {
                self.unexpected(format!("making a node takes more than {:?}", self.within()));
                return Ok(());
            }
        };
        let capabilities = backplane.capabilities();
        let id = {
            let mut ledger = self.ledger();
            ledger.terms(Terms {
                counts_loss: capabilities.counts_loss,
                replay: capabilities.replay,
            });
            ledger.open(backplane.node_id(), open.prefix)
        };
        self.nodes[open.node] = Some(Node {
            backplane,
            id,
            prefix: open.prefix,
            direct,
        });
        Ok(())
    }

    fn options(&self, open: &OpenNode) -> NodeOptions {
        let heartbeat = Duration::from_millis(if open.quick { 100 } else { 400 });
        let prefix = &self.names.prefixes[usize::from(open.prefix)];
        options(prefix, heartbeat, self.scale).queue_capacity(if open.small_queue {
            8
        } else {
            4096
        })
    }

    /// Ends a node: by closing it, or by dropping it.
    async fn close(&mut self, at: usize, close: bool) {
        let Some(node) = self.nodes[at].take() else {
            return;
        };
        let mine = |reader: &mut Reader| reader.node == node.id;
        let readers: Vec<Reader> = self
            .subscriptions
            .iter_mut()
            .filter_map(|place| place.take_if(mine))
            .collect();
        for reader in &readers {
            self.ledger().ending(reader.stream);
            reader.pause(false);
        }
        if close
            && timeout(self.within(), node.backplane.close())
                .await
                .is_err()
        {
            self.unexpected(format!("closing node {} does not end", node.id.0));
        }
        drop(node.backplane);
        for reader in readers {
            let stream = reader.stream;
            if !reader.end(self.within()).await {
                self.unexpected(format!(
                    "the stream of subscription {} does not end with its node",
                    stream.0
                ));
            }
            self.ledger().ended(stream);
        }
        self.ledger().close(node.id);
    }

    fn node(&self, at: usize) -> Option<&Node> {
        self.nodes[at].as_ref()
    }

    fn node_of(&self, id: PublisherId) -> Option<&Node> {
        self.nodes.iter().flatten().find(|node| node.id == id)
    }

    // --- faults

    /// Makes a fault if it can be made now, and goes on until it was noticed if it must be.
    async fn inject(&mut self, fault: Break, noticed: bool) {
        let about = fault.kind.is_about_one_node();
        let Some(node) = self.node(fault.node).or_else(|| match about {
            true => None,
            false => self.nodes.iter().flatten().next(),
        }) else {
            return;
        };
        let (id, target) = (node.id, node.target());
        let nodes = self.targets();
        let Some(made) = self.breaker.inject(fault.kind, &target, &nodes).await else {
            return;
        };
        self.ledger().fault(fault.kind.name());
        if fault.kind.must_be_noticed() {
            self.ledger().silence();
        }
        if fault.kind == FaultKind::CutInSubscribe {
            self.probe_subscribe(id).await;
        }
        if noticed {
            made.noticed().await;
        }
    }

    /// Ends every fault.
    async fn heal(&mut self) -> Result<(), String> {
        let nodes = self.targets();
        self.breaker.heal(&nodes).await
    }

    fn targets(&self) -> Vec<Target> {
        self.nodes.iter().flatten().map(Node::target).collect()
    }

    /// Waits until every node is attached, for a while.
    async fn attached(&self) {
        let deadline = Instant::now() + self.within();
        for node in self.nodes.iter().flatten() {
            let mut watch = node.backplane.watch();
            let _ = timeout_at(deadline, watch.connected()).await;
        }
    }

    // --- help

    fn within(&self) -> Duration {
        self.patience.limit()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn unexpected(&self, text: impl Into<String>) {
        self.ledger()
            .violate(Violation::new(Class::Unexpected, 1, text));
    }

    /// Waits until a condition holds; returns whether it does in the end.
    async fn until(&self, holds: impl FnMut() -> bool) -> bool {
        self.patience.until(holds).await
    }

    fn traffic(&self, least: usize, most: usize) -> Traffic {
        Traffic::start(self, least, most)
    }
}

impl Node {
    /// How often it was attached.
    fn generation(&self) -> Generation {
        generation(&*self.backplane)
    }

    fn target(&self) -> Target {
        Target {
            backplane: Arc::clone(&self.backplane),
            direct: self.direct,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::op::TOPICS;

    /// Of each pair of a channel of the first prefix and one of the second, whether they meet when put together like this.
    fn meet(join: fn(&str, &str) -> String) -> Vec<(usize, usize)> {
        let names = Names::new("tag");
        let [first, second] = &names.prefixes[..] else {
            panic!("there are two prefixes: {names:?}");
        };
        let all = 0..names.channels.len();
        let pairs = all.clone().flat_map(|a| all.clone().map(move |b| (a, b)));
        let joined =
            |prefix: &Prefix, at: usize| join(prefix.as_str(), names.channels[at].as_str());
        pairs
            .filter(|(a, b)| joined(first, *a) == joined(second, *b))
            .collect()
    }

    #[test]
    fn the_names_meet_where_they_are_joined_without_a_delimiter() {
        assert_eq!(
            meet(|prefix, channel| format!("{prefix}{channel}")),
            [(2, 0)]
        );
    }

    #[test]
    fn other_names_meet_where_the_delimiter_is_not_escaped() {
        assert_eq!(
            meet(|prefix, channel| format!("{prefix}:{channel}")),
            [(1, 0)]
        );
    }

    #[test]
    fn a_name_is_a_pattern_that_fits_the_others() {
        let names = Names::new("tag");
        let [pattern, others @ ..] = &names.channels[..] else {
            panic!("there are channels: {names:?}");
        };
        assert_eq!(others.len() + 1, usize::from(TOPICS));
        let end = pattern.as_str().trim_start_matches('*');
        assert!(!end.contains('*') && pattern.as_str().starts_with('*'));
        assert!(others.iter().all(|other| other.as_str().ends_with(end)));
    }
}
