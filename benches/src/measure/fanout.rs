//! Fan-out inside one process: one message to ten thousand parked subscriptions.

use std::sync::Arc;
use std::time::Duration;

use backplane_core::driver::Driver;
use backplane_core::{Backplane, Channel, Delivery, Node, Subscribe};
use backplane_memory::{MemoryBus, MemoryDriver};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::PATIENCE;
use crate::arrivals::Arrivals;
use crate::clock;
use crate::contender::{MEMORY, node_options};
use crate::error::{Error, Result};
use crate::keys::BARE_LOOP;

/// How many messages make a burst.
pub const BURST: usize = 32;

/// What each receiver holds.
const CAPACITY: usize = 128;

/// A round that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(120);

/// How the receivers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// One message a call; they are published one at a time.
    Single,
    /// Many messages a call; they are published in bursts of [`BURST`].
    Burst,
}

impl Reading {
    const fn messages(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Burst => BURST,
        }
    }
}

/// Receivers of one kind, each parked in a task of its own.
#[derive(Debug)]
pub struct Audience<D: Driver = MemoryDriver> {
    reading: Reading,
    size: usize,
    arrivals: Arc<Arrivals>,
    source: Source<D>,
    receivers: JoinSet<()>,
    /// Those of the receivers, where they are not the publisher's.
    nodes: Vec<Node<D>>,
}

#[derive(Debug)]
enum Source<D: Driver> {
    Bare(Arc<[mpsc::Sender<Bytes>]>),
    Ours(Arc<Node<D>>, Channel),
}

impl<D: Driver> Clone for Source<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Bare(senders) => Self::Bare(Arc::clone(senders)),
            Self::Ours(node, channel) => Self::Ours(Arc::clone(node), channel.clone()),
        }
    }
}

impl Audience {
    /// Bounded tokio channels, to which a bare loop of `try_send` publishes.
    #[must_use]
    pub fn bare(size: usize, reading: Reading) -> Self {
        let arrivals = Arc::new(Arrivals::new(BARE_LOOP));
        let mut receivers = JoinSet::new();
        let senders = (0..size).map(|_| {
            let (sender, mut receiver) = mpsc::channel::<Bytes>(CAPACITY);
            let arrivals = Arc::clone(&arrivals);
            receivers.spawn(async move {
                if reading == Reading::Single {
                    while receiver.recv().await.is_some() {
                        arrivals.add(1);
                    }
                }
                let mut buffer = Vec::with_capacity(BURST);
                while receiver.recv_many(&mut buffer, BURST).await > 0 {
                    arrivals.add(buffer.len() as u64);
                    buffer.clear();
                }
            });
            sender
        });
        let source = Source::Bare(senders.collect());
        Self {
            reading,
            size,
            arrivals,
            source,
            receivers,
            nodes: Vec::new(),
        }
    }

    /// Subscriptions of one channel, of one node in memory.
    ///
    /// # Errors
    /// Whatever connecting and subscribing can fail with.
    pub async fn ours(size: usize, reading: Reading) -> Result<Self> {
        let node = MemoryBus::new().connect(node_options()?).await?;
        Self::of(node, MEMORY, size, reading).await
    }
}

impl<D: Driver> Audience<D> {
    /// Subscriptions of one channel of this node, which also publishes.
    ///
    /// # Errors
    /// Whatever subscribing can fail with.
    pub async fn of(
        node: Node<D>,
        name: &'static str,
        size: usize,
        reading: Reading,
    ) -> Result<Self> {
        let mut audience = Self::empty(node, name, size, reading)?;
        if let Source::Ours(node, channel) = audience.source.clone() {
            for _ in 0..size {
                audience.receive(&node, &channel).await?;
            }
        }
        Ok(audience)
    }

    /// A subscription on each of these nodes, to which another one publishes.
    ///
    /// # Errors
    /// Whatever subscribing can fail with.
    pub async fn across(node: Node<D>, nodes: Vec<Node<D>>, name: &'static str) -> Result<Self> {
        let mut audience = Self::empty(node, name, nodes.len(), Reading::Single)?;
        if let Source::Ours(_, channel) = audience.source.clone() {
            for node in &nodes {
                audience.receive(node, &channel).await?;
            }
        }
        audience.nodes = nodes;
        Ok(audience)
    }

    /// Closes its nodes, and waits for the end.
    pub async fn close(self) {
        drop(self.receivers);
        futures_util::future::join_all(self.nodes.iter().map(Backplane::close)).await;
        if let Source::Ours(node, _) = self.source {
            node.close().await;
        }
    }

