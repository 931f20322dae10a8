//! A hub with something wrong: [`WrongHubs`] around the real ones, and [`HubTwist`], what is wrong.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::hub::{
    Answers, CompleteError, ConnectionId, ConnectionInfo, DeliveryMode, Ended, HubError, HubStats,
    InvocationId, InvokeError, NodeEvent, Nodes, Outbound, Payload, RequestError, SendError, Sent,
    Sink,
};
use backplane_core::{Backplane, Gap, NodeId, Subscribed};

use super::node::lock;
use crate::hub::{
    Address, ClientSpec, HubClient, HubGaps, HubHandle, HubMember, HubNode, HubPort, HubPresence,
    HubSpec, RealHub, Recipients, Replied,
};

/// A connection below.
pub(super) type Handle = Arc<dyn HubHandle>;

/// What is wrong with a hub. Every method as it stands does the right thing. All nodes of a backend have one.
#[async_trait]
pub(super) trait HubTwist: Send + Sync + 'static {
    fn spec(&self, asked: HubSpec) -> HubSpec {
        asked
    }

    fn client(&self, asked: ClientSpec) -> ClientSpec {
        asked
    }

    /// Whether clients can be connected now.
    fn admits(&self, _here: &Here) -> Result<(), HubError> {
        Ok(())
    }

    fn sink(&self, _here: &Here, sink: Arc<dyn Sink>) -> Arc<dyn Sink> {
        sink
    }

    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        here.hub.send(&to, payload).await
    }

    async fn join(&self, _here: &Here, who: &Handle, group: &str) -> Result<Subscribed, HubError> {
        who.join(group).await
    }

    async fn leave(&self, _here: &Here, who: &Handle, group: &str) -> Result<(), HubError> {
        who.leave(group).await
    }

    async fn join_from(
        &self,
        here: &Here,
        who: ConnectionId,
        group: &str,
    ) -> Result<Subscribed, RequestError> {
        here.hub.join(who, group).await
    }

    async fn leave_from(
        &self,
        here: &Here,
        who: ConnectionId,
        group: &str,
    ) -> Result<(), RequestError> {
        here.hub.leave(who, group).await
    }

    async fn invoke(
        &self,
        here: &Here,
        who: ConnectionId,
        payload: Payload,
        timeout: Duration,
    ) -> Result<Payload, InvokeError> {
        here.hub.invoke(who, payload, timeout).await
    }

    fn complete(
        &self,
        _here: &Here,
        who: &Handle,
        call: InvocationId,
        answer: Result<Payload, String>,
    ) -> Result<(), CompleteError> {
        who.complete(call, answer)
    }

    fn nodes(&self, here: &Here) -> Nodes {
        here.hub.nodes()
    }

    async fn change(&self, _here: &Here, presence: &mut dyn HubPresence) -> Option<NodeEvent> {
        presence.recv().await
    }

    async fn count(&self, here: &Here, who: &Recipients) -> Result<Answers<u64>, RequestError> {
        here.hub.count(who).await
    }

    async fn ask(
        &self,
        here: &Here,
        node: NodeId,
        question: Payload,
    ) -> Result<Payload, RequestError> {
        here.hub.ask(node, question).await
    }

    /// The owner of a connection has dropped it.
    fn gone(&self, _here: &Here, client: Box<dyn HubMember>, _who: &Known) {
        drop(client);
    }

    async fn recv(&self, _here: &Here, client: &mut dyn HubClient) -> Option<Outbound> {
        client.recv().await
    }

    async fn gap(&self, gaps: &mut dyn HubGaps) -> Option<Gap> {
        gaps.recv().await
    }

    fn stats(&self, stats: HubStats) -> HubStats {
        stats
    }
}

/// Nothing is wrong.
#[derive(Debug)]
pub(super) struct Straight;

impl HubTwist for Straight {}

/// A node of a hub, with what a twist may want to know.
#[derive(Clone)]
pub(super) struct Here {
    /// The real one.
    pub(super) hub: Arc<dyn HubNode>,
    pub(super) backplane: Arc<dyn Backplane>,
    /// How it delivers, as it was asked to.
    pub(super) delivery: DeliveryMode,
    name: String,
    scene: Arc<Scene>,
}

/// A connection that is there.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) id: ConnectionId,
    pub(super) node: NodeId,
    pub(super) user: Option<String>,
    pub(super) handle: Handle,
    hub: String,
}

/// All connections of all nodes.
#[derive(Default)]
struct Scene(Mutex<Vec<Known>>);

impl Here {
    /// All connections of the hub.
    pub(super) fn everybody(&self) -> Vec<Known> {
        let known = lock(&self.scene.0);
        let of_hub = known.iter().filter(|it| it.hub == self.name);
        of_hub.cloned().collect()
    }

