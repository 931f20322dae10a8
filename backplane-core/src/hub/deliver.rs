//! What comes in for this node's connections: from the backplane, and from senders here.

use std::sync::Arc;

use super::id::{ConnectionId, Key};
use super::inner::Inner;
use super::invocations::{Asker, Invocation, InvocationId};
use super::outbox::{Due, Ended, Put};
use super::payload::Payload;
use super::select::Selection;
use super::signal::{Packet, Refusal, Signal};
use super::table::Member;
use super::target::{AddressRef, Target};
use super::wire::{Received, Skipped};
use crate::message::{Delivery, Gap, Message};
use crate::name::{Channel, NodeId};
use crate::subscription::Subscription;

/// How many deliveries are taken at once.
const BURST: usize = 256;

/// One message on its way to connections. When it is dropped, and no lock is held any longer, readers are woken, sinks
/// called, and those that cannot follow disconnected.
struct Round<'a> {
    inner: &'a Inner,
    due: Due,
    too_slow: Vec<ConnectionId>,
    queued: usize,
    missed: usize,
}

/// Ends the hub when its task ends, in whatever way.
struct Last(Arc<Inner>);

/// Reads from the backplane until the hub, or its node, is closed.
pub(super) async fn run(inner: Arc<Inner>, mut subscription: Subscription) {
    let last = Last(inner);
    let inner = &last.0;
    let mut burst = Vec::new();
    loop {
        let taken = tokio::select! {
            biased;
            () = inner.stop.cancelled() => 0,
            taken = subscription.recv_many(&mut burst, BURST) => taken,
        };
        if taken == 0 {
            return;
        }
        let mut heard = inner.node;
        for delivery in burst.drain(..) {
            match delivery {
                Delivery::Message(message) => {
                    if inner.take(&message) && message.publisher() != heard {
                        heard = message.publisher();
                        inner.heard(heard);
                    }
                }
                Delivery::Gap(gap) => inner.tell(&gap),
            }
            // A message for many connections is a lot of work.
            tokio::task::consume_budget().await;
        }
    }
}

impl Inner {
    /// Hands a message to whom it means of this node's connections. Says how many that were.
    pub(super) fn deliver_here(&self, target: &Target, payload: &Payload) -> usize {
        let include = target.include.iter().map(|address| address.as_ref());
        let except = target.except.iter().map(|address| address.as_ref());
        let mut round = Round::new(self);
        {
            let table = self.read();
            let protocol = &*self.protocol;
            let selection = Selection::of(&table, protocol, include);
            selection.each(&table, protocol, except, |member| {
                round.put(member, payload)
            });
        }
        round.queued
    }

    /// Takes a message of the backplane. Says whether it shows that its publisher is a node of the hub, other than by a
    /// word about itself.
    fn take(self: &Arc<Self>, message: &Message) -> bool {
        let from = message.publisher();
        match self.protocol.decode(message.payload()) {
            Ok(Packet::Message(received)) => {
                self.deliver(message.channel(), &received);
                return true;
            }
            Ok(Packet::Signal(signal)) => {
                let is_word = matches!(signal, Signal::Presence { .. });
                self.signalled(from, signal);
                return !is_word;
            }
            Err(Skipped::Malformed) => self.counters.malformed.add(1),
            Err(Skipped::Newer) => self.counters.incompatible.add(1),
        }
        false
    }

    fn signalled(self: &Arc<Self>, from: NodeId, signal: Signal) {
        match signal {
            Signal::Request {
                id,
                patience,
                request,
            } => self.serve(from, id, patience, request),
            Signal::Cancel { id } => self.cancelled(from, id),
            Signal::Reply { id, reply } => {
                if !self.requests.reply(from, id, reply) {
                    self.counters.late.add(1);
                }
            }
            Signal::Presence { birth, word } => self.hear(from, birth, word),
        }
    }

    /// Hands a message of the backplane to whom it means.
    fn deliver(&self, channel: &Channel, received: &Received) {
        self.counters.received.add(1);
        if received.targets.is_none() && *channel == self.node_channel {
            return self.counters.malformed.add(1);
        }
        let mut round = Round::new(self);
        {
            let table = self.read();
            let protocol = &*self.protocol;
            let all = std::iter::once(AddressRef::All);
            let selection = match &received.targets {
                Some(targets) => Selection::of(&table, protocol, targets.iter()),
                None if channel == protocol.all() => Selection::of(&table, protocol, all),
                None => Selection::room(&table, channel),
            };
            let put = |member| round.put(member, &received.payload);
            selection.each(&table, protocol, received.except.iter(), put);
        }
        drop(round);
    }

    /// Hands a call to a connection of this node, which answers it later (rule H19).
    pub(super) fn call(
        &self,
        id: &ConnectionId,
        payload: &Payload,
        asker: Asker,
    ) -> Result<InvocationId, (Refusal, Option<Asker>)> {
        let mut round = Round::new(self);
        let table = self.read();
        let Some(member) = table.member(id) else {
            return Err((Refusal::UnknownConnection, Some(asker)));
        };
        let Some(call) = self.invocations.add(id.key(), asker) else {
            return Err((Refusal::Disconnected, None));
        };
        let invocation = Invocation {
            id: call,
            payload: payload.clone(),
        };
        let why = match member.outbox.put_call(invocation, &mut round.due) {
            Put::Queued => return Ok(call),
            Put::TooSlow => {
                // When it is disconnected, in a moment, its calls are answered.
                round.too_slow.push(*id);
                return Ok(call);
            }
            Put::Dropped => Refusal::QueueFull,
            Put::Ended => Refusal::Disconnected,
        };
        Err((why, self.invocations.complete(id.key(), call).ok()))
    }

    /// Tells a connection that nobody waits for its answer.
    pub(super) fn deliver_cancel(&self, key: Key, call: InvocationId) {
        let mut round = Round::new(self);
        {
            let table = self.read();
            if let Some(member) = table.by_key(key) {
                member.outbox.cancel_call(call, &mut round.due);
            }
        }
        drop(round);
    }

    /// Tells a gap to the framework, and to the connections that asked for it (rule H23).
    fn tell(&self, gap: &Gap) {
        self.counters.gaps.add(1);
        self.gaps.tell(gap);
        let mut round = Round::new(self);
        {
            let table = self.read();
            for member in table.gap_listeners() {
                member.outbox.put_gap(gap, &mut round.due);
            }
        }
        drop(round);
    }
}

impl<'a> Round<'a> {
    fn new(inner: &'a Inner) -> Self {
        Self {
            inner,
            due: Due::default(),
            too_slow: Vec::new(),
            queued: 0,
            missed: 0,
        }
    }

    fn put(&mut self, member: &Member, payload: &Payload) {
        match member.outbox.put(payload, &mut self.due) {
            Put::Queued => self.queued += 1,
            Put::Dropped => self.missed += 1,
            Put::TooSlow => {
                self.missed += 1;
                self.too_slow.push(member.outbox.id);
            }
            Put::Ended => {}
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let counters = &self.inner.counters;
        counters.delivered.add(self.queued as u64);
        if self.missed > 0 {
            counters.missed.add(self.missed as u64);
        }
        for reader in self.due.wakers.drain(..) {
            reader.wake();
        }
        for outbox in self.due.sinks.drain(..) {
            if outbox.drain().is_err() {
                counters.sinks_failed.add(1);
                self.inner.disconnect(&outbox.id, Ended::SinkFailed);
            }
        }
        for id in &self.too_slow {
            self.inner.disconnect(id, Ended::TooSlow);
        }
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        self.0.shut();
    }
}
