//! Wrong at M: malformed input.

use std::collections::HashSet;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use backplane_core::driver::{Frame, FrameError};
use backplane_core::{Backplane, Delivery, Event, Gap, NodeId, StateCell, Stats};
use bytes::Bytes;

use super::crossed::matching;
use super::harness::{Written, Wrong};
use super::node::{Inner, NodeTwist, Tap, lock};
use super::pump::{Out, Parts, Pump};
use super::visibility::{OtherEvents, Telling};
use super::{Mutant, mutant};
use crate::wire::{EngineWire, Wire};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "a-malformed-frame-ends-the-subscription",
        "M1",
        "the stream ended",
        "the error of the decoder ends the read loop (socket.io #4905)",
        || Wrong::new().nodes(|_| After(malformed, |out| out.end())),
    ),
    mutant!(
        "a-malformed-frame-costs-the-connection",
        "M1",
        "it cost the connection",
        "the decoder's error is taken for one of the connection",
        || Wrong::new().writes(|written, bytes| {
            written.pass(&bytes)?;
            if is_malformed(&bytes) {
                written.cut();
            }
            Ok(())
        }),
    ),
    mutant!(
        "a-malformed-frame-panics",
        "M1",
        "did not arrive within",
        "the task that reads indexes beyond the end of the frame",
        // Without the hook: a backtrace of what is meant to happen would only hide what is not.
        || Wrong::new().nodes(|_| After(malformed, |_| resume_unwind(Box::new("out of bounds")))),
    ),
    mutant!(
        "a-malformed-frame-makes-up-a-gap",
        "M1",
        "got a gap",
        "the number in the header counts, whatever comes behind it",
        || Wrong::new().nodes(|_| After(malformed, |out| out.gap(Gap::dropped(1)))),
    ),
    mutant!(
        "malformed-frames-are-not-counted",
        "M1",
        "counted as 0 malformed frames",
        "what cannot be read is skipped without a trace",
        || Wrong::new().nodes(|_| Counts(|mut stats| {
            stats.malformed = 0;
            stats
        })),
    ),
    mutant!(
        "malformed-frames-are-counted-twice",
        "M1",
        "counted as 2 malformed frames",
        "a frame that cannot be read is read again",
        || Wrong::new().writes(|written, bytes| {
            if is_malformed(&bytes) {
                written.pass(&bytes)?;
            }
            written.pass(&bytes)
        }),
    ),
    mutant!(
        "malformed-frames-are-counted-as-lost",
        "M1",
        "before it Stats",
        "what cannot be read is counted as messages that were lost",
        || Wrong::new().nodes(|_| Counts(|mut stats| {
            stats.lost += stats.malformed;
            stats
        })),
    ),
    mutant!(
        "what-is-no-frame-is-a-message",
        "M1",
        "got message",
        "bytes that are no frame are taken for a payload of an older version",
        || Wrong::new().writes(|written, bytes| {
            if is_malformed(&bytes) {
                let stranger = NodeId::from_u64(3);
                written.pass(&EngineWire.frame(stranger, 0, &bytes))?;
            }
            written.pass(&bytes)
        }),
    ),
    mutant!(
        "the-right-part-of-a-lying-frame-is-delivered",
        "M1",
        r#"got message "right""#,
        "messages are delivered while the frame is read, until one makes no sense",
        || Wrong::new().writes(|written, bytes| {
            // As if of somebody else, so that no number is missing.
            let other = |part: Bytes| {
                let mut part = part.to_vec();
                part[3] ^= 1;
                Bytes::from(part)
            };
            let parts = (0..bytes.len().min(100)).map(|len| bytes.slice(..len));
            match parts.rev().find(|part| Frame::decode(part).is_ok()) {
                Some(part) if is_malformed(&bytes) => written.pass(&other(part)),
                _ => written.pass(&bytes),
            }
        }),
    ),
    mutant!(
        "a-number-that-comes-again-is-another-message",
        "M1",
        r#"got message "second""#,
        "a frame that is delivered twice is two messages",
        || Wrong::new().writes({
            let (seen, numbers) = (Mutex::new(HashSet::new()), AtomicU64::new(10));
            move |written: &Written<'_>, bytes: Bytes| match Frame::decode(&bytes) {
                Ok(frame) if !lock(&seen).insert(bytes.clone()) => {
                    let another = NodeId::from_u64(numbers.fetch_add(1, Ordering::Relaxed));
                    let payload: Vec<Bytes> = frame.payloads().collect();
                    written.pass(&EngineWire.frame(another, 0, &payload.concat()))
                }
                _ => written.pass(&bytes),
            }
        }),
    ),
    mutant!(
        "every-newer-frame-is-told",
        "M2",
        "[] should have been told, and",
        "a publisher of a newer version fills the log with each of its frames",
        || telling(|version, publisher| Some(Event::Incompatible { version, publisher })),
    ),
    mutant!(
        "a-newer-version-is-not-told",
        "M2",
        "and [] was",
        "frames of a newer version are counted, and nobody is told",
        || telling(|_, _| None),
    ),
    mutant!(
        "a-newer-version-is-told-without-its-publisher",
        "M2",
        "should have been told, and",
        "one newer publisher stands for all of them",
        || Wrong::new().writes(|written, bytes| match newer(&bytes) {
            Some(version) => written.pass(&EngineWire.newer(version, NodeId::from_u64(9))),
            None => written.pass(&bytes),
        }),
    ),
    mutant!(
        "a-newer-version-is-malformed",
        "M2",
        "counted as malformed",
        "nobody can tell a newer node from noise",
        || Wrong::new().writes(|written, bytes| match newer(&bytes) {
            Some(_) => written.pass(&bytes.slice(..5)),
            None => written.pass(&bytes),
        }),
    ),
    mutant!(
        "a-newer-version-is-read-as-this-one",
        "M2",
        r#"got message "of a newer version""#,
        "the version is written and never read",
        || Wrong::new().writes(|written, bytes| match newer(&bytes) {
            Some(_) => written.pass(&with_version(&bytes, EngineWire.version())),
            None => written.pass(&bytes),
        }),
    ),
    mutant!(
        "only-the-next-version-is-newer",
        "M2",
        "of version 255: counted as malformed",
        "what is newer by more than one is noise",
        || Wrong::new().writes(|written, bytes| match newer(&bytes) {
            Some(version) if version > 2 => written.pass(&bytes.slice(..5)),
            _ => written.pass(&bytes),
        }),
    ),
    mutant!(
        "newer-frames-are-not-counted",
        "M2",
        "counted as 0 incompatible frames",
        "who looks at the counters sees nothing of a newer version",
        || Wrong::new().nodes(|_| Counts(|mut stats| {
            stats.incompatible = 0;
            stats
        })),
    ),
    mutant!(
        "a-newer-version-ends-the-subscription",
        "M2",
        "the stream ended",
        "a newer node takes the older ones down when it is rolled out",
        || Wrong::new().nodes(|_| After(|stats| stats.incompatible, |out| out.end())),
    ),
    mutant!(
        "a-newer-version-costs-the-connection",
        "M2",
        "it cost the connection",
        "who does not speak the same version is hung up on",
        || Wrong::new().writes(|written, bytes| {
            written.pass(&bytes)?;
            if newer(&bytes).is_some() {
                written.cut();
            }
            Ok(())
        }),
    ),
    mutant!(
        "cuts-long-channels",
        "M3",
        r#"expected message "1", got message "0""#,
        "of a long channel name only the beginning counts",
        || matching(|held, sent| held.0 == sent.0 && beginning(held.1) == beginning(sent.1)),
    ),
    mutant!(
        "cuts-long-prefixes",
        "M3",
        r#"expected message "2", got message "0""#,
        "of a long prefix only the beginning counts",
        || matching(|held, sent| beginning(held.0) == beginning(sent.0) && held.1 == sent.1),
    ),
    mutant!(
        "swallows-unknown-url-options",
        "M4",
        "was swallowed",
        "an option that nobody knows is ignored (channels: **kwargs)",
        || Wrong::new().url(|_, _| Ok(())),
    ),
    mutant!(
        "does-not-name-the-url-option",
        "M4",
        "the error does not name",
        "an unknown option makes the URL invalid, and that is all one hears",
        || Wrong::new().url(|option, _| match option {
            "prefix" => Ok(()),
            _ => Err("invalid URL".to_owned()),
        }),
    ),
];

