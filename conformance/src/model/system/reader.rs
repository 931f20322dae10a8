//! Reads a subscription and records what it gets: [`Reader`].

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use backplane_core::{Delivery, Subscription, SubscriptionHandle};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Names, SharedLedger, lock};
use crate::model::ledger::{Arrival, Item, MessageId, PublisherId, StreamId};

type Shared = Arc<Mutex<Option<Subscription>>>;

/// A subscription and the task that reads it. Dropping it drops the subscription.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) stream: StreamId,
    pub(super) node: PublisherId,
    pub(super) handle: SubscriptionHandle,
    subscription: Shared,
    paused: watch::Sender<bool>,
    task: JoinHandle<()>,
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
        let task = tokio::spawn(read(
            stream,
            Arc::clone(&subscription),
            Arc::clone(ledger),
            Arc::clone(names),
            watch,
        ));
        Self {
            stream,
            node,
            handle,
            subscription,
            paused,
            task,
        }
    }

    pub(super) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
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

async fn read(
    stream: StreamId,
    subscription: Shared,
    ledger: SharedLedger,
    names: Arc<Names>,
    mut paused: watch::Receiver<bool>,
) {
    loop {
        if paused.wait_for(|paused| !*paused).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            changed = paused.changed() => if changed.is_err() {
                return;
            },
            more = poll_fn(|cx| take(stream, &subscription, &ledger, &names, cx)) => if !more {
                return;
            },
        }
    }
}

/// Takes the next delivery and records it, in one step; returns whether another one can follow.
fn take(
    stream: StreamId,
    subscription: &Shared,
    ledger: &SharedLedger,
    names: &Names,
    cx: &mut Context<'_>,
) -> Poll<bool> {
    let mut subscription = lock(subscription);
    let Some(subscription) = subscription.as_mut() else {
        return Poll::Ready(false);
    };
    let looked = lock(ledger).tick();
    let item = match subscription.poll_recv(cx) {
        Poll::Pending => return Poll::Pending,
        Poll::Ready(None) => return Poll::Ready(false),
        Poll::Ready(Some(Delivery::Gap(gap))) => Item::Gap(gap),
        Poll::Ready(Some(Delivery::Message(message))) => Item::Message(Arrival {
            id: MessageId::from_payload(message.payload()),
            sender: message.publisher(),
            topic: names.topic(message.channel()),
        }),
    };
    lock(ledger).received(stream, looked, item);
    Poll::Ready(true)
}
