//! C4: calls that are given up.
//!
//! Each call is polled a few times and dropped, beside others that go on, while the broker serves and, where the
//! harness can, while it is frozen, so that everything waits, and in an outage. A backend cannot get
//! `Subscription::recv`, `StateWatch` and `Events` wrong by itself, they are types of the core crate; they
//! are tried all the same.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use backplane_core::{
    ConnectionState, Delivery, Event, NodeOptions, NotSent, PublishErrorKind, Subscribe,
};
use futures_util::future::join_all;
use futures_util::poll;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::harness::{Fault, Start};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, show, texts};
use crate::verdict::{Outcome, broken, inconclusive};

pub(super) const RULES: &[Rule] = &[rule!(
    "C4",
    "a call that is given up leaves the node consistent",
    [],
    c4
)];

/// How many publishes of a round there are.
const CALLS: usize = 12;

/// After so many polls a call is given up, so that every await is met.
const POLLS: [usize; 6] = [1, 2, 3, 5, 8, 13];

async fn c4(trial: Trial) -> Outcome {
    let trial = match trial.can(Fault::Kill) {
        true => trial,
        false => trial.with_reachable_nodes(),
    };
    let a = trial.node_with(patient(&trial)).await?;
    let b = trial.node_with(patient(&trial)).await?;
    let mut events = [a.events(), b.events()];
    receiving(&trial, &a, &b).await?;
    for broker in [Broker::Serves, Broker::Frozen] {
        if broker == Broker::Frozen && !trial.can(Fault::Freeze) {
            continue;
        }
        publishing(&trial, broker, &a, &b).await?;
        subscribing(&trial, broker, &a, &b).await?;
        probing(&trial, broker, &b).await?;
        constructing(&trial, broker).await?;
        closing(&trial, broker, &a).await?;
    }
    for events in &mut events {
        let event = events.try_recv().ok();
        ensure(
            event.is_none(),
            format!("a call that was given up cost the connection: {event:?}"),
        )?;
    }
    if trial.can(Fault::Kill) || trial.can(Fault::Isolate(a.node_id())) {
        in_an_outage(&trial, &a, &b).await?;
    }
    Ok(())
}

/// Options with which nothing times out while a broker is frozen for a moment.
pub(super) fn patient(trial: &Trial) -> NodeOptions {
    let long = trial.within();
    trial
        .options()
        .connect_timeout(long)
        .publish_timeout(long)
        .subscribe_timeout(long)
        .heartbeat_interval(long)
        .heartbeat_timeout(long)
}

/// What the broker does while calls are given up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Broker {
    Serves,
    Frozen,
}

impl Broker {
    pub(super) async fn begin(self, trial: &Trial) -> Outcome {
        match self {
            Self::Serves => Ok(()),
            Self::Frozen => trial.inject(Fault::Freeze).await,
        }
    }

    pub(super) async fn end(self, trial: &Trial) -> Outcome {
        match self {
            Self::Serves => Ok(()),
            Self::Frozen => trial.heal().await,
        }
    }
}

/// Reads are given up while messages arrive.
async fn receiving(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    const MESSAGES: usize = 60;
    let news = channel("read")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    let publish = async {
        for i in 0..MESSAGES {
            trial.publish(a, &news, i.to_string()).await?;
        }
        Ok(())
    };
    let read = async {
        let (mut next, mut since) = (0, Instant::now());
        while next < MESSAGES {
            let received = give_up_after(1 + next % 3, reader.subscription.recv()).await;
            match received {
                None if since.elapsed() < trial.within() => yield_now().await,
                None => {
                    return broken(format!(
                        "with reads given up, message {next} did not arrive within {:?}",
                        trial.within()
                    ));
                }
                Some(Some(Delivery::Message(message)))
                    if message.payload() == next.to_string().as_bytes() =>
                {
                    next += 1;
                    since = Instant::now();
                }
                Some(other) => {
                    return broken(format!(
                        "with reads given up, expected message {next}, got {other:?}"
                    ));
                }
            }
        }
        Ok(())
    };
    tokio::try_join!(publish, read).map(drop)
}

