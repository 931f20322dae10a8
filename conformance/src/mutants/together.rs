//! Wrong at O5: messages that are published in one call.
//!
//! `Subscription::recv_many` is not here: it is a method of the core crate, which no backend can get wrong.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Link as _, LinkPublishError};
use backplane_core::{Channel, NotSent, PublishError, PublishErrorKind, PublishManyError, Unknown};
use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;

use super::driver::{Line, LinkTwist};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tasks, lock};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "a-call-goes-one-by-one",
        "O5",
        "expected message",
        "a call with many messages awaits each of them, and what is started afterwards is not awaited",
        || Wrong::new().nodes(|_| OneByOne),
    ),
    mutant!(
        "a-call-is-started-by-a-task",
        "O5",
        "expected message",
        "a call with many messages is handed to a task, and what is started afterwards is not",
        || Wrong::new().nodes(|_| InATask(Tasks::default())),
    ),
    mutant!(
        "the-last-part-of-a-call-goes-first",
        "O5",
        "expected message",
        "the parts of a call go at once, and each as fast as it can",
        || Wrong::new().nodes(|_| Parted { lost: None }),
    ),
    mutant!(
        "the-end-of-a-long-call-is-cut-off",
        "O5",
        "did not arrive",
        "a call has a limit, and what is beyond it is dropped and told as accepted",
        || Wrong::new().nodes(|_| Parted { lost: Some(256) }),
    ),
    mutant!(
        "empty-messages-of-a-call-are-dropped",
        "O5",
        "expected message",
        "what has no bytes takes no room in a frame with many",
        || Wrong::new().nodes(|_| Altered(drops_empty)),
    ),
    mutant!(
        "large-messages-go-after-the-call",
        "O5",
        "expected message",
        "what does not fit into a frame with others is put off",
        || Wrong::new().nodes(|_| Altered(puts_off_large)),
    ),
    mutant!(
        "one-bad-message-fails-its-batch",
        "O5",
        "are too large: message 0 is told Err(NotSent(TooLarge",
        "a call is refused as a whole because of one message that is too large",
        || Wrong::new().nodes(|_| Retold(fails_with_the_first)),
    ),
    mutant!(
        "outcome-of-the-first-for-all",
        "O5",
        "are too large: message 2 is told Ok",
        "a call has one outcome, which is that of its first message",
        || Wrong::new().nodes(|_| Retold(as_the_first)),
    ),
    mutant!(
        "index-is-off-by-one",
        "O5",
        "are too large: message 2 is told Ok",
        "failures are counted from one",
        || Wrong::new().nodes(|_| Retold(off_by_one)),
    ),
    mutant!(
        "failures-of-a-call-are-counted-and-not-named",
        "O5",
        "are too large: message 0 is told Err",
        "it is known how many failed, and not which",
        || Wrong::new().nodes(|_| Retold(from_the_first)),
    ),
    mutant!(
        "stops-at-the-first-failure",
        "O5",
        "are too large: message 3 is told Err(NotSent(Unavailable",
        "a call ends where a message fails",
        || Wrong::new().nodes(|_| StopsAtFailure),
    ),
    mutant!(
        "tail-is-sent-after-all",
        "O5",
        "expected message",
        "what finds no room is told as refused, and sent when there is some",
        || Wrong::new().nodes(|_| SendsLater::of(NotSent::Overloaded)),
    ),
    mutant!(
        "what-finds-no-room-is-told-as-accepted",
        "O5",
        "and message 16 is told Ok",
        "a call is done when it is queued, as far as there is room",
        || Wrong::new().nodes(|_| Retold(overload_is_success)),
    ),
    mutant!(
        "a-call-that-does-not-fit-is-refused",
        "O5",
        "and message 0 is told Err(NotSent(Overloaded",
        "there is room for the whole call, or for none of it",
        || Wrong::new().nodes(|spec| AllOrNothing {
            messages: spec.options.max_pending,
            bytes: spec.options.max_pending_bytes,
        }),
    ),
    mutant!(
        "a-call-in-an-outage-is-sent-after-it",
        "O5",
        r#"expected message "after 0", got"#,
        "what is published together in an outage is kept",
        || Wrong::new().nodes(|_| SendsLater::of(NotSent::Unavailable)),
    ),
    mutant!(
        "a-call-in-an-outage-is-unknown",
        "O5",
        "in an outage, message 0 is told Err(Unknown",
        "a call that did not leave is told like one that broke",
        || Wrong::new().nodes(|_| Retold(unavailable_is_unknown)),
    ),
    mutant!(
        "what-is-cut-of-a-call-is-told-as-not-sent",
        "O5",
        "of a call was told as not sent",
        "a call that broke is told as one that did not leave",
        || Wrong::new().nodes(|_| Retold(unknown_is_not_sent)),
    ),
    mutant!(
        "a-call-that-breaks-is-unknown-as-a-whole",
        "O5",
        "were accepted before the connection broke, and message 0 is told Err(Unknown",
        "a call has one outcome when its connection breaks, also of what was accepted before",
        || Wrong::new().nodes(|_| Retold(all_unknown)),
    ),
    mutant!(
        "what-is-cut-of-a-call-is-sent-again",
        "O5",
        "arrived twice",
        "what got no answer is sent once more, on the next connection",
        || Wrong::new().nodes(|_| SendsAgain::default()),
    ),
    mutant!(
        "a-call-that-is-given-up-stalls-the-next",
        "O5",
        "beside a call that was given up does not return",
        "who publishes many is marked as busy, and nobody else clears the mark",
        || Wrong::new().nodes(|_| Busy::default()),
    ),
    mutant!(
        "a-follower-is-lost-with-its-leader",
        "O5",
        "a publish beside a call failed",
        "a call sends what others publish meanwhile, and takes them with it when it is given up",
        || Wrong::new().nodes(|_| Leads::default()),
    ),
    mutant!(
        "a-call-that-is-given-up-goes-on",
        "O5",
        "with a call given up, this arrived",
        "the rest of a call that was given up is sent by a task, when its turn is over",
        || Wrong::new().nodes(|_| GoesOn(Arc::default())),
    ),
    mutant!(
        "numbers-have-two-bytes",
        "O5",
        "of 1000 did not arrive",
        "the number of a message is written in two bytes, and begins again at nought",
        || Wrong::new().links(|| TwoBytes),
    ),
    mutant!(
        "a-closed-node-takes-calls",
        "O5",
        "after close, a call is told",
        "only the way of single messages looks whether the node is closed",
        || Wrong::new().nodes(|_| Retold(closed_is_success)),
    ),
];

