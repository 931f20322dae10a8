//! The harness of a wrong backend: the memory backend with a twist in one place.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::{Channel, ConnectError, Gap, InvalidOption, Message, Node, NodeId, Prefix};
use backplane_memory::MemoryBus;
use bytes::Bytes;

use super::driver::{LinkTwist, WrongDriver};
use super::hubs::{Here, HubTwist, Rewrites, WrongHubs};
use super::node::{Inner, NodeTwist, Tap, WithParts, WrongNode, lock};
use super::pump::{Control, OnGap, OnMessage, Out, Parts, Pump};
use crate::harness::{Cuts, Description, Fault, Faults, Harness, NodeSpec, Observer, Start};
use crate::hub::{HubPort, RealHub, Recipients};
use crate::memory::MemoryHarness;

/// A node, or why there is none.
pub(super) type Made = Result<Inner, ConnectError>;
type LinkTwists = dyn Fn() -> Arc<dyn LinkTwist> + Send + Sync;
type NodeTwists = dyn Fn(&NodeSpec) -> Arc<dyn NodeTwist> + Send + Sync;
type OnSpec = fn(&NodeSpec) -> NodeSpec;
type OnWrite = dyn Fn(&Written<'_>, Bytes) -> Result<(), String> + Send + Sync;
type OnUrl = fn(&str, &str) -> Result<(), String>;
/// Says how many connections it has broken.
type OnProbes = fn(&MemoryHarness, NodeId) -> usize;

/// The memory backend, wrong in whatever was put on it.
#[derive(Default)]
pub(super) struct Wrong {
    memory: MemoryHarness,
    links: Option<Box<LinkTwists>>,
    nodes: Option<Box<NodeTwists>>,
    spec: Option<OnSpec>,
    make: Option<Box<dyn Make>>,
    writes: Option<Box<OnWrite>>,
    url: Option<OnUrl>,
    secret: Option<&'static str>,
    stranger_at_probes: Option<OnProbes>,
    elsewhere: Option<Elsewhere>,
    hubs: Option<WrongHubs>,
    trouble: Trouble,
}

/// What was done to the broker last, for a backend that is wrong in one kind of trouble only.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble(Arc<Mutex<Latest>>);

#[derive(Debug, Default)]
struct Latest {
    fault: Option<Fault>,
    healed: bool,
}

impl Trouble {
    /// Whether it is such a fault, healed or not.
    pub(super) fn was(&self, such: fn(Fault) -> bool) -> bool {
        lock(&self.0).fault.is_some_and(such)
    }

    /// Whether it is such a fault, and not healed.
    pub(super) fn is(&self, such: fn(Fault) -> bool) -> bool {
        let latest = lock(&self.0);
        !latest.healed && latest.fault.is_some_and(such)
    }
}

/// A place that looks apart.
#[derive(Debug)]
pub(super) enum Elsewhere {
    /// It is.
    Apart(MemoryBus),
    /// It is not.
    Here,
}

/// Where a stranger's bytes go.
pub(super) struct Written<'a> {
    harness: &'a MemoryHarness,
    prefix: &'a Prefix,
    channel: &'a Channel,
}

impl Written<'_> {
    /// Hands bytes to the nodes.
    pub(super) fn pass(&self, bytes: &Bytes) -> Result<(), String> {
        match self.harness.bus().inject(self.prefix, self.channel, bytes) {
            0 => Err("nobody was subscribed".to_owned()),
            _ => Ok(()),
        }
    }

    /// Breaks the connections of all nodes.
    pub(super) fn cut(&self) {
        self.harness.bus().cut_all();
    }
}

/// Makes nodes in a way of its own.
#[async_trait]
pub(super) trait Make: Send + Sync {
    async fn make(&self, harness: &Wrong, spec: &NodeSpec) -> Made;
}

