//! O: order.

use std::sync::Arc;

use backplane_core::{Channel, Delivery, Order, Requirement, Subscribe};
use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::harness::Fault;
use crate::rule::{Rule, rule};
use crate::rules::promise::must_promise;
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, show};
use crate::verdict::{Ending, Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "O1",
        "awaited publishes to a channel arrive in their order",
        [],
        o1
    ),
    rule!(
        "O2",
        "publishes started in order arrive in order, however they were batched",
        [],
        o2
    ),
    rule!(
        "O3",
        "awaited publishes keep their order across the channels of a subscription",
        [],
        o3
    ),
    rule!(
        "O4",
        "all subscriptions of a channel see all publishers in one order",
        [],
        o4
    ),
];

async fn o1(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut readers = vec![
        trial.subscribe(&a, [&news]).await?,
        trial.subscribe(&b, [&news]).await?,
        trial.subscribe(&b, [&news]).await?,
    ];
    for i in 0..500 {
        trial.publish(&a, &news, i.to_string()).await?;
    }
    in_order(&mut readers, 500).await?;
    // Large ones and small ones by turns.
    let payload = |i: usize| match i % 5 {
        0 => format!("{i:>20000}"),
        _ => i.to_string(),
    };
    for i in 0..50 {
        trial.publish(&a, &news, payload(i)).await?;
    }
    for reader in &mut readers {
        reader.expect_all((0..50).map(payload)).await?;
    }
    Ok(())
}

async fn o2(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut readers = vec![
        trial.subscribe(&a, [&news]).await?,
        trial.subscribe(&b, [&news]).await?,
    ];
    bursts(&trial, &a, &news, &mut readers, &[1, 2, 3, 10, 100, 1000]).await?;
    if !trial.can(Fault::Kill) {
        return Ok(());
    }
    trial.outage_and_back(&[&a, &b]).await?;
    for reader in &mut readers {
        reader.expect_gap().await?;
    }
    bursts(&trial, &a, &news, &mut readers, &[3, 100]).await
}

/// So many publishes at once, and again when they have arrived.
async fn bursts(
    trial: &Trial,
    a: &Node,
    news: &Channel,
    readers: &mut [Reader],
    sizes: &[usize],
) -> Outcome {
    for burst in sizes.iter().copied() {
        let publishes = (0..burst).map(|i: usize| a.publish(news, i.to_string().into()));
        let published = trial
            .in_time("publishes do not return", join_all(publishes))
            .await?;
        for result in published {
            if let Err(error) = result {
                return broken(format!("publish failed: {}", chain(&error)));
            }
        }
        in_order(readers, burst).await?;
    }
    Ok(())
}

/// How many messages each publisher sends for O3 and O4.
const EACH: usize = 200;

/// Several publishers at once, each going round the channels; every subscription of all channels sees each
/// publisher's messages in the order sent.
async fn o3(trial: Trial) -> Outcome {
    let nodes: [Node; 3] = trial.nodes().await?;
    must_promise(&trial, &nodes[0], Requirement::Order(Order::Publisher)).await?;
    let channels = ["news", "sport", "weather", "traffic", "jobs"]
        .map(channel)
        .into_iter()
        .collect::<Outcome<Vec<_>>>()?;
    let mut readers = readers(&trial, &nodes, &channels, 3).await?;
    let sent = publish_at_once(&trial, &nodes, &channels).await?;
    for (at, reader) in readers.iter_mut().enumerate() {
        let seen = sequence(reader, sent).await?;
        for publisher in 0..PUBLISHERS * nodes.len() {
            let of = format!("{publisher}.");
            let theirs: Vec<_> = seen.iter().filter(|text| text.starts_with(&of)).collect();
            let wrong = theirs
                .iter()
                .enumerate()
                .find(|(i, text)| ***text != format!("{publisher}.{i}"));
            if let Some((i, text)) = wrong {
                return broken(format!(
                    "subscription {at}: message {publisher}.{i} was expected next of its publisher, and \
                     {text} came"
                ));
            }
        }
    }
    Ok(())
}

/// Several publishers at once on every node, to one channel after the other; all subscriptions of a channel see
/// the same sequence.
async fn o4(trial: Trial) -> Outcome {
    let nodes: [Node; 3] = trial.nodes().await?;
    must_promise(&trial, &nodes[0], Requirement::Order(Order::Total)).await?;
    for round in 0..3 {
        let news = [channel(format!("news {round}"))?];
        let mut readers = readers(&trial, &nodes, &news, 3).await?;
        let sent = publish_at_once(&trial, &nodes, &news).await?;
        let mut first: Option<Vec<String>> = None;
        for (at, reader) in readers.iter_mut().enumerate() {
            let seen = sequence(reader, sent).await?;
            let Some(first) = &first else {
                first = Some(seen);
                continue;
            };
            let differs = first
                .iter()
                .zip(&seen)
                .position(|(one, other)| one != other);
            if let Some(i) = differs {
                return broken(format!(
                    "message {i} of subscription 0 is {}, and of subscription {at} it is {}",
                    first[i], seen[i]
                ));
            }
        }
    }
    Ok(())
}

/// How many tasks publish at once on each node for O3 and O4.
const PUBLISHERS: usize = 2;

/// Some subscriptions of these channels on every node, with room for everything.
async fn readers(
    trial: &Trial,
    nodes: &[Node],
    channels: &[Channel],
    each: usize,
) -> Outcome<Vec<Reader>> {
    let mut readers = Vec::new();
    for node in nodes {
        for _ in 0..each {
            let request = Subscribe::to(channels.to_vec()).capacity(1 << 16);
            readers.push(trial.subscribe_to(node, request).await?);
        }
    }
    Ok(readers)
}

/// Publishes from several tasks on every node, each message after the one before was accepted, each to the next
/// channel. Returns how many were sent.
async fn publish_at_once(trial: &Trial, nodes: &[Node], channels: &[Channel]) -> Outcome<usize> {
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS * nodes.len() {
        let node = Arc::clone(&nodes[publisher % nodes.len()]);
        let (trial, channels) = (trial.clone(), channels.to_vec());
        publishers.spawn(async move {
            for i in 0..EACH {
                let channel = &channels[(publisher + i) % channels.len()];
                let text = format!("{publisher}.{i}");
                trial.publish(&node, channel, text).await?;
            }
            Ok::<_, Ending>(())
        });
    }
    let sent = publishers.len() * EACH;
    while let Some(publisher) = publishers.join_next().await {
        match publisher {
            Ok(published) => published?,
            Err(error) => return broken(format!("a publisher failed: {error}")),
        }
    }
    Ok(sent)
}

/// The next messages of a subscription, which must be so many.
async fn sequence(reader: &mut Reader, count: usize) -> Outcome<Vec<String>> {
    let mut seen = Vec::with_capacity(count);
    while seen.len() < count {
        match reader
            .next(&format!("message {} of {count}", seen.len()))
            .await?
        {
            Delivery::Message(message) => {
                seen.push(show(message.payload()).trim_matches('"').to_owned());
            }
            Delivery::Gap(gap) => return broken(format!("expected a message, got a gap: {gap}")),
        }
    }
    let more = reader.subscription.try_recv().ok();
    ensure(more.is_none(), format!("one too many: {more:?}"))?;
    Ok(seen)
}

async fn in_order(readers: &mut [Reader], count: usize) -> Outcome {
    for reader in readers {
        reader.expect_all((0..count).map(|i| i.to_string())).await?;
    }
    Ok(())
}
