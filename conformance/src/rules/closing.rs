//! C: closing and cancelling.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backplane_core::{
    ConnectionState, Event, HealthErrorKind, NotSent, PublishErrorKind, Subscribe,
    SubscribeErrorKind,
};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::harness::{Fault, Start};
use crate::rule::{Rule, rule};
use crate::rules::storm::pause;
use crate::trial::{Node, Trial, chain, channel, ensure, show, texts};
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
    let mut watch = b.watch();
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
    let closed = watch.wait_for(|state| *state == ConnectionState::Closed);
    trial
        .in_time("the watch does not say that the node is closed", closed)
        .await?;
    publishes_no_more(&trial, &b, "after close").await?;
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
    other.expect("on").await?;
    drop(other);
    under_way(&trial, &a, false).await?;
    if trial.can(Fault::Kill) {
        closed_in_an_outage(&trial, &a).await?;
    }
    match trial.can(Fault::Freeze) {
        true => under_way(&trial, &a, true).await,
        false => Ok(()),
    }
}

async fn publishes_no_more(trial: &Trial, node: &Node, when: &str) -> Outcome {
    let news = channel("news")?;
    let published = node.publish(&news, "late".into());
    let kind = trial
        .in_time("publish does not return", published)
        .await?
        .map_err(|e| e.kind());
    let expected = Err(PublishErrorKind::NotSent(NotSent::Closed));
    ensure(
        kind == expected,
        format!("publish {when}: expected Closed, got {kind:?}"),
    )
}

/// A node that is away is closed like any other.
async fn closed_in_an_outage(trial: &Trial, other: &Node) -> Outcome {
    let node = trial.node().await?;
    let mut reader = trial.subscribe(&node, [&channel("news")?]).await?;
    trial.outage().await?;
    trial.all_down(&[&node, other]).await?;
    trial.in_time("close does not return", node.close()).await?;
    let rest = trial.in_time("the stream does not end", async {
        while reader.subscription.recv().await.is_some() {}
    });
    rest.await?;
    publishes_no_more(trial, &node, "after close in an outage").await?;
    let state = node.state();
    ensure(
        state == ConnectionState::Closed,
        format!("the state after close in an outage is: {state}"),
    )?;
    trial.heal().await?;
    trial.all_up(&[other]).await?;
    publishes_no_more(trial, &node, "after close and the outage").await
}

