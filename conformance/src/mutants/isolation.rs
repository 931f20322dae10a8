//! Wrong at I: prefix isolation.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use async_trait::async_trait;
use backplane_core::{Backplane, Channel, ConnectionState, Message, NodeId, Prefix, PublishError};
use backplane_memory::MemoryBus;
use bytes::{BufMut, Bytes, BytesMut};

use super::crossed::{glob, matching};
use super::harness::{Elsewhere, Wrong};
use super::node::{Inner, NodeTwist, Tap, lock};
use super::pump::{OnMessage, Out, Parts};
use super::visibility::Counts;
use super::{Mutant, mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "ignores-the-prefix",
        "I1",
        "should get its own 10 messages",
        "everybody on the broker shares everything, as with isolation by database number (swampdragon #46)",
        || matching(|held, sent| held.1 == sent.1),
    ),
    mutant!(
        "forgets-the-prefix-on-one-path",
        "I1",
        "should get its own 10 messages",
        "the channel of the presence notices has no prefix (channels_redis has such a path)",
        || matching(|held, sent| held.1 == sent.1 && (held.0 == sent.0 || held.1 == "presence")),
    ),
    mutant!(
        "every-node-has-a-prefix-of-its-own",
        "I2",
        r#"message "from 0" did not arrive"#,
        "the prefix holds something of the process",
        || Wrong::new().spec(|spec| {
            let mut spec = spec.clone();
            if let Ok(prefix) = Prefix::new(format!("{:016x}", rand::random::<u64>())) {
                spec.options = spec.options.prefix(prefix);
            }
            spec
        }),
    ),
    mutant!(
        "joins-names-without-delimiter",
        "I3",
        "should get only message",
        "prefix and channel are put together as they are (channels_redis)",
        || matching(|held, sent| [held.0, held.1].concat() == [sent.0, sent.1].concat()),
    ),
    mutant!(
        "joins-names-without-escape",
        "I3",
        "should get only message",
        "prefix and channel are joined by a character that both may contain",
        || matching(|held, sent| [held.0, ":", held.1].concat() == [sent.0, ":", sent.1].concat()),
    ),
    mutant!(
        "empty-prefix-has-no-delimiter",
        "I3",
        r#"prefix "" and channel"#,
        "the prefix is escaped and delimited, but nothing stands before the channel when it is empty",
        || matching(|held, sent| {
            let name = |(prefix, channel): (&str, &str)| match prefix {
                "" => channel.to_owned(),
                prefix => format!(
                    "{}:{channel}",
                    prefix.replace('%', "%25").replace(':', "%3A")
                ),
            };
            name(held) == name(sent)
        }),
    ),
    mutant!(
        "takes-prefixes-for-patterns",
        "I4",
        "should get only message",
        "subscribes by pattern, and the prefix is not quoted",
        || matching(|held, sent| glob(held.0, sent.0) && held.1 == sent.1),
    ),
    mutant!(
        "strips-pattern-characters",
        "I4",
        "should get only message",
        "characters that mean something to the broker are taken out of names",
        || matching(|held, sent| {
            let plain =
                |name: &str| name.replace(['*', '?', '[', ']', '\\', '{', '}', '^', '%'], "");
            plain(held.0) == plain(sent.0) && plain(held.1) == plain(sent.1)
        }),
    ),
    mutant!(
        "loses-the-prefix-in-an-outage",
        "I5",
        "got Some(",
        "the prefix is set up once for the first connection and missing on the next",
        || {
            let everybody = Everybody::default();
            Wrong::new().nodes(move |_| LosesPrefix(Arc::clone(&everybody)))
        },
    ),
    mutant!(
        "delivers-what-strangers-write",
        "I6",
        r#"after what a stranger wrote, expected message "after 0", got """#,
        "whatever is on a channel is a message",
        || Wrong::new().writes(|written, bytes| {
            written.pass(&bytes)?;
            written.pass(&framed(&bytes))
        }),
    ),
    mutant!(
        "does-not-count-strangers",
        "I6",
        "1 malformed messages were written, and 0 are counted",
        "what cannot be read is skipped, and nobody can see it",
        || Wrong::new().nodes(|_| Counts(|stats| stats.malformed = 0)),
    ),
    mutant!(
        "stops-at-a-stranger",
        "I6",
        "the message after what stranger 0 wrote did not arrive",
        "the task that reads ends at the first bytes that it cannot read (channels_redis #200)",
        || Wrong::new().nodes(|_| StopsAtStrangers),
    ),
    mutant!(
        "stranger-at-the-probes-costs-the-connection",
        "I6",
        "health fails after a stranger wrote to the probes",
        "bytes that nobody can read are an error of the connection",
        || Wrong::new().stranger_at_probes(|memory, node| memory.bus().cut(node)),
    ),
    mutant!(
        "the-place-apart-is-another-broker",
        "I7",
        r#"message "here 0" did not arrive"#,
        "what is documented not to isolate does",
        || Wrong::new().elsewhere(Elsewhere::Apart(MemoryBus::new())),
    ),
];

/// The nodes of all prefixes.
type Everybody = Arc<Mutex<Vec<Weak<dyn Backplane>>>>;

struct LosesPrefix(Everybody);

impl LosesPrefix {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn Backplane>>> {
        lock(&self.0)
    }
}

#[async_trait]
impl NodeTwist for LosesPrefix {
    fn made(&self, node: &Inner) {
        self.lock().push(Arc::downgrade(node));
    }

    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if matches!(node.state(), ConnectionState::Connected { generation } if generation > 1) {
            let everybody: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
            let stranger = everybody
                .iter()
                .find(|other| other.prefix() != node.prefix());
            if let Some(stranger) = stranger {
                let _ = stranger.publish(channel, payload.clone()).await;
            }
        }
        node.publish(channel, payload).await
    }
}

/// A frame that carries these bytes, of a publisher that nobody has heard of. Long ones are cut.
fn framed(bytes: &Bytes) -> Bytes {
    let payload = &bytes[..bytes.len().min(0x7f)];
    let mut frame = BytesMut::new();
    frame.put_slice(&[0xc1, 0x42, 1]);
    frame.put_u64_le(NodeId::random().as_u64());
    frame.put_u8(1);
    frame.put_u64_le(0);
    frame.put_u8(payload.len() as u8);
    frame.put_slice(payload);
    frame.freeze()
}

struct StopsAtStrangers;

#[async_trait]
impl NodeTwist for StopsAtStrangers {
    fn parts(&self, node: &Inner, _tap: &Tap) -> Option<Parts> {
        let node = Arc::downgrade(node);
        let reads = move || {
            node.upgrade()
                .is_some_and(|node| node.stats().malformed == 0)
        };
        Some(Parts::pump(OnMessage(
            move |message: Message, out: &Out| {
                if reads() {
                    out.message(message);
                }
            },
        )))
    }
}
