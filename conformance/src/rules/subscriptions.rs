//! S: subscriptions.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use backplane_core::{Delivery, Subscribe, SubscribeErrorKind, Subscribed};
use tokio::time::{Instant, timeout};

use crate::harness::Fault;
use crate::rule::{Rule, rule};
use crate::rules::batches::s5;
use crate::rules::churn::s4;
use crate::rules::loss::GRACE;
use crate::trial::{Node, Trial, chain, channel, ensure, texts};
use crate::verdict::{Ending, Outcome, broken, inconclusive};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "S1",
        "what is published after subscribe returned arrives",
        [],
        s1
    ),
    rule!(
        "S2",
        "after unsubscribe or drop nothing is delivered, and the broker forgets",
        [Observer],
        s2
    ),
    rule!(
        "S3",
        "many local subscriptions cost one on the broker",
        [Observer],
        s3
    ),
    rule!(
        "S4",
        "concurrent changes leave exactly the right set subscribed",
        [],
        s4
    ),
    rule!("S5", "ten thousand channels subscribe in batches", [], s5),
    rule!(
        "S6",
        "channels are added and removed while a subscription is read",
        [],
        s6
    ),
    rule!(
        "S7",
        "a cancelled or failed subscribe leaves nothing behind",
        [Observer, Outage],
        s7
    ),
    rule!(
        "S8",
        "a deferred subscribe takes effect with the reconnection",
        [Outage],
        s8
    ),
];

async fn s1(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    for i in 0..100 {
        let news = channel(format!("news {i}"))?;
        let mut reader = trial.subscribe(&b, [&news]).await?;
        trial.publish(&a, &news, "first").await?;
        reader.expect("first").await?;
    }
    // The same through a handle, on a subscription that lives already.
    let mut reader = trial.subscribe(&b, []).await?;
    let handle = reader.subscription.handle();
    for i in 0..50 {
        let news = channel(format!("more news {i}"))?;
        let added = handle.subscribe([news.clone()]);
        if let Err(error) = trial.in_time("subscribe does not return", added).await? {
            return broken(format!("subscribe failed: {}", chain(&error)));
        }
        trial.publish(&a, &news, format!("first {i}")).await?;
        reader.expect(format!("first {i}")).await?;
    }
    s1_deferred(&trial, &a, &b).await?;
    // Two at once: neither may take the other's beginning for its own end.
    for i in 0..30 {
        let news = channel(format!("common news {i}"))?;
        let subscribe = async || {
            let mut reader = trial.subscribe(&b, [&news]).await?;
            let text = format!("{:?}", Instant::now());
            trial.publish(&a, &news, text.clone()).await?;
            // What the other one is sent may come first.
            reader.up_to(text).await
        };
        tokio::try_join!(subscribe(), subscribe())?;
    }
    Ok(())
}

/// Who may be deferred is not where the broker is at hand, and so waits for it.
async fn s1_deferred(trial: &Trial, a: &Node, b: &Node) -> Outcome {
    let mut reader = trial.subscribe(b, []).await?;
    let handle = reader.subscription.handle();
    for i in 0..20 {
        let news = channel(format!("may wait {i}"))?;
        let request = Subscribe::to([news.clone()]).deferred();
        let mut new = trial.subscribe_to(b, request).await?;
        let deferred = new.subscription.is_deferred();
        trial.publish(a, &news, "first").await?;
        ensure(!deferred, "deferred, and the broker is at hand")?;
        new.expect("first").await?;

        let more = channel(format!("may be added later {i}"))?;
        let added = handle.subscribe_deferred([more.clone()]);
        match trial.in_time("subscribe does not return", added).await? {
            Ok(Subscribed::InForce) => {}
            other => return broken(format!("with the broker at hand, got {other:?}")),
        }
        let text = format!("added {i}");
        trial.publish(a, &more, text.clone()).await?;
        reader.expect(text).await?;
    }
    Ok(())
}

