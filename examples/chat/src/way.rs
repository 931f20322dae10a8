//! Whether this server reaches the others, boiled down to what its clients need to know: [`Way`].

use std::sync::Arc;

use backplane_core::{Backplane, ConnectionState, Event, Events};
use tokio::sync::watch;

use crate::protocol::ToClient;

/// The way to the other servers.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Open,
    /// In an outage, with its cause as soon as one is known.
    Closed(Option<Arc<str>>),
}

impl Way {
    pub(crate) fn of(state: &ConnectionState) -> Self {
        match state {
            ConnectionState::Connected { .. } => Self::Open,
            ConnectionState::Disconnected { reason } => {
                Self::Closed(Some(reason.to_string().into()))
            }
            _ => Self::Closed(None),
        }
    }

    pub(crate) fn told(&self) -> ToClient<'_> {
        ToClient::Backplane {
            up: matches!(self, Self::Open),
            why: match self {
                Self::Open => None,
                Self::Closed(why) => why.as_deref(),
            },
        }
    }

    /// Takes a new state in, and says whether clients are to be told. A node that is away tries to come back several times
    /// a second and says so each time, but what began the outage is what explains it.
    fn learn(&mut self, state: &ConnectionState) -> bool {
        let next = Self::of(state);
        let news = matches!(
            (&*self, &next),
            (Self::Closed(_), Self::Open)
                | (Self::Open, Self::Closed(_))
                | (Self::Closed(None), Self::Closed(Some(_)))
        );
        if news {
            *self = next;
        }
        news
    }
}

/// Follows a node until it is closed. One task for all clients of this server.
pub(crate) async fn follow(node: Arc<dyn Backplane>, mut events: Events, way: watch::Sender<Way>) {
    while let Some(event) = events.recv().await {
        let state = match event {
            Event::State(state) => state,
            Event::Skipped(_) => node.state(),
            _ => continue,
        };
        way.send_if_modified(|way| way.learn(&state));
    }
}
