//! L: loss in an outage.

use std::collections::HashMap;
use std::time::Duration;

use backplane_core::{
    Channel, Delivery, Missed, NodeOptions, NotSent, PublishError, PublishErrorKind, Requirement,
    Subscribe,
};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::harness::{Fault, Start};
use crate::rule::{Rule, rule};
use crate::rules::limits;
use crate::rules::promise::{must_promise, promises};
use crate::rules::storm::{AfterFailure, Storm};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, texts};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "L1",
        "publishing in an outage fails in time with NotSent",
        [Outage],
        l1
    ),
    rule!(
        "L2",
        "what failed with NotSent is never delivered",
        [Outage],
        l2
    ),
    rule!(
        "L3",
        "a publish in flight is told NotSent or Unknown, truly",
        [Isolate, Freeze],
        l3
    ),
    rule!(
        "L4",
        "what others published in a node's outage does not arrive later",
        [Isolate],
        l4
    ),
    rule!(
        "L5",
        "each subscription gets one gap per outage, before the next message",
        [Outage],
        l5
    ),
    rule!(
        "L6",
        "an outage is noticed without traffic, in time",
        [Kill, Stop, Freeze],
        l6
    ),
    rule!(
        "L7",
        "a broker that answers and delivers nothing is noticed",
        [Mute],
        l7
    ),
    rule!(
        "L8",
        "a gap counts what was missed of each live publisher",
        [Isolate],
        l8
    ),
    rule!(
        "L9",
        "no stream ends and no handle dies in an outage",
        [Outage],
        l9
    ),
    rule!(
        "L10",
        "a broker that refuses what it is handed fails the publish, and is no outage",
        [OutOfMemory],
        limits::l10
    ),
];

/// The bound for a broken connection (rule L6).
const NOTICE_BROKEN: Duration = Duration::from_secs(1);

/// The scheduling of a busy machine, allowed on top of each bound that is measured.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// A quick heartbeat, for trials that wait for it.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(1000);

/// Options with a quick heartbeat.
pub(super) fn quick(trial: &Trial) -> NodeOptions {
    trial
        .options()
        .heartbeat_interval(HEARTBEAT_INTERVAL)
        .heartbeat_timeout(trial.scaled(HEARTBEAT_TIMEOUT))
}

async fn l1(trial: Trial) -> Outcome {
    let bound = trial.scaled(Duration::from_secs(2));
    for fault in [Fault::Kill, Fault::Stop, Fault::Freeze] {
        let options = quick(&trial).publish_timeout(bound);
        let node = trial.node_with(options).await?;
        let news = channel("news")?;
        trial.publish(&node, &news, "before").await?;
        match trial.can(fault) {
            true => trial.inject(fault).await?,
            // Any outage will do, once.
            false if fault == Fault::Kill => trial.outage().await?,
            false => continue,
        }
        // Before it is noticed, the outcome of a publish is open; it must only end in time.
        let first = ends_in_time(&trial, &node, &news, bound).await?;
        ensure(
            first.is_err(),
            format!("{fault}: a publish in the outage succeeded"),
        )?;
        trial.all_down(&[&node]).await?;
        for _ in 0..20 {
            match ends_in_time(&trial, &node, &news, bound).await? {
                Ok(()) => return broken(format!("{fault}: a publish in the outage succeeded")),
                Err(error) => expect_unavailable(fault, &error)?,
            }
        }
        // Many at once end in time as well.
        let many = join_all((0..200).map(|_| node.publish(&news, "many".into())));
        let Ok(ended) = timeout(bound + trial.scaled(GRACE), many).await else {
            return broken(format!(
                "{fault}: 200 publishes did not end within {bound:?}"
            ));
        };
        for result in ended {
            match result {
                Ok(()) => return broken(format!("{fault}: a publish in the outage succeeded")),
                Err(error) => expect_unavailable(fault, &error)?,
            }
        }
        trial.heal().await?;
        trial.all_up(&[&node]).await?;
        trial.publish(&node, &news, "after").await?;
    }
    match trial.can(Fault::Freeze) {
        true => l1_unanswered(&trial).await,
        false => Ok(()),
    }
}

