//! O5: many messages in one call.
//!
//! What is published together is compared with what the contract says of as many publishes that were started in a row:
//! while the broker serves, while it is frozen, in an outage, and when the connection breaks in the middle. One of the
//! readers takes what is there at once, by `Subscription::recv_many`. A backend cannot get that wrong by itself, it is
//! a method of the core crate; it is tried all the same.

use std::collections::HashMap;
use std::ops::Range;
use std::task::Poll;
use std::time::Duration;

use backplane_core::{
    Channel, Delivery, Missed, NodeId, NotSent, PublishError, PublishErrorKind, PublishManyError,
    Subscribe,
};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::poll;
use tokio::time::Instant;

use super::cancelling::{Broker, give_up_after, patient};
use super::network::ArmedCut;
use super::storm::pause;
use crate::harness::Fault;
use crate::rule::{Rule, rule};
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, show, texts};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[rule!(
    "O5",
    "messages published in one call keep their order, and each is told its own outcome",
    [],
    o5
)];

/// How many messages the calls have.
const SIZES: [usize; 7] = [0, 1, 2, 3, 30, 300, 1000];

/// How many messages of a call a frame may have where a call is to leave in many.
const FRAME: usize = 16;

/// How long a call may take that can be told at once, before the scale factor.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn o5(trial: Trial) -> Outcome {
    let trial = match trial.harness().faults() {
        // Where connections can be cut, these are.
        Some(faults) if faults.supports(cut_of(NodeId::from_u64(0))).is_ok() => {
            trial.with_reachable_nodes()
        }
        _ => trial,
    };
    let a = trial
        .node_with(patient(&trial).max_batch_messages(FRAME))
        .await?;
    let b = trial.node_with(patient(&trial)).await?;
    in_order(&trial, &a, &b).await?;
    many_thousands(&trial, &b).await?;
    read_together(&trial, &a, &b).await?;
    beside_bad_ones(&trial, &b).await?;
    for broker in [Broker::Serves, Broker::Frozen] {
        if broker == Broker::Frozen && !trial.can(Fault::Freeze) {
            continue;
        }
        by_turns(&trial, broker, &a, &b).await?;
        given_up(&trial, broker, &a, &b).await?;
    }
    if trial.can(Fault::Freeze) {
        no_room(&trial, &b).await?;
    }
    if trial.can(Fault::Kill) || trial.can(Fault::Isolate(a.node_id())) {
        in_an_outage(&trial, &a, &b).await?;
    }
    if trial.can(cut_of(a.node_id())) {
        cut(&trial, &a, &b).await?;
    }
    if trial.can(Fault::Isolate(a.node_id())) {
        if trial.can(Fault::Delay) {
            broken_in_the_middle(&trial, &a, &b).await?;
        }
        broken_in_a_storm(&trial, &a, &b).await?;
    }
    after_close(&trial).await
}

const fn cut_of(node: NodeId) -> Fault {
    Fault::CutInPublish(node)
}

// --- order

/// Small ones, empty ones and large ones.
fn payload(i: usize) -> Bytes {
    match i {
        i if i % 7 == 3 => Bytes::new(),
        i if i % 50 == 10 => format!("{i:>20000}").into(),
        i => i.to_string().into(),
    }
}

/// What is published in one call arrives as it is, in its order, on every node.
async fn in_order(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    let news = channel("news")?;
    let mut readers = [
        trial.subscribe(a, [&news]).await?,
        trial.subscribe(b, [&news]).await?,
        trial.subscribe(b, [&news]).await?,
    ];
    for size in SIZES {
        let call = a.publish_many(&news, (0..size).map(payload).collect());
        accepted(trial.in_time(ENDS, call).await?)?;
        let [one, other, at_once] = &mut readers;
        for reader in [one, other] {
            reader.expect_all((0..size).map(payload)).await?;
        }
        let got = take(at_once, size).await?;
        same(&got, (0..size).map(payload))?;
    }
    // Those of two nodes are not mixed up with each other.
    let calls = [(a, "a"), (b, "b")].map(|(node, name)| {
        let payloads = (0..200).map(|i| format!("{name} {i}").into());
        node.publish_many(&news, payloads.collect())
    });
    for told in trial.in_time(ENDS, join_all(calls)).await? {
        accepted(told)?;
    }
    for reader in &mut readers {
        let got = texts(&take(reader, 400).await?);
        for name in ["a", "b"] {
            let of = format!("\"{name} ");
            let theirs: Vec<_> = got.iter().filter(|text| text.starts_with(&of)).collect();
            let expected: Vec<_> = (0..200).map(|i| format!("\"{name} {i}\"")).collect();
            ensure(
                theirs.into_iter().eq(&expected),
                format!("two calls at once, and of {name} arrived {got:?}"),
            )?;
        }
    }
    Ok(())
}

