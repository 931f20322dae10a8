//! A hub in an outage (rules H16, H17 and H23).

use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::{DeliveryMode, Others, SendError, Sent};
use backplane_core::{NotSent, Order, PublishErrorKind, Requirement, Subscribed};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::cast::{BOTH, Client, Hub, next_gap, shown};
use crate::harness::Fault;
use crate::hub::{ClientSpec, HubSpec, Recipients};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, chain, ensure};
use crate::verdict::{Ending, Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "H16",
        "local first, clients of a node go on in an outage, and the sender is told",
        [Outage],
        h16
    ),
    rule!(
        "H17",
        "through the backplane, all see one order, and nobody gets anything in an outage",
        [Outage],
        h17
    ),
    rule!(
        "H23",
        "a gap reaches the framework once per outage",
        [Outage],
        h23
    ),
];

/// How long a publish waits for a broker that stands still, before the scale factor.
const STANDS_STILL: Duration = Duration::from_millis(300);

/// How many messages each of two senders sends for one order.
const RACE: usize = 150;

async fn h16(trial: Trial) -> Outcome {
    let options = || trial.options().publish_timeout(trial.scaled(STANDS_STILL));
    let nodes = [
        trial.node_with(options()).await?,
        trial.node_with(options()).await?,
    ];
    let hubs = Hub::on(&trial, &nodes, &HubSpec::new("chat")).await?;
    let [hub, other] = [&hubs[0], &hubs[1]];
    let mut far = other.connect("the far one", &ClientSpec::new()).await?;
    let mut before = hub.connect("who was there", &ClientSpec::new()).await?;
    far.join("g").await?;
    before.join("g").await?;

    trial.outage().await?;
    trial.all_down(&[&nodes[0], &nodes[1]]).await?;
    let mut ann = hub.connect("who came", &ClientSpec::of("ann")).await?;
    for (client, group) in [(&ann, "g"), (&before, "new")] {
        let subscribed = client.join(group).await?;
        ensure(
            subscribed == Subscribed::Deferred,
            format!("a join in an outage is told as {subscribed:?}"),
        )?;
    }
    ann.join("left").await?;
    ann.leave("left").await?;
    drop(hub.connect("who went", &ClientSpec::of("bob")).await?);
    for (to, reached) in [
        (Recipients::all(), 2),
        (Recipients::group("g"), 2),
        (Recipients::user("ann"), 1),
        (Recipients::group("left"), 0),
        (Recipients::user("bob"), 0),
        (Recipients::group("new").and(Recipients::user("ann")), 2),
    ] {
        let text = format!("to {to:?}");
        let sent = hub.try_send(&to, text.as_str()).await?;
        not_reached(sent, reached)?;
        if reached == 2 {
            before.expect(&text).await?;
        }
        if reached > 0 {
            ann.expect(&text).await?;
        }
    }
    // Nobody else is concerned.
    let own = Recipients::connection(before.id());
    let sent = hub.send(&own, "to a neighbour").await?;
    ensure(
        (sent.local, sent.others) == (1, Others::NotNeeded),
        format!("to a connection of the node itself, it was told {sent:?}"),
    )?;
    before.expect("to a neighbour").await?;

    trial.heal().await?;
    trial.all_up(&[&nodes[0], &nodes[1]]).await?;
    // What was asked for is in force, what was taken back is not, and what was not sent never comes.
    for (to, text) in [
        (Recipients::group("new"), "new"),
        (Recipients::user("ann"), "ann"),
        (Recipients::user("bob"), "bob"),
        (Recipients::group("left"), "left"),
    ] {
        other.send(&to, text).await?;
    }
    hub.send(&Recipients::all(), "again").await?;
    other.send(&Recipients::all(), "end").await?;
    after(&mut before, &["new", "again"]).await?;
    after(&mut ann, &["ann", "again"]).await?;
    after(&mut far, &["again"]).await?;
    match trial.can(Fault::Freeze) {
        true => h16_unnoticed(&trial, &nodes, hub, [&mut before, &mut ann, &mut far]).await,
        false => Ok(()),
    }
}

