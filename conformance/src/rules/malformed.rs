//! M: malformed input.

use std::sync::Arc;
use std::time::Duration;

use backplane_core::{Channel, Event, Events, InvalidName, NameKind, NodeId, Prefix, Stats};
use bytes::Bytes;
use tokio::time::timeout;

use crate::harness::Observer;
use crate::rule::{Rule, rule};
use crate::trial::{Node, Reader, Trial, channel, ensure};
use crate::verdict::{Ending, Outcome, broken, inconclusive};
use crate::wire::Wire;

pub(super) const RULES: &[Rule] = &[
    rule!(
        "M1",
        "malformed frames are skipped and counted, and cost nothing else",
        [Observer],
        m1
    ),
    rule!(
        "M2",
        "a newer wire version is skipped and told once per publisher",
        [Observer],
        m2
    ),
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

async fn m1(trial: Trial) -> Outcome {
    let mut ear = Ear::new(&trial).await?;
    let stranger = NodeId::from_u64(trial.seed() | 1);
    let right = |sequence, payload| ear.wire.frame(stranger, sequence, payload);
    let (first, second) = (right(0, b"first"), right(1, b"second"));
    let malformed = malformed(&trial, ear.wire, ear.speaker.node_id());

    // What the suite takes for a frame is one.
    ear.write(&first).await?;
    let heard = ear.reader.expect("first").await;
    heard.or_else(|e| wrong("a right frame of a stranger (see Harness::wire)", e))?;
    for (what, bytes) in malformed {
        let before = ear.listener.stats();
        ear.write(&bytes).await?;
        ear.next_message_arrives_alone(&what).await?;
        let now = ear.listener.stats();
        let counted = now.malformed.saturating_sub(before.malformed);
        ensure(
            counted == 1,
            format!("{what}: counted as {counted} malformed frames"),
        )?;
        nothing_else_is_counted(&what, before, now)?;
    }

    // A number that comes again is the same message again, and no new one.
    let before = ear.listener.stats();
    ear.write(&second).await?;
    ear.reader.expect("second").await?;
    ear.write(&second).await?;
    ear.write(&first).await?;
    let what = "frames that came before, again";
    ear.next_message_arrives_alone(what).await?;
    let now = ear.listener.stats();
    ensure(
        now.duplicates == before.duplicates + 2 && now.malformed == before.malformed,
        format!("{what}: before them {before:?}, after them {now:?}"),
    )?;
    ear.nothing_was_told("malformed frames").await
}

/// Each with what is wrong.
fn malformed(trial: &Trial, wire: &dyn Wire, publisher: NodeId) -> Vec<(String, Bytes)> {
    let frame = wire.frame(publisher, 1 << 20, b"cut off");
    let mut all: Vec<_> = (0..frame.len())
        .map(|len| {
            let what = format!("the first {len} of {} bytes of a frame", frame.len());
            (what, frame.slice(..len))
        })
        .collect();
    all.extend(wire.lies(publisher));
    let mut random = trial.seed();
    let mut byte = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 56) as u8
    };
    for n in 0..60 {
        let mut noise: Vec<u8> = (0..=byte()).map(|_| byte()).collect();
        // By chance it could begin like a frame.
        noise[0] = if noise[0] == frame[0] {
            !frame[0]
        } else {
            noise[0]
        };
        all.push((format!("noise {n}, of {} bytes", noise.len()), noise.into()));
    }
    all.push(("a megabyte of zeros".to_owned(), vec![0; 1 << 20].into()));
    all
}

async fn m2(trial: Trial) -> Outcome {
    let mut ear = Ear::new(&trial).await?;
    let first = trial.seed() | 1;
    // The third one speaks the last version that there can be.
    let next = ear.wire.version().saturating_add(1);
    let publishers = [
        (next, NodeId::from_u64(first)),
        (next, NodeId::from_u64(first ^ 2)),
        (u8::MAX, NodeId::from_u64(first ^ 4)),
    ];
    for round in 0..3 {
        for (version, publisher) in publishers {
            let what = format!("frame {round} of {publisher}, of version {version}");
            let before = ear.listener.stats();
            let newer = ear.wire.newer(version, publisher);
            ear.write(&newer).await?;
            ear.next_message_arrives_alone(&what).await?;
            let now = ear.listener.stats();
            ensure(
                now.malformed == before.malformed,
                format!("{what}: counted as malformed"),
            )?;
            let counted = now.incompatible.saturating_sub(before.incompatible);
            ensure(
                counted == 1,
                format!("{what}: counted as {counted} incompatible frames"),
            )?;
            let mut counted_before = before;
            counted_before.incompatible = now.incompatible;
            nothing_else_is_counted(&what, counted_before, now)?;
            // It is told with the first frame, and not again.
            let expected: &[_] = match round {
                0 => &[(version, publisher)],
                _ => &[],
            };
            let told = ear.told(expected.len()).await?;
            ensure(
                told == expected,
                format!("{what}: {expected:?} should have been told, and {told:?} was"),
            )?;
        }
    }
    // What is right and of an unknown publisher is still read.
    let stranger = NodeId::from_u64(first ^ 8);
    let right = ear.wire.frame(stranger, 0, b"right");
    ear.write(&right).await?;
    ear.reader.expect("right").await?;
    ear.nothing_was_told("frames of a newer version").await
}

