//! The broker's own limits, a rule of L, B or R each: memory, patience with a node that does not keep up, room for
//! connections, and credentials.

use std::time::Duration;

use backplane_core::{
    ConnectErrorKind, ConnectionState, Delivery, DisconnectKind, Event, Events, NodeOptions,
    NotSent, PublishErrorKind, Subscribe, SubscribeErrorKind,
};
use tokio::time::{Instant, MissedTickBehavior};

use crate::harness::{Fault, Start};
use crate::rules::loss::{GRACE, HEARTBEAT_INTERVAL, quick};
use crate::rules::reconnection::generation;
use crate::trial::{Node, Trial, chain, channel, ensure, texts};
use crate::verdict::{Outcome, broken, inconclusive};

/// The pause between two publishes to a broker that may refuse them.
const PACE: Duration = Duration::from_millis(10);

/// What is published to overrun a node: so much that few messages fill the buffers of the sockets on the way.
const LARGE: usize = 64 * 1024;

/// More messages than any broker lets wait, and fewer than a subscription holds by default.
const MOST: u64 = 3000;

/// For a new node to be refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest pause between two tries of a node that is refused.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// How often a node has to be refused to show that it goes on.
const TRIES: usize = 3;

pub(super) async fn l10(trial: Trial) -> Outcome {
    let a = trial.node_with(quick(&trial)).await?;
    let b = trial.node_with(quick(&trial)).await?;
    let (news, other) = (channel("news")?, channel("other")?);
    let mut reader = trial.subscribe(&b, [&news]).await?;
    trial.publish(&a, &news, "before").await?;
    reader.expect("before").await?;
    let mut events = [a.events(), b.events()];
    trial.inject(Fault::OutOfMemory).await?;

    // For a few heartbeats: a probe may be refused as well.
    let long = 5 * HEARTBEAT_INTERVAL;
    let begin = Instant::now();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for i in 0.. {
        if begin.elapsed() >= long {
            break;
        }
        pace.tick().await;
        let node = if i % 2 == 0 { &a } else { &b };
        let text = format!("meanwhile {i}");
        let publish = node.publish(&news, text.clone().into());
        match trial.in_time("a publish does not end", publish).await? {
            Ok(()) => drop(reader.expect(text).await?),
            Err(error) => {
                for events in &mut events {
                    no_outage(events, "the refusal became an outage")?;
                }
                let expected = PublishErrorKind::NotSent(NotSent::Refused);
                let kind = error.kind();
                ensure(
                    kind == expected,
                    format!("expected a delivery or {expected:?}, got {kind:?}: {error}"),
                )?;
            }
        }
    }
    let subscribe = b.subscribe(Subscribe::to([other.clone()]));
    let subscribed = trial.in_time("subscribe does not return", subscribe);
    match subscribed.await?.map_err(|error| error.kind()) {
        Ok(_) | Err(SubscribeErrorKind::Refused) => {}
        Err(kind) => return broken(format!("expected a subscription or Refused, got {kind:?}")),
    }
    for events in &mut events {
        no_outage(events, "the refusal became an outage")?;
    }

    trial.heal().await?;
    trial.publish(&a, &news, "after").await?;
    let got = texts(&reader.up_to("after").await?);
    ensure(
        got.is_empty(),
        format!(
            "nothing was accepted, and delivered was {:?}, {} in all",
            got.first(),
            got.len()
        ),
    )
}

