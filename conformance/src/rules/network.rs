//! S9, L11, R10 and R11: what a network does to requests that are on their way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use backplane_core::{
    Channel, ConnectionState, Delivery, Event, Events, NodeOptions, Subscribe, SubscribeError,
};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::loss::{Arrived, GRACE, HEARTBEAT_INTERVAL, all_truly, quick};
use super::reconnection::generation;
use super::storm::{AfterFailure, Storm, Told};
use crate::harness::{Cuts, Fault, Start};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, show, texts};
use crate::verdict::{Outcome, broken, inconclusive};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "S9",
        "a subscribe whose connection breaks on its way is told in time, and truly",
        [CutInSubscribe],
        s9
    ),
    rule!(
        "L11",
        "a publish whose connection breaks on its way is told in time, and truly",
        [CutInPublish],
        l11
    ),
    rule!(
        "R10",
        "a broker that refuses or ignores new connections costs no more than those",
        [RefuseNew, Unanswered],
        r10
    ),
    rule!(
        "R11",
        "a slow way is not an outage, and loses and reorders nothing",
        [Delay],
        r11
    ),
];

/// How long a request may wait for its answer, and with it the caller.
const PATIENCE: Duration = Duration::from_secs(2);

/// A heartbeat that takes no cut that is meant for a message.
const NO_HEARTBEAT: Duration = Duration::from_secs(3600);

/// A cut that waits for a request of a node.
pub(super) struct ArmedCut {
    node: Node,
    generation: u64,
    before: Cuts,
}

impl ArmedCut {
    pub(super) async fn on(trial: &Trial, node: &Node, fault: Fault) -> Outcome<Self> {
        let armed = Self {
            node: Arc::clone(node),
            generation: generation(node),
            before: cuts(trial),
        };
        trial.inject(fault).await?;
        Ok(armed)
    }

    /// Waits until it has happened, and the node is back.
    pub(super) async fn is_over(&self, trial: &Trial) -> Outcome {
        if cuts(trial).total() == self.before.total() {
            return inconclusive("the armed cut did not happen");
        }
        back_since(trial, &self.node, self.generation).await
    }
}

fn cuts(trial: &Trial) -> Cuts {
    let faults = trial.harness().faults();
    faults.map(|faults| faults.cuts()).unwrap_or_default()
}

/// Waits until a node is attached, and not as it was.
async fn back_since(trial: &Trial, node: &Node, before: u64) -> Outcome {
    let mut watch = node.watch();
    let again = watch.wait_for(
        |state| matches!(state, ConnectionState::Connected { generation } if *generation > before),
    );
    match trial
        .in_time("the node does not notice and recover", again)
        .await?
    {
        Some(_) => Ok(()),
        None => broken("the node closed itself"),
    }
}

/// Waits for something that must end in a time of its own.
async fn timely<T>(
    trial: &Trial,
    bound: Duration,
    what: &str,
    work: impl Future<Output = T>,
) -> Outcome<T> {
    match timeout(bound + trial.scaled(GRACE), work).await {
        Ok(done) => Ok(done),
        Err(_) => broken(format!("{what} did not end within {bound:?}")),
    }
}

// --- S9

/// How many subscribes are cut one by one: new ones, and channels added to an old one, each at both moments.
const ALONE: usize = 8;

