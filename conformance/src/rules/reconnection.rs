//! R: reconnection.

use std::time::Duration;

use backplane_core::{ConnectionState, Event, Events, Requirement, Subscribe, SubscribeErrorKind};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::harness::{Fault, Start};
use crate::rule::{Rule, rule};
use crate::rules::limits;
use crate::rules::loss::GRACE;
use crate::rules::promise::promises;
use crate::trial::{Node, Trial, chain, channel, ensure, texts};
use crate::verdict::{Ending, Outcome, broken, inconclusive};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "R1",
        "a node reconnects by itself, for ever and in time, with capped and jittered backoff",
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
        "R8",
        "the promotion of a replica or a moved slot is an ordinary outage",
        [],
        r8
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
    for failures in [1, 6] {
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
        // The pauses are those of the default options, however fast the machine is.
        let bound = trial.scaled(BACK).max(BACK);
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
    r1_backoff(&trial).await
}

/// In a long outage the tries go on, neither too far apart nor too close, and not in step.
async fn r1_backoff(trial: &Trial) -> Outcome {
    /// Tries until the longest pause is reached, from a tenth of it; and those that are looked at.
    const GROWING: usize = 6;
    const CAPPED: usize = 12;
    let longest = Duration::from_millis(150);
    let connecting = trial.scaled(Duration::from_millis(500));
    let options = trial
        .options()
        .backoff_initial(longest / 10)
        .backoff_max(longest)
        .connect_timeout(connecting);
    let nodes = [
        trial.node_with(options.clone()).await?,
        trial.node_with(options).await?,
    ];
    let mut events = nodes.each_ref().map(|node| node.events());
    let bound = longest + connecting + trial.scaled(GRACE);
    let [one, other] = &mut events;
    let failures = GROWING + CAPPED;
    // At the same time, because the proof of an outage takes as long as it takes.
    let ((), one, other) = tokio::try_join!(
        trial.outage(),
        pauses(trial, one, failures, bound),
        pauses(trial, other, failures, bound)
    )?;
    trial.heal().await?;
    trial.all_up(&nodes.each_ref()).await?;

    let mut capped: Vec<_> = [&one[GROWING..], &other[GROWING..]].concat();
    capped.sort();
    // Quartiles, so that a few that a busy machine delayed do not count.
    let [low, middle, high] = [1, 2, 3].map(|n| capped[capped.len() * n / 4]);
    ensure(
        middle >= longest / 4,
        format!("at a longest pause of {longest:?} only {middle:?} passed between two tries"),
    )?;
    ensure(
        high - low >= longest / 20,
        format!("the pauses are not jittered: half of them lie between {low:?} and {high:?}"),
    )
}