/// One channel, who publishes to it, who listens, and a hand that writes to it from outside.
struct Ear<'a> {
    trial: &'a Trial,
    wire: &'a dyn Wire,
    hand: &'a dyn Observer,
    news: Channel,
    speaker: Node,
    listener: Node,
    events: [Events; 2],
    reader: Reader,
    sent: u64,
}

impl<'a> Ear<'a> {
    async fn new(trial: &'a Trial) -> Outcome<Self> {
        let Some(wire) = trial.harness().wire() else {
            let why = "the harness does not say what the backend's frames are";
            return Err(Ending::NotApplicable(why.to_owned()));
        };
        let [speaker, listener] = trial.nodes().await?;
        let news = channel("news")?;
        let reader = trial.subscribe(&listener, [&news]).await?;
        let mut ear = Self {
            trial,
            wire,
            hand: trial.observer()?,
            news,
            events: [speaker.events(), listener.events()],
            speaker,
            listener,
            reader,
            sent: 0,
        };
        // The listener knows the speaker's numbers.
        ear.next_message_arrives_alone("nothing").await?;
        Ok(ear)
    }

    async fn write(&self, bytes: &Bytes) -> Outcome {
        self.hand
            .write(&self.trial.prefix(), &self.news, bytes.clone())
            .await
            .or_else(inconclusive)
    }

    /// The next message of a node arrives, and nothing between the last one and it.
    async fn next_message_arrives_alone(&mut self, after: &str) -> Outcome {
        self.sent += 1;
        let text = self.sent.to_string();
        let mut arrived = self
            .trial
            .publish(&self.speaker, &self.news, text.clone())
            .await;
        if arrived.is_ok() {
            arrived = self.reader.expect(text).await.map(drop);
        }
        let Err(ending) = arrived else {
            return Ok(());
        };
        // Whoever lost the connection may be about to say so.
        let soon = self.trial.scaled(Duration::from_millis(500));
        for events in &mut self.events {
            while let Ok(Some(event)) = timeout(soon, events.recv()).await {
                if let Event::State(state) = event {
                    return broken(format!("{after}: it cost the connection: {state}"));
                }
            }
        }
        wrong(after, ending)
    }

    /// The newer versions that the listener told of since the last look; so many are waited for.
    async fn told(&mut self, expected: usize) -> Outcome<Vec<(u8, NodeId)>> {
        let mut told = Vec::new();
        loop {
            let event = match told.len() < expected {
                true => {
                    let next = timeout(self.trial.within(), self.events[1].recv());
                    next.await.ok().flatten()
                }
                false => self.events[1].try_recv().ok(),
            };
            let Some(event) = event else {
                return Ok(told);
            };
            match event {
                Event::Incompatible { version, publisher } => told.push((version, publisher)),
                event => return broken(format!("it cost the connection: {event:?}")),
            }
        }
    }

    fn event(&mut self) -> Option<Event> {
        let mut events = self.events.iter_mut();
        events.find_map(|events| events.try_recv().ok())
    }

    /// Both nodes are as they were, and said nothing.
    async fn nothing_was_told(&mut self, what: &str) -> Outcome {
        for node in [&self.speaker, &self.listener] {
            if let Err(error) = node.health().await {
                return broken(format!("after {what} health fails: {error}"));
            }
        }
        match self.event() {
            None => Ok(()),
            Some(event) => broken(format!("{what} were told as an event: {event:?}")),
        }
    }
}

fn nothing_else_is_counted(what: &str, before: Stats, now: Stats) -> Outcome {
    let made_up = |stats: Stats| {
        let Stats {
            gaps,
            lost,
            overflowed,
            duplicates,
            incompatible,
            reconnects,
            ..
        } = stats;
        [gaps, lost, overflowed, duplicates, incompatible, reconnects]
    };
    ensure(
        made_up(before) == made_up(now),
        format!("{what}: before it {before:?}, after it {now:?}"),
    )
}

/// Says what came before the fault.
fn wrong<T>(what: &str, ending: Ending) -> Outcome<T> {
    Err(match ending {
        Ending::Broken(how) => Ending::Broken(format!("{what}: {how}")),
        other => other,
    })
}

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
