//! What the model does to a backend: [`Op`].

use std::fmt;

use backplane_core::NodeId;

use super::ledger::Topic;
use crate::harness::Fault;

/// How many nodes there are at most.
pub(crate) const NODES: usize = 4;

/// How many subscriptions there are at most.
pub(crate) const SUBSCRIPTIONS: usize = 6;

/// How many prefixes there are.
pub(crate) const PREFIXES: u8 = 2;

/// How many channels there are.
pub(crate) const TOPICS: u8 = 3;

/// One operation. Nodes and subscriptions are named by their places in the model, which are used again.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Makes a node.
    Open(OpenNode),
    /// Closes a node, and waits for the end.
    Close {
        /// Its place.
        node: usize,
    },
    /// Drops a node.
    Drop {
        /// Its place.
        node: usize,
    },
    /// Makes a subscription.
    Subscribe(NewSubscription),
    /// Adds channels to a subscription.
    Add {
        /// Its place.
        subscription: usize,
        /// The channels.
        topics: Topics,
        /// Whether an outage defers it.
        deferred: bool,
        /// The call is dropped after so many polls.
        cancel: Option<u8>,
    },
    /// Removes channels from a subscription.
    Remove {
        /// Its place.
        subscription: usize,
        /// The channels.
        topics: Topics,
    },
    /// Drops a subscription.
    Leave {
        /// Its place.
        subscription: usize,
    },
    /// Reads no more of a subscription.
    Pause {
        /// Its place.
        subscription: usize,
    },
    /// Reads on.
    Resume {
        /// Its place.
        subscription: usize,
    },
    /// Publishes one message and waits for its outcome.
    Publish {
        /// The publisher.
        node: usize,
        /// The channel.
        topic: Topic,
    },
    /// Publishes messages without waiting between them.
    Burst {
        /// The publisher.
        node: usize,
        /// The channels, in turn.
        topics: Topics,
        /// How many.
        count: u8,
    },
    /// Every node publishes, at once.
    Storm {
        /// How many each.
        count: u8,
    },
    /// A publish among others is dropped after so many polls.
    Cancel {
        /// The publisher.
        node: usize,
        /// The channel.
        topic: Topic,
        /// How many others are begun before it, and again after it.
        others: u8,
        /// How often it is polled.
        polls: u8,
    },
    /// Publishes messages in one call, among others that are published one by one.
    Together {
        /// The publisher.
        node: usize,
        /// The channel.
        topic: Topic,
        /// How many others are begun before it, and again after it.
        others: u8,
        /// How many messages the call has.
        count: u8,
        /// The call is dropped after so many polls.
        cancel: Option<u8>,
    },
    /// Makes faults, one after the other, while every node publishes.
    Break {
        /// The faults.
        faults: Vec<Break>,
        /// Whether to go on until the nodes have noticed.
        noticed: bool,
    },
    /// Makes a fault and ends it, several times, while every node publishes.
    Flap {
        /// The fault.
        fault: Break,
        /// How often.
        times: u8,
        /// How long the fault lasts each time, in milliseconds.
        lasting: u16,
    },
    /// Ends every fault.
    Heal {
        /// Whether every node publishes meanwhile.
        traffic: bool,
        /// Whether to go on until the nodes are attached.
        settled: bool,
    },
    /// Ends every fault, waits until the nodes are well, and checks everything.
    Checkpoint,
}

/// A node to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenNode {
    /// Its place.
    pub node: usize,
    /// The number of its prefix.
    pub prefix: u8,
    /// Whether the constructor is the one that does not need the broker.
    pub lazy: bool,
    /// Whether faults that need a way do not reach it.
    pub direct: bool,
    /// Whether its subscriptions have small queues.
    pub small_queue: bool,
    /// Whether its heart beats quickly.
    pub quick: bool,
}

/// A subscription to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewSubscription {
    /// Its place.
    pub subscription: usize,
    /// Its node.
    pub node: usize,
    /// Its channels.
    pub topics: Topics,
    /// Whether it leaves out its node's own messages.
    pub without_own: bool,
    /// Whether an outage defers it.
    pub deferred: bool,
    /// How many messages its queue holds.
    pub capacity: Option<u8>,
    /// The call is dropped after so many polls.
    pub cancel: Option<u8>,
}

/// A fault to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Break {
    /// Its kind.
    pub kind: FaultKind,
    /// Which node it is about, if it is about one.
    pub node: usize,
}

/// On one line in either form, because a failed test prints a long list of them.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(open) => write!(f, "Open({open:?})"),
            Self::Close { node } => write!(f, "Close {{ node: {node} }}"),
            Self::Drop { node } => write!(f, "Drop {{ node: {node} }}"),
            Self::Subscribe(new) => write!(f, "Subscribe({new:?})"),
            Self::Add {
                subscription,
                topics,
                deferred,
                cancel,
            } => write!(
                f,
                "Add {{ subscription: {subscription}, topics: {topics:?}, deferred: {deferred}, cancel: {cancel:?} }}"
            ),
            Self::Remove {
                subscription,
                topics,
            } => write!(
                f,
                "Remove {{ subscription: {subscription}, topics: {topics:?} }}"
            ),
            Self::Leave { subscription } => write!(f, "Leave {{ subscription: {subscription} }}"),
            Self::Pause { subscription } => write!(f, "Pause {{ subscription: {subscription} }}"),
            Self::Resume { subscription } => write!(f, "Resume {{ subscription: {subscription} }}"),
            Self::Publish { node, topic } => {
                write!(f, "Publish {{ node: {node}, topic: {topic} }}")
            }
            Self::Burst {
                node,
                topics,
                count,
            } => write!(
                f,
                "Burst {{ node: {node}, topics: {topics:?}, count: {count} }}"
            ),
            Self::Storm { count } => write!(f, "Storm {{ count: {count} }}"),
            Self::Cancel {
                node,
                topic,
                others,
                polls,
            } => write!(
                f,
                "Cancel {{ node: {node}, topic: {topic}, others: {others}, polls: {polls} }}"
            ),
            Self::Together {
                node,
                topic,
                others,
                count,
                cancel,
            } => write!(
                f,
                "Together {{ node: {node}, topic: {topic}, others: {others}, count: {count}, cancel: {cancel:?} }}"
            ),
            Self::Break { faults, noticed } => {
                write!(f, "Break {{ faults: {faults:?}, noticed: {noticed} }}")
            }
            Self::Flap {
                fault,
                times,
                lasting,
            } => write!(
                f,
                "Flap {{ fault: {fault:?}, times: {times}, lasting: {lasting} }}"
            ),
            Self::Heal { traffic, settled } => {
                write!(f, "Heal {{ traffic: {traffic}, settled: {settled} }}")
            }
            Self::Checkpoint => f.write_str("Checkpoint"),
        }
    }
}

