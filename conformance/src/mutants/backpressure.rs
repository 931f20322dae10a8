//! Wrong at B: backpressure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::{
    Channel, Delivery, Gap, Message, NodeOptions, NotSent, OutageAccount, PublishError,
    PublishErrorKind, Subscribe, SubscribeError, Subscription, Unknown,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::sleep;

use super::harness::{Trouble, Wrong};
use super::node::{Inner, NodeTwist, Tap, Tasks};
use super::pump::{Out, Parts, Pump};
use super::{Mutant, mutant};
use crate::harness::{Fault, NodeSpec};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "one-dispatcher-waits-for-the-slowest",
        "B1",
        "did not arrive within",
        "a full subscription holds up the read loop (rueidis #596, centrifugo #925)",
        || Wrong::new().nodes(|_| OneDispatcher::default()),
    ),
    mutant!(
        "publish-waits-for-the-slowest",
        "B1",
        "publish does not return within",
        "a full subscription holds up the publishers of its node",
        || Wrong::new().nodes(|_| Waits::default()),
    ),
    mutant!(
        "subscribe-waits-for-the-slowest",
        "B1",
        "subscribe does not return within",
        "a full subscription holds up those who subscribe on its node",
        || Wrong::new().nodes(|_| Waits {
            subscribe: true,
            ..Waits::default()
        }),
    ),
    mutant!(
        "overflow-is-dropped-silently",
        "B2",
        "a gap did not arrive",
        "what does not fit is dropped without a word (channels: channel_capacity)",
        || Wrong::new().parts(|tap| Parts::pump(Limited::new(tap, |_, _| {}))),
    ),
    mutant!(
        "overflow-counts-one",
        "B2",
        "expected a gap of Exactly(3), got Exactly(1)",
        "an overflow is told, and its count is that of its first message",
        || Wrong::new().parts(|tap| Parts::pump(Limited::new(tap, |nth, out| {
            if nth == 1 {
                out.gap(Gap::overflow(1));
            }
        }))),
    ),
    mutant!(
        "overflow-counts-nothing",
        "B2",
        "expected a gap of Exactly(3), got AtLeast(0)",
        "an overflow is told as if it were an outage",
        || Wrong::new().parts(|tap| Parts::pump(Limited::new(tap, |nth, out| {
            if nth == 1 {
                out.gap(Gap::outage(OutageAccount::default()));
            }
        }))),
    ),
    mutant!(
        "overflow-is-told-with-the-next-message",
        "B2",
        "a gap did not arrive",
        "an overflow is told when there is room again, and something to say",
        || Wrong::new().parts(|tap| Parts::pump(Limited::new(tap, |_, _| {}).telling_late())),
    ),
    mutant!(
        "queue-has-no-bound",
        "B2",
        r#"expected a gap, got message "0.10""#,
        "what nobody reads is kept for ever (channels #1361, channels_redis #212, #384)",
        || Wrong::new().nodes(|_| Unbounded),
    ),
    mutant!(
        "capacity-option-is-ignored",
        "B2",
        "queue_capacity(7) holds more than 7 messages",
        "the node's own capacity is read and never used",
        || Wrong::new().spec(|spec| {
            let mut spec = spec.clone();
            spec.options = spec.options.queue_capacity(4096);
            spec
        }),
    ),
    mutant!(
        "overflow-mixes-the-order",
        "B4",
        "messages another is expected",
        "after an overflow a second queue runs beside the first",
        || Wrong::new().pumps(Mixes::default),
    ),
    mutant!(
        "publish-waits-for-ever",
        "B5",
        "publishes did not end within",
        "a publish waits for its broker as long as that takes",
        || Wrong::new().spec(|spec| with_options(spec, |options| {
            options.publish_timeout(Duration::from_secs(3600))
        })),
    ),
    mutant!(
        "pending-has-no-bound",
        "B5",
        "publishes wait, and 16 may",
        "what the broker does not take is kept in memory, however much it is",
        || Wrong::new().spec(|spec| with_options(spec, |options| {
            options
                .max_pending(usize::MAX)
                .max_pending_bytes(usize::MAX)
        })),
    ),
    mutant!(
        "pending-bytes-have-no-bound",
        "B5",
        "publishes wait, and 16 may",
        "messages are counted, and their size is not",
        || Wrong::new()
            .spec(|spec| with_options(spec, |options| { options.max_pending_bytes(usize::MAX) })),
    ),
    mutant!(
        "publish-does-not-wait-for-the-broker",
        "B5",
        "expected Overloaded at once, got Ok",
        "publish returns when a message is queued, and the queue has no end",
        || Wrong::new().nodes(|_| FireAndForget::default()),
    ),
    mutant!(
        "overload-comes-at-half-the-limit",
        "B5",
        "were refused at once, 8 wait, and 16 may",
        "each publish is counted twice, while the limit is small",
        || Wrong::new().spec(|spec| with_options(spec, |options| {
            let (messages, bytes) = (options.max_pending, options.max_pending_bytes);
            // The broker that serves, of the same trial, has room for 64.
            match messages < 64 || bytes < 64 << 10 {
                true => options
                    .max_pending(messages / 2)
                    .max_pending_bytes(bytes / 2),
                false => options,
            }
        })),
    ),
    mutant!(
        "overload-is-unknown",
        "B5",
        "expected Overloaded at once, got Err(Unknown",
        "one error for everything: nobody knows what may be sent again",
        || Wrong::new().nodes(|_| Overload::IsUnknown),
    ),
    mutant!(
        "overload-is-success",
        "B5",
        "expected Overloaded at once, got Ok",
        "what does not fit while the broker takes nothing is dropped and reported as sent",
        || Wrong::new().in_trouble(
            |wrong, trouble| wrong.nodes(move |_| { Overload::IsSuccess(trouble.clone()) })
        ),
    ),
    mutant!(
        "overload-is-sent-later",
        "B5",
        "was told as not sent, and arrived",
        "what was refused is kept, and sent when there is room",
        || Wrong::new().nodes(|_| SendsRefused::default()),
    ),
    mutant!(
        "overload-is-for-ever",
        "B5",
        "too many publishes are waiting",
        "what was refused counts as waiting, for good",
        || Wrong::new().nodes(|spec| NeverForgives {
            left: AtomicUsize::new(spec.options.max_pending),
        }),
    ),
];

