//! Who is subscribed to what: [`Topics`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use backplane_core::driver::{BrokerChannel, Frame, Inbound, Inlet, LinkError, Wakes};

use super::lost;

/// More than a machine has cores: publishers of different channels seldom meet.
const PARTS: usize = 64;

/// The links that are subscribed to each channel. Channels are spread over parts that are locked one by one, so that
/// publishes to different channels do not wait for each other.
#[derive(Debug)]
pub(super) struct Topics {
    parts: Box<[Place]>,
    hasher: RandomState,
}

/// In cache lines of its own, as parts are used by different cores.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(Mutex<Part>);

/// Some of the channels. Frames are delivered under the lock, so that all see one order.
#[derive(Debug, Default)]
pub(super) struct Part {
    topics: HashMap<BrokerChannel, Vec<Member>, RandomState>,
    /// Whether some switch of the bus is on that concerns publishes.
    disturbed: bool,
    published: u64,
}

/// A subscribed link.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) link: u64,
    pub(super) inlet: Inlet,
    connected: Connected,
}

/// Whether a link is connected. Once it is not, and was [taken out](Topics::leave), nothing is published on it.
#[derive(Clone, Debug)]
pub(crate) struct Connected(Arc<AtomicBool>);

impl Topics {
    /// Publishes on a link; `None`, and nothing was done, while some switch is on.
    pub(super) fn publish_now(
        &self,
        on: &Connected,
        channel: &BrokerChannel,
        frame: &Frame,
        wakes: &mut Wakes,
    ) -> Option<Result<(), LinkError>> {
        let mut part = self.lock(channel);
        if part.disturbed {
            return None;
        }
        if !on.is() {
            return Some(Err(lost("the connection is broken")));
        }
        for member in part.publish(channel) {
            // One that is being taken out of all parts gets nothing any more, whichever of them it was taken out of.
            if member.connected.is() {
                member.inlet.deliver_then(frame, wakes);
            }
        }
        Some(Ok(()))
    }

    /// Tells whether some switch is on that concerns publishes. When it returns, nobody publishes who had not heard it.
    pub(super) fn disturb(&self, disturbed: bool) {
        self.all().for_each(|mut part| part.disturbed = disturbed);
    }

    pub(super) fn subscribe(
        &self,
        channel: &BrokerChannel,
        link: u64,
        inbound: &Inbound,
        connected: &Connected,
    ) {
        let mut part = self.lock(channel);
        let members = part.topics.entry(channel.clone()).or_default();
        if !members.iter().any(|member| member.link == link) {
            let inlet = inbound.inlet(channel.clone());
            let connected = connected.clone();
            members.push(Member {
                link,
                inlet,
                connected,
            });
        }
    }

    pub(super) fn unsubscribe(&self, channel: &BrokerChannel, link: u64) {
        let mut part = self.lock(channel);
        if let Some(members) = part.topics.get_mut(channel) {
            members.retain(|member| member.link != link);
            if members.is_empty() {
                part.topics.remove(channel);
            }
        }
    }

    /// Takes a link out that is not connected any longer.
    pub(super) fn leave(&self, link: u64) {
        for mut part in self.all() {
            part.topics.retain(|_, members| {
                members.retain(|member| member.link != link);
                !members.is_empty()
            });
        }
    }

    /// Takes all links out, of which none is connected any longer.
    pub(super) fn clear(&self) {
        self.all().for_each(|mut part| part.topics.clear());
    }

    /// How many frames were published.
    pub(super) fn published(&self) -> u64 {
        self.all().map(|part| part.published).sum()
    }

    /// The part that a channel belongs to.
    pub(super) fn lock(&self, channel: &BrokerChannel) -> MutexGuard<'_, Part> {
        let part = self.hasher.hash_one(channel) as usize % PARTS;
        self.parts[part].lock()
    }

    fn all(&self) -> impl Iterator<Item = MutexGuard<'_, Part>> {
        self.parts.iter().map(Place::lock)
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Place::default()).collect(),
            hasher: RandomState::default(),
        }
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Part> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Counts a frame, and says who is to get it.
    pub(super) fn publish(&mut self, channel: &BrokerChannel) -> &mut [Member] {
        self.published += 1;
        self.members(channel)
    }

    /// Who is subscribed to a channel of this part.
    pub(super) fn members(&mut self, channel: &BrokerChannel) -> &mut [Member] {
        self.topics
            .get_mut(channel)
            .map_or(&mut [], Vec::as_mut_slice)
    }
}

impl Connected {
    /// Those of a link that is, or is not.
    pub(super) fn new(is: bool) -> Self {
        Self(Arc::new(AtomicBool::new(is)))
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Release);
    }
}
