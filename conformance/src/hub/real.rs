//! The hub of `backplane-core` behind the port: [`RealHub`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::hub::{
    Answers, CompleteError, Connect, Connection, ConnectionHandle, ConnectionId, ConnectionInfo,
    Ended, Gaps, Hub, HubError, HubStats, InvocationId, InvokeError, NodeEvent, Nodes, Outbound,
    Payload, Presence, RequestError, SendError, Sent, Sink, SinkConnection,
};
use backplane_core::{Backplane, Gap, NodeId, Subscribed};

use super::{
    ClientSpec, HubClient, HubGaps, HubHandle, HubMember, HubNode, HubPort, HubPresence, HubSpec,
    Recipients, Replied,
};

/// The hub of `backplane-core`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RealHub;

#[async_trait]
impl HubPort for RealHub {
    async fn open(
        &self,
        node: Arc<dyn Backplane>,
        spec: &HubSpec,
    ) -> Result<Arc<dyn HubNode>, HubError> {
        let mut builder = Hub::builder(node)
            .name(spec.name.as_str())
            .delivery(spec.delivery)
            .request_timeout(spec.request_timeout)
            .heartbeat_interval(spec.heartbeat_interval)
            .node_timeout(spec.node_timeout);
        if let Some(service) = &spec.service {
            builder = builder.service(Arc::clone(service));
        }
        Ok(Arc::new(builder.build().await?))
    }
}

#[async_trait]
impl HubNode for Hub {
    async fn connect(&self, client: &ClientSpec) -> Result<Box<dyn HubClient>, HubError> {
        Ok(Box::new(Self::connect(self, request(client)).await?))
    }

    async fn connect_sink(
        &self,
        client: &ClientSpec,
        sink: Arc<dyn Sink>,
    ) -> Result<Box<dyn HubMember>, HubError> {
        let connected = Self::connect_sink(self, request(client), sink);
        Ok(Box::new(connected.await?))
    }

    async fn send(&self, to: &Recipients, payload: Payload) -> Result<Sent, SendError> {
        Self::send(self, to.into(), payload).await
    }

    async fn join(&self, who: ConnectionId, group: &str) -> Result<Subscribed, RequestError> {
        Self::join(self, who, group).await
    }

    async fn leave(&self, who: ConnectionId, group: &str) -> Result<(), RequestError> {
        Self::leave(self, who, group).await
    }

    async fn invoke(
        &self,
        who: ConnectionId,
        payload: Payload,
        timeout: Duration,
    ) -> Result<Payload, InvokeError> {
        Self::invoke(self, who, payload, timeout).await
    }

    fn nodes(&self) -> Nodes {
        Self::nodes(self)
    }

    fn presence(&self) -> Box<dyn HubPresence> {
        Box::new(Self::presence(self))
    }

    async fn count(&self, who: &Recipients) -> Result<Answers<u64>, RequestError> {
        Self::count(self, who.into()).await
    }

    async fn connections(
        &self,
        who: &Recipients,
    ) -> Result<Answers<Vec<ConnectionInfo>>, RequestError> {
        Self::connections(self, who.into()).await
    }

    async fn ask(&self, node: NodeId, question: Payload) -> Result<Payload, RequestError> {
        Self::ask(self, node, question).await
    }

    async fn ask_all(&self, question: Payload) -> Result<Answers<Replied>, RequestError> {
        Self::ask_all(self, question).await
    }

    fn gaps(&self) -> Box<dyn HubGaps> {
        Box::new(Self::gaps(self))
    }

    fn stats(&self) -> HubStats {
        Self::stats(self)
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}

fn request(client: &ClientSpec) -> Connect {
    let mut request = Connect::new()
        .queue_capacity(client.capacity)
        .overflow(client.overflow);
    if let Some(user) = &client.user {
        request = request.user(user.as_str());
    }
    match client.with_gaps {
        true => request.with_gaps(),
        false => request,
    }
}

impl HubMember for Connection {
    fn handle(&self) -> Arc<dyn HubHandle> {
        Arc::new(ConnectionHandle::handle(self))
    }
}

impl HubMember for SinkConnection {
    fn handle(&self) -> Arc<dyn HubHandle> {
        Arc::new(ConnectionHandle::handle(self))
    }
}

#[async_trait]
impl HubClient for Connection {
    async fn recv(&mut self) -> Option<Outbound> {
        Self::recv(self).await
    }
}

#[async_trait]
impl HubHandle for ConnectionHandle {
    fn id(&self) -> ConnectionId {
        Self::id(self)
    }

    async fn join(&self, group: &str) -> Result<Subscribed, HubError> {
        Self::join(self, group).await
    }

    async fn leave(&self, group: &str) -> Result<(), HubError> {
        Self::leave(self, group).await
    }

    fn complete(
        &self,
        call: InvocationId,
        answer: Result<Payload, String>,
    ) -> Result<(), CompleteError> {
        Self::complete(self, call, answer)
    }

    fn groups(&self) -> Vec<String> {
        Self::groups(self)
    }

    fn disconnect(&self) {
        Self::disconnect(self);
    }

    fn ended(&self) -> Option<Ended> {
        Self::ended(self)
    }
}

#[async_trait]
impl HubPresence for Presence {
    async fn recv(&mut self) -> Option<NodeEvent> {
        Self::recv(self).await
    }
}

#[async_trait]
impl HubGaps for Gaps {
    async fn recv(&mut self) -> Option<Gap> {
        Self::recv(self).await
    }
}
