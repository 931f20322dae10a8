//! The harness of the in-memory backend.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backplane_core::{
    Backplane, Channel, ConnectError, ConnectErrorKind, NodeId, NodeOptions, Prefix,
};
use backplane_memory::{MemoryBus, Moment, Trap};
use bytes::Bytes;

use crate::harness::{Cuts, Description, Fault, Faults, Harness, NodeSpec, Observer, Start};

/// Makes nodes on one [`MemoryBus`], and breaks it.
#[derive(Debug, Default)]
pub struct MemoryHarness {
    bus: MemoryBus,
    isolated: Mutex<Vec<NodeId>>,
    /// How many cuts were armed.
    armed: AtomicU64,
    overrun: Mutex<Vec<NodeId>>,
}

/// The least and the most that [`Fault::Delay`] delays each way.
const SLOW: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(15));

/// How long a bus that answers nothing is looked at.
const SILENCE: Duration = Duration::from_millis(20);

/// How many messages wait for a node that takes none, before the bus breaks its connection off.
const BACKLOG: usize = 100;

impl MemoryHarness {
    /// A harness with a bus of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bus.
    #[must_use]
    pub const fn bus(&self) -> &MemoryBus {
        &self.bus
    }
}

#[async_trait]
impl Harness for MemoryHarness {
    fn describe(&self) -> Description {
        Description::new("memory").backend_version(backplane_memory::VERSION)
    }

    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
        let options = spec.options.clone();
        Ok(match spec.start {
            Start::Eager => Arc::new(self.bus.connect(options).await?),
            Start::Lazy => {
                let node = self.bus.connect_lazy(options);
                Arc::new(node.map_err(|error| ConnectError::of_option("memory bus", error))?)
            }
        })
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }

    fn observer(&self) -> Option<&dyn Observer> {
        Some(self)
    }
}

#[async_trait]
impl Faults for MemoryHarness {
    fn supports(&self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill
            | Fault::Stop
            | Fault::Freeze
            | Fault::Mute
            | Fault::KillSubscribers
            | Fault::KillPublishers
            | Fault::Isolate(_)
            | Fault::RefuseNew
            | Fault::Unanswered
            | Fault::Delay
            | Fault::CutInSubscribe(_)
            | Fault::CutInPublish(_)
            | Fault::Overrun(_)
            | Fault::OutOfMemory
            | Fault::MaxClients
            | Fault::RevokeAuth => Ok(()),
            Fault::Trickle => Err(
                "messages on the memory bus are no bytes that could arrive one at a time"
                    .to_owned(),
            ),
        }
    }

    async fn inject(&self, fault: Fault) -> Result<(), String> {
        self.supports(fault)?;
        match fault {
            Fault::Kill | Fault::Stop => self.bus.stop(),
            Fault::Freeze => self.bus.freeze(),
            Fault::Mute => self.bus.mute(),
            // A node has one connection, which carries both.
            Fault::KillSubscribers | Fault::KillPublishers => {
                if self.bus.cut_all() == 0 {
                    return Err("no connection was there to be cut".to_owned());
                }
            }
            Fault::Isolate(node) => {
                lock(&self.isolated).push(node);
                if self.bus.refuse(node) == 0 {
                    return Err("the node was not connected".to_owned());
                }
            }
            Fault::RefuseNew => {
                self.bus.refuse_new();
                if self.try_to_connect().await? {
                    return Err("the bus still takes connections".to_owned());
                }
            }
            Fault::Unanswered => {
                self.bus.ignore();
                match self.bus.connections() {
                    0 => {}
                    left => return Err(format!("{left} connections are still open")),
                }
                let options = NodeOptions::new(Prefix::unprefixed()).connect_timeout(SILENCE);
                match self.bus.connect(options).await {
                    Err(error) if error.kind() == ConnectErrorKind::Timeout => {}
                    other => return Err(format!("the bus answers: {other:?}")),
                }
            }
            Fault::Delay => {
                self.bus.delay(SLOW.0, SLOW.1);
                let begin = Instant::now();
                self.try_to_connect().await?;
                if begin.elapsed() < SLOW.0 * 2 {
                    return Err("the bus is not slow".to_owned());
                }
            }
            Fault::CutInSubscribe(node) => self.arm(node, Trap::Subscribe),
            Fault::CutInPublish(node) => self.arm(node, Trap::Publish),
            Fault::Overrun(node) => {
                lock(&self.overrun).push(node);
                if self.bus.overrun(node, BACKLOG) == 0 {
                    return Err("the node was not connected".to_owned());
                }
            }
            Fault::OutOfMemory => self.bus.refuse_publishes(),
            Fault::MaxClients => self.bus.fill(),
            Fault::RevokeAuth => {
                if self.bus.revoke() == 0 {
                    return Err("no connection was there to be broken".to_owned());
                }
            }
            other => return Err(format!("the memory bus has no such fault: {other}")),
        }
        Ok(())
    }

    async fn heal(&self) -> Result<(), String> {
        self.bus.start();
        self.bus.thaw();
        self.bus.unmute();
        self.bus.disarm();
        self.bus.admit_new();
        self.bus.heed();
        self.bus.undelay();
        self.bus.accept_publishes();
        self.bus.make_room();
        self.bus.grant();
        for node in std::mem::take(&mut *lock(&self.isolated)) {
            self.bus.admit(node);
        }
        for node in std::mem::take(&mut *lock(&self.overrun)) {
            self.bus.relieve(node);
        }
        Ok(())
    }

    fn cuts(&self) -> Cuts {
        Cuts {
            before: self.bus.sprung(Moment::Before),
            after: self.bus.sprung(Moment::After),
        }
    }
}

