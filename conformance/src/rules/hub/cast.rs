//! Who acts in the trials of the hub: [`Hub`] and [`Client`], with the deadlines of the trial.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::{
    ConnectionId, DeliveryMode, HubError, Invocation, InvocationId, Outbound, Payload, SendError,
    Sent,
};
use backplane_core::{Gap, Order, Requirement, Subscribed};
use tokio::time::timeout;

use crate::hub::{
    ClientSpec, HubChannel, HubClient, HubGaps, HubHandle, HubNode, HubSpec, Recipients,
};
use crate::trial::{Node, Trial, chain, ensure, show};
use crate::verdict::{Ending, Outcome, broken};

pub(super) const BOTH: [DeliveryMode; 2] =
    [DeliveryMode::LocalFirst, DeliveryMode::ThroughBackplane];

/// How often a node is heard where a trial waits for its end, and when it is lost.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(100);
pub(super) const NODE_TIMEOUT: Duration = Duration::from_millis(1500);

/// What a hub cannot do without.
const ORDER: Requirement = Requirement::Order(Order::Publisher);

/// A hub on a node.
pub(super) struct Hub {
    pub(super) port: Arc<dyn HubNode>,
    trial: Trial,
}

/// A client, and the queue of what it gets.
pub(super) struct Client {
    /// What it is called in reasons.
    pub(super) name: String,
    pub(super) handle: Arc<dyn HubHandle>,
    queue: Box<dyn HubClient>,
    trial: Trial,
}

impl Hub {
    /// Makes a hub. Ends the trial as refused where the backend does not declare what a hub needs, and the hub says so.
    pub(super) async fn open(trial: &Trial, node: &Node, spec: &HubSpec) -> Outcome<Self> {
        let declared = ORDER.is_met_by(&node.capabilities());
        let opening = trial.harness().hubs().open(Arc::clone(node), spec);
        match (
            declared,
            trial.in_time("making a hub does not end", opening).await?,
        ) {
            (true, Ok(port)) => Ok(Self {
                port,
                trial: trial.clone(),
            }),
            (false, Err(HubError::Unsupported(missing))) if missing == ORDER => {
                Err(Ending::Refused(format!(
                    "the backend does not declare {ORDER}, and a hub on it is refused"
                )))
            }
            (false, Ok(_)) => broken(format!(
                "the backend does not declare {ORDER}, and a hub is made on it"
            )),
            (_, Err(error)) => broken(format!("making a hub failed: {}", chain(&error))),
        }
    }

    /// A hub on each of these nodes.
    pub(super) async fn on(trial: &Trial, nodes: &[Node], spec: &HubSpec) -> Outcome<Vec<Self>> {
        let mut hubs = Vec::with_capacity(nodes.len());
        for node in nodes {
            hubs.push(Self::open(trial, node, spec).await?);
        }
        Ok(hubs)
    }

    /// Connects a client, which must work.
    pub(super) async fn connect(
        &self,
        name: impl Into<String>,
        client: &ClientSpec,
    ) -> Outcome<Client> {
        let connecting = self.port.connect(client);
        match self
            .trial
            .in_time("connect does not return", connecting)
            .await?
        {
            Ok(queue) => Ok(Client {
                name: name.into(),
                handle: queue.handle(),
                queue,
                trial: self.trial.clone(),
            }),
            Err(error) => broken(format!("connect failed: {}", chain(&error))),
        }
    }

    /// Sends, which must work.
    pub(super) async fn send(&self, to: &Recipients, text: impl Into<String>) -> Outcome<Sent> {
        match self.try_send(to, text).await? {
            Ok(sent) => Ok(sent),
            Err(error) => broken(format!("send failed: {}", chain(&error))),
        }
    }

    /// Sends, and says what the hub says.
    pub(super) async fn try_send(
        &self,
        to: &Recipients,
        text: impl Into<String>,
    ) -> Outcome<Result<Sent, SendError>> {
        let sending = self.port.send(to, Payload::from(text.into()));
        self.trial.in_time("send does not return", sending).await
    }

