//! R: reconnection.

use std::time::Duration;

use backplane_core::{ConnectionState, Event, Subscribe, SubscribeErrorKind};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::harness::{Fault, Start};
use crate::rule::{Rule, rule};
use crate::rules::limits;
use crate::trial::{Node, Trial, chain, channel, ensure, texts};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "R1",
        "a node reconnects by itself, in time, at default backoff",
        [Outage],
        r1
    ),
    rule!(
        "R2",
        "connected is announced when every subscription is in force",
        [Outage],
        r2
    ),
    rule!(
        "R3",
        "subscribe in an outage fails fast with Unavailable",
        [Outage],
        r3
    ),
    rule!(
        "R4",
        "unsubscribe in an outage is honoured",
        [Outage, Observer],
        r4
    ),
    rule!(
        "R5",
        "ten quick flaps leave one connection set and no duplicates",
        [Outage, Observer],
        r5
    ),
    rule!(
        "R6",
        "start while the broker is down: eager fails clearly, lazy attaches",
        [Kill],
        r6
    ),
    rule!(
        "R7",
        "a broker that restarts empty makes no difference",
        [Kill, Observer],
        r7
    ),
    rule!(
        "R9",
        "a loss of only subscribing or only publishing connections heals",
        [KillByType],
        r9
    ),
    rule!(
        "R12",
        "a broker without room refuses new nodes only, and lost ones try on",
        [MaxClients, KillByType],
        limits::r12
    ),
    rule!(
        "R13",
        "credentials that are taken back are told as that, and waited for",
        [RevokeAuth],
        limits::r13
    ),
];

/// The bound from the broker's return to `Connected`, at default backoff.
const BACK: Duration = Duration::from_secs(1);

async fn r1(trial: Trial) -> Outcome {
    let node = trial.node().await?;
    for failures in [1, 4, 10] {
        let mut events = node.events();
        trial.outage().await?;
        // Long enough for so many tries to fail.
        let mut failed = 0;
        while failed < failures {
            let event = trial
                .in_time("the node does not try to reconnect", events.recv())
                .await?;
            match event {
                Some(Event::State(ConnectionState::Disconnected { .. })) => failed += 1,
                Some(_) => {}
                None => return broken("the events ended in the outage"),
            }
        }
        trial.heal().await?;
        let bound = trial.scaled(BACK);
        let deadline = Instant::now() + bound;
        let mut watch = node.watch();
        match timeout_at(deadline, watch.connected()).await {
            Ok(Some(_)) => {}
            Ok(None) => return broken("the node closed itself"),
            Err(_) => {
                let state = node.state();
                return broken(format!(
                    "not back within {bound:?} of the broker's return: {state}"
                ));
            }
        }
    }
    Ok(())
}

async fn r2(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let channels = (0..50)
        .map(|i| channel(format!("room {i}")))
        .collect::<Outcome<Vec<_>>>()?;
    let mut readers = Vec::new();
    for room in &channels {
        readers.push(trial.subscribe(&b, [room]).await?);
    }
    for round in 0..4 {
        trial.outage_and_back(&[&a, &b]).await?;
        // At once: no subscription may still be on its way.
        for room in &channels {
            trial.publish(&a, room, format!("round {round}")).await?;
        }
        for room in &channels {
            trial.publish(&a, room, "end").await?;
        }
        for (room, reader) in channels.iter().zip(&mut readers) {
            let mut got = texts(&reader.up_to("end").await?);
            got.retain(|text| !text.starts_with("gap"));
            ensure(
                got == [format!("\"round {round}\"")],
                format!("after Connected, channel {room:?} got {got:?} instead of one message"),
            )?;
        }
    }
    Ok(())
}