fn with_options(spec: &NodeSpec, change: fn(NodeOptions) -> NodeOptions) -> NodeSpec {
    let mut spec = spec.clone();
    spec.options = change(spec.options);
    spec
}

fn is_overload(error: &PublishError) -> bool {
    error.kind() == PublishErrorKind::NotSent(NotSent::Overloaded)
}

/// Publishes in a task, in order, and says at once that it has.
#[derive(Default)]
struct FireAndForget {
    tasks: Tasks,
    queue: OnceLock<mpsc::UnboundedSender<(Channel, Bytes)>>,
}

#[async_trait]
impl NodeTwist for FireAndForget {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let queue = self.queue.get_or_init(|| {
            let (queue, mut queued) = mpsc::unbounded_channel::<(Channel, Bytes)>();
            let node = Arc::downgrade(node);
            self.tasks.spawn(async move {
                while let (Some((channel, payload)), Some(node)) =
                    (queued.recv().await, node.upgrade())
                {
                    let _ = node.publish(&channel, payload).await;
                }
            });
            queue
        });
        let _ = queue.send((channel.clone(), payload));
        Ok(())
    }
}

/// What is made of an overload.
enum Overload {
    IsUnknown,
    /// While the broker is frozen.
    IsSuccess(Trouble),
}

#[async_trait]
impl NodeTwist for Overload {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        match (self, node.publish(channel, payload).await) {
            (Self::IsSuccess(trouble), Err(error))
                if is_overload(&error) && trouble.is(|fault| fault == Fault::Freeze) =>
            {
                Ok(())
            }
            (Self::IsUnknown, Err(error)) if is_overload(&error) => Err(PublishError::unknown(
                channel,
                Unknown::ConnectionLost,
                None,
            )),
            (_, other) => other,
        }
    }
}

/// Sends with the next message what was refused.
#[derive(Default)]
struct SendsRefused(std::sync::Mutex<Vec<(Channel, Bytes)>>);

#[async_trait]
impl NodeTwist for SendsRefused {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let result = node.publish(channel, payload.clone()).await;
        match &result {
            Err(error) if is_overload(error) => {
                super::node::lock(&self.0).push((channel.clone(), payload));
            }
            Ok(()) => {
                let refused = std::mem::take(&mut *super::node::lock(&self.0));
                for (channel, payload) in refused {
                    let _ = node.publish(&channel, payload).await;
                }
            }
            Err(_) => {}
        }
        result
    }
}

/// Has less room after each overload.
struct NeverForgives {
    left: AtomicUsize,
}

#[async_trait]
impl NodeTwist for NeverForgives {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return Err(PublishError::not_sent(channel, NotSent::Overloaded, None));
        }
        let result = node.publish(channel, payload).await;
        if result.as_ref().is_err_and(is_overload) {
            let less = |left: usize| left.checked_sub(1);
            let _ = self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        result
    }
}

/// How many messages a reader has not taken yet.
#[derive(Clone, Debug, Default)]
struct Load(Arc<AtomicUsize>);

