//! Connects and disconnects clients, and puts them into groups.

use std::time::Duration;

use backplane_core::Subscribed;
use backplane_core::hub::{Connect, Ended, HubError, HubStats, RequestError};

use super::{GONE, Gone, Node, REQUEST_TIMEOUT, System, group, user};
use crate::model::breaker;
use crate::model::hub::client::Client;
use crate::model::hub::op::Way;
use crate::model::hub::record::{Group, Outcome, Sure, User};
use crate::trial::chain;

/// How many messages wait for a client with a small queue.
const SMALL: usize = 4;

/// How many wait for another one: more than there are in a round.
const LARGE: usize = 100_000;

impl System {
    pub(super) async fn connect(&mut self, at: usize, node: usize, of: Option<User>, small: bool) {
        let Some(on) = self.node(node) else {
            return;
        };
        let mut request =
            Connect::new()
                .with_gaps()
                .queue_capacity(if small { SMALL } else { LARGE });
        if let Some(of) = of {
            request = request.user(user(of));
        }
        let limit = breaker::SUBSCRIBE_TIMEOUT.mul_f64(self.scale);
        let call = on.hub.connect(request);
        match self.in_time("a connect", limit, call).await {
            Some(Ok(connection)) => {
                let id = self.record.lock().connect(on.id, of, small);
                let client = Client::start((id, node, small), connection, &self.record);
                self.clients[at] = Some(client);
                self.done("connect");
            }
            Some(Err(error @ HubError::Subscribe(_))) => {
                self.suspect(format!("a client cannot connect: {}", chain(&error)));
            }
            Some(Err(error)) => self.unexpected(format!("a client cannot connect: {error}")),
            None => {}
        }
    }

    pub(super) async fn disconnect(&mut self, at: usize, way: Way) {
        let Some(client) = self.clients[at].take() else {
            return;
        };
        let Some(hub) = self.node(client.node).map(|node| node.id) else {
            return;
        };
        let connection = client.connection();
        self.record.lock().disconnect(client.id);
        self.forget(Gone { connection, hub });
        let name = match way {
            Way::Drop => {
                client.cut().await;
                return self.done("disconnect");
            }
            Way::Handle => {
                client.handle.disconnect();
                "disconnect"
            }
            Way::Asked(through) => {
                self.hang_up(&client, through).await;
                "disconnect"
            }
            Way::Through(through) => {
                let Some(node) = self.node(through) else {
                    return;
                };
                let limit = REQUEST_TIMEOUT.mul_f64(self.scale);
                let call = node.hub.disconnect(connection);
                let call = self
                    .in_time("a disconnect through a hub", limit, call)
                    .await;
                if let Some(Err(error)) = &call {
                    self.judge("a disconnect through a hub", error, hub);
                }
                // What it does not know it may do later, or not at all.
                client.handle.disconnect();
                "remote disconnect"
            }
        };
        let id = client.id;
        match client.ended(self.within()).await {
            Some(Ended::Disconnected | Ended::Removed) => self.done(name),
            Some(other) => self.unexpected(format!("{id:?} was disconnected and says {other:?}")),
            None => self.unexpected(format!("{id:?} was disconnected and does not end")),
        }
    }

