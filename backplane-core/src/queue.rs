//! The bounded queue between a backend's read path and a [`Subscription`](crate::Subscription).

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use crate::message::{Delivery, Gap, Message, OutageAccount};
use crate::name::Channel;

/// Makes a queue for up to `capacity` messages (at least one) with up to `max_bytes` of payload in all
/// (rules B2 and B3). Whatever its size, a message always fits into an empty queue.
///
/// A queue that has overflowed takes nothing more until messages were read or purged: what is in it are the first
/// messages, and the rest is counted into one overflow gap at the end. Gaps have room of their own, so that
/// none is ever lost; when as many gaps as `capacity` wait unread, a new one is merged into
/// the one that it would follow directly. Every gap keeps its place among the messages.
///
/// # Memory
/// Payloads are slices of what they arrived in, and keep all of it. So messages that share a buffer are to be
/// [pushed](QueueWriter::push) in one call: they are kept as they are when all fit, and those that fit are copied
/// out when others do not. With that, the queue keeps no more than `max_bytes`, the rest of one buffer that is
/// partly read, and for each message and gap a fixed amount (64 bytes on a 64-bit machine, and as much again for
/// room to grow; the queues of a node that share a message hold 72 bytes more, once for all of them).
#[must_use]
pub fn queue(capacity: usize, max_bytes: usize) -> (QueueWriter, QueueReader) {
    let shared = Arc::new(Shared {
        capacity: capacity.max(1),
        max_bytes,
        state: Mutex::new(State::default()),
    });
    (QueueWriter(Arc::clone(&shared)), QueueReader(shared))
}

/// The writing side of a subscription's queue. Never blocks.
#[derive(Clone, Debug)]
pub struct QueueWriter(Arc<Shared>);

/// The reading side of a subscription's queue.
#[derive(Debug)]
pub struct QueueReader(Arc<Shared>);

/// What became of the messages that were pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// Messages that were queued.
    pub queued: u64,
    /// Messages that did not fit, and were counted into an overflow gap.
    pub overflowed: u64,
    /// Whether that gap is a new one.
    pub new_gap: bool,
}

impl QueueWriter {
    /// Queues messages in order. What does not fit is counted into a gap at this place (rule B2).
    /// After [`QueueWriter::close`] it does nothing. Messages that share a buffer belong into one call, as
    /// [`queue`] explains.
    pub fn push(&self, messages: impl IntoIterator<Item = Message>) -> Pushed {
        let mut wakes = Wakes::default();
        self.push_then(messages, &mut wakes)
    }

    /// Likewise, and leaves it to the caller to wake the reader.
    pub(crate) fn push_then(
        &self,
        messages: impl IntoIterator<Item = Message>,
        wakes: &mut Wakes,
    ) -> Pushed {
        let mut pushed = Pushed::default();
        let mut state = self.0.lock();
        if state.closed {
            return pushed;
        }
        let begin = state.items.len();
        for message in messages {
            if state.has_room(message.payload().len(), &self.0) {
                state.bytes += message.payload().len();
                state.messages += 1;
                state.items.push_back(Delivery::Message(message));
                pushed.queued += 1;
            } else {
                state.overflowed = true;
                pushed.overflowed += 1;
            }
        }
        if pushed.overflowed > 0 {
            if pushed.queued > 0 {
                state.copy_out(begin);
            }
            pushed.new_gap = state.push_gap(Gap::overflow(pushed.overflowed), self.0.capacity);
        }
        wakes.add(state.reader.take());
        pushed
    }

    /// Likewise a single message, which shares its buffer with none that is pushed after it.
    pub(crate) fn push_one_then(&self, message: Message, wakes: &mut Wakes) -> Pushed {
        let mut state = self.0.lock();
        if state.closed {
            return Pushed::default();
        }
        let bytes = message.payload().len();
        if !state.has_room(bytes, &self.0) {
            drop(state);
            return self.push_then([message], wakes);
        }
        state.bytes += bytes;
        state.messages += 1;
        state.items.push_back(Delivery::Message(message));
        wakes.add(state.reader.take());
        Pushed {
            queued: 1,
            ..Pushed::default()
        }
    }

