//! O: order.

use futures_util::future::join_all;

use crate::rule::{Rule, rule};
use crate::trial::{Reader, Trial, chain, channel};
use crate::verdict::{Outcome, broken};

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
    in_order(&mut readers, 500).await
}

async fn o2(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut readers = vec![
        trial.subscribe(&a, [&news]).await?,
        trial.subscribe(&b, [&news]).await?,
    ];
    for burst in [1, 2, 3, 10, 100, 1000] {
        let publishes = (0..burst).map(|i: usize| a.publish(&news, i.to_string().into()));
        let published = trial
            .in_time("publishes do not return", join_all(publishes))
            .await?;
        for result in published {
            if let Err(error) = result {
                return broken(format!("publish failed: {}", chain(&error)));
            }
        }
        in_order(&mut readers, burst).await?;
    }
    Ok(())
}

async fn in_order(readers: &mut [Reader], count: usize) -> Outcome {
    for reader in readers {
        reader.expect_all((0..count).map(|i| i.to_string())).await?;
    }
    Ok(())
}
