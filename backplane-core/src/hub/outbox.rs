//! What waits for one connection: a bounded queue between the hub and the framework.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::id::ConnectionId;
use super::invocations::{Invocation, InvocationId};
use super::payload::Payload;
use super::sink::Sink;
use crate::message::Gap;

/// What a connection is to get, in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outbound {
    /// A message.
    Message(Payload),
    /// A call that wants an answer: see [`Hub::invoke`](super::Hub::invoke).
    Invoke(Invocation),
    /// Nobody waits any longer for the answer to a call that it got before. Only a hint: it is left out when the queue is
    /// full.
    Cancelled(InvocationId),
    /// So many messages did not fit into the connection's queue, at this place. Exact (rule H22).
    Missed(u64),
    /// Messages of other nodes were, or may have been, lost here. Only connections that
    /// [ask](super::Connect::with_gaps) for it are told.
    Gap(Gap),
}

/// What happens when a connection's queue is full (rule H22). Nobody else is delayed in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Overflow {
    /// The message is dropped and counted into an [`Outbound::Missed`] at its place. The default.
    #[default]
    DropAndTell,
    /// The connection is disconnected: it gets what is queued, and then the end.
    Disconnect,
}

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// Its owner disconnected it.
    Disconnected,
    /// The hub was [told](super::Hub::disconnect) to end it: it gets what is queued, and then the end.
    Removed,
    /// The hub, or its node, was closed.
    HubClosed,
    /// Its sink failed or panicked.
    SinkFailed,
    /// Its queue was full, and [`Overflow::Disconnect`] was asked for.
    TooSlow,
}

/// The queue of one connection.
pub(super) struct Outbox {
    pub(super) id: ConnectionId,
    capacity: usize,
    overflow: Overflow,
    metadata: Option<Box<Bytes>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// How many of them count against the capacity.
    messages: usize,
    ended: Option<Ended>,
    reader: Option<Waker>,
    sink: Option<Arc<dyn Sink>>,
    /// Somebody is at handing everything over to the sink.
    draining: bool,
}

/// An [`Outbound`] of 16 bytes.
enum Item {
    Message(Payload),
    Invoke(Box<Invocation>),
    Cancelled(InvocationId),
    Missed(u64),
    Gap(Box<Gap>),
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Queued,
    Dropped,
    /// The connection has just ended because of it.
    TooSlow,
    Ended,
}

/// What is to be done for connections when no lock is held any longer.
#[derive(Default)]
pub(super) struct Due {
    pub(super) wakers: Vec<Waker>,
    pub(super) sinks: Vec<Arc<Outbox>>,
}

/// Queues that have held more than this give their room back when they are empty.
const ROOM: usize = 32;

impl Outbox {
    pub(super) fn new(
        id: ConnectionId,
        capacity: usize,
        overflow: Overflow,
        metadata: &Bytes,
        sink: Option<Arc<dyn Sink>>,
    ) -> Self {
        Self {
            id,
            capacity: capacity.max(1),
            overflow,
            metadata: (!metadata.is_empty()).then(|| Box::new(metadata.clone())),
            state: Mutex::new(State {
                sink,
                ..State::default()
            }),
        }
    }

    pub(super) fn metadata(&self) -> Bytes {
        self.metadata.as_deref().cloned().unwrap_or_default()
    }

    /// Queues a call, or says why not: one that is dropped is told to the caller and not to the connection.
    pub(super) fn put_call(self: &Arc<Self>, call: Invocation, due: &mut Due) -> Put {
        let mut state = self.lock();
        let put = match () {
            () if state.ended.is_some() => return Put::Ended,
            () if state.messages < self.capacity => {
                state.messages += 1;
                state.items.push_back(Item::Invoke(Box::new(call)));
                Put::Queued
            }
            () if self.overflow == Overflow::Disconnect => {
                state.ended = Some(Ended::TooSlow);
                Put::TooSlow
            }
            () => return Put::Dropped,
        };
        self.told(&mut state, due);
        put
    }

    /// A call is not wanted any more: takes it back, or tells the connection that it was.
    pub(super) fn cancel_call(self: &Arc<Self>, id: InvocationId, due: &mut Due) {
        let mut state = self.lock();
        let is_it = |item: &Item| matches!(item, Item::Invoke(call) if call.id == id);
        if let Some(at) = state.items.iter().position(is_it) {
            let call = state.items.remove(at);
            state.messages -= 1;
            drop(state);
            return drop(call);
        }
        if state.ended.is_none() && state.messages < self.capacity {
            state.messages += 1;
            state.items.push_back(Item::Cancelled(id));
            self.told(&mut state, due);
        }
    }