async fn r3(trial: Trial) -> Outcome {
    let node = trial.node().await?;
    let (news, held) = (channel("news")?, channel("held")?);
    let reader = trial.subscribe(&node, [&held]).await?;
    let handle = reader.subscription.handle();
    trial.outage().await?;
    trial.all_down(&[&node]).await?;
    let bound = trial.scaled(Duration::from_secs(1));
    for _ in 0..10 {
        let request = Subscribe::to([news.clone()]);
        let Ok(subscribed) = timeout(bound, node.subscribe(request)).await else {
            return broken(format!(
                "subscribe in the outage did not fail within {bound:?}"
            ));
        };
        let Ok(added) = timeout(bound, handle.subscribe([news.clone()])).await else {
            return broken(format!(
                "adding a channel in the outage did not fail within {bound:?}"
            ));
        };
        for kind in [
            subscribed.map(drop).map_err(|e| e.kind()),
            added.map_err(|e| e.kind()),
        ] {
            let expected = Err(SubscribeErrorKind::Unavailable);
            ensure(
                kind == expected,
                format!("expected Unavailable, got {kind:?}"),
            )?;
        }
    }
    ensure(
        reader.subscription.channels() == [held],
        format!(
            "the failed channel is held: {:?}",
            reader.subscription.channels()
        ),
    )
}

async fn r4(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let names = ["dropped", "left", "kept"].map(channel);
    let [dropped, left, kept] = names;
    let (dropped, left, kept) = (dropped?, left?, kept?);
    let reader_dropped = trial.subscribe(&b, [&dropped]).await?;
    let mut reader = trial.subscribe(&b, [&left, &kept]).await?;
    trial.outage().await?;
    trial.all_down(&[&a, &b]).await?;
    drop(reader_dropped);
    reader.subscription.handle().unsubscribe([left.clone()]);
    trial.heal().await?;
    trial.all_up(&[&a, &b]).await?;
    for gone in [&dropped, &left] {
        let seen = trial.observer()?.subscriptions(&trial.prefix(), gone).await;
        let seen = seen.or_else(crate::verdict::inconclusive)?;
        ensure(
            seen == 0,
            format!("channel {gone:?} came back with the reconnection"),
        )?;
    }
    trial.publish(&a, &dropped, "to nobody").await?;
    trial.publish(&a, &left, "to nobody").await?;
    trial.publish(&a, &kept, "end").await?;
    let got = texts(&reader.up_to("end").await?);
    ensure(
        !got.iter().any(|text| text.contains("nobody")),
        format!("delivered: {got:?}"),
    )
}

async fn r5(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let (news, sport) = (channel("news")?, channel("sport")?);
    let mut reader = trial.subscribe(&b, [&news, &sport]).await?;
    let connections = trial.connections().await?;
    let tasks = Handle::current().metrics().num_alive_tasks();
    for flap in 0..10 {
        trial.outage().await?;
        // Some are noticed at their worst moment, the others whenever it happens.
        if flap % 2 == 0 {
            trial.all_down(&[&a, &b]).await?;
        }
        trial.heal().await?;
        if flap % 3 == 0 {
            trial.all_up(&[&a, &b]).await?;
        }
    }
    trial.all_settled(&[&a, &b]).await?;
    trial.publish(&a, &news, "marker").await?;
    let gaps = reader.up_to("marker").await?.len() as u64;
    let reconnects = b.stats().reconnects;
    ensure(
        gaps == reconnects,
        format!("{reconnects} reconnects, and {gaps} gaps"),
    )?;
    trial.until_connections(connections).await?;
    for channel in [&news, &sport] {
        trial
            .until_subscriptions(&trial.prefix(), channel, 1)
            .await?;
    }
    trial
        .until(&format!("at most {tasks} tasks"), || async {
            let alive = Handle::current().metrics().num_alive_tasks();
            Ok((alive > tasks).then(|| alive.to_string()))
        })
        .await?;
    for i in 0..50 {
        for channel in [&news, &sport] {
            trial.publish(&a, channel, i.to_string()).await?;
            reader.expect(i.to_string()).await?;
        }
    }
    Ok(())
}

