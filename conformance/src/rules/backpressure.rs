//! B: backpressure.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backplane_core::{
    Channel, Delivery, Missed, NodeOptions, NotSent, PublishError, PublishErrorKind, Subscribe,
};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use crate::harness::Fault;
use crate::rule::{Rule, rule};
use crate::rules::limits;
use crate::rules::loss::{GRACE, quick};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, show};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "B1",
        "a subscription that is not read delays nobody",
        [],
        b1
    ),
    rule!(
        "B2",
        "overflow is one gap with the exact count, at its place",
        [],
        b2
    ),
    rule!(
        "B3",
        "memory stays bounded, however large the messages are",
        [],
        b3
    ),
    rule!(
        "B4",
        "the messages that survive an overflow keep their order",
        [],
        b4
    ),
    rule!(
        "B5",
        "publishing faster than the broker accepts waits or fails in time, within bounds",
        [Freeze],
        b5
    ),
    rule!(
        "B6",
        "a connection that the broker breaks off is one outage, told and counted",
        [Overrun, Observer],
        limits::b6
    ),
];

async fn b1(trial: Trial) -> Outcome {
    let a = trial.node_with(quick(&trial)).await?;
    let b = trial.node_with(quick(&trial)).await?;
    let news = channel("news")?;
    let mut unread = Vec::new();
    for node in [&a, &b] {
        for _ in 0..2 {
            let request = Subscribe::to([news.clone()]).capacity(10);
            unread.push(trial.subscribe_to(node, request).await?);
        }
    }
    let mut events = b.events();
    let before = [a.stats(), b.stats()];
    let mut read = [
        trial.subscribe(&a, [&news]).await?,
        trial.subscribe(&b, [&news]).await?,
    ];
    let begin = Instant::now();
    let mut sent = 0;
    // At least so many messages, and for longer than a heartbeat may take.
    while sent < 2000 || begin.elapsed() < Duration::from_millis(1500) {
        trial.publish(&a, &news, sent.to_string()).await?;
        for reader in &mut read {
            reader.expect(sent.to_string()).await?;
        }
        sent += 1;
    }
    if let Err(error) = b.health().await {
        return broken(format!("health fails: {}", chain(&error)));
    }
    let event = events.try_recv().ok();
    ensure(
        event.is_none(),
        format!("the unread subscription cost the connection: {event:?}"),
    )?;
    // Nor is who comes and goes.
    let more = channel("more")?;
    for node in [&a, &b] {
        let mut new = trial.subscribe(node, [&more]).await?;
        trial.publish(&a, &more, "new").await?;
        new.expect("new").await?;
    }
    for (node, before) in [&a, &b].into_iter().zip(&before) {
        trial.all_offered(node, before, 3 * sent + 1).await?;
    }
    for reader in &mut unread {
        reader.expect_all((0..10).map(|i| i.to_string())).await?;
        let missed = reader.expect_gap().await?.missed();
        ensure(
            missed == Missed::Exactly(sent - 10),
            format!("{sent} sent, 10 read, {missed:?}"),
        )?;
    }
    Ok(())
}

async fn b2(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let (news, sport) = (channel("news")?, channel("sport")?);
    let request = Subscribe::to([news.clone(), sport.clone()]).capacity(10);
    // However it was asked for.
    let mut small = [
        trial.subscribe_to(&b, request.clone()).await?,
        trial
            .subscribe_to(&b, request.without_own().deferred())
            .await?,
    ];
    let mut witness = trial.subscribe(&b, [&news, &sport]).await?;
    for round in 0..5_u64 {
        let before = b.stats();
        let sent = 10 + 3 + round;
        for i in 0..sent {
            let channel = if i % 2 == 0 { &news } else { &sport };
            trial.publish(&a, channel, format!("{round}.{i}")).await?;
            witness.expect(format!("{round}.{i}")).await?;
        }
        trial.all_offered(&b, &before, 3 * sent).await?;
        for small in &mut small {
            small
                .expect_all((0..10).map(|i| format!("{round}.{i}")))
                .await?;
            let gap = small.expect_gap().await?;
            let missed = gap.missed();
            let expected = Missed::Exactly(sent - 10);
            ensure(
                missed == expected,
                format!("expected a gap of {expected:?}, got {missed:?}"),
            )?;
            ensure(gap.outages() == 0, "an overflow claims to be an outage")?;
        }
        // They go on at once, without another gap.
        trial.publish(&a, &news, format!("{round} on")).await?;
        for small in &mut small {
            small.expect(format!("{round} on")).await?;
        }
        witness.expect(format!("{round} on")).await?;
    }
    default_capacity(&trial, &a).await
}