    /// Sends this to all, and says what came to each of these clients before it.
    pub(super) async fn flush(
        &self,
        end: &str,
        clients: &mut [&mut Client],
    ) -> Outcome<Vec<Vec<String>>> {
        self.send(&Recipients::all(), end).await?;
        let mut came = Vec::with_capacity(clients.len());
        for client in clients {
            came.push(client.up_to(end).await?);
        }
        Ok(came)
    }
}

impl Hub {
    /// Joins a connection of any node, which must work and be in force.
    pub(super) async fn join(&self, who: ConnectionId, group: &str) -> Outcome {
        match self.in_time("join", self.port.join(who, group)).await? {
            Ok(Subscribed::InForce) => Ok(()),
            Ok(other) => broken(format!("a join from another node is told as {other:?}")),
            Err(error) => broken(format!("join from another node failed: {}", chain(&error))),
        }
    }

    /// Takes a connection of any node out of a group, which must work.
    pub(super) async fn leave(&self, who: ConnectionId, group: &str) -> Outcome {
        match self.in_time("leave", self.port.leave(who, group)).await? {
            Ok(()) => Ok(()),
            Err(error) => broken(format!("leave from another node failed: {}", chain(&error))),
        }
    }

    /// Waits for what the hub is asked for.
    pub(super) async fn in_time<T>(
        &self,
        what: &str,
        asked: impl Future<Output = T>,
    ) -> Outcome<T> {
        let otherwise = format!("{what} does not return");
        self.trial.in_time(&otherwise, asked).await
    }

    /// Waits until it knows so many nodes, itself among them, and is sure that they are all.
    pub(super) async fn knows(&self, count: usize) -> Outcome {
        let expected = format!("{count} nodes to be known");
        self.trial
            .until(&expected, || async {
                let nodes = self.port.nodes();
                let well = nodes.ids.len() == count && nodes.settled;
                Ok((!well).then(|| format!("{nodes:?}")))
            })
            .await
    }

    /// Waits until nothing is left of what was asked.
    pub(super) async fn nothing_is_left(&self) -> Outcome {
        self.trial
            .until("nothing to be left of any request", || async {
                let stats = self.port.stats();
                let pending = (stats.requests, stats.invocations);
                Ok((pending != (0, 0))
                    .then(|| format!("{} requests and {} calls", pending.0, pending.1)))
            })
            .await
    }
}

/// A node that says that it is there, and answers nothing. Says what would be a connection of it.
pub(super) async fn mute(trial: &Trial, hub: &str) -> Outcome<(Node, ConnectionId)> {
    let node = trial.node().await?;
    let beat = b"\x94\x01\x04\x07\x02".to_vec();
    trial
        .publish(&node, &HubChannel::All.of(hub)?, beat)
        .await?;
    let id = connection_of(&node)?;
    Ok((node, id))
}

/// The id of no connection of a node.
pub(super) fn connection_of(node: &Node) -> Outcome<ConnectionId> {
    let id = format!("{}{}", node.node_id(), "0".repeat(32));
    id.parse()
        .or_else(|error| broken(format!("{id} is no id: {error}")))
}

impl Client {
    pub(super) fn id(&self) -> ConnectionId {
        self.handle.id()
    }

    /// What comes next, as text, which must come; `what` names what is waited for.
    pub(super) async fn next(&mut self, what: &str) -> Outcome<String> {
        match self.take().await {
            Ok(Some(outbound)) => Ok(text(&outbound)),
            Ok(None) => broken(format!(
                "{} was ended before {what} came: {:?}",
                self.name,
                self.handle.ended()
            )),
            Err(within) => broken(format!(
                "{what} did not reach {} within {within:?}",
                self.name
            )),
        }
    }

    /// What comes next must be this message.
    pub(super) async fn expect(&mut self, message: &str) -> Outcome {
        let expected = show(message.as_bytes());
        let came = self.next(&expected).await?;
        ensure(
            came == expected,
            format!("{} should get {expected}, and got {came}", self.name),
        )
    }

