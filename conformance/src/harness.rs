//! What the suite needs of a backend: a [`Harness`] that makes nodes, and, where it can, breaks the
//! broker ([`Faults`]) and looks at it from outside ([`Observer`]).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use backplane_core::{Backplane, Channel, ConnectError, NodeId, NodeOptions, Prefix};
use bytes::Bytes;

use crate::hub::{HubPort, RealHub};
use crate::wire::{EngineWire, Wire};

/// Makes nodes of the backend under test.
///
/// Only [`describe`](Harness::describe) and [`node`](Harness::node) are needed. What else is missing is
/// reported rule by rule, with its reason; nothing is skipped in silence.
#[async_trait]
pub trait Harness: fmt::Debug + Send + Sync + 'static {
    /// What is under test.
    fn describe(&self) -> Description;

    /// Makes a node as the spec says. All nodes of a harness share one broker.
    ///
    /// # Errors
    /// What the backend's constructor returns; with [`Start::Lazy`] it must not fail because the broker is
    /// away.
    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError>;

    /// Makes a node where a user may wrongly think that it is apart from those of [`node`](Harness::node) although it
    /// has the same prefix and the same broker: for Redis, with another database number (rule I7). `None`: the
    /// backend has nothing that looks like isolation and is none.
    async fn node_elsewhere(
        &self,
        _spec: &NodeSpec,
    ) -> Option<Result<Arc<dyn Backplane>, ConnectError>> {
        None
    }

    /// The means to break the broker.
    fn faults(&self) -> Option<&dyn Faults> {
        None
    }

    /// A look at the broker from outside.
    fn observer(&self) -> Option<&dyn Observer> {
        None
    }

    /// The frames that the backend reads, for the rules M1 and M2. Default: those of the engine of `backplane-core`,
    /// which every backend has that is a driver. `None`: the suite cannot write any.
    fn wire(&self) -> Option<&dyn Wire> {
        Some(&EngineWire)
    }

    /// The hub that section H is tried on, on the nodes of this harness. Default: that of `backplane-core`.
    fn hubs(&self) -> &dyn HubPort {
        &RealHub
    }

    /// Parses the backend's connection URL with one more option. `None`: it is configured without a URL.
    ///
    /// The error is the text that a user sees.
    fn parse_url_option(&self, _option: &str, _value: &str) -> Option<Result<(), String>> {
        None
    }

    /// A secret that the nodes were made with, such as the password, to look for where it must not be.
    fn secret(&self) -> Option<String> {
        None
    }

    /// Rules that the backend is known to break, each with the reason. They must still fail.
    fn known_failures(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Ends whatever the harness has running.
    async fn shut_down(&self) {}
}

/// What is under test, for the report.
///
/// ```
/// use backplane_conformance::Description;
///
/// let of = Description::new("mine").backend_version("0.3.1").fixture("process").server("7.0.15");
/// assert_eq!(of.server.as_deref(), Some("7.0.15"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The backend's name, such as `redis`.
    pub backend: String,
    /// The backend's own version, where it is known.
    pub backend_version: Option<String>,
    /// How its broker is provided, such as `process`; `none` where there is nothing to provide.
    pub fixture: String,
    /// The broker's version, where it has one.
    pub server: Option<String>,
}

impl Description {
    /// A backend of this name, with nothing to provide.
    #[must_use]
    pub fn new(backend: impl Into<String>) -> Self {
        Self {
            backend: backend.into(),
            backend_version: None,
            fixture: "none".to_owned(),
            server: None,
        }
    }

    /// Names the backend's own version, as `env!("CARGO_PKG_VERSION")` has it in its crate.
    #[must_use]
    pub fn backend_version(mut self, version: impl Into<String>) -> Self {
        self.backend_version = Some(version.into());
        self
    }

    /// Names how its broker is provided, such as `process`.
    #[must_use]
    pub fn fixture(mut self, fixture: impl Into<String>) -> Self {
        self.fixture = fixture.into();
        self
    }

