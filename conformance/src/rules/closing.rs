//! C: closing and cancelling.

use std::sync::Arc;
use std::time::Duration;

use backplane_core::{
    Channel, ConnectionState, Event, Events, HealthErrorKind, Missed, NodeOptions, NotSent,
    PublishErrorKind, Stats, Subscribe, SubscribeErrorKind,
};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::harness::Fault;
use crate::rule::{Rule, rule};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "C1",
        "close ends every subscription after what was received, and is idempotent",
        [],
        c1
    ),
    rule!("C2", "after close or drop nothing is left", [Observer], c2),
    rule!(
        "C3",
        "two nodes in one process are as independent as two processes",
        [],
        c3
    ),
];

async fn c1(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut readers = vec![
        trial.subscribe(&b, [&news]).await?,
        trial.subscribe(&b, [&news]).await?,
    ];
    let mut witness = trial.subscribe(&b, [&news]).await?;
    let handle = readers[0].subscription.handle();
    let mut events = b.events();
    for i in 0..20 {
        trial.publish(&a, &news, i.to_string()).await?;
    }
    witness.expect_all((0..20).map(|i| i.to_string())).await?;
    let twice = async { tokio::join!(b.close(), b.close()) };
    trial.in_time("close does not return", twice).await?;
    trial
        .in_time("a second close does not return", b.close())
        .await?;
    for reader in &mut readers {
        reader.expect_all((0..20).map(|i| i.to_string())).await?;
        reader.expect_end().await?;
    }
    witness.expect_end().await?;

    let state = b.state();
    ensure(
        state == ConnectionState::Closed,
        format!("the state after close is: {state}"),
    )?;
    let published = b.publish(&news, "late".into());
    let kind = trial
        .in_time("publish does not return", published)
        .await?
        .map_err(|e| e.kind());
    let expected = Err(PublishErrorKind::NotSent(NotSent::Closed));
    ensure(
        kind == expected,
        format!("publish after close: expected Closed, got {kind:?}"),
    )?;
    let kind = b
        .subscribe(Subscribe::to([news.clone()]))
        .await
        .map(drop)
        .map_err(|e| e.kind());
    let expected = Err(SubscribeErrorKind::Closed);
    ensure(
        kind == expected,
        format!("subscribe after close: expected Closed, got {kind:?}"),
    )?;
    let kind = handle
        .subscribe([channel("more")?])
        .await
        .map_err(|e| e.kind());
    ensure(
        kind == expected,
        format!("a handle after close: expected Closed, got {kind:?}"),
    )?;
    let kind = b.health().await.map_err(|e| e.kind());
    let expected = Err(HealthErrorKind::Closed);
    ensure(
        kind == expected,
        format!("health after close: expected Closed, got {kind:?}"),
    )?;
    let mut last = None;
    while let Some(event) = trial
        .in_time("the events do not end", events.recv())
        .await?
    {
        last = Some(event);
    }
    let expected = Some(Event::State(ConnectionState::Closed));
    ensure(last == expected, format!("the last event is {last:?}"))?;

    // The other node is not affected.
    let mut other = trial.subscribe(&a, [&news]).await?;
    trial.publish(&a, &news, "on").await?;
    other.expect("on").await.map(drop)
}

