//! Wrong at H18, H22 and H24: the order in which a client gets messages, slow clients, and sinks that fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::hub::{Outbound, Overflow, Payload, SendError, Sent, Sink};
use backplane_core::{BoxError, NodeId};

use super::harness::Wrong;
use super::hubs::{Here, HubTwist};
use super::node::lock;
use super::{Mutant, mutant};
use crate::hub::{Address, ClientSpec, HubClient, Recipients};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "connections-have-a-way-of-their-own",
        "H18",
        "and of the three senders",
        "a send to several connections is overtaken by the next send",
        || Wrong::new().hubs(Overtaken::new(|to| {
            let is_one = |it: &Address| matches!(it, Address::Connection(_));
            to.include.len() > 1 && to.include.iter().all(is_one)
        })),
    ),
    mutant!(
        "mixed-targets-have-a-way-of-their-own",
        "H18",
        "and of the three senders",
        "a send to a group and a user is overtaken by the next send",
        || Wrong::new().hubs(Overtaken::new(|to| matches!(
            to.include[..],
            [Address::Group(_), Address::User(_)]
        ))),
    ),
    mutant!(
        "a-slow-client-is-not-told",
        "H22",
        "what was missed did not reach",
        "what does not fit is dropped in silence",
        || Wrong::new().hubs(Misses(|_| None)),
    ),
    mutant!(
        "a-slow-client-is-told-a-guess",
        "H22",
        "missed 197, and is told missed 100",
        "what does not fit is counted up to a hundred",
        || Wrong::new().hubs(Misses(|count| Some(count.min(100)))),
    ),
    mutant!(
        "a-queue-of-a-client-has-no-bound",
        "H22",
        r#"missed 197, and is told "3""#,
        "the capacity of a client's queue is ignored",
        || Wrong::new().hubs(Asks(|client| client.capacity = usize::MAX)),
    ),
    mutant!(
        "a-slow-client-is-never-disconnected",
        "H22",
        "should be ended, and got missed 197",
        "the policy of a client's queue is ignored",
        || Wrong::new().hubs(Asks(|client| client.overflow = Overflow::DropAndTell)),
    ),
    mutant!(
        "a-slow-client-is-waited-for",
        "H22",
        "send does not return",
        "a send waits until there is room in every queue",
        || Wrong::new().hubs(Waits),
    ),
    mutant!(
        "a-failing-write-fails-the-send",
        "H24",
        "send failed",
        "the sender is told the error of a client's socket",
        || Wrong::new().hubs(Failing {
            on: OnFailure::TellsTheSender,
            failed: Arc::default(),
        }),
    ),
    mutant!(
        "a-failing-write-ends-its-neighbours",
        "H24",
        "was ended before",
        "what goes wrong at one client ends the round for all",
        || Wrong::new().hubs(Failing {
            on: OnFailure::EndsTheOthers,
            failed: Arc::default(),
        }),
    ),
    mutant!(
        "a-failing-write-is-passed-over",
        "H24",
        r#"expected a sink that got ["\"1\"", "\"fail\""]"#,
        "a client whose socket fails stays connected",
        || Wrong::new().hubs(Failing {
            on: OnFailure::GoesOn,
            failed: Arc::default(),
        }),
    ),
];

/// Sends some messages behind the next one of the same node.
struct Overtaken {
    which: fn(&Recipients) -> bool,
    held: Mutex<Vec<(NodeId, Recipients, Payload)>>,
}

impl Overtaken {
    fn new(which: fn(&Recipients) -> bool) -> Self {
        Self {
            which,
            held: Mutex::default(),
        }
    }
}

#[async_trait]
impl HubTwist for Overtaken {
    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        if (self.which)(&to) {
            lock(&self.held).push((here.node(), to, payload));
            return here.fine().await;
        }
        let sent = here.hub.send(&to, payload).await;
        let held = std::mem::take(&mut *lock(&self.held));
        let (due, later): (Vec<_>, _) = held
            .into_iter()
            .partition(|(node, ..)| *node == here.node());
        lock(&self.held).extend(later);
        for (_, to, payload) in due {
            here.hub.send(&to, payload).await?;
        }
        sent
    }
}

/// Tells another count of what was missed, or none.
struct Misses(fn(u64) -> Option<u64>);

#[async_trait]
impl HubTwist for Misses {
    async fn recv(&self, _here: &Here, client: &mut dyn HubClient) -> Option<Outbound> {
        loop {
            match client.recv().await {
                Some(Outbound::Missed(count)) => {
                    if let Some(told) = (self.0)(count) {
                        return Some(Outbound::Missed(told));
                    }
                }
                other => return other,
            }
        }
    }
}

/// Asks for another client.
struct Asks(fn(&mut ClientSpec));

impl HubTwist for Asks {
    fn client(&self, mut asked: ClientSpec) -> ClientSpec {
        (self.0)(&mut asked);
        asked
    }
}

/// Waits for those who missed something.
struct Waits;

#[async_trait]
impl HubTwist for Waits {
    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        let sent = here.hub.send(&to, payload).await;
        if here.hub.stats().missed > 0 {
            // Nobody reads.
            std::future::pending::<()>().await;
        }
        sent
    }
}

#[derive(Clone, Copy, PartialEq)]
enum OnFailure {
    TellsTheSender,
    EndsTheOthers,
    GoesOn,
}

/// Does something else when a sink fails.
struct Failing {
    on: OnFailure,
    failed: Arc<AtomicBool>,
}

#[async_trait]
impl HubTwist for Failing {
    fn sink(&self, here: &Here, sink: Arc<dyn Sink>) -> Arc<dyn Sink> {
        Arc::new(Watched {
            sink,
            on: self.on,
            here: here.clone(),
            failed: Arc::clone(&self.failed),
        })
    }

    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        let sent = here.hub.send(&to, payload).await;
        match self.failed.swap(false, Ordering::SeqCst) {
            true => Err(SendError::Closed),
            false => sent,
        }
    }
}

struct Watched {
    sink: Arc<dyn Sink>,
    on: OnFailure,
    here: Here,
    failed: Arc<AtomicBool>,
}

impl Sink for Watched {
    fn deliver(&self, outbound: Outbound) -> Result<(), BoxError> {
        let delivered = self.sink.deliver(outbound);
        if delivered.is_err() {
            match self.on {
                OnFailure::TellsTheSender => self.failed.store(true, Ordering::SeqCst),
                OnFailure::EndsTheOthers => {
                    for other in self.here.locals() {
                        other.handle.disconnect();
                    }
                }
                OnFailure::GoesOn => return Ok(()),
            }
        }
        delivered
    }
}
