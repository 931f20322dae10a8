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
    pub(crate) lanes: Lanes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: Arc<StateCell>,
    /// Every task of the node.
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: runtime::Handle,
    /// Asks the supervisor to end.
    pub(crate) closing: CancellationToken,
    pending: AtomicUsize,
    closed: AtomicBool,
    attached: RwLock<Option<Arc<Attached<L>>>>,
}

/// The link that is in force.
#[derive(Debug)]
pub(crate) struct Attached<L> {
    pub(crate) link: Arc<L>,
    pub(crate) fate: LinkFate,
}

/// A publish that counts against the limit while it lives.
#[derive(Debug)]
pub(crate) struct Pending<'a>(&'a AtomicUsize);

impl<L> Core<L> {
    pub(crate) fn new(options: NodeOptions, state: StateCell, runtime: runtime::Handle) -> Self {
        let counters = Arc::new(Counters::default());
        let state = Arc::new(state);
        let router = Router::new(
            options.prefix.clone(),
            Arc::clone(&counters),
            Arc::clone(&state),
        );
        Self {
            router: Arc::new(router),
            lanes: Lanes::new(Limits {
                messages: options.max_batch_messages,
                bytes: options.max_batch_bytes,
            }),
            options,
            counters,
            state,
            tasks: TaskTracker::new(),
            runtime,
            closing: CancellationToken::new(),
            pending: AtomicUsize::new(0),
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

    /// Room for one more publish, if there is any.
    pub(crate) fn pend(&self) -> Option<Pending<'_>> {
        let pending = Pending(&self.pending);
        (self.pending.fetch_add(1, Ordering::Relaxed) < self.options.max_pending).then_some(pending)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
