//! Wrong at B, too: memory that is not bounded (rule B3).
//!
//! A pump is a task and may be late, which a queue that is read would show: those that drop go on dropping.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backplane_core::{Gap, Message};
use bytes::Bytes;

use super::delivery::Asks;
use super::harness::Wrong;
use super::malformed::Counts;
use super::node::{Inner, NodeTwist, Tap, Wish};
use super::pump::{OnMessage, Out, Parts};
use super::{Mutant, mutant};
use crate::harness::NodeSpec;

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "queue-has-no-bound-in-bytes",
        "B3",
        "expected at most 1409024 bytes kept",
        "a queue is bounded in messages, and each may have a megabyte",
        || Wrong::new()
            .spec(|spec| with_bytes(spec, usize::MAX))
            .nodes(|_| Asks(|request| request.max_bytes(usize::MAX))),
    ),
    mutant!(
        "bound-in-bytes-of-the-node-is-ignored",
        "B3",
        "expected at most 1409024 bytes kept",
        "the bound is an option that nobody reads",
        || Wrong::new().spec(|spec| with_bytes(spec, usize::MAX)),
    ),
    mutant!(
        "bound-in-bytes-of-a-subscription-is-ignored",
        "B3",
        "a queue of 65536 bytes held",
        "every subscription has the bound of the node",
        || Wrong::new().nodes(|_| Asks(|request| {
            Wish {
                max_bytes: None,
                ..Wish::of(&request)
            }
            .request()
        })),
    ),
    mutant!(
        "bound-in-bytes-is-half-of-what-it-says",
        "B3",
        "a queue of 262144 bytes held only",
        "a queue is full before its bound is reached",
        || Wrong::new()
            .spec(|spec| with_bytes(spec, spec.options.queue_bytes / 2))
            .nodes(|_| Asks(|request| match request.queue_bytes() {
                Some(bytes) => request.max_bytes(bytes / 2),
                None => request,
            })),
    ),
    mutant!(
        "overflow-of-bytes-is-not-told",
        "B3",
        "a message or a gap for it did not arrive",
        "what exceeds the bound in bytes is dropped without a word",
        || Wrong::new().parts(|tap| drops(tap, None)),
    ),
    mutant!(
        "overflow-of-bytes-counts-one",
        "B3",
        "a message or a gap for it did not arrive",
        "what exceeds the bound in bytes is told once and counted once",
        || Wrong::new().parts(|tap| drops(tap, Some(1))),
    ),
    mutant!(
        "overflow-is-not-in-the-counters",
        "B3",
        "messages queued or dropped, and it is",
        "the reader is told, and who looks after the node is not",
        || Wrong::new().nodes(|_| Counts(|mut stats| {
            stats.overflowed = 0;
            stats
        })),
    ),
    mutant!(
        "overflow-of-bytes-counts-too-many",
        "B3",
        "told missing",
        "what exceeds the bound in bytes is counted in bytes",
        || Wrong::new().parts(|tap| drops(tap, Some(100_000))),
    ),
    mutant!(
        "a-message-larger-than-the-bound-never-fits",
        "B3",
        "a queue of 0 bytes held only 0, and",
        "what is larger than the bound overflows an empty queue, for ever",
        || Wrong::new().nodes(|_| NothingFits),
    ),
    mutant!(
        "small-messages-overtake-the-overflow",
        "B3",
        "or a gap, got message",
        "what still fits is queued before the gap for what did not",
        || Wrong::new().parts(squeezes),
    ),
    mutant!(
        "what-overflowed-is-kept",
        "B3",
        "expected at most 1409024 bytes kept",
        "what does not fit is out of the queue, and still in memory",
        || Wrong::new().parts(|_| {
            let mut kept = Vec::new();
            Parts::pump(OnMessage(move |message: Message, out: &Out| {
                kept.push(message.clone());
                out.message(message);
            }))
        }),
    ),
];

fn with_bytes(spec: &NodeSpec, bytes: usize) -> NodeSpec {
    let options = spec.options.clone();
    NodeSpec {
        options: options.queue_bytes(bytes),
        ..spec.clone()
    }
}

/// What the queue of a subscription has, in bytes, until the reader has let go of it.
#[derive(Clone, Debug, Default)]
struct Load(Arc<AtomicUsize>);

impl Load {
    /// The message, counted until its payload is dropped; `None` when it exceeds the bound.
    fn take(&self, message: &Message, bound: usize) -> Option<Message> {
        let payload = message.payload().clone();
        let held = self.0.load(Ordering::Acquire);
        if held > 0 && held + payload.len() > bound {
            return None;
        }
        self.0.fetch_add(payload.len(), Ordering::AcqRel);
        let load = self.clone();
        let counted = Bytes::from_owner(Counted { payload, load });
        let (channel, publisher) = (message.channel().clone(), message.publisher());
        Some(Message::new(channel, counted, publisher))
    }
}

struct Counted {
    payload: Bytes,
    load: Load,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.0.fetch_sub(self.payload.len(), Ordering::AcqRel);
    }
}

/// Drops what exceeds the bound in bytes, and all that comes later; says something of it once, or not.
fn drops(tap: &Tap, told: Option<u64>) -> Parts {
    let (load, bound, mut full) = (Load::default(), tap.max_bytes, false);
    Parts::pump(OnMessage(move |message: Message, out: &Out| {
        if full {
            return;
        }
        match load.take(&message, bound) {
            Some(message) => out.message(message),
            None => {
                full = true;
                if let Some(count) = told {
                    out.gap(Gap::overflow(count));
                }
            }
        }
    }))
}

/// Drops what exceeds the bound in bytes, tells it after the next message that does not, and is silent from then on.
fn squeezes(tap: &Tap) -> Parts {
    let (load, bound, mut missed, mut silent) = (Load::default(), tap.max_bytes, 0, false);
    Parts::pump(OnMessage(move |message: Message, out: &Out| {
        if silent {
            return;
        }
        match load.take(&message, bound) {
            Some(message) => {
                out.message(message);
                if missed > 0 {
                    out.gap(Gap::overflow(missed));
                    silent = true;
                }
            }
            None => missed += 1,
        }
    }))
}

/// Has no room for a message in a queue without bytes.
struct NothingFits;

impl NodeTwist for NothingFits {
    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let nothing = |_: Message, out: &Out| out.gap(Gap::overflow(1));
        (tap.max_bytes == 0).then(|| Parts::pump(OnMessage(nothing)))
    }
}
