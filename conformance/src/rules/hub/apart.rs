//! What stays apart: hubs of other names, processes without connections, and messages that are none (rules H25 to H27).

use backplane_core::Channel;
use bytes::Bytes;

use super::cast::{BOTH, Client, Hub, shown};
use super::crowd::{Case, Crowd, End};
use crate::hub::{ClientSpec, HubChannel, HubSpec, Recipients};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, ensure};
use crate::verdict::Outcome;

pub(super) const RULES: &[Rule] = &[
    rule!("H25", "hubs of different names are isolated", [], h25),
    rule!(
        "H26",
        "a process without connections sends to every target",
        [],
        h26
    ),
    rule!(
        "H27",
        "malformed and newer hub messages are skipped and counted",
        [],
        h27
    ),
];

async fn h25(trial: Trial) -> Outcome {
    let nodes: [Node; 2] = trial.nodes().await?;
    let names = [
        "chat",
        "Chat",
        "chat ",
        "cha",
        "c",
        "chat:all",
        "chat%3Aall",
        "chat:group:g",
        "chat%",
        "chat%25",
        "hub:chat",
    ];
    let mut pairs = Vec::new();
    for name in names {
        let hubs = Hub::on(&trial, &nodes, &HubSpec::new(name)).await?;
        let ann = ClientSpec::of("ann");
        let client = hubs[1].connect(format!("ann of hub {name:?}"), &ann);
        let client = client.await?;
        client.join("g").await?;
        pairs.push((name, hubs, client));
    }
    for (name, hubs, client) in &pairs {
        for to in [
            Recipients::all(),
            Recipients::group("g"),
            Recipients::groups(["g", "h"]),
            Recipients::user("ann"),
            Recipients::connection(client.id()),
        ] {
            hubs[0].send(&to, format!("of {name}")).await?;
        }
    }
    // A connection of another hub is none of this one.
    if let [(_, hubs, _), (_, _, stranger), ..] = &pairs[..] {
        let to = Recipients::connection(stranger.id());
        hubs[0].send(&to, "of a stranger").await?;
    }
    for (_, hubs, _) in &pairs {
        hubs[0].send(&Recipients::all(), "end").await?;
    }
    for (name, _, client) in &mut pairs {
        let came = client.up_to("end").await?;
        let expected = shown(vec![format!("of {name}"); 5]);
        ensure(
            came == expected,
            format!("{} should get {expected:?}, and got {came:?}", client.name),
        )?;
    }
    Ok(())
}

async fn h26(trial: Trial) -> Outcome {
    let nodes: [Node; 3] = trial.nodes().await?;
    let [_, _, alone] = &nodes;
    for mode in BOTH {
        let mut crowd = Crowd::on(&trial, &nodes[..2], mode).await?;
        let spec = HubSpec::new(format!("{mode:?}")).delivery(mode);
        crowd.hubs.push(Hub::open(&trial, alone, &spec).await?);
        let group = || Recipients::group("g");
        for (to, meant) in [
            (Recipients::all(), "a b c d"),
            (Recipients::all().but(crowd.ids(&["a0"])?), "a1 b c d"),
            (crowd.ids(&["b1"])?, "b1"),
            (crowd.ids(&["b0", "d1"])?, "b0 d1"),
            (group(), "a b"),
            (Recipients::groups(["g", "h"]), "a b c"),
            (group().but(crowd.ids(&["a1"])?), "a0 b"),
            (Recipients::user("ann"), "a"),
            (Recipients::users(["ann", "dan"]), "a d"),
            (Recipients::user("ann").but(crowd.ids(&["a0"])?), "a1"),
        ] {
            crowd.check(2, &Case { to, meant }, End::All).await?;
        }
    }
    Ok(())
}

/// A message that is none, and what is wrong with it.
struct Bad {
    channel: Channel,
    bytes: Bytes,
    newer: bool,
}

/// `[1, 0, nil, nil, {"": "by hand"}]`: a right message, in the bytes of the specification.
const RIGHT: &[u8] = b"\x95\x01\x00\xc0\xc0\x81\xa0\xc4\x07by hand";