async fn s2(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let (left, kept) = (channel("left")?, channel("kept")?);
    let mut reader = trial.subscribe(&b, [&left, &kept]).await?;
    let mut witness = trial.subscribe(&b, [&left]).await?;
    trial.publish(&a, &left, "received, not read").await?;
    witness.expect("received, not read").await?;

    // Added although it is there, it is left at once all the same; and what waits of another channel stays.
    let handle = reader.subscription.handle();
    let again = handle.subscribe([left.clone()]);
    if let Err(error) = trial.in_time("subscribe does not return", again).await? {
        return broken(format!("subscribe failed: {}", chain(&error)));
    }
    let mut other = trial.subscribe(&b, [&kept]).await?;
    trial.publish(&a, &kept, "waits").await?;
    other.expect("waits").await?;
    handle.unsubscribe([left.clone()]);
    // Whoever leaves what he has not got takes it from nobody.
    other.subscription.handle().unsubscribe([left.clone()]);
    drop(other);
    trial.publish(&a, &left, "published after").await?;
    // The witness shows that the node has it; what the reader was to get is on its way by then.
    witness.expect("published after").await?;
    trial.publish(&a, &kept, "end").await?;
    let mut got = texts(&reader.up_to("end").await?);
    let waited = got.iter().position(|text| text == "\"waits\"");
    waited.map(|at| got.remove(at));
    ensure(
        got.is_empty(),
        format!("delivered after unsubscribe returned: {got:?}"),
    )?;
    ensure(
        waited.is_some(),
        "another channel was left, and nothing came instead of what waited",
    )?;
    ensure(
        reader.subscription.channels() == [kept.clone()],
        format!("still holds {:?}", reader.subscription.channels()),
    )?;

    // The other subscription of the channel keeps it alive on the broker.
    trial.until_subscriptions(&trial.prefix(), &left, 1).await?;
    drop(witness);
    trial.until_subscriptions(&trial.prefix(), &left, 0).await?;
    trial.until_subscriptions(&trial.prefix(), &kept, 1).await?;
    reader.subscription.handle().unsubscribe([kept.clone()]);
    trial.until_subscriptions(&trial.prefix(), &kept, 0).await?;

    // A drop leaves what was added as well.
    let more = channel("more")?;
    let added = handle.subscribe([more.clone()]);
    if let Err(error) = trial.in_time("subscribe does not return", added).await? {
        return broken(format!("subscribe failed: {}", chain(&error)));
    }
    trial.until_subscriptions(&trial.prefix(), &more, 1).await?;
    drop(reader);
    trial.until_subscriptions(&trial.prefix(), &more, 0).await
}

async fn s3(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut readers = Vec::new();
    for _ in 0..50 {
        readers.push(trial.subscribe(&b, [&news]).await?);
    }
    trial.until_subscriptions(&trial.prefix(), &news, 1).await?;
    let before = publishes(&trial).await?;
    for i in 0..COPIES {
        trial.publish(&a, &news, i.to_string()).await?;
    }
    for reader in &mut readers {
        reader
            .expect_all((0..COPIES).map(|i| i.to_string()))
            .await?;
    }
    // Besides, there are the probes of the nodes.
    if let (Some(before), Some(after)) = (before, publishes(&trial).await?) {
        let copies = after - before;
        ensure(
            (COPIES..COPIES + COPIES / 2).contains(&copies),
            format!("{COPIES} messages were {copies} on the wire"),
        )?;
    }
    let other = trial.subscribe(&a, [&news]).await?;
    trial.until_subscriptions(&trial.prefix(), &news, 2).await?;
    drop(other);
    trial.until_subscriptions(&trial.prefix(), &news, 1).await
}

/// Messages of S3: many more than the nodes send probes meanwhile.
const COPIES: u64 = 100;

async fn publishes(trial: &Trial) -> Outcome<Option<u64>> {
    trial.observer()?.publishes().await.or_else(inconclusive)
}

