//! D: delivery.

use std::collections::HashSet;

use backplane_core::{Channel, Delivery, NotSent, PublishErrorKind, Requirement, Subscribe};
use bytes::Bytes;
use futures_util::future::join_all;

use crate::harness::Fault;
use crate::rule::{Rule, rule};
use crate::rules::promise::promises;
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, show, texts};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "D1",
        "every live subscription on every node gets a message exactly once",
        [],
        d1
    ),
    rule!("D2", "payload bytes arrive unchanged", [], d2),
    rule!("D3", "publishing where nobody subscribes succeeds", [], d3),
    rule!(
        "D4",
        "an oversize payload is refused before anything leaves the node",
        [],
        d4
    ),
    rule!(
        "D5",
        "channel names are literal, compared byte for byte",
        [],
        d5
    ),
    rule!(
        "D6",
        "a subscription gets nothing that was published before it",
        [],
        d6
    ),
];

async fn d1(trial: Trial) -> Outcome {
    let [a, b, c] = trial.nodes().await?;
    let news = channel("news")?;
    let mut everyone = Vec::new();
    for node in [&a, &b, &c] {
        everyone.push(trial.subscribe(node, [&news]).await?);
        everyone.push(trial.subscribe(node, [&news]).await?);
    }
    // A channel that is named twice, and added once more, is held once.
    let twice = trial.subscribe(&c, [&news, &news]).await?;
    add(&trial, &twice, &news).await?;
    everyone.push(twice);
    let without_own = |channels: &[_]| Subscribe::to(channels.to_vec()).without_own();
    let mut others_only = [
        trial
            .subscribe_to(&a, without_own(std::slice::from_ref(&news)))
            .await?,
        trial.subscribe_to(&a, without_own(&[])).await?,
    ];
    add(&trial, &others_only[1], &news).await?;
    let mut sent_by_others = Vec::new();
    let mut sent = Vec::new();
    for i in 0..20 {
        for (name, node) in [("a", &a), ("b", &b)] {
            let payload = format!("{name}{i}");
            trial.publish(node, &news, payload.clone()).await?;
            if name != "a" {
                sent_by_others.push(payload.clone());
            }
            sent.push(payload);
        }
    }
    // A sentinel of each publisher: one says nothing of the other's messages.
    trial.publish(&a, &news, "end of a").await?;
    trial.publish(&b, &news, "end of b").await?;
    for reader in &mut everyone {
        exactly(reader, &["end of a", "end of b"], &sent).await?;
    }
    for reader in &mut others_only {
        exactly(reader, &["end of b"], &sent_by_others).await?;
    }
    // Neither did they get the own sentinel, which was sent before the one that they got.
    trial.publish(&b, &news, "end of all").await?;
    for reader in everyone.iter_mut().chain(&mut others_only) {
        reader.expect("end of all").await?;
    }
    equal_messages(
        &trial,
        &b,
        &news,
        everyone.iter_mut().chain(&mut others_only),
    )
    .await?;
    if !trial.can(Fault::Kill) {
        return Ok(());
    }
    // What was asked for holds on the next connection too.
    trial.outage_and_back(&[&a, &b, &c]).await?;
    for reader in everyone.iter_mut().chain(&mut others_only) {
        reader.expect_gap().await?;
    }
    trial.publish(&a, &news, "own").await?;
    for reader in &mut everyone {
        reader.expect("own").await?;
    }
    trial.publish(&b, &news, "of another").await?;
    for reader in everyone.iter_mut().chain(&mut others_only) {
        reader.expect("of another").await?;
    }
    Ok(())
}

/// Adds a channel by a handle, which must work.
async fn add(trial: &Trial, reader: &Reader, channel: &Channel) -> Outcome {
    let handle = reader.subscription.handle();
    let added = handle.subscribe([channel.clone()]);
    match trial.in_time("subscribe does not return", added).await? {
        Ok(()) => Ok(()),
        Err(error) => broken(format!("subscribe failed: {}", chain(&error))),
    }
}

/// Messages that say the same, one after the other and at once, are as many as were sent.
async fn equal_messages(
    trial: &Trial,
    node: &Node,
    news: &Channel,
    readers: impl Iterator<Item = &mut Reader>,
) -> Outcome {
    for _ in 0..3 {
        trial.publish(node, news, "same").await?;
    }
    let at_once = (0..3).map(|_| trial.publish(node, news, "same"));
    for published in join_all(at_once).await {
        published?;
    }
    trial.publish(node, news, "no longer the same").await?;
    for reader in readers {
        reader.expect_all(["same"; 6]).await?;
        reader.expect("no longer the same").await?;
    }
    Ok(())
}

