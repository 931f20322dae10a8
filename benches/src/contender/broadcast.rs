//! `tokio::sync::broadcast`, what one process uses without a backplane: [`Broadcast`].

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use super::{Contender, Publisher};
use crate::arrivals::Arrivals;
use crate::error::Result;

/// Its name in reports.
pub const BROADCAST: &str = "tokio broadcast";

/// What it holds: more than the window of the measurement.
const CAPACITY: usize = 4096;

/// A broadcast channel with one receiver, which a task reads.
#[derive(Debug)]
pub struct Broadcast {
    arrivals: Arc<Arrivals>,
    sender: broadcast::Sender<Bytes>,
    _reader: JoinSet<()>,
}

impl Broadcast {
    /// A channel and its reader.
    #[must_use]
    pub fn open() -> Self {
        let (sender, mut receiver) = broadcast::channel(CAPACITY);
        let arrivals = Arc::new(Arrivals::new(BROADCAST));
        let of_task = Arc::clone(&arrivals);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            loop {
                match receiver.recv().await {
                    Ok(payload) => {
                        let payload: Bytes = payload;
                        of_task.take(&payload);
                    }
                    Err(RecvError::Lagged(missed)) => of_task.fail(format!("{missed} overwritten")),
                    Err(RecvError::Closed) => break,
                }
            }
        });
        Self {
            arrivals,
            sender,
            _reader: reader,
        }
    }
}

impl Contender for Broadcast {
    type Publisher = broadcast::Sender<Bytes>;

    fn name(&self) -> &'static str {
        BROADCAST
    }

    fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }

    fn publisher(&self) -> broadcast::Sender<Bytes> {
        self.sender.clone()
    }
}

impl Publisher for broadcast::Sender<Bytes> {
    async fn publish(&mut self, payload: Bytes) -> Result<()> {
        // Without a receiver nothing arrives, which the measurement finds out.
        let _ = self.send(payload);
        // As the nodes do: a loop that never waits must not starve the other tasks.
        tokio::task::consume_budget().await;
        Ok(())
    }
}
