//! What a subscription yields: [`Delivery`], which is a [`Message`] or a [`Gap`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::name::{Channel, NodeId};

/// One item of a [`Subscription`](crate::Subscription): a message, or the notice that messages are
/// missing at this place. There is nothing else, so matching on both is complete.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums)]
pub enum Delivery {
    /// A message.
    Message(Message),
    /// Messages were, or may have been, lost here.
    Gap(Gap),
}

impl Delivery {
    /// The message, if this is one.
    #[must_use]
    pub fn into_message(self) -> Option<Message> {
        match self {
            Self::Message(message) => Some(message),
            Self::Gap(_) => None,
        }
    }
}

/// A message as a subscriber receives it.
///
/// Cloning shares the payload. `Debug` shows the payload's length, never its bytes (rule V3).
#[derive(Clone)]
pub struct Message(Content);

#[derive(Clone)]
enum Content {
    Own(Parts),
    /// Of many subscriptions of one node. A count of references that two cores write is what a delivery costs most, and
    /// the parts would have two.
    Shared(Arc<Parts>),
}

#[derive(Clone, PartialEq, Eq)]
struct Parts {
    channel: Channel,
    payload: Bytes,
    publisher: NodeId,
}

impl Message {
    /// Puts a message together, for a backend that implements
    /// [`Backplane`](crate::Backplane) itself.
    #[must_use]
    pub const fn new(channel: Channel, payload: Bytes, publisher: NodeId) -> Self {
        Self(Content::Own(Parts {
            channel,
            payload,
            publisher,
        }))
    }

    /// The same message, of which a clone counts one reference and not two.
    #[must_use]
    pub(crate) fn shared(self) -> Self {
        match self.0 {
            Content::Own(parts) => Self(Content::Shared(Arc::new(parts))),
            Content::Shared(_) => self,
        }
    }

    /// The channel it was published to.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.parts().channel
    }

    /// The same message with these bytes.
    #[must_use]
    pub(crate) fn with_payload(&self, payload: Bytes) -> Self {
        Self::new(self.channel().clone(), payload, self.publisher())
    }

    /// Its bytes, exactly as published (rule D2).
    ///
    /// They are a slice of what they arrived in, which may hold other messages, and keep all of it in
    /// memory: copy a small payload that is kept for long.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.parts().payload
    }

    /// Its bytes, without a copy.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        match self.0 {
            Content::Own(parts) => parts.payload,
            Content::Shared(parts) => Arc::unwrap_or_clone(parts).payload,
        }
    }

    /// The node that published it.
    #[must_use]
    pub fn publisher(&self) -> NodeId {
        self.parts().publisher
    }

    fn parts(&self) -> &Parts {
        match &self.0 {
            Content::Own(parts) => parts,
            Content::Shared(parts) => parts,
        }
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Message {}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("channel", &self.channel())
            .field("payload_len", &self.payload().len())
            .field("publisher", &self.publisher())
            .finish()
    }
}

/// The in-band notice that messages were, or may have been, lost at this place of the stream.
///
/// A gap adds up what happened since the delivery before it: outages of the node (rule L5), messages
/// that did not fit into the subscription's queue (rule B2), and messages that the broker
/// dropped although the node was attached. [`Gap::missed`] says how many messages that makes.
///
/// After an outage the number of missed messages becomes known publisher by publisher, when each
/// is heard again (rule L8): keep the gap, or a clone of it, and ask again later.
#[derive(Clone, Default)]
pub struct Gap {
    outages: u32,
    overflowed: u64,
    dropped: u64,
    account: Option<OutageAccount>,
}

impl Gap {
    /// The gap that stands for one outage of the node.
    #[must_use]
    pub fn outage(account: OutageAccount) -> Self {
        Self {
            outages: 1,
            account: Some(account),
            ..Self::default()
        }
    }

    /// The gap that stands for `count` messages that did not fit into the subscription's queue.
    #[must_use]
    pub fn overflow(count: u64) -> Self {
        Self {
            overflowed: count,
            ..Self::default()
        }
    }

    /// The gap that stands for `count` messages that the broker dropped without an outage.
    #[must_use]
    pub fn dropped(count: u64) -> Self {
        Self {
            dropped: count,
            ..Self::default()
        }
    }

    /// How many outages it stands for. More than one only when a subscription was left unread through so
    /// many outages that their notices had to be merged.
    #[must_use]
    pub const fn outages(&self) -> u32 {
        self.outages
    }

    /// How many messages did not fit into the subscription's queue. Exact.
    #[must_use]
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// How many messages the broker dropped while the node was attached, by their sequence numbers.
    #[must_use]
    pub const fn dropped_by_broker(&self) -> u64 {
        self.dropped
    }

