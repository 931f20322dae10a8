//! What stands between a subscription and its reader: a [`Pump`] for what arrives, and a [`Control`] for
//! what its handle asks for.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::Poll;

use async_trait::async_trait;
use backplane_core::{
    Channel, Delivery, Gap, Message, QueueWriter, StateWatch, SubscribeError, Subscribed,
    Subscription, SubscriptionControl, SubscriptionHandle, queue,
};
use futures_util::future::BoxFuture;
use tokio::task::AbortHandle;

use super::node::{Moved, Pumped, Tap, lock};

/// The least capacity of a subscription below a pump.
pub(super) const BELOW: usize = 16_384;

/// What is done with the deliveries of a subscription.
pub(super) trait Pump: Send + 'static {
    /// The subscription is there.
    fn begin(&mut self, _out: &Out) {}

    /// What has to end before the next delivery may be taken, if anything.
    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// Takes a delivery, and writes what the reader is to see.
    fn on(&mut self, delivery: Delivery, out: &Out) {
        out.put(delivery);
    }

    /// The subscription has ended.
    fn on_end(&mut self, out: &Out) {
        out.end();
    }
}

/// What is done with the requests of a subscription's handle.
#[async_trait]
pub(super) trait Control: Send + Sync + 'static {
    async fn subscribe(
        &self,
        below: &SubscriptionHandle,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        if deferred {
            return below.subscribe_deferred(channels).await;
        }
        below
            .subscribe(channels)
            .await
            .map(|()| Subscribed::InForce)
    }

    /// Leaves channels, and takes what waits of them out of the reader's queue.
    fn unsubscribe(&self, side: Side<'_>, channels: &[Channel]) {
        side.below.unsubscribe(channels.iter().cloned());
        side.out.purge(channels);
    }

    fn channels(&self, below: &SubscriptionHandle) -> Vec<Channel> {
        below.channels()
    }

    fn is_deferred(&self, below: Option<&Subscription>) -> bool {
        below.is_some_and(Subscription::is_deferred)
    }

    /// The reader has dropped it.
    fn close(&self, below: Subscription) {
        drop(below);
    }
}

/// What stands between a subscription and its reader.
pub(super) struct Parts {
    pump: Box<dyn Pump>,
    control: Box<dyn Control>,
}

impl Parts {
    pub(super) fn new(pump: impl Pump, control: impl Control) -> Self {
        Self {
            pump: Box::new(pump),
            control: Box::new(control),
        }
    }

    /// A pump, and a handle that does as it should.
    pub(super) fn pump(pump: impl Pump) -> Self {
        Self::new(pump, Straight)
    }

    /// A handle, and deliveries as they are.
    pub(super) fn control(control: impl Control) -> Self {
        Self::new(Straight, control)
    }
}

/// What a [`Control`] has at hand.
pub(super) struct Side<'a> {
    pub(super) below: &'a SubscriptionHandle,
    pub(super) out: &'a Out,
    pub(super) watch: &'a StateWatch,
    /// The subscription itself, unless it was dropped.
    pub(super) subscription: Option<&'a mut Subscription>,
}

/// Changes nothing.
#[derive(Debug)]
pub(super) struct Straight;

impl Pump for Straight {}
#[async_trait]
impl Control for Straight {}

/// Does something else with messages.
pub(super) struct OnMessage<F>(pub(super) F);

impl<F: FnMut(Message, &Out) + Send + 'static> Pump for OnMessage<F> {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) => (self.0)(message, out),
            Delivery::Gap(gap) => out.gap(gap),
        }
    }
}

/// Does something else with gaps.
pub(super) struct OnGap<F>(pub(super) F);

impl<F: FnMut(Gap, &Out) + Send + 'static> Pump for OnGap<F> {
    fn on(&mut self, delivery: Delivery, out: &Out) {
        match delivery {
            Delivery::Message(message) => out.message(message),
            Delivery::Gap(gap) => (self.0)(gap, out),
        }
    }
}

/// The reader's queue, as a pump writes to it.
#[derive(Clone, Debug)]
pub(super) struct Out {
    writer: QueueWriter,
    moved: Arc<Moved>,
}

impl Out {
    pub(super) fn put(&self, delivery: Delivery) {
        match delivery {
            Delivery::Message(message) => self.message(message),
            Delivery::Gap(gap) => self.gap(gap),
        }
    }

