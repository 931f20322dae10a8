//! Publishing: one lane per channel, in which messages queue, are numbered, and leave in frames.
//!
//! The caller that finds its lane idle flushes its message by itself: no task, no timer. As soon as another
//! caller queues behind it, or it goes away, a task takes the flush over and goes on until the queue is
//! empty: all that queued while one frame was in flight leaves in the next. So order is kept (rules O1 and
//! O2), numbers and broker order agree, every caller gets the outcome of its own message, and no caller
//! depends on another one being polled.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::driver::{BrokerChannel, Frame, Link, LinkError, LinkErrorKind, LinkPublishError};
use crate::engine::core::{Core, Pending};
use crate::error::{BoxError, NotSent, PublishErrorKind, Unknown};
use crate::name::{Channel, Prefix};

/// How many lanes a node keeps before it lets go of the idle ones.
const MAX_LANES: usize = 65_536;

/// The numbers of one incarnation of a lane; a later one starts above them.
pub(crate) const EPOCH_BITS: u32 = 40;

/// What became of a message. Shared, because the messages of one frame share their fate.
pub(crate) type Outcome = Result<(), Failure>;

/// Why a message failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: PublishErrorKind,
    source: Option<Arc<LinkError>>,
}

/// How much may leave in one frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// The lanes of a node.
#[derive(Debug)]
pub(crate) struct Lanes {
    by_channel: RwLock<HashMap<Channel, Arc<Lane>>>,
    /// How often idle lanes were let go of.
    epoch: AtomicU64,
}

/// The publishes of this node to one channel.
#[derive(Debug)]
pub(crate) struct Lane {
    name: BrokerChannel,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// The number of the next message.
    next: u64,
    /// Whether a frame of this numbering may have been seen by anybody.
    started: bool,
    /// Whether a flush is under way.
    busy: bool,
    /// Counts the callers that found the lane idle.
    turn: u64,
    /// The flush under way, while it is its caller who polls it and not a task.
    parked: Option<Parked>,
    waiting: VecDeque<Waiting>,
}

/// A flush that a task can take over, and where its outcome goes then.
struct Parked {
    /// Whose flush it is.
    turn: u64,
    flush: Flush,
    outcome: oneshot::Sender<Outcome>,
}

type Flush = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A message whose caller waits.
#[derive(Debug)]
struct Waiting {
    payload: Bytes,
    since: Instant,
    answer: oneshot::Sender<Outcome>,
    /// Counts until the message is done with, whether or not its caller is still there.
    _pending: Pending,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self {
            by_channel: RwLock::default(),
            epoch: AtomicU64::new(0),
        }
    }

    /// The lane of a channel.
    pub(crate) fn get(&self, prefix: &Prefix, channel: &Channel) -> Arc<Lane> {
        let lanes = self
            .by_channel
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(channel) {
            return Arc::clone(lane);
        }
        drop(lanes);
        let mut lanes = self
            .by_channel
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= MAX_LANES && !lanes.contains_key(channel) {
            self.epoch.fetch_add(1, Ordering::Relaxed);
            // Whoever uses a lane holds it, and can only get it under the lock that is held here.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let lane = lanes.entry(channel.clone()).or_insert_with(|| {
            let next = self.epoch.load(Ordering::Relaxed) << EPOCH_BITS;
            let queue = Queue {
                next,
                started: false,
                busy: false,
                turn: 0,
                parked: None,
                waiting: VecDeque::new(),
            };
            let name = BrokerChannel::new(prefix, channel);
            Arc::new(Lane {
                name,
                queue: Mutex::new(queue),
            })
        });
        Arc::clone(lane)
    }
}

/// Publishes one message and returns what became of it.
pub(crate) async fn publish<L: Link>(
    core: &Arc<Core<L>>,
    lane: Arc<Lane>,
    payload: Bytes,
    pending: Pending,
) -> Outcome {
    match enter(core, lane, payload, pending) {
        Ok(flight) => flight.await,
        Err(outcome) => outcome.await.unwrap_or_else(|_| Err(Failure::abandoned())),
    }
}

