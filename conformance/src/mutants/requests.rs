//! Wrong for one way of asking only: without own messages, deferred, through a handle, twice.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::{
    Channel, Message, PublishError, Subscribe, SubscribeError, Subscribed, Subscription,
    SubscriptionHandle,
};
use bytes::Bytes;

use super::delivery::Asks;
use super::harness::Wrong;
use super::loss::{Missed, Replays, generation};
use super::node::{Inner, NodeTwist, Tap, Tasks, Wish, lock, with_channels};
use super::pump::{Control, OnGap, OnMessage, Out, Parts, Side, Straight};
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "without-own-holds-for-the-first-channels",
        "D1",
        "messages arrived that nobody sent",
        "what is added by a handle is not asked whether own messages are wanted",
        || Wrong::new().nodes(|_| WithoutOwn::FirstChannels),
    ),
    mutant!(
        "without-own-ends-with-the-connection",
        "D1",
        r#"got message "own""#,
        "the broker was told not to send own messages, and is not told again",
        || Wrong::new().nodes(|_| WithoutOwn::FirstConnection),
    ),
    mutant!(
        "a-channel-named-twice-comes-twice",
        "D1",
        "arrived 2 times",
        "the channels of a subscription are a list, and not a set",
        || Wrong::new().parts(|tap| {
            let channels = tap.request.channels().to_vec();
            Parts::pump(OnMessage(move |message: Message, out: &Out| {
                let named = channels.iter().filter(|c| *c == message.channel());
                for _ in 0..named.count().max(1) {
                    out.message(message.clone());
                }
            }))
        }),
    ),
    mutant!(
        "a-channel-added-twice-comes-twice",
        "D1",
        "arrived 2 times",
        "who adds what a subscription has already is registered once more",
        || Wrong::new().parts(|_| {
            let added = Held::default();
            let control = Registers(Held::clone(&added));
            let pump = OnMessage(move |message: Message, out: &Out| {
                let more = lock(&added).get(message.channel()).copied();
                for _ in 0..=more.unwrap_or_default() {
                    out.message(message.clone());
                }
            });
            Parts::new(pump, control)
        }),
    ),
    mutant!(
        "a-channel-added-twice-must-be-left-twice",
        "S2",
        "delivered after unsubscribe returned",
        "a subscription counts how often it was asked for a channel",
        || Wrong::new().controls(|| LeavesOnce(Held::default())),
    ),
    mutant!(
        "unsubscribe-throws-away-what-waits-of-others",
        "S2",
        "instead of what waited",
        "the queue is emptied when one of its channels is left",
        || Wrong::new().controls(|| EmptiesTheQueue),
    ),
    mutant!(
        "leaving-what-one-has-not-ends-it-for-all",
        "S2",
        "did not arrive within",
        "an unsubscribe counts, whether or not there was a subscription",
        || Wrong::new().nodes(|_| EndsForAll(Arc::default())),
    ),
    mutant!(
        "a-dropped-subscription-keeps-what-was-added",
        "S2",
        "expected 0 subscriptions",
        "a drop leaves the channels that the subscription began with",
        || Wrong::new().nodes(|_| KeepsAdded(Arc::default())),
    ),
    mutant!(
        "a-deferred-subscribe-does-not-wait-for-the-broker",
        "S1",
        "did not arrive",
        "who may be deferred is, with the broker at hand",
        || Wrong::new().nodes(|_| SubscribesLater::WhatMayWait(Tasks::default())),
    ),
    mutant!(
        "a-deferred-channel-does-not-wait-for-the-broker",
        "S1",
        "did not arrive",
        "what is added and may be deferred is, with the broker at hand",
        || Wrong::new().controls(|| AddsLater(Tasks::default())),
    ),
    mutant!(
        "a-subscribe-beside-another-does-not-wait",
        "S1",
        "did not arrive",
        "the second of two who subscribe at once finds the channel on the list, and takes it for subscribed",
        || Wrong::new().nodes(|_| SubscribesLater::TheSecond(Tasks::default(), Mutex::default())),
    ),
    mutant!(
        "a-deferred-subscription-has-the-default-capacity",
        "B2",
        "expected a gap",
        "what is put off is made again later, and not with all that was asked for",
        || Wrong::new().nodes(|_| Asks(|request| match request.is_deferred() {
            true => Wish {
                capacity: None,
                ..Wish::of(&request)
            }
            .request(),
            false => request,
        })),
    ),
    mutant!(
        "tells-no-gap-to-those-without-own",
        "L5",
        "expected a gap, got message",
        "subscriptions of the second kind are on another list, and nobody tells them of an outage",
        || Wrong::new().parts(|tap| deaf_to_gaps(tap.request.is_without_own())),
    ),
    mutant!(
        "tells-no-gap-of-added-channels",
        "L5",
        "expected a gap, got message",
        "who had no channel at first has missed nothing",
        || Wrong::new().parts(|tap| deaf_to_gaps(tap.request.channels().is_empty())),
    ),
    mutant!(
        "a-deferred-subscription-gets-the-outage",
        "L4",
        "delivered to who had deferred",
        "what a channel missed is kept for those who wait for it",
        || {
            let missed = Missed::default();
            Wrong::new().nodes(move |_| KeptForThem(Replays(missed.clone())))
        },
    ),
    mutant!(
        "a-deferred-subscription-outlives-one-outage",
        "S8",
        "after another outage",
        "what was deferred is subscribed once, and is not among what comes back",
        || Wrong::new().parts(|tap| {
            let (deferred, watch) = (tap.request.is_deferred(), tap.watch.clone());
            let begin = generation(&watch.current());
            let mut first = None;
            Parts::pump(OnMessage(move |message: Message, out: &Out| {
                let now = generation(&watch.current());
                let first = *first.get_or_insert(now);
                if !deferred || begin > 0 || now == first {
                    out.message(message);
                }
            }))
        }),
    ),
];

