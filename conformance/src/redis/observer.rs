//! Redis as a stranger sees it.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use backplane_core::driver::BrokerChannel;
use backplane_core::{Channel, NodeId, Prefix};
use bytes::Bytes;

use super::RedisHarness;
use crate::fixtures::{ClientInfo, FixtureError, RedisObserver};
use crate::harness::Observer;

#[async_trait]
impl Observer for RedisHarness {
    async fn subscriptions(&self, prefix: &Prefix, channel: &Channel) -> Result<u64, String> {
        let name = BrokerChannel::new(prefix, channel);
        self.ask(|observer| async move { observer.subscribers(name.as_bytes()).await })
            .await
    }

    async fn connections(&self) -> Result<u64, String> {
        let clients = self.clients().await?;
        Ok(clients
            .iter()
            .filter(|client| self.is_of_a_node(client))
            .count() as u64)
    }

    async fn publishes(&self) -> Result<Option<u64>, String> {
        if self.fixture == "url" {
            return Ok(None);
        }
        self.ask(|observer| async move { observer.publishes().await })
            .await
            .map(Some)
    }

    async fn subscribes(&self) -> Result<Option<u64>, String> {
        if self.fixture == "url" {
            return Ok(None);
        }
        self.ask(|observer| async move { observer.subscribes().await })
            .await
            .map(Some)
    }

    async fn run(&self) -> Result<Option<String>, String> {
        self.ask(|observer| async move { observer.run_id().await })
            .await
            .map(Some)
    }

    async fn write(&self, prefix: &Prefix, channel: &Channel, bytes: Bytes) -> Result<(), String> {
        self.write_at(BrokerChannel::new(prefix, channel), bytes)
            .await
    }

    async fn write_to_probes(
        &self,
        prefix: &Prefix,
        node: NodeId,
        bytes: Bytes,
    ) -> Result<bool, String> {
        self.write_at(BrokerChannel::probe(prefix, node), bytes)
            .await
            .map(|()| true)
    }
}

impl RedisHarness {
    async fn write_at(&self, name: BrokerChannel, bytes: Bytes) -> Result<(), String> {
        let written = self
            .ask(|observer| async move { observer.publish(name.as_bytes(), &bytes).await })
            .await?;
        match written {
            0 => Err("nobody was subscribed".to_owned()),
            _ => Ok(()),
        }
    }

    /// Every client of the server but observers.
    pub(super) async fn clients(&self) -> Result<Vec<ClientInfo>, String> {
        self.ask(|observer| async move { observer.clients().await })
            .await
    }

    /// Whether a connection is one of a node that this harness made.
    pub(super) fn is_of_a_node(&self, client: &ClientInfo) -> bool {
        let rest = client.name.strip_prefix(&self.client_name);
        rest.is_some_and(|rest| rest.starts_with('-'))
    }

    /// Asks the server over the harness' own connection, on its own thread.
    pub(super) async fn ask<T, F>(
        &self,
        question: impl FnOnce(Arc<RedisObserver>) -> F + Send,
    ) -> Result<T, String>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, FixtureError>> + Send + 'static,
    {
        let answer = self
            .backstage
            .run(question(Arc::clone(&self.observer)))
            .await;
        answer
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }
}
