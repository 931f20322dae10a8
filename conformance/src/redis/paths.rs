//! The ways from nodes to the server that can be broken one by one: [`Paths`].

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use backplane_core::{Backplane, NodeId};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::backstage::Backstage;
use crate::fixtures::{Mode, Proxy};
use crate::scale::stretched;

/// For a connection on this machine to be refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// The proxies between nodes and the server, one for each node.
#[derive(Debug)]
pub(super) struct Paths {
    server: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether [`Mode::Mute`] is in force, for new paths too.
    muted: bool,
    paths: Vec<Path>,
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
        let proxy = Arc::new(backstage.run(Proxy::start(self.server)).await??);
        let token = Arc::new(());
        let place = Place {
            paths: self,
            proxy: Arc::clone(&proxy),
            token,
        };
        let muted = {
            let mut state = self.lock();
            let owner = Owner::Soon(Arc::downgrade(&place.token));
            state.paths.push(Path { proxy, owner });
            state.muted
        };
        if muted {
            place.proxy.set(Mode::Mute).await?;
        }
        Ok(place)
    }

    /// Switches every path, and those to come, to deliver nothing.
    pub(super) async fn mute(&self) -> Result<(), String> {
        let proxies = {
            let mut state = self.lock();
            state.muted = true;
            state.proxies()
        };
        if proxies.is_empty() {
            return Err("no node is behind a proxy".to_owned());
        }
        set_all(&proxies, Mode::Mute)
            .await
            .map_err(|error| error.to_string())
    }

    /// Makes every path pass everything, and forgets those that nobody uses any more.
    pub(super) async fn mend(&self) -> io::Result<()> {
        let proxies = {
            let mut state = self.lock();
            state.muted = false;
            state.paths.retain(Path::is_used);
            state.proxies()
        };
        set_all(&proxies, Mode::Pass).await
    }

    /// Breaks the path of one node until it is mended, and returns when that was seen.
    pub(super) async fn isolate(&self, node: NodeId) -> Result<(), String> {
        let proxy = self.lock().of(node);
        let proxy = proxy.ok_or_else(|| format!("node {node} is not behind a proxy"))?;
        proxy
            .set(Mode::Refuse)
            .await
            .map_err(|error| error.to_string())?;
        let dialled = timeout(stretched(REFUSED_WITHIN), TcpStream::connect(proxy.addr())).await;
        match dialled {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Ok(Err(error)) => return Err(format!("the proxy does not refuse: {error}")),
            Ok(Ok(_)) => return Err("the proxy still accepts connections".to_owned()),
            Err(_) => {
                return Err(format!(
                    "the proxy does not refuse within {REFUSED_WITHIN:?}"
                ));
            }
        }
        match proxy.connections() {
            0 => Ok(()),
            left => Err(format!(
                "{left} connections are still open behind the proxy"
            )),
        }
    }

    /// Forgets every path, which breaks them.
    pub(super) fn clear(&self) {
        let paths = std::mem::take(&mut self.lock().paths);
        drop(paths);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
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

async fn set_all(proxies: &[Arc<Proxy>], mode: Mode) -> io::Result<()> {
    for proxy in proxies {
        proxy.set(mode).await?;
    }
    Ok(())
}
