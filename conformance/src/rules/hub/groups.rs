//! Groups, and what is left of a connection that is gone (rules H11, H12, H13 and H15).

use std::sync::Arc;

use backplane_core::Subscribed;
use futures_util::future::join_all;

use super::cast::{BOTH, Client, Hub, shown};
use crate::hub::{ClientSpec, HubChannel, HubSpec, Recipients};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, ensure};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "H11",
        "when join returns, the next send to the group from any node arrives",
        [],
        h11
    ),
    rule!(
        "H12",
        "when leave returns, nothing sent to the group arrives any more",
        [],
        h12
    ),
    rule!(
        "H13",
        "join and leave are idempotent, names literal, and those of one name never meet",
        [],
        h13
    ),
    rule!(
        "H15",
        "a disconnect leaves every group and user, and the last one ends the subscription",
        [Observer],
        h15
    ),
];

/// How many groups are joined or left one after the other, in each way of delivery.
const ROUNDS: usize = 24;

async fn h11(trial: Trial) -> Outcome {
    let nodes: [Node; 3] = trial.nodes().await?;
    for mode in BOTH {
        let spec = HubSpec::new(format!("{mode:?}")).delivery(mode);
        let hubs = Hub::on(&trial, &nodes, &spec).await?;
        let nobody = ClientSpec::new();
        let mut first = hubs[0].connect("the first", &nobody).await?;
        let mut second = hubs[1].connect("the second", &nobody).await?;
        let mut beside = hubs[0].connect("who did not join", &nobody).await?;
        for round in 0..ROUNDS {
            let (group, hub) = (format!("g{round}"), &hubs[round % 3]);
            let to = Recipients::group(group.as_str());
            joined(&first, &group).await?;
            hub.send(&to, "1").await?;
            joined(&second, &group).await?;
            hub.send(&to, "2").await?;
            let mut all = [&mut first, &mut second, &mut beside];
            let came = hub.flush(&format!("end {round}"), &mut all).await?;
            gets(
                "sent after they had joined",
                &all,
                &came,
                [&["1", "2"], &["2"], &[]],
            )?;
        }
        // From any node: the one of the connection is asked.
        for round in 0..ROUNDS {
            let (group, hub) = (format!("r{round}"), &hubs[round % 3]);
            hub.join(first.id(), &group).await?;
            let to = Recipients::group(group.as_str());
            hubs[(round + 1) % 3].send(&to, "1").await?;
            let mut all = [&mut first, &mut second, &mut beside];
            let end = format!("end r{round}");
            let came = hubs[(round + 1) % 3].flush(&end, &mut all).await?;
            gets(
                "sent after it was joined from another node",
                &all,
                &came,
                [&["1"], &[], &[]],
            )?;
        }
        // Many at once, and a group that has members on the node already.
        let groups: Vec<_> = (0..ROUNDS * 2).map(|n| format!("g{n}")).collect();
        for joining in join_all(groups.iter().map(|group| joined(&beside, group))).await {
            joining?;
        }
        for (n, group) in groups.iter().enumerate() {
            hubs[2]
                .send(&Recipients::group(group), n.to_string())
                .await?;
        }
        hubs[2].send(&Recipients::all(), "end").await?;
        let came = beside.up_to("end").await?;
        let expected = shown((0..groups.len()).map(|n| n.to_string()));
        ensure(
            came == expected,
            format!("joined {} groups at once, and got {came:?}", groups.len()),
        )?;
    }
    Ok(())
}

/// Joins, and is told that it is in force.
async fn joined(client: &Client, group: &str) -> Outcome {
    let subscribed = client.join(group).await?;
    ensure(
        subscribed == Subscribed::InForce,
        format!("a join of an attached node is told as {subscribed:?}"),
    )
}

