//! Calls clients, counts and lists them, and wants something of those that have gone.

use std::collections::BTreeMap;
use std::time::Duration;

use backplane_core::NodeId;
use backplane_core::hub::{Answers, ConnectionId, InvokeError, RequestError};

use super::{Gone, Node, REQUEST_TIMEOUT, System, group};
use crate::model::breaker;
use crate::model::hub::client::{Client, REFUSAL};
use crate::model::hub::op::{Call, Want};
use crate::model::hub::record::{Sure, Target};
use crate::model::patience::Patience;
use crate::trial::chain;

/// How long a call waits for a client that answers, and for one that does not.
const PATIENCE: Duration = Duration::from_secs(2);
const IMPATIENCE: Duration = Duration::from_millis(50);

/// Within what time a call that gets through is with its client.
const HEARD: Duration = Duration::from_millis(300);

impl System {
    pub(super) async fn invoke(&mut self, at: usize, client: usize, call: Call) {
        self.calls += 1;
        let question = call.question(self.calls);
        let (Some(node), Some(client)) = (self.node(at), &self.clients[client]) else {
            return;
        };
        let Some(home) = self.node(client.node) else {
            return;
        };
        let patience = match call {
            Call::Silent => IMPATIENCE,
            _ => PATIENCE,
        };
        let patience = patience.mul_f64(self.scale);
        let invoke = node
            .hub
            .invoke(client.connection(), question.clone(), patience);
        let Some(answer) = self.in_time("an invoke", patience, invoke).await else {
            return;
        };
        let what = format!("a call ({call:?}) of {:?}", client.id);
        match (call, answer) {
            (Call::Echo, Ok(answer)) if answer.bytes() == question.bytes() => {}
            (Call::Fail, Err(InvokeError::Client(why))) if why == REFUSAL => {}
            (Call::Silent, Err(InvokeError::Timeout { .. })) => {}
            (_, Err(InvokeError::QueueFull(_))) if client.small => {}
            (_, Err(InvokeError::Timeout { .. })) => {
                return self.suspect(format!("{what} was not answered"));
            }
            (_, Err(InvokeError::Request(error))) => return self.judge(&what, &error, home.id),
            (_, other) => return self.unexpected(format!("{what} gave {other:?}")),
        }
        self.done("invoke");
    }

    /// Disconnects a client that is asked something.
    pub(super) async fn hang_up(&mut self, client: &Client, through: usize) {
        self.calls += 1;
        let number = self.calls;
        let (Some(node), Some(home)) = (self.node(through), self.node(client.node)) else {
            return client.handle.disconnect();
        };
        let patience = PATIENCE.mul_f64(self.scale);
        let question = Call::Silent.question(number);
        let call = node.hub.invoke(client.connection(), question, patience);
        let cut = async {
            // While nothing gets through it is not asked at all.
            let asked = || client.asked() == number;
            let asked = Patience::of(HEARD.mul_f64(self.scale)).until(asked).await;
            client.handle.disconnect();
            asked
        };
        let call = self.in_time("a call of a client that disconnects", patience, call);
        let (answer, asked) = tokio::join!(call, cut);
        let what = format!("a call of {:?}, which disconnects", client.id);
        match answer {
            Some(Err(InvokeError::Disconnected(_))) => self.done("hang up"),
            Some(Err(InvokeError::Request(RequestError::UnknownConnection(_)))) if !asked => {}
            Some(Err(InvokeError::QueueFull(_))) if client.small => {}
            Some(Err(InvokeError::Timeout { .. })) => {
                self.suspect(format!("{what} was not told so"));
            }
            Some(Err(InvokeError::Request(error))) => self.judge(&what, &error, home.id),
            Some(other) => self.unexpected(format!("{what} gave {other:?}")),
            None => {}
        }
    }

    /// Wants something of a client that has gone.
    pub(super) async fn stray(&self, at: usize, gone: usize, want: Want) {
        let (Some(node), Some(gone)) = (self.node(at), self.gone.get(gone)) else {
            return;
        };
        let id = gone.connection;
        let limit = REQUEST_TIMEOUT.max(PATIENCE).mul_f64(self.scale);
        let call = async {
            let hub = &node.hub;
            let done = match want {
                Want::Join => hub.join(id, group(0)).await.map(drop),
                Want::Leave => hub.leave(id, group(0)).await,
                Want::Disconnect => hub.disconnect(id).await,
                Want::Invoke => {
                    let question = Call::Echo.question(0);
                    return hub.invoke(id, question, limit).await.map(drop);
                }
            };
            done.map_err(InvokeError::Request)
        };
        let what = format!("{want:?} of a client that has gone");
        match self.in_time(&what, limit, call).await {
            Some(Ok(())) => self.unexpected(format!("{what} was done")),
            Some(Err(InvokeError::Request(error))) if self.is_true(&error, gone) => {
                self.done("stray");
            }
            Some(Err(error)) => self.suspect(format!("{what} failed: {}", chain(&error))),
            None => {}
        }
    }