async fn h27(trial: Trial) -> Outcome {
    let nodes: [Node; 2] = trial.nodes().await?;
    let [a, b] = &nodes;
    let hubs = Hub::on(&trial, &nodes, &HubSpec::new("chat")).await?;
    let (hub, there) = (&hubs[0], &hubs[1]);
    let mut member = there.connect("the member", &ClientSpec::of("ann")).await?;
    member.join("g").await?;
    by_hand(&trial, a, hub, &mut member).await?;
    let (mut malformed, mut newer) = (0, 0);
    for (n, bad) in bad_ones(b)?.into_iter().enumerate() {
        let shown = bad.bytes.escape_ascii().to_string();
        trial.publish(a, &bad.channel, bad.bytes).await?;
        match bad.newer {
            true => newer += 1,
            false => malformed += 1,
        }
        let end = format!("end {n}");
        let came = hub.flush(&end, &mut [&mut member]).await?.concat();
        ensure(
            came.is_empty(),
            format!("of the bad message {shown} came {came:?}"),
        )?;
        let stats = there.port.stats();
        ensure(
            (stats.malformed, stats.incompatible) == (malformed, newer),
            format!(
                "{malformed} malformed and {newer} newer messages were sent, the last of them {shown}, and {} and {} are counted",
                stats.malformed, stats.incompatible
            ),
        )?;
    }
    // Every way is still open.
    for to in [
        Recipients::group("g"),
        Recipients::user("ann"),
        Recipients::connection(member.id()),
    ] {
        hub.send(&to, "as before").await?;
        member.expect("as before").await?;
    }
    Ok(())
}

/// What is written by hand arrives, and further elements, which a later minor version may have, are passed over.
async fn by_hand(trial: &Trial, node: &Node, hub: &Hub, member: &mut Client) -> Outcome {
    let more = [b"\x97", &RIGHT[1..], b"\x93\x01\xa1x\x81\xa1y\xc3", b"\xc0"].concat();
    let address = b"\x95\x01\x00\x91\x93\x02\xa1g\xa4more\xc0\x81\xa0\xc4\x07by hand".to_vec();
    for (channel, bytes) in [
        (HubChannel::All, RIGHT.to_vec()),
        (HubChannel::Group("g"), RIGHT.to_vec()),
        (HubChannel::User("ann"), RIGHT.to_vec()),
        (HubChannel::All, more),
        (HubChannel::All, address),
    ] {
        trial.publish(node, &channel.of("chat")?, bytes).await?;
        member.expect("by hand").await?;
    }
    hub.flush("by hand no more", &mut [member]).await.map(drop)
}

fn bad_ones(there: &Node) -> Outcome<Vec<Bad>> {
    let channels = [
        HubChannel::All.of("chat")?,
        HubChannel::Group("g").of("chat")?,
        HubChannel::User("ann").of("chat")?,
        HubChannel::Node(there.node_id()).of("chat")?,
    ];
    let mut bad = Vec::new();
    let mut add = |at: usize, bytes: &[u8], newer| {
        bad.push(Bad {
            channel: channels[at].clone(),
            bytes: Bytes::copy_from_slice(bytes),
            newer,
        });
    };
    // Cut off anywhere, and with something behind it.
    for len in 0..RIGHT.len() {
        add(len % 3, &RIGHT[..len], false);
    }
    add(0, &[RIGHT, b"\xc0"].concat(), false);
    // On the channel of a node somebody must be named.
    add(3, RIGHT, false);
    let malformed: [&[u8]; 12] = [
        b"hello, is anybody there?",
        b"{\"targets\":null}",
        &[0; 64],
        &[0xff; 64],
        // Counts and lengths far beyond what is there.
        b"\x95\x01\x00\xc0\xc0\xdf\xff\xff\xff\xff",
        b"\x95\x01\x00\xdd\xff\xff\xff\xff\x91\x00",
        b"\x95\x01\x00\xc0\xc0\x81\xa0\xc6\xff\xff\xff\xffx",
        b"\xdd\xff\xff\xff\xff\x01\xc0\xc0\x80",
        // Too few elements, version 0, a name that is no text, and a connection that is too short.
        b"\x94\x01\x00\xc0\xc0",
        b"\x95\x00\x00\xc0\xc0\x80",
        b"\x95\x01\x00\x91\x92\x02\xa2\xff\xfe\xc0\x80",
        b"\x95\x01\x00\x91\x92\x01\xc4\x02ab\xc0\x80",
    ];
    for (n, bytes) in malformed.into_iter().enumerate() {
        add(n % 3, bytes, false);
    }
    let newer: [&[u8]; 4] = [
        b"\x95\x02\x00\xc0\xc0\x80",
        b"\x92\xcd\x01\x00\xa4what",
        b"\x95\x01\x00\x91\x92\x09\xc0\xc0\x80",
        b"\x95\x01\x00\xc0\x91\x92\x7f\xc0\x80",
    ];
    for (n, bytes) in newer.into_iter().enumerate() {
        add(n % 3, bytes, true);
    }
    Ok(bad)
}
