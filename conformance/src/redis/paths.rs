//! The ways from nodes to the server that can be broken one by one: [`Paths`].

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use backplane_core::{Backplane, NodeId};

use super::backstage::Backstage;
use super::proofs;
use crate::fixtures::{Mode, Moment, Proxy, Trap};
use crate::harness::Cuts;

/// The proxies between nodes and the server, one for each node.
#[derive(Debug)]
pub(super) struct Paths {
    server: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The mode that is in force, for new paths too.
    mode: Mode,
    paths: Vec<Path>,
    /// The paths that were broken in some way since the last [proof](Paths::prove_mended).
    broken: Vec<Arc<Proxy>>,
    /// How many cuts were armed.
    armed: u64,
    /// The cuts that happened on paths that are gone.
    past: Cuts,
    /// How many paths there were.
    made: u64,
}

#[derive(Debug)]
struct Path {
    proxy: Arc<Proxy>,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    /// A node that is being made, as long as the token lives.
    Soon(Weak<()>),
    Node(NodeId, Weak<dyn Backplane>),
}

/// A path for a node that is being made; it goes again unless it is [taken](Place::take).
#[derive(Debug)]
pub(super) struct Place<'a> {
    paths: &'a Paths,
    proxy: Arc<Proxy>,
    token: Arc<()>,
}

impl Paths {
    pub(super) fn to(server: SocketAddr) -> Self {
        Self {
            server,
            state: Mutex::default(),
        }
    }

    /// A new path, in the mode that is in force.
    pub(super) async fn place(&self, backstage: &Backstage) -> io::Result<Place<'_>> {
        let seed = {
            let mut state = self.lock();
            state.made += 1;
            state.made
        };
        let proxy = Proxy::start_seeded(self.server, seed);
        let proxy = Arc::new(backstage.run(proxy).await??);
        let token = Arc::new(());
        let place = Place {
            paths: self,
            proxy: Arc::clone(&proxy),
            token,
        };
        let mode = {
            let mut state = self.lock();
            let owner = Owner::Soon(Arc::downgrade(&place.token));
            if state.mode != Mode::Pass {
                state.broken.push(Arc::clone(&proxy));
            }
            state.paths.push(Path { proxy, owner });
            state.mode
        };
        if mode != Mode::Pass {
            place.proxy.set(mode).await?;
        }
        Ok(place)
    }

    /// Switches every path, and those to come, to another mode, and returns when that was seen.
    pub(super) async fn switch(&self, mode: Mode) -> Result<(), String> {
        let proxies = {
            let mut state = self.lock();
            state.mode = mode;
            state.broken = state.proxies();
            state.proxies()
        };
        if proxies.is_empty() {
            return Err("no node is behind a proxy".to_owned());
        }
        set_all(&proxies, mode)
            .await
            .map_err(|error| error.to_string())?;
        for proxy in &proxies {
            proofs::in_force(mode, proxy).await?;
        }
        Ok(())
    }

    /// Makes every path pass everything, and forgets those that nobody uses any more.
    pub(super) async fn mend(&self) -> io::Result<()> {
        let proxies = {
            let mut state = self.lock();
            state.mode = Mode::Pass;
            state.forget_unused();
            state.proxies()
        };
        for proxy in &proxies {
            proxy.disarm();
        }
        set_all(&proxies, Mode::Pass).await
    }

    /// Returns when every path that was broken and is still used was seen to pass again. The server must
    /// answer.
    pub(super) async fn prove_mended(&self) -> Result<(), String> {
        let broken = {
            let mut state = self.lock();
            let mut broken = std::mem::take(&mut state.broken);
            broken.retain(|proxy| {
                state
                    .paths
                    .iter()
                    .any(|path| Arc::ptr_eq(&path.proxy, proxy))
            });
            broken
        };
        for proxy in broken {
            proofs::over(&proxy, self.server).await?;
        }
        Ok(())
    }

    /// Breaks the path of one node until it is mended, and returns when that was seen.
    pub(super) async fn isolate(&self, node: NodeId) -> Result<(), String> {
        let proxy = self.of(node)?;
        self.lock().broken.push(Arc::clone(&proxy));
        proxy
            .set(Mode::Refuse)
            .await
            .map_err(|error| error.to_string())?;
        proofs::in_force(Mode::Refuse, &proxy).await
    }

    /// Arms a cut of one node's connections; by turns before the server gets it, and after.
    pub(super) fn arm(&self, node: NodeId, trap: Trap) -> Result<(), String> {
        let proxy = self.of(node)?;
        if proxy.connections() == 0 {
            return Err("the node has no connection to be cut".to_owned());
        }
        let mut state = self.lock();
        state.armed += 1;
        let moment = match state.armed % 2 {
            1 => Moment::Before,
            _ => Moment::After,
        };
        proxy.arm(trap, moment);
        Ok(())
    }

    /// How many armed cuts have happened.
    pub(super) fn cuts(&self) -> Cuts {
        let state = self.lock();
        let now = state.paths.iter().map(|path| cuts_of(&path.proxy));
        now.fold(state.past, Cuts::and)
    }

    /// The path of one node.
    pub(super) fn of(&self, node: NodeId) -> Result<Arc<Proxy>, String> {
        let proxy = self.lock().of(node);
        proxy.ok_or_else(|| format!("node {node} is not behind a proxy"))
    }

    /// Forgets every path, which breaks them.
    pub(super) fn clear(&self) {
        let (paths, broken) = {
            let mut state = self.lock();
            (
                std::mem::take(&mut state.paths),
                std::mem::take(&mut state.broken),
            )
        };
        drop((paths, broken));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_unused(&mut self) {
        let unused = self.paths.extract_if(.., |path| !path.is_used());
        let past = unused.map(|path| cuts_of(&path.proxy));
        self.past = past.fold(self.past, Cuts::and);
    }

    fn proxies(&self) -> Vec<Arc<Proxy>> {
        self.paths
            .iter()
            .map(|path| Arc::clone(&path.proxy))
            .collect()
    }

    fn of(&self, node: NodeId) -> Option<Arc<Proxy>> {
        let is_of = |path: &&Path| matches!(&path.owner, Owner::Node(id, _) if *id == node);
        self.paths
            .iter()
            .find(is_of)
            .map(|path| Arc::clone(&path.proxy))
    }
}

impl Path {
    /// A path also counts as used while it has connections: breaking those would hide that a node that is gone has
    /// left them open.
    fn is_used(&self) -> bool {
        let owned = match &self.owner {
            Owner::Soon(token) => token.strong_count() > 0,
            Owner::Node(_, node) => node.strong_count() > 0,
        };
        owned || self.proxy.connections() > 0
    }
}

impl Place<'_> {
    /// Where the node has to connect to.
    pub(super) fn addr(&self) -> SocketAddr {
        self.proxy.addr()
    }

    /// Gives the path to its node.
    pub(super) fn take(self, node: &Arc<dyn Backplane>) {
        let mut state = self.paths.lock();
        let is_ours = |path: &&mut Path| Arc::ptr_eq(&path.proxy, &self.proxy);
        if let Some(path) = state.paths.iter_mut().find(is_ours) {
            path.owner = Owner::Node(node.node_id(), Arc::downgrade(node));
        }
    }
}

fn cuts_of(proxy: &Proxy) -> Cuts {
    Cuts {
        before: proxy.sprung(Moment::Before),
        after: proxy.sprung(Moment::After),
    }
}

async fn set_all(proxies: &[Arc<Proxy>], mode: Mode) -> io::Result<()> {
    for proxy in proxies {
        proxy.set(mode).await?;
    }
    Ok(())
}