type Told = Result<(), PublishManyError>;

struct OneByOne;

#[async_trait]
impl NodeTwist for OneByOne {
    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let total = payloads.len();
        let mut failures = Vec::new();
        for (at, payload) in payloads.into_iter().enumerate() {
            let told = node.publish(channel, payload).await;
            failures.extend(told.err().map(|error| (at..at + 1, error)));
        }
        PublishManyError::of(total, failures)
    }
}

struct InATask(Tasks);

#[async_trait]
impl NodeTwist for InATask {
    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let (node, on, total) = (Arc::clone(node), channel.clone(), payloads.len());
        let (done, told) = oneshot::channel();
        self.0.spawn(async move {
            let _ = done.send(node.publish_many(&on, payloads).await);
        });
        let lost = || PublishError::unknown(channel, Unknown::ConnectionLost, None);
        told.await
            .unwrap_or_else(|_| PublishManyError::of(total, [(0..total, lost())]))
    }
}

/// Makes parts of long calls.
struct Parted {
    /// What is beyond so many is dropped.
    lost: Option<usize>,
}

#[async_trait]
impl NodeTwist for Parted {
    async fn publish_many(
        &self,
        node: &Inner,
        channel: &Channel,
        mut payloads: Vec<Bytes>,
    ) -> Told {
        if let Some(most) = self.lost {
            payloads.truncate(most);
            return node.publish_many(channel, payloads).await;
        }
        let half = payloads.len() / 2;
        if half > 50 {
            payloads.rotate_left(half);
        }
        node.publish_many(channel, payloads).await
    }
}