/// Who takes what is there at once gets no more than asked for, and gaps where they belong.
async fn read_together(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    const HELD: usize = 10;
    let news = channel("read together")?;
    let small = Subscribe::to([news.clone()]).capacity(HELD);
    let mut small = trial.subscribe_to(b, small).await?;
    let mut witness = trial.subscribe(b, [&news]).await?;
    let before = b.stats();
    let sent = HELD + 5;
    let call = a.publish_many(&news, (0..sent).map(payload).collect());
    accepted(trial.in_time(ENDS, call).await?)?;
    witness.expect_all((0..sent).map(payload)).await?;
    trial.all_offered(b, &before, 2 * sent as u64).await?;
    let mut none = Vec::new();
    let nothing = small.subscription.recv_many(&mut none, 0);
    ensure(
        trial
            .in_time("taking nothing does not end", nothing)
            .await?
            == 0,
        "somebody asked for nothing and got something",
    )?;
    let got = take(&mut small, HELD + 1).await?;
    same(&got[..HELD], (0..HELD).map(payload))?;
    match &got[HELD] {
        Delivery::Gap(gap) if gap.missed() == Missed::Exactly(5) => {}
        other => return broken(format!("expected a gap of 5 messages, got {other:?}")),
    }
    trial.publish(a, &news, "on").await?;
    same(&take(&mut small, 1).await?, ["on".into()])
}

/// Takes so many deliveries, some at a time.
async fn take(reader: &mut Reader, count: usize) -> Outcome<Vec<Delivery>> {
    let mut got = Vec::with_capacity(count);
    let mut limit = 1;
    while got.len() < count {
        let what = format!("delivery {} of {count}", got.len());
        let most = limit.min(count - got.len());
        got.extend(reader.next_many(&what, most).await?);
        limit = limit * 2 + 1;
    }
    Ok(got)
}

fn same(got: &[Delivery], expected: impl IntoIterator<Item = Bytes>) -> Outcome {
    for (at, expected) in expected.into_iter().enumerate() {
        match got.get(at) {
            Some(Delivery::Message(message)) if *message.payload() == expected => {}
            other => {
                let expected = show(&expected);
                return broken(format!("expected message {expected}, got {other:?}"));
            }
        }
    }
    Ok(())
}

/// A node goes on publishing to a channel when a number of two bytes would have come to its end.
async fn many_thousands(trial: &Trial, b: &Node) -> Outcome {
    const EACH: usize = 1000;
    let a = trial.node_with(patient(trial)).await?;
    let news = channel("thousands")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    for thousand in 0..=usize::from(u16::MAX) / EACH + 1 {
        let text = |i: usize| Bytes::from(format!("{thousand} {i}"));
        let call = a.publish_many(&news, (0..EACH).map(text).collect());
        accepted(trial.in_time(ENDS, call).await?)?;
        same(&take(&mut reader, EACH).await?, (0..EACH).map(text))?;
    }
    Ok(())
}