    /// Queues a gap. Returns whether it is a new one, and not merged into the last.
    pub fn push_gap(&self, gap: Gap) -> bool {
        let mut wakes = Wakes::default();
        self.push_gap_then(gap, &mut wakes)
    }

    /// Likewise, and leaves it to the caller to wake the reader.
    pub(crate) fn push_gap_then(&self, gap: Gap, wakes: &mut Wakes) -> bool {
        let mut state = self.0.lock();
        if state.closed {
            return false;
        }
        let new = state.push_gap(gap, self.0.capacity);
        wakes.add(state.reader.take());
        new
    }

    /// Queues the gap of an outage, whose account is the one that [counts](Self::account) from now on.
    pub(crate) fn push_outage_then(&self, wakes: &mut Wakes) -> bool {
        let account = OutageAccount::default();
        self.0.lock().account = Some(account.clone());
        self.push_gap_then(Gap::outage(account), wakes)
    }

    /// The account of the latest outage.
    pub(crate) fn account(&self) -> Option<OutageAccount> {
        self.0.lock().account.clone()
    }

    /// Takes the queued messages of these channels out again (rule S2).
    pub fn purge(&self, channels: &[Channel]) {
        let mut state = self.0.lock();
        let wanted: HashSet<_> = match state.items.is_empty() {
            true => return,
            false => channels.iter().collect(),
        };
        state
            .items
            .retain(|item| !matches!(item, Delivery::Message(m) if wanted.contains(m.channel())));
        state.messages = state.items.iter().filter_map(payload).count();
        state.bytes = state.items.iter().filter_map(payload).map(Bytes::len).sum();
        state.overflowed = false;
    }

    /// Ends the stream after what is queued (rule C1).
    pub fn close(&self) {
        let mut wakes = Wakes::default();
        self.close_then(&mut wakes);
    }

    /// Likewise, and leaves it to the caller to wake the reader.
    pub(crate) fn close_then(&self, wakes: &mut Wakes) {
        let mut state = self.0.lock();
        state.closed = true;
        wakes.add(state.reader.take());
    }
}