/// The node's own number holds where a subscription names none.
async fn default_capacity(trial: &Trial, a: &Node) -> Outcome {
    let c = trial.node_with(trial.options().queue_capacity(7)).await?;
    let news = channel("default capacity")?;
    let mut unread = trial.subscribe(&c, [&news]).await?;
    let roomy = Subscribe::to([news.clone()]).capacity(100);
    let mut witness = trial.subscribe_to(&c, roomy).await?;
    let before = c.stats();
    for i in 0..10 {
        trial.publish(a, &news, i.to_string()).await?;
        witness.expect(i.to_string()).await?;
    }
    trial.all_offered(&c, &before, 20).await?;
    unread.expect_all((0..7).map(|i| i.to_string())).await?;
    match unread
        .next("the gap of a queue of the node's capacity")
        .await?
    {
        Delivery::Gap(gap) => ensure(
            gap.missed() == Missed::Exactly(3),
            format!("queue_capacity(7), 10 sent, and {:?} missed", gap.missed()),
        ),
        Delivery::Message(message) => {
            let got = show(message.payload());
            broken(format!(
                "queue_capacity(7) holds more than 7 messages: {got}"
            ))
        }
    }
}

/// Queues that are never read hold what their bound in bytes allows, tell the rest, and keep nothing else alive.
async fn b3(trial: Trial) -> Outcome {
    const BOUND: usize = 256 << 10;
    const LARGEST: usize = 32 << 10;
    let a = trial.node().await?;
    let b = trial.node_with(trial.options().queue_bytes(BOUND)).await?;
    let news = channel("news")?;
    let on_news = || Subscribe::to([news.clone()]);
    let requests = [
        (BOUND, on_news()),
        (BOUND / 4, on_news().max_bytes(BOUND / 4)),
        (BOUND * 4, on_news().max_bytes(BOUND * 4)),
        // A single message always fits.
        (0, on_news().max_bytes(0)),
    ];
    let mut unread = Vec::new();
    for (bound, request) in requests {
        unread.push((bound, trial.subscribe_to(&b, request).await?));
    }
    let mut witness = trial.subscribe(&b, [&news]).await?;
    let before = b.stats();

    let alive = Alive::default();
    let (mut random, mut sizes, mut total) = (trial.seed(), Vec::new(), 0);
    while total < 50 * BOUND {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let size = 8 + (random >> 40) as usize % (LARGEST - 8);
        let payload = numbered(sizes.len(), size);
        sizes.push(size);
        total += size;
        trial
            .publish(&a, &news, alive.payload(payload.clone()))
            .await?;
        witness.expect(payload).await?;
    }

    // Every queue has been offered everything.
    let offered = ((unread.len() + 1) * sizes.len()) as u64;
    trial.all_offered(&b, &before, offered).await?;
    // Where payloads travel without a copy, it can be seen what keeps them.
    let allowed = LARGEST + unread.iter().map(|(bound, _)| bound).sum::<usize>();
    let what = format!("at most {allowed} bytes kept in queues that may have so many");
    trial
        .until(&what, || async {
            let kept = alive.bytes();
            Ok((kept > allowed).then(|| format!("{kept} bytes of {total} sent")))
        })
        .await?;

    let (mut missed, mut gaps) = (0, 0);
    for (bound, reader) in &mut unread {
        let rest = read_rest(reader, &sizes, *bound).await?;
        missed += rest.missed;
        gaps += rest.gaps;
    }
    let stats = b.stats();
    let counted = [
        stats.overflowed.saturating_sub(before.overflowed),
        stats.gaps.saturating_sub(before.gaps),
        stats.delivered.saturating_sub(before.delivered),
    ];
    // The witness has missed nothing.
    let delivered = offered.saturating_sub(missed);
    let expected = [missed, gaps, delivered];
    ensure(
        counted == expected,
        format!("counted {counted:?} overflowed, gaps and delivered, instead of {expected:?}"),
    )?;
    // They go on at once, and what was read is gone.
    trial.publish(&a, &news, "on").await?;
    for (_, reader) in &mut unread {
        reader.expect("on").await?;
    }
    witness.expect("on").await?;
    trial
        .until("nothing kept of what was read or dropped", || async {
            let kept = alive.bytes();
            Ok((kept > 0).then(|| format!("{kept} bytes of {total} sent")))
        })
        .await
}

