//! The order in which a client gets messages, clients that are slow, and sinks that fail (rules H18, H22 and H24).

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use backplane_core::BoxError;
use backplane_core::hub::{Ended, Outbound, Overflow, Sink};
use futures_util::future::join_all;

use super::cast::{BOTH, Client, Hub, shown};
use crate::hub::{ClientSpec, HubMember, HubSpec, Recipients};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, ensure, show};
use crate::verdict::{Ending, Outcome, broken};

pub(super) const RULES: &[Rule] = &[
    rule!(
        "H18",
        "one sender's messages keep their order, whatever mix of targets",
        [],
        h18
    ),
    rule!(
        "H22",
        "a slow client has a bounded queue and a policy, and delays nobody",
        [],
        h22
    ),
    rule!(
        "H24",
        "a failing write to a client affects neither the others nor the sender",
        [],
        h24
    ),
];

/// How many messages each of three senders sends for H18, and then the first of them alone.
const MIXED: usize = 105;

async fn h18(trial: Trial) -> Outcome {
    let nodes: [Node; 3] = trial.nodes().await?;
    for mode in BOTH {
        let spec = HubSpec::new(format!("{mode:?}")).delivery(mode);
        let hubs = Hub::on(&trial, &nodes, &spec).await?;
        let mut members = Vec::new();
        for (node, hub) in hubs.iter().enumerate() {
            let ann = ClientSpec::of("ann");
            let member = hub.connect(format!("the member on node {node}"), &ann);
            let member = member.await?;
            member.join("g").await?;
            members.push(member);
        }
        let ids: Vec<_> = members.iter().map(Client::id).collect();
        // Each names all three, one way or another.
        let each = |id: &_| Recipients::connection(*id);
        let mix: [Vec<Recipients>; 7] = [
            vec![Recipients::all()],
            vec![Recipients::group("g")],
            ids.iter().map(each).collect(),
            vec![Recipients::user("ann")],
            vec![Recipients::connections(ids.iter().copied())],
            vec![Recipients::groups(["g", "h"])],
            vec![Recipients::group("g").and(Recipients::user("ann"))],
        ];
        let sending = hubs.iter().enumerate().map(|(node, hub)| {
            let mix = &mix;
            async move {
                for n in 0..MIXED {
                    for to in &mix[n * 5 % mix.len()] {
                        hub.send(to, format!("{node} {n:03}")).await?;
                    }
                    tokio::task::yield_now().await;
                }
                Ok::<_, Ending>(())
            }
        });
        for sent in join_all(sending).await {
            sent?;
        }
        // And one alone, so that its own messages stand beside each other.
        for n in MIXED..2 * MIXED {
            for to in &mix[n * 5 % mix.len()] {
                hubs[0].send(to, format!("0 {n:03}")).await?;
            }
        }
        for member in &mut members {
            let mut came: [usize; 3] = [0; 3];
            for _ in 0..MIXED * (hubs.len() + 1) {
                let text = member.next("a message").await?;
                let node = came
                    .iter()
                    .enumerate()
                    .position(|(node, n)| text == show(format!("{node} {n:03}").as_bytes()));
                match node {
                    Some(node) => came[node] += 1,
                    None => {
                        return broken(format!(
                            "{mode:?}: {} got {text}, and of the three senders {came:?} before",
                            member.name
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// How many messages H22 sends, and how many of them a slow client has room for.
const FLOOD: usize = 200;
const ROOM: usize = 3;

async fn h22(trial: Trial) -> Outcome {
    let nodes: [Node; 2] = trial.nodes().await?;
    for overflow in [Overflow::DropAndTell, Overflow::Disconnect] {
        let hubs = Hub::on(&trial, &nodes, &HubSpec::new(format!("{overflow:?}"))).await?;
        let (mut slow, mut fast) = (Vec::new(), Vec::new());
        for (node, hub) in hubs.iter().enumerate() {
            let client = ClientSpec::of("ann").queue(ROOM, overflow);
            slow.push(
                hub.connect(format!("the slow one on node {node}"), &client)
                    .await?,
            );
            let client = ClientSpec::new();
            fast.push(
                hub.connect(format!("the fast one on node {node}"), &client)
                    .await?,
            );
        }
        for n in 0..FLOOD {
            hubs[0].send(&Recipients::all(), n.to_string()).await?;
        }
        for client in &mut fast {
            hubs[0]
                .send(&Recipients::connection(client.id()), "end")
                .await?;
            let came = client.up_to("end").await?;
            let expected = shown((0..FLOOD).map(|n| n.to_string()));
            ensure(
                came == expected,
                format!("beside a slow one, {} got {came:?}", client.name),
            )?;
        }
        // Now everything has come to the queues of the slow ones, too.
        for client in &mut slow {
            for n in 0..ROOM {
                client.expect(&n.to_string()).await?;
            }
            match overflow {
                Overflow::DropAndTell => missed(client, FLOOD - ROOM).await?,
                Overflow::Disconnect => ended(client).await?,
            }
        }
        // Who was dropped from is still there; who was disconnected has left its user.
        hubs[0].send(&Recipients::user("ann"), "again").await?;
        hubs[0].send(&Recipients::all(), "end").await?;
        for client in &mut fast {
            client.expect("end").await?;
        }
        if overflow == Overflow::DropAndTell {
            for client in &mut slow {
                client.expect("again").await?;
                client.expect("end").await?;
            }
        }
    }
    Ok(())
}

async fn missed(client: &mut Client, expected: usize) -> Outcome {
    let told = client.next("what was missed").await?;
    ensure(
        told == format!("missed {expected}"),
        format!("{} missed {expected}, and is told {told}", client.name),
    )
}

async fn ended(client: &mut Client) -> Outcome {
    client.expect_end().await?;
    let why = client.handle.ended();
    ensure(
        why == Some(Ended::TooSlow),
        format!("{} was too slow, and is told {why:?}", client.name),
    )
}

/// Writes down what it gets, and fails when it is told to.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn came(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Sink for Notes {
    fn deliver(&self, outbound: Outbound) -> Result<(), BoxError> {
        let Outbound::Message(payload) = outbound else {
            return Err("it is no message".into());
        };
        let text = show(&payload.bytes().unwrap_or_default());
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(text.clone());
        drop(notes);
        match text.as_str() {
            "\"fail\"" => Err("it was told to fail".into()),
            // A panic, without a word on the terminal.
            "\"panic\"" => resume_unwind(Box::new("it was told to panic") as Box<dyn Any + Send>),
            _ => Ok(()),
        }
    }
}

async fn h24(trial: Trial) -> Outcome {
    let nodes: [Node; 2] = trial.nodes().await?;
    let hubs = Hub::on(&trial, &nodes, &HubSpec::new("chat")).await?;
    for how in ["fail", "panic"] {
        let mut queues = Vec::new();
        let (mut bad, mut good) = (Vec::new(), Vec::new());
        for (node, hub) in hubs.iter().enumerate() {
            // On both sides of the one that fails, wherever it stands.
            for n in 0..2 {
                good.push(sink(&trial, hub, "good").await?);
                let client = ClientSpec::of("good");
                let queue = hub.connect(format!("queue {n} on node {node}"), &client);
                queues.push(queue.await?);
                if n == 0 {
                    bad.push(sink(&trial, hub, "bad").await?);
                }
            }
        }
        let everybody = Recipients::users(["good", "bad"]);
        hubs[0].send(&everybody, "1").await?;
        hubs[0].send(&Recipients::user("bad"), how).await?;
        hubs[0].send(&everybody, "2").await?;
        hubs[0].send(&everybody, "end").await?;
        for client in &mut queues {
            let came = client.up_to("end").await?;
            let expected = shown(["1", "2"]);
            ensure(
                came == expected,
                format!("beside a sink that did {how}, {} got {came:?}", client.name),
            )?;
        }
        let expected = shown(["1", "2", "end"]);
        for (_, notes) in &good {
            until_noted(&trial, notes, &expected).await?;
        }
        let expected = shown(["1", how]);
        for (member, notes) in &bad {
            until_noted(&trial, notes, &expected).await?;
            trial
                .until(
                    "a connection that ended because its sink failed",
                    || async {
                        let ended = member.handle().ended();
                        Ok((ended != Some(Ended::SinkFailed)).then(|| format!("{ended:?}")))
                    },
                )
                .await?;
        }
        for (member, _) in &good {
            let ended = member.handle().ended();
            ensure(
                ended.is_none(),
                format!("beside a sink that did {how}, another was ended: {ended:?}"),
            )?;
        }
    }
    Ok(())
}

type Noting = (Box<dyn HubMember>, Arc<Notes>);

async fn sink(trial: &Trial, hub: &Hub, user: &str) -> Outcome<Noting> {
    let notes = Arc::new(Notes::default());
    let client = ClientSpec::of(user);
    let sink = Arc::clone(&notes) as Arc<dyn Sink>;
    let connecting = hub.port.connect_sink(&client, sink);
    match trial.in_time("connect does not return", connecting).await? {
        Ok(member) => Ok((member, notes)),
        Err(error) => broken(format!("connect failed: {error}")),
    }
}

async fn until_noted(trial: &Trial, notes: &Notes, expected: &[String]) -> Outcome {
    trial
        .until(&format!("a sink that got {expected:?}"), || async {
            let came = notes.came();
            Ok((came != expected).then(|| format!("{came:?}")))
        })
        .await
}