async fn c2(trial: Trial) -> Outcome {
    let observed = trial.node().await?;
    let news = channel("news")?;
    let connections = trial.connections().await?;
    let tasks = Handle::current().metrics().num_alive_tasks();
    for how in ["closed", "dropped", "dropped with its subscriptions alive"] {
        let node = trial.node().await?;
        let mut reader = trial.subscribe(&node, [&news]).await?;
        let deferred = Subscribe::to([channel("more")?]).deferred();
        let _second = trial.subscribe_to(&node, deferred).await?;
        trial.publish(&observed, &news, "hello").await?;
        reader.expect("hello").await?;
        trial.until_subscriptions(&trial.prefix(), &news, 1).await?;
        trial.forget(&node);
        match how {
            "closed" => {
                trial.in_time("close does not return", node.close()).await?;
                // A close that has returned has ended its tasks; only what the broker has yet to notice takes time.
                none_left(&trial, &node, tasks).await?;
                drop(node);
            }
            "dropped" => {
                drop(reader);
                alone(node)?;
            }
            _ => {
                alone(node)?;
                reader.expect_end().await?;
            }
        }
        trial.until_subscriptions(&trial.prefix(), &news, 0).await?;
        trial.until_connections(connections).await?;
        trial
            .until(&format!("no task of a node that was {how}"), || async {
                let alive = Handle::current().metrics().num_alive_tasks();
                Ok((alive > tasks).then(|| format!("{} more", alive - tasks)))
            })
            .await?;
    }
    Ok(())
}

async fn none_left(trial: &Trial, node: &Node, tasks: usize) -> Outcome {
    // The runtime needs a moment to forget a task that has ended.
    let bound = trial.scaled(Duration::from_millis(250));
    let deadline = Instant::now() + bound;
    loop {
        let alive = Handle::current().metrics().num_alive_tasks();
        if alive <= tasks {
            break;
        }
        ensure(
            Instant::now() < deadline,
            format!(
                "{} tasks are left {bound:?} after close has returned",
                alive - tasks
            ),
        )?;
        tokio::task::yield_now().await;
    }
    let stats = node.stats();
    let left = (stats.subscriptions, stats.channels);
    ensure(
        left == (0, 0),
        format!("a closed node counts {left:?} subscriptions and channels"),
    )
}

/// Drops a node that nobody else holds.
fn alone(node: Node) -> Outcome {
    match Arc::strong_count(&node) {
        1 => {
            drop(node);
            Ok(())
        }
        held => broken(format!("the node is held {held} times")),
    }
}

async fn c3(trial: Trial) -> Outcome {
    let trial = trial.with_reachable_nodes();
    let (news, own) = (channel("news")?, channel("own")?);
    let foreign = NodeOptions::new(trial.prefix_like(|prefix| format!("{prefix}-2"))?);
    let a = trial.node().await?;
    let small = trial.options().max_payload(100).queue_capacity(4);
    let small = trial.node_with(small).await?;
    let c = trial.node_with(foreign.clone()).await?;
    ensure(
        a.node_id() != small.node_id() && a.node_id() != c.node_id(),
        format!("two nodes have the same id, {}", a.node_id()),
    )?;
    own_options(&trial, &a, &small).await?;

    let mut bystanders = [
        Bystander::new(&trial, a, &news).await?,
        Bystander::new(&trial, c, &news).await?,
    ];
    let mut fates = vec!["closed", "dropped", "unsubscribed"];
    if trial.can(Fault::Isolate(small.node_id())) {
        fates.push("cut off");
    }
    for fate in fates {
        for options in [trial.options(), foreign.clone()] {
            let victim = trial.node_with(options).await?;
            let mut reader = trial.subscribe(&victim, [&news, &own]).await?;
            trial.publish(&victim, &own, "mine").await?;
            reader.expect("mine").await?;
            let what = format!("another node was {fate}");
            match fate {
                "closed" => {
                    trial
                        .in_time("close does not return", victim.close())
                        .await?;
                }
                "dropped" => {
                    drop(reader);
                    trial.forget(&victim);
                    alone(victim)?;
                }
                "unsubscribed" => drop(reader),
                _ => {
                    trial.inject(Fault::Isolate(victim.node_id())).await?;
                    trial.all_down(&[&victim]).await?;
                    for bystander in &mut bystanders {
                        bystander.is_untouched(&trial, &news, &what).await?;
                    }
                    trial.heal().await?;
                    trial.all_up(&[&victim]).await?;
                    // What it missed of the bystander may be behind the gap.
                    reader.expect_gap().await?;
                }
            }
            for bystander in &mut bystanders {
                bystander.is_untouched(&trial, &news, &what).await?;
            }
        }
    }
    Ok(())
}