pub(super) async fn b6(trial: Trial) -> Outcome {
    let [a, b, c] = trial.nodes().await?;
    let news = channel("news")?;
    let roomy = Subscribe::to([news.clone()]).capacity(2 * MOST as usize);
    let mut slow = trial.subscribe_to(&b, roomy).await?;
    let mut witness = trial.subscribe(&c, [&news]).await?;
    let mut sent = 0;
    let mut publish = async || -> Outcome {
        let message = numbered(sent);
        sent += 1;
        trial.publish(&a, &news, message.clone()).await?;
        witness.expect(message).await.map(drop)
    };
    for _ in 0..5 {
        publish().await?;
    }
    let before = generation(&b);
    trial.inject(Fault::Overrun(b.node_id())).await?;
    let prefix = trial.prefix();
    let mut waiting = 0;
    loop {
        publish().await?;
        waiting += 1;
        let subscribed = trial.observer()?.subscriptions(&prefix, &news);
        // It may be back already.
        if subscribed.await.or_else(inconclusive)? < 2 || generation(&b) != before {
            break;
        }
        if waiting >= MOST {
            let size = waiting * LARGE as u64;
            return inconclusive(format!(
                "{size} bytes wait for a node, and the broker has not broken it off"
            ));
        }
    }
    trial.heal().await?;
    let mut watch = b.watch();
    let again = watch.wait_for(
        |state| matches!(state, ConnectionState::Connected { generation } if *generation > before),
    );
    trial
        .in_time(
            "the node does not notice that it was broken off, and recover",
            again,
        )
        .await?;
    for _ in 0..5 {
        publish().await?;
    }
    trial.publish(&a, &news, "end").await?;
    let got = slow.up_to("end").await?;
    account(&a, &b, &got, sent)
}

/// One row of messages from the first on, one gap with the right count, one row up to the last.
fn account(from: &Node, at: &Node, got: &[Delivery], sent: u64) -> Outcome {
    let (mut next, mut gap, mut missed) = (0, None, 0);
    for delivery in got {
        match delivery {
            Delivery::Gap(_) if gap.is_some() => {
                return broken("one outage, and more than one gap");
            }
            Delivery::Gap(told) => gap = Some(told),
            Delivery::Message(message) => {
                let number = number(message.payload());
                match (number, gap) {
                    (Some(number), _) if number == next => {}
                    (Some(number), Some(_)) if number > next && missed == 0 => {
                        missed = number - next;
                    }
                    (Some(number), None) if number > next => {
                        return broken(format!(
                            "{} messages are lost without a gap",
                            number - next
                        ));
                    }
                    (number, _) => {
                        return broken(format!("expected message {next}, got {number:?}"));
                    }
                }
                next = number.map_or(next, |number| number + 1);
            }
        }
    }
    ensure(
        next == sent,
        format!("the last of {sent} messages did not arrive, only {next}"),
    )?;
    let Some(gap) = gap else {
        return broken("the broker broke the connection off, and there was no gap");
    };
    let outages = gap.outages();
    ensure(outages == 1, format!("a gap stands for {outages} outages"))?;
    let told = gap.missed_from(from.node_id());
    let expected = at.capabilities().counts_loss.then_some(missed);
    ensure(
        told == expected,
        format!("expected a gap of {expected:?}, told {told:?}"),
    )
}

fn numbered(number: u64) -> Vec<u8> {
    let mut payload = format!("{number:08}").into_bytes();
    payload.resize(LARGE, 0);
    payload
}

fn number(payload: &[u8]) -> Option<u64> {
    std::str::from_utf8(payload.get(..8)?).ok()?.parse().ok()
}

pub(super) async fn r12(trial: Trial) -> Outcome {
    let a = trial.node_with(restless(&trial)).await?;
    let b = trial.node_with(restless(&trial)).await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    let mut events = [a.events(), b.events()];
    trial.inject(Fault::MaxClients).await?;
    for i in 0..50 {
        trial.publish(&a, &news, i.to_string()).await?;
        reader.expect(i.to_string()).await?;
    }
    for node in [&a, &b] {
        if let Err(error) = node.health().await {
            return broken(format!("health fails: {}", chain(&error)));
        }
    }
    for events in &mut events {
        no_outage(events, "a full broker cost a connected node its connection")?;
    }

    refused(&trial, ConnectErrorKind::Refused, "has no room").await?;
    let Ok(lazy) = trial.start(restless(&trial), Start::Lazy).await? else {
        return broken("the lazy constructor failed because the broker has no room");
    };
    trial.inject(Fault::KillSubscribers).await?;
    for node in [&a, &b, &lazy] {
        until_refused(&trial, node, "has no room").await?;
    }
    trial.heal().await?;
    trial.all_up(&[&a, &b, &lazy]).await?;
    trial.publish(&lazy, &news, "after").await?;
    reader.expect_gap().await?;
    reader.expect("after").await.map(drop)
}

