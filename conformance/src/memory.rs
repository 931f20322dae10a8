//! The harness of the in-memory backend.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backplane_core::{Backplane, Channel, ConnectError, ConnectErrorKind, NodeId, Prefix};
use backplane_memory::MemoryBus;
use bytes::Bytes;

use crate::harness::{Description, Fault, Faults, Harness, NodeSpec, Observer, Start};

/// Makes nodes on one [`MemoryBus`], and breaks it.
#[derive(Debug, Default)]
pub struct MemoryHarness {
    bus: MemoryBus,
    isolated: Mutex<Vec<NodeId>>,
}

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
        Description {
            backend: "memory".to_owned(),
            backend_version: None,
            fixture: "none".to_owned(),
            server: None,
        }
    }

    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
        let options = spec.options.clone();
        Ok(match spec.start {
            Start::Eager => Arc::new(self.bus.connect(options).await?),
            Start::Lazy => Arc::new(self.bus.connect_lazy(options).map_err(|error| {
                let kind = ConnectErrorKind::InvalidOption;
                ConnectError::new(kind, "memory bus", Some(error.into()))
            })?),
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
            | Fault::Isolate(_) => Ok(()),
            other => Err(format!("the memory bus has no such fault: {other}")),
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
                self.isolated
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(node);
                if self.bus.refuse(node) == 0 {
                    return Err("the node was not connected".to_owned());
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
        let isolated =
            std::mem::take(&mut *self.isolated.lock().unwrap_or_else(PoisonError::into_inner));
        for node in isolated {
            self.bus.admit(node);
        }
        Ok(())
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

    async fn write(&self, prefix: &Prefix, channel: &Channel, bytes: Bytes) -> Result<(), String> {
        match self.bus.inject(prefix, channel, &bytes) {
            0 => Err("nobody was subscribed".to_owned()),
            _ => Ok(()),
        }
    }
}
