//! Hubs on several nodes of one bus.
#![allow(dead_code, unreachable_pub)] // each test uses a part of it
#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::{Connect, Connection, DeliveryMode, Hub, Outbound, Target};
use backplane_core::{Backplane, Channel, Node, NodeOptions, Prefix};
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
        let bus = MemoryBus::new();
        let (mut nodes, mut hubs) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let node = Arc::new(bus.connect(options()).await.unwrap());
            let builder = Hub::builder(Arc::clone(&node) as Arc<dyn Backplane>);
            hubs.push(builder.name("chat").delivery(mode).build().await.unwrap());
            nodes.push(node);
        }
        Self { bus, nodes, hubs }
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
