//! Publishers that work at once in one process, each on a thread of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use backplane_core::{Backplane, Channel, Delivery, Node, Subscribe, Subscription};
use backplane_memory::{MemoryBus, MemoryDriver};
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::contender::{BACKPLANE, BROADCAST, node_options};
use crate::error::{Error, Result};

/// What a subscription holds: more than comes from others while its thread is put to sleep, so that a gap is an error.
const CAPACITY: usize = 1 << 19;

/// What the publishers have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The bus alone: each has a node and a channel of its own.
    Bus,
    /// One node; each has a channel of its own.
    Node,
    /// One node and one channel, of which each has a subscription: it gets the messages of the others, too.
    Channel,
}

/// A publisher with a subscriber on the same thread, so that what two of them wait for is what they have in common.
#[derive(Debug)]
pub enum Line {
    /// A tokio broadcast channel of its own.
    Broadcast(broadcast::Sender<Bytes>, broadcast::Receiver<Bytes>),
    /// A node in memory.
    Ours(Arc<Node<MemoryDriver>>, Channel, Subscription),
}

impl Line {
    /// So many with a tokio broadcast channel each.
    #[must_use]
    pub fn broadcast(count: usize) -> Vec<Self> {
        let line = || broadcast::channel(64);
        let lines = (0..count).map(|_| line());
        lines.map(|(tx, rx)| Self::Broadcast(tx, rx)).collect()
    }

    /// So many on one bus.
    ///
    /// # Errors
    /// None: the bus runs.
    pub async fn ours(count: usize, sharing: Sharing) -> Result<Vec<Self>> {
        let bus = MemoryBus::new();
        let mut node = Arc::new(bus.connect(node_options()?).await?);
        let mut lines = Vec::new();
        for number in 0..count {
            if sharing == Sharing::Bus {
                node = Arc::new(bus.connect(node_options()?).await?);
            }
            let channel = match sharing {
                Sharing::Channel => Channel::new("news")?,
                Sharing::Bus | Sharing::Node => Channel::new(format!("news-{number}"))?,
            };
            let request = Subscribe::to([channel.clone()]).capacity(CAPACITY);
            let subscription = node.subscribe(request).await?;
            lines.push(Self::Ours(Arc::clone(&node), channel, subscription));
        }
        Ok(lines)
    }

    /// Publishes a message, and receives what is there.
    async fn exchange(&mut self, payload: Bytes) -> Result<()> {
        match self {
            Self::Broadcast(sender, receiver) => {
                // There is a receiver.
                let _ = sender.send(payload);
                tokio::task::consume_budget().await;
                receiver
                    .recv()
                    .await
                    .map(drop)
                    .map_err(|error| Error::Receiver {
                        contender: BROADCAST,
                        what: error.to_string(),
                    })
            }
            Self::Ours(node, channel, subscription) => {
                node.publish(channel, payload).await?;
                check(subscription.recv().await)?;
                self.drain()
            }
        }
    }

    /// Receives what has come from others meanwhile.
    fn drain(&mut self) -> Result<()> {
        if let Self::Ours(_, _, subscription) = self {
            while let Ok(delivery) = subscription.try_recv() {
                check(Some(delivery))?;
            }
        }
        Ok(())
    }
}

/// Each of them publishes so many messages and receives each before the next, all at once; how long the slowest takes.
/// If they share nothing that matters, that is the same however many they are.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Receiver`] if something else arrives.
pub fn at_once(lines: &mut [Line], count: u64) -> Result<Duration> {
    let (start, busy) = (Barrier::new(lines.len()), AtomicUsize::new(lines.len()));
    thread::scope(|scope| {
        let threads: Vec<_> = lines
            .iter_mut()
            .map(|line| {
                scope.spawn(|| {
                    let time = run(line, &start, count);
                    busy.fetch_sub(1, Ordering::Relaxed);
                    // Those who are not done yet must not fill its queue.
                    while busy.load(Ordering::Relaxed) > 0 {
                        line.drain()?;
                        thread::yield_now();
                    }
                    line.drain()?;
                    time
                })
            })
            .collect();
        let mut times = threads.into_iter().map(|thread| match thread.join() {
            Ok(time) => time,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        times.try_fold(Duration::ZERO, |slowest, time| Ok(slowest.max(time?)))
    })
}

fn run(line: &mut Line, start: &Barrier, count: u64) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|source| Error::Io {
        what: "a runtime for a publisher".to_owned(),
        source,
    });
    // Of each publisher one of its own: a count of references in common would be what they wait for.
    let payload = Bytes::from(vec![b'.'; 128]);
    start.wait();
    runtime?.block_on(async {
        let begin = Instant::now();
        for _ in 0..count {
            line.exchange(payload.clone()).await?;
        }
        Ok(begin.elapsed())
    })
}

fn check(delivery: Option<Delivery>) -> Result<()> {
    match delivery {
        Some(Delivery::Message(_)) => Ok(()),
        other => Err(Error::Receiver {
            contender: BACKPLANE,
            what: format!("{other:?} arrived in place of a message"),
        }),
    }
}