/// Some of the callers on one channel go away; the others must not notice.
async fn publishing(trial: &Trial, broker: Broker, a: &Node, b: &Node) -> Outcome {
    let news = channel("published")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    let rounds = match broker {
        Broker::Serves => 40,
        Broker::Frozen => 4,
    };
    let mut random = trial.seed();
    for round in 0..rounds {
        broker.begin(trial).await?;
        let mut calls = Vec::new();
        for i in 0..CALLS {
            let mut call = a.publish(&news, i.to_string().into());
            // Started in this order, all of them.
            let first = poll!(call.as_mut());
            calls.push((i, call, first));
        }
        let (mut staying, mut done) = (Vec::new(), Vec::new());
        for (i, call, first) in calls {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Every other time the first goes, which may carry the others.
            let goes = (i == 0 && round % 2 == 0) || (random >> 60) < 5;
            match first {
                Poll::Ready(result) => done.push((i, result)),
                Poll::Pending if goes => {
                    let polls = usize::try_from((random >> 40) & 7).unwrap_or_default();
                    if let Some(result) = give_up_after(polls, call).await {
                        done.push((i, result));
                    }
                }
                Poll::Pending => staying.push(async move { (i, call.await) }),
            }
        }
        broker.end(trial).await?;
        let what = "a publish beside one that was given up does not return";
        done.extend(trial.in_time(what, join_all(staying)).await?);
        for (i, result) in &done {
            if let Err(error) = result {
                return broken(format!(
                    "publish {i}, beside one that was given up, failed: {}",
                    chain(error)
                ));
            }
        }
        trial.publish(a, &news, "end").await?;
        let got = texts(&reader.up_to("end").await?);
        arrived(&got, done.into_iter().map(|(i, _)| i))?;
    }
    Ok(())
}

/// Whatever was not given up has arrived once, the rest at most once, all in order.
fn arrived(got: &[String], stayed: impl Iterator<Item = usize>) -> Outcome {
    let times = |text: &String| got.iter().filter(|other| *other == text).count();
    let expected: Vec<_> = (0..CALLS).map(|i| show(i.to_string().as_bytes())).collect();
    for text in &expected {
        ensure(
            times(text) < 2,
            format!("message {text} arrived {} times", times(text)),
        )?;
    }
    for i in stayed {
        ensure(
            times(&expected[i]) == 1,
            format!("message {i}, whose caller stayed, did not arrive"),
        )?;
    }
    let mut all = expected.iter();
    let in_order = got.iter().all(|text| all.any(|other| other == text));
    ensure(
        in_order,
        format!("with publishes given up, this arrived: {got:?}"),
    )
}

/// Subscribing is given up, of a channel that others hold, and of one that nobody does.
async fn subscribing(trial: &Trial, broker: Broker, a: &Node, b: &Node) -> Outcome {
    let (held, more) = (channel("held")?, channel("more")?);
    let mut kept = trial.subscribe(b, [&held]).await?;
    let mut witness = trial.subscribe(b, [&held]).await?;
    let handle = kept.subscription.handle();
    let counted = live(b);
    for polls in POLLS {
        broker.begin(trial).await?;
        let request = Subscribe::to([held.clone(), more.clone()]);
        let subscribed = give_up_after(polls, b.subscribe(request)).await;
        let added = give_up_after(polls, handle.subscribe([more.clone()])).await;
        if added.is_some() {
            handle.unsubscribe([more.clone()]);
        }
        let deferred = give_up_after(polls, handle.subscribe_deferred([more.clone()])).await;
        if deferred.is_some() {
            handle.unsubscribe([more.clone()]);
        }
        broker.end(trial).await?;
        let failed = [
            subscribed.and_then(Result::err),
            added.and_then(Result::err),
            deferred.and_then(Result::err),
        ];
        if let Some(error) = failed.into_iter().flatten().next() {
            return broken(format!(
                "a subscribe after one that was given up failed: {}",
                chain(&error)
            ));
        }
        trial.publish(a, &held, polls.to_string()).await?;
        kept.expect(polls.to_string()).await?;
        witness.expect(polls.to_string()).await?;
    }
    nothing_held(trial, b, counted).await?;
    let holds = handle.channels();
    ensure(
        holds == [held.clone()],
        format!("after subscribes that were given up, it holds {holds:?}"),
    )?;
    if trial.harness().observer().is_some() {
        trial.until_subscriptions(&trial.prefix(), &held, 1).await?;
        trial.until_subscriptions(&trial.prefix(), &more, 0).await?;
    }
    let mut again = trial.subscribe(b, [&more]).await?;
    let what = "adding a channel after one that was given up does not return";
    if let Err(error) = trial
        .in_time(what, handle.subscribe([more.clone()]))
        .await?
    {
        return broken(format!("adding a channel failed: {}", chain(&error)));
    }
    trial.publish(a, &more, "once").await?;
    trial.publish(a, &more, "end").await?;
    for reader in [&mut again, &mut kept] {
        reader.expect_all(["once", "end"]).await?;
    }
    Ok(())
}