/// What one task starts one after the other, in calls and alone, without awaiting any of it, arrives in that order.
async fn by_turns(trial: &Trial, broker: Broker, a: &Node, b: &Node) -> Outcome {
    let news = channel("by turns")?;
    let mut readers = [
        trial.subscribe(a, [&news]).await?,
        trial.subscribe(b, [&news]).await?,
    ];
    for sizes in [&[3, 1, 2][..], &[40, 1, 40], &[100, 100, 1]] {
        broker.begin(trial).await?;
        let mut numbers = (0_usize..).map(|i| Bytes::from(i.to_string()));
        let mut numbered = |count: usize| numbers.by_ref().take(count).collect::<Vec<_>>();
        let (mut calls, mut single, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for size in sizes {
            let mut call = a.publish_many(&news, numbered(*size));
            match poll!(call.as_mut()) {
                Poll::Ready(done) => told.push(done),
                Poll::Pending => calls.push(call),
            }
            for alone in numbered(1) {
                let mut call = a.publish(&news, alone);
                match poll!(call.as_mut()) {
                    Poll::Ready(done) => published(done)?,
                    Poll::Pending => single.push(call),
                }
            }
        }
        broker.end(trial).await?;
        let all = futures_util::future::join(join_all(calls), join_all(single));
        let (calls, single) = trial.in_time(ENDS, all).await?;
        told.into_iter().chain(calls).try_for_each(accepted)?;
        single.into_iter().try_for_each(published)?;
        let sent = sizes.iter().sum::<usize>() + sizes.len();
        for reader in &mut readers {
            reader.expect_all((0..sent).map(|i| i.to_string())).await?;
        }
    }
    Ok(())
}

/// A call that is given up cancels what has not left, which are those at the end, and disturbs nobody.
async fn given_up(trial: &Trial, broker: Broker, a: &Node, b: &Node) -> Outcome {
    const MANY: usize = 100;
    let news = channel("given up")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    for polls in [1, 2, 3, 8] {
        broker.begin(trial).await?;
        let numbers = |name: &str| (0..MANY).map(|i| format!("{name} {i}").into()).collect();
        let mut first = a.publish_many(&news, numbers("first"));
        let first_poll = poll!(first.as_mut());
        let mut beside = a.publish(&news, "beside".into());
        let beside_poll = poll!(beside.as_mut());
        let mut second = a.publish_many(&news, numbers("second"));
        let second_poll = poll!(second.as_mut());
        let first_told = match first_poll {
            Poll::Ready(told) => Some(told),
            Poll::Pending => give_up_after(polls - 1, first).await,
        };
        broker.end(trial).await?;
        let what = "a publish beside a call that was given up does not return";
        let beside = match beside_poll {
            Poll::Ready(told) => told,
            Poll::Pending => trial.in_time(what, beside).await?,
        };
        published(beside)?;
        let what = "a call beside one that was given up does not return";
        accepted(match second_poll {
            Poll::Ready(told) => told,
            Poll::Pending => trial.in_time(what, second).await?,
        })?;
        trial.publish(a, &news, "end").await?;
        let got = texts(&reader.up_to("end").await?);
        let left = got.iter().take_while(|text| text.contains("first")).count();
        if let Some(told) = first_told {
            accepted(told)?;
            ensure(
                left == MANY,
                format!("{MANY} were accepted, and {left} arrived"),
            )?;
        }
        let first = (0..left).map(|i| format!("\"first {i}\""));
        let beside = ["\"beside\"".to_owned()];
        let second = (0..MANY).map(|i| format!("\"second {i}\""));
        ensure(
            first.chain(beside).chain(second).eq(got.iter().cloned()),
            format!("with a call given up, this arrived: {got:?}"),
        )?;
    }
    Ok(())
}

// --- outcomes

/// Messages that are too large fail, each alone, and are named.
async fn beside_bad_ones(trial: &Trial, b: &Node) -> Outcome {
    const LIMIT: usize = 1000;
    let a = trial.node_with(patient(trial).max_payload(LIMIT)).await?;
    let limit = a.capabilities().max_payload;
    let news = channel("beside bad ones")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    for bad in [
        &[2, 5][..],
        &[0],
        &[8],
        &[3, 4],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8],
    ] {
        let size = |i: usize| limit + 1 + i;
        let of = |i| match bad.contains(&i) {
            true => vec![0; size(i)].into(),
            false => payload(i),
        };
        let call = a.publish_many(&news, (0..9).map(of).collect());
        let told = told(trial.in_time(ENDS, call).await?, 9)?;
        for (i, told) in told.into_iter().enumerate() {
            let size = size(i);
            let expected = match bad.contains(&i) {
                true => Err(PublishErrorKind::NotSent(NotSent::TooLarge { size, limit })),
                false => Ok(()),
            };
            ensure(
                told == expected,
                format!("{bad:?} of 9 are too large: message {i} is told {told:?}"),
            )?;
        }
        let good = (0..9).filter(|i| !bad.contains(i)).map(payload);
        reader.expect_all(good).await?;
    }
    Ok(())
}