impl Load {
    fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// The message, counted until its payload is dropped.
    fn count(&self, message: &Message) -> Message {
        self.0.fetch_add(1, Ordering::AcqRel);
        let counted = Counted {
            payload: message.payload().clone(),
            load: self.clone(),
        };
        let payload = Bytes::from_owner(counted);
        Message::new(message.channel().clone(), payload, message.publisher())
    }
}

struct Counted {
    payload: Bytes,
    load: Load,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits until a subscription has room.
async fn room(load: &Load, capacity: usize) {
    while load.get() >= capacity {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Held by the pump that delivers; by the slowest until it can.
#[derive(Default)]
struct OneDispatcher(Arc<AsyncMutex<()>>);

#[async_trait]
impl NodeTwist for OneDispatcher {
    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let dispatcher = Arc::clone(&self.0);
        Some(Parts::pump(Dispatched {
            dispatcher,
            load: Load::default(),
            capacity: tap.capacity,
        }))
    }
}

struct Dispatched {
    dispatcher: Arc<AsyncMutex<()>>,
    load: Load,
    capacity: usize,
}

impl Pump for Dispatched {
    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        let (dispatcher, load) = (Arc::clone(&self.dispatcher), self.load.clone());
        let capacity = self.capacity;
        Some(Box::pin(async move {
            let _turn = dispatcher.lock().await;
            room(&load, capacity).await;
        }))
    }

    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) => out.message(self.load.count(&message)),
            Delivery::Gap(gap) => out.gap(gap),
        }
    }
}

/// Waits until every subscription of its node has room.
#[derive(Default)]
struct Waits {
    /// The loads of a node's subscriptions, and what they hold.
    loads: std::sync::Mutex<Vec<(Load, usize)>>,
    /// Whether it is those who subscribe that wait, and not those who publish.
    subscribe: bool,
}

impl Waits {
    async fn wait(&self) {
        let loads = super::node::lock(&self.loads).clone();
        for (load, capacity) in &loads {
            room(load, *capacity).await;
        }
    }
}

#[async_trait]
impl NodeTwist for Waits {
    async fn publish(
        &self,
        node: &Inner,
        channel: &Channel,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        if !self.subscribe {
            self.wait().await;
        }
        node.publish(channel, payload).await
    }

    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        if self.subscribe {
            self.wait().await;
        }
        node.subscribe(request).await
    }

    fn parts(&self, _node: &Inner, tap: &Tap) -> Option<Parts> {
        let load = Load::default();
        super::node::lock(&self.loads).push((load.clone(), tap.capacity));
        let counting = super::pump::OnMessage(move |message: Message, out: &Out| {
            out.message(load.count(&message));
        });
        Some(Parts::pump(counting))
    }
}

/// Does what it likes with the messages that do not fit.
struct Limited {
    load: Load,
    capacity: usize,
    overflowed: u64,
    /// Is told of each, with its number in the row.
    on_overflow: fn(u64, &Out),
    late: bool,
}

impl Limited {
    fn new(tap: &Tap, on_overflow: fn(u64, &Out)) -> Self {
        let (load, capacity) = (Load::default(), tap.capacity);
        Self {
            load,
            capacity,
            overflowed: 0,
            on_overflow,
            late: false,
        }
    }

    const fn telling_late(mut self) -> Self {
        self.late = true;
        self
    }
}

impl Pump for Limited {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) if self.load.get() < self.capacity => {
                out.message(self.load.count(&message));
                let overflowed = std::mem::take(&mut self.overflowed);
                if self.late && overflowed > 0 {
                    out.gap(Gap::overflow(overflowed));
                }
            }
            Delivery::Message(_) => {
                self.overflowed += 1;
                (self.on_overflow)(self.overflowed, out);
            }
            Delivery::Gap(gap) => out.gap(gap),
        }
    }
}

/// Swaps neighbours from the first overflow on.
#[derive(Default)]
struct Mixes {
    overflowed: bool,
    held: Option<Message>,
}

impl Pump for Mixes {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) if !self.overflowed => {
                self.overflowed = out.overflows(message);
            }
            Delivery::Message(message) => match self.held.take() {
                None => self.held = Some(message),
                Some(held) => {
                    out.message(message);
                    out.message(held);
                }
            },
            Delivery::Gap(gap) => out.gap(gap),
        }
    }
}

struct Unbounded;

#[async_trait]
impl NodeTwist for Unbounded {
    async fn subscribe(
        &self,
        node: &Inner,
        request: Subscribe,
    ) -> Result<Subscription, SubscribeError> {
        node.subscribe(request.capacity(usize::MAX)).await
    }
}
