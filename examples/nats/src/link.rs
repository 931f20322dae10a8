//! One connection: [`NatsLink`].

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::message::OutboundMessage;
use async_nats::{Client, PublishErrorKind, Subject, Subscriber};
use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Frame, Inbound, Link, LinkError, LinkErrorKind, LinkPublishError,
};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};
use futures_util::{FutureExt, Sink};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, unconstrained};

use crate::subject::subject;

/// How many new subscriptions wait for the reader at most.
const NEW_FEEDS: usize = 256;

const ENDED: &str = "the connection ended";

/// One connection of a node.
///
/// Core NATS confirms nothing by itself, and the client's `flush` only empties its own buffer. So every link is
/// subscribed to a subject of its own, and publishes there after each request: a server takes the requests of one
/// connection one by one, so the echo proves that it has done all that went before.
pub struct NatsLink {
    address: String,
    client: Client,
    echo: Subject,
    waiting: Waiting,
    /// What ends the subscription of each channel.
    held: Mutex<HashMap<BrokerChannel, oneshot::Sender<oneshot::Sender<()>>>>,
    feeds: mpsc::Sender<Feed>,
    // Ends the reader when it is dropped.
    _reader: JoinSet<()>,
}

/// Those who wait for an echo, in the order in which the echoes were sent; `None` when none will come any more.
type Waiting = Arc<Mutex<Option<VecDeque<oneshot::Sender<()>>>>>;

/// What arrives for one channel.
type Feed = BoxStream<'static, (BrokerChannel, Bytes)>;

impl NatsLink {
    pub(crate) async fn new(
        client: Client,
        address: String,
        inbound: Inbound,
    ) -> Result<Self, LinkError> {
        let echo = Subject::from(client.new_inbox());
        let echoes = client.subscribe(echo.clone()).await;
        let echoes = echoes.map_err(|error| lost(&address, error))?;
        let waiting = Arc::new(Mutex::new(Some(VecDeque::new())));
        let (feeds, new_feeds) = mpsc::channel(NEW_FEEDS);
        let mut reader = JoinSet::new();
        reader.spawn(read(inbound, echoes, Arc::clone(&waiting), new_feeds));
        let link = Self {
            address,
            client,
            echo,
            waiting,
            held: Mutex::default(),
            feeds,
            _reader: reader,
        };
        link.round_trip().await?;
        Ok(link)
    }

    /// Returns when the server has done everything that this link has asked for before, and everything that it had
    /// sent by then was handed over.
    async fn round_trip(&self) -> Result<(), LinkError> {
        let (done, echoed) = oneshot::channel();
        let mut client = self.client.clone();
        let mut sink = std::pin::Pin::new(&mut client);
        poll_fn(|cx| sink.as_mut().poll_ready(cx))
            .await
            .map_err(|error| self.lost(error))?;
        {
            // Together, so that the echoes come back in the order of those who wait.
            let mut waiting = lock(&self.waiting);
            let waiting = waiting.as_mut().ok_or_else(|| self.lost(ENDED))?;
            let echo = OutboundMessage {
                subject: self.echo.clone(),
                payload: Bytes::new(),
                reply: None,
                headers: None,
            };
            sink.start_send(echo).map_err(|error| self.lost(error))?;
            waiting.push_back(done);
        }
        echoed.await.map_err(|_| self.lost(ENDED))
    }

    fn lost(&self, how: impl fmt::Display) -> LinkError {
        lost(&self.address, how)
    }
}

