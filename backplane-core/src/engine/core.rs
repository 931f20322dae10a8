//! What the parts of one engine share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::fate::LinkFate;
use crate::engine::lane::{Lane, Lanes, Limits};
use crate::engine::patience::Patience;
use crate::engine::router::Router;
use crate::error::NotSent;
use crate::name::Channel;
use crate::options::NodeOptions;
use crate::state::StateCell;
use crate::stats::Counters;

/// One node's shared parts.
#[derive(Debug)]
pub(crate) struct Core<L> {
    pub(crate) options: NodeOptions,
    pub(crate) router: Arc<Router>,
    pub(crate) limits: Limits,
    /// Where the link that is in force is, too.
    pub(crate) lanes: Lanes<L>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: Arc<StateCell>,
    /// Every task of the node.
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: runtime::Handle,
    /// Asks the supervisor to end.
    pub(crate) closing: CancellationToken,
    pub(crate) patience: Patience,
    load: Arc<Load>,
    closed: AtomicBool,
}

/// The link that is in force.
#[derive(Debug)]
pub(crate) struct Attached<L> {
    pub(crate) link: Arc<L>,
    pub(crate) fate: LinkFate,
}

/// The publishes that are not done yet.
#[derive(Debug, Default)]
pub(crate) struct Load(Mutex<Taken>);

/// What they take of the limits.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    messages: usize,
    bytes: usize,
}

/// Publishes that count against the limits while this lives.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    load: &'a Arc<Load>,
    messages: usize,
    bytes: usize,
}

/// The same, for those that outlive their call.
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
            patience: Patience::default(),
            load: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// The link that is in force now.
    pub(crate) fn attached(&self) -> Option<Arc<Attached<L>>> {
        self.lanes.attached()
    }

    pub(crate) fn attach(&self, attached: Option<&Arc<Attached<L>>>) {
        self.lanes.attach(attached);
    }

    /// Why nothing is sent while no link is in force.
    pub(crate) fn absent(&self) -> NotSent {
        if self.is_closed() {
            NotSent::Closed
        } else {
            NotSent::Unavailable
        }
    }

    /// The lane of a channel.
    pub(crate) fn lane(&self, channel: &Channel) -> Arc<Lane<L>> {
        self.lanes.find(self.router.prefix(), channel)
    }

    /// Whether a message may enter its lane.
    pub(crate) fn admit(&self, payload: &Bytes) -> Result<(), NotSent> {
        if self.is_closed() {
            return Err(NotSent::Closed);
        }
        self.limits.check(payload)
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
    pub(crate) fn room(&self, bytes: usize) -> Option<Room<'_>> {
        self.room_for([bytes])
    }

    /// Room for as many of these as there is, from the first one on; `None` when there is none.
    pub(crate) fn room_for_some(&self, payloads: &[Bytes]) -> Option<Room<'_>> {
        self.room_for(payloads.iter().map(Bytes::len))
    }

    /// Counts nothing yet.
    pub(crate) fn pending(&self) -> Pending {
        Pending {
            load: Arc::clone(&self.load),
            messages: 0,
            bytes: 0,
        }
    }

    fn room_for(&self, sizes: impl IntoIterator<Item = usize>) -> Option<Room<'_>> {
        let (most, most_bytes) = (self.options.max_pending, self.options.max_pending_bytes);
        let mut taken = self.load.lock();
        let before = *taken;
        for size in sizes {
            let bytes = taken.bytes.saturating_add(size);
            if taken.messages >= most || taken.bytes > 0 && bytes > most_bytes {
                break;
            }
            *taken = Taken {
                messages: taken.messages + 1,
                bytes,
            };
        }
        let messages = taken.messages - before.messages;
        let bytes = taken.bytes - before.bytes;
        drop(taken);
        let load = &self.load;
        (messages > 0).then_some(Room {
            load,
            messages,
            bytes,
        })
    }
}

impl Load {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, messages: usize, bytes: usize) {
        let mut taken = self.lock();
        taken.messages -= messages;
        taken.bytes -= bytes;
    }
}

impl Room<'_> {
    /// For how many messages it is.
    pub(crate) const fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn keep(mut self) -> Pending {
        Pending {
            load: Arc::clone(self.load),
            messages: std::mem::take(&mut self.messages),
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

impl Pending {
    /// Counts these, too.
    pub(crate) fn join(&mut self, mut room: Room<'_>) {
        self.messages += std::mem::take(&mut room.messages);
        self.bytes += std::mem::take(&mut room.bytes);
    }

    /// From now on it counts only so many of them.
    pub(crate) fn shrink_to(&mut self, messages: usize, bytes: usize) {
        self.load
            .leave(self.messages - messages, self.bytes - bytes);
        (self.messages, self.bytes) = (messages, bytes);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.messages > 0 {
            self.load.leave(self.messages, self.bytes);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.load.leave(self.messages, self.bytes);
    }
}