/// The sender is told that the others were not reached, and how many of its own were.
fn not_reached(sent: Result<Sent, SendError>, reached: usize) -> Outcome {
    let error = match sent {
        Err(error) => error,
        Ok(sent) => return broken(format!("a send in an outage was told as {sent:?}")),
    };
    let kind = match &error {
        SendError::Publish { source, .. } => source.kind(),
        _ => return broken(format!("a send in an outage failed: {}", chain(&error))),
    };
    let expected = PublishErrorKind::NotSent(NotSent::Unavailable);
    ensure(
        kind == expected,
        format!("a send in an outage: expected {expected:?}, got {kind:?}"),
    )?;
    ensure(
        error.local() == reached,
        format!(
            "a send in an outage: {reached} connections of the node were to be reached, and {} are told",
            error.local()
        ),
    )
}

/// What came before the end, in any order of the two senders, each message once.
async fn after(client: &mut Client, expected: &[&str]) -> Outcome {
    let mut came = client.up_to("end").await?;
    // Of another sender, it may come after the end.
    let again = shown(["again"]).concat();
    if !came.contains(&again) {
        came.push(client.next("what was sent after the outage").await?);
    }
    came.sort();
    let mut expected = shown(expected);
    expected.sort();
    ensure(
        came == expected,
        format!(
            "after the outage {} should get {expected:?}, and got {came:?}",
            client.name
        ),
    )
}

/// While the broker stands still and nobody has noticed, clients of the node get it before the sender knows. What is
/// told as not sent never arrives.
async fn h16_unnoticed(
    trial: &Trial,
    nodes: &[Node; 2],
    hub: &Hub,
    [near, other, far]: [&mut Client; 3],
) -> Outcome {
    trial.inject(Fault::Freeze).await?;
    let everybody = Recipients::all();
    let sending = hub.try_send(&everybody, "unnoticed");
    let reading = async {
        near.expect("unnoticed").await?;
        other.expect("unnoticed").await?;
        Ok::<_, Ending>(Instant::now())
    };
    let told = async { (sending.await, Instant::now()) };
    let ((sent, told), read) = tokio::join!(told, reading);
    ensure(
        read? <= told,
        "clients of the node got it after the sender was told",
    )?;
    let error = match sent? {
        Err(error) => error,
        Ok(sent) => return broken(format!("while nothing is answered, it was told {sent:?}")),
    };
    ensure(
        error.local() == 2,
        format!(
            "two connections were reached, and {} are told",
            error.local()
        ),
    )?;
    trial.heal().await?;
    trial.all_settled(&[&nodes[0], &nodes[1]]).await?;
    hub.send(&Recipients::all(), "thawed").await?;
    let came = far.up_to("thawed").await?;
    let arrived = came == shown(["unnoticed"]);
    ensure(
        came.is_empty() || arrived,
        format!("after the standstill {} got {came:?}", far.name),
    )?;
    ensure(
        !(arrived && error.is_not_sent()),
        format!("what arrived was told as not sent: {}", chain(&error)),
    )?;
    near.expect("thawed").await
}

async fn h17(trial: Trial) -> Outcome {
    let nodes: [Node; 2] = trial.nodes().await?;
    let spec = HubSpec::new("chat").delivery(DeliveryMode::ThroughBackplane);
    let hubs = Hub::on(&trial, &nodes, &spec).await?;
    let mut clients = [
        hubs[0].connect("the one here", &ClientSpec::new()).await?,
        hubs[1].connect("the one there", &ClientSpec::new()).await?,
    ];
    one_order(&trial, &nodes[0], &hubs, &mut clients).await?;

    let [here, there] = &mut clients;
    trial.outage().await?;
    trial.all_down(&[&nodes[0], &nodes[1]]).await?;
    here.join("g").await?;
    for to in [
        Recipients::all(),
        Recipients::group("g"),
        Recipients::connection(here.id()),
    ] {
        let sent = hubs[0].try_send(&to, "in the outage").await?;
        not_reached(sent, 0)?;
    }
    trial.heal().await?;
    trial.all_up(&[&nodes[0], &nodes[1]]).await?;
    hubs[0]
        .send(&Recipients::group("g"), "to the group")
        .await?;
    let came = hubs[0].flush("end", &mut [here, there]).await?;
    let expected = [shown(["to the group"]), Vec::new()];
    ensure(
        came == expected,
        format!("after the outage they should get {expected:?}, and got {came:?}"),
    )
}

