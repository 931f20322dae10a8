//! A broker that matches names wrongly: besides where it belongs, what is published also arrives on other
//! channels.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Driver as _, Frame, Inbound, Link as _, LinkError, LinkPublishError,
};
use backplane_memory::{MemoryDriver, MemoryLink};
use bytes::{BufMut, Bytes, BytesMut};

use super::driver::{Line, LinkTwist};
use super::harness::Wrong;
use super::node::lock;

/// Whether a subscription gets a message: the subscription's prefix and channel, and the message's.
pub(super) type Matches = fn((&str, &str), (&str, &str)) -> bool;

/// A backend with this idea of a match.
pub(super) fn matching(matches: Matches) -> Wrong {
    let lines = Lines::default();
    Wrong::new().links(move || Crossed {
        lines: Arc::clone(&lines),
        matches,
    })
}

struct Crossed {
    lines: Lines,
    matches: Matches,
}

/// What the nodes of one broker hold.
type Lines = Arc<Mutex<Vec<Held>>>;

struct Held {
    inbound: Inbound,
    channel: BrokerChannel,
    /// The prefix and the channel of its name.
    parts: (String, String),
}

/// How many of the channels that are held may also get what is not for them.
const LOOKED_AT: usize = 1000;

#[async_trait]
impl LinkTwist for Crossed {
    async fn connect(
        &self,
        driver: &MemoryDriver,
        inbound: Inbound,
        _number: u64,
    ) -> Result<MemoryLink, LinkError> {
        self.forget(&inbound, |_| true);
        driver.connect(inbound).await
    }

    async fn publish(
        &self,
        line: &Line,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        line.link.publish(channel, frame).await?;
        let Some(sent) = parts(channel) else {
            return Ok(());
        };
        let sent = (&*sent.0, &*sent.1);
        // A long table is too long to be gone through for each message.
        for held in lock(&self.lines).iter().take(LOOKED_AT) {
            let (prefix, name) = (&*held.parts.0, &*held.parts.1);
            if held.channel != *channel && (self.matches)((prefix, name), sent) {
                let stray = astray(channel, frame);
                held.inbound.deliver_bytes(held.channel.as_bytes(), &stray);
            }
        }
        Ok(())
    }

    async fn subscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        line.link.subscribe(channels).await?;
        let held = |channel: &BrokerChannel| {
            Some(Held {
                inbound: line.inbound.clone(),
                channel: channel.clone(),
                parts: parts(channel)?,
            })
        };
        lock(&self.lines).extend(channels.iter().filter_map(held));
        Ok(())
    }

    async fn unsubscribe(&self, line: &Line, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        let channels_left: HashSet<_> = channels.iter().collect();
        self.forget(&line.inbound, |held| channels_left.contains(held));
        line.link.unsubscribe(channels).await
    }

    async fn close(&self, line: &Line) {
        self.forget(&line.inbound, |_| true);
        line.link.close().await;
    }
}

impl Crossed {
    fn forget(&self, inbound: &Inbound, which: impl Fn(&BrokerChannel) -> bool) {
        let node = inbound.node_id();
        lock(&self.lines).retain(|held| held.inbound.node_id() != node || !which(&held.channel));
    }
}

/// The prefix and the channel of a name; `None` for the engine's own.
fn parts(name: &BrokerChannel) -> Option<(String, String)> {
    let (prefix, channel) = name.as_str().split_once(':')?;
    if prefix.contains('!') {
        return None;
    }
    let plain = ["%3A", "%21", "%7B", "%7D", "%25"]
        .into_iter()
        .zip([":", "!", "{", "}", "%"])
        .fold(prefix.to_owned(), |name, (from, to)| name.replace(from, to));
    Some((plain, channel.to_owned()))
}

/// The frame as it arrives where it does not belong: from a publisher of its own, so that its numbers do not meet
/// those of the others.
fn astray(channel: &BrokerChannel, frame: &Frame) -> Bytes {
    const PUBLISHER: std::ops::Range<usize> = 3..11;
    let mut hasher = DefaultHasher::new();
    (channel.as_str(), frame.publisher().as_u64()).hash(&mut hasher);
    let bytes = frame.encode();
    let mut stray = BytesMut::with_capacity(bytes.len());
    stray.put_slice(&bytes[..PUBLISHER.start]);
    stray.put_u64_le(hasher.finish());
    stray.put_slice(&bytes[PUBLISHER.end..]);
    stray.freeze()
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