/// Where no heartbeat notices it, the time that was configured for a publish is what bounds it.
async fn l1_unanswered(trial: &Trial) -> Outcome {
    let short = trial.scaled(Duration::from_millis(500));
    let never = trial.within() * 10;
    let options = trial
        .options()
        .publish_timeout(short)
        .heartbeat_interval(never)
        .heartbeat_timeout(never);
    let node = trial.node_with(options).await?;
    let news = channel("news")?;
    trial.inject(Fault::Freeze).await?;
    let bound = short + trial.scaled(GRACE);
    let publish = node.publish(&news, "unanswered".into());
    match timeout(bound, publish).await {
        Ok(Err(_)) => {}
        Ok(Ok(())) => return broken("a publish that nobody answered succeeded"),
        Err(_) => {
            return broken(format!(
                "a publish that nobody answered did not end within {bound:?}, and {short:?} was configured"
            ));
        }
    }
    trial.heal().await?;
    trial.all_settled(&[&node]).await
}

async fn ends_in_time(
    trial: &Trial,
    node: &Node,
    news: &Channel,
    bound: Duration,
) -> Outcome<Result<(), PublishError>> {
    match timeout(
        bound + trial.scaled(GRACE),
        node.publish(news, "lost".into()),
    )
    .await
    {
        Ok(ended) => Ok(ended),
        Err(_) => broken(format!(
            "a publish in the outage did not end within {bound:?}"
        )),
    }
}

fn expect_unavailable(fault: Fault, error: &PublishError) -> Outcome {
    let expected = PublishErrorKind::NotSent(NotSent::Unavailable);
    let kind = error.kind();
    ensure(
        kind == expected,
        format!("{fault}: expected {expected:?}, got {kind:?}: {error}"),
    )
}

async fn l2(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    for round in 0..3 {
        trial.outage().await?;
        trial.all_down(&[&a, &b]).await?;
        for i in 0..50 {
            match a.publish(&news, format!("lost {round}.{i}").into()).await {
                Err(error) if error.is_not_sent() => {}
                Err(error) => return broken(format!("expected NotSent, got: {error}")),
                Ok(()) => return broken("a publish in the outage succeeded"),
            }
        }
        trial.heal().await?;
        trial.all_up(&[&a, &b]).await?;
        for i in 0..50 {
            trial
                .publish(&a, &news, format!("after {round}.{i}"))
                .await?;
        }
        trial.publish(&a, &news, "end").await?;
        let mut got = texts(&reader.up_to("end").await?);
        let late = got.iter().find(|text| text.contains("lost"));
        ensure(
            late.is_none(),
            format!("reported as not sent, and delivered: {late:?}"),
        )?;
        got.retain(|text| text.starts_with("\"after"));
        ensure(
            got.len() == 50,
            format!("{} of 50 messages arrived after recovery", got.len()),
        )?;
    }
    Ok(())
}

/// First the publisher's connection breaks under load while the subscriber's does not; then a frozen
/// broker lets publishes time out and does them late.
async fn l3(trial: Trial) -> Outcome {
    let b = trial.node().await?;
    let news = channel("news")?;
    // Room for whatever a fast backend can do until the publisher is cut off.
    let roomy = Subscribe::to([news.clone()]).capacity(1 << 22);
    let mut reader = trial.subscribe_to(&b, roomy).await?;
    for round in 0..3 {
        let a = trial.node().await?;
        let storm = Storm::start(8, &a, &news, &round.to_string(), AfterFailure::GoOn);
        storm.has_told(&trial, 100).await?;
        trial.inject(Fault::Isolate(a.node_id())).await?;
        trial.all_down(&[&a]).await?;
        let told = trial
            .in_time("a publish does not end", storm.end())
            .await??;
        trial.heal().await?;
        trial.publish(&b, &news, "end").await?;
        let got = Arrived::of(&reader.up_to("end").await?);
        all_truly(&told, &got)?;
    }

    // A frozen broker: what was handed over may be done late, so it must not be called "not sent".
    // On a slow machine the publish before it still has to get through.
    let short = Duration::from_millis(300);
    let impatient = trial
        .options()
        .publish_timeout(trial.scaled(short).max(short));
    let a = trial.node_with(impatient).await?;
    trial.publish(&a, &news, "before").await?;
    trial.inject(Fault::Freeze).await?;
    let mut told = Vec::new();
    for i in 0..5 {
        let payload = format!("frozen {i}");
        let publish = a.publish(&news, payload.clone().into());
        told.push((
            payload,
            trial.in_time("a publish does not end", publish).await?,
        ));
    }
    trial.heal().await?;
    trial.all_settled(&[&a, &b]).await?;
    trial.publish(&a, &news, "end").await?;
    let got = Arrived::of(&reader.up_to("end").await?);
    all_truly(&told, &got)?;
    let unknown = |o: &Result<(), PublishError>| o.as_ref().is_err_and(|e| !e.is_not_sent());
    ensure(
        told.iter().any(|(_, outcome)| unknown(outcome)),
        "a publish that a frozen broker had in hand was not told Unknown",
    )
}