async fn r6(trial: Trial) -> Outcome {
    let witness = trial.node().await?;
    trial.inject(Fault::Kill).await?;
    trial.all_down(&[&witness]).await?;
    match trial.start(trial.options(), Start::Eager).await? {
        Ok(node) => return broken(format!("the eager constructor made {node:?} in the outage")),
        Err(error) => {
            let text = chain(&error);
            let endpoint = error.endpoint();
            let named = !endpoint.is_empty() && text.contains(endpoint);
            ensure(
                named,
                format!("the error does not name the address: {text}"),
            )?;
            ensure(
                text.len() > endpoint.len() + 5,
                format!("the error gives no reason: {text}"),
            )?;
            if let Some(secret) = trial.harness().secret() {
                let debug = format!("{error:?}");
                let told = text.contains(&secret) || debug.contains(&secret);
                ensure(!told, "the error contains the password")?;
            }
        }
    }
    let lazy = match trial.start(trial.options(), Start::Lazy).await? {
        Ok(node) => node,
        Err(error) => {
            return broken(format!(
                "the lazy constructor failed in the outage: {}",
                chain(&error)
            ));
        }
    };
    ensure(
        !lazy.state().is_connected(),
        "a lazy node claims to be connected in the outage",
    )?;
    // It has failed once at least, and must not leave it at that.
    let mut watch = lazy.watch();
    let failed = watch.wait_for(|state| matches!(state, ConnectionState::Disconnected { .. }));
    trial
        .in_time("a lazy node does not say that it cannot attach", failed)
        .await?;
    let news = channel("news")?;
    match lazy.publish(&news, "lost".into()).await {
        Err(error) if error.is_not_sent() => {}
        other => return broken(format!("a lazy node in the outage published: {other:?}")),
    }
    trial.heal().await?;
    trial.all_up(&[&lazy, &witness]).await?;
    let mut reader = trial.subscribe(&lazy, [&news]).await?;
    trial.publish(&witness, &news, "hello").await?;
    reader.expect("hello").await?;
    let first = ConnectionState::Connected { generation: 1 };
    let state = lazy.state();
    ensure(
        state == first,
        format!("expected the first attachment, got {state}"),
    )
}

async fn r7(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let channels = (0..20)
        .map(|i| channel(format!("room {i}")))
        .collect::<Outcome<Vec<_>>>()?;
    let mut reader = trial.subscribe(&b, &channels).await?;
    for round in 0..2 {
        trial.inject(Fault::Kill).await?;
        trial.all_down(&[&a, &b]).await?;
        trial.heal().await?;
        trial.all_up(&[&a, &b]).await?;
        reader.expect_gap().await?;
        for (i, room) in channels.iter().enumerate() {
            trial.until_subscriptions(&trial.prefix(), room, 1).await?;
            trial.publish(&a, room, format!("{round}.{i}")).await?;
            reader.expect(format!("{round}.{i}")).await?;
        }
    }
    Ok(())
}

async fn r9(trial: Trial) -> Outcome {
    let [a, b] = trial.nodes().await?;
    let news = channel("news")?;
    let mut reader = trial.subscribe(&b, [&news]).await?;
    for round in 0..3 {
        for fault in [Fault::KillSubscribers, Fault::KillPublishers] {
            let before = [generation(&a), generation(&b)];
            trial.inject(fault).await?;
            for (node, before) in [&a, &b].into_iter().zip(before) {
                let mut watch = node.watch();
                let again = watch.wait_for(|state| {
                    matches!(state, ConnectionState::Connected { generation } if *generation > before)
                });
                let what = format!("{fault}: the node does not notice and recover");
                trial.in_time(&what, again).await?;
            }
            let text = format!("{fault} {round}");
            trial.publish(&a, &news, text.clone()).await?;
            reader.expect_gap().await?;
            reader.expect(&text).await?;
        }
    }
    Ok(())
}

pub(super) fn generation(node: &Node) -> u64 {
    match node.state() {
        ConnectionState::Connected { generation } => generation,
        _ => 0,
    }
}
