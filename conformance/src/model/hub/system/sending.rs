//! Sends, and records what came of it.

use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::{ConnectionId, DeliveryMode, Hub, Payload, SendError, Sent, Target};
use backplane_core::{PublishError, PublishErrorKind};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Node, SLACK, SharedRecord, System};
use crate::model::account::{Class, Violation};
use crate::model::breaker;
use crate::model::hub::record::{self, ClientId, Name};
use crate::model::ledger::{Fate, MessageId, PublisherId};
use crate::trial::chain;

/// What sending takes.
#[derive(Debug)]
pub(super) struct Sender {
    id: PublisherId,
    hub: Hub,
    record: SharedRecord,
    connections: Vec<(ClientId, ConnectionId)>,
    local_first: bool,
    faulty: bool,
    limit: Duration,
}

impl Sender {
    /// Sends one message; returns it if it was accepted.
    pub(super) async fn send(&self, to: &record::Target) -> Option<MessageId> {
        self.record.lock().burst();
        self.one(to).await
    }

    /// Sends messages in order without waiting between them.
    pub(super) async fn burst(&self, to: &[record::Target]) {
        self.record.lock().burst();
        // The first poll is in this order.
        join_all(to.iter().map(|to| self.one(to))).await;
    }

    async fn one(&self, to: &record::Target) -> Option<MessageId> {
        let id = self.record.lock().attempt(self.id, to.clone());
        let payload = Payload::from(id.to_payload());
        let call = self.hub.send(target(to, &self.connections), payload);
        let Ok(outcome) = timeout(self.limit, call).await else {
            self.violate(format!("message {id} is not sent after {:?}", self.limit));
            self.record.lock().settle(id, Fate::Unknown);
            return None;
        };
        let (fate, local) = match &outcome {
            Ok(Sent { local, .. }) => (Fate::Accepted, *local),
            Err(error @ SendError::Publish { local, source, .. }) => {
                self.suspect(format!("message {id} was not sent: {}", chain(error)));
                (failed(source), *local)
            }
            Err(error) => {
                self.violate(format!("message {id} was not sent: {error}"));
                (Fate::NotSent, error.local())
            }
        };
        let (least, most) = {
            let mut record = self.record.lock();
            record.settle(id, fate);
            record.local(id)
        };
        let (least, most) = if self.local_first {
            (least, most)
        } else {
            (0, 0)
        };
        if !(least..=most).contains(&local) {
            self.violate(format!(
                "message {id} for {to:?} was said to reach {local} clients of its node, and reaches {least} to {most}"
            ));
        }
        (fate == Fate::Accepted).then_some(id)
    }

    fn violate(&self, text: String) {
        let violation = Violation::new(Class::Unexpected, 1, text);
        self.record.lock().violate(violation);
    }

    fn suspect(&self, text: String) {
        if !self.faulty {
            let violation = Violation::new(Class::Unexpected, 1, text);
            self.record.lock().suspect(violation);
        }
    }
}

impl System {
    pub(super) fn sender(&self, node: &Node) -> Sender {
        let limit = breaker::PUBLISH_TIMEOUT + SLACK;
        Sender {
            id: node.id,
            hub: node.hub.clone(),
            record: Arc::clone(&self.record),
            connections: self.addresses(),
            local_first: self.mode == DeliveryMode::LocalFirst,
            faulty: self.period.faulty,
            limit: limit.mul_f64(self.scale),
        }
    }

    pub(super) async fn send(&self, at: usize, to: &record::Target) {
        if let Some(node) = self.node(at)
            && self.sender(node).send(to).await.is_some()
        {
            self.done("send");
        }
    }

    pub(super) async fn burst(&self, at: usize, to: &[record::Target]) {
        if let Some(node) = self.node(at) {
            self.sender(node).burst(to).await;
            self.done("burst");
        }
    }

    /// Waits until everything has arrived that is owed, for a while.
    pub(super) async fn arrived(&self) {
        let owes = |client| self.record.lock().owes(client);
        let clients = self.record.lock().clients();
        // In an outage it may be lost, and the gap is not told yet.
        if self.breaker.faults().is_empty() {
            self.until(|| clients.iter().all(|client| owes(*client) == 0))
                .await;
        }
    }

    /// How a target is said to the hub.
    pub(super) fn target(&self, to: &record::Target) -> Target {
        target(to, &self.addresses())
    }

    fn addresses(&self) -> Vec<(ClientId, ConnectionId)> {
        let clients = self.clients.iter().flatten();
        clients
            .map(|client| (client.id, client.connection()))
            .collect()
    }
}

fn target(to: &record::Target, connections: &[(ClientId, ConnectionId)]) -> Target {
    let connection = |id: &ClientId| {
        let known = connections.iter().find(|(client, _)| client == id);
        known.map(|(_, connection)| *connection)
    };
    let include = to
        .include
        .iter()
        .fold(Target::connections([]), |target, name| {
            target.and(match name {
                Name::All => Target::all(),
                Name::Client(id) => Target::connections(connection(id)),
                Name::Group(group) => Target::group(super::group(*group)),
                Name::User(user) => Target::user(super::user(*user)),
            })
        });
    to.except.iter().fold(include, |target, name| match name {
        // Nobody is left out like this.
        Name::All => target,
        Name::Client(id) => target.except_connections(connection(id)),
        Name::Group(group) => target.except_group(super::group(*group)),
        Name::User(user) => target.except_user(super::user(*user)),
    })
}

fn failed(error: &PublishError) -> Fate {
    match error.kind() {
        PublishErrorKind::NotSent(_) => Fate::NotSent,
        PublishErrorKind::Unknown(_) => Fate::Unknown,
    }
}