/// How late what is done behind a caller's back may take effect and be seen.
const LATE: Duration = Duration::from_millis(150);

async fn s6(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let channels = (0..20)
        .map(|i| channel(format!("room {i}")))
        .collect::<Outcome<Vec<_>>>()?;
    let always = channel("always")?;
    let all = channels.iter().chain([&always]).cloned();
    let mut reader = trial
        .subscribe_to(&b, Subscribe::to(all).capacity(1 << 20))
        .await?;
    let handle = reader.subscription.handle();

    // It is read all the time; the reader stops at the last message.
    let reading = tokio::spawn(async move {
        let seen = reader.up_to("end").await;
        seen.map(|seen| (reader, texts(&seen)))
    });
    let mut expected = Vec::new();
    for (i, room) in channels.iter().enumerate() {
        trial.publish(&a, room, format!("held {i}")).await?;
        expected.push(format!("held {i}"));
    }
    // The marker shows that the reader has everything before it, on a subscription of its own.
    let mut marker = trial.subscribe(&b, [&always]).await?;
    trial.publish(&a, &always, "marker").await?;
    marker.expect("marker").await?;
    expected.push("marker".to_owned());
    for (i, room) in channels.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
        let again = format!("again {i}");
        handle.unsubscribe([room.clone()]);
        trial.publish(&a, room, format!("left {i}")).await?;
        // From at once to long enough for the broker to be told.
        for _ in 0..i * 20 {
            tokio::task::yield_now().await;
        }
        let added = handle.subscribe([room.clone()]);
        if let Err(error) = trial.in_time("subscribe does not return", added).await? {
            return broken(format!("subscribe failed: {}", chain(&error)));
        }
        trial.publish(&a, room, again.clone()).await?;
        expected.push(again);
    }
    // Together with one that is there, a new one is added like any other.
    let (there, new) = (&channels[1], channel("together")?);
    let added = handle.subscribe([there.clone(), new.clone()]);
    if let Err(error) = trial.in_time("subscribe does not return", added).await? {
        return broken(format!("subscribe failed: {}", chain(&error)));
    }
    trial.publish(&a, &new, "together").await?;
    expected.push("together".to_owned());
    // They stay: an unsubscribe that comes late must not take them away again.
    let begin = Instant::now();
    for round in 0.. {
        for (i, room) in channels.iter().enumerate() {
            let still = format!("still {i}.{round}");
            trial.publish(&a, room, still.clone()).await?;
            expected.push(still);
        }
        if begin.elapsed() > LATE {
            break;
        }
        tokio::task::yield_now().await;
    }
    trial.publish(&a, &always, "end").await?;
    let read = trial.in_time("the reader does not end", reading).await?;
    let (reader, mut got) = match read {
        Ok(read) => read?,
        Err(error) => return broken(format!("the reader failed: {error}")),
    };
    let mut expected: Vec<_> = expected.iter().map(|text| format!("{text:?}")).collect();
    // Rooms that were left right after a message may have it purged; what was kept must be there.
    got.sort();
    expected.sort();
    // Both lists are sorted.
    let missing = |text: &String, list: &[String]| list.binary_search(text).is_err();
    let lost = expected
        .iter()
        .find(|text| missing(text, &got) && !text.contains("held"));
    ensure(lost.is_none(), format!("did not arrive: {lost:?}"))?;
    let strange = got.iter().find(|text| missing(text, &expected));
    ensure(
        strange.is_none(),
        format!("should not have arrived: {strange:?}"),
    )?;
    let twice = got.windows(2).find(|pair| pair[0] == pair[1]);
    ensure(twice.is_none(), format!("arrived twice: {twice:?}"))?;
    let held = reader.subscription.channels().len();
    ensure(held == 22, format!("holds {held} channels instead of 22"))
}

