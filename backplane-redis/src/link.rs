//! One live pair of connections: [`RedisLink`].

use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{BrokerChannel, Frame, Inbound, Link, LinkError, LinkPublishError};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, RedisError, RedisWrite, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::fault;

/// How long [`RedisLink::close`] waits for a server that does not answer. Less than the engine does.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// One live link of a node: a connection that publishes, and one that subscribes and receives.
///
/// They are two because Redis disconnects a subscriber that reads too slowly, which must not take the
/// publishing along unnoticed, and because a burst of messages must not delay the answers to publishes. The
/// loss of either ends the link (rule R9).
pub struct RedisLink {
    endpoint: String,
    /// `None` once it is closed.
    ends: RwLock<Option<Ends>>,
}

struct Ends {
    publish: End,
    subscribe: End,
}

/// One connection.
pub(crate) struct End {
    pub(crate) connection: MultiplexedConnection,
    /// Closed as soon as the connection's task has ended, for whatever reason.
    pub(crate) over: watch::Receiver<()>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Publish,
    Subscribe,
}

impl RedisLink {
    pub(crate) const fn new(endpoint: String, publish: End, subscribe: End) -> Self {
        Self {
            endpoint,
            ends: RwLock::new(Some(Ends { publish, subscribe })),
        }
    }

    /// A handle on a connection that is not known to be dead.
    fn connection(&self, role: Role) -> Result<MultiplexedConnection, LinkError> {
        let ends = self.ends.read().unwrap_or_else(PoisonError::into_inner);
        let end = ends.as_ref().map(|ends| match role {
            Role::Publish => &ends.publish,
            Role::Subscribe => &ends.subscribe,
        });
        match end {
            Some(end) if end.over.has_changed().is_ok() => Ok(end.connection.clone()),
            _ => Err(fault::lost(format_args!(
                "the connection to {} is closed",
                self.endpoint
            ))),
        }
    }

    /// A round trip. An error reply, such as `NOPERM`, is as good as any other.
    async fn round_trip(&self, role: Role) -> Result<(), LinkError> {
        let mut connection = self.connection(role)?;
        match request(&mut connection, &redis::cmd("PING")).await {
            Err(error) if !fault::is_reply(&error) => {
                Err(fault::on_request(&self.endpoint, "PING", &error))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Link for RedisLink {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        // Nothing was handed over yet: this failure is certain.
        let mut connection = self
            .connection(Role::Publish)
            .map_err(LinkPublishError::NotSent)?;
        let mut command = Cmd::with_capacity(
            3,
            "PUBLISH".len() + channel.as_bytes().len() + frame.encoded_len(),
        );
        command.arg("PUBLISH").arg(channel.as_bytes());
        // Into a command in memory: nothing can fail.
        let _ = frame.write_to(&mut command.writer_for_next_arg());
        match request(&mut connection, &command).await {
            Ok(_) => Ok(()),
            Err(error) => Err(fault::on_publish(&self.endpoint, &error)),
        }
    }

    async fn subscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        if channels.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = channels.iter().map(BrokerChannel::as_str).collect();
        let mut connection = self.connection(Role::Subscribe)?;
        connection
            .subscribe(names)
            .await
            .map_err(|error| fault::on_request(&self.endpoint, "SUBSCRIBE", &error))
    }

    async fn unsubscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        // Without names it would end all subscriptions.
        if channels.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = channels.iter().map(BrokerChannel::as_str).collect();
        let mut connection = self.connection(Role::Subscribe)?;
        connection
            .unsubscribe(names)
            .await
            .map_err(|error| fault::on_request(&self.endpoint, "UNSUBSCRIBE", &error))
    }

    /// Redis answers the commands and sends the messages of one connection in one order, and its task hands over a
    /// message before it looks at what follows: the answer proves that all messages before it were
    /// handed over.
    async fn ping(&self) -> Result<(), LinkError> {
        tokio::try_join!(
            self.round_trip(Role::Subscribe),
            self.round_trip(Role::Publish)
        )?;
        Ok(())
    }

    /// Redis forgets a connection before it serves anyone else after the answer to QUIT. A server that does not
    /// answer in 200 ms loses the connections all the same.
    async fn close(&self) {
        let ends = self
            .ends
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Ends {
            mut publish,
            mut subscribe,
        }) = ends
        else {
            return;
        };
        let quit = redis::cmd("QUIT");
        let _ = timeout(CLOSE_PATIENCE, async {
            tokio::join!(
                request(&mut publish.connection, &quit),
                request(&mut subscribe.connection, &quit)
            )
        })
        .await;
        // The last handle of a connection takes its task, and so its socket, along.
        let End {
            connection,
            over: mut publish,
        } = publish;
        drop(connection);
        let End {
            connection,
            over: mut subscribe,
        } = subscribe;
        drop(connection);
        let _ = timeout(CLOSE_PATIENCE, async {
            tokio::join!(publish.changed(), subscribe.changed())
        })
        .await;
    }
}

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLink")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "pub",
            Self::Subscribe => "sub",
        })
    }
}

async fn request(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<Value, RedisError> {
    connection
        .send_packed_command(command)
        .await?
        .extract_error()
}

/// Takes what a server pushes, on the task of the connection: it must not block.
///
/// The task owns it, so it is also dropped with the task, and tells the end of those connections whose end the
/// client library does not report, such as after a failed write.
pub(crate) struct PushReceiver {
    role: Role,
    endpoint: String,
    inbound: Inbound,
    _alive: watch::Sender<()>,
}

impl PushReceiver {
    pub(crate) const fn new(
        role: Role,
        endpoint: String,
        inbound: Inbound,
        alive: watch::Sender<()>,
    ) -> Self {
        Self {
            role,
            endpoint,
            inbound,
            _alive: alive,
        }
    }

    pub(crate) fn take(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message => {
                let mut data = push.data.into_iter();
                if let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
                    (data.next(), data.next())
                {
                    // This takes the payload over, without a copy.
                    self.inbound.deliver_bytes(&channel, &Bytes::from(payload));
                }
            }
            PushKind::Disconnection => self.lost("was closed by the other side"),
            _ => {}
        }
    }

    fn lost(&self, how: &str) {
        let role = match self.role {
            Role::Publish => "publishing",
            Role::Subscribe => "subscribing",
        };
        let endpoint = &self.endpoint;
        self.inbound.lost(fault::lost(format_args!(
            "the {role} connection to {endpoint} {how}"
        )));
    }
}

impl Drop for PushReceiver {
    fn drop(&mut self) {
        self.lost("ended");
    }
}