pub(super) async fn r13(trial: Trial) -> Outcome {
    let a = trial.node_with(restless(&trial)).await?;
    let b = trial.node_with(restless(&trial)).await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    trial.publish(&a, &news, "before").await?;
    reader.expect("before").await?;
    trial.inject(Fault::RevokeAuth).await?;
    for node in [&a, &b] {
        until_refused(&trial, node, "takes no credentials").await?;
        let publish = node.publish(&news, "lost".into());
        match trial.in_time("a publish does not end", publish).await? {
            Err(error) if error.is_not_sent() => told(&trial, &chain(&error), &error)?,
            other => return broken(format!("expected NotSent, got {other:?}")),
        }
    }
    refused(
        &trial,
        ConnectErrorKind::Unauthorized,
        "takes no credentials",
    )
    .await?;
    trial.heal().await?;
    trial.all_up(&[&a, &b]).await?;
    trial.publish(&a, &news, "after").await?;
    reader.expect_gap().await?;
    reader.expect("after").await.map(drop)
}

/// Options of nodes that try often.
fn restless(trial: &Trial) -> NodeOptions {
    trial.options().backoff_max(MAX_PAUSE)
}

/// A new node must be refused, in time, for this reason.
async fn refused(trial: &Trial, expected: ConnectErrorKind, broker: &str) -> Outcome {
    let timeout = trial.scaled(CONNECT_TIMEOUT);
    let options = trial.options().connect_timeout(timeout);
    let bound = timeout + trial.scaled(GRACE);
    let begin = Instant::now();
    let started = trial.start(options, Start::Eager).await?;
    let took = begin.elapsed();
    let Err(error) = started else {
        return broken(format!("a node was made although the broker {broker}"));
    };
    let text = chain(&error);
    ensure(
        error.kind() == expected,
        format!(
            "the broker {broker}: expected {expected:?}, got {:?}: {text}",
            error.kind()
        ),
    )?;
    ensure(
        std::error::Error::source(&error).is_some_and(|why| !why.to_string().is_empty()),
        format!("the error does not say what the broker said: {text}"),
    )?;
    ensure(
        took <= bound,
        format!("a node was refused after {took:?}, and not within {bound:?}"),
    )?;
    told(trial, &text, &error)
}

/// Waits until a node has been refused a few times, and has said so; nothing else may be the reason.
async fn until_refused(trial: &Trial, node: &Node, broker: &str) -> Outcome {
    let what = format!("the broker {broker}: the node does not say that it is refused");
    let mut watch = node.watch();
    let refused = watch.wait_for(|state| is_refused(state).is_some_and(|refused| refused));
    let state = trial.in_time(&what, refused).await?;
    told(trial, "", &state)?;
    let mut events = node.events();
    let mut tries = 0;
    while tries < TRIES {
        let what = format!("the broker {broker}: the node does not try on");
        match trial.in_time(&what, events.recv()).await? {
            Some(Event::State(state)) => {
                told(trial, &state.to_string(), &state)?;
                match is_refused(&state) {
                    Some(true) => tries += 1,
                    Some(false) => {
                        return broken(format!("the broker {broker}, and the node says: {state}"));
                    }
                    None => {}
                }
            }
            Some(_) => {}
            None => return broken(format!("the broker {broker}, and the events ended")),
        }
    }
    told(trial, "", node)
}

/// Whether a node that is not attached says that it was refused.
fn is_refused(state: &ConnectionState) -> Option<bool> {
    match state {
        ConnectionState::Disconnected { reason } => Some(reason.kind() == DisconnectKind::Refused),
        ConnectionState::Connected { .. } => Some(false),
        _ => None,
    }
}

/// Neither text may hold the secret.
fn told(trial: &Trial, text: &str, debug: &impl std::fmt::Debug) -> Outcome {
    let Some(secret) = trial.harness().secret() else {
        return Ok(());
    };
    let leaked = text.contains(&secret) || format!("{debug:?}").contains(&secret);
    ensure(!leaked, "the refusal tells the password")
}

fn no_outage(events: &mut Events, otherwise: &str) -> Outcome {
    match events.try_recv() {
        Ok(event) => broken(format!("{otherwise}: {event:?}")),
        Err(_) => Ok(()),
    }
}