/// How often each message arrived, and how many are told to be missing.
pub(super) struct Arrived {
    times: HashMap<Vec<u8>, usize>,
    /// `None`: an outage, which may hide any number.
    missed: Option<u64>,
}

impl Arrived {
    pub(super) fn of(deliveries: &[Delivery]) -> Self {
        let mut arrived = Self {
            times: HashMap::new(),
            missed: Some(0),
        };
        for delivery in deliveries {
            match delivery {
                Delivery::Message(message) => {
                    *arrived.times.entry(message.payload().to_vec()).or_default() += 1;
                }
                Delivery::Gap(gap) => {
                    arrived.missed = match (arrived.missed, gap.missed()) {
                        (Some(sum), Missed::Exactly(n)) => Some(sum + n),
                        _ => None,
                    };
                }
            }
        }
        arrived
    }
}

/// What the publisher was told must agree with what arrived and with what was told to be missing.
pub(super) fn all_truly(told: &[(String, Result<(), PublishError>)], got: &Arrived) -> Outcome {
    let mut lost = 0;
    for (payload, outcome) in told {
        let times = got
            .times
            .get(payload.as_bytes())
            .copied()
            .unwrap_or_default();
        match outcome {
            _ if times > 1 => return broken(format!("message {payload:?} arrived {times} times")),
            Ok(()) if times == 0 => lost += 1,
            Err(error) if error.is_not_sent() && times > 0 => {
                return broken(format!(
                    "message {payload:?} was reported as not sent, and arrived: {error}"
                ));
            }
            _ => {}
        }
    }
    ensure(
        got.missed.is_none_or(|missed| lost <= missed),
        format!(
            "{lost} accepted messages were lost, and told missing are {:?}",
            got.missed
        ),
    )
}

async fn l4(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let replay = promises(&trial, &b, Requirement::Replay).await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    trial.publish(&a, &news, "before").await?;
    reader.expect("before").await?;
    for round in 0..3 {
        trial.inject(Fault::Isolate(b.node_id())).await?;
        trial.all_down(&[&b]).await?;
        // Deferred in the outage, it has missed nothing, and gets what comes after it.
        let deferred = Subscribe::to([news.clone()]).deferred();
        let mut deferred = trial.subscribe_to(&b, deferred).await?;
        let missed: Vec<_> = (0..20).map(|i| format!("missed {round}.{i}")).collect();
        for text in &missed {
            trial.publish(&a, &news, text.clone()).await?;
        }
        trial.heal().await?;
        trial.all_up(&[&b]).await?;
        trial.publish(&a, &news, format!("end {round}")).await?;
        let got = reader.up_to(format!("end {round}")).await?;
        let (gaps, messages): (Vec<_>, Vec<_>) = got
            .iter()
            .cloned()
            .partition(|delivery| matches!(delivery, Delivery::Gap(_)));
        match replay {
            true => {
                let expected: Vec<_> = missed.iter().map(|text| format!("{text:?}")).collect();
                let came = texts(&messages);
                ensure(
                    came == expected,
                    format!(
                        "replay is declared, and of {} messages of the outage, in order, came {came:?}",
                        expected.len()
                    ),
                )?;
            }
            false => ensure(
                messages.is_empty(),
                format!("delivered later: {:?}", texts(&got)),
            )?,
        }
        ensure(
            gaps.len() == 1,
            format!("expected one gap, got {:?}", texts(&got)),
        )?;
        if !replay {
            let got = texts(&deferred.up_to(format!("end {round}")).await?);
            ensure(
                got.is_empty(),
                format!("delivered to who had deferred: {got:?}"),
            )?;
        }
    }
    Ok(())
}