async fn s7(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    // Cancelled after so many polls, and so at every await.
    let mut cancelled = 0;
    for polls in (1..60).map(|i| i % 6 + 1) {
        let subscribing = b.subscribe(Subscribe::to([news.clone()]));
        match give_up_after(polls, subscribing).await {
            None => cancelled += 1,
            Some(Ok(subscription)) => drop(subscription),
            Some(Err(error)) => return broken(format!("subscribe failed: {}", chain(&error))),
        }
    }
    let mut kept = trial.subscribe(&b, []).await?;
    let handle = kept.subscription.handle();
    for i in 1..60 {
        // A channel for each: one that is left again must not take along what another call has left behind.
        let one = channel(format!("news {i}"))?;
        match give_up_after(i % 6 + 1, handle.subscribe([one.clone()])).await {
            None => cancelled += 1,
            Some(Ok(())) => handle.unsubscribe([one]),
            Some(Err(error)) => return broken(format!("subscribe failed: {}", chain(&error))),
        }
    }
    if cancelled < 10 {
        return inconclusive(format!("only {cancelled} subscribes were cancelled"));
    }
    nothing_left(&trial, &b, 1, "cancelled").await?;
    trial.until_subscriptions(&trial.prefix(), &news, 0).await?;

    trial.outage().await?;
    trial.all_down(&[&a, &b]).await?;
    for _ in 0..5 {
        let failed = trial.in_time(
            "subscribe does not return",
            handle.subscribe([news.clone()]),
        );
        if failed.await?.is_ok() {
            return broken("subscribe succeeded in an outage");
        }
        if b.subscribe(Subscribe::to([news.clone()])).await.is_ok() {
            return broken("subscribe succeeded in an outage");
        }
    }
    trial.heal().await?;
    trial.all_up(&[&a, &b]).await?;
    nothing_left(&trial, &b, 1, "failed").await?;
    trial.until_subscriptions(&trial.prefix(), &news, 0).await?;

    // A retry works, and what was cancelled delivers nothing twice.
    let retried = trial.in_time(
        "subscribe does not return",
        handle.subscribe([news.clone()]),
    );
    if let Err(error) = retried.await? {
        return broken(format!("the retry failed: {}", chain(&error)));
    }
    trial.publish(&a, &news, "once").await?;
    trial.publish(&a, &news, "end").await?;
    let got = kept.up_to("end").await?;
    let got: Vec<_> = got.into_iter().filter_map(Delivery::into_message).collect();
    ensure(
        got.len() == 1,
        format!("the message arrived {} times", got.len()),
    )?;
    match trial.can(Fault::Freeze) {
        true => s7_unanswered(&trial).await,
        false => Ok(()),
    }
}

/// A subscribe that nobody answers fails in the time that was configured, and leaves nothing behind either.
async fn s7_unanswered(trial: &Trial) -> Outcome {
    let short = trial.scaled(Duration::from_millis(500));
    let never = trial.within() * 10;
    let options = trial
        .options()
        .subscribe_timeout(short)
        .heartbeat_interval(never)
        .heartbeat_timeout(never);
    let node = trial.node_with(options).await?;
    let news = channel("unanswered")?;
    let kept = trial.subscribe(&node, []).await?;
    let handle = kept.subscription.handle();
    trial.inject(Fault::Freeze).await?;
    let both = async {
        let subscribed = node.subscribe(Subscribe::to([news.clone()])).await;
        let added = handle.subscribe([news.clone()]).await;
        (subscribed.is_err(), added.is_err())
    };
    let bound = 2 * short + 2 * trial.scaled(GRACE);
    let Ok(failed) = timeout(bound, both).await else {
        return broken(format!(
            "two subscribes that nobody answered did not end within {bound:?}, and {short:?} each was configured"
        ));
    };
    ensure(
        failed == (true, true),
        "a subscribe that nobody answered succeeded",
    )?;
    trial.heal().await?;
    trial.all_settled(&[&node]).await?;
    nothing_left(trial, &node, 1, "unanswered").await?;
    trial.until_subscriptions(&trial.prefix(), &news, 0).await
}

