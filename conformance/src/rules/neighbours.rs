//! C3: nodes of one process.

use backplane_core::{
    Channel, ConnectionState, Events, Missed, NodeOptions, NotSent, PublishErrorKind, Stats,
};

use super::closing::alone;
use crate::harness::Fault;
use crate::rule::{Rule, rule};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[rule!(
    "C3",
    "two nodes in one process are as independent as two processes",
    [],
    c3
)];

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
    trial
        .until("6 messages that do not fit into a queue for 4", || async {
            let seen = small.stats().overflowed;
            Ok((seen != 6).then(|| seen.to_string()))
        })
        .await?;
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