    /// Everything up to this message, which must come, as text.
    pub(super) async fn up_to(&mut self, end: &str) -> Outcome<Vec<String>> {
        let end = show(end.as_bytes());
        let mut came = Vec::new();
        loop {
            match self.next(&end).await? {
                text if text == end => return Ok(came),
                text => came.push(text),
            }
        }
    }

    /// Nothing more may come but the end.
    pub(super) async fn expect_end(&mut self) -> Outcome {
        match self.take().await {
            Ok(None) => Ok(()),
            Ok(Some(outbound)) => broken(format!(
                "{} should be ended, and got {}",
                self.name,
                text(&outbound)
            )),
            Err(within) => broken(format!("{} was not ended within {within:?}", self.name)),
        }
    }

    /// The call that comes next, which must come.
    pub(super) async fn called(&mut self) -> Outcome<Invocation> {
        match self.take().await {
            Ok(Some(Outbound::Invoke(call))) => Ok(call),
            Ok(Some(other)) => broken(format!(
                "{} should be called, and got {}",
                self.name,
                text(&other)
            )),
            Ok(None) => broken(format!("{} was ended before it was called", self.name)),
            Err(within) => broken(format!("no call reached {} within {within:?}", self.name)),
        }
    }

    /// It must be told that nobody waits for this answer any more.
    pub(super) async fn expect_cancelled(&mut self, call: InvocationId) -> Outcome {
        match self.take().await {
            Ok(Some(Outbound::Cancelled(id))) if id == call => Ok(()),
            Ok(Some(other)) => broken(format!(
                "{} should be told that call {call} is cancelled, and got {}",
                self.name,
                text(&other)
            )),
            Ok(None) => broken(format!("{} was ended", self.name)),
            Err(within) => broken(format!(
                "{} was not told within {within:?} that call {call} is cancelled",
                self.name
            )),
        }
    }

    /// Answers a call, which somebody must wait for.
    pub(super) fn answer(&self, call: &Invocation, answer: Result<&str, &str>) -> Outcome {
        let given = answer.map(|text| Payload::from(text.to_owned()));
        let taken = self.handle.complete(call.id, given.map_err(str::to_owned));
        taken.or_else(|error| broken(format!("an answer is not taken: {error}")))
    }

    /// Joins a group, which must work, and says whether that is in force.
    pub(super) async fn join(&self, group: &str) -> Outcome<Subscribed> {
        let joining = self.handle.join(group);
        match self.trial.in_time("join does not return", joining).await? {
            Ok(subscribed) => Ok(subscribed),
            Err(error) => broken(format!("join failed: {}", chain(&error))),
        }
    }

    /// Leaves a group, which must work.
    pub(super) async fn leave(&self, group: &str) -> Outcome {
        let leaving = self.handle.leave(group);
        match self.trial.in_time("leave does not return", leaving).await? {
            Ok(()) => Ok(()),
            Err(error) => broken(format!("leave failed: {}", chain(&error))),
        }
    }

    async fn take(&mut self) -> Result<Option<Outbound>, Duration> {
        let within = self.trial.within();
        let taken = timeout(within, self.queue.recv()).await;
        taken.map_err(|_| within)
    }
}

/// The next gap, which must come; `None` if the gaps have ended.
pub(super) async fn next_gap(trial: &Trial, gaps: &mut dyn HubGaps) -> Outcome<Option<Gap>> {
    let what = "neither a gap nor the end of the gaps came";
    trial.in_time(what, gaps.recv()).await
}

/// Several messages as they are told.
pub(super) fn shown<T: AsRef<str>>(messages: impl IntoIterator<Item = T>) -> Vec<String> {
    let messages = messages.into_iter();
    messages
        .map(|message| show(message.as_ref().as_bytes()))
        .collect()
}

fn text(outbound: &Outbound) -> String {
    match outbound {
        Outbound::Message(payload) => match payload.bytes() {
            Some(bytes) => show(&bytes),
            None => format!("{payload:?}"),
        },
        Outbound::Missed(count) => format!("missed {count}"),
        Outbound::Gap(gap) => format!("a gap of {}", gap.outages()),
        other => format!("{other:?}"),
    }
}
