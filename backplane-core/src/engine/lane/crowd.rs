//! Callers that queue for the same frame: [`Crowd`].
//!
//! They share one place for the outcome, so that a message of a crowd costs neither an allocation nor a channel of its
//! own, and all of them are told at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Limits, Payloads};
use crate::engine::core::{Pending, Room};
use crate::engine::outcome::{Failure, Outcome};
use crate::error::NotSent;

/// Messages that will leave in one frame. It grows until it is full or its turn comes.
#[derive(Debug)]
pub(super) struct Crowd {
    calls: Vec<Call>,
    messages: usize,
    bytes: usize,
    callers: Callers,
}

/// Messages that entered together.
#[derive(Debug)]
struct Call {
    payloads: Payloads,
    since: Instant,
}

/// What becomes of a crowd whose turn has come.
#[derive(Debug)]
pub(super) struct Boarded {
    /// What leaves in the frame; nothing when all have gone or are late.
    pub(super) payloads: Vec<Bytes>,
    /// How many calls these are.
    pub(super) calls: usize,
    pub(super) late: Late,
    pub(super) callers: Callers,
}

/// The first ones of a crowd, if they have waited longer than their patience.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    calls: usize,
    /// How many messages their callers still wait for.
    pub(super) messages: u64,
}

/// Those who are to be told of an outcome.
#[derive(Debug)]
pub(super) struct Callers {
    /// Counts until the messages are done with, whether or not their callers are still there. They have room for their
    /// next ones when they are told, so it goes first.
    pending: Pending,
    teller: Teller,
}

/// Tells. Dropped before that, it tells that nobody knows the outcome.
#[derive(Debug)]
struct Teller(Arc<Told>);

/// Where the callers of a crowd look for what became of their messages.
#[derive(Debug)]
struct Told {
    outcome: OnceLock<Outcome>,
    /// How many of the first callers are told that their time was over.
    late: OnceLock<usize>,
    callers: Mutex<Vec<Caller>>,
}

#[derive(Debug, Default)]
enum Caller {
    /// It has not been polled yet, or was told.
    #[default]
    Silent,
    Waits(Waker),
    Gone,
}

/// The place of a caller in a crowd. A future of what becomes of its messages, which do not leave if it is dropped before
/// their turn.
#[derive(Debug)]
pub(crate) struct Seat {
    told: Arc<Told>,
    at: usize,
}

impl Crowd {
    /// One of nobody yet, with space for as many calls.
    pub(super) fn new(calls: usize, pending: Pending) -> Self {
        let told = Told {
            outcome: OnceLock::new(),
            late: OnceLock::new(),
            callers: Mutex::new(Vec::with_capacity(calls)),
        };
        Self {
            calls: Vec::with_capacity(calls),
            messages: 0,
            bytes: 0,
            callers: Callers {
                pending,
                teller: Teller(Arc::new(told)),
            },
        }
    }

    /// How many calls it is made of.
    pub(super) const fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether no further message fits into its frame.
    pub(super) const fn is_full(&self, limits: Limits) -> bool {
        self.messages >= limits.messages || self.bytes >= limits.bytes
    }

    /// Whether these messages fit into its frame.
    pub(super) fn fits(&self, payloads: &Payloads, limits: Limits) -> bool {
        self.messages + payloads.len() <= limits.messages
            && self.bytes + payloads.bytes() <= limits.bytes
    }

    /// Adds messages, and the room that was found for them.
    pub(super) fn push(&mut self, payloads: Payloads, room: Room<'_>) -> Seat {
        self.callers.pending.join(room);
        self.messages += payloads.len();
        self.bytes += payloads.bytes();
        let seat = Seat {
            told: Arc::clone(&self.callers.teller.0),
            at: self.calls.len(),
        };
        self.calls.push(Call {
            payloads,
            since: Instant::now(),
        });
        seat
    }

    /// Its turn has come: takes out what leaves, and drops the rest.
    pub(super) fn board(self, patience: Option<Duration>) -> Boarded {
        let Self {
            mut calls,
            messages,
            mut callers,
            ..
        } = self;
        let now = Instant::now();
        let is_late = |call: &&Call| patience.is_some_and(|p| now - call.since > p);
        let mut late = Late {
            calls: calls.iter().take_while(is_late).count(),
            messages: 0,
        };
        let mut payloads = Vec::with_capacity(messages);
        let mut aboard = 0;
        let states = callers.teller.0.lock();
        for (at, call) in calls.iter_mut().enumerate() {
            if matches!(states.get(at), Some(Caller::Gone)) {
                continue;
            }
            if at < late.calls {
                late.messages += call.payloads.len() as u64;
                continue;
            }
            aboard += 1;
            match std::mem::replace(&mut call.payloads, Payloads::Many(Vec::new())) {
                Payloads::One(payload) => payloads.push(payload),
                Payloads::Many(some) => payloads.extend(some),
            }
        }
        drop(states);
        drop(calls);
        if payloads.len() < messages {
            let bytes = payloads.iter().map(Bytes::len).sum();
            callers.pending.shrink_to(payloads.len(), bytes);
        }
        Boarded {
            payloads,
            calls: aboard,
            late,
            callers,
        }
    }
}

