//! The harness of a wrong backend: the memory backend with a twist in one place.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use backplane_core::{
    Backplane, ConnectError, ConnectErrorKind, Gap, InvalidOption, Message, Node, Prefix,
};
use backplane_memory::MemoryBus;

use super::driver::{LinkTwist, WrongDriver};
use super::node::{Inner, NodeTwist, Tap, WithParts, WrongNode};
use super::pump::{Control, OnGap, OnMessage, Out, Parts, Pump};
use crate::harness::{Description, Faults, Harness, NodeSpec, Observer, Start};
use crate::memory::MemoryHarness;

/// A node, or why there is none.
pub(super) type Made = Result<Inner, ConnectError>;
type LinkTwists = dyn Fn() -> Arc<dyn LinkTwist> + Send + Sync;
type NodeTwists = dyn Fn(&NodeSpec) -> Arc<dyn NodeTwist> + Send + Sync;
type OnSpec = fn(&NodeSpec) -> NodeSpec;
type OnUrl = fn(&str, &str) -> Result<(), String>;

/// The memory backend, wrong in whatever was put on it.
#[derive(Default)]
pub(super) struct Wrong {
    memory: MemoryHarness,
    links: Option<Box<LinkTwists>>,
    nodes: Option<Box<NodeTwists>>,
    spec: Option<OnSpec>,
    make: Option<Box<dyn Make>>,
    url: Option<OnUrl>,
    secret: Option<&'static str>,
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
                let capacity = changed.options.queue_capacity;
                Arc::new(WrongNode::new(inner, nodes(spec), capacity))
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

/// The prefix that a node made with this spec has.
pub(super) fn prefix_of(spec: &NodeSpec) -> Result<Prefix, ConnectError> {
    let nowhere = MemoryBus::new();
    let node = nowhere
        .connect_lazy(spec.options.clone())
        .map_err(invalid)?;
    Ok(node.prefix().clone())
}

fn invalid(error: InvalidOption) -> ConnectError {
    ConnectError::new(
        ConnectErrorKind::InvalidOption,
        "memory bus",
        Some(error.into()),
    )
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
        self.memory.faults()
    }

    fn observer(&self) -> Option<&dyn Observer> {
        self.memory.observer()
    }

    fn parse_url_option(&self, option: &str, value: &str) -> Option<Result<(), String>> {
        self.url.map(|parse| parse(option, value))
    }

    fn secret(&self) -> Option<String> {
        self.secret.map(str::to_owned)
    }
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrong")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}
