//! Which nodes there are (rule H20).

use std::time::Duration;

use backplane_core::NodeId;
use backplane_core::hub::{Departure, NodeEvent};
use tokio::time::Instant;

use super::cast::{BOTH, HEARTBEAT, Hub, NODE_TIMEOUT};
use crate::hub::{HubPresence, HubSpec, Recipients};
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial, ensure};
use crate::verdict::{Outcome, broken};

pub(super) const RULES: &[Rule] = &[rule!(
    "H20",
    "nodes that join, leave and crash are known within the bound, and the count is never wrong",
    [],
    h20
)];

/// How much later than its bound a crash may be told on a machine that is busy.
const SLACK: Duration = Duration::from_secs(3);

async fn h20(trial: Trial) -> Outcome {
    for mode in BOTH {
        let spec = HubSpec::new(format!("{mode:?}"))
            .delivery(mode)
            .heartbeats(HEARTBEAT, NODE_TIMEOUT);
        let nodes: [Node; 4] = trial.nodes().await?;
        let mut hubs = Vec::new();
        for (before, node) in nodes.iter().enumerate() {
            let hub = Hub::open(&trial, node, &spec).await?;
            // From the first moment: whoever says that all are known knows them.
            trial
                .until("a new node to be sure of all", || async {
                    let known = hub.port.nodes();
                    ensure(
                        known.ids.first() == Some(&node.node_id()),
                        format!("a hub does not know itself: {known:?}"),
                    )?;
                    ensure(
                        !known.settled || known.ids.len() == before + 1,
                        format!(
                            "there are {} nodes, and a new one is sure of {known:?}",
                            before + 1
                        ),
                    )?;
                    Ok((!known.settled).then(|| format!("{known:?}")))
                })
                .await?;
            hubs.push(hub);
        }
        for hub in &hubs {
            hub.knows(nodes.len()).await?;
        }
        let (first, second) = (&hubs[0], &hubs[1]);
        let mut watching = Vec::new();
        for hub in [first, second] {
            let mut presence = hub.port.presence();
            for _ in 1..nodes.len() {
                match next(hub, &mut *presence).await? {
                    NodeEvent::Joined(_) => {}
                    other => return broken(format!("those that are there are told as {other:?}")),
                }
            }
            watching.push((hub, presence));
        }
        if mode == BOTH[0] {
            silence(first, nodes.len()).await?;
        }

        hubs[2].in_time("close", hubs[2].port.close()).await?;
        for (hub, presence) in &mut watching {
            is_left(hub, &mut **presence, &nodes[2], Departure::Closed).await?;
            hub.knows(3).await?;
        }
        let begin = Instant::now();
        nodes[3].close().await;
        for (hub, presence) in &mut watching {
            is_left(hub, &mut **presence, &nodes[3], Departure::Lost).await?;
            hub.knows(2).await?;
        }
        let took = begin.elapsed();
        ensure(
            took <= NODE_TIMEOUT + HEARTBEAT + SLACK,
            format!("a crash is told after {took:?}"),
        )?;
        first.in_time("close", first.port.close()).await?;
    }
    Ok(())
}

async fn next(hub: &Hub, presence: &mut dyn HubPresence) -> Outcome<NodeEvent> {
    match hub
        .in_time("a change of the nodes", presence.recv())
        .await?
    {
        Some(event) => Ok(event),
        None => broken("the changes of the nodes have ended"),
    }
}

async fn is_left(
    hub: &Hub,
    presence: &mut dyn HubPresence,
    node: &Node,
    why: Departure,
) -> Outcome {
    let node: NodeId = node.node_id();
    let told = next(hub, presence).await?;
    ensure(
        told == NodeEvent::Left(node, why),
        format!("that {node} left ({why:?}) is told as {told:?}"),
    )
}

/// Much longer than a node is waited for, one node alone has something to say. The others are there all the same.
async fn silence(hub: &Hub, count: usize) -> Outcome {
    let mut pace = tokio::time::interval(HEARTBEAT);
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < 3 * NODE_TIMEOUT {
        pace.tick().await;
        hub.send(&Recipients::all(), sent.to_string()).await?;
        sent += 1;
        let known = hub.port.nodes();
        ensure(
            known.ids.len() == count,
            format!("there are {count} nodes that say little, and {known:?} are known"),
        )?;
    }
    Ok(())
}