fn is_malformed(bytes: &Bytes) -> bool {
    matches!(Frame::decode(bytes), Err(FrameError::Malformed(_)))
}

/// The version of a frame that is newer than what is read.
fn newer(bytes: &Bytes) -> Option<u8> {
    match Frame::decode(bytes) {
        Err(FrameError::Incompatible { version, .. }) => Some(version),
        _ => None,
    }
}

fn with_version(frame: &Bytes, version: u8) -> Bytes {
    let mut frame = frame.to_vec();
    frame[2] = version;
    frame.into()
}

const fn malformed(stats: Stats) -> u64 {
    stats.malformed
}

/// Counts something else.
pub(super) struct Counts(pub(super) fn(Stats) -> Stats);

impl NodeTwist for Counts {
    fn stats(&self, stats: Stats) -> Stats {
        (self.0)(stats)
    }
}

/// Does something to a subscription, before its next delivery, when this counter has grown.
struct After(fn(Stats) -> u64, fn(&Out));

impl NodeTwist for After {
    fn parts(&self, node: &Inner, _tap: &Tap) -> Option<Parts> {
        Some(Parts::pump(AfterPump {
            node: Arc::downgrade(node),
            count: self.0,
            what: self.1,
            seen: 0,
        }))
    }
}

struct AfterPump {
    node: Weak<dyn Backplane>,
    count: fn(Stats) -> u64,
    what: fn(&Out),
    seen: u64,
}

impl Pump for AfterPump {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        let count = self
            .node
            .upgrade()
            .map_or(0, |node| (self.count)(node.stats()));
        if count > self.seen {
            self.seen = count;
            (self.what)(out);
        }
        out.put(delivery);
    }
}

/// A backend that tells what this says of a newer frame, and everything else as it is.
fn telling(tell: fn(u8, NodeId) -> Option<Event>) -> Wrong {
    let listeners: Arc<Mutex<Vec<Arc<StateCell>>>> = Arc::default();
    let nodes = Arc::clone(&listeners);
    Wrong::new()
        .nodes(move |_| {
            let events = OtherEvents::telling(|event| match event {
                Event::Incompatible { .. } => Telling::Not,
                _ => Telling::It,
            });
            lock(&nodes).push(events.cell());
            events
        })
        .writes(move |written, bytes| {
            if let Err(FrameError::Incompatible { version, publisher }) = Frame::decode(&bytes)
                && let Some(event) = tell(version, publisher)
            {
                let listeners = lock(&listeners);
                listeners.iter().for_each(|cell| cell.tell(event.clone()));
            }
            written.pass(&bytes)
        })
}

fn beginning(name: &str) -> &[u8] {
    &name.as_bytes()[..name.len().min(100)]
}