impl Wrong {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A twist on the driver, one for each node.
    pub(super) fn links<T: LinkTwist>(
        mut self,
        twist: impl Fn() -> T + Send + Sync + 'static,
    ) -> Self {
        self.links = Some(Box::new(move || Arc::new(twist())));
        self
    }

    /// A twist on the node, one for each.
    pub(super) fn nodes<T: NodeTwist>(
        mut self,
        twist: impl Fn(&NodeSpec) -> T + Send + Sync + 'static,
    ) -> Self {
        self.nodes = Some(Box::new(move |spec| Arc::new(twist(spec))));
        self
    }

    /// Something that depends on what was done to the broker.
    pub(super) fn in_trouble(self, with: impl FnOnce(Self, Trouble) -> Self) -> Self {
        let trouble = self.trouble.clone();
        with(self, trouble)
    }

    /// Other parts for every subscription.
    pub(super) fn parts(self, parts: fn(&Tap) -> Parts) -> Self {
        self.nodes(move |_| WithParts(parts))
    }

    /// Another pump for every subscription.
    pub(super) fn pumps<P: Pump>(self, pump: fn() -> P) -> Self {
        self.nodes(move |_| WithParts(move |_: &Tap| Parts::pump(pump())))
    }

    /// Something else done with every message.
    pub(super) fn on_message(self, on: fn(Message, &Out)) -> Self {
        self.nodes(move |_| WithParts(move |_: &Tap| Parts::pump(OnMessage(on))))
    }

    /// Something else done with every gap.
    pub(super) fn on_gap(self, on: fn(Gap, &Out)) -> Self {
        self.nodes(move |_| WithParts(move |_: &Tap| Parts::pump(OnGap(on))))
    }

    /// Something else done for every handle.
    pub(super) fn controls<C: Control>(self, control: fn() -> C) -> Self {
        self.nodes(move |_| WithParts(move |_: &Tap| Parts::control(control())))
    }

    /// Other options than those asked for.
    pub(super) const fn spec(mut self, change: OnSpec) -> Self {
        self.spec = Some(change);
        self
    }

    /// Other constructors.
    pub(super) fn make(mut self, make: impl Make + 'static) -> Self {
        self.make = Some(Box::new(make));
        self
    }