    /// Names the broker's version.
    #[must_use]
    pub fn server(mut self, version: impl Into<String>) -> Self {
        self.server = Some(version.into());
        self
    }
}

/// A node to be made.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its options, the prefix included.
    pub options: NodeOptions,
    /// Which constructor to use.
    pub start: Start,
    /// Whether faults that [need a way](Fault::needs_a_way), such as [`Fault::Isolate`], must be able to reach it.
    pub reachable: bool,
}

/// Which constructor makes a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The one that fails when the broker is away.
    Eager,
    /// The one that returns a node that attaches when the broker appears.
    Lazy,
}

/// Something that happens to a broker, or to the way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The broker dies without a word, and is away until [`Faults::heal`].
    Kill,
    /// The broker shuts down in good order, and is away until healed.
    Stop,
    /// The broker is suspended: connections stay and nothing is answered, until healed.
    Freeze,
    /// Everything is answered and nothing is delivered, until healed. Reaches nodes that are
    /// [`reachable`](NodeSpec::reachable).
    Mute,
    /// Connections that carry subscriptions are broken, once.
    KillSubscribers,
    /// Connections that carry no subscriptions are broken, once.
    KillPublishers,
    /// One node, which must be [`reachable`](NodeSpec::reachable), is cut off until healed; the others
    /// go on.
    Isolate(NodeId),
    /// Connections that are open go on, and new ones of [`reachable`](NodeSpec::reachable) nodes are refused,
    /// until healed.
    RefuseNew,
    /// Connections of [`reachable`](NodeSpec::reachable) nodes are broken, and new ones are accepted and never
    /// answered, until healed.
    Unanswered,
    /// What travels to and from [`reachable`](NodeSpec::reachable) nodes takes longer, by a varying time, in order,
    /// until healed.
    Delay,
    /// What travels to and from [`reachable`](NodeSpec::reachable) nodes arrives a byte at a time, until healed.
    Trickle,
    /// The connections of one node, which must be [`reachable`](NodeSpec::reachable), are broken, once, while the
    /// next subscribe is on its way. It is armed when the call returns.
    CutInSubscribe(NodeId),
    /// Likewise, while the next publish is on its way.
    CutInPublish(NodeId),
    /// One node, which must be [`reachable`](NodeSpec::reachable), takes nothing that is delivered, until the
    /// broker has broken its connection off because too much piled up, or until healed.
    Overrun(NodeId),
    /// The broker is out of memory, or read-only, until healed: it may refuse what it is handed, and keeps its
    /// connections.
    OutOfMemory,
    /// The broker has no room for another connection, until healed; those that are open go on.
    MaxClients,
    /// The nodes' credentials are taken back and their connections broken, until healed.
    RevokeAuth,
}

impl Fault {
    /// Whether it reaches only nodes that are [`reachable`](NodeSpec::reachable).
    #[must_use]
    pub const fn needs_a_way(self) -> bool {
        matches!(
            self,
            Self::Mute
                | Self::Isolate(_)
                | Self::RefuseNew
                | Self::Unanswered
                | Self::Delay
                | Self::Trickle
                | Self::CutInSubscribe(_)
                | Self::CutInPublish(_)
                | Self::Overrun(_)
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Freeze => "freeze",
            Self::Mute => "mute",
            Self::KillSubscribers => "kill subscriber connections",
            Self::KillPublishers => "kill publisher connections",
            Self::Isolate(_) => "isolate a node",
            Self::RefuseNew => "refuse new connections",
            Self::Unanswered => "accept and never answer",
            Self::Delay => "delay",
            Self::Trickle => "trickle",
            Self::CutInSubscribe(_) => "cut during a subscribe",
            Self::CutInPublish(_) => "cut during a publish",
            Self::Overrun(_) => "overrun a node",
            Self::OutOfMemory => "out of memory",
            Self::MaxClients => "no room for connections",
            Self::RevokeAuth => "revoke credentials",
        })
    }
}