async fn d2(trial: Trial) -> Outcome {
    // The rule has no bound in time, and the largest payload takes a busy machine longer than usual.
    let patient = trial
        .options()
        .publish_timeout(trial.within())
        .heartbeat_timeout(trial.within());
    let a = trial.node_with(patient.clone()).await?;
    let b = trial.node_with(patient).await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    let largest = b
        .capabilities()
        .max_payload
        .min(a.capabilities().max_payload);
    let mut payloads = vec![
        Bytes::new(),
        Bytes::from_static(b"x"),
        Bytes::from_static(&[0]),
        Bytes::from_static(&[0xff]),
        Bytes::from_static(b"a\0b\r\n\xff\xfe c"),
        Bytes::from_static(&[0xc3, 0x28, 0xf0, 0x90]),
        Bytes::from_iter(0..=255_u8),
        Bytes::from(pattern(127)),
        Bytes::from(pattern(128)),
        Bytes::from(pattern(70_000)),
        Bytes::from(pattern(largest)),
        Bytes::from_static(b"after the largest"),
    ];
    // What a protocol may say itself.
    let words = [
        "ping",
        "PONG",
        "null",
        "{}",
        "0",
        "+OK\r\n",
        "*1\r\n$4\r\nPING\r\n",
    ];
    payloads.extend(words.map(Bytes::from));
    // Around the sizes of buffers.
    for size in (8..=16).map(|n| 1 << n).filter(|size| size + 1 < largest) {
        payloads.extend([size - 1, size, size + 1].map(|size| Bytes::from(pattern(size))));
    }
    for payload in &payloads {
        trial.publish(&a, &news, payload.clone()).await?;
    }
    for payload in &payloads {
        reader.expect(payload).await?;
    }
    Ok(())
}

async fn d3(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    for i in 0..10 {
        trial.publish(&a, &news, format!("unheard {i}")).await?;
    }
    let mut reader = trial.subscribe(&b, [&news]).await?;
    trial.publish(&a, &news, "heard").await?;
    reader.expect("heard").await?;
    drop(reader);
    trial.publish(&a, &news, "unheard again").await
}

async fn d4(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    let limit = a.capabilities().max_payload;
    trial.publish(&a, &news, "before").await?;
    for size in [limit + 1, limit + 1000] {
        let refused = a.publish(&news, Bytes::from(vec![7; size]));
        let kind = match trial.in_time("the refusal does not come", refused).await? {
            Ok(()) => return broken(format!("a payload of {size} bytes was accepted")),
            Err(error) => error.kind(),
        };
        let expected = PublishErrorKind::NotSent(NotSent::TooLarge { size, limit });
        ensure(
            kind == expected,
            format!("expected {expected:?}, got {kind:?}"),
        )?;
    }
    ensure(a.state().is_connected(), "the refusal cost the connection")?;
    trial.publish(&a, &news, "after").await?;
    reader.expect_all(["before", "after"]).await?;
    // Those that are sent at the same time are their own affair, too.
    let beside: Vec<_> = (0..20).map(|i| i.to_string()).collect();
    let publishes = beside.iter().enumerate().map(|(i, text)| {
        let payload = match i {
            10 => Bytes::from(vec![7; limit + 1]),
            _ => Bytes::from(text.clone()),
        };
        a.publish(&news, payload)
    });
    let published = trial
        .in_time("publishes do not return", join_all(publishes))
        .await?;
    for (i, published) in published.into_iter().enumerate() {
        match published {
            Ok(()) if i == 10 => return broken("an oversize payload among others was accepted"),
            Err(error) if i != 10 => {
                return broken(format!(
                    "a publish beside an oversize payload failed: {}",
                    chain(&error)
                ));
            }
            _ => {}
        }
    }
    let mut arriving = beside;
    arriving.remove(10);
    reader.expect_all(arriving).await
}

async fn d5(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let names = [
        "a", "A", "ab", "abc", "a*", "*", "a?", "?", "[a]", "[ab]", "a\\", "\\a", "\\", " ", "a ",
        " a", "a\nb", "a\r\nb", "a:b", "a.b", "a.*", "a.>", ">", "#", "a/b", "a/+", "a%3Ab", "a!b",
        "{a}", "$a", "é", "e\u{301}", "日本", "\u{0}", "a\u{0}", "'; drop", "\"a\"",
    ];
    let mut readers = Vec::new();
    for name in names {
        let channel = channel(name)?;
        let reader = trial.subscribe(&b, [&channel]).await?;
        readers.push((channel, reader));
    }
    for name in names {
        trial
            .publish(&a, &channel(name)?, format!("to {name:?}"))
            .await?;
    }
    for name in names {
        trial.publish(&a, &channel(name)?, "end").await?;
    }
    for (channel, reader) in &mut readers {
        let expected = format!("to {:?}", channel.as_str());
        let got = reader.up_to("end").await?;
        for delivery in &got {
            if let Delivery::Message(message) = delivery {
                let named = message.channel();
                ensure(
                    named == channel,
                    format!("channel {channel:?} got a message named {named:?}"),
                )?;
            }
        }
        let got = texts(&got);
        let expected = show(expected.as_bytes());
        ensure(
            got == [expected.as_str()],
            format!("channel {channel:?} should get only {expected}, and got {got:?}"),
        )?;
    }
    d5_many(&trial, &a, &b).await
}

