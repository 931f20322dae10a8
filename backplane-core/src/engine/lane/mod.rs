//! Publishing: one lane per channel, in which messages queue, are numbered, and leave in frames.
//!
//! The caller that finds its lane idle flushes its message by itself: no task, no timer. As soon as another
//! caller queues behind it, or it goes away, a task takes the flush over and goes on until the queue is
//! empty: all that queued while one frame was in flight leaves in the next, with those who come back in the moment in
//! which they are answered. So order is kept (rules O1 and O2), numbers and broker order agree, every caller gets the
//! outcome of its own message, and no caller depends on another one being polled.
//!
//! One frame of a lane is in flight at a time. With a second one, a frame that the broker refuses would leave a hole in
//! the numbers behind which the next one is already on its way, and subscribers would be told of a loss that is none.

mod crowd;
mod flight;
mod flush;
mod gather;
mod table;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use self::crowd::{Boarded, Crowd, Seat};
use self::flight::{Flight, Parked};
use self::flush::{Counted, Sent, count, send, send_now};
use self::gather::gather;
pub(crate) use self::table::Lanes;
use crate::driver::{BrokerChannel, Frame, Link};
use crate::engine::core::{Attached, Core, Pending, Room};
use crate::engine::outcome::{Failure, Outcome};
use crate::error::NotSent;
use crate::name::{Channel, Prefix};
use crate::queue::Wakes;

/// For how many callers a crowd has space before they are there, at most: many crowds of one large message each may wait.
const MOST_PREPARED: usize = 64;

/// The numbers of one incarnation of a lane; a later one starts above them.
pub(crate) const EPOCH_BITS: u32 = 40;

/// How much may leave at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// In one frame.
    pub(crate) messages: usize,
    /// In one frame of several messages.
    pub(crate) bytes: usize,
    /// In one message.
    pub(crate) payload: usize,
}

/// The publishes of this node to one channel.
#[derive(Debug)]
pub(crate) struct Lane<L> {
    name: BrokerChannel,
    queue: Mutex<Queue<L>>,
}

#[derive(Debug)]
struct Queue<L> {
    /// The link that is in force.
    attached: Option<Arc<Attached<L>>>,
    numbers: Numbers,
    /// How many messages the broker has accepted.
    published: u64,
    /// Whether a flush is under way.
    busy: bool,
    /// Counts the callers that found the lane idle.
    turn: u64,
    /// The flush under way, while it is its caller who polls it and not a task.
    parked: Option<Parked>,
    waiting: VecDeque<Crowd>,
    /// How many calls the last one of these had.
    usual: usize,
    /// How many frames leave before callers are waited for again.
    pause: u8,
}

/// The numbers of the next frame.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// That of its first message.
    first: u64,
    /// Whether nobody can have seen a frame of this numbering before it.
    start: bool,
}

/// The payloads of at least one message.
#[derive(Debug)]
enum Payloads {
    One(Bytes),
    Many(Vec<Bytes>),
}

/// How far messages have come when they have entered their lane. A future of what becomes of them.
pub(crate) enum Entered<L: Link> {
    /// They are done with.
    Done(Outcome),
    /// They are on their way.
    Leads(Flight<L>),
    /// They wait for their turn.
    Follows(Seat),
}

impl<L: Link> Future for Entered<L> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut *self {
            Self::Done(outcome) => Poll::Ready(outcome.clone()),
            Self::Leads(flight) => Pin::new(flight).poll(cx),
            Self::Follows(seat) => Pin::new(seat).poll(cx),
        }
    }
}

/// What entering a lane leads to. What follows from it is done without its lock.
enum Step {
    /// The messages are done with.
    Done(Outcome),
    /// Their caller has the lane.
    Leads(u64, Frame, Pending),
    /// They have queued, behind a flush that a task has to take over if it is given here.
    Follows(Seat, Option<Parked>),
}

/// Sends a message at once if its lane is idle and that takes no waiting; else takes the lane, or queues. What enters
/// first leaves first, whether or not its outcome is awaited.
///
/// It needs room only if it has to wait.
pub(crate) fn enter<L: Link>(
    core: &Arc<Core<L>>,
    lane: &Arc<Lane<L>>,
    payload: Bytes,
) -> Result<Entered<L>, NotSent> {
    enter_all(core, lane, Payloads::One(payload), None)
}