    /// Queues a message. Never blocks, and calls nobody.
    pub(super) fn put(self: &Arc<Self>, payload: &Payload, due: &mut Due) -> Put {
        let mut state = self.lock();
        let put = match () {
            () if state.ended.is_some() => return Put::Ended,
            () if state.messages < self.capacity => {
                state.messages += 1;
                state.items.push_back(Item::Message(payload.clone()));
                Put::Queued
            }
            () if self.overflow == Overflow::Disconnect => {
                state.ended = Some(Ended::TooSlow);
                Put::TooSlow
            }
            () => {
                match state.last(|item| matches!(item, Item::Missed(_))) {
                    Some(Item::Missed(missed)) => *missed += 1,
                    _ => state.items.push_back(Item::Missed(1)),
                }
                Put::Dropped
            }
        };
        self.told(&mut state, due);
        put
    }

    /// Queues a gap.
    pub(super) fn put_gap(self: &Arc<Self>, gap: &Gap, due: &mut Due) {
        let mut state = self.lock();
        if state.ended.is_some() {
            return;
        }
        match state.last(|item| matches!(item, Item::Gap(_))) {
            Some(Item::Gap(last)) => last.merge(gap.clone()),
            _ => state.items.push_back(Item::Gap(Box::new(gap.clone()))),
        }
        self.told(&mut state, due);
    }

    /// Ends the queue, unless it has ended. What is in it stays, unless the owner is gone.
    pub(super) fn end(&self, why: Ended) {
        self.end_locked(self.lock(), why);
    }

    fn end_locked(&self, mut state: MutexGuard<'_, State>, why: Ended) {
        state.ended.get_or_insert(why);
        let reader = state.reader.take();
        let dropped = match why {
            Ended::Disconnected | Ended::SinkFailed => mem::take(&mut state.items),
            _ => VecDeque::new(),
        };
        // While the sink is at work, whoever feeds it lets go of it.
        let sink = match state.draining {
            true => None,
            false => state.sink.take(),
        };
        // What they do when they are dropped is not known.
        drop(state);
        drop((dropped, sink));
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        self.lock().ended
    }

