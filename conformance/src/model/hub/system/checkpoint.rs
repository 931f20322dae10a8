//! Checks everything, now and then and at the end.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::members::left;
use super::{HUB, Node, Period, System, group, user};
use crate::harness::Observer;
use crate::hub::HubChannel;
use crate::model::hub::op::CLIENTS;
use crate::model::hub::record::{GROUPS, Name, Sure, Target, USERS};
use crate::model::ledger::MessageId;
use crate::trial::LOOK_AGAIN;

/// After so many looks, a last message that a small queue may have had no room for is sent once more.
const LOOKS: u32 = 20;

impl System {
    /// Ends every fault, waits until the nodes are well and know each other, sends a last message from each on every channel
    /// and to all, and checks the record.
    pub(super) async fn checkpoint(&mut self) -> Result<(), String> {
        self.heal().await?;
        self.settle().await;
        if !self.until(|| self.strangers().is_none()).await {
            let who = self.strangers().unwrap_or_default();
            self.unexpected(format!("{who}, although every fault has ended"));
        }
        for node in self.live() {
            self.reveal(node).await;
            self.last_message(node).await;
        }
        // What hubs sent that are gone by now has no later message behind it.
        self.arrived().await;
        let outage = self
            .live()
            .any(|node| node.backplane.stats().reconnects != node.reconnects);
        let calm = !self.period.faulty && !outage;
        self.record.lock().check(calm);
        self.period = Period {
            number: self.period.number + 1,
            faulty: false,
        };
        for node in self.nodes.iter_mut().flatten() {
            node.reconnects = node.backplane.stats().reconnects;
        }
        self.make_sure().await;
        self.add_up().await;
        Ok(())
    }

    /// Checks everything as [`Op::Checkpoint`](crate::model::hub::Op::Checkpoint) does, disconnects every client, closes every hub and
    /// node, and checks that nothing of them is left.
    ///
    /// # Errors
    /// What went wrong with the environment.
    pub(in crate::model) async fn finish(&mut self) -> Result<(), String> {
        self.checkpoint().await?;
        for at in 0..CLIENTS {
            if let Some(client) = self.clients[at].take() {
                self.record.lock().disconnect(client.id);
                client.cut().await;
            }
        }
        for node in self.live() {
            self.left_nothing(node).await;
        }
        let nodes: Vec<Node> = self.nodes.iter_mut().filter_map(Option::take).collect();
        for node in &nodes {
            self.close_hub(usize::MAX, node).await;
            let now = || {
                let stats = node.backplane.stats();
                (stats.subscriptions, stats.channels)
            };
            if !self.until(|| now() == (0, 0)).await {
                let (id, now) = (node.id.0, now());
                self.unexpected(format!(
                    "node {id} has (subscriptions, channels) {now:?} after its hub was closed"
                ));
            }
        }
        let harness = Arc::clone(&self.harness);
        if let Some(observer) = harness.observer() {
            self.nothing_subscribed(observer, &nodes).await?;
        }
        for node in nodes {
            self.close_node(node).await;
        }
        self.record.lock().check(false);
        let (Some(observer), Some(before)) = (harness.observer(), self.connections) else {
            return Ok(());
        };
        match self.patience.connections_left(observer, before).await? {
            0 => {}
            more => self.unexpected(format!(
                "{more} connections are left after every node was closed"
            )),
        }
        Ok(())
    }

    /// Waits until every node is attached and healthy.
    async fn settle(&self) {
        for node in self.live() {
            if let Err(why) = self.patience.until_well(&*node.backplane).await {
                let id = node.id.0;
                self.unexpected(format!(
                    "node {id} is not well again although every fault has ended: {why}"
                ));
            }
        }
    }