/// What is under way when a node is closed ends, also on a broker that does not answer, and is told truly.
async fn under_way(trial: &Trial, a: &Node, frozen: bool) -> Outcome {
    // Not by a time-out of its own.
    let never = trial.within() * 10;
    let options = trial
        .options()
        .publish_timeout(never)
        .subscribe_timeout(never)
        .heartbeat_interval(never)
        .heartbeat_timeout(never);
    let node = trial.node_with(options.clone()).await?;
    let listener = trial.node_with(options).await?;
    let (news, more) = (channel("under way")?, channel("more")?);
    let request = Subscribe::to([news.clone()]).capacity(100_000);
    let mut witness = trial.subscribe_to(&listener, request).await?;
    let mut reader = trial.subscribe(&node, [&more]).await?;
    if frozen {
        trial.inject(Fault::Freeze).await?;
    }
    let accepted = Mutex::new(Vec::new());
    let publish = async |caller: usize| {
        for i in 0_usize.. {
            let text = format!("{caller}.{i}");
            match node.publish(&news, text.clone().into()).await {
                Ok(()) => lock(&accepted).push(text),
                Err(error) if error.kind() == PublishErrorKind::NotSent(NotSent::Closed) => break,
                // It was under way when the node was closed.
                Err(_) => {}
            }
            pause(i).await;
        }
        Ok(())
    };
    let subscribe = async {
        loop {
            match node.subscribe(Subscribe::to([news.clone()])).await {
                Err(error) if error.kind() == SubscribeErrorKind::Closed => break Ok(()),
                Err(_) => {}
                Ok(subscription) => drop(subscription),
            }
            yield_now().await;
        }
    };
    let health = async {
        while node
            .health()
            .await
            .err()
            .is_none_or(|error| error.kind() != HealthErrorKind::Closed)
        {
            yield_now().await;
        }
        Ok(())
    };
    let read = async {
        match reader.subscription.recv().await {
            None => Ok(()),
            Some(delivery) => broken(format!("nothing was sent, and it got {delivery:?}")),
        }
    };
    let close = async {
        // Everything has begun.
        for _ in 0..10 {
            yield_now().await;
        }
        if !frozen {
            trial
                .until("some publishes before the close", || async {
                    let seen = lock(&accepted).len();
                    Ok((seen < 100).then(|| seen.to_string()))
                })
                .await?;
        }
        trial.in_time("close does not return", node.close()).await
    };
    let all = async {
        tokio::try_join!(
            publish(0),
            publish(1),
            publish(2),
            subscribe,
            health,
            read,
            close
        )
    };
    // The first half of the time is for close itself.
    match timeout(2 * trial.within(), all).await {
        Ok(done) => drop(done?),
        Err(_) => {
            return broken("a call that was under way when the node was closed does not end");
        }
    }
    if frozen {
        trial.heal().await?;
        trial.all_settled(&[a, &listener]).await?;
    }

    trial.publish(a, &news, "end").await?;
    let arrived = texts(&witness.up_to("end").await?);
    let mut times = HashMap::new();
    for text in &arrived {
        *times.entry(text.as_str()).or_insert(0) += 1;
    }
    for text in lock(&accepted).iter() {
        let times = times.get(show(text.as_bytes()).as_str()).copied();
        ensure(
            times == Some(1),
            format!("message {text} was accepted before the close, and arrived {times:?} times"),
        )?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        no_more_tasks(&trial, tasks, how).await?;
    }
    if !trial.can(Fault::Kill) {
        return Ok(());
    }
    // A node that tries to attach is given up as well.
    for how in [
        "closed in an outage",
        "dropped in an outage",
        "dropped before it was attached",
    ] {
        let mut nodes = vec![trial.node().await?];
        let reader = trial.subscribe(&nodes[0], [&news]).await?;
        trial.outage().await?;
        trial.all_down(&[&nodes[0], &observed]).await?;
        drop(reader);
        // Nor is anything of what fails meanwhile.
        for _ in 0..3 {
            let published = nodes[0].publish(&news, "lost".into()).await;
            let subscribed = nodes[0].subscribe(Subscribe::to([news.clone()])).await;
            ensure(
                published.is_err() && subscribed.is_err(),
                "a publish or subscribe in the outage succeeded",
            )?;
        }
        if how == "dropped before it was attached" {
            match trial.start(trial.options(), Start::Lazy).await? {
                Ok(lazy) => nodes.push(lazy),
                Err(error) => return broken(format!("no lazy node: {}", chain(&error))),
            }
        }
        for node in nodes {
            trial.forget(&node);
            if how == "closed in an outage" {
                trial.in_time("close does not return", node.close()).await?;
            } else {
                alone(node)?;
            }
        }
        trial.heal().await?;
        trial.all_up(&[&observed]).await?;
        no_more_tasks(&trial, tasks, how).await?;
        trial.until_subscriptions(&trial.prefix(), &news, 0).await?;
        trial.until_connections(connections).await?;
    }
    // Nor of a node that was never made.
    trial.outage().await?;
    trial.all_down(&[&observed]).await?;
    for _ in 0..3 {
        if trial.start(trial.options(), Start::Eager).await?.is_ok() {
            return broken("a node was made in the outage");
        }
    }
    trial.heal().await?;
    trial.all_up(&[&observed]).await?;
    no_more_tasks(&trial, tasks, "not made").await
}

async fn no_more_tasks(trial: &Trial, tasks: usize, how: &str) -> Outcome {
    trial
        .until(&format!("no task of a node that was {how}"), || async {
            let alive = Handle::current().metrics().num_alive_tasks();
            Ok((alive > tasks).then(|| format!("{} more", alive - tasks)))
        })
        .await
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
        yield_now().await;
    }
    let stats = node.stats();
    let left = (stats.subscriptions, stats.channels);
    ensure(
        left == (0, 0),
        format!("a closed node counts {left:?} subscriptions and channels"),
    )
}

/// Drops a node that nobody else holds.
pub(super) fn alone(node: Node) -> Outcome {
    match Arc::strong_count(&node) {
        1 => {
            drop(node);
            Ok(())
        }
        held => broken(format!("the node is held {held} times")),
    }
}