/// While nothing is accepted, only so many wait; those at the end are refused, and stay so.
async fn no_room(trial: &Trial, b: &Node) -> Outcome {
    const ROOM: usize = 16;
    const SIZE: usize = 100;
    let news = channel("no room")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    let numbered = |range: Range<usize>| {
        let padded = |i: usize| format!("{i:>SIZE$}").into();
        range.map(padded).collect::<Vec<Bytes>>()
    };
    for options in [
        patient(trial).max_pending(ROOM),
        patient(trial).max_pending_bytes(ROOM * SIZE),
    ] {
        let a = trial.node_with(options).await?;
        trial.inject(Fault::Freeze).await?;
        let mut call = a.publish_many(&news, numbered(0..3 * ROOM));
        let first = poll!(call.as_mut());
        trial.heal().await?;
        let result = match first {
            Poll::Ready(result) => result,
            Poll::Pending => trial.in_time(ENDS, call).await?,
        };
        for (i, told) in told(result, 3 * ROOM)?.into_iter().enumerate() {
            let expected = match i < ROOM {
                true => Ok(()),
                false => Err(PublishErrorKind::NotSent(NotSent::Overloaded)),
            };
            ensure(
                told == expected,
                format!("{ROOM} may wait, and message {i} is told {told:?}"),
            )?;
        }
        // There is room again.
        let call = a.publish_many(&news, numbered(0..ROOM));
        accepted(trial.in_time(ENDS, call).await?)?;
        trial.publish(&a, &news, "end").await?;
        let mut expected = numbered(0..ROOM);
        expected.extend(numbered(0..ROOM));
        expected.push("end".into());
        reader.expect_all(expected).await?;
    }
    Ok(())
}

/// In an outage all of them are told, at once, and none is sent later.
async fn in_an_outage(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    let news = channel("outage")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    trial.outage().await?;
    trial.all_down(&[a, b]).await?;
    let lost = (0..50).map(|i| format!("lost {i}").into()).collect();
    let begin = Instant::now();
    let told = told(trial.in_time(ENDS, a.publish_many(&news, lost)).await?, 50)?;
    let (took, bound) = (begin.elapsed(), trial.scaled(AT_ONCE));
    ensure(
        took <= bound,
        format!("in an outage, a call took {took:?}, and all of it is known at once"),
    )?;
    let unavailable = Err(PublishErrorKind::NotSent(NotSent::Unavailable));
    for (i, told) in told.into_iter().enumerate() {
        ensure(
            told == unavailable,
            format!("in an outage, message {i} is told {told:?}"),
        )?;
    }
    trial.heal().await?;
    trial.all_up(&[a, b]).await?;
    let after = (0..50).map(|i| format!("after {i}").into());
    accepted(
        trial
            .in_time(ENDS, a.publish_many(&news, after.clone().collect()))
            .await?,
    )?;
    let got = take(&mut reader, 51).await?;
    ensure(
        matches!(&got[0], Delivery::Gap(gap) if gap.outages() == 1),
        format!("after an outage, expected a gap, got {:?}", got[0]),
    )?;
    same(&got[1..], after)
}

/// What the messages of some calls were told.
type Told = Vec<(String, Kind)>;