/// Of two senders at once; one order for all clients where the backend has one, and else that of each sender.
async fn one_order(trial: &Trial, node: &Node, hubs: &[Hub], clients: &mut [Client; 2]) -> Outcome {
    let send = |(n, hub): (usize, &'_ Hub)| {
        let port = Arc::clone(&hub.port);
        let trial = trial.clone();
        async move {
            let all = Recipients::all();
            for i in 0..RACE {
                let text = format!("{n} {i:03}");
                let sending = port.send(&all, text.into());
                if let Err(error) = trial.in_time("send does not return", sending).await? {
                    return broken(format!("send failed: {}", chain(&error)));
                }
                // Where nothing is waited for, the other would never get a turn.
                tokio::task::yield_now().await;
            }
            Ok::<_, Ending>(())
        }
    };
    for sent in join_all(hubs.iter().enumerate().map(send)).await {
        sent?;
    }
    let [mut here, mut there] = [Vec::new(), Vec::new()];
    for (client, came) in clients.iter_mut().zip([&mut here, &mut there]) {
        for i in 0..RACE * hubs.len() {
            came.push(client.next(&format!("message {i}")).await?);
        }
        for n in 0..hubs.len() {
            let of_one: Vec<_> = came
                .iter()
                .filter(|text| text.starts_with(&format!("\"{n} ")))
                .collect();
            ensure(
                of_one.len() == RACE && of_one.is_sorted(),
                format!("of sender {n}, {} got {of_one:?}", client.name),
            )?;
        }
    }
    let total = Requirement::Order(Order::Total).is_met_by(&node.capabilities());
    let differ = here
        .iter()
        .zip(&there)
        .position(|(here, there)| here != there);
    match differ {
        Some(at) if total => broken(format!(
            "message {at} is {} here, and {} there",
            here[at], there[at]
        )),
        _ => Ok(()),
    }
}

async fn h23(trial: Trial) -> Outcome {
    let nodes: [Node; 2] = trial.nodes().await?;
    for mode in BOTH {
        let spec = HubSpec::new(format!("{mode:?}")).delivery(mode);
        let hubs = Hub::on(&trial, &nodes, &spec).await?;
        let mut gaps = hubs[0].port.gaps();
        let asks = ClientSpec::new().with_gaps();
        let mut asked = hubs[0].connect("who asks for gaps", &asks).await?;
        let mut other = hubs[0].connect("who does not", &ClientSpec::new()).await?;
        asked.join("g").await?;
        for outage in 1..=2 {
            trial.outage_and_back(&[&nodes[0], &nodes[1]]).await?;
            let Some(gap) = next_gap(&trial, &mut *gaps).await? else {
                return broken("the gaps ended in an outage");
            };
            ensure(
                gap.outages() == 1,
                format!("the gap of outage {outage} stands for {}", gap.outages()),
            )?;
            let end = format!("end {outage}");
            let came = hubs[1].flush(&end, &mut [&mut asked, &mut other]).await?;
            let expected = [vec!["a gap of 1".to_owned()], Vec::new()];
            ensure(
                came == expected,
                format!(
                    "clients should be told {expected:?} in outage {outage}, and were told {came:?}"
                ),
            )?;
        }
        // Whatever was told too often stands before the end.
        let closing = hubs[0].port.close();
        trial.in_time("close does not return", closing).await?;
        if let Some(gap) = next_gap(&trial, &mut *gaps).await? {
            return broken(format!("another gap was told after two outages: {gap}"));
        }
    }
    Ok(())
}