    fn empty(node: Node<D>, name: &'static str, size: usize, reading: Reading) -> Result<Self> {
        Ok(Self {
            reading,
            size,
            arrivals: Arc::new(Arrivals::new(name)),
            source: Source::Ours(Arc::new(node), Channel::new("news")?),
            receivers: JoinSet::new(),
            nodes: Vec::new(),
        })
    }

    /// One more receiver, on this node.
    async fn receive(&mut self, node: &Node<D>, channel: &Channel) -> Result<()> {
        let request = Subscribe::to([channel.clone()]).capacity(CAPACITY);
        let mut subscription = node.subscribe(request).await?;
        let (reading, arrivals) = (self.reading, Arc::clone(&self.arrivals));
        self.receivers.spawn(async move {
            if reading == Reading::Single {
                while let Some(delivery) = subscription.recv().await {
                    arrivals.add(counted(&arrivals, &delivery));
                }
            }
            let mut buffer = Vec::with_capacity(BURST);
            while subscription.recv_many(&mut buffer, BURST).await > 0 {
                let messages = buffer.drain(..).map(|d| counted(&arrivals, &d)).sum();
                arrivals.add(messages);
            }
        });
        Ok(())
    }

    /// Publishes for this long, each time when the last delivery has been read. Nanoseconds for one delivery.
    ///
    /// # Errors
    /// Whatever publishing fails with; [`Error::Lost`].
    pub async fn measure(&self, payload: &Bytes, span: Duration) -> Result<f64> {
        let first = clock::now();
        let goes_on = move |_| clock::now() - first < clock::nanos(span);
        let (deliveries, elapsed) = self.run(payload, goes_on).await?;
        Ok(elapsed.as_nanos() as f64 / deliveries as f64)
    }

    /// Publishes so many times, each time when the last delivery has been read; how long that takes.
    ///
    /// # Errors
    /// Whatever publishing fails with; [`Error::Lost`].
    pub async fn publishes(&self, payload: &Bytes, count: u64) -> Result<Duration> {
        let (_, elapsed) = self.run(payload, move |done| done < count).await?;
        Ok(elapsed)
    }

    async fn run(
        &self,
        payload: &Bytes,
        mut goes_on: impl FnMut(u64) -> bool + Send + 'static,
    ) -> Result<(u64, Duration)> {
        let (source, arrivals) = (self.source.clone(), Arc::clone(&self.arrivals));
        let payloads = vec![payload.clone(); self.reading.messages()];
        let each = (self.size * payloads.len()) as u64;
        let begin = arrivals.count();
        let publishing = tokio::spawn(async move {
            let (first, mut publishes) = (clock::now(), 0);
            while goes_on(publishes) {
                source.publish(&payloads, &arrivals).await?;
                publishes += 1;
                arrivals.reach(begin + publishes * each).await;
                arrivals.check()?;
            }
            Ok::<_, Error>((publishes * each, clock::now() - first))
        });
        let Ok(published) = tokio::time::timeout(LONGEST, publishing).await else {
            let what = format!("a fan-out to {}", self.size);
            let within = LONGEST;
            return Err(Error::TooLong { what, within });
        };
        let (deliveries, elapsed) = published??;
        let goal = begin + deliveries;
        self.arrivals.wait_for(goal, begin, PATIENCE).await?;
        Ok((deliveries, Duration::from_nanos(elapsed)))
    }
}

impl<D: Driver> Source<D> {
    async fn publish(&self, payloads: &[Bytes], arrivals: &Arrivals) -> Result<()> {
        match self {
            Self::Bare(senders) => {
                for payload in payloads {
                    for sender in senders.iter() {
                        if sender.try_send(payload.clone()).is_err() {
                            arrivals.fail("a channel was full or closed");
                        }
                    }
                }
                Ok(())
            }
            Self::Ours(node, channel) => match payloads {
                [payload] => Ok(node.publish(channel, payload.clone()).await?),
                payloads => Ok(node.publish_many(channel, payloads.to_vec()).await?),
            },
        }
    }
}

/// 1 for a message; a gap voids the measurement.
fn counted(arrivals: &Arrivals, delivery: &Delivery) -> u64 {
    match delivery {
        Delivery::Message(_) => 1,
        Delivery::Gap(gap) => {
            arrivals.fail(format!("a gap: {gap}"));
            0
        }
    }
}