async fn s9(trial: Trial) -> Outcome {
    let a = trial.node().await?;
    let patience = trial.scaled(PATIENCE);
    let b = trial
        .node_with(trial.options().subscribe_timeout(patience))
        .await?;
    let always = channel("always")?;
    let mut kept = trial.subscribe(&b, [&always]).await?;
    let handle = kept.subscription.handle();
    let what = "a subscribe whose connection broke";
    for round in 0..ALONE {
        let news = channel(format!("news {round}"))?;
        let cut = ArmedCut::on(&trial, &b, Fault::CutInSubscribe(b.node_id())).await?;
        if round / 2 % 2 == 0 {
            let subscribing = b.subscribe(Subscribe::to([news.clone()]));
            match timely(&trial, patience, what, subscribing).await? {
                Ok(subscription) => {
                    let mut reader = trial.reader(subscription);
                    in_force(&trial, &cut, &a, &mut reader, &news).await?;
                }
                Err(error) => not_closed(&error)?,
            }
        } else {
            let adding = handle.subscribe([news.clone()]);
            match timely(&trial, patience, what, adding).await? {
                Ok(()) => {
                    in_force(&trial, &cut, &a, &mut kept, &news).await?;
                    handle.unsubscribe([news.clone()]);
                }
                Err(error) => not_closed(&error)?,
            }
        }
        cut.is_over(&trial).await?;
        nothing_left(&trial, &a, &b, &mut kept, &[&always, &news]).await?;
        // What was cut can be had now.
        let mut again = trial.subscribe(&b, [&news]).await?;
        trial.publish(&a, &news, "again").await?;
        again.expect("again").await?;
        drop(again);
    }
    for round in 0..2 {
        many_at_once(&trial, &a, &b, round).await?;
        nothing_left(&trial, &a, &b, &mut kept, &[&always]).await?;
    }
    Ok(())
}

/// A cut in the middle of many subscribes: to each its own truth.
async fn many_at_once(trial: &Trial, a: &Node, b: &Node, round: usize) -> Outcome {
    let patience = trial.scaled(PATIENCE);
    let rooms = (0..20)
        .map(|i| channel(format!("room {round}.{i}")))
        .collect::<Outcome<Vec<_>>>()?;
    let cut = ArmedCut::on(trial, b, Fault::CutInSubscribe(b.node_id())).await?;
    let all = rooms
        .iter()
        .map(|room| b.subscribe(Subscribe::to([room.clone()])));
    let what = "one of many subscribes whose connection broke";
    // Those that come second may wait for those that came first.
    let told = timely(trial, patience * 2, what, join_all(all)).await?;
    cut.is_over(trial).await?;
    for (room, told) in rooms.iter().zip(told) {
        match told {
            Ok(subscription) => {
                let mut reader = trial.reader(subscription);
                in_force(trial, &cut, a, &mut reader, room).await?;
            }
            Err(error) => not_closed(&error)?,
        }
    }
    Ok(())
}

fn not_closed(error: &SubscribeError) -> Outcome {
    let closed = error.kind() == backplane_core::SubscribeErrorKind::Closed;
    ensure(
        !closed,
        "a subscribe that was cut says that the node is closed",
    )
}

/// A subscribe returned Ok: nothing is lost in silence from then on, also across the reconnection.
async fn in_force(
    trial: &Trial,
    cut: &ArmedCut,
    a: &Node,
    reader: &mut Reader,
    news: &Channel,
) -> Outcome {
    trial.publish(a, news, "at once").await?;
    cut.is_over(trial).await?;
    if let Some(observer) = trial.harness().observer() {
        let seen = observer.subscriptions(&trial.prefix(), news).await;
        let seen = seen.or_else(inconclusive)?;
        ensure(
            seen == 1,
            format!("a subscribe that was told Ok has {seen} subscriptions on the broker"),
        )?;
    }
    for text in ["later", "end"] {
        trial.publish(a, news, text).await?;
    }
    let got = reader.up_to("end").await?;
    let gaps = got.iter().filter(|d| matches!(d, Delivery::Gap(_))).count();
    let times = |text: &str| {
        texts(&got)
            .iter()
            .filter(|t| **t == show(text.as_bytes()))
            .count()
    };
    let told_of = times("at once") == 1 || times("at once") == 0 && gaps > 0;
    ensure(
        told_of && times("later") == 1 && gaps <= 1,
        format!("a subscribe was told Ok, and then got {:?}", texts(&got)),
    )
}

