//! The reference state machine: which operations make sense now, and how often each is chosen.

#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::{Union, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest_state_machine::ReferenceStateMachine;
use rand::rngs::StdRng;

use super::op::{
    Break, FaultKind, NODES, NewSubscription, Op, OpenNode, PREFIXES, SUBSCRIPTIONS, TOPICS, Topics,
};
use crate::harness::Harness;

/// Of so many operations in a row, the first quarter is free of faults.
const ROUND: u32 = 32;

/// What is known without asking the backend: which places are taken, and which faults are in force.
///
/// A subscription that the model takes for made may not be: its call failed, or was cancelled. Operations on it
/// then do nothing.
#[derive(Clone)]
pub struct State {
    kinds: Arc<[FaultKind]>,
    step: u32,
    /// The prefix of each node.
    nodes: [Option<u8>; NODES],
    subscriptions: [Option<Subscribed>; SUBSCRIPTIONS],
    faults: Vec<FaultKind>,
}

#[derive(Clone, Copy)]
struct Subscribed {
    node: usize,
    paused: bool,
}

/// Says which faults can be made, where they cannot be asked for.
pub trait Kinds: fmt::Debug + 'static {
    /// The kinds of faults.
    fn kinds() -> Vec<FaultKind>;
}

/// The model as a [`ReferenceStateMachine`].
#[derive(Debug)]
pub struct Reference<K>(PhantomData<K>);

impl<K: Kinds> ReferenceStateMachine for Reference<K> {
    type State = State;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<State> {
        Just(State::new(K::kinds())).boxed()
    }

    fn transitions(state: &State) -> BoxedStrategy<Op> {
        state.ops()
    }

    fn apply(state: State, op: &Op) -> State {
        state.after(op)
    }

    fn preconditions(state: &State, op: &Op) -> bool {
        state.allows(op)
    }
}

/// The kinds of faults that a harness can make.
#[must_use]
pub fn supported(harness: &dyn Harness) -> Vec<FaultKind> {
    let Some(faults) = harness.faults() else {
        return Vec::new();
    };
    let nobody = backplane_core::NodeId::from_u64(0);
    FaultKind::ALL
        .into_iter()
        .filter(|kind| faults.supports(kind.about(nobody)).is_ok())
        .collect()
}

impl State {
    /// The beginning: nothing is there.
    #[must_use]
    pub fn new(kinds: Vec<FaultKind>) -> Self {
        Self {
            kinds: kinds.into(),
            step: 0,
            nodes: [None; NODES],
            subscriptions: [None; SUBSCRIPTIONS],
            faults: Vec::new(),
        }
    }

    /// Chooses an operation.
    pub(crate) fn draw(&self, rng: &mut StdRng) -> Op {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        for _ in 0..100 {
            if let Ok(tree) = self.ops().new_tree(&mut runner)
                && self.allows(&tree.current())
            {
                return tree.current();
            }
        }
        Op::Checkpoint
    }

    /// Whether an operation makes sense now; asked again when a sequence shrinks.
    fn allows(&self, op: &Op) -> bool {
        let node = |at: &usize| self.nodes[*at].is_some();
        let subscription = |at: &usize| self.subscriptions[*at].is_some();
        let fault = |of: &Break| {
            self.kinds.contains(&of.kind) && (!of.kind.is_about_one_node() || node(&of.node))
        };
        match op {
            Op::Open(open) => !node(&open.node),
            Op::Close { node: at } | Op::Drop { node: at } => node(at),
            Op::Publish { node: at, .. }
            | Op::Burst { node: at, .. }
            | Op::Cancel { node: at, .. }
            | Op::Together { node: at, .. } => node(at),
            Op::Subscribe(new) => node(&new.node) && !subscription(&new.subscription),
            Op::Add {
                subscription: at, ..
            }
            | Op::Remove {
                subscription: at, ..
            }
            | Op::Leave { subscription: at }
            | Op::Pause { subscription: at }
            | Op::Resume { subscription: at } => subscription(at),
            Op::Break { faults, .. } => {
                let kinds: Vec<FaultKind> = faults.iter().map(|of| of.kind).collect();
                self.may_break()
                    && !faults.is_empty()
                    && faults.iter().all(fault)
                    && self.can_be_noticed(&kinds)
            }
            Op::Flap { fault: of, .. } => {
                self.may_break() && fault(of) && self.can_be_noticed(&[of.kind])
            }
            Op::Storm { .. } | Op::Heal { .. } | Op::Checkpoint => true,
        }
    }