/// What a queue that was not read had.
#[derive(Default)]
struct Rest {
    held: usize,
    bytes: usize,
    missed: u64,
    gaps: u64,
}

/// Reads all that was sent, as messages or told in gaps, of which no more than the bound may have been held.
async fn read_rest(reader: &mut Reader, sizes: &[usize], bound: usize) -> Outcome<Rest> {
    let mut rest = Rest::default();
    let mut next = 0;
    while next < sizes.len() {
        match reader.next("a message or a gap for it").await? {
            Delivery::Message(message) => {
                let payload = message.payload();
                rest.held += 1;
                rest.bytes += payload.len();
                ensure(
                    rest.bytes <= bound || rest.held == 1,
                    format!(
                        "a queue of {bound} bytes held {} bytes, and more",
                        rest.bytes
                    ),
                )?;
                if *payload != numbered(next, sizes[next]) {
                    let got = show(payload);
                    return broken(format!(
                        "expected message {next} or a gap, got message {got}"
                    ));
                }
                next += 1;
            }
            Delivery::Gap(gap) => match (gap.missed(), gap.outages()) {
                (Missed::Exactly(missed), 0) => {
                    rest.gaps += 1;
                    rest.missed += missed;
                    next += usize::try_from(missed).unwrap_or(usize::MAX / 2);
                }
                (missed, outages) => {
                    return broken(format!("an overflow of {missed:?} in {outages} outages"));
                }
            },
        }
    }
    let (sent, missed) = (sizes.len(), rest.missed);
    ensure(
        next == sent,
        format!(
            "{sent} sent, and {} held and {missed} told missing",
            rest.held
        ),
    )?;
    let fitting: usize = sizes[..fitting(sizes, bound)].iter().sum();
    ensure(
        rest.bytes >= fitting,
        format!(
            "a queue of {bound} bytes held only {}, and {fitting} fit",
            rest.bytes
        ),
    )?;
    Ok(rest)
}

/// How many of the first messages fit into a bound.
fn fitting(sizes: &[usize], bound: usize) -> usize {
    let mut bytes = 0;
    let fits = |size: &&usize| {
        bytes += **size;
        bytes <= bound
    };
    sizes.iter().take_while(fits).count().max(1)
}

fn numbered(n: usize, size: usize) -> Bytes {
    let mut payload = vec![n as u8; size];
    payload[..8].copy_from_slice(&(n as u64).to_le_bytes());
    payload.into()
}

/// How many bytes of payloads are alive: published, and not let go of.
#[derive(Clone, Debug, Default)]
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn bytes(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// A payload of these bytes that is counted until its last slice is dropped.
    fn payload(&self, bytes: Bytes) -> Bytes {
        self.0.fetch_add(bytes.len(), Ordering::AcqRel);
        Bytes::from_owner(Owned {
            bytes,
            alive: self.clone(),
        })
    }
}

struct Owned {
    bytes: Bytes,
    alive: Alive,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.alive.0.fetch_sub(self.bytes.len(), Ordering::AcqRel);
    }
}