    pub(super) fn message(&self, message: Message) {
        self.moved.add(self.writer.push([message]));
    }

    /// Like [`message`](Self::message); says whether it did not fit.
    pub(super) fn overflows(&self, message: Message) -> bool {
        let pushed = self.writer.push([message]);
        self.moved.add(pushed);
        pushed.overflowed > 0
    }

    pub(super) fn gap(&self, gap: Gap) {
        self.writer.push_gap(gap);
    }

    pub(super) fn purge(&self, channels: &[Channel]) {
        self.writer.purge(channels);
    }

    pub(super) fn end(&self) {
        self.writer.close();
    }
}

/// Puts parts on a subscription.
pub(super) fn attach(
    below: Subscription,
    Parts { mut pump, control }: Parts,
    tap: &Tap,
    moved: Arc<Moved>,
) -> Subscription {
    let (writer, reader) = queue(tap.capacity, tap.max_bytes);
    let out = Out {
        writer,
        moved: Arc::clone(&moved),
    };
    pump.begin(&out);
    let handle = below.handle();
    let below = Arc::new(Below {
        inside: Mutex::new(Inside {
            subscription: Some(below),
            pump,
        }),
        out: out.clone(),
    });
    let pumped: Weak<dyn Pumped> = Arc::<Below>::downgrade(&below);
    moved.attach(pumped);
    let task = tokio::spawn(run(Arc::clone(&below)));
    let control = Controlled {
        below,
        handle,
        out,
        control,
        watch: tap.watch.clone(),
        task: task.abort_handle(),
    };
    Subscription::new(reader, Arc::new(control))
}

/// The subscription below and its pump.
///
/// A delivery is taken and passed on under the lock, so an unsubscribe finds it in one queue or the other.
struct Below {
    inside: Mutex<Inside>,
    out: Out,
}

struct Inside {
    /// `None`: the reader has dropped its own.
    subscription: Option<Subscription>,
    pump: Box<dyn Pump>,
}

impl Below {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        lock(&self.inside)
    }
}

impl Pumped for Below {
    fn settle(&self) {
        let mut inside = self.lock();
        let Inside { subscription, pump } = &mut *inside;
        while pump.ready().is_none() {
            let Some(Ok(delivery)) = subscription.as_mut().map(Subscription::try_recv) else {
                return;
            };
            pump.on(delivery, &self.out);
        }
    }
}

impl fmt::Debug for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Below").finish_non_exhaustive()
    }
}

async fn run(below: Arc<Below>) {
    let mut open = true;
    while open {
        let ready = below.lock().pump.ready();
        if let Some(ready) = ready {
            ready.await;
        }
        open = poll_fn(|cx| {
            let mut inside = below.lock();
            let Inside { subscription, pump } = &mut *inside;
            let Some(subscription) = subscription.as_mut() else {
                return Poll::Ready(false);
            };
            subscription.poll_recv(cx).map(|delivery| match delivery {
                Some(delivery) => {
                    pump.on(delivery, &below.out);
                    true
                }
                None => {
                    pump.on_end(&below.out);
                    false
                }
            })
        })
        .await;
    }
}

struct Controlled {
    below: Arc<Below>,
    handle: SubscriptionHandle,
    out: Out,
    control: Box<dyn Control>,
    watch: StateWatch,
    task: AbortHandle,
}

#[async_trait]
impl SubscriptionControl for Controlled {
    async fn subscribe(
        &self,
        channels: Vec<Channel>,
        deferred: bool,
    ) -> Result<Subscribed, SubscribeError> {
        self.control
            .subscribe(&self.handle, channels, deferred)
            .await
    }

    fn unsubscribe(&self, channels: &[Channel]) {
        let mut below = self.below.lock();
        let side = Side {
            below: &self.handle,
            out: &self.out,
            watch: &self.watch,
            subscription: below.subscription.as_mut(),
        };
        self.control.unsubscribe(side, channels);
    }

    fn channels(&self) -> Vec<Channel> {
        self.control.channels(&self.handle)
    }

    fn is_deferred(&self) -> bool {
        self.control
            .is_deferred(self.below.lock().subscription.as_ref())
    }

    fn close(&self) {
        self.task.abort();
        let below = self.below.lock().subscription.take();
        if let Some(below) = below {
            self.control.close(below);
        }
    }
}

impl Drop for Controlled {
    fn drop(&mut self) {
        self.task.abort();
    }
}
