//! V: visibility.

use std::collections::HashSet;
use std::time::Duration;

use backplane_core::{Channel, ConnectionState, Event, Events, Stats, Subscribe};
use bytes::Bytes;
use tokio::time::timeout;

use crate::harness::{Fault, Start};
use crate::rule::{Rule, rule};
use crate::rules::loss::{GRACE, quick};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "V1",
        "state, counters and events agree with what happened",
        [Outage],
        v1
    ),
    rule!(
        "V2",
        "health fails in an outage and passes after it",
        [Outage],
        v2
    ),
    rule!(
        "V3",
        "no secret and no payload appears in Debug, Display or errors",
        [Outage],
        v3
    ),
    rule!(
        "V4",
        "a message names its channel and the node that published it",
        [],
        v4
    ),
];

async fn v1(trial: Trial) -> Outcome {
    let trial = trial.with_reachable_nodes();
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let first = ConnectionState::Connected { generation: 1 };
    ensure(
        b.state() == first,
        format!("expected {first}, it is {}", b.state()),
    )?;
    let (mut events, mut others) = (b.events(), b.events());
    let mut read = trial.subscribe(&b, [&news]).await?;
    let small = Subscribe::to([news.clone()]).capacity(4);
    let mut small = trial.subscribe_to(&b, small).await?;
    count(&b, "live subscriptions", 2, |s| s.subscriptions)?;
    count(&b, "live channels", 1, |s| s.channels)?;

    for i in 0..10 {
        trial.publish(&a, &news, i.to_string()).await?;
        read.expect(i.to_string()).await?;
    }
    let size = a.capabilities().max_payload + 1;
    ensure(
        a.publish(&news, Bytes::from(vec![0; size])).await.is_err(),
        "an oversize payload passed",
    )?;
    count(&a, "published", 10, |s| s.published)?;
    count(&a, "not sent", 1, |s| s.not_sent)?;
    count(&a, "unknown", 0, |s| s.unknown)?;
    count(&b, "published", 0, |s| s.published)?;
    // The small queue may get the last message a little after the other.
    trial
        .until("6 messages overflowed", || async {
            let seen = b.stats().overflowed;
            Ok((seen != 6).then(|| seen.to_string()))
        })
        .await?;
    count(&b, "delivered", 14, |s| s.delivered)?;
    count(&b, "gaps", 1, |s| s.gaps)?;
    count(&b, "reconnects", 0, |s| s.reconnects)?;

    trial.outage().await?;
    trial.all_down(&[&a, &b]).await?;
    for _ in 0..5 {
        ensure(
            a.publish(&news, "lost".into()).await.is_err(),
            "a publish in the outage succeeded",
        )?;
    }
    trial.heal().await?;
    trial.all_up(&[&a, &b]).await?;
    count(&a, "not sent in an outage", 6, |s| s.not_sent)?;
    count(&a, "published after an outage", 10, |s| s.published)?;
    let second = ConnectionState::Connected { generation: 2 };
    ensure(
        b.state() == second,
        format!("expected {second}, it is {}", b.state()),
    )?;
    count(&b, "gaps", 3, |s| s.gaps)?;
    count(&b, "reconnects", 1, |s| s.reconnects)?;
    count(&b, "malformed", 0, |s| s.malformed)?;
    let told = until_connected(&trial, &mut events).await;
    agree(&told)?;
    let told_too = until_connected(&trial, &mut others).await;
    ensure(
        told_too == told,
        format!("another who follows the events was told {told_too:?}, and one {told:?}"),
    )?;

    read.expect_gap().await?;
    small.expect_all(["0", "1", "2", "3"]).await?;
    small.expect_gap().await?;
    small.expect_gap().await?;
    drop(small);
    count(&b, "live subscriptions", 1, |s| s.subscriptions)?;

    // Of a publisher that was heard before, what is missed is counted.
    if trial.can(Fault::Isolate(b.node_id()))
        && b.capabilities().counts_loss
        && !b.capabilities().replay
    {
        trial.publish(&a, &news, "heard").await?;
        read.expect("heard").await?;
        let lost = b.stats().lost;
        trial.inject(Fault::Isolate(b.node_id())).await?;
        trial.all_down(&[&b]).await?;
        for i in 0..3 {
            trial.publish(&a, &news, format!("missed {i}")).await?;
        }
        trial.heal().await?;
        trial.all_up(&[&b]).await?;
        trial.publish(&a, &news, "heard again").await?;
        read.expect_gap().await?;
        read.expect("heard again").await?;
        count(&b, "lost", 3, |s| s.lost - lost)?;
        count(&b, "reconnects", 2, |s| s.reconnects)?;
    }
    match trial.can(Fault::Freeze) {
        true => v1_unknown(&trial).await,
        false => Ok(()),
    }
}

