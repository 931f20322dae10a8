//! A driver with something wrong: [`WrongDriver`] around the memory driver, and [`LinkTwist`], what is wrong.
//! The engine above it is the real one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use backplane_core::Capabilities;
use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkPublishError,
};
use backplane_memory::{MemoryDriver, MemoryLink};

/// What is wrong with a driver, and its links. Every method as it stands does the right thing. One node has
/// one.
#[async_trait]
pub(super) trait LinkTwist: Send + Sync + 'static {
    /// Opens the link with this number, from 1.
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        driver.connect(inbound).await
    }

    fn endpoint(&self, driver: &MemoryDriver) -> String {
        driver.endpoint()
    }

    fn capabilities(&self, driver: &MemoryDriver) -> Capabilities {
        driver.capabilities()
    }

    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        line.link.publish(channel, frame).await
    }

    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        line.link.subscribe(channels).await
    }

    async fn unsubscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        line.link.unsubscribe(channels).await
    }

    async fn ping(&self, line: &Line) -> Result<(), LinkError> {
        line.link.ping().await
    }

    async fn close(&self, line: &Line) {
        line.link.close().await;
    }
}

/// Nothing is wrong.
#[derive(Debug)]
pub(super) struct Straight;

impl LinkTwist for Straight {}

/// One link, with what a twist may want to know of it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) link: Arc<MemoryLink>,
    pub(super) inbound: Inbound,
    /// 1 for the first link of the node.
    pub(super) number: u64,
}

/// Whether a channel carries the engine's own probes.
pub(super) fn is_probe(channel: &BrokerChannel) -> bool {
    channel.as_str().contains("!probe:")
}

/// A driver with a [`LinkTwist`].
pub(super) struct WrongDriver {
    inner: MemoryDriver,
    twist: Arc<dyn LinkTwist>,
    links: AtomicU64,
}

impl WrongDriver {
    pub(super) fn new(inner: MemoryDriver, twist: Arc<dyn LinkTwist>) -> Self {
        Self {
            inner,
            twist,
            links: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl Driver for WrongDriver {
    type Link = WrongLink;

    fn endpoint(&self) -> String {
        self.twist.endpoint(&self.inner)
    }

    fn capabilities(&self) -> Capabilities {
        self.twist.capabilities(&self.inner)
    }

    async fn connect(&self, inbound: Inbound) -> Result<WrongLink, LinkError> {
        let number = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        let link = self
            .twist
            .connect(&self.inner, inbound.clone(), number)
            .await?;
        let line = Line {
            link: Arc::new(link),
            inbound,
            number,
        };
        Ok(WrongLink {
            line,
            twist: Arc::clone(&self.twist),
        })
    }
}

/// A link with a [`LinkTwist`].
pub(super) struct WrongLink {
    line: Line,
    twist: Arc<dyn LinkTwist>,
}

#[async_trait]
impl Link for WrongLink {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        self.twist.publish(&self.line, channel, frame).await
    }

    async fn subscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        self.twist.subscribe(&self.line, channels).await
    }

    async fn unsubscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        self.twist.unsubscribe(&self.line, channels).await
    }

    async fn ping(&self) -> Result<(), LinkError> {
        self.twist.ping(&self.line).await
    }

    async fn close(&self) {
        self.twist.close(&self.line).await;
    }
}

impl fmt::Debug for WrongDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

impl fmt::Debug for WrongLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.line.link, f)
    }
}