/// Publishes other messages than it was given.
struct Altered(fn(Vec<Bytes>) -> Vec<Bytes>);

#[async_trait]
impl NodeTwist for Altered {
    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let limit = node.capabilities().max_payload;
        if payloads.iter().any(|payload| payload.len() > limit) {
            return node.publish_many(channel, payloads).await;
        }
        node.publish_many(channel, (self.0)(payloads)).await
    }
}

fn drops_empty(mut payloads: Vec<Bytes>) -> Vec<Bytes> {
    payloads.retain(|payload| !payload.is_empty());
    payloads
}

fn puts_off_large(mut payloads: Vec<Bytes>) -> Vec<Bytes> {
    payloads.sort_by_key(|payload| payload.len() > 10_000);
    payloads
}

/// Tells something else of the messages that failed.
struct Retold(fn(usize, Failures, &Channel) -> Failures);

/// The messages of a call that failed.
type Failures = Vec<(Range<usize>, PublishError)>;

#[async_trait]
impl NodeTwist for Retold {
    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let total = payloads.len();
        let Err(error) = node.publish_many(channel, payloads).await else {
            return Ok(());
        };
        let failures = error
            .into_iter()
            .map(|failure| (failure.range(), failure.into_error()))
            .collect();
        PublishManyError::of(total, (self.0)(total, failures, channel))
    }
}

fn is_too_large(error: &PublishError) -> bool {
    let kind = error.kind();
    matches!(kind, PublishErrorKind::NotSent(NotSent::TooLarge { .. }))
}

/// As one that is too large fails.
fn fails_with_the_first(total: usize, mut failures: Failures, _: &Channel) -> Failures {
    match failures.iter().position(|(_, error)| is_too_large(error)) {
        Some(at) => vec![(0..total, failures.swap_remove(at).1)],
        None => failures,
    }
}

fn as_the_first(total: usize, mut failures: Failures, _: &Channel) -> Failures {
    match failures.first() {
        Some((range, _)) if range.start == 0 => vec![(0..total, failures.swap_remove(0).1)],
        _ => Vec::new(),
    }
}

fn off_by_one(total: usize, mut failures: Failures, _: &Channel) -> Failures {
    for (range, _) in &mut failures {
        *range = range.start + 1..range.end + 1;
    }
    failures.retain(|(range, _)| range.end <= total);
    failures
}

fn from_the_first(_: usize, failures: Failures, _: &Channel) -> Failures {
    let mut next = 0;
    let moved = |(range, error): (Range<usize>, _)| {
        let begin = next;
        next += range.len();
        (begin..next, error)
    };
    failures.into_iter().map(moved).collect()
}

/// Makes something of those that failed like this.
fn made_of(
    failures: Failures,
    such: fn(PublishErrorKind) -> bool,
    make: impl Fn() -> Option<PublishError>,
) -> Failures {
    let told = |(range, error): (_, PublishError)| match such(error.kind()) {
        true => make().map(|error| (range, error)),
        false => Some((range, error)),
    };
    failures.into_iter().filter_map(told).collect()
}

const fn is_unknown(kind: PublishErrorKind) -> bool {
    matches!(kind, PublishErrorKind::Unknown(_))
}

fn overload_is_success(_: usize, failures: Failures, _: &Channel) -> Failures {
    let overload = |kind| kind == PublishErrorKind::NotSent(NotSent::Overloaded);
    made_of(failures, overload, || None)
}

fn closed_is_success(_: usize, failures: Failures, _: &Channel) -> Failures {
    let closed = |kind| kind == PublishErrorKind::NotSent(NotSent::Closed);
    made_of(failures, closed, || None)
}