    /// The connections of this node.
    pub(super) fn locals(&self) -> Vec<Known> {
        let mut known = self.everybody();
        known.retain(|it| it.node == self.node());
        known
    }

    /// Whom one of these means.
    pub(super) fn named(&self, addresses: &[Address]) -> Vec<Known> {
        let mut known = self.everybody();
        known.retain(|it| addresses.iter().any(|address| it.is(address)));
        known
    }

    pub(super) fn node(&self) -> NodeId {
        self.backplane.node_id()
    }

    /// What a send to nobody says: that it went well.
    pub(super) async fn fine(&self) -> Result<Sent, SendError> {
        let nobody = Recipients::connections([]);
        self.hub.send(&nobody, Payload::from("")).await
    }
}

impl Known {
    fn is(&self, address: &Address) -> bool {
        match address {
            Address::All => true,
            Address::Connection(id) => self.id == *id,
            Address::User(user) => self.user.as_ref() == Some(user),
            Address::Group(name) => self.handle.groups().contains(name),
        }
    }
}

/// These connections.
pub(super) fn connections(of: &[Known]) -> Recipients {
    Recipients::connections(of.iter().map(|known| known.id))
}

/// Sends to whom it makes of whom was asked for, in this order. The first error counts, or else the last outcome.
pub(super) struct Rewrites<F>(pub(super) F);

#[async_trait]
impl<F> HubTwist for Rewrites<F>
where
    F: Fn(&Here, Recipients) -> Vec<Recipients> + Send + Sync + 'static,
{
    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        let mut sent = here.fine().await?;
        for to in (self.0)(here, to) {
            sent = here.hub.send(&to, payload.clone()).await?;
        }
        Ok(sent)
    }
}

/// Real hubs with a [`HubTwist`].
pub(super) struct WrongHubs {
    twist: Arc<dyn HubTwist>,
    scene: Arc<Scene>,
}

impl WrongHubs {
    pub(super) fn new(twist: impl HubTwist) -> Self {
        Self {
            twist: Arc::new(twist),
            scene: Arc::default(),
        }
    }
}

#[async_trait]
impl HubPort for WrongHubs {
    async fn open(
        &self,
        node: Arc<dyn Backplane>,
        spec: &HubSpec,
    ) -> Result<Arc<dyn HubNode>, HubError> {
        let delivery = spec.delivery;
        let spec = self.twist.spec(spec.clone());
        let hub = RealHub.open(Arc::clone(&node), &spec).await?;
        Ok(Arc::new(WrongHub {
            here: Here {
                hub,
                backplane: node,
                delivery,
                name: spec.name,
                scene: Arc::clone(&self.scene),
            },
            twist: Arc::clone(&self.twist),
        }))
    }
}

impl fmt::Debug for WrongHubs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrongHubs").finish_non_exhaustive()
    }
}

struct WrongHub {
    here: Here,
    twist: Arc<dyn HubTwist>,
}

impl WrongHub {
    /// Writes down who has come.
    fn part(&self, client: &ClientSpec, handle: Handle) -> Part {
        let known = Known {
            id: handle.id(),
            node: self.here.node(),
            user: client.user.clone(),
            handle,
            hub: self.here.name.clone(),
        };
        lock(&self.here.scene.0).push(known.clone());
        Part {
            known,
            here: self.here.clone(),
            twist: Arc::clone(&self.twist),
        }
    }
}

#[async_trait]
impl HubNode for WrongHub {
    async fn connect(&self, client: &ClientSpec) -> Result<Box<dyn HubClient>, HubError> {
        self.twist.admits(&self.here)?;
        let client = self.twist.client(client.clone());
        let inner = self.here.hub.connect(&client).await?;
        let part = self.part(&client, inner.handle());
        let inner = Some(inner);
        Ok(Box::new(WrongClient { inner, part }))
    }

    async fn connect_sink(
        &self,
        client: &ClientSpec,
        sink: Arc<dyn Sink>,
    ) -> Result<Box<dyn HubMember>, HubError> {
        self.twist.admits(&self.here)?;
        let client = self.twist.client(client.clone());
        let sink = self.twist.sink(&self.here, sink);
        let inner = self.here.hub.connect_sink(&client, sink).await?;
        let part = self.part(&client, inner.handle());
        let inner = Some(inner);
        Ok(Box::new(WrongMember { inner, part }))
    }

    async fn send(&self, to: &Recipients, payload: Payload) -> Result<Sent, SendError> {
        self.twist.send(&self.here, to.clone(), payload).await
    }

    async fn join(&self, who: ConnectionId, group: &str) -> Result<Subscribed, RequestError> {
        self.twist.join_from(&self.here, who, group).await
    }

    async fn leave(&self, who: ConnectionId, group: &str) -> Result<(), RequestError> {
        self.twist.leave_from(&self.here, who, group).await
    }

