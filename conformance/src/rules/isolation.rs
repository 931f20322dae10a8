//! I: prefix isolation.

use std::sync::Arc;

use backplane_core::{Channel, Prefix};

use crate::rule::{Rule, rule};
use crate::trial::{Node, Reader, Trial, channel, ensure, texts};
use crate::verdict::{Ending, Outcome};

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
