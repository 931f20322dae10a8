//! A client, and the task that reads it: [`Client`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backplane_core::hub::{
    CompleteError, Connection, ConnectionHandle, ConnectionId, Ended, Outbound, Payload,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::op::Call;
use super::record::{ClientId, Item};
use super::system::SharedRecord;
use crate::model::account::{Class, Violation};
use crate::model::ledger::MessageId;

/// A client that is connected. Dropping it disconnects it, in a moment.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    /// The place of its node.
    pub(super) node: usize,
    pub(super) small: bool,
    pub(super) handle: ConnectionHandle,
    asked: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Client {
    pub(super) fn start(
        (id, node, small): (ClientId, usize, bool),
        connection: Connection,
        record: &SharedRecord,
    ) -> Self {
        let handle = connection.handle();
        let asked = Arc::new(AtomicU64::new(0));
        let reading = read(id, connection, Arc::clone(record), Arc::clone(&asked));
        let task = tokio::spawn(reading);
        Self {
            id,
            node,
            small,
            handle,
            asked,
            task,
        }
    }

    /// The number of the last call that it got.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.handle.id()
    }

    /// Waits until it has ended by itself; says why, or that it does not.
    pub(super) async fn ended(mut self, within: Duration) -> Option<Ended> {
        timeout(within, &mut self.task).await.ok()?.ok()?;
        self.handle.ended()
    }

    /// Drops its owner.
    pub(super) async fn cut(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes down everything that a client gets, and answers its calls.
async fn read(
    id: ClientId,
    mut connection: Connection,
    record: SharedRecord,
    asked: Arc<AtomicU64>,
) {
    loop {
        let item = match connection.recv().await {
            Some(Outbound::Message(payload)) => Item::Message(message(&payload)),
            Some(Outbound::Gap(gap)) => Item::Gap {
                outage: gap.outages() > 0,
                counted: gap.overflowed() + gap.dropped_by_broker(),
            },
            Some(Outbound::Missed(missed)) => Item::Missed(missed),
            Some(Outbound::Invoke(call)) => {
                let (what, number) = Call::of(&call.payload);
                asked.store(number, Ordering::Release);
                let answer = match what {
                    Call::Echo => Ok(call.payload),
                    Call::Fail => Err(REFUSAL),
                    Call::Silent => continue,
                };
                if let Err(CompleteError::WrongConnection(_)) = connection.complete(call.id, answer)
                {
                    let text = format!("{id:?} may not answer a call that it was asked");
                    let violation = Violation::new(Class::Unexpected, 1, text);
                    record.lock().violate(violation);
                }
                continue;
            }
            Some(_) => continue,
            None => {
                record.lock().received(id, Item::End);
                return;
            }
        };
        record.lock().received(id, item);
    }
}

fn message(payload: &Payload) -> Option<MessageId> {
    MessageId::from_payload(&payload.bytes()?)
}

/// The words of a client that refuses.
pub(super) const REFUSAL: &str = "not today";

impl Call {
    /// What to ask a client, so that it does this.
    pub(super) fn question(self, number: u64) -> Payload {
        let word = match self {
            Self::Echo => "echo",
            Self::Fail => "fail",
            Self::Silent => "silent",
        };
        format!("{word} {number}").into()
    }

    /// What it does, and the number of the call.
    fn of(question: &Payload) -> (Self, u64) {
        let bytes = question.bytes().unwrap_or_default();
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let (word, number) = text.split_once(' ').unwrap_or_default();
        let call = match word {
            "echo" => Self::Echo,
            "fail" => Self::Fail,
            _ => Self::Silent,
        };
        (call, number.parse().unwrap_or_default())
    }
}