    async fn invoke(
        &self,
        who: ConnectionId,
        payload: Payload,
        timeout: Duration,
    ) -> Result<Payload, InvokeError> {
        self.twist.invoke(&self.here, who, payload, timeout).await
    }

    fn nodes(&self) -> Nodes {
        self.twist.nodes(&self.here)
    }

    fn presence(&self) -> Box<dyn HubPresence> {
        Box::new(WrongPresence {
            inner: self.here.hub.presence(),
            here: self.here.clone(),
            twist: Arc::clone(&self.twist),
        })
    }

    async fn count(&self, who: &Recipients) -> Result<Answers<u64>, RequestError> {
        self.twist.count(&self.here, who).await
    }

    async fn connections(
        &self,
        who: &Recipients,
    ) -> Result<Answers<Vec<ConnectionInfo>>, RequestError> {
        self.here.hub.connections(who).await
    }

    async fn ask(&self, node: NodeId, question: Payload) -> Result<Payload, RequestError> {
        self.twist.ask(&self.here, node, question).await
    }

    async fn ask_all(&self, question: Payload) -> Result<Answers<Replied>, RequestError> {
        self.here.hub.ask_all(question).await
    }

    fn gaps(&self) -> Box<dyn HubGaps> {
        Box::new(WrongGaps {
            inner: self.here.hub.gaps(),
            twist: Arc::clone(&self.twist),
        })
    }

    fn stats(&self) -> HubStats {
        self.twist.stats(self.here.hub.stats())
    }

    async fn close(&self) {
        self.here.hub.close().await;
    }
}

/// What a connection has besides its inside.
#[derive(Clone)]
struct Part {
    known: Known,
    here: Here,
    twist: Arc<dyn HubTwist>,
}

impl Part {
    fn handle(&self) -> Handle {
        Arc::new(WrongHandle(self.clone()))
    }

    fn gone(&self, inner: Option<Box<dyn HubMember>>) {
        lock(&self.here.scene.0).retain(|it| it.id != self.known.id);
        if let Some(inner) = inner {
            self.twist.gone(&self.here, inner, &self.known);
        }
    }
}

/// A client with a queue.
struct WrongClient {
    /// Until it is dropped.
    inner: Option<Box<dyn HubClient>>,
    part: Part,
}

impl HubMember for WrongClient {
    fn handle(&self) -> Handle {
        self.part.handle()
    }
}

#[async_trait]
impl HubClient for WrongClient {
    async fn recv(&mut self) -> Option<Outbound> {
        let inner = self.inner.as_deref_mut()?;
        self.part.twist.recv(&self.part.here, inner).await
    }
}

impl Drop for WrongClient {
    fn drop(&mut self) {
        let inner = self.inner.take();
        self.part
            .gone(inner.map(|inner| inner as Box<dyn HubMember>));
    }
}

/// A client with a sink.
struct WrongMember {
    /// Until it is dropped.
    inner: Option<Box<dyn HubMember>>,
    part: Part,
}

impl HubMember for WrongMember {
    fn handle(&self) -> Handle {
        self.part.handle()
    }
}

impl Drop for WrongMember {
    fn drop(&mut self) {
        self.part.gone(self.inner.take());
    }
}

struct WrongHandle(Part);

#[async_trait]
impl HubHandle for WrongHandle {
    fn id(&self) -> ConnectionId {
        self.0.known.id
    }

    async fn join(&self, group: &str) -> Result<Subscribed, HubError> {
        let Part { known, here, twist } = &self.0;
        twist.join(here, &known.handle, group).await
    }

    async fn leave(&self, group: &str) -> Result<(), HubError> {
        let Part { known, here, twist } = &self.0;
        twist.leave(here, &known.handle, group).await
    }

    fn complete(
        &self,
        call: InvocationId,
        answer: Result<Payload, String>,
    ) -> Result<(), CompleteError> {
        let Part { known, here, twist } = &self.0;
        twist.complete(here, &known.handle, call, answer)
    }

    fn groups(&self) -> Vec<String> {
        self.0.known.handle.groups()
    }

    fn disconnect(&self) {
        self.0.known.handle.disconnect();
    }

    fn ended(&self) -> Option<Ended> {
        self.0.known.handle.ended()
    }
}

struct WrongPresence {
    inner: Box<dyn HubPresence>,
    here: Here,
    twist: Arc<dyn HubTwist>,
}

#[async_trait]
impl HubPresence for WrongPresence {
    async fn recv(&mut self) -> Option<NodeEvent> {
        self.twist.change(&self.here, &mut *self.inner).await
    }
}

struct WrongGaps {
    inner: Box<dyn HubGaps>,
    twist: Arc<dyn HubTwist>,
}

#[async_trait]
impl HubGaps for WrongGaps {
    async fn recv(&mut self) -> Option<Gap> {
        self.twist.gap(&mut *self.inner).await
    }
}