/// The subscriptions and channels that live on a node.
fn live(node: &Node) -> (u64, u64) {
    let stats = node.stats();
    (stats.subscriptions, stats.channels)
}

async fn nothing_held(trial: &Trial, node: &Node, counted: (u64, u64)) -> Outcome {
    let what = format!("{counted:?} subscriptions and channels after calls that were given up");
    trial
        .until(&what, || async {
            let seen = live(node);
            Ok((seen != counted).then(|| format!("{seen:?}")))
        })
        .await
}

/// Health is given up, beside one that is not.
async fn probing(trial: &Trial, broker: Broker, node: &Node) -> Outcome {
    for (round, polls) in POLLS.into_iter().enumerate() {
        broker.begin(trial).await?;
        let (mut beside, mut given_up) = (node.health(), node.health());
        // The one or the other comes first.
        let (first, other) = if round % 2 == 0 {
            let other = poll!(given_up.as_mut());
            (poll!(beside.as_mut()), other)
        } else {
            (poll!(beside.as_mut()), poll!(given_up.as_mut()))
        };
        if other.is_pending() {
            drop(give_up_after(polls - 1, given_up).await);
        }
        broker.end(trial).await?;
        let what = "health beside one that was given up does not return";
        let beside = match first {
            Poll::Ready(healthy) => healthy,
            Poll::Pending => trial.in_time(what, beside).await?,
        };
        let what = "health after one that was given up does not return";
        let after = trial.in_time(what, node.health()).await?;
        if let Err(error) = beside.and(after) {
            return broken(format!(
                "health fails because one was given up: {}",
                chain(&error)
            ));
        }
    }
    Ok(())
}

/// A constructor is given up at every stage.
async fn constructing(trial: &Trial, broker: Broker) -> Outcome {
    const MOST: usize = 1000;
    let before = Around::of(trial).await?;
    let mut polls = 1;
    while polls < MOST {
        broker.begin(trial).await?;
        let spec = trial.spec(patient(trial), Start::Eager);
        let made = give_up_after(polls, trial.harness().node(&spec)).await;
        broker.end(trial).await?;
        let complete = made.is_some();
        match made {
            None => {}
            Some(Ok(node)) => trial.in_time("close does not return", node.close()).await?,
            Some(Err(error)) => {
                return inconclusive(format!("cannot make a node: {}", chain(&error)));
            }
        }
        before
            .again(trial, "a constructor that was given up")
            .await?;
        if complete {
            break;
        }
        polls += 1 + polls / 2;
        if broker == Broker::Frozen {
            polls *= 4;
        }
    }
    Ok(())
}

/// Close is given up; it must go on, and can be called again.
async fn closing(trial: &Trial, broker: Broker, a: &Node) -> Outcome {
    let news = channel("closing")?;
    let before = Around::of(trial).await?;
    for polls in POLLS {
        let node = trial.node_with(patient(trial)).await?;
        // An outage that is made later does not concern it.
        trial.forget(&node);
        let mut reader = trial.subscribe(&node, [&news]).await?;
        let mut witness = trial.subscribe(&node, [&news]).await?;
        let mut events = node.events();
        trial.publish(a, &news, "before").await?;
        witness.expect("before").await?;
        broker.begin(trial).await?;
        let _ = give_up_after(polls, node.close()).await;
        broker.end(trial).await?;
        let mut watch = node.watch();
        // Given up as well, at first.
        drop(give_up_after(1, watch.wait_for(|state| *state == ConnectionState::Closed)).await);
        let closed = watch.wait_for(|state| *state == ConnectionState::Closed);
        let what = "a node whose close was given up does not close";
        trial.in_time(what, closed).await?;
        let what = "a close after one that was given up does not return";
        trial.in_time(what, node.close()).await?;
        expect_closed(&node, &mut reader, &mut witness).await?;
        let mut last = None;
        while let Some(event) = trial
            .in_time("the events do not end", events.recv())
            .await?
        {
            last = Some(event);
        }
        ensure(
            last == Some(Event::State(ConnectionState::Closed)),
            format!("after a close that was given up, the last event is {last:?}"),
        )?;
        before.again(trial, "a close that was given up").await?;
    }
    if trial.harness().observer().is_some() {
        trial.until_subscriptions(&trial.prefix(), &news, 0).await?;
    }
    Ok(())
}

