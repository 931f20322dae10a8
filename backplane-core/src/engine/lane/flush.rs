//! Sending one frame.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Lane;
use crate::driver::{BrokerChannel, Frame, Link, LinkError, LinkErrorKind, LinkPublishError};
use crate::engine::core::{Attached, Core};
use crate::engine::outcome::{Failure, Outcome};
use crate::error::{NotSent, Unknown};
use crate::queue::Wakes;

/// What became of a frame.
pub(super) struct Sent {
    pub(super) outcome: Outcome,
    /// How long it was under way, if it took any waiting.
    pub(super) waited: Option<Duration>,
}

/// Sends a frame with the next numbers of a lane. Nobody else may flush the lane meanwhile.
pub(super) async fn send<L: Link>(core: &Core<L>, lane: &Lane<L>, frame: &Frame) -> Sent {
    let mut flown = Flown {
        core,
        lane,
        frame,
        counted: None,
    };
    let (outcome, waited) = match core.attached() {
        Some(attached) if !attached.fate.is_ended() => {
            let mut wakes = Wakes::default();
            let sent = attached.link.publish_now(&lane.name, frame, &mut wakes);
            drop(wakes);
            match sent {
                Some(sent) => (sent.map_err(|error| failure(core, error)), None),
                None => {
                    let begin = Instant::now();
                    let outcome = hand_over(core, &attached, &lane.name, frame, begin).await;
                    (outcome, Some(begin.elapsed()))
                }
            }
        }
        attached => (Err(away(core, attached.is_some())), None),
    };
    flown.counted = Some(count(core, frame, &outcome));
    Sent { outcome, waited }
}

/// Sends a frame, if that takes no waiting; else nothing was done.
pub(super) fn send_now<L: Link>(
    core: &Core<L>,
    attached: Option<&Attached<L>>,
    name: &BrokerChannel,
    frame: &Frame,
    wakes: &mut Wakes,
) -> Option<Outcome> {
    match attached {
        Some(attached) if !attached.fate.is_ended() => attached
            .link
            .publish_now(name, frame, wakes)
            .map(|sent| sent.map_err(|error| failure(core, error))),
        attached => Some(Err(away(core, attached.is_some()))),
    }
}

/// A frame under way. Its numbers are used up unless they are left to the frame after it: also when the sending
/// ends by a panic, or with the runtime.
struct Flown<'a, L> {
    core: &'a Core<L>,
    lane: &'a Lane<L>,
    frame: &'a Frame,
    counted: Option<Counted>,
}

/// What a frame means for its lane. By default it has not left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// Whether its numbers are gone: what was certainly not sent leaves them to the next frame.
    pub(super) used_up: bool,
    /// How many messages of it the broker has accepted.
    pub(super) published: u64,
}

impl Counted {
    /// Nobody knows what became of it.
    const LOST: Self = Self {
        used_up: true,
        published: 0,
    };
}

impl<L> Drop for Flown<'_, L> {
    fn drop(&mut self) {
        let lost = || count(self.core, self.frame, &Err(Failure::abandoned()));
        let Counted { used_up, published } = self.counted.unwrap_or_else(lost);
        if used_up {
            let mut queue = self.lane.lock();
            queue.numbers.use_up(self.frame);
            queue.published += published;
        }
    }
}

/// Counts the messages of a frame that were not accepted, and says what it means for its lane.
pub(super) fn count<L>(core: &Core<L>, frame: &Frame, outcome: &Outcome) -> Counted {
    let messages = frame.len() as u64;
    match outcome {
        Ok(()) => Counted {
            used_up: true,
            published: messages,
        },
        Err(failure) if failure.is_not_sent() => {
            core.counters.not_sent.add(messages);
            Counted::default()
        }
        Err(_) => {
            core.counters.unknown.add(messages);
            Counted::LOST
        }
    }
}

/// Why nothing can be sent: there is no link, or it is dead already.
fn away<L>(core: &Core<L>, is_attached: bool) -> Failure {
    let why = match is_attached {
        true => NotSent::Unavailable,
        false => core.absent(),
    };
    Failure::not_sent(why, None)
}

/// Hands a frame to a link.
async fn hand_over<L: Link>(
    core: &Core<L>,
    attached: &Attached<L>,
    name: &BrokerChannel,
    frame: &Frame,
    begin: Instant,
) -> Outcome {
    let timeout = core.options.publish_timeout;
    let lost = || Failure::unknown(Unknown::ConnectionLost, None);
    let mut publish = attached.link.publish(name, frame);
    {
        let _wait = core.patience.wait();
        let mut sign = pin!(attached.fate.sign());
        let sent = poll_fn(|cx| match publish.as_mut().poll(cx) {
            Poll::Ready(sent) => Poll::Ready(Some(sent)),
            Poll::Pending if sign.as_mut().poll(cx).is_ready() => Poll::Ready(None),
            Poll::Pending if attached.fate.is_ended() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        if let Some(sent) = sent.await {
            return sent.map_err(|error| failure(core, error));
        }
    }
    let mut deadline = begin + timeout;
    loop {
        tokio::select! {
            biased;
            sent = &mut publish => return sent.map_err(|error| failure(core, error)),
            () = attached.fate.ended() => return Err(lost()),
            () = sleep_until(deadline) => {
                // Much later than that, nobody has looked, and the broker may have answered: that is heard of in a moment.
                let moment = timeout / 4;
                if deadline > begin + timeout || begin.elapsed() <= timeout + moment {
                    break;
                }
                deadline = Instant::now() + moment;
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
