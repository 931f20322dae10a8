//! Sending one frame.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Lane, Payloads};
use crate::driver::{BrokerChannel, Frame, Link, LinkError, LinkErrorKind, LinkPublishError};
use crate::engine::core::{Attached, Core};
use crate::engine::outcome::{Failure, Outcome};
use crate::error::{NotSent, Unknown};

/// The next frame of a lane, and its numbers. They are used up unless they are left to the frame after it: also
/// when the sending ends by a panic, or with the runtime.
pub(super) struct Numbered<'a> {
    lane: &'a Lane,
    frame: Frame,
    used_up: bool,
}

impl<'a> Numbered<'a> {
    /// Numbers messages. Nobody else may flush the lane meanwhile.
    pub(super) fn next<L>(core: &Core<L>, lane: &'a Lane, payloads: Payloads) -> Self {
        let (first, start) = {
            let queue = lane.lock();
            (queue.next, !queue.started)
        };
        let node = core.router.node_id();
        let frame = match payloads {
            Payloads::One(payload) => Frame::one(node, first, start, payload),
            Payloads::Many(payloads) => Frame::many(node, first, start, payloads),
        };
        Self::of(lane, frame)
    }

    /// A frame that was numbered, and not sent.
    pub(super) const fn of(lane: &'a Lane, frame: Frame) -> Self {
        Self {
            lane,
            frame,
            used_up: true,
        }
    }

    /// Sends them, and returns what became of them.
    pub(super) async fn send<L: Link>(self, core: &Core<L>) -> Outcome {
        let outcome = match serving(core) {
            Ok(attached) => send(core, &attached, &self.lane.name, &self.frame).await,
            Err(failure) => Err(failure),
        };
        self.end(core, outcome)
    }

    /// Sends them if that takes no waiting; else nothing was done, and the frame is still to be sent.
    pub(super) fn send_now<L: Link>(mut self, core: &Core<L>) -> Result<Outcome, Frame> {
        let sent = match serving(core) {
            Ok(attached) => attached
                .link
                .publish_now(&self.lane.name, &self.frame)
                .map(|sent| sent.map_err(|error| failure(core, error))),
            Err(failure) => Some(Err(failure)),
        };
        let Some(outcome) = sent else {
            self.used_up = false;
            return Err(self.frame.clone());
        };
        Ok(self.end(core, outcome))
    }

    fn end<L>(mut self, core: &Core<L>, outcome: Outcome) -> Outcome {
        let count = self.frame.len() as u64;
        match &outcome {
            Ok(()) => core.counters.published.add(count),
            Err(failure) if failure.is_not_sent() => {
                // What was certainly not sent leaves its numbers to the next frame.
                self.used_up = false;
                core.counters.not_sent.add(count);
            }
            Err(_) => core.counters.unknown.add(count),
        }
        outcome
    }
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        if self.used_up {
            let mut queue = self.lane.lock();
            queue.next = self.frame.sequence() + self.frame.len() as u64;
            queue.started = true;
        }
    }
}

/// The link that is attached now and lives.
fn serving<L>(core: &Core<L>) -> Result<Arc<Attached<L>>, Failure> {
    match core.attached() {
        None => Err(Failure::not_sent(core.absent(), None)),
        Some(attached) if attached.fate.is_ended() => {
            Err(Failure::not_sent(NotSent::Unavailable, None))
        }
        Some(attached) => Ok(attached),
    }
}

/// Hands a frame to a link.
async fn send<L: Link>(
    core: &Core<L>,
    attached: &Attached<L>,
    name: &BrokerChannel,
    frame: &Frame,
) -> Outcome {
    let timeout = core.options.publish_timeout;
    let mut publish = attached.link.publish(name, frame);
    loop {
        let begin = Instant::now();
        tokio::select! {
            biased;
            sent = &mut publish => return sent.map_err(|error| failure(core, error)),
            () = attached.fate.ended() => {
                return Err(Failure::unknown(Unknown::ConnectionLost, None));
            }
            () = tokio::time::sleep(timeout) => {
                // Much later than that, it was the caller who did not look, and the broker may have answered.
                if begin.elapsed() <= timeout + timeout / 4 {
                    break;
                }
            }
        }
    }
    let told = format!("no answer to a publish within {timeout:?}");
    attached
        .fate
        .lost(LinkError::new(LinkErrorKind::Timeout, told));
    Err(Failure::unknown(Unknown::Timeout(timeout), None))
}

fn failure<L>(core: &Core<L>, error: LinkPublishError) -> Failure {
    match error {
        LinkPublishError::NotSent(error) => {
            let why = match error.kind() {
                LinkErrorKind::Refused | LinkErrorKind::Unauthorized => NotSent::Refused,
                _ => NotSent::Unavailable,
            };
            Failure::not_sent(why, Some(Arc::new(error)))
        }
        LinkPublishError::Unknown(error) => {
            let why = match error.kind() {
                LinkErrorKind::Timeout => Unknown::Timeout(core.options.publish_timeout),
                _ => Unknown::ConnectionLost,
            };
            Failure::unknown(why, Some(Arc::new(error)))
        }
    }
}
