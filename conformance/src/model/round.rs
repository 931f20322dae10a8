//! One round of a soak: [`Round`], on the backplane itself or on hubs.

use std::sync::Arc;

use backplane_core::{NodeOptions, Order, Prefix, Requirement};
use rand::rngs::StdRng;

use super::account::{Account, Violation};
use super::hub;
use super::op::Op;
use super::reference::{State, supported};
use super::system::System;
use crate::harness::{Harness, NodeSpec, Start};
use crate::trial::chain;

/// What a soak does its operations on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The backplane itself.
    Backplane,
    /// Hubs on its nodes: connections, groups and users.
    Hub,
}

/// What is under test in one round, and what comes next.
#[derive(Debug)]
pub(super) enum Round {
    Backplane(Box<(System, State)>),
    Hub(Box<hub::System>),
}

/// An operation of either.
#[derive(Debug)]
pub(super) enum AnyOp {
    Backplane(Op),
    Hub(hub::Op),
}

impl Round {
    pub(super) fn new(
        part: Part,
        harness: &Arc<dyn Harness>,
        tag: &str,
        seed: u64,
        scale: f64,
    ) -> Self {
        let of = Arc::clone(harness);
        match part {
            Part::Backplane => {
                let state = State::new(supported(&**harness));
                Self::Backplane(Box::new((System::new(of, tag, seed, scale), state)))
            }
            Part::Hub => Self::Hub(Box::new(hub::System::new(of, tag, seed, scale))),
        }
    }

    /// Chooses an operation, or takes the one that checks everything.
    pub(super) fn next(&self, check: bool, rng: &mut StdRng) -> AnyOp {
        match (self, check) {
            (Self::Backplane(_), true) => AnyOp::Backplane(Op::Checkpoint),
            (Self::Hub(_), true) => AnyOp::Hub(hub::Op::Checkpoint),
            (Self::Backplane(of), false) => AnyOp::Backplane(of.1.draw(rng)),
            (Self::Hub(system), false) => AnyOp::Hub(system.draw(rng)),
        }
    }

    /// Does an operation.
    pub(super) async fn apply(&mut self, op: &AnyOp) -> Result<(), String> {
        match (self, op) {
            (Self::Backplane(of), AnyOp::Backplane(op)) => {
                of.0.apply(op).await?;
                of.1 = of.1.clone().next(op);
                Ok(())
            }
            (Self::Hub(system), AnyOp::Hub(op)) => system.apply(op).await,
            // Operations come from the round that they are for.
            _ => Ok(()),
        }
    }

    /// Checks everything, closes every node, and checks that nothing of them is left.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        match self {
            Self::Backplane(of) => of.0.finish().await,
            Self::Hub(system) => system.finish().await,
        }
    }

    pub(super) fn account(&self) -> Account {
        match self {
            Self::Backplane(of) => of.0.account(),
            Self::Hub(system) => system.account(),
        }
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Backplane(of) => of.0.violations(),
            Self::Hub(system) => system.violations(),
        }
    }
}

impl AnyOp {
    /// The operation, in words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Backplane(op) => format!("{op:?}"),
            Self::Hub(op) => format!("{op:?}"),
        }
    }
}

impl Part {
    /// What a round with this seed is on, where both are.
    pub(super) const fn of_seed(seed: u64) -> Self {
        match seed % 2 {
            0 => Self::Backplane,
            _ => Self::Hub,
        }
    }
}

/// Whether the backend declares what a hub is built on.
pub(super) async fn has_hubs(harness: &dyn Harness) -> Result<bool, String> {
    let prefix = Prefix::new(format!("soak-{:016x}", rand::random::<u64>()));
    let prefix = prefix.unwrap_or_else(|_| Prefix::unprefixed());
    let spec = NodeSpec {
        options: NodeOptions::new(prefix),
        start: Start::Eager,
        reachable: false,
    };
    let made = harness.node(&spec).await;
    let node = made.map_err(|error| format!("a node cannot be made: {}", chain(&error)))?;
    let capabilities = node.capabilities();
    node.close().await;
    Ok(Requirement::Order(Order::Publisher).is_met_by(&capabilities))
}