/// Only these channels are left, of which the kept subscription has the first. The others were left or
/// failed.
async fn nothing_left(
    trial: &Trial,
    a: &Node,
    b: &Node,
    kept: &mut Reader,
    channels: &[&Channel],
) -> Outcome {
    let expected = "1 subscription of 1 channel after a subscribe that was cut";
    trial
        .until(expected, || async {
            let stats = b.stats();
            let right = stats.subscriptions == 1 && stats.channels == 1;
            Ok((!right).then(|| format!("{} of {}", stats.subscriptions, stats.channels)))
        })
        .await?;
    let (always, left) = (channels[0], &channels[1..]);
    for news in left {
        if trial.harness().observer().is_some() {
            trial.until_subscriptions(&trial.prefix(), news, 0).await?;
        }
        trial.publish(a, news, "to nobody").await?;
    }
    trial.publish(a, always, "end").await?;
    let got = texts(&kept.up_to("end").await?);
    ensure(
        !got.iter().any(|text| text.contains("nobody")),
        format!("a subscribe that was cut, and told as failed or left since, delivers: {got:?}"),
    )
}

// --- L11

/// How many tasks publish at once, so that a frame has many messages.
const STORM: usize = 24;

async fn l11(trial: Trial) -> Outcome {
    let bound = trial.scaled(PATIENCE);
    let options = trial.options().publish_timeout(bound);
    let a = trial
        .node_with(options.heartbeat_interval(NO_HEARTBEAT))
        .await?;
    let b = trial.node().await?;
    let news = channel("news")?;
    let roomy = Subscribe::to([news.clone()]).capacity(1 << 22);
    let mut reader = trial.subscribe_to(&b, roomy).await?;
    for round in 0..ALONE {
        let cut = ArmedCut::on(&trial, &a, Fault::CutInPublish(a.node_id())).await?;
        let payload = format!("alone {round}");
        let publishing = a.publish(&news, payload.clone().into());
        let what = "a publish whose connection broke";
        let outcome = timely(&trial, bound, what, publishing).await?;
        cut.is_over(&trial).await?;
        let told = vec![(payload, outcome)];
        arrived_as_told(&trial, [&a, &b], &news, &mut reader, told).await?;
    }
    for round in 0..2 {
        if trial.can(Fault::Delay) {
            // Frames fill while one is on its way.
            trial.inject(Fault::Delay).await?;
        }
        let told = storm(&trial, &a, &news, round).await?;
        trial.heal().await?;
        trial.all_up(&[&a, &b]).await?;
        arrived_as_told(&trial, [&a, &b], &news, &mut reader, told).await?;
    }
    Ok(())
}

/// What the publisher was told must agree with what arrives before its next message, and before one of somebody
/// else: a lie may cost it its own next one.
async fn arrived_as_told(
    trial: &Trial,
    [a, b]: [&Node; 2],
    news: &Channel,
    reader: &mut Reader,
    mut told: Told,
) -> Outcome {
    trial.publish(a, news, "next").await?;
    told.push(("next".to_owned(), Ok(())));
    trial.publish(b, news, "end").await?;
    all_truly(&told, &Arrived::of(&reader.up_to("end").await?))
}

/// Many publish, the connection breaks in the middle of a frame, and each is told something.
async fn storm(trial: &Trial, a: &Node, news: &Channel, round: usize) -> Outcome<Told> {
    let name = format!("storm {round}");
    let storm = Storm::start(STORM, a, news, &name, AfterFailure::Stop);
    storm.has_told(trial, 2 * STORM).await?;
    let cut = ArmedCut::on(trial, a, Fault::CutInPublish(a.node_id())).await?;
    back_since(trial, a, cut.generation).await?;
    let what = "one of many publishes whose connection broke";
    // Those that wait for their turn have as long again.
    let within = trial.scaled(PATIENCE) * 2;
    let told = timely(trial, within, what, storm.end()).await??;
    cut.is_over(trial).await?;
    Ok(told)
}

