//! The whole suite from another crate: all that a backend author writes to be certified.

use std::sync::Arc;

use backplane_conformance::{Description, Harness, NodeSpec};
use backplane_core::{Backplane, ConnectError};
use backplane_memory::MemoryBus;

#[derive(Debug)]
struct Mine(MemoryBus);

#[async_trait::async_trait]
impl Harness for Mine {
    fn describe(&self) -> Description {
        Description::new("mine").backend_version(env!("CARGO_PKG_VERSION"))
    }

    async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
        Ok(Arc::new(self.0.connect(spec.options.clone()).await?))
    }
}

fn main() -> std::process::ExitCode {
    backplane_conformance::main(|| Mine(MemoryBus::new()))
}
