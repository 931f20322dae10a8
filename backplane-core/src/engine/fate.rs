//! The end of a link: known once, told to everyone who works with the link.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

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

#[derive(Debug, Default)]
struct End {
    /// What `ended` says, for those who ask often.
    came: AtomicBool,
    reason: OnceLock<LinkError>,
}

impl LinkFate {
    pub(crate) fn new(id: LinkId) -> Self {
        Self {
            id,
            ended: CancellationToken::new(),
            end: Arc::default(),
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
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.end.came.load(Ordering::Acquire)
    }

    pub(crate) fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    /// Why the link is dead.
    pub(crate) fn error(&self) -> LinkError {
        match self.end.reason.get() {
            Some(error) => LinkError::new(error.kind(), error),
            None => LinkError::new(LinkErrorKind::Lost, "the link was closed"),
        }
    }
}
