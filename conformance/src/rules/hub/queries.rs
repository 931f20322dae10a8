//! Questions to all nodes (rule H21).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::hub::{Answers, Missing, Payload, RequestError, Service};
use backplane_core::{BoxError, NodeId};
use futures_util::future::join;
use futures_util::poll;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::cast::{BOTH, Client, HEARTBEAT, Hub, NODE_TIMEOUT, mute};
use crate::hub::{ClientSpec, HubSpec, Recipients};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, chain, ensure};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[rule!(
    "H21",
    "a question to all nodes names those that did not answer, and keeps the other answers",
    [],
    h21
)];

const PATIENCE: Duration = Duration::from_secs(4);
/// Says who it is, or nothing.
struct Application {
    asked: Arc<Semaphore>,
}

#[async_trait]
impl Service for Application {
    async fn call(&self, from: NodeId, question: Payload) -> Result<Payload, BoxError> {
        match question.bytes().as_deref() {
            Some(b"who asks?") => Ok(from.to_string().into_bytes().into()),
            Some(b"fail") => Err("out of order".into()),
            _ => {
                self.asked.add_permits(1);
                std::future::pending().await
            }
        }
    }
}

async fn h21(trial: Trial) -> Outcome {
    for mode in BOTH {
        let nodes: [Node; 3] = trial.nodes().await?;
        let name = format!("{mode:?}");
        let asked = Arc::new(Semaphore::new(0));
        let service = Arc::new(Application {
            asked: Arc::clone(&asked),
        });
        let spec = HubSpec::new(name.as_str())
            .delivery(mode)
            .request_timeout(PATIENCE)
            .heartbeats(HEARTBEAT, NODE_TIMEOUT)
            .service(service);
        let hubs = Hub::on(&trial, &nodes, &spec).await?;
        for hub in &hubs {
            hub.knows(3).await?;
        }
        let mut clients = Vec::new();
        for n in 0..6 {
            let user = ClientSpec::of(format!("user {}", n % 2));
            let client = hubs[n % 3].connect(format!("client {n}"), &user).await?;
            if n < 4 {
                client.join("g").await?;
            }
            clients.push(client);
        }
        exact(&hubs, &nodes, &clients).await?;
        applications(&hubs, &nodes).await?;
        dropped(&hubs[0]).await?;
        one_goes(&hubs, &nodes, &asked).await?;
        one_is_silent(&trial, &hubs, &name).await?;
    }
    Ok(())
}

/// All nodes answer, and with what a send would reach.
async fn exact(hubs: &[Hub], nodes: &[Node], clients: &[Client]) -> Outcome {
    let group = || Recipients::group("g");
    let both = || group().and(Recipients::user("user 1"));
    for (who, expected) in [
        (Recipients::all(), vec![0, 1, 2, 3, 4, 5]),
        (group(), vec![0, 1, 2, 3]),
        (Recipients::user("user 1"), vec![1, 3, 5]),
        (both(), vec![0, 1, 2, 3, 5]),
        (both().but(Recipients::user("user 0")), vec![1, 3, 5]),
        (Recipients::connection(clients[4].id()), vec![4]),
        (Recipients::group("nobody's"), vec![]),
    ] {
        for hub in hubs {
            let counts = count(hub, &who).await?;
            let all = expected.len() as u64;
            ensure(
                counts.complete() && counts.total() == all,
                format!("{who:?} are {all}, and counted are {counts:?}"),
            )?;
            let listed = hub.in_time("a list", hub.port.connections(&who)).await?;
            let listed =
                listed.or_else(|error| broken(format!("a list failed: {}", chain(&error))))?;
            let found: BTreeSet<_> = listed.connections().map(|info| info.id).collect();
            let meant: BTreeSet<_> = expected.iter().map(|n| clients[*n].id()).collect();
            ensure(
                listed.complete() && found == meant,
                format!("{who:?} are {meant:?}, and listed are {listed:?}"),
            )?;
            let of: BTreeSet<_> = counts.iter().map(|(node, _)| node.as_u64()).collect();
            ensure(
                of == nodes.iter().map(|node| node.node_id().as_u64()).collect(),
                format!("three nodes were asked, and these answered: {of:?}"),
            )?;
        }
    }
    Ok(())
}