    /// What is there after an operation.
    fn after(mut self, op: &Op) -> Self {
        self.step += 1;
        match op {
            Op::Open(open) => self.nodes[open.node] = Some(open.prefix),
            Op::Close { node } | Op::Drop { node } => {
                self.nodes[*node] = None;
                for place in &mut self.subscriptions {
                    place.take_if(|subscribed| subscribed.node == *node);
                }
            }
            Op::Subscribe(new) => {
                let (node, paused) = (new.node, false);
                self.subscriptions[new.subscription] = Some(Subscribed { node, paused });
            }
            Op::Leave { subscription } => self.subscriptions[*subscription] = None,
            Op::Pause { subscription } => self.pause(*subscription, true),
            Op::Resume { subscription } => self.pause(*subscription, false),
            Op::Break { faults, .. } => {
                let lasting = faults.iter().map(|fault| fault.kind);
                self.faults
                    .extend(lasting.filter(|kind| !kind.is_momentary()));
            }
            Op::Flap { .. } | Op::Heal { .. } => self.faults.clear(),
            Op::Checkpoint => {
                self.faults.clear();
                (0..SUBSCRIPTIONS).for_each(|at| self.pause(at, false));
            }
            Op::Add { .. }
            | Op::Remove { .. }
            | Op::Publish { .. }
            | Op::Burst { .. }
            | Op::Storm { .. }
            | Op::Cancel { .. }
            | Op::Together { .. } => {}
        }
        self
    }

    /// [`after`](Self::after), for who is not a state machine test.
    pub(crate) fn next(self, op: &Op) -> Self {
        self.after(op)
    }

    fn pause(&mut self, at: usize, paused: bool) {
        if let Some(subscribed) = &mut self.subscriptions[at] {
            subscribed.paused = paused;
        }
    }

    fn is_calm(&self) -> bool {
        self.step % ROUND < ROUND / 4
    }

    fn may_break(&self) -> bool {
        let total = self.faults.iter().any(|kind| kind.is_total());
        !self.kinds.is_empty() && self.faults.len() < 2 && !total
    }

    /// Whether, with these faults besides those in force, no fault keeps the nodes from noticing another one that they
    /// must notice.
    fn can_be_noticed(&self, new: &[FaultKind]) -> bool {
        let all = || self.faults.iter().chain(new);
        new.iter()
            .all(|one| !all().any(|other| one.is_blind_with(*other)))
    }

    fn ops(&self) -> BoxedStrategy<Op> {
        let places = |taken: &dyn Fn(usize) -> bool, of: usize| -> Vec<usize> {
            (0..of).filter(|at| taken(*at)).collect()
        };
        let nodes = places(&|at| self.nodes[at].is_some(), NODES);
        let no_nodes = places(&|at| self.nodes[at].is_none(), NODES);
        let subscribed = places(&|at| self.subscriptions[at].is_some(), SUBSCRIPTIONS);
        let free = places(&|at| self.subscriptions[at].is_none(), SUBSCRIPTIONS);
        let paused = |at: usize| self.subscriptions[at].is_some_and(|s| s.paused);
        let paused = places(&paused, SUBSCRIPTIONS);

        let mut ops: Vec<(u32, BoxedStrategy<Op>)> = Vec::new();
        if !no_nodes.is_empty() {
            let weight = if nodes.len() < 2 { 40 } else { 3 };
            ops.push((weight, open(no_nodes)));
        }
        if nodes.is_empty() {
            return Union::new_weighted(ops).boxed();
        }
        if !free.is_empty() {
            let weight = if subscribed.len() < 2 { 20 } else { 5 };
            ops.push((weight, subscribe(free, nodes.clone())));
        }
        if nodes.len() > 1 {
            let end = (select(nodes.clone()), any::<bool>());
            let end = end.prop_map(|(node, drop)| match drop {
                true => Op::Drop { node },
                false => Op::Close { node },
            });
            ops.push((2, end.boxed()));
        }
        if !subscribed.is_empty() {
            ops.push((8, on_subscription(subscribed)));
        }
        if !paused.is_empty() {
            let resume = select(paused).prop_map(|subscription| Op::Resume { subscription });
            ops.push((3, resume.boxed()));
        }
        ops.push((16, publish(nodes.clone())));
        let kinds = self.kinds.iter().copied();
        let kinds: Vec<FaultKind> = kinds.filter(|kind| self.can_be_noticed(&[*kind])).collect();
        if !self.is_calm() && self.may_break() && !kinds.is_empty() {
            ops.push((10, breaks(kinds, nodes)));
        }
        if !self.faults.is_empty() {
            let total = self.faults.iter().any(|kind| kind.is_total());
            let weight = match (self.is_calm(), total) {
                (true, _) => 60,
                // Little can be tried while nothing works.
                (false, true) => 25,
                (false, false) => 10,
            };
            let heal = (any::<bool>(), any::<bool>());
            let heal = heal.prop_map(|(traffic, settled)| Op::Heal { traffic, settled });
            ops.push((weight, heal.boxed()));
        }
        ops.push((2, Just(Op::Checkpoint).boxed()));
        Union::new_weighted(ops).boxed()
    }
}

