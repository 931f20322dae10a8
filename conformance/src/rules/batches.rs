//! S5: ten thousand channels in one call.

use std::collections::HashSet;
use std::time::Duration;

use backplane_core::{Channel, Delivery, NodeId, Subscribe, SubscribeError};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::harness::Fault;
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, show};
use crate::verdict::{Ending, Outcome, broken, inconclusive};

const MANY: usize = 10_000;

/// As many requests, or times of a single subscribe, as ten thousand channels may take: one for ten.
const MOST: u32 = 1000;

/// How long so many channels may take, before the scale factor: it is the requests that count, not the work.
const LONG: Duration = Duration::from_secs(60);

/// How many publishes are on their way at once.
const AT_ONCE: usize = 500;

pub(super) async fn s5(trial: Trial) -> Outcome {
    let counts = subscribes(&trial).await?.is_some();
    // Who does not count is measured, where a round trip takes long enough to tell it from the rest of the work.
    let trial = match counts {
        true => trial,
        false => trial.with_reachable_nodes(),
    };
    let delays = !counts && trial.can(Fault::Delay);
    let a = trial.node().await?;
    let patient = trial.options().subscribe_timeout(trial.scaled(LONG));
    let b = trial.node_with(patient).await?;
    let channels = (0..MANY)
        .map(|i| channel(format!("room {i}")))
        .collect::<Outcome<Vec<_>>>()?;
    let roomy = |channels: Vec<Channel>| Subscribe::to(channels).capacity(2 * MANY);

    let before = Before::now(&trial, &b, delays).await?;
    let subscribing = b.subscribe(roomy(channels.clone()));
    let mut reader = trial.reader(subscribed(&trial, subscribing).await?);
    before.in_batches(&trial, "a subscription").await?;
    all_arrive(&trial, &a, &channels, &mut reader, "at once").await?;
    drop(reader);
    on_the_broker(&trial, &channels, 0).await?;

    let mut reader = trial.subscribe_to(&b, roomy(Vec::new())).await?;
    let before = Before::now(&trial, &b, delays).await?;
    let adding = reader.subscription.handle();
    let adding = adding.subscribe(channels.clone());
    subscribed(&trial, adding).await?;
    before.in_batches(&trial, "a handle").await?;
    on_the_broker(&trial, &channels, 1).await?;
    let some: Vec<_> = channels.iter().step_by(97).cloned().collect();
    all_arrive(&trial, &a, &some, &mut reader, "by a handle").await?;

    // They come back in batches as well.
    if counts && (trial.can(Fault::Kill) || trial.can(Fault::Isolate(NodeId::from_u64(0)))) {
        let before = Before::now(&trial, &b, false).await?;
        trial.outage_and_back(&[&a, &b]).await?;
        before.in_batches(&trial, "a reconnection").await?;
        reader.expect_gap().await?;
        all_arrive(&trial, &a, &some, &mut reader, "after an outage").await?;
    }
    match counts || delays {
        true => Ok(()),
        // All are in force, and that is all that can be seen here.
        false => Err(Ending::NotApplicable(
            "the harness neither counts subscribe requests nor delays what travels, so batches cannot be told from \
             single requests"
                .to_owned(),
        )),
    }
}

/// What a subscribe to many channels comes to, which must work.
async fn subscribed<T>(
    trial: &Trial,
    work: impl Future<Output = Result<T, SubscribeError>>,
) -> Outcome<T> {
    let bound = trial.scaled(LONG);
    match timeout(bound, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => broken(format!("subscribe failed: {}", chain(&error))),
        Err(_) => broken(format!("subscribe does not return within {bound:?}")),
    }
}

/// What is compared with what comes after.
enum Before {
    /// So many requests were counted.
    Counted(u64),
    /// It began then, delayed, when a single subscribe took so long.
    Delayed(Instant, Duration),
    Unknown,
}

impl Before {
    async fn now(trial: &Trial, node: &Node, delays: bool) -> Outcome<Self> {
        if let Some(counted) = subscribes(trial).await? {
            return Ok(Self::Counted(counted));
        }
        if !delays {
            return Ok(Self::Unknown);
        }
        trial.inject(Fault::Delay).await?;
        let begin = Instant::now();
        for i in 0..SINGLE {
            trial
                .subscribe(node, [&channel(format!("single {i}"))?])
                .await?;
        }
        Ok(Self::Delayed(Instant::now(), begin.elapsed() / SINGLE))
    }

    async fn in_batches(self, trial: &Trial, who: &str) -> Outcome {
        match self {
            Self::Counted(before) => {
                let Some(after) = subscribes(trial).await? else {
                    return inconclusive("the observer does not count any longer");
                };
                // A broker that was started again counts from zero.
                let requests = after.checked_sub(before).unwrap_or(after);
                ensure(
                    requests > 0 && requests <= u64::from(MOST),
                    format!("{MANY} channels of {who} were {requests} requests to the broker"),
                )
            }
            Self::Delayed(begin, single) => {
                let took = begin.elapsed();
                trial.heal().await?;
                ensure(
                    took <= single * MOST,
                    format!("{MANY} channels of {who} took {took:?}, and a single one {single:?}"),
                )
            }
            Self::Unknown => Ok(()),
        }
    }
}

/// How many single subscribes are measured.
const SINGLE: u32 = 5;

async fn subscribes(trial: &Trial) -> Outcome<Option<u64>> {
    match trial.harness().observer() {
        Some(observer) => observer.subscribes().await.or_else(inconclusive),
        None => Ok(None),
    }
}

/// What is published to these channels arrives, once each.
async fn all_arrive(
    trial: &Trial,
    publisher: &Node,
    channels: &[Channel],
    reader: &mut Reader,
    when: &str,
) -> Outcome {
    let mut open = HashSet::new();
    for some in channels.chunks(AT_ONCE) {
        let publishes = some
            .iter()
            .map(|channel| trial.publish(publisher, channel, format!("{when}, {channel}")));
        for published in join_all(publishes).await {
            published?;
        }
        open.extend(some.iter().map(|channel| format!("{when}, {channel}")));
    }
    while !open.is_empty() {
        let what = format!("one of {} messages {when}", open.len());
        match reader.next(&what).await? {
            Delivery::Message(message) => {
                let text = String::from_utf8_lossy(message.payload());
                ensure(
                    open.remove(&*text),
                    format!("arrived twice, or for nobody: {}", show(message.payload())),
                )?;
            }
            Delivery::Gap(gap) => return broken(format!("expected a message, got a gap: {gap}")),
        }
    }
    Ok(())
}

/// So many nodes are subscribed to each of them, as far as a few tell.
async fn on_the_broker(trial: &Trial, channels: &[Channel], expected: u64) -> Outcome {
    if trial.harness().observer().is_none() {
        return Ok(());
    }
    let ends = channels.first().into_iter().chain(channels.last());
    for channel in channels.iter().step_by(511).chain(ends) {
        trial
            .until_subscriptions(&trial.prefix(), channel, expected)
            .await?;
    }
    Ok(())
}
