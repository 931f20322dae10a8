//! What links do with the routes: deliver what arrives, without blocking.

use std::sync::Arc;

use bytes::Bytes;

use super::members::Members;
use super::{Heard, MAX_PUBLISHERS, Route, RouteState, Router, Wakes, lock};
use crate::driver::{Frame, FrameError};
use crate::engine::fate::LinkId;
use crate::engine::lane::EPOCH_BITS;
use crate::message::{Gap, Message};
use crate::name::{Channel, NodeId};
use crate::queue::Pushed;
use crate::state::Event;

/// For so many members the messages are taken out of a frame once, and not for each.
const CROWD: usize = 4;

/// A frame of more messages is read anew for each: what it says must not cost much more memory than it has (rule M1).
const MOST_AT_ONCE: usize = 1024;

/// What the members of a route got of a frame.
#[derive(Default)]
struct Told {
    delivered: u64,
    gaps: u64,
    overflowed: u64,
}

impl Told {
    fn add(&mut self, pushed: Pushed) {
        self.delivered += pushed.queued;
        self.gaps += u64::from(pushed.new_gap);
        self.overflowed += pushed.overflowed;
    }
}

impl Router {
    /// Takes in a frame that arrived on this link.
    pub(crate) fn deliver(&self, link: LinkId, channel: &[u8], frame: &Frame, wakes: &mut Wakes) {
        if channel == self.probe_channel.as_bytes() {
            if frame.publisher() == self.node {
                self.probes.answer(link, frame.sequence());
            }
            return;
        }
        let Some(channel) = self.namespace.channel(channel) else {
            return;
        };
        if let Some(route) = self.read().routes.get(channel) {
            self.route(link, &route.channel, &mut route.lock(), frame, wakes);
        }
    }

    /// Likewise, by the route of the channel if it is known, and known it is from then on.
    pub(crate) fn deliver_known(
        &self,
        known: &mut Option<Arc<Route>>,
        link: LinkId,
        channel: &[u8],
        frame: &Frame,
        wakes: &mut Wakes,
    ) {
        if let Some(route) = known {
            let mut state = route.lock();
            if !state.gone {
                return self.route(link, &route.channel, &mut state, frame, wakes);
            }
        }
        *known = self
            .namespace
            .channel(channel)
            .and_then(|channel| self.read().routes.get(channel).cloned());
        self.deliver(link, channel, frame, wakes);
    }

    /// Counts bytes that are not a frame.
    pub(crate) fn reject(&self, link: LinkId, error: &FrameError) {
        if !self.live.is(link) {
            return;
        }
        match error {
            FrameError::Malformed(_) => self.counters.malformed.add(1),
            FrameError::Incompatible { version, publisher } => {
                self.counters.incompatible.add(1);
                let mut known = lock(&self.incompatible);
                if known.len() < MAX_PUBLISHERS && known.insert(*publisher) {
                    tracing::warn!(%publisher, version, "skipping a newer wire version");
                    let (version, publisher) = (*version, *publisher);
                    self.state.tell(Event::Incompatible { version, publisher });
                }
            }
        }
    }

    /// Gives a frame to the members of a route.
    fn route(
        &self,
        link: LinkId,
        channel: &Channel,
        route: &mut RouteState,
        frame: &Frame,
        wakes: &mut Wakes,
    ) {
        if !self.live.is(link) {
            return;
        }
        let (publisher, first) = (frame.publisher(), frame.sequence());
        let next = first + frame.len() as u64;
        let now = Heard { next, link };
        let mut known = 0;
        let members = &route.members;
        if let Some(heard) = route.heard.get_mut(publisher) {
            let before = *heard;
            known = before.next.saturating_sub(first).min(frame.len() as u64);
            if known > 0 {
                self.counters.duplicates.add(known);
            }
            if next <= before.next {
                return;
            }
            *heard = now;
            // None missed is worth telling, too, of a publisher that is heard again after an outage.
            let missed = first.saturating_sub(before.next);
            // A numbering of a later epoch starts anew, whether or not its first frame was seen.
            let anew = frame.is_start() || first >> EPOCH_BITS != before.next >> EPOCH_BITS;
            if !anew && (missed > 0 || before.link != link) {
                self.missed(members, link, publisher, before, missed, wakes);
            }
        } else {
            route.heard.add(publisher, now);
        }
        let told = self.push(channel, members, frame, known, wakes);
        route.delivered += told.delivered;
        if told.overflowed > 0 {
            self.counters.gaps.add(told.gaps);
            self.counters.overflowed.add(told.overflowed);
        }
    }

    /// Puts what is not known of a frame into the queues of those who are to have it.
    fn push(
        &self,
        channel: &Channel,
        members: &Members,
        frame: &Frame,
        known: u64,
        wakes: &mut Wakes,
    ) -> Told {
        let publisher = frame.publisher();
        let message = |payload| Message::new(channel.clone(), payload, publisher);
        let members = members.in_force();
        let own = publisher == self.node;
        let to = members.iter().filter(|member| !(own && member.without_own));
        let mut told = Told::default();
        if let Some(payload) = frame.only() {
            let mut message = message(payload);
            if members.len() >= CROWD {
                message = message.shared();
            }
            let mut to = to.peekable();
            while let Some(member) = to.next() {
                if to.peek().is_none() {
                    told.add(member.queue.push_one_then(message, wakes));
                    break;
                }
                told.add(member.queue.push_one_then(message.clone(), wakes));
            }
            return told;
        }
        let fresh = || {
            let payloads = frame.payloads();
            let payloads = payloads.skip(usize::try_from(known).unwrap_or(usize::MAX));
            let payloads = payloads.map(|payload| match known {
                0 => payload,
                // A frame of which a part is left out must not be kept for the rest.
                _ => Bytes::copy_from_slice(&payload),
            });
            payloads.map(message)
        };
        let at_once = members.len() >= CROWD && frame.len() <= MOST_AT_ONCE;
        let once: Option<Vec<Message>> = at_once.then(|| fresh().map(Message::shared).collect());
        for member in to {
            told.add(match &once {
                None => member.queue.push_then(fresh(), wakes),
                Some(messages) => member.queue.push_then(messages.iter().cloned(), wakes),
            });
        }
        told
    }

    /// Messages were skipped: in an outage, which the members' gaps account for (rule L8), or
    /// on a link that lives, because the broker dropped them.
    fn missed(
        &self,
        members: &Members,
        link: LinkId,
        publisher: NodeId,
        before: Heard,
        missed: u64,
        wakes: &mut Wakes,
    ) {
        let mut told = false;
        for member in members.in_force() {
            // Who came later has missed nothing, and who leaves out own messages misses none of them.
            let held = member.since() <= before.link;
            if !held || member.without_own && publisher == self.node {
                continue;
            }
            told = true;
            if before.link == link {
                let new = member.queue.push_gap_then(Gap::dropped(missed), wakes);
                self.counters.gaps.add(u64::from(new));
            } else if let Some(account) = member.queue.account() {
                account.add(publisher, missed);
            }
        }
        if told {
            self.counters.lost.add(missed);
        }
    }
}