impl MemoryHarness {
    /// By turns before the bus gets it, and after.
    fn arm(&self, node: NodeId, trap: Trap) {
        let moment = match self.armed.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Moment::Before,
            _ => Moment::After,
        };
        self.bus.arm(node, trap, moment);
    }

    /// Makes a node of its own, and says whether it could connect.
    async fn try_to_connect(&self) -> Result<bool, String> {
        let options = NodeOptions::new(Prefix::unprefixed());
        match self.bus.connect(options).await {
            Ok(node) => {
                node.close().await;
                Ok(true)
            }
            Err(error) if error.kind() == ConnectErrorKind::Unreachable => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[async_trait]
impl Observer for MemoryHarness {
    async fn subscriptions(&self, prefix: &Prefix, channel: &Channel) -> Result<u64, String> {
        Ok(self.bus.subscribers(prefix, channel) as u64)
    }

    async fn connections(&self) -> Result<u64, String> {
        Ok(self.bus.connections() as u64)
    }

    async fn publishes(&self) -> Result<Option<u64>, String> {
        Ok(Some(self.bus.published()))
    }

    async fn subscribes(&self) -> Result<Option<u64>, String> {
        Ok(Some(self.bus.subscribes()))
    }

    async fn run(&self) -> Result<Option<String>, String> {
        Ok(Some(self.bus.starts().to_string()))
    }

    async fn write(&self, prefix: &Prefix, channel: &Channel, bytes: Bytes) -> Result<(), String> {
        match self.bus.inject(prefix, channel, &bytes) {
            0 => Err("nobody was subscribed".to_owned()),
            _ => Ok(()),
        }
    }

    async fn write_to_probes(
        &self,
        prefix: &Prefix,
        node: NodeId,
        bytes: Bytes,
    ) -> Result<bool, String> {
        match self.bus.inject_probe(prefix, node, &bytes) {
            0 => Err("the node does not listen to its probes".to_owned()),
            _ => Ok(true),
        }
    }
}

fn lock(nodes: &Mutex<Vec<NodeId>>) -> MutexGuard<'_, Vec<NodeId>> {
    nodes.lock().unwrap_or_else(PoisonError::into_inner)
}
