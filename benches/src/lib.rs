//! Benchmarks of the backplane crates: how fast they are beside what they are built on.
//!
//! The program `backplane-benches` compares, in one process and one run, so that noise hits all alike; `benches/` has
//! the criterion benches of single parts. The README's example is compiled and run here, as this crate sees all the
//! others.

pub mod allocations;
pub mod arrivals;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod contender;
pub mod cpu;
pub mod error;
pub mod field;
pub mod figures;
pub mod growth;
pub mod keys;
pub mod machine;
pub mod measure;
pub mod page;
pub mod plot;
pub mod report;
pub mod server;
pub mod statistics;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
