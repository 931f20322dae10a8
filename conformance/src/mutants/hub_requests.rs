//! Wrong at H14, H19, H20 and H21: what nodes want of each other.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backplane_core::hub::{
    Answers, CompleteError, ConnectionId, InvocationId, InvokeError, NodeEvent, Nodes, Payload,
    RequestError,
};
use backplane_core::{NodeId, Subscribed};

use super::harness::Wrong;
use super::hubs::{Handle, Here, HubTwist};
use super::node::lock;
use super::{Mutant, mutant};
use crate::hub::{HubPresence, HubSpec, Recipients};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "joins-of-others-are-not-acknowledged",
        "H11",
        "sent after it was joined from another node",
        "a join from another node is sent, and not waited for",
        || Wrong::new().hubs(Asks::Later(Mutex::default())),
    ),
    mutant!(
        "leaves-from-other-nodes-are-forgotten",
        "H12",
        "sent after it was taken out from another node",
        "only its own node takes a connection out of a group",
        || Wrong::new().hubs(Asks::NoLeaves),
    ),
    mutant!(
        "a-join-of-nobody-is-fine",
        "H14",
        "of nobody says that it is done",
        "a join of a connection that is gone succeeds, as with SignalR in one process",
        || Wrong::new().hubs(Asks::Anything),
    ),
    mutant!(
        "a-join-of-nobody-runs-out",
        "H14",
        "failed with the wrong error: Timeout",
        "nobody says that a connection is unknown, so the one who asks waits for the timeout",
        || Wrong::new().hubs(Asks::Nobody),
    ),
    mutant!(
        "gone-nodes-are-waited-for",
        "H14",
        "failed with the wrong error",
        "a node that is gone is not told from one that is slow",
        || Wrong::new().hubs(Asks::Blind),
    ),
    mutant!(
        "answers-of-clients-are-lost",
        "H19",
        "invoke does not return",
        "what a client answers reaches nobody on another node",
        || Wrong::new().hubs(Calls::Lost),
    ),
    mutant!(
        "anybody-answers-for-a-client",
        "H19",
        "an answer of another connection is told as",
        "whoever knows the number of a call can answer it",
        || Wrong::new().hubs(Calls::Anybodys),
    ),
    mutant!(
        "a-client-that-is-gone-is-waited-for",
        "H19",
        "invoke does not return",
        "only the timeout ends a call whose client has disconnected",
        || Wrong::new().hubs(Calls::Patient),
    ),
    mutant!(
        "errors-of-clients-are-values",
        "H19",
        "the client's error is told as Ok",
        "what a client refuses comes back as its answer",
        || Wrong::new().hubs(Calls::Fine),
    ),
    mutant!(
        "a-new-node-is-sure-that-it-is-alone",
        "H20",
        "a new one is sure of",
        "the nodes that were there before are not waited for",
        || Wrong::new().hubs(Nobody),
    ),
    mutant!(
        "a-crash-is-a-farewell",
        "H20",
        "is told as Left",
        "whoever goes, however, is told to have closed",
        || Wrong::new().hubs(Farewell),
    ),
    mutant!(
        "crashes-are-not-noticed",
        "H20",
        "a change of the nodes does not return",
        "a node is there until it says bye",
        || Wrong::new().hubs(Set(|mut spec| {
            spec.node_timeout = Duration::from_secs(3600);
            spec
        })),
    ),
    mutant!(
        "silence-is-death",
        "H20",
        "nodes that say little",
        "a node is forgotten some time after it has come, whatever it says",
        || Wrong::new().hubs(Forgetful::default()),
    ),
    mutant!(
        "partial-answers-look-complete",
        "H21",
        "does not answer, and the others have 4 connections",
        "the nodes that did not answer are not named",
        || Wrong::new().hubs(Counts::Hidden),
    ),
    mutant!(
        "partial-answers-are-thrown-away",
        "H21",
        "a count failed",
        "one node that does not answer spoils the whole",
        || Wrong::new().hubs(Counts::AllOrNothing),
    ),
    mutant!(
        "only-this-node-is-counted",
        "H21",
        "and counted are",
        "a count is of the node that is asked",
        || Wrong::new().hubs(Counts::Own),
    ),
];

/// Asks other nodes for joins and leaves in a wrong way.
enum Asks {
    /// What was asked for is done with the next.
    Later(Mutex<Vec<(ConnectionId, String)>>),
    NoLeaves,
    Anything,
    Nobody,
    Blind,
}

#[async_trait]
impl HubTwist for Asks {
    async fn join_from(
        &self,
        here: &Here,
        who: ConnectionId,
        group: &str,
    ) -> Result<Subscribed, RequestError> {
        if let Self::Later(pending) = self {
            let due = std::mem::take(&mut *lock(pending));
            lock(pending).push((who, group.to_owned()));
            for (who, group) in due {
                here.hub.join(who, &group).await?;
            }
            return Ok(Subscribed::InForce);
        }
        let joined = here.hub.join(who, group).await;
        self.told(here, who, joined, Subscribed::InForce)
    }

