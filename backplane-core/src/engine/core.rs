//! What the parts of one engine share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::fate::LinkFate;
use crate::engine::lane::{Lanes, Limits};
use crate::engine::router::Router;
use crate::error::NotSent;
use crate::options::NodeOptions;
use crate::state::StateCell;
use crate::stats::Counters;

/// One node's shared parts.
#[derive(Debug)]
pub(crate) struct Core<L> {
    pub(crate) options: NodeOptions,
    pub(crate) router: Arc<Router>,
    pub(crate) limits: Limits,
    pub(crate) lanes: Lanes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: Arc<StateCell>,
    /// Every task of the node.
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: runtime::Handle,
    /// Asks the supervisor to end.
    pub(crate) closing: CancellationToken,
    load: Arc<Load>,
    closed: AtomicBool,
    attached: RwLock<Option<Arc<Attached<L>>>>,
}

/// The link that is in force.
#[derive(Debug)]
pub(crate) struct Attached<L> {
    pub(crate) link: Arc<L>,
    pub(crate) fate: LinkFate,
}

/// The publishes that are not done yet.
#[derive(Debug, Default)]
struct Load {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// A publish that counts against the limits while it lives.
#[derive(Debug)]
pub(crate) struct Pending {
    load: Arc<Load>,
    bytes: usize,
}

impl<L> Core<L> {
    pub(crate) fn new(
        options: NodeOptions,
        limits: Limits,
        state: StateCell,
        runtime: runtime::Handle,
    ) -> Self {
        let counters = Arc::new(Counters::default());
        let state = Arc::new(state);
        let router = Router::new(
            options.prefix.clone(),
            Arc::clone(&counters),
            Arc::clone(&state),
        );
        Self {
            router: Arc::new(router),
            limits,
            lanes: Lanes::new(),
            options,
            counters,
            state,
            tasks: TaskTracker::new(),
            runtime,
            closing: CancellationToken::new(),
            load: Arc::default(),
            closed: AtomicBool::new(false),
            attached: RwLock::new(None),
        }
    }

    /// The link that is in force now.
    pub(crate) fn attached(&self) -> Option<Arc<Attached<L>>> {
        self.attached
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn attach(&self, attached: Option<Arc<Attached<L>>>) {
        *self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner) = attached;
    }

    /// Why nothing is sent while no link is in force.
    pub(crate) fn absent(&self) -> NotSent {
        if self.is_closed() {
            NotSent::Closed
        } else {
            NotSent::Unavailable
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// From now on every call fails with `Closed`.
    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.cancel();
    }

    /// Room for one more publish of this size, if there is any. A single one of any size always has.
    pub(crate) fn pend(&self, bytes: usize) -> Option<Pending> {
        let messages = self.load.messages.fetch_add(1, Ordering::Relaxed);
        let before = self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        let pending = Pending {
            load: Arc::clone(&self.load),
            bytes,
        };
        let full = messages >= self.options.max_pending
            || before > 0 && before.saturating_add(bytes) > self.options.max_pending_bytes;
        (!full).then_some(pending)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.load.messages.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