impl Callers {
    /// Tells those that are late, before the others.
    pub(super) fn tell_late(&self, late: Late) {
        if late.calls > 0 {
            self.teller.0.tell_late(late.calls);
        }
    }

    /// Tells all of them that have not been told yet.
    pub(super) fn tell(self, outcome: Outcome) {
        let Self { pending, teller } = self;
        drop(pending);
        teller.0.tell(outcome);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.tell(Err(Failure::abandoned()));
    }
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Vec<Caller>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the outcome, unless one was told before.
    fn tell(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_err() {
            return;
        }
        // Who comes from here on sees the outcome.
        let callers = std::mem::take(&mut *self.lock());
        wake_all(callers);
    }

    fn tell_late(&self, late: usize) {
        if self.late.set(late).is_err() {
            return;
        }
        let mut callers = self.lock();
        let late = callers.iter_mut().take(late);
        let late: Vec<Caller> = late.map(std::mem::take).collect();
        drop(callers);
        wake_all(late);
    }
}

impl Caller {
    fn wake(self) {
        if let Self::Waits(waker) = self {
            waker.wake();
        }
    }
}

/// Wakes all of them. That a waker panics, of which the panic hook has told, is no affair of the others.
fn wake_all(callers: Vec<Caller>) {
    let mut callers = callers.into_iter();
    let mut wake = || callers.by_ref().for_each(Caller::wake);
    while catch_unwind(AssertUnwindSafe(&mut wake)).is_err() {}
}

impl Seat {
    fn outcome(&self) -> Option<Outcome> {
        // First, because it comes last: who sees it sees who is late, too.
        let outcome = self.told.outcome.get();
        match self.told.late.get() {
            Some(late) if self.at < *late => {
                Some(Err(Failure::not_sent(NotSent::Overloaded, None)))
            }
            _ => outcome.cloned(),
        }
    }

    /// What this caller is from now on; nothing if it was told meanwhile.
    fn is_now(&self, caller: Caller) -> Option<Outcome> {
        let mut callers = self.told.lock();
        if let Some(outcome) = self.outcome() {
            return Some(outcome);
        }
        if callers.len() <= self.at {
            callers.resize_with(self.at + 1, Caller::default);
        }
        let before = std::mem::replace(&mut callers[self.at], caller);
        drop(callers);
        drop(before);
        None
    }
}

impl Future for Seat {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let told = self.outcome();
        match told.or_else(|| self.is_now(Caller::Waits(cx.waker().clone()))) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.outcome().is_none() {
            self.is_now(Caller::Gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn told() -> Arc<Told> {
        Arc::new(Told {
            outcome: OnceLock::new(),
            late: OnceLock::new(),
            callers: Mutex::new(Vec::new()),
        })
    }

    /// Who looks while both are told must not take the outcome of the others for its own: its message has not left.
    #[test]
    fn who_is_late_is_never_told_the_outcome_of_those_that_leave() {
        const CROWDS: usize = 200_000;
        // On a busy machine the two threads seldom run at once.
        const AT_MOST: Duration = Duration::from_secs(2);
        let begin = Instant::now();
        let is_over = || begin.elapsed() > AT_MOST;
        let crowds: Vec<_> = (0..CROWDS).map(|_| told()).collect();
        let looks_at = AtomicUsize::new(0);
        let wrong = thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let look = |(at, told): (usize, &Arc<Told>)| {
                    let told = Arc::clone(told);
                    let seat = Seat { told, at: 0 };
                    looks_at.store(at + 1, Ordering::Release);
                    loop {
                        match seat.outcome() {
                            Some(outcome) => return outcome.is_ok(),
                            None if is_over() => return false,
                            None => std::hint::spin_loop(),
                        }
                    }
                };
                let crowds = crowds.iter().enumerate().take_while(|_| !is_over());
                crowds.map(look).filter(|wrong| *wrong).count()
            });
            for (at, told) in crowds.iter().enumerate() {
                while looks_at.load(Ordering::Acquire) <= at && !is_over() {
                    std::hint::spin_loop();
                }
                if is_over() {
                    break;
                }
                told.tell_late(1);
                told.tell(Ok(()));
            }
            looks.join().unwrap()
        });
        assert_eq!(wrong, 0, "so many that were late were told it is sent");
    }

    #[test]
    fn a_crowd_that_is_dropped_tells_those_that_wait_for_it_that_nobody_knows() {
        let teller = Teller(told());
        let mut cx = Context::from_waker(Waker::noop());
        let mut seats = [0, 1].map(|at| {
            let told = Arc::clone(&teller.0);
            Box::pin(Seat { told, at })
        });
        assert!(seats[1].as_mut().poll(&mut cx).is_pending());
        drop(teller);
        for seat in &mut seats {
            // However often it is asked.
            for _ in 0..2 {
                let Poll::Ready(Err(failure)) = seat.as_mut().poll(&mut cx) else {
                    panic!("it is told");
                };
                assert!(!failure.is_not_sent());
            }
        }
    }
}