/// Polls a future so many times, and drops it then.
pub(super) async fn give_up_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(done) = futures_util::poll!(future.as_mut()) {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// The node's own count of what lives must come back to what is held, and stay there.
async fn nothing_left(trial: &Trial, node: &Node, subscriptions: u64, what: &str) -> Outcome {
    let expected = format!("{subscriptions} subscriptions and no channel after {what} subscribes");
    let seen = || {
        let stats = node.stats();
        let right = stats.subscriptions == subscriptions && stats.channels == 0;
        (!right).then(|| format!("{} and {}", stats.subscriptions, stats.channels))
    };
    trial.until(&expected, || async { Ok(seen()) }).await?;
    // What goes on behind the back of a cancelled call shows a little later.
    let begin = Instant::now();
    while begin.elapsed() < 2 * LATE {
        if let Some(seen) = seen() {
            return broken(format!("expected {expected}, and it is {seen}"));
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn s8(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let (news, more, held) = (channel("news")?, channel("more")?, channel("held")?);
    let mut old = trial.subscribe(&b, [&held]).await?;
    trial.outage().await?;
    trial.all_down(&[&a, &b]).await?;

    let request = Subscribe::to([news.clone()]).deferred();
    let mut new = match b.subscribe(request).await {
        Ok(subscription) => subscription,
        Err(error) => return broken(format!("deferred subscribe failed: {}", chain(&error))),
    };
    ensure(new.is_deferred(), "a deferred subscription does not say so")?;
    ensure(
        !old.subscription.is_deferred(),
        "a subscription from before claims to be deferred",
    )?;
    match old
        .subscription
        .handle()
        .subscribe_deferred([more.clone()])
        .await
    {
        Ok(Subscribed::Deferred) => {}
        Ok(Subscribed::InForce) => return broken("a deferred channel claims to be in force"),
        Err(error) => return broken(format!("deferred subscribe failed: {}", chain(&error))),
    }
    let abandoned = match b.subscribe(Subscribe::to([news.clone()]).deferred()).await {
        Ok(subscription) => subscription,
        Err(error) => return broken(format!("deferred subscribe failed: {}", chain(&error))),
    };
    drop(abandoned);
    match b
        .subscribe(Subscribe::to([news.clone()]))
        .await
        .map_err(|error| error.kind())
    {
        Err(SubscribeErrorKind::Unavailable) => {}
        other => {
            return broken(format!(
                "without deferring, expected Unavailable, got {other:?}"
            ));
        }
    }

    trial.heal().await?;
    trial.all_up(&[&a, &b]).await?;
    ensure(!new.is_deferred(), "still deferred after the reconnection")?;
    trial.publish(&a, &news, "to the new").await?;
    trial.publish(&a, &more, "to the added").await?;
    match trial
        .in_time("the deferred subscription gets nothing", new.recv())
        .await?
    {
        Some(Delivery::Message(message)) => {
            ensure(
                &message.payload()[..] == b"to the new",
                "another message arrived first",
            )?;
        }
        other => return broken(format!("expected the message, got {other:?}")),
    }
    old.expect_gap().await?;
    old.expect("to the added").await?;

    // From now on they are subscriptions like any other.
    trial.outage_and_back(&[&a, &b]).await?;
    let mut new = trial.reader(new);
    trial.publish(&a, &news, "to the new, later").await?;
    trial.publish(&a, &more, "to the added, later").await?;
    for (reader, text) in [
        (&mut new, "to the new, later"),
        (&mut old, "to the added, later"),
    ] {
        let got = async {
            reader.expect_gap().await?;
            reader.expect(text).await
        };
        if let Err(Ending::Broken(how)) = got.await {
            return broken(format!("after another outage, what was deferred: {how}"));
        }
    }
    Ok(())
}
