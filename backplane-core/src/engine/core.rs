//! What the parts of one engine share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
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

/// Publishes that count against the limits while this lives.
#[derive(Debug)]
pub(crate) struct Pending {
    load: Arc<Load>,
    messages: usize,
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
        self.pend_all(1, bytes)
    }

    /// Room for so many of these, from the first one on, as there is.
    pub(crate) fn pend_many(&self, payloads: &[Bytes]) -> Option<(usize, Pending)> {
        let bytes = payloads.iter().map(Bytes::len).sum();
        if let Some(all) = self.pend_all(payloads.len(), bytes) {
            return Some((payloads.len(), all));
        }
        let mut some: Option<Pending> = None;
        for payload in payloads {
            let Some(one) = self.pend(payload.len()) else {
                break;
            };
            match &mut some {
                Some(some) => some.take_over(one),
                none => *none = Some(one),
            }
        }
        some.map(|some| (some.messages, some))
    }

    fn pend_all(&self, count: usize, bytes: usize) -> Option<Pending> {
        let messages = self.load.messages.fetch_add(count, Ordering::Relaxed);
        let before = self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        let pending = Pending {
            load: Arc::clone(&self.load),
            messages: count,
            bytes,
        };
        let alone = before == 0 && count == 1;
        let full = messages.saturating_add(count) > self.options.max_pending
            || !alone && before.saturating_add(bytes) > self.options.max_pending_bytes;
        (!full).then_some(pending)
    }
}

impl Pending {
    fn take_over(&mut self, mut other: Self) {
        self.messages += std::mem::take(&mut other.messages);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.load
            .messages
            .fetch_sub(self.messages, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
