//! The end of a link: known once, told to everyone who works with the link.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::driver::{LinkError, LinkErrorKind};

/// Names one link of a node; later links have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// Whether a link lives, and if not, why.
#[derive(Clone, Debug)]
pub(crate) struct LinkFate {
    id: LinkId,
    ended: CancellationToken,
    end: Arc<End>,
}

#[derive(Debug)]
struct End {
    /// What `ended` says, for those who ask often.
    came: AtomicBool,
    reason: OnceLock<LinkError>,
    /// Told of the end, and of time that has passed: who waits for both registers once.
    signs: Arc<Notify>,
}

impl LinkFate {
    pub(crate) fn new(id: LinkId, signs: &Arc<Notify>) -> Self {
        Self {
            id,
            ended: CancellationToken::new(),
            end: Arc::new(End {
                came: AtomicBool::new(false),
                reason: OnceLock::new(),
                signs: Arc::clone(signs),
            }),
        }
    }

    pub(crate) const fn id(&self) -> LinkId {
        self.id
    }

    /// The link is dead, for this reason unless another one was given before.
    pub(crate) fn lost(&self, reason: LinkError) {
        let _ = self.end.reason.set(reason);
        self.end();
    }

    /// The engine has done with the link.
    pub(crate) fn end(&self) {
        self.end.came.store(true, Ordering::Release);
        self.ended.cancel();
        self.end.signs.notify_waiters();
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.end.came.load(Ordering::Acquire)
    }

    pub(crate) fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    /// Resolves when the link may have ended, or some time has passed. Who has polled it and then finds the link alive
    /// hears of its end.
    pub(crate) fn sign(&self) -> Notified<'_> {
        self.end.signs.notified()
    }

    /// Why the link is dead.
    pub(crate) fn error(&self) -> LinkError {
        match self.end.reason.get() {
            Some(error) => LinkError::new(error.kind(), error),
            None => LinkError::new(LinkErrorKind::Lost, "the link was closed"),
        }
    }
}