async fn l5(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let (news, sport) = (channel("news")?, channel("sport")?);
    let mut read = trial.subscribe(&b, [&news]).await?;
    let mut two_channels = trial.subscribe(&b, [&news, &sport]).await?;
    let mut unread = trial.subscribe(&b, [&news]).await?;
    let mut own = trial.subscribe(&a, [&news]).await?;
    let without_own = Subscribe::to([news.clone()]).without_own();
    let mut others_only = trial.subscribe_to(&b, without_own).await?;
    let mut by_handle = trial.subscribe(&b, []).await?;
    let added = by_handle.subscription.handle();
    if let Err(error) = added.subscribe([news.clone()]).await {
        return broken(format!("subscribe failed: {}", chain(&error)));
    }
    let mut expected = Vec::new();
    for round in 0..4 {
        if round > 0 {
            trial.outage_and_back(&[&a, &b]).await?;
        }
        let text = format!("round {round}");
        // Who comes after the outage has none of it.
        let mut new = trial.subscribe(&b, [&news]).await?;
        trial.publish(&a, &news, text.clone()).await?;
        new.expect(&text).await?;
        for reader in [
            &mut read,
            &mut two_channels,
            &mut own,
            &mut others_only,
            &mut by_handle,
        ] {
            if round > 0 {
                let gap = reader.expect_gap().await?;
                let outages = gap.outages();
                ensure(outages == 1, format!("a gap stands for {outages} outages"))?;
                ensure(
                    matches!(gap.missed(), Missed::AtLeast(_)),
                    "the gap claims to know all",
                )?;
            }
            reader.expect(&text).await?;
        }
        trial.publish(&a, &sport, format!("sport {round}")).await?;
        two_channels.expect(format!("sport {round}")).await?;
        if round > 0 {
            expected.push("gap".to_owned());
        }
        expected.push(format!("{text:?}"));
    }
    // Unread through all of it, in the same order.
    trial.publish(&a, &news, "end").await?;
    let mut got = texts(&unread.up_to("end").await?);
    for text in &mut got {
        if text.starts_with("gap") {
            *text = "gap".to_owned();
        }
    }
    ensure(
        got == expected,
        format!("unread, expected {expected:?}, got {got:?}"),
    )
}

async fn l6(trial: Trial) -> Outcome {
    let beat = HEARTBEAT_INTERVAL + trial.scaled(HEARTBEAT_TIMEOUT);
    let bounds = [
        (Fault::Kill, trial.scaled(NOTICE_BROKEN)),
        (Fault::Stop, trial.scaled(NOTICE_BROKEN)),
        (Fault::Freeze, beat + trial.scaled(GRACE)),
        // Not only the first time.
        (Fault::Freeze, beat + trial.scaled(GRACE)),
    ];
    let idle = trial.node_with(quick(&trial)).await?;
    let subscribed = trial.node_with(quick(&trial)).await?;
    let lazy = match trial.start(quick(&trial), Start::Lazy).await? {
        Ok(node) => node,
        Err(error) => return broken(format!("no lazy node: {}", chain(&error))),
    };
    trial.all_up(&[&lazy]).await?;
    let news = channel("news")?;
    let _reader = trial.subscribe(&subscribed, [&news]).await?;
    for (fault, bound) in bounds {
        trial.inject(fault).await?;
        let noticed = Instant::now() + bound;
        for (name, node) in [
            ("idle", &idle),
            ("subscribed", &subscribed),
            ("lazy", &lazy),
        ] {
            let mut watch = node.watch();
            let down = watch.wait_for(|state| !state.is_connected());
            if tokio::time::timeout_at(noticed, down).await.is_err() {
                return broken(format!(
                    "{fault}: the {name} node did not notice within {bound:?}"
                ));
            }
        }
        trial.heal().await?;
        trial.all_up(&[&idle, &subscribed, &lazy]).await?;
    }
    Ok(())
}

