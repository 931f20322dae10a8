//! A backend that sends everything through one channel of its broker, each message in an envelope that
//! names its prefix and channel, and that does the matching itself: wrongly.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use backplane_core::{
    Channel, Delivery, Message, Prefix, PublishError, Subscribe, SubscribeError, Subscribed,
    Subscription, SubscriptionHandle,
};
use bytes::{BufMut, Bytes, BytesMut};

use super::harness::{Wrong, prefix_of};
use super::node::{Inner, NodeTwist, Tap, lock};
use super::pump::{Control, Out, Parts, Pump, Side};

/// Whether a subscription gets a message: the subscription's prefix and channel, and the message's.
pub(super) type Matches = fn((&str, &str), (&str, &str)) -> bool;

/// A backend with this idea of a match.
pub(super) fn matching(matches: Matches) -> Wrong {
    Wrong::new()
        .spec(|spec| {
            let mut spec = spec.clone();
            spec.options = spec.options.prefix(Prefix::unprefixed());
            spec
        })
        .nodes(move |spec| Envelope {
            // The constructor has refused what is not possible.
            prefix: prefix_of(spec).unwrap_or_else(|_| Prefix::unprefixed()),
            matches,
        })
}

struct Envelope {
    prefix: Prefix,
    matches: Matches,
}

/// The one channel.
fn everything() -> Vec<Channel> {
    Channel::new("everything").into_iter().collect()
}

#[async_trait]
impl NodeTwist for Envelope {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let sealed = seal(self.prefix.as_str(), channel.as_str(), &payload);
        for everything in everything() {
            node.publish(&everything, sealed.clone()).await?;
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        node.subscribe(with_channels(&request, everything())).await
    }

    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let held = Held(Arc::new(Mutex::new(tap.request.channels().to_vec())));
        let opener = Opener {
            prefix: self.prefix.clone(),
            held: held.clone(),
            matches: self.matches,
        };
        Some(Parts::new(opener, held))
    }

    fn prefix<'a>(&'a self, _node: &'a Inner) -> &'a Prefix {
        &self.prefix
    }
}

/// The channels of one subscription.
#[derive(Clone)]
struct Held(Arc<Mutex<Vec<Channel>>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, Vec<Channel>> {
        lock(&self.0)
    }
}

#[async_trait]
impl Control for Held {
    async fn subscribe(
        &self,
        _below: &SubscriptionHandle,
        channels: Vec<Channel>,
        _deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        self.lock().extend(channels);
        Ok(Subscribed::InForce)
    }

    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        self.lock().retain(|held| !channels.contains(held));
        side.out.purge(channels);
    }

    fn channels(&self, _below: &SubscriptionHandle) -> Vec<Channel> {
        self.lock().clone()
    }
}

/// Opens the envelopes of one subscription.
struct Opener {
    prefix: Prefix,
    held: Held,
    matches: Matches,
}

#[async_trait]
impl Pump for Opener {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        let message = match delivery {
            Delivery::Message(message) => message,
            Delivery::Gap(gap) => return out.gap(gap),
        };
        let publisher = message.publisher();
        let Some((prefix, name, payload)) = open(message.payload()) else {
            return;
        };
        for held in self.held.lock().iter() {
            if (self.matches)((self.prefix.as_str(), held.as_str()), (&prefix, &name)) {
                out.message(Message::new(held.clone(), payload.clone(), publisher));
            }
        }
    }
}

/// The same request for other channels.
pub(super) fn with_channels(
    request: &Subscribe,
    channels: impl IntoIterator<Item = Channel>,
) -> Subscribe {
    let mut changed = Subscribe::to(channels);
    if request.is_without_own() {
        changed = changed.without_own();
    }
    if request.is_deferred() {
        changed = changed.deferred();
    }
    if let Some(bytes) = request.queue_bytes() {
        changed = changed.max_bytes(bytes);
    }
    match request.queue_capacity() {
        Some(capacity) => changed.capacity(capacity),
        None => changed,
    }
}

fn seal(prefix: &str, channel: &str, payload: &[u8]) -> Bytes {
    let mut sealed = BytesMut::new();
    for name in [prefix, channel] {
        // Names are shorter than that.
        sealed.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
        sealed.put_slice(name.as_bytes());
    }
    sealed.put_slice(payload);
    sealed.freeze()
}

fn open(sealed: &Bytes) -> Option<(String, String, Bytes)> {
    let (prefix, at) = name_at(sealed, 0)?;
    let (channel, at) = name_at(sealed, at)?;
    Some((prefix, channel, sealed.slice(at..)))
}

fn name_at(sealed: &Bytes, at: usize) -> Option<(String, usize)> {
    let len = sealed.get(at..at + 2)?;
    let end = at + 2 + usize::from(u16::from_be_bytes([len[0], len[1]]));
    let name = String::from_utf8(sealed.get(at + 2..end)?.to_vec()).ok()?;
    Some((name, end))
}

/// Redis's idea of a pattern, without its brackets.
pub(super) fn glob(pattern: &str, name: &str) -> bool {
    let mut pattern = pattern.chars();
    let mut rest = name.chars();
    match pattern.next() {
        None => name.is_empty(),
        Some('*') => {
            let pattern = pattern.as_str();
            name.char_indices()
                .any(|(at, _)| glob(pattern, &name[at..]))
                || glob(pattern, "")
        }
        Some('?') => rest.next().is_some() && glob(pattern.as_str(), rest.as_str()),
        Some(literal) => rest.next() == Some(literal) && glob(pattern.as_str(), rest.as_str()),
    }
}