/// A publish whose outcome nobody knows is in the counter of those.
async fn v1_unknown(trial: &Trial) -> Outcome {
    let never = trial.within() * 10;
    let options = trial
        .options()
        .publish_timeout(trial.scaled(Duration::from_millis(300)))
        .heartbeat_interval(never)
        .heartbeat_timeout(never);
    let node = trial.node_with(options).await?;
    let news = channel("news")?;
    trial.inject(Fault::Freeze).await?;
    let unanswered = node.publish(&news, "unanswered".into());
    let unanswered = trial.in_time("publish does not return", unanswered).await?;
    trial.heal().await?;
    trial.all_settled(&[&node]).await?;
    let expected = match unanswered {
        Ok(()) => [1, 0, 0],
        Err(error) if error.is_not_sent() => [0, 1, 0],
        Err(_) => [0, 0, 1],
    };
    count(&node, "published", expected[0], |s| s.published)?;
    count(&node, "unknown", expected[2], |s| s.unknown)?;
    count(&node, "not sent", expected[1], |s| s.not_sent)
}

fn count(node: &Node, what: &str, expected: u64, of: impl Fn(&Stats) -> u64) -> Outcome {
    let seen = of(&node.stats());
    ensure(
        seen == expected,
        format!("{what}: expected {expected}, counted {seen}"),
    )
}

/// The events up to the one that tells of the return, as far as they come, and what is there behind it.
async fn until_connected(trial: &Trial, events: &mut Events) -> Vec<Event> {
    let mut told = Vec::new();
    while let Ok(Some(event)) = timeout(trial.within(), events.recv()).await {
        let is_last = matches!(&event, Event::State(state) if state.is_connected());
        told.push(event);
        if is_last {
            break;
        }
    }
    told.extend(std::iter::from_fn(|| events.try_recv().ok()));
    told
}

/// Disconnected and connecting take turns, and connected comes last.
fn agree(told: &[Event]) -> Outcome {
    let (last, turns) = match told.split_last() {
        Some((last, turns)) if turns.len() >= 2 && turns.len() % 2 == 0 => (last, turns),
        _ => return broken(format!("an outage made these events: {told:?}")),
    };
    for turn in turns.chunks(2) {
        let fits = matches!(
            turn,
            [
                Event::State(ConnectionState::Disconnected { .. }),
                Event::State(ConnectionState::Connecting { .. }),
            ]
        );
        ensure(fits, format!("events {turn:?} are not a turn, in {told:?}"))?;
    }
    let second = Event::State(ConnectionState::Connected { generation: 2 });
    ensure(
        *last == second,
        format!("the last event is {last:?}, in {told:?}"),
    )
}

async fn v2(trial: Trial) -> Outcome {
    let trial = trial.with_reachable_nodes();
    let node = trial.node_with(quick(&trial)).await?;
    let bound = trial.scaled(Duration::from_secs(1)) + trial.scaled(GRACE);
    for fault in [Fault::Kill, Fault::Stop, Fault::Freeze, Fault::Mute] {
        if let Err(error) = node.health().await {
            return broken(format!("health fails without an outage: {}", chain(&error)));
        }
        match trial.can(fault) {
            true => trial.inject(fault).await?,
            false if fault == Fault::Kill => trial.outage().await?,
            false => continue,
        }
        match timeout(bound, node.health()).await {
            Ok(Err(_)) => {}
            Ok(Ok(())) => return broken(format!("{fault}: health passes in the outage")),
            Err(_) => return broken(format!("{fault}: health does not answer within {bound:?}")),
        }
        trial.heal().await?;
        trial.all_up(&[&node]).await?;
        // It may have been up throughout a short freeze; the real path decides.
        trial
            .until("health after the outage", || async {
                Ok(node.health().await.err().map(|error| chain(&error)))
            })
            .await?;
        trial.all_up(&[&node]).await?;
    }
    Ok(())
}

