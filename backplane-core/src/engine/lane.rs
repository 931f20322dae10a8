//! Publishing: one lane per channel, in which messages queue, are numbered, and leave in frames.
//!
//! The caller that finds its lane idle flushes by itself: no task, no timer. While its flush is in flight,
//! others queue; when it ends, the first of them takes over and flushes all that wait in one frame. So order
//! is kept (rules O1 and O2), numbers and broker order agree, and every caller gets the outcome of its
//! own message. A caller that goes away takes only its own message with it: leadership that is
//! dropped passes on, and a flush that is dropped in flight is finished by a task.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::driver::{BrokerChannel, Frame, Link, LinkError, LinkErrorKind, LinkPublishError};
use crate::engine::core::Core;
use crate::error::{BoxError, NotSent, PublishErrorKind, Unknown};
use crate::name::{Channel, Prefix};

/// How many lanes a node keeps before it lets go of the idle ones.
const MAX_LANES: usize = 65_536;

/// The numbers of one incarnation of a lane; a later one starts above them.
const EPOCH_BITS: u32 = 40;

/// What became of a message. Shared, because the messages of one frame share their fate.
pub(crate) type Outcome = Result<(), Failure>;

/// Why a message failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: PublishErrorKind,
    source: Option<Arc<LinkError>>,
}

/// The lanes of a node.
#[derive(Debug)]
pub(crate) struct Lanes {
    limits: Limits,
    by_channel: RwLock<HashMap<Channel, Arc<Lane>>>,
    /// How often idle lanes were let go of.
    epoch: AtomicU64,
}

/// The publishes of this node to one channel.
#[derive(Debug)]
pub(crate) struct Lane {
    limits: Limits,
    name: BrokerChannel,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// The number of the next message.
    next: u64,
    /// Whether a frame of this numbering may have been seen by anybody.
    started: bool,
    /// Whether somebody leads: flushes, or has been told to.
    led: bool,
    waiting: VecDeque<Waiting>,
}

/// A message whose caller waits.
#[derive(Debug)]
struct Waiting {
    payload: Bytes,
    answer: oneshot::Sender<Answer>,
}

/// What a waiting caller is told.
#[derive(Debug)]
enum Answer {
    Done(Outcome),
    /// Flush this, your own message is the first.
    Lead(Batch),
}

/// The messages of the next flush, in the hands of its leader. Dropping it passes leadership on.
struct Batch {
    lane: Arc<Lane>,
    mine: Bytes,
    others: VecDeque<Waiting>,
    /// Whether the flush has not begun.
    waits: bool,
}

