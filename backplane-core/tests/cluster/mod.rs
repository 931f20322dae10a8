//! Hubs on several nodes of one bus.
#![allow(dead_code, unreachable_pub)] // each test uses a part of it
#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::{
    Connect, Connection, ConnectionId, DeliveryMode, Hub, HubBuilder, Invocation, NodeEvent,
    Outbound, Payload, Presence, Target,
};
use backplane_core::{Backplane, Channel, Node, NodeId, NodeOptions, Prefix, Subscription};
use backplane_memory::{MemoryBus, MemoryDriver};
use tokio::time::timeout;

pub const BOTH: [DeliveryMode; 2] = [DeliveryMode::LocalFirst, DeliveryMode::ThroughBackplane];

/// How long anything that must come may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Cluster {
    pub bus: MemoryBus,
    pub nodes: Vec<Arc<Node<MemoryDriver>>>,
    pub hubs: Vec<Hub>,
}

pub fn prefix() -> Prefix {
    Prefix::new("t").unwrap()
}

pub fn options() -> NodeOptions {
    NodeOptions::new(prefix())
        .backoff_initial(Duration::from_millis(1))
        .backoff_max(Duration::from_millis(5))
}

impl Cluster {
    pub async fn of(count: usize, mode: DeliveryMode) -> Self {
        Self::with(count, |builder| builder.delivery(mode)).await
    }

    /// Nodes whose hubs all have these settings.
    pub async fn with(count: usize, settings: impl Fn(HubBuilder) -> HubBuilder) -> Self {
        let bus = MemoryBus::new();
        let (nodes, hubs) = (Vec::new(), Vec::new());
        let mut cluster = Self { bus, nodes, hubs };
        for _ in 0..count {
            cluster.add(&settings).await;
        }
        cluster
    }

    /// One more node.
    pub async fn add(&mut self, settings: impl Fn(HubBuilder) -> HubBuilder) -> &Hub {
        let node = Arc::new(self.bus.connect(options()).await.unwrap());
        let builder = Hub::builder(Arc::clone(&node) as Arc<dyn Backplane>);
        let hub = settings(builder.name("chat")).build().await.unwrap();
        self.hubs.push(hub);
        self.nodes.push(node);
        self.hubs.last().unwrap()
    }

    /// Waits until every node knows all others.
    pub async fn acquainted(&self) {
        let count = self.hubs.len();
        until("all nodes know each other", || {
            let known = self.hubs.iter().map(Hub::nodes);
            known.into_iter().all(|nodes| nodes.ids.len() == count)
        })
        .await;
    }

    /// What others see when a node crashes: it is not heard any more, and says nothing of it.
    pub fn crash(&self, node: usize) {
        self.bus.refuse(self.nodes[node].node_id());
    }

    pub async fn connect(&self, node: usize) -> Connection {
        self.hubs[node].connect(Connect::new()).await.unwrap()
    }

    /// How many nodes are subscribed to a channel of the hub.
    pub fn subscribers(&self, channel: &str) -> usize {
        let channel = Channel::new(format!("hub:chat:{channel}")).unwrap();
        self.bus.subscribers(&prefix(), &channel)
    }

    pub async fn stop(&self) {
        self.bus.stop();
        for node in &self.nodes {
            let mut watch = node.watch();
            let gone = watch.wait_for(|state| !state.is_connected());
            timeout(PATIENCE, gone).await.unwrap().unwrap();
        }
    }

    pub async fn start(&self) {
        self.bus.start();
        self.connected().await;
    }

    pub async fn connected(&self) {
        for node in &self.nodes {
            let mut watch = node.watch();
            timeout(PATIENCE, watch.connected()).await.unwrap().unwrap();
        }
    }
}

/// What comes next, as text.
pub async fn next(connection: &mut Connection) -> String {
    let next = timeout(PATIENCE, connection.recv()).await;
    match next.expect("something arrives") {
        Some(Outbound::Message(payload)) => {
            String::from_utf8_lossy(&payload.bytes().unwrap()).into_owned()
        }
        Some(Outbound::Missed(count)) => format!("missed {count}"),
        Some(Outbound::Gap(gap)) => format!("gap of {}", gap.outages()),
        Some(other) => format!("{other:?}"),
        None => format!("{:?}", connection.ended().unwrap()),
    }
}

/// Whatever comes before this text, which must come.
pub async fn before(end: &str, connection: &mut Connection) -> Vec<String> {
    let mut came = Vec::new();
    loop {
        let text = next(connection).await;
        if text == end {
            return came;
        }
        came.push(text);
    }
}

/// Everything that this hub has sent before must have come when this is over: says what came.
pub async fn flush(hub: &Hub, connections: &mut [Connection]) -> Vec<Vec<String>> {
    hub.send(Target::all(), "the end").await.unwrap();
    let mut came = Vec::new();
    for connection in connections {
        came.push(before("the end", connection).await);
    }
    came
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let holding = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, holding)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

/// Nothing is left of what was asked.
pub async fn nothing_is_left(cluster: &Cluster) {
    until("nothing is left behind", || {
        let stats = cluster.hubs.iter().map(Hub::stats);
        stats
            .into_iter()
            .all(|s| (s.requests, s.invocations) == (0, 0))
    })
    .await;
}

/// A node that says that it is there, and nothing else: what would be the id of a connection of it.
pub async fn silent(cluster: &Cluster) -> (impl Backplane, ConnectionId) {
    let node = cluster.bus.connect(options()).await.unwrap();
    let known = cluster.hubs[0].nodes().ids.len();
    let all = Channel::new("hub:chat:all").unwrap();
    let beat = (&b"\x94\x01\x04\x09\x02"[..]).into();
    node.publish(&all, beat).await.unwrap();
    until("it is known", || cluster.hubs[0].nodes().ids.len() > known).await;
    let id = format!("{}{}", node.node_id(), "0".repeat(32));
    (node, id.parse().unwrap())
}

/// The bytes of a payload, as text.
pub fn text(payload: &Payload) -> String {
    String::from_utf8_lossy(&payload.bytes().unwrap()).into_owned()
}

/// The call that comes next.
pub async fn called(connection: &mut Connection) -> Invocation {
    match timeout(PATIENCE, connection.recv()).await.unwrap() {
        Some(Outbound::Invoke(call)) => call,
        other => panic!("no call, but {other:?}"),
    }
}

/// The next change of the nodes.
pub async fn event(presence: &mut Presence) -> NodeEvent {
    let event = timeout(PATIENCE, presence.recv()).await;
    event.unwrap().expect("the hub is open")
}

pub fn id(cluster: &Cluster, node: usize) -> NodeId {
    cluster.nodes[node].node_id()
}

/// The id of the next request that was heard, as it is on the wire.
pub async fn question(heard: &mut Subscription) -> Vec<u8> {
    loop {
        let message = timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
        let message = message.into_message().unwrap();
        if let Some((b"\x01\x01", id)) = message.payload()[1..].split_at_checked(2) {
            let len = match id[0] {
                marker @ 0xcc..=0xcf => 1 + (1 << (marker - 0xcc)),
                _ => 1,
            };
            return id[..len].to_vec();
        }
    }
}
