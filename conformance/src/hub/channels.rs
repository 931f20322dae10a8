//! The channels of a hub, as its wire protocol has them, for rules that look at the broker or write to it.

use backplane_core::{Channel, NodeId};

use crate::trial::channel;
use crate::verdict::Outcome;

/// A channel of a hub whose name needs no escape.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HubChannel<'a> {
    All,
    Node(NodeId),
    Group(&'a str),
    User(&'a str),
}

impl HubChannel<'_> {
    pub(crate) fn of(self, hub: &str) -> Outcome<Channel> {
        channel(match self {
            Self::All => format!("hub:{hub}:all"),
            Self::Node(id) => format!("hub:{hub}:node:{id}"),
            Self::Group(name) => format!("hub:{hub}:group:{name}"),
            Self::User(id) => format!("hub:{hub}:user:{id}"),
        })
    }
}
