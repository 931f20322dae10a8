//! The conformance suite of backplane.
//!
//! A backend is certified when the suite says so: every rule of the contract is one trial, with a verdict and a
//! reason. The suite is itself tested, by [`mutants`]: backends that are wrong on purpose, each of
//! which must fail the rule that it breaks.
//!
//! # Certify your own backend
//! In your own crate, `tests/conformance.rs`:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use backplane_conformance::{Description, Harness, NodeSpec};
//! use backplane_core::{Backplane, ConnectError};
//! # use backplane_memory::MemoryBus;
//! #
//! # #[derive(Debug)] struct MyBroker(MemoryBus);
//! # impl MyBroker {
//! #     fn new() -> Self { Self(MemoryBus::new()) }
//! #     async fn connect(&self, o: backplane_core::NodeOptions)
//! #         -> Result<backplane_core::Node<backplane_memory::MemoryDriver>, ConnectError> { self.0.connect(o).await }
//! # }
//!
//! #[derive(Debug)]
//! struct Mine(MyBroker);
//!
//! #[async_trait]
//! impl Harness for Mine {
//!     fn describe(&self) -> Description {
//!         Description::new("mine").backend_version(env!("CARGO_PKG_VERSION"))
//!     }
//!
//!     async fn node(&self, spec: &NodeSpec) -> Result<Arc<dyn Backplane>, ConnectError> {
//!         Ok(Arc::new(self.0.connect(spec.options.clone()).await?))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     backplane_conformance::main(|| Mine(MyBroker::new()))
//! }
//! ```
//!
//! and in its `Cargo.toml`:
//!
//! ```toml
//! [dev-dependencies]
//! backplane-conformance = { version = "0.1", default-features = false }
//!
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! `cargo test` then prints a line for each rule and fails unless the backend is certified. The test binary takes the
//! arguments of the command line, such as `cargo test --test conformance -- --rule L5 --repeat 20`: see [`cli`].
//! [`Harness`] says what else it can have: fault handles and an observer open the rules that need them,
//! and what is missing is reported as not applicable, with its reason. The guide for authors, `README.md`
//! beside this crate's manifest, goes through all of it, with an example on NATS.

#[cfg(feature = "memory")]
pub mod book;
pub mod cli;
pub mod contract;
mod expected;
#[cfg(feature = "fixtures")]
pub mod fixtures;
mod harness;
pub mod hub;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "memory")]
pub mod mutants;
#[cfg(feature = "memory")]
mod peers;
#[cfg(feature = "redis")]
mod redis;
mod report;
mod rule;
pub mod rules;
mod runner;
mod scale;
mod trial;
mod verdict;
mod wire;

/// The guide for authors: its code is compiled and run.
#[cfg(all(doctest, feature = "fixtures"))]
#[doc = include_str!("../README.md")]
pub struct Guide;

#[cfg(feature = "redis")]
pub use self::redis::RedisHarness;
pub use cli::embedded::{main, try_main};
pub use expected::{Difference, Expectation, Expected};
pub use harness::{Cuts, Description, Fault, Faults, Harness, NodeSpec, Observer, Start};
#[cfg(feature = "memory")]
pub use memory::MemoryHarness;
pub use report::{About, Declared, Report, RuleResult, SUITE_VERSION, Summary};
pub use rule::{Level, Need, Rule, TrialFn};
pub use runner::{Fleet, Plan, Progress, Suite};
pub use trial::Trial;
pub use verdict::{Ending, Outcome, Verdict, VerdictKind};
pub use wire::{EngineWire, Wire};