async fn v3(trial: Trial) -> Outcome {
    let payload = "the-payload-is-nobodys-business";
    let node = trial.node().await?;
    let news = channel("news")?;
    let mut said = vec![format!("{node:?}"), format!("{:?}", node.capabilities())];
    let mut reader = trial.subscribe(&node, [&news]).await?;
    let mut events = node.events();
    said.push(format!(
        "{:?} {:?}",
        reader.subscription,
        reader.subscription.handle()
    ));
    trial.publish(&node, &news, payload).await?;
    let delivery = reader.next("the message").await?;
    said.push(format!(
        "{delivery:?} {:#?}",
        delivery.clone().into_message()
    ));
    let size = node.capabilities().max_payload + 1;
    let oversize: Bytes = payload.bytes().cycle().take(size).collect();
    let errors = |error: &dyn std::error::Error| format!("{error} {error:?} {}", chain(error));
    if let Err(error) = node.publish(&news, oversize).await {
        said.push(errors(&error));
    }
    trial.outage().await?;
    trial.all_down(&[&node]).await?;
    if let Err(error) = node.publish(&news, payload.into()).await {
        said.push(errors(&error));
    }
    if let Err(error) = node.subscribe(Subscribe::to([news.clone()])).await {
        said.push(errors(&error));
    }
    if let Err(error) = node.health().await {
        said.push(errors(&error));
    }
    if let Err(error) = trial.start(trial.options(), Start::Eager).await? {
        said.push(errors(&error));
    }
    said.push(format!("{node:?} {} {:?}", node.state(), node.state()));
    trial.heal().await?;
    trial.all_up(&[&node]).await?;
    said.push(format!(
        "{:?} {:?}",
        reader.next("a gap").await?,
        node.stats()
    ));
    said.extend(std::iter::from_fn(|| events.try_recv().ok()).map(|event| format!("{event:?}")));
    node.close().await;
    if let Err(error) = node.publish(&news, payload.into()).await {
        said.push(errors(&error));
    }
    let harness = format!("{:?}", trial.harness().describe());
    said.push(harness);
    for text in &said {
        ensure(!text.contains(payload), format!("a payload is in: {text}"))?;
        let hidden = trial
            .harness()
            .secret()
            .is_none_or(|secret| !text.contains(&secret));
        // Not the text itself: the report must not contain the secret either.
        ensure(hidden, "the password appears in Debug, Display or an error")?;
    }
    Ok(())
}

async fn v4(trial: Trial) -> Outcome {
    // Where single nodes can be cut off and the broker cannot be killed, the nodes must be within reach.
    let trial = match trial.can(Fault::Kill) {
        true => trial,
        false => trial.with_reachable_nodes(),
    };
    let nodes: [Node; 3] = trial.nodes().await?;
    let ids: Vec<_> = nodes.iter().map(|node| node.node_id()).collect();
    let different = ids.iter().collect::<HashSet<_>>().len();
    ensure(
        different == nodes.len(),
        format!("{} nodes have {different} different ids", nodes.len()),
    )?;
    let channels = [channel("news")?, channel("sport")?];
    let mut readers = Vec::new();
    for node in &nodes {
        readers.push(trial.subscribe(node, &channels).await?);
    }
    all_are_named(&trial, &nodes, &channels, &mut readers, "at first").await?;
    let [first, ..] = ids.as_slice() else {
        return Ok(());
    };
    if !trial.can(Fault::Kill) && !trial.can(Fault::Isolate(*first)) {
        return Ok(());
    }
    let [a, b, c] = &nodes;
    trial.outage_and_back(&[a, b, c]).await?;
    for reader in &mut readers {
        reader.expect_gap().await?;
    }
    all_are_named(&trial, &nodes, &channels, &mut readers, "after an outage").await?;
    let now: Vec<_> = nodes.iter().map(|node| node.node_id()).collect();
    ensure(
        now == ids,
        "a node has another id after an outage, and is the same node",
    )
}

/// Every node publishes to every channel, and every subscription is told who it was, and where to.
async fn all_are_named(
    trial: &Trial,
    nodes: &[Node],
    channels: &[Channel],
    readers: &mut [Reader],
    when: &str,
) -> Outcome {
    for (from, node) in nodes.iter().enumerate() {
        for named in channels {
            let text = format!("{when}, from {from} to {named}");
            trial.publish(node, named, text.clone()).await?;
            for (at, reader) in readers.iter_mut().enumerate() {
                let message = reader.expect(&text).await?;
                let (told, published) = (message.publisher(), node.node_id());
                ensure(
                    told == published,
                    format!(
                        "{when}: node {at} was told that {told} published a message of node {from}, {published}"
                    ),
                )?;
                let told = message.channel();
                ensure(
                    told == named,
                    format!("{when}: node {at} was told {told:?} for channel {named:?}"),
                )?;
            }
        }
    }
    Ok(())
}
