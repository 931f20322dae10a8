//! The model: random operations on any backend, and the record of what they must lead to.
//!
//! The guarantee in one line: every published message is delivered exactly once, in order, to every live subscription,
//! or its loss is reported, to the publisher or to the subscriber, with the right count where it can be known. The rules
//! look at it case by case; the model looks for the case that nobody has thought of. It makes nodes in two prefixes, whose
//! names are made to be mixed up, subscribes and publishes in every way, cancels calls in the middle, breaks the broker
//! in every way that the harness can while all of that goes on, and heals it. In between it waits until everything is
//! well, publishes a last message everywhere, and checks the whole record (`ledger.rs` says what must be true).
//!
//! The hub, which keeps a promise of its own on top, has a model of its own (`hub/`): connections, groups and users on several
//! nodes, sends to every kind of target, joins, calls and counts from any node, under the same faults.
//!
//! - [`Soak`] runs both by turns for as long as one likes.
//! - [`Reference`] is the same model as a [`proptest_state_machine::ReferenceStateMachine`], and [`System`] what its
//!   operations are done on, for tests whose failures shrink.

mod account;
mod breaker;
mod hub;
mod ledger;
mod op;
mod patience;
mod reference;
mod round;
mod soak;
mod system;

pub use account::{Account, Class, Violation};
pub use op::{Break, FaultKind, NewSubscription, Op, OpenNode, Topics};
pub use reference::{Kinds, Reference, State, supported};
pub use round::Part;
pub use soak::{Soak, SoakProgress, SoakReport, SoakVerdict};
pub use system::System;
