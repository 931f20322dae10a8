//! What the model does to hubs: [`Op`].

use super::record::{Group, Target, User};
use crate::model::op::Break;

/// How many nodes there are at most.
pub(super) const NODES: usize = 3;

/// How many clients there are at most.
pub(super) const CLIENTS: usize = 12;

/// One operation. Nodes and clients are named by their places, which are used again; a target names clients for ever.
#[derive(Clone, Debug)]
pub(in crate::model) enum Op {
    /// Makes a node and its hub.
    Open { node: usize },
    /// Closes a hub, and its node.
    Close { node: usize },
    /// Connects a client; `small`: with a queue that may overflow.
    Connect {
        client: usize,
        node: usize,
        user: Option<User>,
        small: bool,
    },
    /// Ends a client.
    Disconnect { client: usize, way: Way },
    /// Puts a client into a group, or takes it out, through a hub, or through its own handle. `quiet`: after everything that
    /// is owed has arrived.
    Change {
        client: usize,
        group: Group,
        join: bool,
        through: Option<usize>,
        quiet: bool,
    },
    /// Sends a message.
    Send { node: usize, to: Target },
    /// Sends messages without waiting between them.
    Burst { node: usize, to: Vec<Target> },
    /// Asks a client.
    Invoke {
        node: usize,
        client: usize,
        call: Call,
    },
    /// Wants something of a client that has gone.
    Stray {
        node: usize,
        gone: usize,
        want: Want,
    },
    /// Counts connections.
    Count { node: usize, of: Target },
    /// Lists connections.
    List { node: usize, of: Target },
    /// Makes a fault while messages are sent; `noticed`: and goes on until the nodes have noticed.
    Break {
        fault: Break,
        noticed: bool,
        node: usize,
        to: Vec<Target>,
    },
    /// Ends every fault; `settled`: and goes on until the nodes are attached.
    Heal { settled: bool },
    /// Ends every fault, waits until the nodes are well and know each other, and checks everything.
    Checkpoint,
}

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Way {
    /// Its handle says so.
    Handle,
    /// Its owner is dropped.
    Drop,
    /// A hub is told to.
    Through(usize),
    /// Its handle says so, while a hub waits for its answer to a call.
    Asked(usize),
}

/// What a client does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Call {
    /// It answers with what it was asked.
    Echo,
    /// It answers with an error.
    Fail,
    /// It does not answer.
    Silent,
}

/// What is wanted of a client that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Want {
    Join,
    Leave,
    Disconnect,
    Invoke,
}