/// Breaks the broker on purpose.
#[async_trait]
pub trait Faults: Send + Sync {
    /// Whether a fault of this kind can be made (the node of `Isolate` does not matter).
    ///
    /// # Errors
    /// The reason why not.
    fn supports(&self, fault: Fault) -> Result<(), String>;

    /// Makes a fault, and returns when it is proven to be in force, and no later: nodes notice meanwhile, and some
    /// trials measure what they do (rule R1).
    ///
    /// # Errors
    /// What went wrong; the trial is then inconclusive.
    async fn inject(&self, fault: Fault) -> Result<(), String>;

    /// Ends every fault, and returns when the broker is proven to serve again. Does nothing when there is
    /// none.
    ///
    /// # Errors
    /// What went wrong; the trial is then inconclusive.
    async fn heal(&self) -> Result<(), String>;

    /// How many armed cuts ([`Fault::CutInSubscribe`] and [`Fault::CutInPublish`]) have happened since the harness
    /// was made. One is counted before the node can notice it, so that whoever sees its effect can also see
    /// here that it was the cut.
    ///
    /// A harness that supports these faults must say so here. One that can choose makes the two kinds by turns;
    /// an armed cut that did not happen is disarmed by [`heal`](Self::heal).
    fn cuts(&self) -> Cuts {
        Cuts::default()
    }
}

/// How many armed cuts have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Cuts {
    /// Before the broker got the request.
    pub before: u64,
    /// After the broker had done it, and before the node got the answer.
    pub after: u64,
}

impl Cuts {
    /// All of them.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.before + self.after
    }

    /// These and others.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self {
            before: self.before + others.before,
            after: self.after + others.after,
        }
    }
}

/// Looks at the broker from outside, over a connection of its own.
#[async_trait]
pub trait Observer: Send + Sync {
    /// How many subscriptions of a channel the broker has: one for each node that is subscribed.
    ///
    /// # Errors
    /// Why the broker cannot be asked.
    async fn subscriptions(&self, prefix: &Prefix, channel: &Channel) -> Result<u64, String>;

    /// How many connections of nodes the broker has.
    ///
    /// # Errors
    /// Why the broker cannot be asked.
    async fn connections(&self) -> Result<u64, String>;

    /// How many messages the broker has been handed since it started, for whatever channel. `None`: others use
    /// the broker too, so that the number would say nothing.
    ///
    /// # Errors
    /// Why the broker cannot be asked.
    async fn publishes(&self) -> Result<Option<u64>, String>;

    /// How many requests to subscribe the broker has been given since it started, whatever number of channels each
    /// had (rule S5). `None`: others use the broker too, or it does not count them.
    ///
    /// # Errors
    /// Why the broker cannot be asked.
    async fn subscribes(&self) -> Result<Option<u64>, String> {
        Ok(None)
    }

    /// Names the run of the broker: another one after it was started anew, which shows that it did not keep
    /// anything. `None`: it cannot be told.
    ///
    /// # Errors
    /// Why the broker cannot be asked.
    async fn run(&self) -> Result<Option<String>, String> {
        Ok(None)
    }

    /// Writes bytes to a channel as they are, as a stranger does that knows nothing of frames.
    ///
    /// # Errors
    /// Why that cannot be done.
    async fn write(&self, prefix: &Prefix, channel: &Channel, bytes: Bytes) -> Result<(), String>;

    /// Likewise, to the private channel on which a node of the engine hears its own
    /// [probes](backplane_core::driver::BrokerChannel::probe). `false`: that cannot be done, or the nodes have no such
    /// channel.
    ///
    /// # Errors
    /// Why it failed.
    async fn write_to_probes(
        &self,
        _prefix: &Prefix,
        _node: NodeId,
        _bytes: Bytes,
    ) -> Result<bool, String> {
        Ok(false)
    }
}
