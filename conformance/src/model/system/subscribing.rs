//! Makes, changes and ends subscriptions.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use backplane_core::{Subscribe, Subscribed};
use futures_util::future::poll_fn;
use tokio::time::timeout;

use super::{Reader, System};
use crate::model::ledger::{PublisherId, StreamId, Topic};
use crate::model::op::{NewSubscription, TOPICS, Topics};

impl System {
    pub(super) async fn subscribe(&mut self, new: &NewSubscription) {
        let Some(node) = self.node(new.node) else {
            return;
        };
        let topics = new.topics.to_vec();
        let channels = topics
            .iter()
            .map(|topic| self.names.channel(*topic).clone());
        let mut request = Subscribe::to(channels);
        if new.without_own {
            request = request.without_own();
        }
        if new.deferred {
            request = request.deferred();
        }
        if let Some(capacity) = new.capacity {
            request = request.capacity(capacity.into());
        }
        let stream = {
            let mut ledger = self.ledger();
            let stream = ledger.subscribe(node.id, new.without_own, node.generation());
            ledger.join(stream, &topics);
            stream
        };
        let call = at_most(new.cancel, node.backplane.subscribe(request));
        match timeout(self.within(), call).await {
            Ok(Some(Ok(subscription))) => {
                let id = node.id;
                let reader = Reader::start(stream, id, subscription, &self.ledger, &self.names);
                if new.deferred {
                    self.subscriptions[new.subscription] = Some(reader);
                    self.note_deferred();
                } else {
                    self.note_joined(id, stream, &topics);
                    self.subscriptions[new.subscription] = Some(reader);
                }
            }
            Ok(_) => self.ledger().ended(stream),
            Err(_) => {
                self.unexpected("a subscribe does not return");
                self.ledger().ended(stream);
            }
        }
    }

    /// Subscribes and lets go again, to set off a fault that waits for it.
    pub(super) async fn probe_subscribe(&self, id: PublisherId) {
        let Some(node) = self.node_of(id) else {
            return;
        };
        let channels = (0..TOPICS).map(|topic| self.names.channel(topic).clone());
        let call = node.backplane.subscribe(Subscribe::to(channels));
        if timeout(self.within(), call).await.is_err() {
            self.unexpected("a subscribe that is cut off does not return");
        }
    }

    pub(super) async fn add(&self, at: usize, topics: Topics, deferred: bool, cancel: Option<u8>) {
        let Some(reader) = &self.subscriptions[at] else {
            return;
        };
        let stream = reader.stream;
        let new: Vec<Topic> = {
            let mut ledger = self.ledger();
            let held = ledger.topics(stream);
            let new = topics
                .iter()
                .filter(|topic| !held.contains(topic))
                .collect();
            ledger.join(stream, &topics.to_vec());
            new
        };
        let channels: Vec<_> = topics
            .iter()
            .map(|topic| self.names.channel(topic).clone())
            .collect();
        let call = async {
            match deferred {
                true => reader.handle.subscribe_deferred(channels).await,
                false => {
                    let done = reader.handle.subscribe(channels).await;
                    done.map(|()| Subscribed::InForce)
                }
            }
        };
        match timeout(self.within(), at_most(cancel, call)).await {
            Ok(Some(Ok(Subscribed::InForce))) => {
                self.note_joined(reader.node, stream, &topics.to_vec());
            }
            Ok(Some(Ok(Subscribed::Deferred))) => {}
            Ok(_) => self.ledger().not_joined(stream, &new),
            Err(_) => {
                self.unexpected("adding channels to a subscription does not return");
                self.ledger().not_joined(stream, &new);
            }
        }
    }

    pub(super) fn remove(&self, at: usize, topics: Topics) {
        let Some(reader) = &self.subscriptions[at] else {
            return;
        };
        let topics = topics.to_vec();
        self.ledger().leave(reader.stream, &topics);
        let channels = topics
            .iter()
            .map(|topic| self.names.channel(*topic).clone());
        reader.handle.unsubscribe(channels);
        self.ledger().left(reader.stream, &topics);
    }

    pub(super) fn leave(&mut self, at: usize) {
        let Some(reader) = self.subscriptions[at].take() else {
            return;
        };
        let stream = reader.stream;
        self.ledger().ending(stream);
        drop(reader);
        self.ledger().ended(stream);
    }

    pub(super) fn pause(&self, at: usize, paused: bool) {
        if let Some(reader) = &self.subscriptions[at] {
            reader.pause(paused);
        }
    }

    /// Notes what has come into force of what was deferred.
    pub(super) fn note_deferred(&self) {
        for reader in self.subscriptions.iter().flatten() {
            let deferred = self.ledger().deferred(reader.stream);
            if deferred.is_empty() || reader.is_deferred() {
                continue;
            }
            // In this order: what is in force on a connection that is still being made is not yet.
            let attached = self
                .node_of(reader.node)
                .is_some_and(|node| node.backplane.state().is_connected());
            if attached {
                self.note_joined(reader.node, reader.stream, &deferred);
            }
        }
    }

    fn note_joined(&self, id: PublisherId, stream: StreamId, topics: &[Topic]) {
        let before = self.ledger().tick();
        let since = self.node_of(id).map(|node| node.generation());
        let since = since.filter(|known| known.least == known.most);
        let since = since.map(|known| (before, known.most));
        self.ledger().joined(stream, topics, since);
    }
}

/// Polls a future at most so often, then drops it.
pub(super) async fn at_most<F: Future>(polls: Option<u8>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let Some(polls) = polls else {
        return Some(future.await);
    };
    for _ in 0..polls {
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}
