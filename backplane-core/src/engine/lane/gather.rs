//! The moment between an answer and the next frame: [`gather`].
//!
//! Publishers that await each message come back when they are answered. A frame that left at once would leave without
//! them, and they would wait for its answer: two publishers would go in turns, a frame each.

use std::time::Duration;

use tokio::time::Instant;

use super::{Lane, Limits, Queue};
use crate::engine::core::Core;

/// A frame that is made of so many calls costs little more than they do: it waits for no others.
const ENOUGH: usize = 128;

/// Those who come back do so within microseconds. On a runtime where it takes longer, others have waited long enough.
const AT_MOST: Duration = Duration::from_millis(1);

/// So many times as many callers do not wait for those who were answered.
const FEW: usize = 8;

/// How many frames leave at once after one for which nobody came back.
const PAUSE: u8 = 8;

/// Lets those who were answered come back, before the next frame leaves: as long as each look finds more
/// callers, but no longer than the frame before `waited`.
///
/// A look is one pass of the runtime over the tasks that are ready. None is taken when the link has ended, so that those
/// who wait are told at once, nor for a while after one that found nobody.
pub(super) async fn gather<L>(core: &Core<L>, lane: &Lane<L>, answered: usize, waited: Duration) {
    let Some((mut before, wanted)) = lane.lock().gathers(answered, core.limits) else {
        return;
    };
    let Some(attached) = core.attached() else {
        return;
    };
    let (begin, at_most) = (Instant::now(), waited.min(AT_MOST));
    let mut is_first = true;
    while before < wanted && !attached.fate.is_ended() {
        tokio::task::yield_now().await;
        let mut queue = lane.lock();
        let now = queue.next_calls(core.limits);
        if now <= before {
            if is_first {
                queue.pause = PAUSE;
            }
            break;
        }
        if begin.elapsed() > at_most {
            break;
        }
        (before, is_first) = (now, false);
    }
}

impl<L> Queue<L> {
    /// How many calls wait for the next frame, and how many of them are worth looking for; `None` if it leaves at once.
    fn gathers(&mut self, answered: usize, limits: Limits) -> Option<(usize, usize)> {
        let now = self.next_calls(limits);
        let wanted = (now + answered).min(ENOUGH);
        // Who publishes alone has the lane for itself, and a crowd does not wait for a few.
        if wanted < 2 || now >= wanted || answered * FEW < now {
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        Some((now, wanted))
    }

    /// How many calls wait for the next frame; enough of them if it is full.
    fn next_calls(&self, limits: Limits) -> usize {
        match self.waiting.front() {
            Some(next) if self.waiting.len() > 1 || next.is_full(limits) => ENOUGH,
            next => next.map_or(0, |next| next.len()),
        }
    }
}