/// Likewise messages that leave in one frame, for which there is room.
pub(crate) fn enter_with<L: Link>(
    core: &Arc<Core<L>>,
    lane: &Arc<Lane<L>>,
    payloads: Vec<Bytes>,
    room: Room<'_>,
) -> Result<Entered<L>, NotSent> {
    enter_all(core, lane, Payloads::Many(payloads), Some(room))
}

fn enter_all<L: Link>(
    core: &Arc<Core<L>>,
    lane: &Arc<Lane<L>>,
    payloads: Payloads,
    room: Option<Room<'_>>,
) -> Result<Entered<L>, NotSent> {
    let mut wakes = Wakes::default();
    let step = begin(core, lane, payloads, room, &mut wakes)?;
    Ok(match step {
        Step::Done(outcome) => Entered::Done(outcome),
        Step::Leads(turn, frame, pending) => {
            Entered::Leads(Flight::new(core, lane, turn, frame, pending))
        }
        Step::Follows(seat, parked) => {
            if let Some(parked) = parked {
                spawn(core, Arc::clone(lane), Some(parked));
            }
            Entered::Follows(seat)
        }
    })
}

/// The lane is locked all the while: who comes at the same moment waits for that moment, and need not queue.
fn begin<L: Link>(
    core: &Core<L>,
    lane: &Lane<L>,
    payloads: Payloads,
    room: Option<Room<'_>>,
    wakes: &mut Wakes,
) -> Result<Step, NotSent> {
    let room_for = |bytes| room.or_else(|| core.room(bytes)).ok_or(NotSent::Overloaded);
    // Dropped after the lock: what the caller's payload does when it is dropped is the caller's affair.
    let frame;
    let mut guard = lane.lock();
    let queue = &mut *guard;
    if queue.busy {
        let room = room_for(payloads.bytes())?;
        let seat = queue.follow(core, payloads, room);
        return Ok(Step::Follows(seat, queue.parked.take()));
    }
    let bytes = payloads.bytes();
    let numbers = queue.numbers;
    frame = numbers.frame(core, payloads);
    // Also if a panic ends it.
    queue.numbers.use_up(&frame);
    let sent = send_now(core, queue.attached.as_deref(), &lane.name, &frame, wakes);
    let counted = sent.as_ref().map(|outcome| count(core, &frame, outcome));
    let Counted { used_up, published } = counted.unwrap_or_default();
    queue.published += published;
    if !used_up {
        queue.numbers = numbers;
    }
    if let Some(outcome) = sent {
        return Ok(Step::Done(outcome));
    }
    let pending = room_for(bytes)?.keep();
    queue.busy = true;
    queue.turn += 1;
    Ok(Step::Leads(queue.turn, frame, pending))
}

/// A flush has ended, and what has queued meanwhile is next.
fn go_on<L: Link>(core: &Arc<Core<L>>, lane: &Arc<Lane<L>>) {
    let mut queue = lane.lock();
    if queue.waiting.is_empty() {
        queue.busy = false;
        return;
    }
    drop(queue);
    spawn(core, Arc::clone(lane), None);
}

/// Lets a task finish a flush, and send all that waits.
fn spawn<L: Link>(core: &Arc<Core<L>>, lane: Arc<Lane<L>>, parked: Option<Parked>) {
    let lead = Lead {
        core: Arc::clone(core),
        lane,
        released: false,
    };
    let drive = drive(lead, parked);
    core.tasks.spawn_on(drive, &core.runtime);
}

