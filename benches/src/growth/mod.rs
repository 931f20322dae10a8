//! How cost grows: against channels, subscriptions, nodes and the length of a message, over at least three decades each.

mod axes;
mod curve;
mod report;

use std::time::Duration;

use serde::Serialize;

pub use self::curve::{Curve, Verdict};
pub use self::report::{charts, json, markdown, tables, text};
use crate::error::Result;
use crate::machine::About;
use crate::server::OwnServer;

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// How often everything is measured; medians are taken over the rounds.
    pub rounds: usize,
    /// How long a cost is measured in a round, at least.
    pub span: Duration,
    /// Numbers of channels.
    pub channels: Vec<usize>,
    /// Numbers of subscriptions of one channel.
    pub subscriptions: Vec<usize>,
    /// Numbers of nodes.
    pub nodes: Vec<usize>,
    /// Lengths of a message.
    pub payloads: Vec<usize>,
    /// Whether it is the short form.
    pub quick: bool,
}

impl Plan {
    /// What the page of numbers is made with.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rounds: 5,
            span: Duration::from_millis(100),
            channels: vec![100, 1000, 10_000, 100_000],
            subscriptions: vec![10, 100, 1000, 10_000],
            nodes: vec![1, 10, 100, 1000],
            payloads: vec![16, 256, 4 << 10, 64 << 10, 1 << 20],
            quick: false,
        }
    }

    /// One round.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: 1,
            span: Duration::from_millis(50),
            quick: true,
            ..Self::full()
        }
    }

    /// To see that it runs: its figures mean nothing.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            span: Duration::from_millis(2),
            channels: vec![10, 100],
            subscriptions: vec![1, 10],
            nodes: vec![1, 3],
            payloads: vec![16, 256],
            ..Self::quick()
        }
    }
}

/// What a run has measured.
#[derive(Debug)]
pub struct Growth {
    /// Where and with what.
    pub about: About,
    /// How much.
    pub plan: Plan,
    /// One curve for each cost, axis and backend.
    pub curves: Vec<Curve>,
}

impl Growth {
    /// Starts servers and measures. `progress` is told of each step.
    ///
    /// # Errors
    /// [`Error`](crate::error::Error): no server, or a measurement that is void.
    pub async fn run(plan: Plan, mut progress: impl FnMut(&str)) -> Result<Self> {
        let server = OwnServer::start().await?;
        let about = About::this_machine(server.version(), 128, plan.rounds, plan.quick);
        let mut growth = Self {
            about,
            plan: plan.clone(),
            curves: Vec::new(),
        };
        for round in 0..plan.rounds {
            let of = format!("of round {} of {}", round + 1, plan.rounds);
            progress(&format!("payloads {of}"));
            axes::payloads(&mut growth, &server).await?;
            progress(&format!("subscriptions {of}"));
            axes::subscriptions(&mut growth, &server).await?;
            progress(&format!("channels {of}"));
            axes::channels(&mut growth, &server).await?;
            progress(&format!("nodes {of}"));
            axes::nodes(&mut growth, &server).await?;
        }
        Ok(growth)
    }

    /// Adds a value in seconds.
    fn push(&mut self, axis: Axis, cost: &'static str, who: &'static str, size: usize, value: f64) {
        let is_it = |curve: &&mut Curve| (curve.axis, curve.cost, curve.who) == (axis, cost, who);
        match self.curves.iter_mut().find(is_it) {
            Some(curve) => curve.push(size, value),
            None => {
                let mut curve = Curve::new(axis, cost, who);
                curve.push(size, value);
                self.curves.push(curve);
            }
        }
    }
}

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// The number of channels.
    Channels,
    /// The number of subscriptions of one channel on one node.
    Subscriptions,
    /// The number of nodes with a subscription of one channel.
    Nodes,
    /// The length of a message.
    Payload,
}

impl Axis {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::Channels,
        Self::Subscriptions,
        Self::Nodes,
        Self::Payload,
    ];

    /// What it is called in tables and plots.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Channels => "channels of a node",
            Self::Subscriptions => "subscriptions of one channel, on one node",
            Self::Nodes => "nodes with a subscription of one channel",
            Self::Payload => "bytes in a message",
        }
    }

    /// What the costs along it are.
    #[must_use]
    pub const fn note(self) -> &'static str {
        match self {
            Self::Channels => {
                "Publish: to one of them, until it is received by the same node. Subscribe all: to all in one call. Subscribe \
                 each: a subscription for each, 1024 calls under way. Back after kill: from a kill of all connections \
                 until all are in force again."
            }
            Self::Subscriptions => {
                "Publish: until the last subscription, a parked task, has the message."
            }
            Self::Nodes => {
                "Publish: until the last node has the message. Connect: all, one after the other. Every node is in one process."
            }
            Self::Payload => "Publish: until another node has the message. One message at a time.",
        }
    }
}