// --- R10

/// How long one try to attach may take.
const TRY: Duration = Duration::from_millis(500);

async fn r10(trial: Trial) -> Outcome {
    let options = || trial.options().connect_timeout(trial.scaled(TRY));
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;

    let before = [generation(&a), generation(&b)];
    trial.inject(Fault::RefuseNew).await?;
    eager_fails(&trial, Fault::RefuseNew).await?;
    let late = match trial.start(options(), Start::Lazy).await? {
        Ok(node) => node,
        Err(error) => {
            return broken(format!("the lazy constructor failed: {}", chain(&error)));
        }
    };
    let mut events = late.events();
    for attempt in 0..3 {
        fails_to_attach(&trial, Fault::RefuseNew, &mut events).await?;
        for i in 0..10 {
            let text = format!("{attempt}.{i}");
            trial.publish(&a, &news, text.clone()).await?;
            reader.expect(&text).await?;
        }
        for node in [&a, &b] {
            if let Err(error) = node.health().await {
                return broken(format!(
                    "a connected node is not healthy: {}",
                    chain(&error)
                ));
            }
        }
    }
    trial.heal().await?;
    trial.all_up(&[&late]).await?;
    let what = "a node that has attached does not tell it as an event";
    trial.in_time(what, attaches(&mut events)).await??;
    let after = [generation(&a), generation(&b)];
    ensure(
        before == after,
        format!("connected nodes were attached {before:?} times, and then {after:?}"),
    )?;
    let mut late_reader = trial.subscribe(&late, [&news]).await?;
    trial.publish(&a, &news, "refused no more").await?;
    for reader in [&mut reader, &mut late_reader] {
        reader.expect("refused no more").await?;
    }

    trial.inject(Fault::Unanswered).await?;
    trial.all_down(&[&a, &b, &late]).await?;
    eager_fails(&trial, Fault::Unanswered).await?;
    for _ in 0..2 {
        fails_to_attach(&trial, Fault::Unanswered, &mut events).await?;
    }
    trial.heal().await?;
    trial.all_up(&[&a, &b, &late]).await?;
    trial.publish(&a, &news, "answered again").await?;
    for reader in [&mut reader, &mut late_reader] {
        reader.expect_gap().await?;
        reader.expect("answered again").await?;
    }
    Ok(())
}

async fn eager_fails(trial: &Trial, fault: Fault) -> Outcome {
    let bound = trial.scaled(TRY);
    let options = trial.options().connect_timeout(bound);
    let what = format!("{fault}: the eager constructor");
    let starting = trial.start(options, Start::Eager);
    match timely(trial, bound, &what, starting).await?? {
        Ok(node) => broken(format!("{what} made {node:?}")),
        Err(error) => {
            let (text, endpoint) = (chain(&error), error.endpoint());
            ensure(
                !endpoint.is_empty() && text.contains(endpoint),
                format!("{what} does not name the address: {text}"),
            )
        }
    }
}

/// Reads the events up to the one that tells that the node is attached.
async fn attaches(events: &mut Events) -> Outcome {
    loop {
        match events.recv().await {
            Some(Event::State(ConnectionState::Connected { .. })) => return Ok(()),
            Some(_) => {}
            None => return broken("the events of a node that has attached ended"),
        }
    }
}

/// Waits for one more try to fail, which takes a try and a pause at most.
async fn fails_to_attach(trial: &Trial, fault: Fault, events: &mut Events) -> Outcome {
    let bound = trial.scaled(TRY) + trial.options().backoff_max;
    let failing = async {
        loop {
            match events.recv().await {
                Some(Event::State(ConnectionState::Disconnected { .. })) => return Ok(()),
                Some(Event::State(ConnectionState::Connected { .. })) => {
                    return broken(format!("{fault}: a node claims to have attached"));
                }
                Some(_) => {}
                None => return broken(format!("{fault}: the events ended")),
            }
        }
    };
    let what = format!("{fault}: a try to attach");
    timely(trial, bound, &what, failing).await?
}

