//! B: backpressure.

use backplane_core::{Delivery, Missed, Subscribe};
use tokio::time::Instant;

use crate::rule::{Rule, rule};
use crate::rules::limits;
use crate::rules::loss::quick;
use crate::trial::{Trial, chain, channel, ensure, show};
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
        "B4",
        "the messages that survive an overflow keep their order",
        [],
        b4
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
    let mut read = [
        trial.subscribe(&a, [&news]).await?,
        trial.subscribe(&b, [&news]).await?,
    ];
    let begin = Instant::now();
    let mut sent = 0;
    // At least so many messages, and for longer than a heartbeat may take.
    while sent < 2000 || begin.elapsed() < std::time::Duration::from_millis(1500) {
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
    let mut small = trial.subscribe_to(&b, request).await?;
    let mut witness = trial.subscribe(&b, [&news, &sport]).await?;
    for round in 0..5_u64 {
        let sent = 10 + 3 + round;
        for i in 0..sent {
            let channel = if i % 2 == 0 { &news } else { &sport };
            trial.publish(&a, channel, format!("{round}.{i}")).await?;
            witness.expect(format!("{round}.{i}")).await?;
        }
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
        // It goes on at once, without another gap.
        trial.publish(&a, &news, format!("{round} on")).await?;
        small.expect(format!("{round} on")).await?;
        witness.expect(format!("{round} on")).await?;
    }
    Ok(())
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
        for _ in 0..random >> 60 {
            trial.publish(&a, &news, sent.to_string()).await?;
            witness.expect(sent.to_string()).await?;
            sent += 1;
        }
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