/// The connection breaks while a call is on its way, before the broker has a part of it, or after.
async fn cut(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    let news = channel("cut")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    for round in 0..4 {
        let cut = ArmedCut::on(trial, a, cut_of(a.node_id())).await?;
        let texts: Vec<_> = (0..10 * FRAME).map(|i| format!("{round}.{i}")).collect();
        let call = a.publish_many(&news, texts.iter().cloned().map(Bytes::from).collect());
        let result = trial.in_time(ENDS, call).await?;
        cut.is_over(trial).await?;
        trial.heal().await?;
        trial.all_up(&[a, b]).await?;
        let kinds = told(result, texts.len())?;
        let told = texts.into_iter().zip(kinds).collect();
        truly(trial, [a, b], &news, &mut reader, told).await?;
    }
    Ok(())
}

/// On a slow way, the publisher is cut off when the broker has accepted the first part of a call, and not yet the last:
/// what was accepted stays so. Who has all parts on the way at once may be done before; then there is nothing to see.
async fn broken_in_the_middle(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    let news = channel("middle")?;
    let mut reader = trial.subscribe(b, [&news]).await?;
    let texts: Vec<_> = (0..100 * FRAME).map(|i| format!("middle {i}")).collect();
    let before = a.stats().published;
    let accepted = || usize::try_from(a.stats().published - before).unwrap_or(usize::MAX);
    trial.inject(Fault::Delay).await?;
    let call = a.publish_many(&news, texts.iter().cloned().map(Bytes::from).collect());
    let cut = async {
        trial
            .until("the first part of a call accepted", || async {
                let now = accepted();
                Ok((now < FRAME).then(|| now.to_string()))
            })
            .await?;
        let accepted = accepted();
        trial.inject(Fault::Isolate(a.node_id())).await?;
        trial.all_down(&[a]).await?;
        Ok(accepted)
    };
    let both = async { tokio::join!(call, cut) };
    let (result, accepted) = trial.in_time(ENDS, both).await?;
    let accepted = accepted?;
    trial.heal().await?;
    trial.all_up(&[a, b]).await?;
    let kinds = told(result, texts.len())?;
    if let Some(at) = kinds.iter().take(accepted).position(Result::is_err) {
        return broken(format!(
            "of a call, {accepted} messages were accepted before the connection broke, and message {at} is told {:?}",
            kinds[at]
        ));
    }
    let told = texts.into_iter().zip(kinds).collect();
    truly(trial, [a, b], &news, &mut reader, told).await
}

/// The publisher is cut off while one call follows the other.
async fn broken_in_a_storm(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    const EACH: usize = 10 * FRAME;
    let news = channel("storm")?;
    // Room for whatever a fast backend can do until the publisher is cut off.
    let roomy = Subscribe::to([news.clone()]).capacity(1 << 22);
    let mut reader = trial.subscribe_to(b, roomy).await?;
    for round in 0..2 {
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let counted = std::sync::atomic::Ordering::Relaxed;
        let storm = async {
            let mut all = Told::new();
            for call in 0_usize.. {
                let texts: Vec<_> = (0..EACH).map(|i| format!("{round}.{call}.{i}")).collect();
                let payloads = texts.iter().cloned().map(Bytes::from).collect();
                let told = told(
                    trial.in_time(ENDS, a.publish_many(&news, payloads)).await?,
                    EACH,
                )?;
                let failed = told.iter().any(Result::is_err);
                all.extend(texts.into_iter().zip(told));
                calls.fetch_add(1, counted);
                if failed {
                    break;
                }
                // As many messages as others send one by one.
                pause(call * EACH).await;
            }
            Ok(all)
        };
        let cut = async {
            trial
                .until("three calls that returned", || async {
                    let now = calls.load(counted);
                    Ok((now < 3).then(|| now.to_string()))
                })
                .await?;
            trial.inject(Fault::Isolate(a.node_id())).await?;
            trial.all_down(&[a]).await
        };
        let both = async { tokio::try_join!(storm, cut) };
        let (told, ()) = trial
            .in_time("a storm of calls does not end", both)
            .await??;
        trial.heal().await?;
        trial.all_up(&[a, b]).await?;
        truly(trial, [a, b], &news, &mut reader, told).await?;
    }
    Ok(())
}