/// How often each channel was added beyond the first time.
type Held = Arc<Mutex<HashMap<Channel, usize>>>;

/// Filters own messages where the node does not.
#[derive(Clone, Copy)]
enum WithoutOwn {
    FirstChannels,
    FirstConnection,
}

#[async_trait]
impl NodeTwist for WithoutOwn {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let with_own = Wish {
            without_own: false,
            ..Wish::of(&request)
        };
        node.subscribe(with_own.request()).await
    }

    fn parts(&self, node: &Inner, tap: &Tap) -> Option<Parts> {
        let (this, own, tap) = (*self, node.node_id(), tap.clone());
        Some(Parts::pump(OnMessage(
            move |message: Message, out: &Out| {
                let heeded = match this {
                    Self::FirstChannels => tap.request.channels().contains(message.channel()),
                    Self::FirstConnection => generation(&tap.watch.current()) < 2,
                };
                let unwanted = tap.request.is_without_own() && message.publisher() == own;
                if !(unwanted && heeded) {
                    out.message(message);
                }
            },
        )))
    }
}

/// Delivers what was missed in an outage to those who have deferred, with the first message after it.
struct KeptForThem(Replays);

#[async_trait]
impl NodeTwist for KeptForThem {
    fn made(&self, node: &Inner) {
        self.0.made(node);
    }

    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.0.publish(node, channel, payload).await
    }

    fn parts(&self, node: &Inner, tap: &Tap) -> Option<Parts> {
        let deferred = tap.request.is_deferred() && !tap.watch.current().is_connected();
        let missed = self.0.of(node.node_id())?;
        Some(Parts::pump(OnMessage(
            move |message: Message, out: &Out| {
                if deferred {
                    let mut missed = lock(&missed);
                    missed.drain(..).for_each(|message| out.message(message));
                }
                out.message(message);
            },
        )))
    }
}

/// Counts a channel that is added although it is there.
struct Registers(Held);

#[async_trait]
impl Control for Registers {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let held = below.channels();
        for channel in channels.iter().filter(|channel| held.contains(channel)) {
            *lock(&self.0).entry(channel.clone()).or_default() += 1;
        }
        Straight.subscribe(below, channels, deferred).await
    }
}

/// Leaves a channel when it was left as often as it was added.
struct LeavesOnce(Held);

#[async_trait]
impl Control for LeavesOnce {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        let counts = Registers(Held::clone(&self.0));
        counts.subscribe(below, channels, deferred).await
    }

    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        let mut held = lock(&self.0);
        let mut left = channels.to_vec();
        left.retain(|channel| match held.get_mut(channel) {
            Some(more) if *more > 0 => {
                *more -= 1;
                false
            }
            _ => true,
        });
        Straight.unsubscribe(side, &left);
    }
}

struct EmptiesTheQueue;