impl Lanes {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
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
                led: false,
                waiting: VecDeque::new(),
            };
            let name = BrokerChannel::new(prefix, channel);
            Arc::new(Lane {
                limits: self.limits,
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
) -> Outcome {
    let mut waiting = match lane.enter(payload) {
        Ok(batch) => return Flight::new(core, batch).await,
        Err(waiting) => waiting,
    };
    match (&mut waiting).await {
        Ok(Answer::Done(outcome)) => outcome,
        Ok(Answer::Lead(batch)) => Flight::new(core, batch).await,
        // A flush always answers; it is dropped only with the whole runtime.
        Err(_) => Err(Failure::not_sent(NotSent::Closed)),
    }
}

impl Lane {
    /// Takes the lead if nobody has it, or queues.
    fn enter(self: Arc<Self>, payload: Bytes) -> Result<Batch, oneshot::Receiver<Answer>> {
        let mut queue = self.lock();
        if queue.led {
            let (answer, waiting) = oneshot::channel();
            queue.waiting.push_back(Waiting { payload, answer });
            return Err(waiting);
        }
        queue.led = true;
        drop(queue);
        Ok(Batch {
            lane: self,
            mine: payload,
            others: VecDeque::new(),
            waits: true,
        })
    }

    /// Gives the lead to the first of these that is still there, or to the first that waits.
    fn pass_on(self: &Arc<Self>, mut heirs: VecDeque<Waiting>) {
        loop {
            if heirs.is_empty() {
                let mut queue = self.lock();
                heirs = queue.take(self.limits);
                if heirs.is_empty() {
                    queue.led = false;
                    return;
                }
            }
            while let Some(heir) = heirs.pop_front() {
                let batch = Batch {
                    lane: Arc::clone(self),
                    mine: heir.payload,
                    others: std::mem::take(&mut heirs),
                    waits: true,
                };
                match heir.answer.send(Answer::Lead(batch)) {
                    Ok(()) => return,
                    Err(Answer::Lead(batch)) => heirs = batch.into_others(),
                    Err(Answer::Done(_)) => {}
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much may leave in one frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Queue {
    /// The messages of the next frame, without those whose caller has gone.
    fn take(&mut self, limits: Limits) -> VecDeque<Waiting> {
        let mut taken = VecDeque::new();
        let mut bytes = 0;
        while let Some(next) = self.waiting.front() {
            if next.answer.is_closed() {
                self.waiting.pop_front();
                continue;
            }
            bytes += next.payload.len();
            let full = taken.len() >= limits.messages || bytes > limits.bytes;
            if full && !taken.is_empty() {
                break;
            }
            taken.extend(self.waiting.pop_front());
        }
        taken
    }
}

impl Batch {
    fn into_others(mut self) -> VecDeque<Waiting> {
        self.waits = false;
        std::mem::take(&mut self.others)
    }

    /// Sends the frame, answers the others, passes the lead on, and returns the outcome.
    async fn flush<L: Link>(mut self, core: Arc<Core<L>>) -> Outcome {
        self.waits = false;
        let (mine, others) = (
            std::mem::take(&mut self.mine),
            std::mem::take(&mut self.others),
        );
        let lane = Arc::clone(&self.lane);
        let count = 1 + others.len() as u64;
        let (first, start) = {
            let queue = lane.lock();
            (queue.next, !queue.started)
        };
        let node = core.router.node_id();
        let frame = if others.is_empty() {
            Frame::one(node, first, start, mine)
        } else {
            let mut payloads = Vec::with_capacity(1 + others.len());
            payloads.push(mine);
            payloads.extend(others.iter().map(|waiting| waiting.payload.clone()));
            Frame::many(node, first, start, payloads)
        };
        let outcome = send(&core, &lane.name, &frame).await;
        let counters = &core.counters;
        match &outcome {
            Ok(()) => counters.published.add(count),
            Err(Failure {
                kind: PublishErrorKind::NotSent(_),
                ..
            }) => counters.not_sent.add(count),
            Err(_) => counters.unknown.add(count),
        }
        // What was certainly not sent leaves its numbers to the next frame.
        if !matches!(
            outcome,
            Err(Failure {
                kind: PublishErrorKind::NotSent(_),
                ..
            })
        ) {
            let mut queue = lane.lock();
            queue.next = first + count;
            queue.started = true;
        }
        for waiting in others {
            let _ = waiting.answer.send(Answer::Done(outcome.clone()));
        }
        lane.pass_on(VecDeque::new());
        outcome
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.waits {
            let others = std::mem::take(&mut self.others);
            self.lane.pass_on(others);
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("messages", &(1 + self.others.len()))
            .finish_non_exhaustive()
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
    let sent = tokio::select! {
        biased;
        sent = tokio::time::timeout(timeout, attached.link.publish(name, frame)) => sent,
        () = attached.fate.ended() => {
            return Err(Failure::unknown(Unknown::ConnectionLost, None));
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
        Err(_) => {
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

/// A flush in flight. Dropping it hands it to a task, so that the numbers stay true and the others get
/// their outcome.
struct Flight {
    flush: Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>,
    tasks: TaskTracker,
    runtime: runtime::Handle,
}

impl Flight {
    fn new<L: Link>(core: &Arc<Core<L>>, batch: Batch) -> Self {
        Self {
            flush: Some(Box::pin(batch.flush(Arc::clone(core)))),
            tasks: core.tasks.clone(),
            runtime: core.runtime.clone(),
        }
    }
}

impl Future for Flight {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(flush) = &mut self.flush else {
            return Poll::Pending;
        };
        let outcome = ready!(flush.as_mut().poll(cx));
        self.flush = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(flush) = self.flush.take() {
            self.tasks.spawn_on(flush, &self.runtime);
        }
    }
}