/// Read in fits and starts: what arrives and what the gaps count must make up what was sent, in order.
async fn b4(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let request = Subscribe::to([news.clone()]).capacity(7);
    let mut small = trial.subscribe_to(&b, request).await?;
    let mut witness = trial.subscribe(&b, [&news]).await?;
    let mut random = trial.seed();
    let (mut sent, mut next) = (0_u64, 0_u64);
    for _ in 0..60 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let before = b.stats();
        for _ in 0..random >> 60 {
            trial.publish(&a, &news, sent.to_string()).await?;
            witness.expect(sent.to_string()).await?;
            sent += 1;
        }
        trial.all_offered(&b, &before, 2 * (random >> 60)).await?;
        for _ in 0..(random >> 56) & 15 {
            if let Ok(delivery) = small.subscription.try_recv() {
                next = account(next, &delivery)?;
            }
        }
    }
    while next < sent {
        let delivery = small.next("the rest of the messages, or a gap").await?;
        next = account(next, &delivery)?;
    }
    ensure(
        next == sent,
        format!("{sent} messages were sent, and {next} arrived or were counted"),
    )
}

/// How many messages are accounted for with this delivery, after so many before it.
fn account(next: u64, delivery: &Delivery) -> Outcome<u64> {
    match delivery {
        Delivery::Message(message) if message.payload() == next.to_string().as_bytes() => {
            Ok(next + 1)
        }
        Delivery::Message(message) => {
            let got = show(message.payload());
            broken(format!("after {next} messages another is expected: {got}"))
        }
        Delivery::Gap(gap) => match gap.missed() {
            Missed::Exactly(missed) => Ok(next + missed),
            missed => broken(format!("an overflow of {missed:?}")),
        },
    }
}

/// How many publishes may wait in the trial of B5, and how large they are.
const WAITING: usize = 16;
const SIZE: usize = 100;

/// How many channels they go to.
const LANES: usize = 4;

async fn b5(trial: Trial) -> Outcome {
    let listener = trial.node_with(unhurried(&trial)).await?;
    let lanes = (0..LANES)
        .map(|i| channel(format!("lane {i}")))
        .collect::<Outcome<Vec<_>>>()?;
    let request = Subscribe::to(lanes.clone()).capacity(20_000);
    let mut reader = trial.subscribe_to(&listener, request).await?;

    // A broker that serves: what is refused is refused, and what is accepted arrives.
    let serving = trial.options().publish_timeout(trial.within());
    for options in [serving.clone(), serving.max_pending(64)] {
        let node = trial.node_with(options.clone()).await?;
        let bound = 2 * options.publish_timeout + trial.scaled(GRACE);
        let mut flood = Flood::start(&node, &lanes, 0..2000);
        flood.end_by(Instant::now() + bound, bound).await?;
        let accepted = flood.ended.values().filter(|end| end.is_ok()).count();
        ensure(
            accepted >= 64,
            format!("a broker that serves accepted {accepted} of 2000 publishes"),
        )?;
        flood.agrees(&trial, &node, &mut reader).await?;
    }

    // A broker that does not: only so many wait, and these not for ever.
    let timeout = trial.scaled(Duration::from_secs(1));
    let unhurried = unhurried(&trial).publish_timeout(timeout);
    for options in [
        unhurried.clone().max_pending(WAITING),
        unhurried.max_pending_bytes(WAITING * SIZE),
    ] {
        let node = trial.node_with(options).await?;
        trial.inject(Fault::Freeze).await?;
        let begin = Instant::now();
        let mut flood = Flood::start(&node, &lanes, 0..400);
        flood.overflows_by(begin + timeout / 2).await?;
        let bound = 2 * timeout + trial.scaled(GRACE);
        flood.end_by(begin + bound, bound).await?;
        trial.heal().await?;
        trial.all_settled(&[&node, &listener]).await?;
        flood.agrees(&trial, &node, &mut reader).await?;
        // It waits for nobody any more, so as many as ever may wait.
        let mut flood = Flood::start(&node, &lanes, 400..400 + WAITING);
        flood.end_by(Instant::now() + bound, bound).await?;
        if let Some(Err(error)) = flood.ended.values().find(|end| end.is_err()) {
            return broken(format!(
                "after the overload, a publish fails: {}",
                chain(error)
            ));
        }
        flood.agrees(&trial, &node, &mut reader).await?;
    }
    Ok(())
}

