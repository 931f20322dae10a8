//! Whether a node is attached: [`ConnectionState`] as a value to watch and as a stream of events.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use crate::queue::TryRecvError;

/// Whether a node is attached to its broker.
///
/// A node goes `Connecting` -> `Connected` -> `Disconnected` -> `Connecting` -> ... for ever, and `Closed`
/// once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The node tries to attach.
    Connecting {
        /// 1 for the first try since the node was attached or started.
        attempt: u32,
    },
    /// The node is attached and every desired subscription is in force (rule R2).
    Connected {
        /// 1 for the first attachment of the node, and one more each time.
        generation: u64,
    },
    /// The node is not attached, and will try again by itself (rule R1).
    Disconnected {
        /// Why.
        reason: Disconnect,
    },
    /// The node was closed. Nothing follows.
    Closed,
}

impl ConnectionState {
    /// Whether the node is attached.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { attempt } => write!(f, "connecting (attempt {attempt})"),
            Self::Connected { generation } => write!(f, "connected (generation {generation})"),
            Self::Disconnected { reason } => write!(f, "disconnected: {reason}"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// Why a node is not attached. Names the address, never a secret (rule V3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    kind: DisconnectKind,
    detail: Arc<str>,
}

/// The kinds of [`Disconnect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectKind {
    /// The connection broke.
    Lost,
    /// The broker refused the node: credentials, version, permission.
    Refused,
    /// The broker stopped answering, or answers without delivering (rules L6 and L7).
    Unresponsive,
    /// The broker cannot be reached.
    Unreachable,
}

impl Disconnect {
    /// A reason of this kind. The detail must not contain a secret.
    #[must_use]
    pub fn new(kind: DisconnectKind, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            detail: detail.to_string().into(),
        }
    }

    /// What kind of reason it is.
    #[must_use]
    pub const fn kind(&self) -> DisconnectKind {
        self.kind
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// What happened to a node: a change of its [`ConnectionState`], or the notice that the reader of the events was
/// too slow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The state became this.
    State(ConnectionState),
    /// A publisher of a newer wire version was met; its messages are skipped (rule M2).
    Incompatible {
        /// The wire version that it speaks.
        version: u8,
        /// The publisher.
        publisher: crate::NodeId,
    },
    /// The reader was so slow that it missed this many events. [`StateWatch`] has the current state.
    Skipped(u64),
}

/// The stream of a node's [`Event`]s, from the moment it was asked for.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    ended: bool,
}

impl Events {
    /// The next event; `None` after [`ConnectionState::Closed`] was told, or when the node is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost.
    pub async fn recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(n)) => Some(Event::Skipped(n)),
            Err(broadcast::error::RecvError::Closed) => None,
        };
        self.seen(event)
    }

    /// The next event if there is one already.
    ///
    /// # Errors
    /// [`TryRecvError`] says whether one can still come.
    pub fn try_recv(&mut self) -> Result<Event, TryRecvError> {
        if self.ended {
            return Err(TryRecvError::Closed);
        }
        match self.receiver.try_recv() {
            Ok(event) => self.seen(Some(event)).ok_or(TryRecvError::Closed),
            Err(broadcast::error::TryRecvError::Lagged(n)) => Ok(Event::Skipped(n)),
            Err(broadcast::error::TryRecvError::Empty) => Err(TryRecvError::Empty),
            Err(broadcast::error::TryRecvError::Closed) => Err(TryRecvError::Closed),
        }
    }

    fn seen(&mut self, event: Option<Event>) -> Option<Event> {
        let last = Event::State(ConnectionState::Closed);
        self.ended = event.as_ref().is_none_or(|event| *event == last);
        event
    }
}

/// The current [`ConnectionState`] of a node, to look at and to wait for.
#[derive(Clone, Debug)]
pub struct StateWatch(watch::Receiver<ConnectionState>);

impl StateWatch {
    /// The state now.
    #[must_use]
    pub fn current(&self) -> ConnectionState {
        self.0.borrow().clone()
    }

    /// Waits until the state satisfies a condition, and returns it. States that pass quickly may be
    /// missed; [`Events`] has them all. `None` when the node is gone and its last state does
    /// not satisfy the condition.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_for(
        &mut self,
        mut condition: impl FnMut(&ConnectionState) -> bool + Send,
    ) -> Option<ConnectionState> {
        self.0
            .wait_for(|state| condition(state))
            .await
            .ok()
            .map(|state| state.clone())
    }

    /// Waits until the node is attached; returns its generation, or `None` when it was closed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connected(&mut self) -> Option<u64> {
        let settled =
            |state: &ConnectionState| state.is_connected() || *state == ConnectionState::Closed;
        match self.wait_for(settled).await? {
            ConnectionState::Connected { generation } => Some(generation),
            _ => None,
        }
    }
}

/// The writing side of [`StateWatch`] and [`Events`], for a backend that implements
/// [`Backplane`](crate::Backplane) itself.
#[derive(Debug)]
pub struct StateCell {
    state: watch::Sender<ConnectionState>,
    events: broadcast::Sender<Event>,
}

impl StateCell {
    /// How many events a slow reader may fall behind before it misses some.
    pub const EVENT_CAPACITY: usize = 256;

    /// A cell with this first state.
    #[must_use]
    pub fn new(initial: ConnectionState) -> Self {
        Self {
            state: watch::Sender::new(initial),
            events: broadcast::Sender::new(Self::EVENT_CAPACITY),
        }
    }

    /// Changes the state and tells it as an event. Nothing follows `Closed`: later changes are ignored.
    pub fn set(&self, next: ConnectionState) {
        self.state.send_modify(|state| {
            if *state != ConnectionState::Closed {
                *state = next.clone();
                self.tell(Event::State(next));
            }
        });
    }

    /// Tells an event that changes no state.
    pub fn tell(&self, event: Event) {
        // Nobody may be listening, and that is fine.
        let _ = self.events.send(event);
    }

    /// The state now.
    #[must_use]
    pub fn current(&self) -> ConnectionState {
        self.state.borrow().clone()
    }

    /// A watch on the state.
    #[must_use]
    pub fn watch(&self) -> StateWatch {
        StateWatch(self.state.subscribe())
    }

    /// The events from now on; none after `Closed`.
    #[must_use]
    pub fn events(&self) -> Events {
        // Under the lock of the state: `Closed` is either still to come, or seen here.
        let state = self.state.borrow();
        Events {
            receiver: self.events.subscribe(),
            ended: *state == ConnectionState::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_end_with_closed_for_those_who_listen_and_those_who_come_late() {
        let cell = StateCell::new(ConnectionState::Connecting { attempt: 1 });
        let mut early = cell.events();
        cell.set(ConnectionState::Closed);
        cell.set(ConnectionState::Connected { generation: 1 });
        assert_eq!(
            early.recv().await,
            Some(Event::State(ConnectionState::Closed))
        );
        assert_eq!(early.recv().await, None);
        assert_eq!(cell.events().recv().await, None);
        assert_eq!(cell.current(), ConnectionState::Closed);
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_told_how_much_it_missed() {
        let cell = StateCell::new(ConnectionState::Connecting { attempt: 1 });
        let mut events = cell.events();
        for generation in 0..StateCell::EVENT_CAPACITY as u64 + 3 {
            cell.set(ConnectionState::Connected { generation });
        }
        assert_eq!(events.recv().await, Some(Event::Skipped(3)));
        let next = ConnectionState::Connected { generation: 3 };
        assert_eq!(events.recv().await, Some(Event::State(next)));
    }
}