async fn expect_closed(node: &Node, reader: &mut Reader, witness: &mut Reader) -> Outcome {
    let published = node.publish(&channel("closing")?, "late".into()).await;
    let kind = published.map_err(|error| error.kind());
    ensure(
        kind == Err(PublishErrorKind::NotSent(NotSent::Closed)),
        format!("publish after a close that was given up: expected Closed, got {kind:?}"),
    )?;
    reader.expect("before").await?;
    reader.expect_end().await?;
    witness.expect_end().await
}

/// What lives around the trial's nodes.
struct Around {
    connections: Option<u64>,
    tasks: usize,
}

impl Around {
    async fn of(trial: &Trial) -> Outcome<Self> {
        let connections = match trial.harness().observer() {
            Some(_) => Some(trial.connections().await?),
            None => None,
        };
        let tasks = Handle::current().metrics().num_alive_tasks();
        Ok(Self { connections, tasks })
    }

    /// Waits until nothing more than that is left.
    async fn again(&self, trial: &Trial, after: &str) -> Outcome {
        if let Some(connections) = self.connections {
            let what = format!("{connections} connections on the broker after {after}");
            trial
                .until(&what, || async {
                    let seen = trial.connections().await?;
                    Ok((seen > connections).then(|| seen.to_string()))
                })
                .await?;
        }
        let what = format!("at most {} tasks after {after}", self.tasks);
        trial
            .until(&what, || async {
                let alive = Handle::current().metrics().num_alive_tasks();
                Ok((alive > self.tasks).then(|| alive.to_string()))
            })
            .await
    }
}

/// Calls are given up while the node is away.
async fn in_an_outage(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    let (news, more) = (channel("away")?, channel("more away")?);
    let mut reader = trial.subscribe(b, [&news]).await?;
    let handle = reader.subscription.handle();
    let counted = live(b);
    let (mut events, mut witness) = (b.events(), b.events());
    let mut told = Vec::new();
    trial.outage().await?;
    trial.all_down(&[a, b]).await?;
    for polls in POLLS {
        if let Some(Ok(())) = give_up_after(polls, a.publish(&news, "lost".into())).await {
            return broken("a publish in the outage succeeded");
        }
        for request in [
            Subscribe::to([more.clone()]),
            Subscribe::to([more.clone()]).deferred(),
        ] {
            drop(give_up_after(polls, b.subscribe(request)).await);
        }
        drop(give_up_after(polls, handle.subscribe([more.clone()])).await);
        drop(give_up_after(polls, handle.subscribe_deferred([more.clone()])).await);
        handle.unsubscribe([more.clone()]);
        drop(give_up_after(polls, b.health()).await);
        let _ = give_up_after(polls, b.watch().connected()).await;
        told.extend(give_up_after(polls, events.recv()).await.flatten());
    }
    trial.heal().await?;
    trial.all_up(&[a, b]).await?;
    nothing_held(trial, b, counted).await?;
    trial.publish(a, &news, "after").await?;
    reader.expect_gap().await?;
    reader.expect("after").await?;
    told.extend(std::iter::from_fn(|| events.try_recv().ok()));
    let all: Vec<_> = std::iter::from_fn(|| witness.try_recv().ok()).collect();
    ensure(
        told == all,
        format!("with reads given up, the events were {told:?} instead of {all:?}"),
    )
}

/// Polls a future so many times, with room for others in between, and drops it then.
pub(super) async fn give_up_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for poll in 0..polls {
        if poll > 0 {
            yield_now().await;
        }
        if let Poll::Ready(done) = poll!(future.as_mut()) {
            return Some(done);
        }
    }
    None
}
