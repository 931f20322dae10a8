//! What the framework is told when messages of other nodes are missing: [`Gaps`].

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::message::{Delivery, Gap};
use crate::queue::{QueueReader, QueueWriter, queue};

/// How many gaps wait for a reader that does not read; more are merged into the last.
const CAPACITY: usize = 64;

/// The stream of a hub's [`Gap`]s, from the moment it was asked for: one for each outage of the node, and one for
/// whatever did not fit into the hub's own queue (rule H23). None is lost: a reader that falls far behind finds
/// several merged into one.
#[derive(Debug)]
pub struct Gaps {
    reader: QueueReader,
    id: u64,
    told: Arc<GapReaders>,
}

/// Those who are told.
#[derive(Debug, Default)]
pub(super) struct GapReaders(Mutex<Readers>);

#[derive(Debug, Default)]
struct Readers {
    closed: bool,
    last_id: u64,
    writers: Vec<(u64, QueueWriter)>,
}

impl Gaps {
    /// The next gap; `None` when the hub was closed and all gaps before were read.
    ///
    /// # Cancel safety
    /// Cancel safe: no gap is lost.
    pub async fn recv(&mut self) -> Option<Gap> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next gap, for use in a `poll` function.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Gap>> {
        self.reader.poll_recv(cx).map(|delivery| match delivery {
            Some(Delivery::Gap(gap)) => Some(gap),
            // Nobody puts in anything else.
            Some(Delivery::Message(_)) | None => None,
        })
    }
}

impl Stream for Gaps {
    type Item = Gap;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Gap>> {
        self.poll_recv(cx)
    }
}

impl Drop for Gaps {
    fn drop(&mut self) {
        let mut readers = self.told.lock();
        readers.writers.retain(|(id, _)| *id != self.id);
    }
}

impl GapReaders {
    pub(super) fn open(self: &Arc<Self>) -> Gaps {
        let (writer, reader) = queue(CAPACITY, usize::MAX);
        let mut readers = self.lock();
        readers.last_id += 1;
        let id = readers.last_id;
        match readers.closed {
            true => writer.close(),
            false => readers.writers.push((id, writer)),
        }
        drop(readers);
        Gaps {
            reader,
            id,
            told: Arc::clone(self),
        }
    }

    pub(super) fn tell(&self, gap: &Gap) {
        // Whoever is woken may run code of anybody's.
        let writers: Vec<_> = self.lock().writers.clone();
        for (_, writer) in writers {
            writer.push_gap(gap.clone());
        }
    }

    pub(super) fn close(&self) {
        let mut readers = self.lock();
        readers.closed = true;
        let writers = std::mem::take(&mut readers.writers);
        drop(readers);
        for (_, writer) in writers {
            writer.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Readers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