impl QueueReader {
    /// The next delivery; `None` when the queue was closed and is empty.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let mut state = self.0.lock();
        match state.pop() {
            Some(item) => Poll::Ready(Some(item)),
            None if state.closed => Poll::Ready(None),
            None => {
                state.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Appends up to `limit` deliveries that are there to `buffer`, and says how many; 0 when the queue was closed and
    /// is empty, or `limit` is 0.
    pub fn poll_recv_many(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<Delivery>,
        limit: usize,
    ) -> Poll<usize> {
        let mut state = self.0.lock();
        match state.pop_many(buffer, limit, self.0.capacity) {
            0 if limit > 0 && !state.closed => {
                state.wait(cx);
                Poll::Pending
            }
            taken => Poll::Ready(taken),
        }
    }

    /// The next delivery, if there is one already.
    ///
    /// # Errors
    /// [`TryRecvError`] says whether one can still come.
    pub fn try_recv(&mut self) -> Result<Delivery, TryRecvError> {
        let mut state = self.0.lock();
        match state.pop() {
            Some(item) => Ok(item),
            None if state.closed => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// How many deliveries wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().items.len()
    }

    /// Whether no delivery waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why there is nothing to receive now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(clippy::exhaustive_enums)]
pub enum TryRecvError {
    /// Nothing has arrived; it may yet.
    #[error("nothing has arrived")]
    Empty,
    /// Nothing will arrive any more.
    #[error("nothing will arrive any more")]
    Closed,
}

/// Readers to be woken, when no lock is held any longer: a waker may run code of anybody's. Wakes them when it is
/// dropped.
#[derive(Debug, Default)]
#[must_use = "dropped at once, it wakes at once"]
pub struct Wakes {
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Wakes {
    fn add(&mut self, reader: Option<Waker>) {
        match reader {
            Some(reader) if self.first.is_none() => self.first = Some(reader),
            Some(reader) => self.others.push(reader),
            None => {}
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        if let Some(first) = self.first.take() {
            first.wake();
            self.others.drain(..).for_each(Waker::wake);
        }
    }
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    max_bytes: usize,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Delivery>,
    /// How many of the items are messages; the rest are gaps.
    messages: usize,
    /// The payload bytes of these messages.
    bytes: usize,
    /// Whether a message did not fit since the last one was read.
    overflowed: bool,
    closed: bool,
    reader: Option<Waker>,
    /// Of the latest outage.
    account: Option<OutageAccount>,
}

impl State {
    fn has_room(&self, bytes: usize, limits: &Shared) -> bool {
        if self.messages == 0 {
            return true;
        }
        !self.overflowed
            && self.messages < limits.capacity
            && self.bytes.saturating_add(bytes) <= limits.max_bytes
    }

    /// Gives the messages from here on a buffer of their own.
    fn copy_out(&mut self, begin: usize) {
        let fresh = || self.items.range(begin..).filter_map(payload);
        let mut buffer = BytesMut::with_capacity(fresh().map(Bytes::len).sum());
        for payload in fresh() {
            buffer.extend_from_slice(payload);
        }
        let mut buffer = buffer.freeze();
        for item in self.items.range_mut(begin..) {
            if let Delivery::Message(message) = item {
                let own = buffer.split_to(message.payload().len());
                *message = message.with_payload(own);
            }
        }
    }

    /// Two overflows in a row are one gap; outages keep a gap each, as long as there is room. A gap behind a message
    /// always has room, because messages are bounded: else it would lose its place.
    fn push_gap(&mut self, gap: Gap, capacity: usize) -> bool {
        let full = self.items.len() - self.messages >= capacity;
        match self.items.back_mut() {
            Some(Delivery::Gap(last)) if full || (gap.outages() == 0 && last.outages() == 0) => {
                last.merge(gap);
                false
            }
            _ => {
                self.items.push_back(Delivery::Gap(gap));
                true
            }
        }
    }

    fn pop(&mut self) -> Option<Delivery> {
        let item = self.items.pop_front()?;
        if let Some(payload) = payload(&item) {
            self.bytes -= payload.len();
            self.messages -= 1;
            self.overflowed = false;
        }
        Some(item)
    }

    fn pop_many(&mut self, buffer: &mut Vec<Delivery>, limit: usize, capacity: usize) -> usize {
        let taken = self.items.len().min(limit);
        if taken == 0 {
            return 0;
        }
        // All of them for an empty buffer: it and the queue change places, unless that would give the queue more room
        // than it may ever need.
        if taken == self.items.len() && buffer.is_empty() && buffer.capacity() <= capacity {
            let empty = VecDeque::from(std::mem::take(buffer));
            *buffer = std::mem::replace(&mut self.items, empty).into();
            if self.messages > 0 {
                self.overflowed = false;
            }
            (self.messages, self.bytes) = (0, 0);
            return taken;
        }
        let begin = buffer.len();
        buffer.extend(self.items.drain(..taken));
        for payload in buffer[begin..].iter().filter_map(payload) {
            self.bytes -= payload.len();
            self.messages -= 1;
            self.overflowed = false;
        }
        taken
    }

    /// Has the reader woken by what comes next.
    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

fn payload(item: &Delivery) -> Option<&Bytes> {
    match item {
        Delivery::Message(message) => Some(message.payload()),
        Delivery::Gap(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::Missed;
    use crate::name::NodeId;

    fn message(channel: &str, n: u8) -> Message {
        Message::new(
            Channel::new(channel).unwrap(),
            Bytes::copy_from_slice(&[n]),
            NodeId::from_u64(1),
        )
    }

    fn drain(reader: &mut QueueReader) -> Vec<String> {
        std::iter::from_fn(|| reader.try_recv().ok())
            .map(|item| match item {
                Delivery::Message(m) => format!("{}", m.payload()[0]),
                Delivery::Gap(gap) => format!("gap {:?} {}", gap.missed(), gap.outages()),
            })
            .collect()
    }

    #[test]
    fn overflow_is_one_gap_with_the_exact_count_at_its_place() {
        let (writer, mut reader) = queue(2, usize::MAX);
        writer.push((0..5).map(|n| message("c", n)));
        writer.push([message("c", 5)]);
        assert!(matches!(reader.try_recv(), Ok(Delivery::Message(_))));
        writer.push([message("c", 6), message("c", 7)]);
        assert_eq!(
            drain(&mut reader),
            ["1", "gap Exactly(4) 0", "6", "gap Exactly(1) 0"]
        );
    }

    #[test]
    fn bytes_are_bounded_too_and_what_is_queued_are_the_first_messages() {
        let sized = |n: u8, len| {
            let message = message("c", n);
            message.with_payload(vec![n; len].into())
        };
        let (writer, mut reader) = queue(100, 10);
        // Any message fits into an empty queue.
        assert_eq!(writer.push([sized(0, 50)]).queued, 1);
        // What would fit by itself comes after one that did not, and must not overtake it.
        assert_eq!(writer.push([sized(1, 9), sized(2, 0)]).overflowed, 2);
        assert!(!writer.push([sized(3, 1)]).new_gap);
        assert_eq!(drain(&mut reader), ["0", "gap Exactly(3) 0"]);
        // The bound itself fits exactly.
        writer.push([sized(4, 3), sized(5, 7), sized(6, 1)]);
        assert!(matches!(reader.try_recv(), Ok(Delivery::Message(_))));
        writer.push([sized(7, 3), sized(8, 1)]);
        assert_eq!(
            drain(&mut reader),
            ["5", "gap Exactly(1) 0", "7", "gap Exactly(1) 0"]
        );
        assert_eq!(reader.0.lock().bytes, 0);
    }

    #[test]
    fn purge_makes_room_in_bytes() {
        let (writer, mut reader) = queue(100, 2);
        writer.push([message("a", 1), message("b", 2), message("b", 3)]);
        writer.purge(&[Channel::new("a").unwrap()]);
        writer.push([message("b", 4)]);
        writer.push([message("b", 5)]);
        assert_eq!(
            drain(&mut reader),
            ["2", "gap Exactly(1) 0", "4", "gap Exactly(1) 0"]
        );
    }

    #[test]
    fn what_overflowed_is_not_kept_by_what_is_queued() {
        let buffer = Bytes::from(vec![7; 1000]);
        let slices = || {
            let part = |i: usize| buffer.slice(i * 10..i * 10 + 10);
            (0..100).map(move |i| message("c", 0).with_payload(part(i)))
        };
        let place = buffer.as_ptr_range();
        let kept = |reader: &mut QueueReader| {
            let next = std::iter::from_fn(|| reader.try_recv().ok());
            let messages: Vec<Message> = next.filter_map(Delivery::into_message).collect();
            assert!(messages.iter().all(|m| m.payload()[..] == [7; 10]));
            let inside = |m: &&Message| place.contains(&m.payload().as_ptr());
            (messages.len(), messages.iter().filter(inside).count())
        };
        let (writer, mut reader) = queue(100, 1000);
        writer.push(slices());
        assert_eq!(kept(&mut reader), (100, 100), "all fit, and are not copied");
        for (capacity, bytes) in [(3, 1000), (100, 30)] {
            let (writer, mut reader) = queue(capacity, bytes);
            writer.push(slices());
            assert_eq!(kept(&mut reader), (3, 0), "the others are gone");
        }
    }

    #[test]
    fn many_are_taken_in_order_with_their_gaps_and_make_room() {
        let (writer, mut reader) = queue(3, 3);
        let mut cx = Context::from_waker(Waker::noop());
        let mut buffer = Vec::new();
        assert!(reader.poll_recv_many(&mut cx, &mut buffer, 9).is_pending());
        writer.push((0..5).map(|n| message("c", n)));
        assert_eq!(
            reader.poll_recv_many(&mut cx, &mut buffer, 0),
            Poll::Ready(0)
        );
        assert_eq!(
            reader.poll_recv_many(&mut cx, &mut buffer, 2),
            Poll::Ready(2)
        );
        // Two have left, and the gap stays before what comes now.
        writer.push([message("c", 5), message("c", 6), message("c", 7)]);
        assert_eq!(
            reader.poll_recv_many(&mut cx, &mut buffer, 9),
            Poll::Ready(5)
        );
        let payloads: Vec<_> = buffer
            .iter()
            .map(|item| match item {
                Delivery::Message(m) => u64::from(m.payload()[0]),
                Delivery::Gap(gap) => 100 + gap.overflowed(),
            })
            .collect();
        assert_eq!(payloads, [0, 1, 2, 102, 5, 6, 101]);
        assert_eq!(reader.0.lock().bytes, 0);
        writer.close();
        assert_eq!(
            reader.poll_recv_many(&mut cx, &mut buffer, 9),
            Poll::Ready(0)
        );
    }

    #[test]
    fn each_outage_has_its_own_gap() {
        let (writer, mut reader) = queue(4, usize::MAX);
        writer.push_gap(Gap::outage(OutageAccount::default()));
        writer.push_gap(Gap::outage(OutageAccount::default()));
        assert_eq!(drain(&mut reader), ["gap AtLeast(0) 1", "gap AtLeast(0) 1"]);
    }

    #[test]
    fn gaps_that_nobody_reads_are_merged_and_stay_bounded() {
        let (writer, mut reader) = queue(3, usize::MAX);
        for _ in 0..100 {
            writer.push_gap(Gap::outage(OutageAccount::default()));
            writer.push([message("c", 1)]);
        }
        assert_eq!(reader.len(), 7, "3 messages, and a gap around each");
        let mut outages = 0;
        let mut missing = 0;
        while let Ok(item) = reader.try_recv() {
            if let Delivery::Gap(gap) = item {
                outages += gap.outages();
                missing += gap.overflowed();
            }
        }
        assert_eq!((outages, missing), (100, 97));
    }

    #[test]
    fn a_gap_keeps_its_place_however_many_wait() {
        let (writer, mut reader) = queue(1, usize::MAX);
        writer.push_gap(Gap::outage(OutageAccount::default()));
        writer.push([message("c", 1), message("c", 2)]);
        writer.push_gap(Gap::outage(OutageAccount::default()));
        assert_eq!(
            drain(&mut reader),
            ["gap AtLeast(0) 1", "1", "gap AtLeast(1) 1"]
        );
    }

    #[test]
    fn purge_takes_only_the_named_channels() {
        let (writer, mut reader) = queue(2, usize::MAX);
        writer.push([message("a", 1), message("b", 2)]);
        writer.purge(&[Channel::new("a").unwrap()]);
        writer.push([message("b", 3)]);
        assert_eq!(drain(&mut reader), ["2", "3"]);
        assert_eq!(Gap::overflow(1).missed(), Missed::Exactly(1));
    }

    #[test]
    fn close_ends_the_stream_after_what_was_queued() {
        let (writer, mut reader) = queue(2, usize::MAX);
        writer.push([message("a", 1)]);
        writer.close();
        writer.push([message("a", 2)]);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(reader.poll_recv(&mut cx), Poll::Ready(Some(_))));
        assert!(matches!(reader.poll_recv(&mut cx), Poll::Ready(None)));
    }
}