    /// How many messages are missing here, as far as is known now.
    ///
    /// ```
    /// use backplane_core::{Gap, Missed};
    ///
    /// assert_eq!(Gap::overflow(3).missed(), Missed::Exactly(3));
    /// ```
    #[must_use]
    pub fn missed(&self) -> Missed {
        let known = self.overflowed.saturating_add(self.dropped);
        match &self.account {
            None => Missed::Exactly(known),
            Some(account) => Missed::AtLeast(known.saturating_add(account.total())),
        }
    }

    /// How many messages of this publisher were missed in the outage: `None` until it was
    /// heard again (rule L8), or when it was never heard before the outage.
    #[must_use]
    pub fn missed_from(&self, publisher: NodeId) -> Option<u64> {
        self.account.as_ref()?.of(publisher)
    }

    /// Adds what another gap says to this one.
    pub fn merge(&mut self, other: Self) {
        self.outages = self.outages.saturating_add(other.outages);
        self.overflowed = self.overflowed.saturating_add(other.overflowed);
        self.dropped = self.dropped.saturating_add(other.dropped);
        // The later account goes on counting; what the earlier one knew is carried over.
        if let Some(account) = other.account {
            if let Some(earlier) = self.account.take() {
                account.absorb(&earlier);
            }
            self.account = Some(account);
        }
    }
}

impl fmt::Debug for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gap")
            .field("outages", &self.outages)
            .field("overflowed", &self.overflowed)
            .field("dropped_by_broker", &self.dropped)
            .field("missed", &self.missed())
            .finish()
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut causes = Vec::new();
        match self.outages {
            0 => {}
            1 => causes.push("an outage".to_owned()),
            n => causes.push(format!("{n} outages")),
        }
        if self.overflowed > 0 {
            causes.push("a full queue".to_owned());
        }
        if self.dropped > 0 {
            causes.push("a broker that dropped them".to_owned());
        }
        match self.missed() {
            Missed::Exactly(n) => write!(f, "{n} messages missed")?,
            Missed::AtLeast(0) => f.write_str("messages may have been missed")?,
            Missed::AtLeast(n) => write!(f, "at least {n} messages missed")?,
        }
        if causes.is_empty() {
            Ok(())
        } else {
            write!(f, " (after {})", causes.join(" and "))
        }
    }
}

/// How many messages a [`Gap`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Missed {
    /// Exactly this many.
    Exactly(u64),
    /// This many for certain; others may have been lost that nobody could count.
    AtLeast(u64),
}

/// What is known of the messages missed in one outage, publisher by publisher. Shared by the
/// gaps of the subscriptions that it is told to, and filled as publishers are heard again.
#[derive(Clone, Debug, Default)]
pub struct OutageAccount(Arc<Mutex<HashMap<NodeId, u64>>>);

impl OutageAccount {
    /// Adds messages of a publisher that are known to be missing.
    pub fn add(&self, publisher: NodeId, missed: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(publisher).or_default();
        *count = count.saturating_add(missed);
    }

    fn total(&self) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    fn of(&self, publisher: NodeId) -> Option<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&publisher)
            .copied()
    }

    fn absorb(&self, earlier: &Self) {
        if Arc::ptr_eq(&self.0, &earlier.0) {
            return;
        }
        let counts = earlier
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (publisher, missed) in counts {
            self.add(publisher, missed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_gap_adds_up_what_its_parts_say() {
        let (first, second) = (OutageAccount::default(), OutageAccount::default());
        let publisher = NodeId::from_u64(1);
        first.add(publisher, 2);
        let mut gap = Gap::overflow(3);
        gap.merge(Gap::outage(first));
        gap.merge(Gap::outage(second.clone()));
        second.add(publisher, 4);
        assert_eq!(gap.outages(), 2);
        assert_eq!(gap.overflowed(), 3);
        assert_eq!(gap.missed_from(publisher), Some(6));
        assert_eq!(gap.missed(), Missed::AtLeast(9));
        assert_eq!(
            gap.to_string(),
            "at least 9 messages missed (after 2 outages and a full queue)"
        );
    }

    #[test]
    fn the_payload_is_not_in_debug() {
        let message = Message::new(
            Channel::new("c").unwrap(),
            Bytes::from_static(b"secret"),
            NodeId::from_u64(1),
        );
        let text = format!("{message:?} {:?}", Delivery::Message(message.clone()));
        assert!(!text.contains("secret") && text.contains("payload_len: 6"));
    }
}