async fn l7(trial: Trial) -> Outcome {
    let a = trial.node_with(quick(&trial)).await?;
    let b = trial.node_with(quick(&trial)).await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    trial.publish(&a, &news, "before").await?;
    reader.expect("before").await?;
    trial.inject(Fault::Mute).await?;
    let bound = HEARTBEAT_INTERVAL + trial.scaled(HEARTBEAT_TIMEOUT) + trial.scaled(GRACE);
    let mut watch = b.watch();
    let down = watch.wait_for(|state| !state.is_connected());
    if timeout(bound, down).await.is_err() {
        return broken(format!("a mute broker was not noticed within {bound:?}"));
    }
    trial.all_down(&[&a]).await?;
    match a.publish(&news, "into the void".into()).await {
        Err(error) => expect_unavailable(Fault::Mute, &error)?,
        Ok(()) => return broken("a publish to a mute broker succeeded after it was noticed"),
    }
    trial.heal().await?;
    trial.all_up(&[&a, &b]).await?;
    trial.publish(&a, &news, "after").await?;
    reader.expect_gap().await?;
    reader.expect("after").await.map(drop)
}

async fn l8(trial: Trial) -> Outcome {
    let [a, b, c] = trial.nodes().await?;
    let capabilities = b.capabilities();
    match (capabilities.counts_loss, capabilities.replay) {
        (false, _) => return l8_undeclared(&trial, &a, &b).await,
        (true, true) => return l8_with_replay(&trial, &a, &b).await,
        (true, false) => must_promise(&trial, &b, Requirement::CountsLoss).await?,
    }
    let (news, sport) = (channel("news")?, channel("sport")?);
    let mut reader = trial.subscribe(&b, [&news, &sport]).await?;
    let mut late = trial.subscribe(&b, [&sport]).await?;
    for (node, channel) in [(&a, &news), (&a, &sport), (&c, &news)] {
        trial.publish(node, channel, "heard").await?;
        reader.expect("heard").await?;
    }
    trial.inject(Fault::Isolate(b.node_id())).await?;
    trial.all_down(&[&b]).await?;
    for (count, node, channel) in [(7, &a, &news), (3, &a, &sport), (5, &c, &news)] {
        for i in 0..count {
            trial.publish(node, channel, format!("missed {i}")).await?;
        }
    }
    trial.heal().await?;
    trial.all_up(&[&b]).await?;
    trial.publish(&a, &news, "again").await?;
    let gap = reader.expect_gap().await?;
    reader.expect("again").await?;
    let counted = |node: &Node| gap.missed_from(node.node_id());
    ensure(
        counted(&a) == Some(7),
        format!("of a on one channel, 7 missed, told {:?}", counted(&a)),
    )?;
    ensure(
        counted(&c).is_none(),
        "c was counted before it was heard again",
    )?;
    for (node, channel) in [(&a, &sport), (&c, &news)] {
        trial.publish(node, channel, "again").await?;
        reader.expect("again").await?;
    }
    ensure(
        counted(&a) == Some(10),
        format!("of a, 10 missed, told {:?}", counted(&a)),
    )?;
    ensure(
        counted(&c) == Some(5),
        format!("of c, 5 missed, told {:?}", counted(&c)),
    )?;
    ensure(
        gap.missed() == Missed::AtLeast(15),
        format!("15 missed, told {:?}", gap.missed()),
    )?;
    late.expect("heard").await?;
    let theirs = late.expect_gap().await?.missed_from(a.node_id());
    ensure(
        theirs == Some(3),
        format!("on one channel 3 missed, told {theirs:?}"),
    )?;

    // Nothing was published in this one, which is known as well once the publisher is heard.
    trial.inject(Fault::Isolate(b.node_id())).await?;
    trial.all_down(&[&b]).await?;
    trial.heal().await?;
    trial.all_up(&[&b]).await?;
    trial.publish(&a, &news, "once more").await?;
    let gap = reader.expect_gap().await?;
    reader.expect("once more").await?;
    let none = gap.missed_from(a.node_id());
    ensure(none == Some(0), format!("none missed, told {none:?}"))?;
    l8_in_two_outages(&trial, &a, &b, &news, &mut reader).await
}