/// Takes the lane if it is idle, or queues.
fn enter<L: Link>(
    core: &Arc<Core<L>>,
    lane: Arc<Lane>,
    payload: Bytes,
    pending: Pending,
) -> Result<Flight<L>, oneshot::Receiver<Outcome>> {
    let mut queue = lane.lock();
    if !queue.busy {
        queue.busy = true;
        queue.turn += 1;
        let turn = queue.turn;
        drop(queue);
        return Ok(Flight::new(core, lane, turn, payload, pending));
    }
    let (answer, outcome) = oneshot::channel();
    let since = Instant::now();
    queue.waiting.push_back(Waiting {
        payload,
        since,
        answer,
        _pending: pending,
    });
    let parked = queue.parked.take();
    drop(queue);
    if let Some(parked) = parked {
        spawn(core, lane, Some(parked));
    }
    Err(outcome)
}

/// Sends one frame, and returns what became of it.
async fn flush<L: Link>(core: &Core<L>, lane: &Lane, mut payloads: Vec<Bytes>) -> Outcome {
    let count = payloads.len() as u64;
    let (first, start) = {
        let queue = lane.lock();
        (queue.next, !queue.started)
    };
    let node = core.router.node_id();
    let frame = match payloads.pop() {
        Some(only) if payloads.is_empty() => Frame::one(node, first, start, only),
        last => {
            payloads.extend(last);
            Frame::many(node, first, start, payloads)
        }
    };
    let numbers = Numbers {
        lane,
        next: Some(first + count),
    };
    let outcome = send(core, &lane.name, &frame).await;
    let counters = &core.counters;
    match &outcome {
        Ok(()) => counters.published.add(count),
        Err(Failure {
            kind: PublishErrorKind::NotSent(_),
            ..
        }) => {
            // What was certainly not sent leaves its numbers to the next frame.
            numbers.leave();
            counters.not_sent.add(count);
        }
        Err(_) => counters.unknown.add(count),
    }
    outcome
}

/// The numbers of a frame under way. They are used up unless they are left to the next one: also when
/// the flush ends by a panic, or with the runtime.
struct Numbers<'a> {
    lane: &'a Lane,
    next: Option<u64>,
}

impl Numbers<'_> {
    fn leave(mut self) {
        self.next = None;
    }
}

impl Drop for Numbers<'_> {
    fn drop(&mut self) {
        if let Some(next) = self.next {
            let mut queue = self.lane.lock();
            queue.next = next;
            queue.started = true;
        }
    }
}

/// The flush of a caller that found its lane idle.
struct Flight<L: Link> {
    core: Arc<Core<L>>,
    lane: Arc<Lane>,
    turn: u64,
    step: Step,
}

enum Step {
    /// The flush is in the caller's hands.
    Mine(Flush),
    /// It is being polled now, or was when a panic ended it.
    Polling,
    /// It is in the lane, or with a task; the outcome comes from there unless it is taken back.
    Parked(oneshot::Receiver<Outcome>),
    Done,
}

impl<L: Link> Flight<L> {
    fn new(
        core: &Arc<Core<L>>,
        lane: Arc<Lane>,
        turn: u64,
        payload: Bytes,
        pending: Pending,
    ) -> Self {
        let flush = {
            let (core, lane) = (Arc::clone(core), Arc::clone(&lane));
            Box::pin(async move {
                let _pending = pending;
                flush(&core, &lane, vec![payload]).await
            })
        };
        Self {
            core: Arc::clone(core),
            lane,
            turn,
            step: Step::Mine(flush),
        }
    }
}

