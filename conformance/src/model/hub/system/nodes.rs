//! Opens and closes nodes and their hubs.

use std::sync::Arc;
use std::time::Duration;

use backplane_core::hub::Hub;
use tokio::time::{Instant, timeout, timeout_at};

use super::{HEARTBEAT, HUB, HUB_HEARTBEAT, NODE_TIMEOUT, Node, REQUEST_TIMEOUT, System};
use crate::harness::{NodeSpec, Start};
use crate::model::breaker;
use crate::trial::chain;

impl System {
    pub(super) async fn open(&mut self, at: usize) -> Result<(), String> {
        if let (None, Some(observer)) = (self.connections, self.harness.observer())
            && self.breaker.faults().is_empty()
        {
            self.connections = Some(observer.connections().await?);
        }
        let spec = NodeSpec {
            options: breaker::options(&self.prefix, HEARTBEAT, self.scale),
            start: Start::Eager,
            reachable: self.ways,
        };
        let backplane = match timeout(self.within(), self.harness.node(&spec)).await {
            Ok(Ok(backplane)) => backplane,
            Ok(Err(error)) => {
                let why = chain(&error);
                self.suspect(format!("a node cannot be made: {why}"));
                return Ok(());
            }
            Err(_) => {
                self.unexpected(format!("making a node takes more than {:?}", self.within()));
                return Ok(());
            }
        };
        let before = breaker::generation(&*backplane);
        let scaled = |time: Duration| time.mul_f64(self.scale);
        let built = Hub::builder(Arc::clone(&backplane))
            .name(HUB)
            .delivery(self.mode)
            .heartbeat_interval(scaled(HUB_HEARTBEAT))
            .node_timeout(scaled(NODE_TIMEOUT))
            .request_timeout(scaled(REQUEST_TIMEOUT))
            .build();
        let limit = scaled(breaker::SUBSCRIBE_TIMEOUT);
        let Some(built) = self.in_time("making a hub", limit, built).await else {
            return Ok(());
        };
        let hub = match built {
            Ok(hub) => hub,
            Err(error) => {
                let why = chain(&error);
                self.suspect(format!("a hub cannot be made: {why}"));
                backplane.close().await;
                return Ok(());
            }
        };
        let after = breaker::generation(&*backplane);
        let attached =
            self.breaker.faults().is_empty() && before == after && backplane.state().is_connected();
        self.done("open");
        self.nodes[at] = Some(Node {
            id: self.record.lock().open(attached),
            reconnects: before.least.saturating_sub(1),
            backplane,
            hub,
        });
        self.introduce().await;
        Ok(())
    }

    /// Closes a hub, its clients still connected, and its node.
    pub(super) async fn close(&mut self, at: usize) {
        let Some(node) = self.nodes[at].take() else {
            return;
        };
        self.close_hub(at, &node).await;
        self.close_node(node).await;
        self.introduce().await;
        self.done("close");
    }

    pub(super) async fn close_node(&mut self, node: Node) {
        if node.backplane.stats().reconnects != node.reconnects {
            self.period.faulty = true;
        }
        if timeout(self.within(), node.backplane.close())
            .await
            .is_err()
        {
            self.unexpected(format!("closing node {} does not end", node.id.0));
        }
    }

    /// Waits until the hubs know each other, if nothing is in the way.
    pub(super) async fn introduce(&self) {
        let quiet = !self.period.faulty && self.breaker.faults().is_empty();
        if quiet && !self.until(|| self.strangers().is_none()).await {
            let who = self.strangers().unwrap_or_default();
            self.suspect(who);
        }
    }

    /// Which hub does not know exactly the live nodes, if one does not.
    pub(super) fn strangers(&self) -> Option<String> {
        let mut live: Vec<_> = self.live().map(|node| node.backplane.node_id()).collect();
        live.sort_unstable();
        self.live().find_map(|node| {
            let mut nodes = node.hub.nodes();
            nodes.ids.sort_unstable();
            let is_right = nodes.settled && nodes.ids == live;
            (!is_right).then(|| {
                let id = node.id.0;
                format!("the hub of node {id} knows {nodes:?}, and there are {live:?}")
            })
        })
    }

    pub(super) fn node(&self, at: usize) -> Option<&Node> {
        self.nodes[at].as_ref()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    pub(super) fn targets(&self) -> Vec<breaker::Target> {
        self.live().map(Node::target).collect()
    }

    pub(super) async fn heal(&mut self) -> Result<(), String> {
        let nodes = self.targets();
        self.breaker.heal(&nodes).await
    }

    /// Waits until every node is attached, for a while.
    pub(super) async fn attached(&self) {
        let deadline = Instant::now() + self.within();
        for node in self.live() {
            let mut watch = node.backplane.watch();
            let _ = timeout_at(deadline, watch.connected()).await;
        }
    }
}