/// Only a publish finds out that the broker is frozen, for a while.
fn unhurried(trial: &Trial) -> NodeOptions {
    let long = trial.within();
    trial
        .options()
        .heartbeat_interval(long)
        .heartbeat_timeout(long)
}

/// Many publishes at once, started in order.
struct Flood<'a> {
    lanes: &'a [Channel],
    pending: FuturesUnordered<Publishing<'a>>,
    ended: HashMap<usize, Result<(), PublishError>>,
}

type Publishing<'a> = Pin<Box<dyn Future<Output = (usize, Result<(), PublishError>)> + Send + 'a>>;

impl<'a> Flood<'a> {
    fn start(node: &'a Node, lanes: &'a [Channel], numbers: Range<usize>) -> Self {
        let publish = |i: usize| -> Publishing<'a> {
            let mut payload = format!("{i} ").into_bytes();
            payload.resize(SIZE, b'.');
            Box::pin(async move {
                (
                    i,
                    node.publish(&lanes[i % lanes.len()], payload.into()).await,
                )
            })
        };
        Self {
            lanes,
            pending: numbers.map(publish).collect(),
            ended: HashMap::new(),
        }
    }

    /// All but as many as may wait are refused at once, and no more than that.
    async fn overflows_by(&mut self, deadline: Instant) -> Outcome {
        while let Ok(Some((i, end))) = timeout_at(deadline, self.pending.next()).await {
            let kind = end.as_ref().map_err(PublishError::kind);
            ensure(
                kind == Err(PublishErrorKind::NotSent(NotSent::Overloaded)),
                format!("expected Overloaded at once, got {kind:?}"),
            )?;
            self.ended.insert(i, end);
        }
        let (waiting, refused) = (self.pending.len(), self.ended.len());
        ensure(
            waiting <= WAITING,
            format!("{waiting} publishes wait, and {WAITING} may"),
        )?;
        ensure(
            waiting == WAITING,
            format!("{refused} publishes were refused at once, {waiting} wait, and {WAITING} may"),
        )
    }

    async fn end_by(&mut self, deadline: Instant, bound: Duration) -> Outcome {
        while !self.pending.is_empty() {
            match timeout_at(deadline, self.pending.next()).await {
                Ok(Some((i, end))) => drop(self.ended.insert(i, end)),
                Ok(None) => break,
                Err(_) => {
                    let left = self.pending.len();
                    return broken(format!("{left} publishes did not end within {bound:?}"));
                }
            }
        }
        Ok(())
    }

    /// What was accepted has arrived, what was not sent has not, and each channel has kept its order.
    async fn agrees(self, trial: &Trial, node: &Node, reader: &mut Reader) -> Outcome {
        let mut arrived: Vec<(Channel, usize)> = Vec::new();
        for lane in self.lanes {
            trial.publish(node, lane, "end").await?;
        }
        let mut ends = 0;
        while ends < self.lanes.len() {
            let Delivery::Message(message) = reader.next("the end of a flood").await? else {
                continue;
            };
            let text = String::from_utf8_lossy(message.payload()).into_owned();
            if text == "end" {
                ends += 1;
                continue;
            }
            let number = text
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok());
            let Some(number): Option<usize> = number else {
                return broken(format!(
                    "a message that nobody sent: {}",
                    show(text.as_bytes())
                ));
            };
            if message.publisher() != node.node_id() {
                continue;
            }
            arrived.push((message.channel().clone(), number));
        }
        let mut times = HashMap::new();
        for (_, number) in &arrived {
            *times.entry(*number).or_insert(0) += 1;
        }
        for (i, end) in &self.ended {
            let times = times.get(i).copied().unwrap_or(0);
            match end {
                Ok(()) if times != 1 => {
                    return broken(format!("accepted publish {i} arrived {times} times"));
                }
                Err(error) if error.is_not_sent() && times > 0 => {
                    return broken(format!("publish {i} was told as not sent, and arrived"));
                }
                _ => {}
            }
        }
        let mut last = HashMap::new();
        for (lane, number) in arrived {
            let before = last.insert(lane, number);
            ensure(
                before.is_none_or(|before| before < number),
                format!("publish {number} arrived after publish {before:?}"),
            )?;
        }
        Ok(())
    }
}