    /// Something else done with what a stranger writes.
    pub(super) fn writes(
        mut self,
        on: impl Fn(&Written<'_>, Bytes) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.writes = Some(Box::new(on));
        self
    }

    /// A parser of URL options.
    pub(super) const fn url(mut self, parse: OnUrl) -> Self {
        self.url = Some(parse);
        self
    }

    /// A secret that the nodes are made with.
    pub(super) const fn secret(mut self, secret: &'static str) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Something else done, besides the right thing, when a stranger writes to the probes of a node.
    pub(super) const fn stranger_at_probes(mut self, on: OnProbes) -> Self {
        self.stranger_at_probes = Some(on);
        self
    }

    /// A place that looks apart.
    pub(super) fn elsewhere(mut self, place: Elsewhere) -> Self {
        self.elsewhere = Some(place);
        self
    }

    /// A twist on the hub, one for all nodes.
    pub(super) fn hubs(mut self, twist: impl HubTwist) -> Self {
        self.hubs = Some(WrongHubs::new(twist));
        self
    }

    /// Sends to others than those asked for, one after the other.
    pub(super) fn sends_to(self, others: fn(&Here, Recipients) -> Vec<Recipients>) -> Self {
        self.hubs(Rewrites(others))
    }

    pub(super) fn harness(self) -> Arc<dyn Harness> {
        Arc::new(self)
    }

    /// A node with the twists, by the right constructor.
    pub(super) async fn plain(&self, spec: &NodeSpec) -> Made {
        let changed = self
            .spec
            .map_or_else(|| spec.clone(), |change| change(spec));
        let inner = match &self.links {
            None => self.memory.node(&changed).await?,
            Some(links) => self.on_driver(&changed, links()).await?,
        };
        Ok(match &self.nodes {
            None => inner,
            Some(nodes) => {
                let options = spec.options.clone();
                Arc::new(WrongNode::new(inner, nodes(spec), options))
            }
        })
    }

    async fn on_driver(&self, spec: &NodeSpec, twist: Arc<dyn LinkTwist>) -> Made {
        let driver = WrongDriver::new(self.memory.bus().driver(), twist);
        let options = spec.options.clone();
        Ok(match spec.start {
            Start::Eager => Arc::new(Node::connect(driver, options).await?),
            Start::Lazy => Arc::new(Node::connect_lazy(driver, options).map_err(invalid)?),
        })
    }
}

fn invalid(error: InvalidOption) -> ConnectError {
    ConnectError::of_option("memory bus", error)
}

#[async_trait]
impl Harness for Wrong {
    fn describe(&self) -> Description {
        let backend = "memory, wrong on purpose".to_owned();
        Description {
            backend,
            ..self.memory.describe()
        }
    }

    async fn node(&self, spec: &NodeSpec) -> Made {
        match &self.make {
            None => self.plain(spec).await,
            Some(make) => make.make(self, spec).await,
        }
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }

    fn observer(&self) -> Option<&dyn Observer> {
        Some(self)
    }

    async fn node_elsewhere(&self, spec: &NodeSpec) -> Option<Made> {
        Some(match self.elsewhere.as_ref()? {
            Elsewhere::Apart(bus) => match bus.connect(spec.options.clone()).await {
                Ok(node) => Ok(Arc::new(node)),
                Err(error) => Err(error),
            },
            Elsewhere::Here => self.plain(spec).await,
        })
    }

    fn hubs(&self) -> &dyn HubPort {
        match &self.hubs {
            None => &RealHub,
            Some(hubs) => hubs,
        }
    }

    fn parse_url_option(&self, option: &str, value: &str) -> Option<Result<(), String>> {
        self.url.map(|parse| parse(option, value))
    }

    fn secret(&self) -> Option<String> {
        self.secret.map(str::to_owned)
    }
}

#[async_trait]
impl Faults for Wrong {
    fn supports(&self, fault: Fault) -> Result<(), String> {
        self.memory.supports(fault)
    }

    async fn inject(&self, fault: Fault) -> Result<(), String> {
        *lock(&self.trouble.0) = Latest {
            fault: Some(fault),
            healed: false,
        };
        self.memory.inject(fault).await
    }

    async fn heal(&self) -> Result<(), String> {
        self.memory.heal().await?;
        lock(&self.trouble.0).healed = true;
        Ok(())
    }

    fn cuts(&self) -> Cuts {
        self.memory.cuts()
    }
}

#[async_trait]
impl Observer for Wrong {
    async fn subscriptions(&self, prefix: &Prefix, channel: &Channel) -> Result<u64, String> {
        self.memory.subscriptions(prefix, channel).await
    }

    async fn connections(&self) -> Result<u64, String> {
        self.memory.connections().await
    }

    async fn publishes(&self) -> Result<Option<u64>, String> {
        self.memory.publishes().await
    }

    async fn subscribes(&self) -> Result<Option<u64>, String> {
        self.memory.subscribes().await
    }

    async fn write(&self, prefix: &Prefix, channel: &Channel, bytes: Bytes) -> Result<(), String> {
        let Some(on) = &self.writes else {
            return self.memory.write(prefix, channel, bytes).await;
        };
        let written = Written {
            harness: &self.memory,
            prefix,
            channel,
        };
        on(&written, bytes)
    }

    async fn write_to_probes(
        &self,
        prefix: &Prefix,
        node: NodeId,
        bytes: Bytes,
    ) -> Result<bool, String> {
        let written = self.memory.write_to_probes(prefix, node, bytes).await?;
        if let Some(stranger) = self.stranger_at_probes {
            stranger(&self.memory, node);
        }
        Ok(written)
    }
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrong")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}
