//! A worked example: a backend on core NATS, certified by the suite. The guide for authors,
//! `conformance/README.md`, tells how it came to be.
//!
//! # What it does not promise
//! * Order beyond one publisher on one channel (rules O3 and O4): every channel is a subscription of its own, and the
//!   client library queues each apart.
//! * Replay: core NATS stores nothing.
//! * Permissions that forbid single channels: NATS refuses such a subscription out of band, so a refusal costs the whole
//!   link, and the node does not stay attached until that is mended.

mod driver;
mod link;
mod subject;

pub use driver::NatsDriver;
pub use link::NatsLink;
pub use subject::subject;
