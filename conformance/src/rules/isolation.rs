//! I: prefix isolation.

use std::sync::Arc;

use backplane_core::{Channel, Delivery, Prefix};
use bytes::Bytes;

use crate::rule::{Rule, rule};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, texts};
use crate::verdict::{Ending, Outcome, broken, inconclusive};

pub(super) const RULES: &[Rule] = &[
    rule!("I1", "nothing crosses between two prefixes", [], i1),
    rule!("I2", "nodes of one prefix share everything", [], i2),
    rule!("I3", "no two pairs of prefix and channel ever meet", [], i3),
    rule!(
        "I4",
        "pattern characters in prefixes and channels stay literal",
        [],
        i4
    ),
    rule!(
        "I5",
        "isolation holds in and after an outage, and under load",
        [Outage],
        i5
    ),
    rule!(
        "I6",
        "bytes of a stranger are skipped and counted, and later messages flow",
        [Observer],
        i6
    ),
    rule!("I7", "what does not isolate is shown not to", [], i7),
];

async fn i1(trial: Trial) -> Outcome {
    let other = trial.prefix_like(|p| format!("{p}-other"))?;
    let [a, b] = trial.nodes().await?;
    let c = trial
        .node_with(trial.options().prefix(other.clone()))
        .await?;
    let d = trial.node_with(trial.options().prefix(other)).await?;
    let channels = ["news", "a", "*", "presence"].map(channel);
    for channel in channels {
        let channel = channel?;
        let mut ours = trial.subscribe(&b, [&channel]).await?;
        let mut theirs = trial.subscribe(&d, [&channel]).await?;
        for i in 0..10 {
            trial.publish(&a, &channel, format!("ours {i}")).await?;
            trial.publish(&c, &channel, format!("theirs {i}")).await?;
        }
        trial.publish(&a, &channel, "end").await?;
        trial.publish(&c, &channel, "end").await?;
        only(&mut ours, "ours", 10).await?;
        only(&mut theirs, "theirs", 10).await?;
    }
    Ok(())
}

async fn i2(trial: Trial) -> Outcome {
    let nodes: [Node; 4] = trial.nodes().await?;
    let news = channel("news")?;
    let mut readers = Vec::new();
    for node in &nodes {
        readers.push(trial.subscribe(node, [&news]).await?);
    }
    for (i, node) in nodes.iter().enumerate() {
        trial.publish(node, &news, format!("from {i}")).await?;
        for reader in &mut readers {
            reader.expect(format!("from {i}")).await?;
        }
    }
    Ok(())
}

async fn i3(trial: Trial) -> Outcome {
    let base = trial.prefix();
    let base = base.as_str();
    let separators = [":", ".", "/", "-", "_", "|", "%", "!", "%3A", "\0", "::"];
    let mut pairs: Vec<(String, String)> = Vec::new();
    for separator in separators {
        pairs.push((base.to_owned(), format!("b{separator}c")));
        pairs.push((format!("{base}{separator}b"), "c".to_owned()));
    }
    // One name the start of another, and nothing in between.
    pairs.push((base.to_owned(), "2x".to_owned()));
    pairs.push((format!("{base}2"), "x".to_owned()));
    // The empty prefix and any other.
    for separator in [":", "", "/", "!"] {
        pairs.push((String::new(), format!("{base}{separator}x")));
    }
    pairs.push((base.to_owned(), "x".to_owned()));
    separate(&trial, &pairs).await
}

async fn i4(trial: Trial) -> Outcome {
    let base = trial.prefix();
    let base = base.as_str();
    let mut pairs = Vec::new();
    for end in [
        "", "*", "?", "[ab]", "a", "ab", "\\*", "{a}", "^a", "%", "b",
    ] {
        for channel in ["x", "*", "?x", "[xy]"] {
            pairs.push((format!("{base}{end}"), channel.to_owned()));
        }
    }
    separate(&trial, &pairs).await
}