/// What was told agrees with what arrived, in order, and with what was told to be missing.
async fn truly(
    trial: &Trial,
    [a, b]: [&Node; 2],
    news: &Channel,
    reader: &mut Reader,
    mut told: Told,
) -> Outcome {
    trial.publish(a, news, "next").await?;
    told.push(("next".to_owned(), Ok(())));
    trial.publish(b, news, "end").await?;
    let places: HashMap<_, _> = told
        .iter()
        .enumerate()
        .map(|(at, (text, _))| (text.as_bytes(), at))
        .collect();
    let mut arrived = vec![false; told.len()];
    let (mut last, mut missed) = (None, Some(0));
    for delivery in reader.up_to("end").await? {
        match delivery {
            Delivery::Gap(gap) => {
                missed = match (missed, gap.missed()) {
                    (Some(sum), Missed::Exactly(more)) => Some(sum + more),
                    _ => None,
                };
            }
            Delivery::Message(message) => {
                let got = show(message.payload());
                let Some(at) = places.get(&message.payload()[..]).copied() else {
                    return broken(format!("a message that nobody sent: {got}"));
                };
                ensure(!arrived[at], format!("message {got} arrived twice"))?;
                ensure(
                    last < Some(at),
                    format!("message {got} arrived after a later one of its publisher"),
                )?;
                arrived[at] = true;
                last = Some(at);
            }
        }
    }
    let mut lost = 0;
    for ((text, told), arrived) in told.iter().zip(arrived) {
        match (told, arrived) {
            (Err(PublishErrorKind::NotSent(why)), true) => {
                return broken(format!(
                    "message {text:?} of a call was told as not sent ({why:?}), and arrived"
                ));
            }
            (Ok(()), false) => lost += 1,
            _ => {}
        }
    }
    ensure(
        missed.is_none_or(|missed| lost <= missed),
        format!("{lost} messages of calls were accepted and lost, and {missed:?} told missing"),
    )
}

/// A closed node says so of all of them.
async fn after_close(trial: &Trial) -> Outcome {
    let node = trial.node().await?;
    trial.in_time("close does not return", node.close()).await?;
    let news = channel("closed")?;
    let call = node.publish_many(&news, (0..5).map(payload).collect());
    let told = told(trial.in_time(ENDS, call).await?, 5)?;
    let closed = Err(PublishErrorKind::NotSent(NotSent::Closed));
    ensure(
        told.iter().all(|told| *told == closed),
        format!("after close, a call is told {told:?}"),
    )
}

// --- what a call says

/// What is said when a call with many messages goes on and on.
const ENDS: &str = "a call with many messages does not return";

/// What one message of a call was told.
type Kind = Result<(), PublishErrorKind>;

/// What each message of a call was told, which must make sense.
fn told(result: Result<(), PublishManyError>, total: usize) -> Outcome<Vec<Kind>> {
    let mut told = vec![Ok(()); total];
    let Err(error) = result else {
        return Ok(told);
    };
    let (failed, of) = (error.failed(), error.total());
    let mut next = 0;
    for failure in error.failures() {
        let range = failure.range();
        ensure(
            range.start >= next && range.start < range.end && range.end <= total,
            format!("of {total} messages, {range:?} are told to have failed, after {next}"),
        )?;
        next = range.end;
        told[range].fill(Err(failure.error().kind()));
    }
    let counted = told.iter().filter(|told| told.is_err()).count();
    ensure(
        counted == failed && of == total && failed > 0,
        format!(
            "a call of {total} messages says that {failed} of {of} failed, and names {counted}"
        ),
    )?;
    Ok(told)
}

fn accepted(result: Result<(), PublishManyError>) -> Outcome {
    result.or_else(|error| {
        broken(format!(
            "a call with many messages failed: {}",
            chain(&error)
        ))
    })
}

fn published(result: Result<(), PublishError>) -> Outcome {
    result.or_else(|error| broken(format!("a publish beside a call failed: {}", chain(&error))))
}