    /// Sends something on every channel. What a fault has swallowed is noticed with the next message of its channel, and
    /// must not be noticed in a period without a fault.
    async fn reveal(&self, node: &Node) {
        let groups = (0..GROUPS).map(Name::Group);
        let users = (0..USERS).map(Name::User);
        // Any client stands for the channel of its node.
        let others = (0..self.nodes.len()).filter_map(|at| {
            let mut clients = self.clients.iter().flatten();
            clients.find(|client| client.node == at)
        });
        let clients = others.map(|client| Name::Client(client.id));
        for name in groups.chain(users).chain(clients) {
            let _ = self.accepted(node, &Target::of([name])).await;
        }
    }

    /// Sends to all until a message is accepted and every client has it, or a later one.
    async fn last_message(&self, node: &Node) {
        let all = Target::of([Name::All]);
        let Some(first) = self.accepted(node, &all).await else {
            let id = node.id.0;
            return self.unexpected(format!("node {id} cannot send although it is well"));
        };
        let has = |client| {
            let latest = self.record.lock().latest(client, first.publisher);
            latest.is_some_and(|latest| latest >= first.number)
        };
        let clients = || self.clients.iter().flatten();
        let deadline = Instant::now() + self.within();
        let mut looks = 0;
        while !clients().all(|client| has(client.id)) && Instant::now() < deadline {
            sleep(LOOK_AGAIN).await;
            looks += 1;
            if looks % LOOKS == 0 {
                self.accepted(node, &all).await;
            }
        }
    }

    async fn accepted(&self, node: &Node, target: &Target) -> Option<MessageId> {
        let sender = self.sender(node);
        let deadline = Instant::now() + self.within();
        loop {
            if let Some(message) = sender.send(target).await {
                return Some(message);
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends what is not known of groups: by a join, or a leave, that is acknowledged.
    async fn make_sure(&self) {
        for at in 0..CLIENTS {
            for group in 0..GROUPS {
                let Some(client) = &self.clients[at] else {
                    continue;
                };
                let id = client.id;
                if self.record.lock().is_in(id, group) == Sure::Maybe {
                    let join = (id.0 + u64::from(group)) % 2 == 0;
                    self.change(at, group, join, None).await;
                }
                self.agrees(at, group);
            }
        }
    }

    /// Checks that each hub counts what there is, and waits for nothing.
    async fn add_up(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(node) = node else {
                continue;
            };
            let here = self
                .clients
                .iter()
                .flatten()
                .filter(|client| client.node == at);
            let connections = here.count() as u64;
            let (least, most) = self.record.lock().rooms(node.id);
            let is_right = || {
                let [now, rooms, requests, invocations] = left(&node.hub.stats());
                now == connections
                    && (least..=most).contains(&rooms)
                    && (requests, invocations) == (0, 0)
            };
            if !self.until(is_right).await {
                let (id, now) = (node.id.0, left(&node.hub.stats()));
                self.unexpected(format!(
                    "the hub of node {id} has (connections, rooms, requests, invocations) {now:?}, and there are \
                     {connections} connections, {least} to {most} rooms, and nothing that it waits for"
                ));
            }
            self.count(at, &Target::of([Name::All])).await;
        }
    }

    /// Checks that the broker has no subscription of a hub any more.
    async fn nothing_subscribed(
        &self,
        observer: &dyn Observer,
        nodes: &[Node],
    ) -> Result<(), String> {
        let groups: Vec<String> = (0..GROUPS).map(group).collect();
        let users: Vec<String> = (0..USERS).map(user).collect();
        let mut names = vec![HubChannel::All];
        names.extend(groups.iter().map(|name| HubChannel::Group(name)));
        names.extend(users.iter().map(|name| HubChannel::User(name)));
        names.extend(
            nodes
                .iter()
                .map(|node| HubChannel::Node(node.backplane.node_id())),
        );
        for name in names {
            let Ok(channel) = name.of(HUB) else {
                continue;
            };
            let place = (&self.prefix, &channel);
            let seen = self.patience.subscriptions(observer, place, 0).await?;
            if seen > 0 {
                self.unexpected(format!(
                    "the broker has {seen} subscriptions of {name:?} after every hub was closed"
                ));
            }
        }
        Ok(())
    }
}