fn open(places: Vec<usize>) -> BoxedStrategy<Op> {
    let rarely = || prop::bool::weighted(0.25);
    (
        select(places),
        // Mostly the first one: what nobody shares proves less.
        prop_oneof![3 => Just(0), 1 => 0..PREFIXES],
        rarely(),
        rarely(),
        rarely(),
        any::<bool>(),
    )
        .prop_map(|(node, prefix, lazy, direct, small_queue, quick)| {
            Op::Open(OpenNode {
                node,
                prefix,
                lazy,
                direct,
                small_queue,
                quick,
            })
        })
        .boxed()
}

fn topics() -> impl Strategy<Value = Topics> + Clone {
    (1u8..1 << TOPICS).prop_map(Topics)
}

fn cancel() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![4 => Just(None), 1 => (0u8..6).prop_map(Some)]
}

fn subscribe(places: Vec<usize>, nodes: Vec<usize>) -> BoxedStrategy<Op> {
    let capacity = prop_oneof![3 => Just(None), 1 => (1u8..6).prop_map(Some)];
    (
        select(places),
        select(nodes),
        topics(),
        prop::bool::weighted(0.2),
        any::<bool>(),
        capacity,
        cancel(),
    )
        .prop_map(
            |(subscription, node, topics, without_own, deferred, capacity, cancel)| {
                Op::Subscribe(NewSubscription {
                    subscription,
                    node,
                    topics,
                    without_own,
                    deferred,
                    capacity,
                    cancel,
                })
            },
        )
        .boxed()
}

fn on_subscription(places: Vec<usize>) -> BoxedStrategy<Op> {
    let place = select(places);
    let add = (place.clone(), topics(), any::<bool>(), cancel());
    let remove = (place.clone(), topics());
    prop_oneof![
        3 => add.prop_map(|(subscription, topics, deferred, cancel)| Op::Add {
            subscription,
            topics,
            deferred,
            cancel
        }),
        2 => remove.prop_map(|(subscription, topics)| Op::Remove { subscription, topics }),
        1 => place.clone().prop_map(|subscription| Op::Leave { subscription }),
        1 => place.prop_map(|subscription| Op::Pause { subscription }),
    ]
    .boxed()
}

fn publish(nodes: Vec<usize>) -> BoxedStrategy<Op> {
    let node = select(nodes);
    let topic = || 0..TOPICS;
    let burst = (node.clone(), topics(), 2u8..40);
    let cancelled = (node.clone(), topic(), 0u8..4, 0u8..5);
    let together = (node.clone(), topic(), 0u8..4, 0u8..100, cancel());
    prop_oneof![
        3 => (node, topic()).prop_map(|(node, topic)| Op::Publish { node, topic }),
        3 => burst.prop_map(|(node, topics, count)| Op::Burst { node, topics, count }),
        2 => (1u8..20).prop_map(|count| Op::Storm { count }),
        2 => cancelled.prop_map(|(node, topic, others, polls)| Op::Cancel {
            node,
            topic,
            others,
            polls
        }),
        2 => together.prop_map(|(node, topic, others, count, cancel)| Op::Together {
            node,
            topic,
            others,
            count,
            cancel
        }),
    ]
    .boxed()
}

fn breaks(kinds: Vec<FaultKind>, nodes: Vec<usize>) -> BoxedStrategy<Op> {
    let fault = (select(kinds), select(nodes)).prop_map(|(kind, node)| Break { kind, node });
    let one = fault.clone().prop_map(|fault| vec![fault]);
    // What is total, or there already, hides the other.
    let two = (fault.clone(), fault.clone()).prop_map(|(first, second)| {
        let hidden = first.kind.is_total() || first.kind == second.kind;
        match hidden || first.kind.is_blind_with(second.kind) {
            true => vec![first],
            false => vec![first, second],
        }
    });
    let one_or_two = prop_oneof![4 => one, 1 => two];
    prop_oneof![
        6 => (one_or_two, any::<bool>()).prop_map(|(faults, noticed)| Op::Break { faults, noticed }),
        2 => (fault, 1u8..5, prop_oneof![Just(0), 1u16..500])
            .prop_map(|(fault, times, lasting)| Op::Flap { fault, times, lasting }),
    ]
    .boxed()
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("faults", &self.kinds)
            .finish_non_exhaustive()
    }
}
