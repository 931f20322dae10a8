//! Probes: a frame to the node itself, through the broker and back (rules L7 and V2).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::driver::{Frame, Link, LinkError, LinkPublishError};
use crate::engine::fate::LinkId;
use crate::engine::router::Router;

/// The probes on their way.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, (LinkId, oneshot::Sender<()>)>>,
}

impl Probes {
    /// A probe came back on this link. Only on the link that it was sent on does it prove anything.
    pub(crate) fn answer(&self, link: LinkId, number: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = match waiting.get(&number) {
            Some((sent_on, _)) if *sent_on == link => waiting.remove(&number),
            _ => None,
        };
        drop(waiting);
        if let Some((_, answered)) = answered {
            let _ = answered.send(());
        }
    }

    fn start(&self, link: LinkId) -> (Waiting<'_>, oneshot::Receiver<()>) {
        let (tx, rx) = oneshot::channel();
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, (link, tx));
        (
            Waiting {
                probes: self,
                number,
            },
            rx,
        )
    }
}

/// Sends one probe and waits until it was delivered back. The caller bounds the time.
pub(crate) async fn probe<L: Link>(router: &Router, id: LinkId, link: &L) -> Result<(), LinkError> {
    let (waiting, delivered) = router.probes().start(id);
    let frame = Frame::one(router.node_id(), waiting.number, false, Bytes::new());
    link.publish(router.probe_channel(), &frame)
        .await
        .map_err(|error| match error {
            LinkPublishError::NotSent(error) | LinkPublishError::Unknown(error) => error,
        })?;
    // The sender lives as long as `waiting`, so this ends only with the delivery.
    let _ = delivered.await;
    Ok(())
}

/// Forgets a probe that nobody waits for any longer.
struct Waiting<'a> {
    probes: &'a Probes,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.probes
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
    }
}