fn unknown_is_not_sent(_: usize, failures: Failures, channel: &Channel) -> Failures {
    let not_sent = || PublishError::not_sent(channel, NotSent::Unavailable, None);
    made_of(failures, is_unknown, || Some(not_sent()))
}

fn all_unknown(total: usize, failures: Failures, channel: &Channel) -> Failures {
    let broke = failures.iter().any(|(_, error)| is_unknown(error.kind()));
    match broke {
        true => vec![(
            0..total,
            PublishError::unknown(channel, Unknown::ConnectionLost, None),
        )],
        false => failures,
    }
}

fn unavailable_is_unknown(_: usize, failures: Failures, channel: &Channel) -> Failures {
    let unavailable = |kind| kind == PublishErrorKind::NotSent(NotSent::Unavailable);
    let unknown = || PublishError::unknown(channel, Unknown::ConnectionLost, None);
    made_of(failures, unavailable, || Some(unknown()))
}

/// Sends nothing of a call that is behind one that is too large.
struct StopsAtFailure;

#[async_trait]
impl NodeTwist for StopsAtFailure {
    async fn publish_many(
        &self,
        node: &Inner,
        channel: &Channel,
        mut payloads: Vec<Bytes>,
    ) -> Told {
        let (limit, total) = (node.capabilities().max_payload, payloads.len());
        let bad = payloads.iter().position(|payload| payload.len() > limit);
        let Some(bad) = bad.filter(|bad| bad + 1 < total) else {
            return node.publish_many(channel, payloads).await;
        };
        payloads.truncate(bad + 1);
        let mut failures = Failures::new();
        if let Err(error) = node.publish_many(channel, payloads).await {
            let told = error.into_iter();
            failures.extend(told.map(|failure| (failure.range(), failure.into_error())));
        }
        let rest = PublishError::not_sent(channel, NotSent::Unavailable, None);
        failures.push((bad + 1..total, rest));
        PublishManyError::of(total, failures)
    }
}

/// Sends what failed in a way, before the next call that may succeed.
struct SendsLater {
    what: NotSent,
    kept: Mutex<Vec<(Channel, Bytes)>>,
}

impl SendsLater {
    const fn of(what: NotSent) -> Self {
        let kept = Mutex::new(Vec::new());
        Self { what, kept }
    }
}

#[async_trait]
impl NodeTwist for SendsLater {
    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        if node.state().is_connected() {
            let kept = std::mem::take(&mut *lock(&self.kept));
            for (channel, payload) in kept {
                let _ = node.publish(&channel, payload).await;
            }
        }
        let told = node.publish_many(channel, payloads.clone()).await;
        if let Err(error) = &told {
            let such = PublishErrorKind::NotSent(self.what);
            let failed = error.failures().iter();
            let failed = failed.filter(|failure| failure.error().kind() == such);
            let failed = failed.flat_map(|failure| payloads[failure.range()].iter().cloned());
            lock(&self.kept).extend(failed.map(|payload| (channel.clone(), payload)));
        }
        told
    }
}

/// Has room for calls that fit, while the limit is small.
struct AllOrNothing {
    messages: usize,
    bytes: usize,
}

#[async_trait]
impl NodeTwist for AllOrNothing {
    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let (total, bytes) = (
            payloads.len(),
            payloads.iter().map(Bytes::len).sum::<usize>(),
        );
        if total > self.messages || bytes > self.bytes {
            let refused = PublishError::not_sent(channel, NotSent::Overloaded, None);
            return PublishManyError::of(total, [(0..total, refused)]);
        }
        node.publish_many(channel, payloads).await
    }
}

/// Sends what is unknown before the next message.
#[derive(Default)]
struct SendsAgain(Mutex<Vec<Bytes>>);

