//! Wrong at S4: right as long as one thing happens after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Link, LinkError};
use backplane_core::{
    Channel, Subscribe, SubscribeError, Subscribed, Subscription, SubscriptionHandle,
};

use super::driver::{Line, LinkTwist};
use super::harness::Wrong;
use super::node::{Inner, NodeTwist, Tap, lock};
use super::pump::{Control, Parts, Side, Straight};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "unsubscribe-undoes-a-subscribe-of-another",
        "S4",
        "subscribe returned, and the subscription does not hold room",
        "a subscribe that is on its way is taken back when anybody on the node leaves the channel meanwhile",
        || Wrong::new().nodes(|_| Meddles::of(Meddling::Undoes)),
    ),
    mutant!(
        "unsubscribe-is-lost-beside-a-subscribe",
        "S4",
        "unsubscribe returned, and the subscription still holds room",
        "an unsubscribe is dropped while a subscribe of the channel is on its way (StackExchange.Redis #1110)",
        || Wrong::new().nodes(|_| Meddles::of(Meddling::Loses)),
    ),
    mutant!(
        "two-subscribes-at-once-leave-one-behind",
        "S4",
        "live subscriptions and channels, and it is",
        "two tasks find that nobody is subscribed, and both subscribe",
        || Wrong::new().nodes(|_| LeavesBehind::default()),
    ),
    mutant!(
        "unsubscribes-the-first-of-a-batch",
        "S4",
        "on the broker, and it is 1",
        "of the channels that are left at once the broker is told of one",
        || Wrong::new().links(|| FirstOfBatch),
    ),
];

/// What goes on with a channel on one node.
#[derive(Debug, Default)]
struct Going {
    /// Subscribes that have not ended.
    subscribes: u64,
    /// Unsubscribes so far.
    left: u64,
}

type Goings = Arc<Mutex<HashMap<Channel, Going>>>;

/// A subscribe that has not ended.
struct OnItsWay {
    goings: Goings,
    channels: Vec<Channel>,
}

impl OnItsWay {
    /// Also says how many others there are at most of a channel.
    fn begin(goings: &Goings, channels: &[Channel]) -> (Self, u64) {
        let mut table = lock(goings);
        let mut most = 0;
        for channel in channels {
            let going = table.entry(channel.clone()).or_default();
            most = most.max(going.subscribes);
            going.subscribes += 1;
        }
        let this = Self {
            goings: Arc::clone(goings),
            channels: channels.to_vec(),
        };
        (this, most)
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut table = lock(&self.goings);
        for channel in &self.channels {
            table.entry(channel.clone()).or_default().subscribes -= 1;
        }
    }
}

/// What the handles of one node do to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meddling {
    Loses,
    Undoes,
}

#[derive(Clone)]
struct Meddles {
    how: Meddling,
    goings: Goings,
}

impl Meddles {
    fn of(how: Meddling) -> Self {
        Self {
            how,
            goings: Goings::default(),
        }
    }
}

#[async_trait]
impl NodeTwist for Meddles {
    fn parts(&self, _node: &Inner, _tap: &Tap) -> Option<Parts> {
        Some(Parts::control(self.clone()))
    }
}

#[async_trait]
impl Control for Meddles {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let left = |goings: &Goings| -> u64 {
            let mut table = lock(goings);
            let of = channels
                .iter()
                .map(|c| table.entry(c.clone()).or_default().left);
            of.sum()
        };
        let before = left(&self.goings);
        let (_on_its_way, _) = OnItsWay::begin(&self.goings, &channels);
        let subscribed = Straight
            .subscribe(below, channels.clone(), deferred)
            .await?;
        if self.how == Meddling::Undoes && left(&self.goings) != before {
            below.unsubscribe(channels);
        }
        Ok(subscribed)
    }

    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        let mut leave = Vec::new();
        {
            let mut table = lock(&self.goings);
            for channel in channels {
                let going = table.entry(channel.clone()).or_default();
                going.left += 1;
                if self.how == Meddling::Undoes || going.subscribes == 0 {
                    leave.push(channel.clone());
                }
            }
        }
        side.out.purge(&leave);
        side.below.unsubscribe(leave);
    }
}

/// Keeps a subscription that nobody has.
#[derive(Default)]
struct LeavesBehind {
    goings: Goings,
    kept: Mutex<Vec<Subscription>>,
}

#[async_trait]
impl NodeTwist for LeavesBehind {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let (_on_its_way, others) = OnItsWay::begin(&self.goings, request.channels());
        if others > 0 && lock(&self.kept).is_empty() {
            let twice = node.subscribe(request.clone()).await?;
            lock(&self.kept).push(twice);
        }
        node.subscribe(request).await
    }
}

struct FirstOfBatch;

#[async_trait]
impl LinkTwist for FirstOfBatch {
    async fn unsubscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        line.link
            .unsubscribe(&channels[..channels.len().min(1)])
            .await
    }
}
