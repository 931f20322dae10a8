//! Faults of a Redis server that goes on running: what it is told to refuse, and whom to break off.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backplane_core::NodeId;
use tokio::time::sleep;

use super::RedisHarness;
use crate::fixtures::Task;
use crate::fixtures::{ClientInfo, ClientKind, Mode, Proof, Proxy, RedisObserver, ServerFault};

/// What may wait for a subscriber in an overrun. Less than what the sockets on the way hold, and more than a node
/// that keeps up ever lets wait.
const OUTPUT_BUFFER: &str = "pubsub 1048576 0 0";

/// The pause between two looks at the clients of a server.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What was changed on the server, to be changed back.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<Changed>);

#[derive(Debug, Default)]
struct Changed {
    /// Settings, with their values of before.
    settings: Vec<(&'static str, String)>,
    /// What gives the nodes' user back what was taken from it.
    user: Vec<&'static str>,
    /// Open the paths of nodes that have been broken off.
    watchers: Vec<Task>,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedisHarness {
    /// Whether the server may be changed at all.
    pub(super) fn may_change_server(&self) -> Result<(), String> {
        match self.fixture {
            "url" => Err("the server behind --url is not ours to break".to_owned()),
            _ => Ok(()),
        }
    }

    /// Nothing reaches one node any more, until the server has broken its subscribing connection off.
    pub(super) async fn overrun(&self, node: NodeId) -> Result<(), String> {
        let path = self.paths.of(node)?;
        let name = format!("{}-{node}-", self.client_name);
        let is_its = |client: &ClientInfo| {
            client.name.starts_with(&name) && client.kind() == ClientKind::Pubsub
        };
        let clients = self.clients().await?.into_iter();
        let its: HashSet<u64> = clients.filter(is_its).map(|client| client.id).collect();
        if its.is_empty() {
            return Err(format!("node {node} has no subscribing connection"));
        }
        self.change("client-output-buffer-limit", OUTPUT_BUFFER)
            .await?;
        path.set(Mode::Stall).await.map_err(|e| e.to_string())?;
        let observer = Arc::clone(&self.observer);
        let watcher = self.backstage.spawn(open_when_gone(observer, path, its));
        self.changes.lock().watchers.push(watcher);
        Ok(())
    }

    /// The server has no memory for anything, and the nodes' user may only read: in the Redis of today `PUBLISH`
    /// needs no memory.
    pub(super) async fn run_out_of_memory(&self) -> Result<(), String> {
        self.change("maxmemory-policy", "noeviction").await?;
        self.change("maxmemory", "1").await?;
        self.prove(Proof::NoMemory).await?;
        self.change_user(&["-publish"], "+publish").await?;
        self.prove(Proof::ReadOnly).await
    }

    /// The server takes no connection more. So few are allowed that one which breaks makes no room.
    pub(super) async fn fill(&self) -> Result<(), String> {
        self.change("maxclients", "1").await?;
        self.prove(Proof::NoRoom).await
    }

    /// The nodes' password is wrong from now on. Connections that are open would go on, and are broken.
    pub(super) async fn revoke(&self) -> Result<(), String> {
        let other = format!(">{:032x}", rand::random::<u128>());
        self.change_user(&["resetpass", &other], "nopass").await?;
        self.prove(Proof::WrongPassword(self.nodes_password()))
            .await?;
        let nodes = |clients: Vec<ClientInfo>| -> HashSet<u64> {
            let clients = clients.into_iter();
            let of_nodes = clients.filter(|client| self.is_of_a_node(client));
            of_nodes.map(|client| client.id).collect()
        };
        let before = nodes(self.clients().await?);
        for id in before.iter().copied() {
            self.ask(move |observer| async move { observer.kill_client(id).await })
                .await?;
        }
        match before.intersection(&nodes(self.clients().await?)).count() {
            0 => Ok(()),
            left => Err(format!("{left} connections of nodes were not broken")),
        }
    }

    /// Changes everything back. Where the server cannot be asked to, it starts anew.
    pub(super) async fn change_back(&self) -> Result<(), String> {
        let (settings, user) = {
            let mut changed = self.changes.lock();
            changed.watchers.clear();
            (changed.settings.clone(), changed.user.clone())
        };
        if settings.is_empty() && user.is_empty() {
            return Ok(());
        }
        if self.ask_to_change_back(&settings, &user).await.is_err() {
            // It is down, frozen or has locked us out; a server that starts knows nothing of the changes.
            self.break_server(ServerFault::Kill).await?;
        }
        let mut changed = self.changes.lock();
        changed.settings.clear();
        changed.user.clear();
        Ok(())
    }

    async fn ask_to_change_back(
        &self,
        settings: &[(&'static str, String)],
        user: &[&'static str],
    ) -> Result<(), String> {
        for (name, value) in settings.iter().rev().cloned() {
            self.ask(move |observer| async move { observer.set_setting(name, &value).await })
                .await?;
        }
        if !user.is_empty() {
            self.set_user(user).await?;
        }
        self.prove(Proof::Serves(self.nodes_password())).await
    }

    /// Changes the user that the nodes have, and this harness too. Connections that are open stay.
    async fn change_user(&self, rules: &[&str], back: &'static str) -> Result<(), String> {
        self.changes.lock().user.push(back);
        self.set_user(rules).await
    }

    async fn set_user(&self, rules: &[&str]) -> Result<(), String> {
        let rules: Vec<String> = rules.iter().map(|rule| (*rule).to_owned()).collect();
        self.ask(move |observer| async move { observer.set_user("default", &rules).await })
            .await
    }

    async fn change(&self, name: &'static str, value: &'static str) -> Result<(), String> {
        let known = |changed: &Changed| changed.settings.iter().any(|(of, _)| *of == name);
        if !known(&self.changes.lock()) {
            let before = self
                .ask(move |observer| async move { observer.setting(name).await })
                .await?;
            self.changes.lock().settings.push((name, before));
        }
        self.ask(move |observer| async move { observer.set_setting(name, value).await })
            .await
    }

    async fn prove(&self, proof: Proof) -> Result<(), String> {
        let addr = self.server()?.addr();
        let proven = self.backstage.run(proof.seen(addr)).await;
        proven
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    fn nodes_password(&self) -> String {
        self.secret.clone().unwrap_or_default()
    }
}

/// Opens the path as soon as the server has none of these clients any more, so that the node learns of it.
async fn open_when_gone(observer: Arc<RedisObserver>, path: Arc<Proxy>, ids: HashSet<u64>) {
    loop {
        if let Ok(clients) = observer.clients().await
            && !clients.iter().any(|client| ids.contains(&client.id))
        {
            // If the port cannot be had back, the node does not come back, and the trial tells.
            let _ = path.set(Mode::Pass).await;
            return;
        }
        sleep(LOOK_AGAIN).await;
    }
}
