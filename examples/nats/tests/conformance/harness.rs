//! What the suite needs of NATS: [`NatsHarness`].

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use backplane_conformance::fixtures::{FixtureError, LocalBroker};
use backplane_conformance::{Description, Fault, Faults, Harness, NodeSpec, Observer, Start};
use backplane_core::{Backplane, ConnectError, Node};
use backplane_example_nats::NatsDriver;

use crate::server::{NatsServer, USER};

/// Makes nodes on a `nats-server` of its own, and breaks it.
#[derive(Debug)]
pub(crate) struct NatsHarness {
    pub(crate) broker: LocalBroker,
    pub(crate) server: NatsServer,
}

impl NatsHarness {
    pub(crate) async fn start() -> Result<Self, FixtureError> {
        let server = NatsServer {
            name: format!("conformance-{:016x}", rand::random::<u64>()),
            password: format!("secret-{:016x}", rand::random::<u64>()),
        };
        let broker = LocalBroker::start(server.clone()).await?;
        Ok(Self { broker, server })
    }
}

#[async_trait]
impl Harness for NatsHarness {
    fn describe(&self) -> Description {
        Description::new("nats")
            .backend_version(env!("CARGO_PKG_VERSION"))
            .fixture("process")
            .server(self.broker.version())
    }

    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
        let connect = |addr: SocketAddr| async move {
            let driver = NatsDriver::new(addr.to_string()).credentials(USER, &self.server.password);
            let options = spec.options.clone();
            let node = match spec.start {
                Start::Eager => Node::connect(driver, options).await?,
                Start::Lazy => Node::connect_lazy(driver, options)
                    .map_err(|error| ConnectError::of_option(addr.to_string(), error))?,
            };
            Ok(Arc::new(node) as Arc<dyn Backplane>)
        };
        self.broker.node(spec, connect).await
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }

    fn observer(&self) -> Option<&dyn Observer> {
        Some(self)
    }

    fn secret(&self) -> Option<String> {
        Some(self.server.password.clone())
    }

    async fn shut_down(&self) {
        self.broker.shut_down().await;
    }
}

/// Those of any local broker; what NATS is different in says why.
#[async_trait]
impl Faults for NatsHarness {
    fn supports(&self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::KillSubscribers | Fault::KillPublishers => {
                Err("a NATS link has one connection, for publishing and subscribing".to_owned())
            }
            Fault::Mute => Err("the proxy cannot tell the messages of NATS apart".to_owned()),
            other => self.broker.supports(other),
        }
    }

    async fn inject(&self, fault: Fault) -> Result<(), String> {
        self.supports(fault)?;
        self.broker.inject(fault).await
    }

    async fn heal(&self) -> Result<(), String> {
        self.broker.heal().await
    }
}
