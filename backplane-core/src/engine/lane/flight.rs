//! The flush of a caller that found its lane idle: [`Flight`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::flush::send;
use super::{Lane, go_on, spawn};
use crate::driver::{Frame, Link};
use crate::engine::core::{Core, Pending};
use crate::engine::outcome::{Failure, Outcome};

/// A flush that a task can take over, and where its outcome goes then.
pub(super) struct Parked {
    /// Whose flush it is.
    turn: u64,
    pub(super) flush: Flush,
    pub(super) outcome: oneshot::Sender<Outcome>,
}

pub(super) type Flush = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// The flush of a caller that found its lane idle: it polls it itself until somebody queues behind it, or it goes
/// away.
pub(crate) struct Flight<L: Link> {
    core: Arc<Core<L>>,
    lane: Arc<Lane<L>>,
    turn: u64,
    step: Step,
}

/// Both ends of the way that an outcome takes from a task. In this order: the end that is told of it goes first, or it
/// would be told that the other one has gone, and the caller be polled once more for each message.
struct Told(oneshot::Receiver<Outcome>, oneshot::Sender<Outcome>);

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
    /// Sends a frame that was numbered in this turn, which must be the lane's latest.
    pub(super) fn new(
        core: &Arc<Core<L>>,
        lane: &Arc<Lane<L>>,
        turn: u64,
        frame: Frame,
        pending: Pending,
    ) -> Self {
        let flush = {
            let (core, lane) = (Arc::clone(core), Arc::clone(lane));
            Box::pin(async move {
                let _pending = pending;
                send(&core, &lane, &frame).await.outcome
            })
        };
        Self {
            core: Arc::clone(core),
            lane: Arc::clone(lane),
            turn,
            step: Step::Mine(flush),
        }
    }
}

impl<L: Link> Future for Flight<L> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        let (mut flush, told) = match std::mem::replace(&mut this.step, Step::Polling) {
            Step::Mine(flush) => (flush, None),
            Step::Parked(mut outcome) => match this.lane.unpark(this.turn) {
                Some(parked) => (parked.flush, Some(Told(outcome, parked.outcome))),
                None => {
                    let polled = Pin::new(&mut outcome).poll(cx);
                    this.step = Step::Parked(outcome);
                    return polled.map(|told| told.unwrap_or_else(|_| Err(Failure::abandoned())));
                }
            },
            // After a panic there is nothing to come; the turn ends with this.
            ended @ (Step::Polling | Step::Done) => {
                this.step = ended;
                return Poll::Pending;
            }
        };
        if let Poll::Ready(outcome) = flush.as_mut().poll(cx) {
            this.step = Step::Done;
            go_on(&this.core, &this.lane);
            return Poll::Ready(outcome);
        }
        let Told(mut told, outcome) = told.unwrap_or_else(|| {
            let (outcome, told) = oneshot::channel();
            Told(told, outcome)
        });
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

impl<L> Lane<L> {
    /// Takes back the flush of this turn, if it is parked still.
    fn unpark(&self, turn: u64) -> Option<Parked> {
        self.lock().parked.take_if(|parked| parked.turn == turn)
    }
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").finish_non_exhaustive()
    }
}