#[async_trait]
impl Control for EmptiesTheQueue {
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        side.out.purge(&side.below.channels());
        let Side { subscription, .. } = side;
        if let Some(subscription) = subscription {
            while subscription.try_recv().is_ok() {}
        }
        side.below.unsubscribe(channels.iter().cloned());
    }
}

/// The channels that were left by who had not got them.
struct EndsForAll(Arc<Mutex<HashSet<Channel>>>);

impl NodeTwist for EndsForAll {
    fn parts(&self, _node: &Inner, _tap: &Tap) -> Option<Parts> {
        let ended = Arc::clone(&self.0);
        let control = EndsWhatItHasNot(Arc::clone(&self.0));
        let pump = OnMessage(move |message: Message, out: &Out| {
            if !lock(&ended).contains(message.channel()) {
                out.message(message);
            }
        });
        Some(Parts::new(pump, control))
    }
}

struct EndsWhatItHasNot(Arc<Mutex<HashSet<Channel>>>);

#[async_trait]
impl Control for EndsWhatItHasNot {
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        let held = side.below.channels();
        let strange = channels.iter().filter(|channel| !held.contains(channel));
        lock(&self.0).extend(strange.cloned());
        Straight.unsubscribe(side, channels);
    }
}

/// Subscriptions that were dropped, and are kept because something was added to them.
type Kept = Arc<Mutex<Vec<Subscription>>>;

struct KeepsAdded(Kept);

#[async_trait]
impl NodeTwist for KeepsAdded {
    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let first = tap.request.channels().to_vec();
        Some(Parts::control(KeptIfAdded::new(first, Arc::clone(&self.0))))
    }
}

/// Keeps a subscription that is dropped, for the channels that were added to it.
pub(super) struct KeptIfAdded {
    first: Vec<Channel>,
    kept: Kept,
    /// When it does so.
    when: Box<dyn Fn() -> bool + Send + Sync>,
}

impl KeptIfAdded {
    pub(super) fn new(first: Vec<Channel>, kept: Kept) -> Self {
        Self {
            first,
            kept,
            when: Box::new(|| true),
        }
    }

    /// Only then.
    pub(super) fn only(mut self, when: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.when = Box::new(when);
        self
    }
}

impl Control for KeptIfAdded {
    fn close(&self, below: Subscription) {
        if !(self.when)() {
            return;
        }
        below.handle().unsubscribe(self.first.iter().cloned());
        if !below.channels().is_empty() {
            lock(&self.kept).push(below);
        }
    }
}

/// Returns a subscription without its channels, which come a little later.
enum SubscribesLater {
    /// If it may be deferred, and need not.
    WhatMayWait(Tasks),
    /// If somebody else is subscribing to the same.
    TheSecond(Tasks, Mutex<Vec<Channel>>),
}

#[async_trait]
impl NodeTwist for SubscribesLater {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        let channels = request.channels().to_vec();
        let (tasks, later) = match self {
            Self::WhatMayWait(tasks) => {
                let connected = node.state().is_connected();
                (tasks, request.is_deferred() && connected)
            }
            Self::TheSecond(tasks, busy) => {
                let is_busy = channels.iter().any(|channel| lock(busy).contains(channel));
                (tasks, is_busy)
            }
        };
        if later {
            let subscription = node.subscribe(with_channels(&request, [])).await?;
            add_later(tasks, &subscription.handle(), channels);
            return Ok(subscription);
        }
        if let Self::TheSecond(_, busy) = self {
            lock(busy).extend(channels.iter().cloned());
            let subscribed = node.subscribe(request).await;
            lock(busy).retain(|channel| !channels.contains(channel));
            return subscribed;
        }
        node.subscribe(request).await
    }
}

struct AddsLater(Tasks);

#[async_trait]
impl Control for AddsLater {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        if !deferred {
            return Straight.subscribe(below, channels, deferred).await;
        }
        add_later(&self.0, below, channels);
        Ok(Subscribed::InForce)
    }
}

fn add_later(tasks: &Tasks, handle: &SubscriptionHandle, channels: Vec<Channel>) {
    let handle = handle.clone();
    tasks.spawn(async move {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let _ = handle.subscribe(channels).await;
    });
}

fn deaf_to_gaps(deaf: bool) -> Parts {
    Parts::pump(OnGap(move |gap, out: &Out| {
        if !deaf {
            out.gap(gap);
        }
    }))
}
