//! A driver whose broker is this process, and whose every request can be held back, refused or lost.
#![allow(dead_code, unreachable_pub)] // each test uses a part of it
#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

pub mod wire;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkErrorKind, LinkPublishError, Wakes,
};
use backplane_core::{
    Backplane, Capabilities, Channel, Delivery, NodeOptions, Prefix, Subscription,
};
use tokio::sync::Semaphore;

/// What the broker does with a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPublish {
    Deliver,
    DeliverTwice,
    DeliverAndPanic,
    Drop,
    NotSent,
    Unknown,
    UnknownButDeliver,
}

#[derive(Debug)]
pub struct Broker {
    /// Publishes to application channels wait here for a permit.
    pub gate: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    on_publish: OnPublish,
    refused: HashSet<String>,
    links: u64,
    inbound: Option<Inbound>,
    subscribed: HashSet<String>,
    frames: Vec<(String, u64, usize)>,
    subscribes: Vec<usize>,
    unsubscribes: Vec<usize>,
    pings: usize,
    pause: Duration,
    panic_on_ping: bool,
    /// Whether publishes are done in the call while the gate is open.
    at_once: bool,
    /// Where probes are delivered instead of on the link that sent them.
    probes_to: Option<Inbound>,
}

/// The driver.
#[derive(Clone, Debug)]
pub struct Fake(pub Arc<Broker>);

#[derive(Debug)]
pub struct FakeLink(Arc<Broker>);

fn is_probe(channel: &BrokerChannel) -> bool {
    channel.as_str().contains("!probe:")
}

impl FakeLink {
    fn hand_over(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Result<(), LinkPublishError> {
        let probe = is_probe(channel);
        let (inbound, what) = {
            let mut state = self.0.state.lock().unwrap();
            if !probe {
                state
                    .frames
                    .push((channel.to_string(), frame.sequence(), frame.len()));
            }
            let what = if probe {
                OnPublish::Deliver
            } else {
                state.on_publish
            };
            let subscribed = state.subscribed.contains(channel.as_str());
            let inbound = match &state.probes_to {
                Some(other) if probe => Some(other.clone()),
                _ => state.inbound.clone(),
            };
            (inbound.filter(|_| subscribed), what)
        };
        let times = match what {
            OnPublish::Deliver | OnPublish::UnknownButDeliver | OnPublish::DeliverAndPanic => 1,
            OnPublish::DeliverTwice => 2,
            OnPublish::Drop | OnPublish::NotSent | OnPublish::Unknown => 0,
        };
        for _ in 0..times {
            if let Some(inbound) = &inbound {
                inbound.deliver_then(channel.as_bytes(), &as_read(frame), wakes);
            }
        }
        assert!(what != OnPublish::DeliverAndPanic, "as the test wants");
        let error = || LinkError::new(LinkErrorKind::Lost, "as the test wants");
        match what {
            OnPublish::NotSent => Err(LinkPublishError::NotSent(error())),
            OnPublish::Unknown | OnPublish::UnknownButDeliver => {
                Err(LinkPublishError::Unknown(error()))
            }
            _ => Ok(()),
        }
    }
}

/// The frame as it comes from a broker.
fn as_read(frame: &Frame) -> Frame {
    Frame::decode(&frame.encode()).unwrap()
}

impl Fake {
    pub fn new() -> Self {
        let state = State {
            on_publish: OnPublish::Deliver,
            refused: HashSet::new(),
            links: 0,
            inbound: None,
            subscribed: HashSet::new(),
            frames: Vec::new(),
            subscribes: Vec::new(),
            unsubscribes: Vec::new(),
            pings: 0,
            pause: Duration::ZERO,
            panic_on_ping: false,
            at_once: false,
            probes_to: None,
        };
        let gate = Semaphore::new(Semaphore::MAX_PERMITS);
        Self(Arc::new(Broker {
            gate,
            state: Mutex::new(state),
        }))
    }
}

impl Broker {
    pub fn on_publish(&self, what: OnPublish) {
        self.state.lock().unwrap().on_publish = what;
    }