/// The times between so many failures to attach, the first of which is the outage itself; none may be longer than the
/// bound.
async fn pauses(
    trial: &Trial,
    events: &mut Events,
    failures: usize,
    bound: Duration,
) -> Outcome<Vec<Duration>> {
    let mut pauses = Vec::new();
    let mut failed: Option<Instant> = None;
    while pauses.len() < failures {
        let tries = pauses.len();
        let what = format!("after {tries} failed tries the node does not try again");
        match trial.in_time(&what, events.recv()).await? {
            Some(Event::State(ConnectionState::Disconnected { .. })) => {
                let now = Instant::now();
                let pause = failed.replace(now).map(|before| now - before);
                ensure(
                    pause.is_none_or(|pause| pause <= bound),
                    format!("{pause:?} passed between two tries, and {bound:?} may at most"),
                )?;
                pauses.extend(pause);
            }
            Some(Event::State(ConnectionState::Connected { .. })) => {
                return broken("the node claims to be connected in the outage");
            }
            Some(_) => {}
            None => return broken("the events ended in the outage"),
        }
    }
    Ok(pauses)
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
        trial.outage().await?;
        trial.all_down(&[&a, &b]).await?;
        trial.heal().await?;
        // At once, and by the node itself as well: no subscription may still be on its way.
        let publisher = if round % 2 == 0 { &b } else { &a };
        trial.all_up(&[&b, publisher]).await?;
        for text in [format!("round {round}"), "end".to_owned()] {
            for room in &channels {
                trial.publish(publisher, room, text.clone()).await?;
            }
        }
        for (room, reader) in channels.iter().zip(&mut readers) {
            let mut got = texts(&reader.up_to("end").await?);
            got.retain(|text| !text.starts_with("gap"));
            ensure(
                got == [format!("\"round {round}\"")],
                format!("after Connected, channel {room:?} got {got:?} instead of one message"),
            )?;
        }
        trial.all_up(&[&a]).await?;
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
    let names = ["dropped", "left", "kept", "again"].map(channel);
    let [dropped, left, kept, again] = names;
    let added = channel("added and dropped")?;
    let (dropped, left, kept, again) = (dropped?, left?, kept?, again?);
    let reader_dropped = trial.subscribe(&b, [&dropped]).await?;
    let adding = reader_dropped.subscription.handle();
    if let Err(error) = adding.subscribe([added.clone()]).await {
        return broken(format!("subscribe failed: {}", chain(&error)));
    }
    let mut reader = trial.subscribe(&b, [&left, &kept, &again]).await?;
    trial.outage().await?;
    trial.all_down(&[&a, &b]).await?;
    drop(reader_dropped);
    let handle = reader.subscription.handle();
    handle.unsubscribe([left.clone(), again.clone()]);
    // Who comes back to a channel in the same outage has it.
    if let Err(error) = handle.subscribe_deferred([again.clone()]).await {
        return broken(format!("deferred subscribe failed: {}", chain(&error)));
    }
    trial.heal().await?;
    trial.all_up(&[&a, &b]).await?;
    for gone in [&dropped, &left, &added] {
        let seen = trial.observer()?.subscriptions(&trial.prefix(), gone).await;
        let seen = seen.or_else(inconclusive)?;
        ensure(
            seen == 0,
            format!("channel {gone:?} came back with the reconnection"),
        )?;
    }
    trial.publish(&a, &dropped, "to nobody").await?;
    trial.publish(&a, &left, "to nobody").await?;
    // What is done behind the reconnection takes effect a little later.
    for _ in 0..LOOKS {
        trial.publish(&a, &again, "again").await?;
        trial.publish(&a, &kept, "end").await?;
        let got = texts(&reader.up_to("end").await?);
        ensure(
            !got.iter().any(|text| text.contains("nobody")),
            format!("delivered: {got:?}"),
        )?;
        let times = got.iter().filter(|text| *text == "\"again\"").count();
        ensure(
            times == 1,
            format!("a channel that was left and subscribed again delivered {times} times"),
        )?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// How often it is looked at whether a reconnection has left everything right.
const LOOKS: usize = 50;

/// How often a node flaps: in each way twice at least.
const FLAPS: usize = 15;

/// How the connections of a node are broken in a flap, and whether others are refused until it is over.
const WAYS: [(Way, &[Fault]); 5] = [
    (Way::Outage, &[]),
    (Way::KilledOnce, &[Fault::KillSubscribers]),
    (Way::Isolated, &[]),
    (Way::KilledOnce, &[Fault::KillPublishers]),
    (Way::KilledOnce, &[Fault::RefuseNew, Fault::KillSubscribers]),
];

#[derive(Clone, Copy)]
enum Way {
    Outage,
    Isolated,
    /// It needs connections, and they may come back at once.
    KilledOnce,
}

async fn r5(trial: Trial) -> Outcome {
    let trial = trial.with_reachable_nodes();
    let [a, b] = trial.nodes().await?;
    let (news, sport) = (channel("news")?, channel("sport")?);
    let mut reader = trial.subscribe(&b, [&news, &sport]).await?;
    let connections = trial.connections().await?;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let mut events = b.events();
    for flap in 0..FLAPS {
        let (way, faults) = WAYS[flap % WAYS.len()];
        match way {
            Way::Isolated if trial.can(Fault::Isolate(b.node_id())) => {
                trial.all_settled(&[&b]).await?;
                trial.inject(Fault::Isolate(b.node_id())).await?;
            }
            Way::KilledOnce if faults.iter().all(|fault| trial.can(*fault)) => {
                trial.all_settled(&[&a, &b]).await?;
                for fault in faults {
                    trial.inject(*fault).await?;
                }
            }
            _ => {
                trial.outage().await?;
                // Some are noticed at their worst moment, the others whenever it happens.
                if flap % 2 == 0 {
                    trial.all_down(&[&a, &b]).await?;
                }
            }
        }
        trial.heal().await?;
        if flap % 3 == 0 {
            calmly_up(&trial, &[&a, &b], 2 * connections).await?;
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
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok())
        .filter_map(|event| match event {
            Event::State(ConnectionState::Connected { generation }) => Some(generation),
            _ => None,
        })
        .collect();
    let expected: Vec<_> = (2..=1 + reconnects).collect();
    ensure(
        told == expected && generation(&b) == 1 + reconnects,
        format!(
            "after {reconnects} reconnects the events told of generations {told:?}, and the state is {}",
            b.state()
        ),
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

/// Waits until the nodes are back, and sees that they do not come back with a crowd: at most so many
/// connections, those included that are about to be closed.
async fn calmly_up(trial: &Trial, nodes: &[&Node], most: u64) -> Outcome {
    let look = async {
        loop {
            let seen = trial.connections().await?;
            ensure(
                seen <= most,
                format!("on the way back there were {seen} connections, and {most} may be"),
            )?;
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        up = trial.all_up(nodes) => up,
        seen = look => seen,
    }
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
    let request = Subscribe::to([news.clone()]).deferred();
    let mut deferred = trial.subscribe_to(&lazy, request).await?;
    trial.heal().await?;
    trial.all_up(&[&lazy, &witness]).await?;
    let mut reader = trial.subscribe(&lazy, [&news]).await?;
    trial.publish(&witness, &news, "hello").await?;
    reader.expect("hello").await?;
    // It has missed nothing, because it was never in force before.
    deferred.expect("hello").await?;
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
        let before = run(&trial).await?;
        trial.inject(Fault::Kill).await?;
        trial.all_down(&[&a, &b]).await?;
        trial.heal().await?;
        if before.is_some() && before == run(&trial).await? {
            return inconclusive("the broker was not started anew");
        }
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

/// Nothing in a harness can promote a replica yet: a backend that declares it cannot be believed, nor refuted.
async fn r8(trial: Trial) -> Outcome {
    let node = trial.node().await?;
    Err(match promises(&trial, &node, Requirement::Failover).await? {
        true => Ending::NotApplicable(
            "the backend declares failover, and the harness has no way to promote a replica"
                .to_owned(),
        ),
        false => Ending::Refused(
            "the backend does not declare failover (with Redis it needs Sentinel or Cluster), and refuses a node that \
             requires it"
                .to_owned(),
        ),
    })
}

async fn run(trial: &Trial) -> Outcome<Option<String>> {
    trial.observer()?.run().await.or_else(inconclusive)
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

/// How often a node was attached; 0 while it is not.
pub(super) fn generation(node: &Node) -> u64 {
    match node.state() {
        ConnectionState::Connected { generation } => generation,
        _ => 0,
    }
}
