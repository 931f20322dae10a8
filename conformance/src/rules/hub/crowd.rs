//! Clients on several nodes, and who of them gets what: [`Crowd`].

use backplane_core::hub::{ConnectionId, DeliveryMode};

use super::cast::{Client, Hub};
use crate::hub::{ClientSpec, HubSpec, Recipients};
use crate::trial::{Node, Trial, ensure, show};
use crate::verdict::{Outcome, inconclusive};

/// On each node a client of each kind: its user, and its groups besides [`EVERYBODY`].
const KINDS: [(&str, &str, &[&str]); 4] = [
    ("a", "ann", &["g"]),
    ("b", "bob", &["g", "h"]),
    ("c", "cid", &["h"]),
    ("d", "dan", &[]),
];

/// The group of all.
const EVERYBODY: &str = "everybody";

/// Clients of every kind on every node: `a0` is that of kind a on the first.
pub(super) struct Crowd {
    pub(super) hubs: Vec<Hub>,
    clients: Vec<Client>,
    sent: usize,
}

/// Somebody to send to, and who that is: kinds, of which all are meant, or names.
pub(super) struct Case {
    pub(super) to: Recipients,
    pub(super) meant: &'static str,
}

/// How the sentinel goes to everybody: as what is under test does, so that nothing else has to work.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    All,
    Connections,
    Group,
    Users,
}

impl Crowd {
    pub(super) async fn on(trial: &Trial, nodes: &[Node], mode: DeliveryMode) -> Outcome<Self> {
        let spec = HubSpec::new(format!("{mode:?}")).delivery(mode);
        let hubs = Hub::on(trial, nodes, &spec).await?;
        let mut clients = Vec::new();
        for (node, hub) in hubs.iter().enumerate() {
            for (kind, user, groups) in KINDS {
                let client = ClientSpec::of(user);
                let client = hub.connect(format!("{kind}{node}"), &client).await?;
                client.join(EVERYBODY).await?;
                for group in groups {
                    client.join(group).await?;
                }
                clients.push(client);
            }
        }
        Ok(Self {
            hubs,
            clients,
            sent: 0,
        })
    }

    /// The connection of a client.
    pub(super) fn id(&self, name: &str) -> Outcome<ConnectionId> {
        match self.clients.iter().find(|client| client.name == name) {
            Some(client) => Ok(client.id()),
            None => inconclusive(format!("there is no client {name}")),
        }
    }

    /// The connections of clients.
    pub(super) fn ids(&self, names: &[&str]) -> Outcome<Recipients> {
        let ids = names.iter().map(|name| self.id(name));
        Ok(Recipients::connections(ids.collect::<Outcome<Vec<_>>>()?))
    }

    /// Sends on one of the nodes; each client that is meant must get it once, and the others not at all.
    pub(super) async fn check(&mut self, by: usize, case: &Case, end: End) -> Outcome {
        self.sent += 1;
        let (text, last) = (format!("no {}", self.sent), format!("end {}", self.sent));
        let Some(hub) = self.hubs.get(by) else {
            return inconclusive(format!("there is no hub {by}"));
        };
        hub.send(&case.to, text.as_str()).await?;
        for to in self.sentinels(end) {
            hub.send(&to, last.as_str()).await?;
        }
        let what = format!("what node {by} sent to {:?}", case.to);
        let text = show(text.as_bytes());
        for client in &mut self.clients {
            let came = client.up_to(&last).await?;
            let mut names = case.meant.split(' ');
            let is_meant =
                names.any(|m| m == client.name || client.name.starts_with(m) && m.len() == 1);
            let strange = came.iter().find(|other| **other != text);
            ensure(
                strange.is_none(),
                format!("{what}: {} got {strange:?}", client.name),
            )?;
            let (expected, name) = (usize::from(is_meant), &client.name);
            ensure(
                came.len() == expected,
                format!(
                    "{name} should get {expected} times, and got {} times, {what}",
                    came.len()
                ),
            )?;
        }
        Ok(())
    }

    fn sentinels(&self, end: End) -> Vec<Recipients> {
        let connection = |client: &Client| Recipients::connection(client.id());
        match end {
            End::All => vec![Recipients::all()],
            End::Connections => self.clients.iter().map(connection).collect(),
            End::Group => vec![Recipients::group(EVERYBODY)],
            End::Users => KINDS.map(|(_, user, _)| Recipients::user(user)).into(),
        }
    }
}
