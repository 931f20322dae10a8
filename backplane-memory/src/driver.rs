//! The driver: about as small as a driver can be.

use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkErrorKind, LinkPublishError, Wakes,
};
use backplane_core::{Capabilities, Order};

use crate::bus::{Connected, MemoryBus, Reply, Request};

/// Opens links to a [`MemoryBus`].
#[derive(Clone, Debug)]
pub struct MemoryDriver(MemoryBus);

/// A node's connection to a [`MemoryBus`].
#[derive(Debug)]
pub struct MemoryLink {
    bus: MemoryBus,
    id: u64,
    connected: Connected,
}

impl MemoryDriver {
    pub(crate) const fn new(bus: MemoryBus) -> Self {
        Self(bus)
    }
}

#[async_trait]
impl Driver for MemoryDriver {
    type Link = MemoryLink;

    fn endpoint(&self) -> String {
        "memory bus".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new();
        capabilities.order = Order::Total;
        capabilities
    }

    async fn connect(&self, inbound: Inbound) -> Result<MemoryLink, LinkError> {
        self.0.pass().await;
        let (id, connected) = self.0.open(inbound)?;
        let link = MemoryLink {
            bus: self.0.clone(),
            id,
            connected,
        };
        link.ping().await?;
        Ok(link)
    }
}

#[async_trait]
impl Link for MemoryLink {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        self.bus.pass().await;
        let request = Request::Publish(channel.clone(), frame.clone());
        let result = match self.bus.request(self.id, request) {
            // The bus did not take it.
            Reply::Now(result) => result.map_err(LinkPublishError::NotSent),
            Reply::Later(done) => done
                .await
                .unwrap_or_else(|_| Err(forgotten()))
                .map_err(LinkPublishError::Unknown),
        };
        self.bus.pass().await;
        result
    }

    fn publish_now(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Option<Result<(), LinkPublishError>> {
        let published = self
            .bus
            .publish_now(&self.connected, channel, frame, wakes)?;
        // The bus did not take it.
        Some(published.map_err(LinkPublishError::NotSent))
    }

    async fn subscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        self.request(Request::Subscribe(self.id, channels.to_vec()))
            .await
    }

    async fn unsubscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        self.request(Request::Unsubscribe(self.id, channels.to_vec()))
            .await
    }

    async fn ping(&self) -> Result<(), LinkError> {
        self.request(Request::Ping(self.id)).await
    }

    async fn close(&self) {
        self.bus.close(self.id);
    }
}

impl MemoryLink {
    async fn request(&self, request: Request) -> Result<(), LinkError> {
        self.bus.pass().await;
        let result = match self.bus.request(self.id, request) {
            Reply::Now(result) => result,
            Reply::Later(done) => done.await.unwrap_or_else(|_| Err(forgotten())),
        };
        self.bus.pass().await;
        result
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.bus.close(self.id);
    }
}

fn forgotten() -> LinkError {
    LinkError::new(
        LinkErrorKind::Lost,
        "the connection ended without an answer",
    )
}