async fn i5(trial: Trial) -> Outcome {
    let other = trial.prefix_like(|p| format!("{p}-other"))?;
    let [a, b] = trial.nodes().await?;
    let c = trial
        .node_with(trial.options().prefix(other.clone()))
        .await?;
    let d = trial.node_with(trial.options().prefix(other)).await?;
    let news = channel("news")?;
    let mut ours = trial.subscribe(&b, [&news]).await?;
    let mut theirs = trial.subscribe(&d, [&news]).await?;
    for round in 0..3 {
        trial.outage().await?;
        trial.all_down(&[&a, &b, &c, &d]).await?;
        for i in 0..20 {
            // They must fail, and must not turn up anywhere, whichever prefix.
            let _ = a
                .publish(&news, format!("ours, in the outage {i}").into())
                .await;
            let _ = c
                .publish(&news, format!("theirs, in the outage {i}").into())
                .await;
        }
        trial.heal().await?;
        trial.all_up(&[&a, &b, &c, &d]).await?;
        let load = |node: Node, name: &'static str| {
            let (trial, news) = (trial.clone(), news.clone());
            async move {
                for i in 0..200 {
                    trial.publish(&node, &news, format!("{name} {i}")).await?;
                }
                Ok::<_, Ending>(())
            }
        };
        let (x, y) = tokio::join!(load(Arc::clone(&a), "ours"), load(Arc::clone(&c), "theirs"));
        x.and(y)?;
        // Both ends come after everything that could have crossed.
        trial.publish(&a, &news, "end").await?;
        trial.publish(&c, &news, "end").await?;
        for (reader, name) in [(&mut ours, "ours"), (&mut theirs, "theirs")] {
            let mut got = texts(&reader.up_to("end").await?);
            got.retain(|text| !text.starts_with("gap"));
            let strange = got
                .iter()
                .find(|text| !text.starts_with(&format!("\"{name}")));
            ensure(
                strange.is_none(),
                format!("round {round}: {name} got {strange:?}"),
            )?;
            let late = got.iter().find(|text| text.contains("in the outage"));
            ensure(
                late.is_none(),
                format!("round {round}: {name} got {late:?}"),
            )?;
            let count = got.len();
            ensure(
                count == 200,
                format!("round {round}: {name} got {count} messages of 200"),
            )?;
        }
    }
    Ok(())
}

/// On an application channel and, where the harness can, on the private channel of a node's probes; between
/// messages, which all arrive.
async fn i6(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let (prefix, news) = (trial.prefix(), channel("news")?);
    let observer = trial.observer()?;
    let strange: [&'static [u8]; 10] = [
        b"",
        b"\0",
        b"x",
        b"hello, is anybody there?",
        br#"{"channel":"news","payload":"hello"}"#,
        b"\xff\xfe\xfd",
        b"\xc1",
        b"*3\r\n$7\r\nPUBLISH\r\n",
        &[0; 64],
        &[0xa5; 100_000],
    ];
    let mut reader = trial.subscribe(&b, [&news]).await?;
    let mut events = b.events();
    let mut malformed = b.stats().malformed;
    for (i, bytes) in strange.into_iter().enumerate() {
        let (before, after) = (format!("before {i}"), format!("after {i}"));
        trial.publish(&a, &news, before.clone()).await?;
        reader.expect(before).await?;
        observer
            .write(&prefix, &news, Bytes::from_static(bytes))
            .await
            .or_else(inconclusive)?;
        trial.publish(&a, &news, after.clone()).await?;
        let what = format!("the message after what stranger {i} wrote");
        match reader.next(&what).await? {
            Delivery::Message(message) if message.payload() == after.as_bytes() => {}
            other => {
                let got = texts(&[other]).concat();
                return broken(format!(
                    "after what a stranger wrote, expected message {after:?}, got {got}"
                ));
            }
        }
        malformed += 1;
        counted(&b, malformed)?;
    }
    for bytes in strange {
        let bytes = Bytes::from_static(bytes);
        let written = observer.write_to_probes(&prefix, b.node_id(), bytes);
        if !written.await.or_else(inconclusive)? {
            break;
        }
        malformed += 1;
        // Nothing comes after it on this channel that one could wait for but a probe, which is next.
        if let Err(error) = b.health().await {
            return broken(format!(
                "health fails after a stranger wrote to the probes: {}",
                chain(&error)
            ));
        }
        counted(&b, malformed)?;
    }
    trial.publish(&a, &news, "end").await?;
    reader.expect("end").await?;
    let event = events.try_recv().ok();
    ensure(
        event.is_none(),
        format!("what a stranger wrote cost the connection: {event:?}"),
    )
}