impl<L: Link> Future for Flight<L> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        let (mut flush, mut told) = match std::mem::replace(&mut this.step, Step::Polling) {
            Step::Mine(flush) => (flush, None),
            Step::Parked(mut outcome) => match this.lane.unpark(this.turn) {
                Some(parked) => (parked.flush, Some((parked.outcome, outcome))),
                None => {
                    let polled = Pin::new(&mut outcome).poll(cx);
                    this.step = Step::Parked(outcome);
                    return polled.map(|told| told.unwrap_or_else(|_| Err(Failure::abandoned())));
                }
            },
            Step::Polling | Step::Done => {
                this.step = Step::Done;
                return Poll::Pending;
            }
        };
        if let Poll::Ready(outcome) = flush.as_mut().poll(cx) {
            this.step = Step::Done;
            go_on(&this.core, &this.lane);
            return Poll::Ready(outcome);
        }
        let (outcome, mut told) = told.take().unwrap_or_else(oneshot::channel);
        let parked = Parked {
            turn: this.turn,
            flush,
            outcome,
        };
        let mut queue = this.lane.lock();
        if queue.waiting.is_empty() {
            queue.parked = Some(parked);
            drop(queue);
        } else {
            drop(queue);
            spawn(&this.core, Arc::clone(&this.lane), Some(parked));
        }
        // Whoever takes it over tells the outcome there.
        let polled = Pin::new(&mut told).poll(cx);
        this.step = Step::Parked(told);
        polled.map(|told| told.unwrap_or_else(|_| Err(Failure::abandoned())))
    }
}

impl<L: Link> Drop for Flight<L> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Mine(_) | Step::Polling => go_on(&self.core, &self.lane),
            // What is on its way is finished, so that the numbers stay true.
            Step::Parked(_) => {
                let parked = self.lane.unpark(self.turn);
                if let Some(parked) = parked {
                    spawn(&self.core, Arc::clone(&self.lane), Some(parked));
                }
            }
            Step::Done => {}
        }
    }
}

/// A flush has ended: what has queued meanwhile is next.
fn go_on<L: Link>(core: &Arc<Core<L>>, lane: &Arc<Lane>) {
    let mut queue = lane.lock();
    if queue.waiting.is_empty() {
        queue.busy = false;
        return;
    }
    drop(queue);
    spawn(core, Arc::clone(lane), None);
}

/// Lets a task finish a flush, and send all that waits.
fn spawn<L: Link>(core: &Arc<Core<L>>, lane: Arc<Lane>, parked: Option<Parked>) {
    let drive = drive(
        Arc::clone(core),
        Lead {
            lane,
            released: false,
        },
        parked,
    );
    core.tasks.spawn_on(drive, &core.runtime);
}

async fn drive<L: Link>(core: Arc<Core<L>>, mut lead: Lead, parked: Option<Parked>) {
    let lane = Arc::clone(&lead.lane);
    if let Some(Parked { flush, outcome, .. }) = parked {
        let _ = outcome.send(flush.await);
    }
    loop {
        let serves = core
            .attached()
            .is_some_and(|attached| !attached.fate.is_ended());
        // Without a link all of them are told so; with one, none waits for ever.
        let patience = serves.then_some(core.options.publish_timeout);
        let (batch, late) = {
            let mut queue = lane.lock();
            let taken = queue.take(core.limits, patience);
            if taken.0.is_empty() && taken.1.is_empty() {
                queue.busy = false;
                lead.released = true;
                break;
            }
            taken
        };
        core.counters.not_sent.add(late.len() as u64);
        for waiting in late {
            let _ = waiting
                .answer
                .send(Err(Failure::not_sent(NotSent::Overloaded)));
        }
        if batch.is_empty() {
            continue;
        }
        let payloads = batch
            .iter()
            .map(|waiting| waiting.payload.clone())
            .collect();
        let outcome = flush(&core, &lane, payloads).await;
        for waiting in batch {
            let _ = waiting.answer.send(outcome.clone());
        }
    }
}

/// The duty to go on with a lane. Dropped before its end, by a panic or with the runtime, it frees the lane
/// and answers those that wait, which were certainly not sent.
struct Lead {
    lane: Arc<Lane>,
    /// Whether the lane is free already, and perhaps somebody else's.
    released: bool,
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let waiting = {
            let mut queue = self.lane.lock();
            queue.busy = false;
            std::mem::take(&mut queue.waiting)
        };
        for waiting in waiting {
            let _ = waiting
                .answer
                .send(Err(Failure::not_sent(NotSent::Unavailable)));
        }
    }
}