    async fn leave_from(
        &self,
        here: &Here,
        who: ConnectionId,
        group: &str,
    ) -> Result<(), RequestError> {
        let own = here.locals().iter().any(|known| known.id == who);
        if matches!(self, Self::NoLeaves) && !own {
            return Ok(());
        }
        let left = here.hub.leave(who, group).await;
        self.told(here, who, left, ())
    }
}

impl Asks {
    fn told<T>(
        &self,
        here: &Here,
        who: ConnectionId,
        result: Result<T, RequestError>,
        fine: T,
    ) -> Result<T, RequestError> {
        let node = here.node();
        let timeout = Duration::from_secs(3);
        match (self, result) {
            (Self::Anything, Err(RequestError::UnknownConnection(_))) => Ok(fine),
            (Self::Nobody, Err(RequestError::UnknownConnection(_))) => {
                Err(RequestError::Timeout { node, timeout })
            }
            (Self::Blind, Err(RequestError::NodeGone(_))) => {
                Err(RequestError::UnknownConnection(who))
            }
            (_, result) => result,
        }
    }
}

/// Asks clients in a wrong way.
enum Calls {
    Lost,
    Anybodys,
    Patient,
    Fine,
}

#[async_trait]
impl HubTwist for Calls {
    async fn invoke(
        &self,
        here: &Here,
        who: ConnectionId,
        payload: Payload,
        timeout: Duration,
    ) -> Result<Payload, InvokeError> {
        let answer = here.hub.invoke(who, payload, timeout).await;
        let own = here.locals().iter().any(|known| known.id == who);
        match (self, answer) {
            (Self::Lost, Ok(_)) if !own => std::future::pending().await,
            (Self::Patient, Err(InvokeError::Disconnected(_))) => std::future::pending().await,
            (Self::Fine, Err(InvokeError::Client(words))) => Ok(words.into_bytes().into()),
            (_, answer) => answer,
        }
    }

    fn complete(
        &self,
        here: &Here,
        who: &Handle,
        call: InvocationId,
        answer: Result<Payload, String>,
    ) -> Result<(), CompleteError> {
        let taken = who.complete(call, answer.clone());
        if !matches!(
            (self, &taken),
            (Self::Anybodys, Err(CompleteError::WrongConnection(_)))
        ) {
            return taken;
        }
        let others = here.locals().into_iter();
        let mut taken = others.map(|other| other.handle.complete(call, answer.clone()));
        taken.find(Result::is_ok).unwrap_or(Ok(()))
    }
}

/// Does not wait to hear of the others.
struct Nobody;

impl HubTwist for Nobody {
    fn nodes(&self, here: &Here) -> Nodes {
        let mut nodes = here.hub.nodes();
        nodes.settled = true;
        nodes
    }
}

/// Knows a node for two seconds.
#[derive(Default)]
struct Forgetful(Mutex<HashMap<NodeId, Instant>>);

impl HubTwist for Forgetful {
    fn nodes(&self, here: &Here) -> Nodes {
        let mut nodes = here.hub.nodes();
        let mut seen = lock(&self.0);
        nodes.ids.retain(|node| {
            let since = *seen.entry(*node).or_insert_with(Instant::now);
            *node == here.node() || since.elapsed() < Duration::from_secs(2)
        });
        drop(seen);
        nodes
    }
}

/// Never says that a node was lost.
struct Farewell;

#[async_trait]
impl HubTwist for Farewell {
    async fn change(&self, _here: &Here, presence: &mut dyn HubPresence) -> Option<NodeEvent> {
        match presence.recv().await? {
            NodeEvent::Left(node, _) => Some(NodeEvent::Left(
                node,
                backplane_core::hub::Departure::Closed,
            )),
            other => Some(other),
        }
    }
}

/// Hubs with other settings.
struct Set(fn(HubSpec) -> HubSpec);

impl HubTwist for Set {
    fn spec(&self, asked: HubSpec) -> HubSpec {
        (self.0)(asked)
    }
}

/// Counts in a wrong way.
enum Counts {
    Hidden,
    AllOrNothing,
    Own,
}

#[async_trait]
impl HubTwist for Counts {
    async fn count(&self, here: &Here, who: &Recipients) -> Result<Answers<u64>, RequestError> {
        let counts = here.hub.count(who).await?;
        let missing = counts.missing().first().copied();
        let node: NodeId = here.node();
        match (self, missing) {
            (Self::Hidden, Some(_)) => {
                let answers = counts.into_iter().collect();
                Ok(Answers::new(answers, Vec::new(), true))
            }
            (Self::AllOrNothing, Some((node, _))) => Err(RequestError::Timeout {
                node,
                timeout: Duration::ZERO,
            }),
            (Self::Own, _) => {
                let own = counts.of(node).copied().unwrap_or_default();
                Ok(Answers::new(vec![(node, own)], Vec::new(), true))
            }
            _ => Ok(counts),
        }
    }
}
