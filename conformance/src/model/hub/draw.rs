//! Which operations make sense now, and how often each is chosen: [`View`].

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use super::op::{CLIENTS, Call, NODES, Op, Want, Way};
use super::record::{ClientId, GROUPS, Name, Target, USERS};
use crate::model::op::{Break, FaultKind};

/// What is there.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// The places of nodes.
    pub(super) nodes: Vec<usize>,
    /// The places of clients, and who they are.
    pub(super) clients: Vec<(usize, ClientId)>,
    /// How many clients are remembered that have gone.
    pub(super) gone: usize,
    /// The kinds of fault that can be made,
    pub(super) kinds: &'a [FaultKind],
    /// and those that may be in force.
    pub(super) faults: &'a [FaultKind],
    /// Whether faults are made now.
    pub(super) wild: bool,
}

/// What to do, before it is said to what.
#[derive(Clone, Copy)]
enum Kind {
    Open,
    Close,
    Connect,
    Disconnect,
    Change,
    Send,
    Burst,
    Invoke,
    Stray,
    Count,
    List,
    Break,
    Heal,
}

impl View<'_> {
    /// Chooses an operation.
    pub(super) fn draw(&self, rng: &mut StdRng) -> Op {
        match (self.nodes.len(), self.clients.len()) {
            (0 | 1, _) => return self.open(rng),
            (_, 0..3) => return self.connect(rng),
            (_, 3..6) if rng.random_bool(0.3) => return self.connect(rng),
            _ => {}
        }
        let when = |is: bool, weight: u32| if is { weight } else { 0 };
        let kinds = self.breakable();
        let total = self.faults.iter().any(|kind| kind.is_total());
        // Little can be tried while nothing works.
        let heal = if total { 18 } else { 7 };
        let weights = [
            (Kind::Open, when(self.nodes.len() < NODES, 5)),
            (Kind::Close, when(self.nodes.len() > 1, 2)),
            (Kind::Connect, when(self.clients.len() < CLIENTS, 9)),
            (Kind::Disconnect, 3),
            (Kind::Change, 26),
            (Kind::Send, 30),
            (Kind::Burst, 8),
            (Kind::Invoke, 8),
            (Kind::Stray, when(self.gone > 0, 2)),
            (Kind::Count, 4),
            (Kind::List, 2),
            (Kind::Break, when(self.wild && !kinds.is_empty(), 12)),
            (Kind::Heal, when(!self.faults.is_empty(), heal)),
        ];
        let node = self.node(rng);
        match choose(rng, &weights) {
            Kind::Open => self.open(rng),
            Kind::Connect => self.connect(rng),
            Kind::Close => Op::Close { node },
            Kind::Disconnect => Op::Disconnect {
                client: self.client(rng),
                way: match rng.random_range(0..5) {
                    0 => Way::Handle,
                    1 => Way::Drop,
                    2 | 3 => Way::Asked(node),
                    _ => Way::Through(node),
                },
            },
            Kind::Change => Op::Change {
                client: self.client(rng),
                group: rng.random_range(0..GROUPS),
                join: rng.random_bool(0.65),
                through: rng.random_bool(0.6).then_some(node),
                quiet: rng.random_bool(0.4),
            },
            Kind::Send => Op::Send {
                node,
                to: self.target(rng),
            },
            Kind::Burst => Op::Burst {
                node,
                to: self.targets(rng),
            },
            Kind::Invoke => Op::Invoke {
                node,
                client: self.client(rng),
                call: match rng.random_range(0..8) {
                    0 => Call::Silent,
                    1 | 2 => Call::Fail,
                    _ => Call::Echo,
                },
            },
            Kind::Stray => Op::Stray {
                node,
                gone: rng.random_range(0..self.gone),
                want: *one_of(
                    rng,
                    &[Want::Join, Want::Leave, Want::Disconnect, Want::Invoke],
                ),
            },
            Kind::Count => Op::Count {
                node,
                of: self.target(rng),
            },
            Kind::List => Op::List {
                node,
                of: self.target(rng),
            },
            Kind::Break => Op::Break {
                fault: Break {
                    kind: *one_of(rng, &kinds),
                    node: self.node(rng),
                },
                noticed: rng.random_bool(0.5),
                node,
                to: self.targets(rng),
            },
            Kind::Heal => Op::Heal {
                settled: rng.random_bool(0.5),
            },
        }
    }

    /// The faults that can be made besides those in force.
    fn breakable(&self) -> Vec<FaultKind> {
        let total = self.faults.iter().any(|kind| kind.is_total());
        if total || self.faults.len() >= 2 {
            return Vec::new();
        }
        let seen = |kind: &FaultKind| !self.faults.iter().any(|other| kind.is_blind_with(*other));
        self.kinds.iter().copied().filter(seen).collect()
    }

    fn open(&self, rng: &mut StdRng) -> Op {
        let free: Vec<usize> = (0..NODES).filter(|at| !self.nodes.contains(at)).collect();
        Op::Open {
            node: *one_of(rng, &free),
        }
    }

    fn connect(&self, rng: &mut StdRng) -> Op {
        let taken = |at: &usize| self.clients.iter().any(|(client, _)| client == at);
        let free: Vec<usize> = (0..CLIENTS).filter(|at| !taken(at)).collect();
        Op::Connect {
            client: *one_of(rng, &free),
            node: self.node(rng),
            user: rng.random_bool(0.7).then(|| rng.random_range(0..USERS)),
            small: rng.random_bool(0.2),
        }
    }

    fn node(&self, rng: &mut StdRng) -> usize {
        *one_of(rng, &self.nodes)
    }

    fn client(&self, rng: &mut StdRng) -> usize {
        one_of(rng, &self.clients).0
    }

    /// The targets of a burst: often the same.
    fn targets(&self, rng: &mut StdRng) -> Vec<Target> {
        let count = rng.random_range(2..16);
        if rng.random_bool(0.4) {
            return vec![self.target(rng); count];
        }
        (0..count).map(|_| self.target(rng)).collect()
    }

    fn target(&self, rng: &mut StdRng) -> Target {
        let parts = if rng.random_bool(0.25) { 3 } else { 1 };
        let include: Vec<Name> = match rng.random_range(0..4) {
            0 => vec![Name::All],
            _ => (0..parts).map(|_| self.name(rng)).collect(),
        };
        let mut target = Target::of(include);
        if rng.random_bool(0.35) {
            let parts = rng.random_range(1..3);
            target.except = (0..parts).map(|_| self.name(rng)).collect();
        }
        target
    }

    fn name(&self, rng: &mut StdRng) -> Name {
        match rng.random_range(0..6) {
            0..3 => Name::Group(rng.random_range(0..GROUPS)),
            3 => Name::User(rng.random_range(0..USERS)),
            _ => Name::Client(one_of(rng, &self.clients).1),
        }
    }
}

/// One of several, which are there.
fn one_of<'a, T>(rng: &mut impl Rng, all: &'a [T]) -> &'a T {
    &all[rng.random_range(0..all.len())]
}

fn choose<T: Copy>(rng: &mut impl Rng, weights: &[(T, u32)]) -> T {
    let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.random_range(0..sum);
    for (kind, weight) in weights {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return *kind,
        }
    }
    weights[0].0
}
