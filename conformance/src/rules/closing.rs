//! C: closing and cancelling.

use std::sync::Arc;
use std::time::Duration;

use backplane_core::{
    ConnectionState, Event, HealthErrorKind, NotSent, PublishErrorKind, Subscribe,
    SubscribeErrorKind,
};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, channel, ensure};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "C1",
        "close ends every subscription after what was received, and is idempotent",
        [],
        c1
    ),
    rule!("C2", "after close or drop nothing is left", [Observer], c2),
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