    /// A join or a leave.
    pub(super) async fn change(&self, at: usize, of: Group, join: bool, through: Option<usize>) {
        let Some(client) = &self.clients[at] else {
            return;
        };
        let Some(home) = self.node(client.node) else {
            return;
        };
        let (id, name, home) = (client.id, group(of), home.id);
        let before = {
            let mut record = self.record.lock();
            let before = record.is_in(id, of);
            record.changing(id, of, join);
            before
        };
        let through = through.and_then(|through| self.node(through));
        let what = match (join, through.is_some()) {
            (true, false) => "join",
            (false, false) => "leave",
            (true, true) => "remote join",
            (false, true) => "remote leave",
        };
        let outcome = match (through, join) {
            (None, true) => {
                let limit = breaker::SUBSCRIBE_TIMEOUT.mul_f64(self.scale);
                let call = self.in_time("a join", limit, client.handle.join(&name));
                match call.await {
                    Some(Ok(subscribed)) => {
                        self.in_force(subscribed);
                        Outcome::Done
                    }
                    Some(Err(error @ HubError::Subscribe(_))) => {
                        self.suspect(format!("{id:?} cannot join: {}", chain(&error)));
                        Outcome::NotDone
                    }
                    Some(Err(error)) => {
                        self.unexpected(format!("{id:?} cannot join: {error}"));
                        Outcome::NotDone
                    }
                    None => Outcome::Unknown,
                }
            }
            (None, false) => {
                if let Err(error) = client.handle.leave(&name).await {
                    self.unexpected(format!("{id:?} cannot leave: {error}"));
                }
                Outcome::Done
            }
            (Some(node), _) => {
                let limit = REQUEST_TIMEOUT.mul_f64(self.scale);
                let connection = client.connection();
                let call = async {
                    match join {
                        true => node.hub.join(connection, &name).await.map(Some),
                        false => node.hub.leave(connection, &name).await.map(|()| None),
                    }
                };
                match self.in_time(what, limit, call).await {
                    Some(Ok(subscribed)) => {
                        subscribed.into_iter().for_each(|done| self.in_force(done));
                        Outcome::Done
                    }
                    Some(Err(error)) => {
                        self.judge(what, &error, home);
                        match error.is_not_done() {
                            true => Outcome::NotDone,
                            false => Outcome::Unknown,
                        }
                    }
                    None => Outcome::Unknown,
                }
            }
        };
        let hub = through.map_or(home, |node| node.id);
        self.record
            .lock()
            .changed(id, of, hub, join, (before, outcome));
        if outcome == Outcome::Done {
            self.done(what);
            self.agrees(at, of);
        }
    }

    /// Whether a client says of a group what is known.
    pub(super) fn agrees(&self, at: usize, of: Group) {
        let Some(client) = &self.clients[at] else {
            return;
        };
        let is_in = client.handle.groups().contains(&group(of));
        let known = self.record.lock().is_in(client.id, of);
        if known == Sure::Yes && !is_in || known == Sure::No && is_in {
            let id = client.id;
            self.unexpected(format!(
                "{id:?} says that it is in group {of}: {is_in}; known is: {known:?}"
            ));
        }
    }

    /// Judges why a request about a client that is there was not answered.
    pub(super) fn judge(
        &self,
        what: &str,
        error: &RequestError,
        home: crate::model::ledger::PublisherId,
    ) {
        let text = format!(
            "{what}, of a client on node {}, failed: {}",
            home.0,
            chain(error)
        );
        match error {
            RequestError::NodeGone(_)
            | RequestError::Timeout { .. }
            | RequestError::AnswerLost(_)
            | RequestError::Publish(_)
            | RequestError::Subscribe(_)
            | RequestError::Failed { .. } => self.suspect(text),
            _ => self.unexpected(text),
        }
    }

    /// Ends every client of a hub by closing the hub.
    pub(super) async fn close_hub(&mut self, at: usize, node: &Node) {
        self.record.lock().close(node.id);
        let hub = node.id;
        let mine = |client: &mut Client| client.node == at;
        let clients: Vec<Client> = self
            .clients
            .iter_mut()
            .filter_map(|place| place.take_if(mine))
            .collect();
        let limit = Duration::ZERO;
        let _ = self.in_time("closing a hub", limit, node.hub.close()).await;
        for client in clients {
            let (id, connection) = (client.id, client.connection());
            match client.ended(self.within()).await {
                Some(Ended::HubClosed) => {}
                other => self.unexpected(format!("{id:?}, whose hub was closed, says {other:?}")),
            }
            self.forget(Gone { connection, hub });
        }
        self.left_nothing(node).await;
    }

    /// Checks that nothing is left of a hub that was closed, or whose clients have gone.
    pub(super) async fn left_nothing(&self, node: &Node) {
        let now = || left(&node.hub.stats());
        if !self.until(|| now() == [0; 4]).await {
            let (id, now) = (node.id.0, now());
            self.unexpected(format!(
                "the hub of node {id} has (connections, rooms, requests, invocations) {now:?} left"
            ));
        }
    }

    fn in_force(&self, subscribed: Subscribed) {
        if subscribed == Subscribed::Deferred {
            self.suspect("a join is deferred");
        }
    }

    fn forget(&mut self, gone: Gone) {
        if self.gone.len() == GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(gone);
    }
}

pub(super) const fn left(stats: &HubStats) -> [u64; 4] {
    [
        stats.connections,
        stats.rooms,
        stats.requests,
        stats.invocations,
    ]
}