#[async_trait]
impl NodeTwist for SendsAgain {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let again = std::mem::take(&mut *lock(&self.0));
        for payload in again {
            let _ = node.publish(channel, payload).await;
        }
        node.publish(channel, payload).await
    }

    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let told = node.publish_many(channel, payloads.clone()).await;
        if let Err(error) = &told {
            let failed = error.failures().iter();
            let unknown = failed.filter(|failure| is_unknown(failure.error().kind()));
            let unknown = unknown.flat_map(|failure| payloads[failure.range()].iter().cloned());
            lock(&self.0).extend(unknown);
        }
        told
    }
}

/// The mark of a call that was given up stays. Whoever finds it waits.
#[derive(Default)]
struct Busy {
    is: AtomicBool,
    again: Notify,
}

impl Busy {
    async fn no_longer(&self) {
        if self.is.load(Ordering::Acquire) {
            self.again.notified().await;
        }
    }
}

#[async_trait]
impl NodeTwist for Busy {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let published = node.publish(channel, payload).await;
        self.no_longer().await;
        published
    }

    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let alone = !self.is.swap(true, Ordering::AcqRel);
        let told = node.publish_many(channel, payloads).await;
        yield_now().await;
        if alone {
            self.is.store(false, Ordering::Release);
            self.again.notify_waiters();
        }
        told
    }
}

/// What is published while a call is on its way is told its outcome by the call.
#[derive(Default)]
struct Leads(Arc<Mutex<Option<Followers>>>);

type Followers = Vec<oneshot::Sender<()>>;

/// Forgets the followers with the call.
struct Leading(Arc<Mutex<Option<Followers>>>);

impl Drop for Leading {
    fn drop(&mut self) {
        *lock(&self.0) = None;
    }
}

#[async_trait]
impl NodeTwist for Leads {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let follows = lock(&self.0).as_mut().map(|followers| {
            let (done, told) = oneshot::channel();
            followers.push(done);
            told
        });
        node.publish(channel, payload).await?;
        match follows {
            None => Ok(()),
            Some(told) => {
                let lost = || PublishError::unknown(channel, Unknown::ConnectionLost, None);
                told.await.map_err(|_| lost())
            }
        }
    }

    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let first = lock(&self.0).is_none();
        if !first {
            return node.publish_many(channel, payloads).await;
        }
        *lock(&self.0) = Some(Followers::new());
        let leading = Leading(Arc::clone(&self.0));
        let told = node.publish_many(channel, payloads).await;
        yield_now().await;
        let followers = lock(&self.0).take().unwrap_or_default();
        for follower in followers {
            let _ = follower.send(());
        }
        drop(leading);
        told
    }
}

struct TwoBytes;

#[async_trait]
impl LinkTwist for TwoBytes {
    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        /// Where the two lowest of its eight bytes end.
        const FROM: usize = 14;
        const TO: usize = 20;
        let mut bytes = BytesMut::from(&frame.encode()[..]);
        bytes[FROM..TO].fill(0);
        let cut = Frame::decode(&bytes.freeze());
        line.link
            .publish(channel, cut.as_ref().unwrap_or(frame))
            .await
    }
}

/// Goes on with a task where its caller has left it.
struct GoesOn(Arc<Tasks>);

/// What is left of a call, and where it goes.
struct Rest {
    node: Inner,
    channel: Channel,
    payloads: Vec<Bytes>,
    tasks: Arc<Tasks>,
}

impl Drop for Rest {
    fn drop(&mut self) {
        let payloads = std::mem::take(&mut self.payloads);
        if !payloads.is_empty() {
            let (node, channel) = (Arc::clone(&self.node), self.channel.clone());
            self.tasks.spawn(async move {
                let _ = node.publish_many(&channel, payloads).await;
            });
        }
    }
}

#[async_trait]
impl NodeTwist for GoesOn {
    async fn publish_many(&self, node: &Inner, channel: &Channel, payloads: Vec<Bytes>) -> Told {
        let mut rest = Rest {
            node: Arc::clone(node),
            channel: channel.clone(),
            payloads: payloads.clone(),
            tasks: Arc::clone(&self.0),
        };
        let told = node.publish_many(channel, payloads).await;
        rest.payloads.clear();
        told
    }
}