/// A set of channels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Topics(pub(crate) u8);

impl Topics {
    pub(crate) fn iter(self) -> impl Iterator<Item = Topic> + Clone {
        (0..TOPICS).filter(move |topic| self.0 >> topic & 1 == 1)
    }

    pub(crate) fn to_vec(self) -> Vec<Topic> {
        self.iter().collect()
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // they are those of `Fault`
#[non_exhaustive]
pub enum FaultKind {
    Kill,
    Stop,
    Freeze,
    Mute,
    KillSubscribers,
    KillPublishers,
    Isolate,
    RefuseNew,
    Unanswered,
    Delay,
    Trickle,
    CutInSubscribe,
    CutInPublish,
    Overrun,
    OutOfMemory,
    MaxClients,
    RevokeAuth,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Kill,
        Self::Stop,
        Self::Freeze,
        Self::Mute,
        Self::KillSubscribers,
        Self::KillPublishers,
        Self::Isolate,
        Self::RefuseNew,
        Self::Unanswered,
        Self::Delay,
        Self::Trickle,
        Self::CutInSubscribe,
        Self::CutInPublish,
        Self::Overrun,
        Self::OutOfMemory,
        Self::MaxClients,
        Self::RevokeAuth,
    ];

    /// The fault, about this node if it is about one.
    #[must_use]
    pub const fn about(self, node: NodeId) -> Fault {
        match self {
            Self::Kill => Fault::Kill,
            Self::Stop => Fault::Stop,
            Self::Freeze => Fault::Freeze,
            Self::Mute => Fault::Mute,
            Self::KillSubscribers => Fault::KillSubscribers,
            Self::KillPublishers => Fault::KillPublishers,
            Self::Isolate => Fault::Isolate(node),
            Self::RefuseNew => Fault::RefuseNew,
            Self::Unanswered => Fault::Unanswered,
            Self::Delay => Fault::Delay,
            Self::Trickle => Fault::Trickle,
            Self::CutInSubscribe => Fault::CutInSubscribe(node),
            Self::CutInPublish => Fault::CutInPublish(node),
            Self::Overrun => Fault::Overrun(node),
            Self::OutOfMemory => Fault::OutOfMemory,
            Self::MaxClients => Fault::MaxClients,
            Self::RevokeAuth => Fault::RevokeAuth,
        }
    }

    /// Whether it is over as soon as it was made.
    pub(crate) const fn is_momentary(self) -> bool {
        matches!(self, Self::KillSubscribers | Self::KillPublishers)
    }

    /// Whether it ends every way to the broker, so that no other fault can be made.
    pub(crate) const fn is_total(self) -> bool {
        matches!(self, Self::Kill | Self::Stop | Self::Freeze)
    }

    /// Whether it loses messages of which nobody can tell before a node has noticed it, so that it must not end
    /// earlier (rule L7).
    pub(crate) const fn must_be_noticed(self) -> bool {
        matches!(self, Self::Mute)
    }

    /// Whether nodes cannot notice one of two faults, which they must, while the other is in force. While a broker
    /// refuses messages it is alive as long as it answers (rule L10), so that nobody asks whether it delivers (rule L7).
    pub(crate) const fn is_blind_with(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Mute, Self::OutOfMemory) | (Self::OutOfMemory, Self::Mute)
        )
    }

    /// Whether nodes lose their connections by it, or give them up.
    pub(crate) const fn is_noticed(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::Stop
                | Self::Freeze
                | Self::Mute
                | Self::Isolate
                | Self::Unanswered
                | Self::RevokeAuth
        )
    }

    pub(crate) const fn is_about_one_node(self) -> bool {
        matches!(
            self,
            Self::Isolate | Self::CutInSubscribe | Self::CutInPublish | Self::Overrun
        )
    }

    /// Its name in an account.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Freeze => "freeze",
            Self::Mute => "mute",
            Self::KillSubscribers => "kill_subscribers",
            Self::KillPublishers => "kill_publishers",
            Self::Isolate => "isolate",
            Self::RefuseNew => "refuse_new",
            Self::Unanswered => "unanswered",
            Self::Delay => "delay",
            Self::Trickle => "trickle",
            Self::CutInSubscribe => "cut_in_subscribe",
            Self::CutInPublish => "cut_in_publish",
            Self::Overrun => "overrun",
            Self::OutOfMemory => "out_of_memory",
            Self::MaxClients => "max_clients",
            Self::RevokeAuth => "revoke_auth",
        }
    }
}
