//! Checks everything, now and then and at the end.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::publishing::Publisher;
use super::{Node, System};
use crate::model::ledger::{MessageId, StreamId, Topic};
use crate::model::op::{PREFIXES, TOPICS};
use crate::trial::LOOK_AGAIN;

/// After so many looks, a message that a small queue may have had no room for is published once more.
const LOOKS: u32 = 20;

impl System {
    /// Ends every fault, waits until the nodes are well, publishes a last message from each to each channel, reads
    /// everything up to those, and checks the record.
    pub(super) async fn checkpoint(&mut self) -> Result<(), String> {
        self.heal().await?;
        for reader in self.subscriptions.iter().flatten() {
            reader.pause(false);
        }
        self.settle().await;
        if !self.until(|| self.nothing_deferred()).await {
            self.unexpected("a subscription is still deferred although its node is attached");
        }
        for prefix in 0..PREFIXES {
            for topic in 0..TOPICS {
                self.sentinels(prefix, topic).await;
            }
        }
        // What nodes published that are gone by now has no later message behind it.
        let readers = || self.subscriptions.iter().flatten();
        self.until(|| readers().all(|reader| !self.ledger().is_owed(reader.stream)))
            .await;
        let now = self.ledger().tick();
        if !self
            .until(|| readers().all(|reader| reader.is_idle_since(now)))
            .await
        {
            self.unexpected("a stream goes on although nobody publishes");
        }
        self.check();
        self.leftovers().await
    }

    /// Checks everything as [`Op::Checkpoint`](crate::model::Op::Checkpoint) does, closes every node, and checks that nothing of them is left.
    ///
    /// # Errors
    /// What went wrong with the environment.
    pub async fn finish(&mut self) -> Result<(), String> {
        self.checkpoint().await?;
        for at in 0..self.nodes.len() {
            self.close(at, true).await;
        }
        self.check();
        self.leftovers().await?;
        let harness = Arc::clone(&self.harness);
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
        for node in self.nodes.iter().flatten() {
            if let Err(why) = self.patience.until_well(&*node.backplane).await {
                let id = node.id.0;
                self.unexpected(format!(
                    "node {id} is not well again although every fault has ended: {why}"
                ));
            }
        }
    }

    fn nothing_deferred(&self) -> bool {
        self.note_deferred();
        let mut readers = self.subscriptions.iter().flatten();
        readers.all(|reader| self.ledger().deferred(reader.stream).is_empty())
    }

    /// Publishes from every node of a prefix to a channel, until everyone who should has it.
    async fn sentinels(&self, prefix: u8, topic: Topic) {
        let readers = self.subscriptions.iter().flatten().filter(|reader| {
            self.node_of(reader.node)
                .is_some_and(|node| node.prefix == prefix)
                && self.ledger().topics(reader.stream).contains(&topic)
        });
        let readers: Vec<_> = readers.collect();
        if readers.is_empty() {
            return;
        }
        for node in self.nodes.iter().flatten().filter(|n| n.prefix == prefix) {
            let Some(first) = self.sentinel(node, topic).await else {
                self.unexpected(format!(
                    "node {} cannot publish although it is well",
                    node.id.0
                ));
                continue;
            };
            let deadline = Instant::now() + self.within();
            let mut looks = 0;
            while !readers.iter().all(|r| self.has(r.stream, first)) && Instant::now() < deadline {
                sleep(LOOK_AGAIN).await;
                looks += 1;
                if looks % LOOKS == 0 {
                    self.sentinel(node, topic).await;
                }
            }
        }
    }

    /// Publishes until a message is accepted.
    async fn sentinel(&self, node: &Node, topic: Topic) -> Option<MessageId> {
        let publisher = Publisher::of(self, node);
        let deadline = Instant::now() + self.within();
        loop {
            if let Some(message) = publisher.publish(topic).await {
                return Some(message);
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether a subscription has a message, or need not get it.
    fn has(&self, stream: StreamId, message: MessageId) -> bool {
        self.ledger().has(stream, message)
    }

    fn check(&self) {
        // Nothing is received while the ledger is locked, so that gaps and generations go together.
        let mut ledger = self.ledger();
        for stream in ledger.streams() {
            let reader = self.subscriptions.iter().flatten();
            let node = reader
                .filter(|reader| reader.stream == stream)
                .find_map(|reader| self.node_of(reader.node));
            ledger.check(stream, node.map(Node::generation));
        }
        ledger.forget();
    }

    /// Checks that there are no more subscriptions than the model has.
    async fn leftovers(&self) -> Result<(), String> {
        for node in self.nodes.iter().flatten() {
            let readers = || {
                let readers = self.subscriptions.iter().flatten();
                readers.filter(|reader| reader.node == node.id)
            };
            let topics: HashSet<Topic> = {
                let ledger = self.ledger();
                readers().flat_map(|r| ledger.topics(r.stream)).collect()
            };
            let expected = (readers().count() as u64, topics.len() as u64);
            let seen = || {
                let stats = node.backplane.stats();
                (stats.subscriptions, stats.channels)
            };
            if !self.until(|| seen() == expected).await {
                let id = node.id.0;
                self.unexpected(format!(
                    "node {id} says it has (subscriptions, channels) {:?}, and should have {expected:?}",
                    seen()
                ));
            }
        }
        let harness = Arc::clone(&self.harness);
        let Some(observer) = harness.observer() else {
            return Ok(());
        };
        for prefix in 0..PREFIXES {
            for topic in 0..TOPICS {
                let readers = self.subscriptions.iter().flatten();
                let holders: HashSet<_> = readers
                    .filter(|reader| {
                        let node = self.node_of(reader.node);
                        node.is_some_and(|node| node.prefix == prefix)
                            && self.ledger().topics(reader.stream).contains(&topic)
                    })
                    .map(|reader| reader.node)
                    .collect();
                let expected = holders.len() as u64;
                let name = &self.names.prefixes[usize::from(prefix)];
                let place = (name, self.names.channel(topic));
                let seen = self.patience.subscriptions(observer, place, expected);
                let seen = seen.await?;
                if seen != expected {
                    self.unexpected(format!(
                        "the broker has {seen} subscriptions of channel {topic} of prefix {prefix}, and should have \
                         {expected}"
                    ));
                }
            }
        }
        Ok(())
    }
}