async fn h12(trial: Trial) -> Outcome {
    let nodes: [Node; 3] = trial.nodes().await?;
    for mode in BOTH {
        let spec = HubSpec::new(format!("{mode:?}")).delivery(mode);
        let hubs = Hub::on(&trial, &nodes, &spec).await?;
        let nobody = ClientSpec::new();
        let mut first = hubs[0].connect("who left first", &nobody).await?;
        let mut second = hubs[1].connect("who left second", &nobody).await?;
        let mut beside = hubs[0].connect("who stays", &nobody).await?;
        for round in 0..ROUNDS {
            let (group, hub) = (format!("g{round}"), &hubs[round % 3]);
            let to = Recipients::group(group.as_str());
            for client in [&first, &second, &beside] {
                client.join(&group).await?;
            }
            first.leave(&group).await?;
            hub.send(&to, "1").await?;
            // What is on its way to somebody who leaves may come or not.
            for client in [&mut second, &mut beside] {
                client.expect("1").await?;
            }
            second.leave(&group).await?;
            hub.send(&to, "2").await?;
            let mut all = [&mut first, &mut second, &mut beside];
            let came = hub.flush(&format!("end {round}"), &mut all).await?;
            gets("sent after they had left", &all, &came, [&[], &[], &["2"]])?;
        }
        // From any node, and with joins on their way that nobody waits for any more.
        for round in 0..ROUNDS {
            let (group, hub) = (format!("r{round}"), &hubs[round % 3]);
            hub.join(first.id(), &group).await?;
            for again in &hubs[1..] {
                let mut join = again.port.join(first.id(), &group);
                drop(futures_util::poll!(&mut join));
            }
            for again in &hubs[1..] {
                again.leave(first.id(), &group).await?;
            }
            hub.send(&Recipients::group(group.as_str()), "1").await?;
            let mut all = [&mut first, &mut second, &mut beside];
            let came = hub.flush(&format!("end r{round}"), &mut all).await?;
            gets(
                "sent after it was taken out from another node",
                &all,
                &came,
                [&[], &[], &[]],
            )?;
        }
    }
    Ok(())
}

async fn h13(trial: Trial) -> Outcome {
    let nodes: [Node; 2] = trial.nodes().await?;
    for mode in BOTH {
        let spec = HubSpec::new(format!("{mode:?}")).delivery(mode);
        idempotent(&Hub::on(&trial, &nodes, &spec).await?).await?;
        // Another hub: what the first has sent to all may still be on its way.
        let spec = HubSpec::new(format!("{mode:?} again")).delivery(mode);
        let hubs = Hub::on(&trial, &nodes, &spec).await?;
        literal(&hubs, nodes[1].node_id().to_string()).await?;
    }
    Ok(())
}

async fn idempotent(hubs: &[Hub]) -> Outcome {
    let mut member = hubs[0].connect("a member", &ClientSpec::new()).await?;
    let to = Recipients::group("g");
    // Of a group that it is not in, and never was.
    member.leave("g").await?;
    for round in 0..3 {
        for _ in 0..3 {
            member.join("g").await?;
        }
        let groups = member.handle.groups();
        ensure(
            groups == ["g"],
            format!("joined three times, it is in {groups:?}"),
        )?;
        hubs[1].send(&to, "once").await?;
        member.expect("once").await?;
        member.leave("g").await?;
        let groups = member.handle.groups();
        ensure(groups.is_empty(), format!("left once, it is in {groups:?}"))?;
        hubs[1].send(&to, "never").await?;
        member.leave("g").await?;
        let mut all = [&mut member];
        let came = hubs[1].flush(&format!("end {round}"), &mut all).await?;
        gets(
            "joined three times, got a message, and left",
            &all,
            &came,
            [&[]],
        )?;
    }
    Ok(())
}

/// A group and a user of each name, and a connection that has it too.
async fn literal(hubs: &[Hub], node: String) -> Outcome {
    let mut plain = hubs[1].connect("a connection", &ClientSpec::new()).await?;
    let id = plain.id().to_string();
    let names = [
        "g",
        "G",
        "g ",
        " g",
        "gé",
        "ge\u{301}",
        "g\u{0}",
        "gg",
        "*",
        "g*",
        "?",
        "[g]",
        "\\g",
        "%67",
        "group:g",
        "user:g",
        "g:g",
        "all",
        "everybody",
        "0",
        &id,
        &node,
    ];
    let mut named = Vec::new();
    for name in names {
        let member = hubs[1]
            .connect(format!("group {name:?}"), &ClientSpec::new())
            .await?;
        member.join(name).await?;
        let user = hubs[1]
            .connect(format!("user {name:?}"), &ClientSpec::of(name))
            .await?;
        named.push((member, user));
    }
    let hub = &hubs[0];
    hub.send(&Recipients::connection(plain.id()), "connection")
        .await?;
    for name in names {
        hub.send(&Recipients::group(name), format!("group {name}"))
            .await?;
        hub.send(&Recipients::user(name), format!("user {name}"))
            .await?;
    }
    hub.send(&Recipients::all(), "end").await?;
    only(&mut plain, "connection").await?;
    for (name, (member, user)) in names.iter().zip(&mut named) {
        only(member, &format!("group {name}")).await?;
        only(user, &format!("user {name}")).await?;
    }
    Ok(())
}

