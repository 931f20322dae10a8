//! Benchmarks of the backplane crates; see `benches/`.
//!
//! The README's example is compiled and run here, as this crate sees all the others.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