    /// The next item; `None` when the queue has ended and is empty.
    pub(super) fn poll_recv(&self, cx: &Context<'_>) -> Poll<Option<Outbound>> {
        let mut state = self.lock();
        if let Some(item) = state.pop() {
            return Poll::Ready(Some(item));
        }
        if state.ended.is_some() {
            return Poll::Ready(None);
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Hands everything over to the sink, one after another. Says whether the sink failed.
    pub(super) fn drain(&self) -> Result<(), SinkFailed> {
        loop {
            let mut state = self.lock();
            let next = state.pop();
            let (Some(sink), Some(item)) = (state.sink.clone(), next) else {
                state.draining = false;
                let sink = match state.ended {
                    Some(_) => state.sink.take(),
                    None => None,
                };
                drop(state);
                drop(sink);
                return Ok(());
            };
            drop(state);
            match catch_unwind(AssertUnwindSafe(|| sink.deliver(item))) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => tracing::debug!(connection = %self.id, %error, "a sink failed"),
                Err(_) => tracing::warn!(connection = %self.id, "a sink panicked"),
            }
            let mut state = self.lock();
            state.draining = false;
            self.end_locked(state, Ended::SinkFailed);
            return Err(SinkFailed);
        }
    }

    fn told(self: &Arc<Self>, state: &mut State, due: &mut Due) {
        due.wakers.extend(state.reader.take());
        if state.sink.is_some() && !state.draining {
            state.draining = true;
            due.sinks.push(Arc::clone(self));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sink has failed, and its connection has ended.
#[derive(Debug)]
pub(super) struct SinkFailed;

impl State {
    fn pop(&mut self) -> Option<Outbound> {
        let item = self.items.pop_front();
        if self.items.is_empty() && self.items.capacity() > ROOM {
            self.items = VecDeque::new();
        }
        item.map(|item| match item {
            Item::Message(payload) => {
                self.messages -= 1;
                Outbound::Message(payload)
            }
            Item::Invoke(call) => {
                self.messages -= 1;
                Outbound::Invoke(*call)
            }
            Item::Cancelled(id) => {
                self.messages -= 1;
                Outbound::Cancelled(id)
            }
            Item::Missed(missed) => Outbound::Missed(missed),
            Item::Gap(gap) => Outbound::Gap(*gap),
        })
    }

    /// The item of this sort behind the last message. There is at most one of each, however long nobody reads.
    fn last(&mut self, is_it: impl Fn(&Item) -> bool) -> Option<&mut Item> {
        let behind = self.items.iter_mut().rev();
        let mut behind = behind.take_while(|item| matches!(item, Item::Missed(_) | Item::Gap(_)));
        behind.find(|item| is_it(item))
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Outbox")
            .field("id", &self.id)
            .field("waiting", &state.items.len())
            .field("ended", &state.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::OutageAccount;
    use crate::name::NodeId;

    fn outbox(overflow: Overflow) -> Arc<Outbox> {
        let id = ConnectionId::random(NodeId::from_u64(1));
        Arc::new(Outbox::new(id, 2, overflow, &Bytes::new(), None))
    }

    fn drain(outbox: &Outbox, limit: usize) -> Vec<String> {
        let cx = Context::from_waker(Waker::noop());
        let next = || match outbox.poll_recv(&cx) {
            Poll::Ready(Some(Outbound::Message(p))) => {
                Some(String::from_utf8_lossy(&p.bytes().unwrap()).into_owned())
            }
            Poll::Ready(Some(Outbound::Missed(n))) => Some(format!("missed {n}")),
            Poll::Ready(Some(Outbound::Gap(gap))) => Some(format!("gap {}", gap.outages())),
            Poll::Ready(Some(Outbound::Invoke(call))) => Some(format!("call {}", call.id)),
            Poll::Ready(Some(Outbound::Cancelled(id))) => Some(format!("cancelled {id}")),
            Poll::Ready(None) => Some("end".to_owned()),
            Poll::Pending => None,
        };
        std::iter::from_fn(next).take(limit).collect()
    }

    #[test]
    fn what_does_not_fit_is_counted_at_its_place() {
        let outbox = outbox(Overflow::DropAndTell);
        let put = |text: &'static str| outbox.put(&text.into(), &mut Due::default());
        assert_eq!(
            [put("1"), put("2"), put("3"), put("4")],
            [Put::Queued, Put::Queued, Put::Dropped, Put::Dropped]
        );
        assert_eq!(drain(&outbox, 1), ["1"]);
        assert_eq!([put("5"), put("6")], [Put::Queued, Put::Dropped]);
        assert_eq!(drain(&outbox, 9), ["2", "missed 2", "5", "missed 1"]);
        assert_eq!(put("7"), Put::Queued);
        assert_eq!(drain(&outbox, 9), ["7"]);
    }

    #[test]
    fn a_call_takes_room_and_one_that_does_not_fit_is_told_to_the_caller_alone() {
        let outbox = outbox(Overflow::DropAndTell);
        let call = |id| Invocation {
            id: InvocationId::from_u64(id),
            payload: "x".into(),
        };
        let mut due = Due::default();
        let put = [1, 2, 3].map(|id| outbox.put_call(call(id), &mut due));
        assert_eq!(put, [Put::Queued, Put::Queued, Put::Dropped]);
        // One that was not taken is taken back, and one that was taken is told.
        outbox.cancel_call(call(2).id, &mut due);
        assert_eq!(drain(&outbox, 9), ["call 1"]);
        outbox.cancel_call(call(1).id, &mut due);
        assert_eq!(outbox.put(&"y".into(), &mut due), Put::Queued);
        outbox.cancel_call(call(1).id, &mut due);
        assert_eq!(outbox.put(&"z".into(), &mut due), Put::Dropped);
        assert_eq!(drain(&outbox, 9), ["cancelled 1", "y", "missed 1"]);
    }

    #[test]
    fn a_queue_that_nobody_reads_stays_bounded_through_any_number_of_outages() {
        let outbox = outbox(Overflow::DropAndTell);
        for _ in 0..100 {
            outbox.put(&"x".into(), &mut Due::default());
            outbox.put_gap(&Gap::outage(OutageAccount::default()), &mut Due::default());
        }
        assert_eq!(
            drain(&outbox, 9),
            ["x", "gap 1", "x", "gap 99", "missed 98"]
        );
    }

    #[test]
    fn a_slow_connection_that_is_to_end_gets_what_is_queued_and_then_the_end() {
        let outbox = outbox(Overflow::Disconnect);
        let put = |text: &'static str| outbox.put(&text.into(), &mut Due::default());
        assert_eq!(
            [put("1"), put("2"), put("3"), put("4")],
            [Put::Queued, Put::Queued, Put::TooSlow, Put::Ended]
        );
        assert_eq!(drain(&outbox, 3), ["1", "2", "end"]);
        assert_eq!(outbox.ended(), Some(Ended::TooSlow));
    }
}