async fn drive<L: Link>(mut lead: Lead<L>, parked: Option<Parked>) {
    let (core, lane) = (Arc::clone(&lead.core), Arc::clone(&lead.lane));
    if let Some(Parked { flush, outcome, .. }) = parked {
        let begin = Instant::now();
        let _ = outcome.send(flush.await);
        // It was under way before: this is what was left of its time.
        gather(&core, &lane, 1, begin.elapsed()).await;
    }
    loop {
        let serves = core
            .attached()
            .is_some_and(|attached| !attached.fate.is_ended());
        // Without a link all of them are told so; with one, none waits for ever.
        let patience = serves.then_some(core.options.publish_timeout);
        let (crowd, numbers) = {
            let mut queue = lane.lock();
            let Some(crowd) = queue.waiting.pop_front() else {
                queue.busy = false;
                lead.released = true;
                break;
            };
            queue.usual = crowd.len();
            (crowd, queue.numbers)
        };
        let Boarded {
            payloads,
            calls,
            late,
            callers,
        } = crowd.board(patience);
        core.counters.not_sent.add(late.messages);
        callers.tell_late(late);
        if payloads.is_empty() {
            continue;
        }
        let frame = numbers.frame(&core, Payloads::Many(payloads));
        let Sent { outcome, waited } = send(&core, &lane, &frame).await;
        callers.tell(outcome);
        if let Some(waited) = waited {
            gather(&core, &lane, calls, waited).await;
        }
        // A link that never waits would keep this worker as long as others publish.
        tokio::task::coop::consume_budget().await;
    }
}

/// The duty to go on with a lane. Dropped before its end, by a panic or with the runtime, it frees the lane
/// and answers those that wait, which were certainly not sent.
struct Lead<L> {
    core: Arc<Core<L>>,
    lane: Arc<Lane<L>>,
    /// Whether the lane is free already, and perhaps somebody else's.
    released: bool,
}

impl<L> Drop for Lead<L> {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let waiting = {
            let mut queue = self.lane.lock();
            queue.busy = false;
            std::mem::take(&mut queue.waiting)
        };
        for crowd in waiting {
            let Boarded {
                payloads, callers, ..
            } = crowd.board(None);
            self.core.counters.not_sent.add(payloads.len() as u64);
            let unavailable = Failure::not_sent(NotSent::Unavailable, None);
            callers.tell(Err(unavailable));
        }
    }
}

impl<L> Lane<L> {
    /// An idle lane, whose first message will have this number.
    fn new(
        prefix: &Prefix,
        channel: &Channel,
        first: u64,
        attached: Option<Arc<Attached<L>>>,
    ) -> Self {
        let queue = Queue {
            attached,
            numbers: Numbers { first, start: true },
            published: 0,
            busy: false,
            turn: 0,
            parked: None,
            waiting: VecDeque::new(),
            usual: 1,
            pause: 0,
        };
        Self {
            name: BrokerChannel::new(prefix, channel),
            queue: Mutex::new(queue),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<L>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Queue<L> {
    /// Lets messages wait for the next frame that has room for them.
    fn follow(&mut self, core: &Core<L>, payloads: Payloads, room: Room<'_>) -> Seat {
        match self.waiting.back_mut() {
            Some(last) if last.fits(&payloads, core.limits) => last.push(payloads, room),
            _ => {
                let mut crowd = Crowd::new(self.usual.min(MOST_PREPARED), core.pending());
                let seat = crowd.push(payloads, room);
                self.waiting.push_back(crowd);
                seat
            }
        }
    }
}

impl Numbers {
    /// The numbers of this frame are gone.
    fn use_up(&mut self, frame: &Frame) {
        self.first = frame.sequence() + frame.len() as u64;
        self.start = false;
    }

    fn frame<L>(self, core: &Core<L>, payloads: Payloads) -> Frame {
        let node = core.router.node_id();
        match payloads {
            Payloads::One(payload) => Frame::one(node, self.first, self.start, payload),
            Payloads::Many(payloads) => Frame::many(node, self.first, self.start, payloads),
        }
    }
}

impl Limits {
    /// Whether a message is not too large.
    pub(crate) const fn check(&self, payload: &Bytes) -> Result<(), NotSent> {
        let (size, limit) = (payload.len(), self.payload);
        match size > limit {
            true => Err(NotSent::TooLarge { size, limit }),
            false => Ok(()),
        }
    }

    /// How many of these, the first of which is not too large, leave in one frame. At least one.
    pub(crate) fn first_of(&self, payloads: &[Bytes]) -> usize {
        let mut bytes = 0;
        let fits = |payload: &&Bytes| {
            bytes += payload.len();
            bytes <= self.bytes && self.check(payload).is_ok()
        };
        let some = payloads.iter().take(self.messages);
        some.take_while(fits).count().max(1)
    }
}

impl Payloads {
    const fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(payloads) => payloads.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::One(payload) => payload.len(),
            Self::Many(payloads) => payloads.iter().map(Bytes::len).sum(),
        }
    }
}