// --- R11

/// How many messages each node starts at once, again and again.
const AT_ONCE: usize = 20;

/// A quick heartbeat with as much patience as a busy machine may need.
fn patient(trial: &Trial) -> NodeOptions {
    let patience = trial.scaled(Duration::from_secs(5));
    quick(trial)
        .heartbeat_timeout(patience)
        .publish_timeout(patience)
        .connect_timeout(patience)
}

async fn r11(trial: Trial) -> Outcome {
    let a = trial.node_with(patient(&trial)).await?;
    let b = trial.node_with(patient(&trial)).await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    let mut slow = 0;
    for fault in [Fault::Delay, Fault::Trickle] {
        if !trial.can(fault) {
            continue;
        }
        slow += 1;
        let before = [generation(&a), generation(&b)];
        trial.inject(fault).await?;
        let went = slowly(&trial, &a, &b, &mut reader, &news).await;
        for (node, before) in [&a, &b].into_iter().zip(before) {
            let state = node.state();
            ensure(
                generation(node) == before && node.stats().reconnects == 0,
                format!("{fault} is told as an outage: {state}"),
            )?;
        }
        went?;
        trial.heal().await?;
        trial.publish(&a, &news, "quick").await?;
        reader.expect("quick").await?;
    }
    ensure(slow > 0, "no way was slow")
}

/// Several heartbeats long, all that is published arrives, once and in order.
async fn slowly(trial: &Trial, a: &Node, b: &Node, reader: &mut Reader, news: &Channel) -> Outcome {
    let begin = Instant::now();
    let mut round = 0;
    while round < 3 || begin.elapsed() < 5 * HEARTBEAT_INTERVAL {
        let texts = ["a", "b"].map(|name| {
            let text = |i| format!("{name} {round}.{i} {}", "\r\n>0$-1*".repeat(i % 5));
            (0..AT_ONCE).map(text).collect::<VecDeque<_>>()
        });
        let [of_a, of_b] = [(a, &texts[0]), (b, &texts[1])].map(|(node, texts)| {
            join_all(texts.iter().map(|t| node.publish(news, t.clone().into())))
        });
        let (of_a, of_b) = trial
            .in_time("a publish on a slow way does not end", async {
                tokio::join!(of_a, of_b)
            })
            .await?;
        for told in of_a.into_iter().chain(of_b) {
            if let Err(error) = told {
                return broken(format!("a publish on a slow way failed: {}", chain(&error)));
            }
        }
        arrive(reader, texts).await?;
        round += 1;
    }
    // What begins on a slow way works as well.
    let late = trial.node_with(patient(trial)).await?;
    let mut late_reader = trial.subscribe(&late, [news]).await?;
    trial.publish(&late, news, "late").await?;
    late_reader.expect("late").await?;
    reader.expect("late").await?;
    late.close().await;
    Ok(())
}

/// The next deliveries are these messages, those of each publisher in their order.
async fn arrive(reader: &mut Reader, mut expected: [VecDeque<String>; 2]) -> Outcome {
    while expected.iter().any(|texts| !texts.is_empty()) {
        let message = match reader.next("a message on a slow way").await? {
            Delivery::Message(message) => message,
            Delivery::Gap(gap) => return broken(format!("a slow way made a gap: {gap}")),
        };
        let text = String::from_utf8_lossy(message.payload()).into_owned();
        let next = expected
            .iter_mut()
            .find(|texts| texts.front() == Some(&text));
        let Some(texts) = next else {
            let fronts: Vec<_> = expected.iter().filter_map(VecDeque::front).collect();
            return broken(format!(
                "on a slow way, expected one of {fronts:?}, got {text:?}"
            ));
        };
        texts.pop_front();
    }
    Ok(())
}