/// Everything that the broker has sent was taken in: exactly so many of the broker's messages are malformed.
fn counted(node: &Node, expected: u64) -> Outcome {
    let seen = node.stats().malformed;
    ensure(
        seen == expected,
        format!("{expected} malformed messages were written, and {seen} are counted"),
    )
}

/// Two nodes of one prefix meet, although one of them is where a user may think that it is apart. Only the prefix
/// keeps them apart.
async fn i7(trial: Trial) -> Outcome {
    let here = trial.node().await?;
    let there = trial.node_elsewhere(trial.options()).await?;
    let other = trial.prefix_like(|p| format!("{p}-other"))?;
    let apart = trial.node_elsewhere(trial.options().prefix(other)).await?;
    let news = channel("news")?;
    let mut readers = [
        trial.subscribe(&here, [&news]).await?,
        trial.subscribe(&there, [&news]).await?,
    ];
    let mut stranger = trial.subscribe(&apart, [&news]).await?;
    for i in 0..10 {
        for (from, node) in [("here", &here), ("there", &there)] {
            trial.publish(node, &news, format!("{from} {i}")).await?;
            for reader in &mut readers {
                reader.expect(format!("{from} {i}")).await?;
            }
        }
        trial.publish(&apart, &news, format!("apart {i}")).await?;
        stranger.expect(format!("apart {i}")).await?;
    }
    Ok(())
}

/// Every pair of prefix and channel gets what is published to it, and nothing else.
async fn separate(trial: &Trial, pairs: &[(String, String)]) -> Outcome {
    let mut ends = Vec::new();
    let mut nodes: Vec<(String, Node)> = Vec::new();
    for (prefix, name) in pairs {
        let node = match nodes.iter().find(|(known, _)| known == prefix) {
            Some((_, node)) => Arc::clone(node),
            None => {
                let parsed = match prefix.as_str() {
                    "" => Prefix::unprefixed(),
                    text => trial.prefix_like(|_| text.to_owned())?,
                };
                let node = trial.node_with(trial.options().prefix(parsed)).await?;
                nodes.push((prefix.clone(), Arc::clone(&node)));
                node
            }
        };
        let channel: Channel = channel(name)?;
        let reader = trial.subscribe(&node, [&channel]).await?;
        ends.push((node, channel, reader));
    }
    for (i, (node, channel, _)) in ends.iter().enumerate() {
        trial.publish(node, channel, format!("for {i}")).await?;
    }
    for (node, channel, _) in &ends {
        trial.publish(node, channel, "end").await?;
    }
    for (i, (_, _, reader)) in ends.iter_mut().enumerate() {
        let got = texts(&reader.up_to("end").await?);
        let (prefix, channel) = &pairs[i];
        ensure(
            got == [format!("\"for {i}\"")],
            format!(
                "prefix {prefix:?} and channel {channel:?} should get only message {i}, and got {got:?}"
            ),
        )?;
    }
    Ok(())
}

async fn only(reader: &mut Reader, name: &str, count: usize) -> Outcome {
    let got = texts(&reader.up_to("end").await?);
    let expected: Vec<_> = (0..count).map(|i| format!("\"{name} {i}\"")).collect();
    ensure(
        got == expected,
        format!("{name} should get its own {count} messages, and got {got:?}"),
    )
}