impl Lane {
    /// Takes back the flush of this turn, if it is parked still.
    fn unpark(&self, turn: u64) -> Option<Parked> {
        self.lock().parked.take_if(|parked| parked.turn == turn)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The messages of the next frame, without those whose caller has gone; and those that have waited
    /// longer than their patience.
    fn take(&mut self, limits: Limits, patience: Option<Duration>) -> (Vec<Waiting>, Vec<Waiting>) {
        let (mut taken, mut late) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        while let Some(next) = self.waiting.front() {
            if next.answer.is_closed() {
                self.waiting.pop_front();
                continue;
            }
            if patience.is_some_and(|patience| next.since.elapsed() > patience) {
                late.extend(self.waiting.pop_front());
                continue;
            }
            bytes += next.payload.len();
            let full = taken.len() >= limits.messages || bytes > limits.bytes;
            if full && !taken.is_empty() {
                break;
            }
            taken.extend(self.waiting.pop_front());
        }
        (taken, late)
    }
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").finish_non_exhaustive()
    }
}

/// Hands a frame to the link that is attached now.
async fn send<L: Link>(core: &Core<L>, name: &BrokerChannel, frame: &Frame) -> Outcome {
    let Some(attached) = core.attached() else {
        return Err(Failure::not_sent(core.absent()));
    };
    if attached.fate.is_ended() {
        return Err(Failure::not_sent(NotSent::Unavailable));
    }
    let timeout = core.options.publish_timeout;
    let mut publish = attached.link.publish(name, frame);
    let sent = loop {
        let begin = Instant::now();
        tokio::select! {
            biased;
            sent = &mut publish => break Ok(sent),
            () = attached.fate.ended() => {
                return Err(Failure::unknown(Unknown::ConnectionLost, None));
            }
            () = tokio::time::sleep(timeout) => {
                // Much later than that, it was the caller who did not look, and the broker may have answered.
                if begin.elapsed() <= timeout + timeout / 4 {
                    break Err(());
                }
            }
        }
    };
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(LinkPublishError::NotSent(error))) => {
            let why = match error.kind() {
                LinkErrorKind::Refused | LinkErrorKind::Unauthorized => NotSent::Refused,
                _ => NotSent::Unavailable,
            };
            Err(Failure {
                source: Some(Arc::new(error)),
                ..Failure::not_sent(why)
            })
        }
        Ok(Err(LinkPublishError::Unknown(error))) => {
            let why = match error.kind() {
                LinkErrorKind::Timeout => Unknown::Timeout(timeout),
                _ => Unknown::ConnectionLost,
            };
            Err(Failure::unknown(why, Some(Arc::new(error))))
        }
        Err(()) => {
            let told = format!("no answer to a publish within {timeout:?}");
            attached
                .fate
                .lost(LinkError::new(LinkErrorKind::Timeout, told));
            Err(Failure::unknown(Unknown::Timeout(timeout), None))
        }
    }
}

impl Failure {
    pub(crate) const fn not_sent(why: NotSent) -> Self {
        Self {
            kind: PublishErrorKind::NotSent(why),
            source: None,
        }
    }

    /// The flush of the message did not come to its end.
    const fn abandoned() -> Self {
        Self::unknown(Unknown::ConnectionLost, None)
    }

    const fn unknown(why: Unknown, source: Option<Arc<LinkError>>) -> Self {
        Self {
            kind: PublishErrorKind::Unknown(why),
            source,
        }
    }

    pub(crate) fn into_source(self) -> Option<BoxError> {
        self.source
            .map(|error| Box::new(SharedError(error)) as BoxError)
    }
}

/// A link's error, shared by all the messages that it hit.
#[derive(Debug)]
struct SharedError(Arc<LinkError>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