    /// Holds every publish back until [`Broker::open_gate`].
    pub fn close_gate(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn open_gate(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub fn refuse(&self, channel: &str) {
        self.state
            .lock()
            .unwrap()
            .refused
            .insert(channel.to_owned());
    }

    pub fn allow_all(&self) {
        self.state.lock().unwrap().refused.clear();
    }

    /// Application frames that the broker got: channel, first sequence number, messages.
    pub fn frames(&self) -> Vec<(String, u64, usize)> {
        std::mem::take(&mut self.state.lock().unwrap().frames)
    }

    /// The sizes of the subscribe requests.
    pub fn subscribes(&self) -> Vec<usize> {
        std::mem::take(&mut self.state.lock().unwrap().subscribes)
    }

    pub fn pings(&self) -> usize {
        self.state.lock().unwrap().pings
    }

    pub fn subscribed(&self) -> usize {
        let state = self.state.lock().unwrap();
        state
            .subscribed
            .iter()
            .filter(|name| !name.contains("!probe"))
            .count()
    }

    /// What the broker delivers to the node goes in here.
    pub fn inbound(&self) -> Inbound {
        self.state.lock().unwrap().inbound.clone().unwrap()
    }

    pub fn panic_on_ping(&self) {
        self.state.lock().unwrap().panic_on_ping = true;
    }

    /// Probes are delivered on this link from now on, or on the one that sent them again.
    pub fn deliver_probes_to(&self, other: Option<Inbound>) {
        self.state.lock().unwrap().probes_to = other;
    }

    /// From now on a publish is done in the call, without waiting, while the gate is open.
    pub fn answer_at_once(&self) {
        self.state.lock().unwrap().at_once = true;
    }

    pub fn links(&self) -> u64 {
        self.state.lock().unwrap().links
    }

    /// Every publish to an application channel takes so long.
    pub fn slow_down(&self, pause: Duration) {
        self.state.lock().unwrap().pause = pause;
    }

    pub fn break_link(&self) {
        let inbound = self.state.lock().unwrap().inbound.take();
        if let Some(inbound) = inbound {
            inbound.lost(LinkError::new(LinkErrorKind::Lost, "broken by the test"));
        }
    }
}

#[async_trait]
impl Driver for Fake {
    type Link = FakeLink;

    fn endpoint(&self) -> String {
        "fake broker".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn connect(&self, inbound: Inbound) -> Result<FakeLink, LinkError> {
        let mut state = self.0.state.lock().unwrap();
        state.links += 1;
        state.subscribed.clear();
        state.inbound = Some(inbound);
        Ok(FakeLink(Arc::clone(&self.0)))
    }
}

#[async_trait]
impl Link for FakeLink {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        if !is_probe(channel) {
            let _permit = self.0.gate.acquire().await.unwrap();
            let pause = self.0.state.lock().unwrap().pause;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        self.hand_over(channel, frame, &mut Wakes::default())
    }

    fn publish_now(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Option<Result<(), LinkPublishError>> {
        let _permit = self.0.gate.try_acquire().ok()?;
        let at_once = self.0.state.lock().unwrap().at_once;
        at_once.then(|| self.hand_over(channel, frame, wakes))
    }

    async fn subscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        let mut state = self.0.state.lock().unwrap();
        if channels
            .iter()
            .any(|name| state.refused.contains(name.as_str()))
        {
            return Err(LinkError::new(LinkErrorKind::Refused, "as the test wants"));
        }
        if !channels
            .iter()
            .any(|name| name.as_str().contains("!probe:"))
        {
            state.subscribes.push(channels.len());
        }
        state
            .subscribed
            .extend(channels.iter().map(ToString::to_string));
        Ok(())
    }

    async fn unsubscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        let mut state = self.0.state.lock().unwrap();
        state.unsubscribes.push(channels.len());
        for name in channels {
            state.subscribed.remove(name.as_str());
        }
        Ok(())
    }

    async fn ping(&self) -> Result<(), LinkError> {
        let panics = self.0.state.lock().unwrap().panic_on_ping;
        assert!(!panics, "as the test wants");
        self.0.state.lock().unwrap().pings += 1;
        Ok(())
    }

    async fn close(&self) {}
}

pub fn options() -> NodeOptions {
    NodeOptions::new(Prefix::new("t").unwrap())
}

pub fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

pub async fn next(subscription: &mut Subscription) -> String {
    let delivery = tokio::time::timeout(Duration::from_secs(10), subscription.recv());
    match delivery.await.expect("a delivery in time") {
        Some(Delivery::Message(message)) => String::from_utf8_lossy(message.payload()).into_owned(),
        Some(Delivery::Gap(gap)) => format!("gap: {gap}"),
        None => "end".to_owned(),
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let holding = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), holding)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

pub async fn connected(node: &impl Backplane) {
    node.watch().connected().await.expect("the node attaches");
}

/// The counts of a list.
pub fn tally(list: impl IntoIterator<Item = usize>) -> HashMap<usize, usize> {
    list.into_iter().fold(HashMap::new(), |mut tally, n| {
        *tally.entry(n).or_default() += 1;
        tally
    })
}