/// The options of a node are its own.
async fn own_options(trial: &Trial, large: &Node, small: &Node) -> Outcome {
    let sized = channel("sized")?;
    let limits = [large, small].map(|node| node.capabilities().max_payload);
    ensure(
        limits[0] > 100 && limits[1] == 100,
        format!("the largest payloads are {limits:?}, and 100 was asked for the second node only"),
    )?;
    let mut readers = [
        trial.subscribe(large, [&sized]).await?,
        trial.subscribe(small, [&sized]).await?,
    ];
    let big = small.publish(&sized, vec![0; 101].into());
    let kind = trial
        .in_time("publish does not return", big)
        .await?
        .map_err(|error| error.kind());
    let too_large = PublishErrorKind::NotSent(NotSent::TooLarge {
        size: 101,
        limit: 100,
    });
    ensure(
        kind == Err(too_large),
        format!("beyond the payload limit of its node: expected TooLarge, got {kind:?}"),
    )?;
    // What the other one sends is bound by the other one's limit.
    trial.publish(large, &sized, vec![b'x'; 101]).await?;
    for i in 1..10 {
        trial.publish(large, &sized, i.to_string()).await?;
    }
    let [large_reader, small_reader] = &mut readers;
    large_reader.expect(vec![b'x'; 101]).await?;
    large_reader
        .expect_all((1..10).map(|i| i.to_string()))
        .await?;
    small_reader.expect(vec![b'x'; 101]).await?;
    small_reader.expect_all(["1", "2", "3"]).await?;
    let missed = small_reader.expect_gap().await?.missed();
    ensure(
        missed == Missed::Exactly(6),
        format!("a queue for 4 of 10 messages missed {missed:?}"),
    )
}

/// A node to which nothing happens, whatever happens to others.
struct Bystander {
    node: Node,
    reader: Reader,
    events: Events,
    state: ConnectionState,
    stats: Stats,
    sent: u64,
}

impl Bystander {
    async fn new(trial: &Trial, node: Node, news: &Channel) -> Outcome<Self> {
        let reader = trial.subscribe(&node, [news]).await?;
        Ok(Self {
            reader,
            events: node.events(),
            state: node.state(),
            stats: node.stats(),
            sent: 0,
            node,
        })
    }

    /// Its messages flow, and all that it tells of itself is as before.
    async fn is_untouched(&mut self, trial: &Trial, news: &Channel, after: &str) -> Outcome {
        let text = format!("{:?} {}", self.node.node_id(), self.sent);
        let published = self.node.publish(news, text.clone().into());
        let what = format!("after {after}, publish does not return");
        if let Err(error) = trial.in_time(&what, published).await? {
            return broken(format!("after {after}, publish fails: {}", chain(&error)));
        }
        self.reader.expect(&text).await?;
        self.sent += 1;
        self.stats.published += 1;
        self.stats.delivered += 1;
        let state = self.node.state();
        ensure(
            state == self.state,
            format!(
                "after {after}, the state is {state}, and it was {}",
                self.state
            ),
        )?;
        let event = self.events.try_recv().ok();
        ensure(
            event.is_none(),
            format!("after {after}, this is told: {event:?}"),
        )?;
        let health = self.node.health();
        let what = format!("after {after}, health does not return");
        if let Err(error) = trial.in_time(&what, health).await? {
            return broken(format!("after {after}, health fails: {}", chain(&error)));
        }
        // A delivery may be counted a little after it can be read.
        let what = format!("after {after}, the counters {:?}", self.stats);
        trial
            .until(&what, || async {
                let seen = self.node.stats();
                Ok((seen != self.stats).then(|| format!("{seen:?}")))
            })
            .await
    }
}
