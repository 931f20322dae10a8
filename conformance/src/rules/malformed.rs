//! M: malformed input.

use std::sync::Arc;

use backplane_core::{Channel, InvalidName, NameKind, Prefix};

use crate::rule::{Rule, rule};
use crate::trial::{Trial, channel, ensure};
use crate::verdict::{Outcome, broken, inconclusive};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "M3",
        "invalid names are refused, and every valid one works",
        [],
        m3
    ),
    rule!(
        "M4",
        "unknown options in a connection URL are refused",
        [Url],
        m4
    ),
];

async fn m3(trial: Trial) -> Outcome {
    let long = |len: usize| "n".repeat(len);
    let too_long = |kind, limit| InvalidName::TooLong {
        kind,
        len: limit + 1,
        limit,
    };
    let refused = [
        (
            Channel::new("").map(drop),
            InvalidName::Empty(NameKind::Channel),
        ),
        (
            Prefix::new("").map(drop),
            InvalidName::Empty(NameKind::Prefix),
        ),
        (
            Channel::new(long(Channel::MAX_LEN + 1)).map(drop),
            too_long(NameKind::Channel, Channel::MAX_LEN),
        ),
        (
            Prefix::new(long(Prefix::MAX_LEN + 1)).map(drop),
            too_long(NameKind::Prefix, Prefix::MAX_LEN),
        ),
    ];
    for (got, expected) in refused {
        ensure(
            got == Err(expected.clone()),
            format!("expected {expected:?}, got {got:?}"),
        )?;
    }

    // The longest names work, in full length: they differ only in their last byte.
    let base = trial.prefix();
    let fill = long(Prefix::MAX_LEN - base.as_str().len() - 1);
    let mut ends = Vec::new();
    for last in ["x", "y"] {
        let prefix = trial.prefix_like(|p| format!("{p}{fill}{last}"))?;
        let node = trial.node_with(trial.options().prefix(prefix)).await?;
        for end in ["x", "y"] {
            let name = channel(format!("{}{end}", "é".repeat(Channel::MAX_LEN / 2 - 1)) + "_")?;
            ensure(
                name.as_str().len() == Channel::MAX_LEN,
                "the name is not the longest",
            )
            .or_else(|e| inconclusive(format!("{e:?}")))?;
            let reader = trial.subscribe(&node, [&name]).await?;
            ends.push((Arc::clone(&node), name, reader));
        }
    }
    for (i, (node, name, _)) in ends.iter().enumerate() {
        trial.publish(node, name, i.to_string()).await?;
        trial.publish(node, name, "end").await?;
    }
    for (i, (_, _, reader)) in ends.iter_mut().enumerate() {
        reader.expect(i.to_string()).await?;
        reader.expect("end").await?;
    }
    Ok(())
}

async fn m4(trial: Trial) -> Outcome {
    let parse = |option: &str, value: &str| trial.harness().parse_url_option(option, value);
    for option in [
        "no_such_option",
        "prefixx",
        "Prefix",
        "heartbeat_intervall",
        "timeout",
        "x",
    ] {
        match parse(option, "1s") {
            Some(Err(text)) => {
                ensure(
                    text.contains(option),
                    format!("the error does not name {option}: {text}"),
                )?;
            }
            Some(Ok(())) => return broken(format!("the unknown option {option} was swallowed")),
            None => return inconclusive("the harness parses no URL"),
        }
    }
    match parse("prefix", "shop") {
        Some(Ok(())) => Ok(()),
        other => broken(format!("the option prefix is not taken: {other:?}")),
    }
}
