//! Reads a subscription and records what it gets: [`Reader`].

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use backplane_core::{Delivery, Subscription, SubscriptionHandle};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Names, SharedLedger, lock};
use crate::model::ledger::{Arrival, Item, MessageId, PublisherId, StreamId, Tick};

/// How many deliveries are taken at once where some are.
const AT_ONCE: usize = 7;

type Shared = Arc<Mutex<Option<Subscription>>>;

/// A subscription and the task that reads it. Dropping it drops the subscription.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) stream: StreamId,
    pub(super) node: PublisherId,
    pub(super) handle: SubscriptionHandle,
    subscription: Shared,
    paused: watch::Sender<bool>,
    /// When it last found nothing to read.
    idle: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What the task of a reader works with.
#[derive(Debug)]
struct Reading {
    stream: StreamId,
    subscription: Shared,
    ledger: SharedLedger,
    names: Arc<Names>,
    idle: Arc<AtomicU64>,
}

impl Reader {
    pub(super) fn start(
        stream: StreamId,
        node: PublisherId,
        subscription: Subscription,
        ledger: &SharedLedger,
        names: &Arc<Names>,
    ) -> Self {
        let handle = subscription.handle();
        let subscription: Shared = Arc::new(Mutex::new(Some(subscription)));
        let (paused, watch) = watch::channel(false);
        let idle = Arc::new(AtomicU64::new(0));
        let reading = Reading {
            stream,
            subscription: Arc::clone(&subscription),
            ledger: Arc::clone(ledger),
            names: Arc::clone(names),
            idle: Arc::clone(&idle),
        };
        let task = tokio::spawn(reading.run(watch));
        Self {
            stream,
            node,
            handle,
            subscription,
            paused,
            idle,
            task,
        }
    }

    pub(super) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Whether it has found nothing to read since this moment. It looks again if it has not.
    pub(super) fn is_idle_since(&self, moment: Tick) -> bool {
        let idle = self.idle.load(Ordering::Acquire) > moment;
        if !idle {
            self.pause(false);
        }
        idle
    }

    /// Whether some channel is not in force yet.
    pub(super) fn is_deferred(&self) -> bool {
        lock(&self.subscription)
            .as_ref()
            .is_some_and(Subscription::is_deferred)
    }

    /// Waits for the end of the stream; returns whether it came.
    pub(super) async fn end(mut self, within: Duration) -> bool {
        timeout(within, &mut self.task).await.is_ok()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
        let subscription = lock(&self.subscription).take();
        drop(subscription);
    }
}

impl Reading {
    async fn run(self, mut paused: watch::Receiver<bool>) {
        loop {
            if paused.wait_for(|paused| !*paused).await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                changed = paused.changed() => if changed.is_err() {
                    return;
                },
                more = poll_fn(|cx| self.take(cx)) => if !more {
                    return;
                },
            }
        }
    }

    /// Takes what comes next and records it, in one step; returns whether more can follow. Every other subscription is
    /// read by the delivery, the others take some at once.
    fn take(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut subscription = lock(&self.subscription);
        let Some(subscription) = subscription.as_mut() else {
            return Poll::Ready(false);
        };
        let looked = lock(&self.ledger).tick();
        let mut taken = Vec::new();
        let polled = match self.stream.0 % 2 {
            0 => subscription
                .poll_recv(cx)
                .map(|delivery| taken.extend(delivery)),
            _ => subscription
                .poll_recv_many(cx, &mut taken, AT_ONCE)
                .map(drop),
        };
        if polled.is_pending() {
            self.idle.store(looked, Ordering::Release);
            return Poll::Pending;
        }
        let more = !taken.is_empty();
        let mut ledger = lock(&self.ledger);
        for delivery in taken {
            ledger.received(self.stream, looked, self.item(delivery));
        }
        Poll::Ready(more)
    }

    fn item(&self, delivery: Delivery) -> Item {
        match delivery {
            Delivery::Gap(gap) => Item::Gap(gap),
            Delivery::Message(message) => Item::Message(Arrival {
                id: MessageId::from_payload(message.payload()),
                sender: message.publisher(),
                topic: self.names.topic(message.channel()),
            }),
        }
    }
}