    pub(super) async fn count(&self, at: usize, of: &Target) {
        let Some(node) = self.node(at) else {
            return;
        };
        let call = node.hub.count(self.target(of));
        let limit = (REQUEST_TIMEOUT + breaker::PUBLISH_TIMEOUT).mul_f64(self.scale);
        match self.in_time("a count", limit, call).await {
            Some(Ok(answers)) => {
                self.complete("a count", &answers);
                for (node, count) in answers {
                    let (least, most) = self.expected(node, of);
                    let range = least.len() as u64..=(least.len() + most.len()) as u64;
                    if !range.contains(&count) {
                        self.unexpected(format!(
                            "a count of {of:?} says {count} of node {node}, and there are {range:?}"
                        ));
                    }
                }
                self.done("count");
            }
            Some(Err(error)) => self.unexpected(format!("a count failed: {}", chain(&error))),
            None => {}
        }
    }

    pub(super) async fn list(&self, at: usize, of: &Target) {
        let Some(node) = self.node(at) else {
            return;
        };
        let call = node.hub.connections(self.target(of));
        let limit = (REQUEST_TIMEOUT + breaker::PUBLISH_TIMEOUT).mul_f64(self.scale);
        match self.in_time("a list", limit, call).await {
            Some(Ok(answers)) => {
                self.complete("a list", &answers);
                for (node, list) in answers {
                    let (least, most) = self.expected(node, of);
                    let mut left = least;
                    for info in &list {
                        let owed = left.iter().position(|id| *id == info.id);
                        let known = owed.map(|at| left.swap_remove(at));
                        if known.is_none() && !most.contains(&info.id) {
                            self.unexpected(format!(
                                "a list of {of:?} has {} of node {node}, which it does not mean, or twice",
                                info.id
                            ));
                        }
                    }
                    if !left.is_empty() {
                        self.unexpected(format!("a list of {of:?} lacks {left:?} of node {node}"));
                    }
                }
                self.done("list");
            }
            Some(Err(error)) => self.unexpected(format!("a list failed: {}", chain(&error))),
            None => {}
        }
    }

    /// Judges who has answered: without a fault every node does, and at any time none twice.
    fn complete<T>(&self, what: &str, answers: &Answers<T>) {
        let mut nodes: Vec<NodeId> = answers.iter().map(|(node, _)| node).collect();
        nodes.sort_unstable();
        let mut live: Vec<NodeId> = self.live().map(|node| node.backplane.node_id()).collect();
        live.sort_unstable();
        if !answers.complete() || nodes != live {
            let missing = answers.missing();
            self.suspect(format!(
                "{what} is answered by {nodes:?} of {live:?}, settled {}, and missing are {missing:?}",
                answers.settled()
            ));
        }
        nodes.dedup();
        if nodes.len() != answers.iter().count() {
            self.unexpected(format!("{what} has two answers of one node"));
        }
    }

    /// The connections of a node that a target means for sure, and those that it may.
    fn expected(&self, node: NodeId, of: &Target) -> (Vec<ConnectionId>, Vec<ConnectionId>) {
        let mut by: BTreeMap<Sure, Vec<ConnectionId>> = BTreeMap::new();
        let record = self.record.lock();
        for client in self.clients.iter().flatten() {
            let home = self.node(client.node);
            if home.is_some_and(|home: &Node| home.backplane.node_id() == node) {
                let means = record.means(of, client.id);
                by.entry(means).or_default().push(client.connection());
            }
        }
        let mut take = |sure| by.remove(&sure).unwrap_or_default();
        (take(Sure::Yes), take(Sure::Maybe))
    }

    /// Whether an error about a client that has gone is the right one.
    fn is_true(&self, error: &RequestError, gone: &Gone) -> bool {
        let is_open = self.live().any(|node| node.id == gone.hub);
        match error {
            RequestError::UnknownConnection(id) => is_open && *id == gone.connection,
            RequestError::NodeGone(_) => !is_open,
            _ => false,
        }
    }
}