async fn only(client: &mut Client, message: &str) -> Outcome {
    let came = client.up_to("end").await?;
    ensure(
        came == shown([message]),
        format!(
            "{} should get only {message:?}, and got {came:?}",
            client.name
        ),
    )
}

async fn h15(trial: Trial) -> Outcome {
    let nodes: [Node; 2] = trial.nodes().await?;
    let hubs = Hub::on(&trial, &nodes, &HubSpec::new("chat")).await?;
    let ann = ClientSpec::of("ann");
    let mut far = hubs[1].connect("ann on the other node", &ann).await?;
    for by_handle in [false, true] {
        let end = |client: Client| match by_handle {
            true => client.handle.disconnect(),
            false => drop(client),
        };
        let first = hubs[0].connect("the first", &ann).await?;
        let mut second = hubs[0].connect("the second", &ann).await?;
        let handles = [&first, &second].map(|client| Arc::clone(&client.handle));
        for client in [&first, &second] {
            client.join("g").await?;
            client.join("h").await?;
        }
        subscribed(&trial, [2, 1, 1]).await?;
        end(first);
        // One is left: of its user, and in its groups.
        for (hub, to, text) in [
            (&hubs[1], Recipients::group("g"), "g"),
            (&hubs[0], Recipients::group("h"), "h"),
            (&hubs[1], Recipients::user("ann"), "ann"),
        ] {
            hub.send(&to, text).await?;
            second.expect(text).await?;
        }
        far.expect("ann").await?;
        subscribed(&trial, [2, 1, 1]).await?;
        end(second);
        subscribed(&trial, [1, 0, 0]).await?;
        let stats = hubs[0].port.stats();
        ensure(
            (stats.connections, stats.rooms) == (0, 0),
            format!(
                "all are gone, and {} connections and {} groups and users are left",
                stats.connections, stats.rooms
            ),
        )?;
        hubs[0]
            .send(&Recipients::user("ann"), "the other ann")
            .await?;
        far.expect("the other ann").await?;
        // What others still know of it does nothing.
        for handle in handles {
            let joined = handle.join("g").await;
            ensure(joined.is_err(), "a connection that is gone joined a group")?;
            if let Err(error) = handle.leave("g").await {
                return broken(format!("a connection that is gone cannot leave: {error}"));
            }
            let groups = handle.groups();
            ensure(
                groups.is_empty(),
                format!("a connection that is gone is in {groups:?}"),
            )?;
        }
        subscribed(&trial, [1, 0, 0]).await?;
    }
    Ok(())
}

/// How many nodes are subscribed to the user and the two groups of H15.
async fn subscribed(trial: &Trial, expected: [u64; 3]) -> Outcome {
    let channels = [
        HubChannel::User("ann"),
        HubChannel::Group("g"),
        HubChannel::Group("h"),
    ];
    for (channel, expected) in channels.into_iter().zip(expected) {
        let channel = channel.of("chat")?;
        trial
            .until_subscriptions(&trial.prefix(), &channel, expected)
            .await?;
    }
    Ok(())
}

/// Each got what it should.
fn gets<const N: usize>(
    what: &str,
    clients: &[&mut Client; N],
    came: &[Vec<String>],
    expected: [&[&str]; N],
) -> Outcome {
    for ((client, came), expected) in clients.iter().zip(came).zip(expected) {
        let expected = shown(expected);
        ensure(
            *came == expected,
            format!(
                "{what}: {} should get {expected:?}, and got {came:?}",
                client.name
            ),
        )?;
    }
    Ok(())
}