/// What was missed in two outages, many of it sent at once, and nothing heard in between. Which of the two gaps counts
/// it is left to the backend.
async fn l8_in_two_outages(
    trial: &Trial,
    a: &Node,
    b: &Node,
    news: &Channel,
    reader: &mut Reader,
) -> Outcome {
    for count in [300, 10] {
        trial.inject(Fault::Isolate(b.node_id())).await?;
        trial.all_down(&[b]).await?;
        let publishes = (0..count).map(|i| trial.publish(a, news, format!("missed {i}")));
        for published in join_all(publishes).await {
            published?;
        }
        trial.heal().await?;
        trial.all_up(&[b]).await?;
    }
    trial.publish(a, news, "again").await?;
    let gaps = [reader.expect_gap().await?, reader.expect_gap().await?];
    reader.expect("again").await?;
    let told = gaps.each_ref().map(|gap| gap.missed_from(a.node_id()));
    let sum: u64 = told.iter().flatten().sum();
    ensure(
        sum == 310,
        format!("of a, 310 missed, told {told:?} in two outages"),
    )
}

/// What is replayed was not lost, and counts as none.
async fn l8_with_replay(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    must_promise(trial, b, Requirement::CountsLoss).await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    trial.publish(a, &news, "heard").await?;
    reader.expect("heard").await?;
    trial.inject(Fault::Isolate(b.node_id())).await?;
    trial.all_down(&[b]).await?;
    for i in 0..7 {
        trial.publish(a, &news, format!("missed {i}")).await?;
    }
    trial.heal().await?;
    trial.all_up(&[b]).await?;
    trial.publish(a, &news, "again").await?;
    let gap = reader.expect_gap().await?;
    reader
        .expect_all((0..7).map(|i| format!("missed {i}")))
        .await?;
    reader.expect("again").await?;
    let told = gap.missed_from(a.node_id());
    ensure(told == Some(0), format!("all was replayed, told {told:?}"))
}

/// Who does not count must not pretend to, of nobody and for nothing.
async fn l8_undeclared(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    let news = channel("news")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    trial.publish(a, &news, "heard").await?;
    reader.expect("heard").await?;
    trial.inject(Fault::Isolate(b.node_id())).await?;
    trial.all_down(&[b]).await?;
    for i in 0..7 {
        trial.publish(a, &news, format!("missed {i}")).await?;
    }
    trial.heal().await?;
    trial.all_up(&[b]).await?;
    trial.publish(a, &news, "again").await?;
    let gap = reader.expect_gap().await?;
    reader.up_to("again").await?;
    let told = gap.missed_from(a.node_id());
    ensure(
        told.is_none(),
        format!("counts losses, {told:?}, and does not declare it"),
    )?;
    let missed = gap.missed();
    ensure(
        matches!(missed, Missed::AtLeast(_)),
        format!("a gap of an outage claims {missed:?}, and counting is not declared"),
    )?;
    must_promise(trial, b, Requirement::CountsLoss).await
}

async fn l9(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let (news, later) = (channel("news")?, channel("later")?);
    let mut readers = Vec::new();
    for node in [&a, &b] {
        for _ in 0..3 {
            readers.push(trial.subscribe(node, [&news]).await?);
        }
    }
    let mut added = trial.subscribe(&b, []).await?;
    let handle = added.subscription.handle();
    let mut events = b.events();
    for round in 0..3 {
        trial.outage_and_back(&[&a, &b]).await?;
        trial.publish(&a, &news, format!("round {round}")).await?;
        for reader in &mut readers {
            reader.expect_gap().await?;
            reader.expect(format!("round {round}")).await?;
        }
    }
    if let Err(error) = handle.subscribe([later.clone()]).await {
        return broken(format!(
            "a handle from before does not work: {}",
            chain(&error)
        ));
    }
    trial.publish(&a, &later, "to the handle").await?;
    added.expect("to the handle").await?;
    // The other way round, too.
    readers[3].subscription.handle().unsubscribe([news.clone()]);
    trial.publish(&a, &news, "to those who stay").await?;
    readers[4].expect("to those who stay").await?;
    let left = &mut readers[3];
    let back = left.subscription.handle().subscribe([later.clone()]).await;
    if let Err(error) = back {
        return broken(format!(
            "a handle that has left does not work: {}",
            chain(&error)
        ));
    }
    trial.publish(&a, &later, "end").await?;
    let got = texts(&left.up_to("end").await?);
    ensure(
        got.is_empty(),
        format!("delivered after an outage, and left before: {got:?}"),
    )?;
    if let Err(error) = b.health().await {
        return broken(format!("health fails after the outage: {}", chain(&error)));
    }
    let told = std::iter::from_fn(|| events.try_recv().ok()).count();
    ensure(told >= 6, format!("three outages made only {told} events"))
}