#[async_trait]
impl Link for NatsLink {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        let handed_over = self.client.publish(subject(channel), frame.encode()).await;
        if let Err(error) = handed_over {
            // Every error of this call means that the client did not take the message.
            let kind = match error.kind() {
                PublishErrorKind::Send => LinkErrorKind::Lost,
                _ => LinkErrorKind::Refused,
            };
            let error = LinkError::new(kind, format_args!("{}: {error}", self.address));
            return Err(LinkPublishError::NotSent(error));
        }
        // From here on nobody can say whether it left.
        self.round_trip().await.map_err(LinkPublishError::Unknown)
    }

    async fn subscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        for channel in channels {
            // Twice would be two copies of every message.
            if lock(&self.held).contains_key(channel) {
                continue;
            }
            let place = self.feeds.reserve().await;
            let place = place.map_err(|_| self.lost(ENDED))?;
            let subscriber = self.client.subscribe(subject(channel)).await;
            let subscriber = subscriber.map_err(|error| self.lost(error))?;
            // No await between these: a dropped future leaves both or neither.
            let (stop, stopped) = oneshot::channel();
            lock(&self.held).insert(channel.clone(), stop);
            place.send(feed(channel.clone(), subscriber, stopped));
        }
        self.round_trip().await
    }

    async fn unsubscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        let mut ending = Vec::with_capacity(channels.len());
        for channel in channels {
            let (done, ended) = oneshot::channel();
            if let Some(stop) = lock(&self.held).remove(channel) {
                stop.send(done).map_err(|_| self.lost(ENDED))?;
                ending.push(ended);
            }
        }
        for ended in ending {
            ended.await.map_err(|_| self.lost(ENDED))?;
        }
        self.round_trip().await
    }

    async fn ping(&self) -> Result<(), LinkError> {
        self.round_trip().await
    }

    /// Ends every subscription, then the connection.
    async fn close(&self) {
        if self.client.drain().await.is_ok() {
            // The reader, and with it its end of this, goes when the connection is closed.
            self.feeds.closed().await;
        }
    }
}

/// The messages of a subscription, until it is stopped.
fn feed(
    channel: BrokerChannel,
    subscriber: Subscriber,
    stopped: oneshot::Receiver<oneshot::Sender<()>>,
) -> Feed {
    stream::unfold(
        (subscriber, stopped),
        move |(mut subscriber, mut stopped)| {
            let channel = channel.clone();
            async move {
                tokio::select! {
                    biased;
                    done = &mut stopped => {
                        // Queued before the echo that the one who waits sends next. If the connection is gone, so is
                        // the subscription.
                        let _ = subscriber.unsubscribe().await;
                        let _ = done.map(|done| done.send(()));
                        None
                    }
                    message = subscriber.next() => {
                        message.map(|message| ((channel, message.payload), (subscriber, stopped)))
                    }
                }
            }
        },
    )
    .boxed()
}

/// Hands over what arrives, until the connection ends.
async fn read(
    inbound: Inbound,
    mut echoes: Subscriber,
    waiting: Waiting,
    mut new_feeds: mpsc::Receiver<Feed>,
) {
    let mut feeds = SelectAll::<Feed>::new();
    loop {
        tokio::select! {
            Some((channel, bytes)) = feeds.next() => {
                inbound.deliver_bytes(channel.as_bytes(), &bytes);
            }
            Some(feed) = new_feeds.recv() => feeds.push(feed),
            echo = echoes.next() => {
                if echo.is_none() {
                    // Whoever waits for an echo learns that none will come.
                    lock(&waiting).take();
                    return;
                }
                while let Ok(feed) = new_feeds.try_recv() {
                    feeds.push(feed);
                }
                // What the server had sent before the echo is in the queues of its subscriptions by now. Without
                // a limit to this task's turn, which would make a full queue look empty.
                while let Some(Some((channel, bytes))) = unconstrained(feeds.next()).now_or_never() {
                    inbound.deliver_bytes(channel.as_bytes(), &bytes);
                }
                let done = lock(&waiting).as_mut().and_then(VecDeque::pop_front);
                let _ = done.map(|done| done.send(()));
            }
        }
    }
}

fn lost(address: &str, how: impl fmt::Display) -> LinkError {
    LinkError::new(LinkErrorKind::Lost, format_args!("{address}: {how}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for NatsLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsLink")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