/// So many that any two of them would meet in a table that is too small.
async fn d5_many(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    const MANY: usize = 600;
    let channels = (0..MANY)
        .map(|i| channel(format!("room {i}")))
        .collect::<Outcome<Vec<_>>>()?;
    let mut reader = trial.subscribe(b, &channels).await?;
    for text in ["to", "end of"] {
        for some in channels.chunks(100) {
            let publishes = some
                .iter()
                .map(|channel| trial.publish(a, channel, format!("{text} {channel}")));
            for published in join_all(publishes).await {
                published?;
            }
        }
    }
    let (mut open, mut seen) = (MANY, HashSet::new());
    while open > 0 {
        match reader.next("the end of a channel").await? {
            Delivery::Message(message) => {
                let (named, payload) = (message.channel(), message.payload());
                let text = String::from_utf8_lossy(payload).into_owned();
                let is_end = text == format!("end of {named}");
                open -= usize::from(is_end);
                let right = is_end || text == format!("to {named}");
                ensure(
                    right && seen.insert(text),
                    format!("of {MANY} channels {named:?} got {}", show(payload)),
                )?;
            }
            Delivery::Gap(gap) => return broken(format!("expected a message, got a gap: {gap}")),
        }
    }
    Ok(())
}

/// With and without another subscription of the channel on the node, which means that the broker sends the
/// earlier messages to the node in any case.
async fn d6(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    if promises(&trial, &b, Requirement::Replay).await? {
        return d6_with_replay(&trial, &a, &b).await;
    }
    for (name, first) in [("quiet", false), ("busy", true)] {
        let news = channel(name)?;
        let earlier = match first {
            true => Some(trial.subscribe(&b, [&news]).await?),
            false => None,
        };
        for round in 0..30 {
            for i in 0..20 {
                trial
                    .publish(&a, &news, format!("before {round}.{i}"))
                    .await?;
            }
            let mut reader = trial.subscribe(&b, [&news]).await?;
            let after = format!("after {round}");
            trial.publish(&a, &news, after.clone()).await?;
            reader.expect(after).await?;
        }
        // Nor what is added by a handle.
        let mut reader = trial.subscribe(&b, []).await?;
        add(&trial, &reader, &news).await?;
        trial.publish(&a, &news, "added 0").await?;
        reader.expect("added 0").await?;
        drop(earlier);
    }
    Ok(())
}

/// With replay, what was published before may come: each message once, in order, and before what is published
/// later.
async fn d6_with_replay(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    for round in 0..10 {
        let news = channel(format!("news {round}"))?;
        for i in 0..20 {
            trial.publish(a, &news, format!("before {i:02}")).await?;
        }
        let mut reader = trial.subscribe(b, [&news]).await?;
        trial.publish(a, &news, "after").await?;
        let got = texts(&reader.up_to("after").await?);
        let in_order = got.windows(2).all(|pair| pair[0] < pair[1]);
        ensure(
            in_order && got.iter().all(|text| text.starts_with("\"before")),
            format!("replayed to a new subscription: {got:?}"),
        )?;
        trial.publish(a, &news, "on").await?;
        reader.expect("on").await?;
    }
    Ok(())
}

/// Everything up to the last sentinel must be these messages, each once, in any order of publishers.
async fn exactly(reader: &mut Reader, sentinels: &[&str], expected: &[String]) -> Outcome {
    let mut got = Vec::new();
    let mut open: Vec<_> = sentinels.iter().map(|text| show(text.as_bytes())).collect();
    while !open.is_empty() {
        let text = texts(&[reader.next("the sentinel").await?]).concat();
        match open.iter().position(|sentinel| *sentinel == text) {
            Some(at) => drop(open.remove(at)),
            None => got.push(text),
        }
    }
    for payload in expected {
        let payload = show(payload.as_bytes());
        let times = got.iter().filter(|text| **text == payload).count();
        ensure(
            times == 1,
            format!("message {payload} arrived {times} times"),
        )?;
    }
    ensure(
        got.len() == expected.len(),
        format!("messages arrived that nobody sent: {got:?}"),
    )
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}
