//! The model of a hub: random operations on hubs of several nodes, and the record of what they must lead to.
//!
//! The guarantee in one line: every message that is sent reaches each connection that its target means once, in order, and no
//! other, or its loss is reported; whatever is asked of another node is answered, or ends in time with an error that is true.
//! One driver does one operation after another, and awaits each, so that it knows at each send who is in which group
//! (`record.rs` says what must be true). Clients are read all the time.

mod client;
mod draw;
mod op;
mod record;
mod system;

pub(super) use self::op::Op;
pub(super) use self::system::System;