async fn count(hub: &Hub, who: &Recipients) -> Outcome<Answers<u64>> {
    let counts = hub.in_time("a count", hub.port.count(who)).await?;
    counts.or_else(|error| broken(format!("a count failed: {}", chain(&error))))
}

async fn applications(hubs: &[Hub], nodes: &[Node]) -> Outcome {
    let me = nodes[0].node_id();
    for node in nodes {
        let asking = hubs[0].port.ask(node.node_id(), Payload::from("who asks?"));
        let answer = hubs[0].in_time("an answer", asking).await?;
        is_answer(&answer, me)?;
        let asking = hubs[0].port.ask(node.node_id(), Payload::from("fail"));
        match hubs[0].in_time("an answer", asking).await? {
            Err(RequestError::Failed { node: from, reason })
                if from == node.node_id() && reason == "out of order" => {}
            other => return broken(format!("an application's error is told as {other:?}")),
        }
    }
    let asking = hubs[0].port.ask_all(Payload::from("who asks?"));
    let answers = hubs[0].in_time("all answers", asking).await?;
    let answers =
        answers.or_else(|error| broken(format!("asking all failed: {}", chain(&error))))?;
    ensure(
        answers.complete() && answers.iter().count() == nodes.len(),
        format!("all nodes were asked, and answered {answers:?}"),
    )?;
    answers
        .iter()
        .try_for_each(|(_, answer)| is_answer(answer, me))
}

fn is_answer(answer: &Result<Payload, RequestError>, me: NodeId) -> Outcome {
    let text = answer.as_ref().ok().and_then(Payload::bytes);
    ensure(
        text.as_deref() == Some(me.to_string().as_bytes()),
        format!("asked by {me}, an application answered {answer:?}"),
    )
}

/// Who asks goes away.
async fn dropped(hub: &Hub) -> Outcome {
    for _ in 0..10 {
        let who = Recipients::all();
        let mut asking = hub.port.count(&who);
        drop(poll!(&mut asking));
    }
    hub.nothing_is_left().await
}

/// One node works on it, and goes.
async fn one_goes(hubs: &[Hub], nodes: &[Node], asked: &Semaphore) -> Outcome {
    let begin = Instant::now();
    let gone = nodes[2].node_id();
    let asking = hubs[0].port.ask(gone, Payload::from("wait"));
    let going = async {
        let permit = hubs[0].in_time("a question", asked.acquire()).await?;
        drop(permit);
        hubs[2].in_time("close", hubs[2].port.close()).await
    };
    let (answer, went) = join(hubs[0].in_time("an answer", asking), going).await;
    went?;
    let took = begin.elapsed();
    match answer? {
        Err(RequestError::NodeGone(node)) if node == gone && took < PATIENCE / 2 => {}
        other => {
            return broken(format!(
                "a node that goes while it is asked is told after {took:?} as {other:?}"
            ));
        }
    }
    hubs[0].knows(2).await?;
    let counts = count(&hubs[0], &Recipients::all()).await?;
    ensure(
        counts.complete() && counts.total() == 4,
        format!("one of three nodes has gone, and counted are {counts:?}"),
    )
}

/// One node never answers: it is named, and the others' answers are there.
async fn one_is_silent(trial: &Trial, hubs: &[Hub], name: &str) -> Outcome {
    let hub = &hubs[0];
    let (silent, _) = mute(trial, name).await?;
    let silent = silent.node_id();
    trial
        .until("a third node to be known", || async {
            let nodes = hub.port.nodes();
            Ok((!nodes.ids.contains(&silent)).then(|| format!("{nodes:?}")))
        })
        .await?;
    let counts = count(hub, &Recipients::all()).await?;
    let named = match counts.missing() {
        [(node, Missing::Gone | Missing::TimedOut)] => *node == silent,
        _ => false,
    };
    ensure(
        named && !counts.complete() && counts.total() == 4,
        format!(
            "{silent} does not answer, and the others have 4 connections; counted are {counts:?}"
        ),
    )?;
    hub.nothing_is_left().await
}
