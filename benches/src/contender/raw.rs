//! The `redis` crate as an application would use it without a backplane: [`Raw`].

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, SendError};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisConnectionInfo, Value,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Contender, PublishMany, Publisher};
use crate::arrivals::Arrivals;
use crate::error::Result;

/// Requests that may wait for the connection's task, as in `backplane-redis`.
const PIPELINE_BUFFER: usize = 1024;

/// What the closure may hand over before its task has read: more than is ever under way.
const QUEUE: usize = 1 << 20;

/// Commands in a pipeline, where many messages are published at once. Longer ones are no faster.
const PIPELINE: usize = 512;

/// In which form it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `PubSubStream`, read by a task.
    Stream,
    /// A push closure that hands over to a task, through a bounded tokio channel.
    ClosureToTask,
    /// A push closure that does all the work itself.
    Closure,
}

impl Form {
    /// The name of the contender in this form.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "raw stream",
            Self::ClosureToTask => "raw push to task",
            Self::Closure => "raw push",
        }
    }
}

/// The `redis` crate, set up well: RESP3, no delay, no timers, one connection that publishes and one that receives.
#[derive(Debug)]
pub struct Raw {
    form: Form,
    arrivals: Arc<Arrivals>,
    publish: MultiplexedConnection,
    /// Keeps the push connection.
    _subscribe: Option<MultiplexedConnection>,
    _reader: JoinSet<()>,
}

/// One publisher of [`Raw`].
#[derive(Clone, Debug)]
pub struct RawPublisher {
    connection: MultiplexedConnection,
    channel: &'static str,
}

impl Raw {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// [`Error::Redis`](crate::error::Error::Redis).
    pub async fn open(url: &str, form: Form) -> Result<Self> {
        let client = client(url)?;
        let arrivals = Arc::new(Arrivals::new(form.name()));
        let publish = client
            .get_multiplexed_async_connection_with_config(&config())
            .await?;
        let mut reader = JoinSet::new();
        let subscribe = match form {
            Form::Stream => {
                let (mut sink, mut stream) = client.get_async_pubsub().await?.split();
                sink.subscribe(form.name()).await?;
                let arrivals = Arc::clone(&arrivals);
                reader.spawn(async move {
                    while let Some(message) = stream.next().await {
                        arrivals.take(message.get_payload_bytes());
                    }
                    arrivals.fail("the stream ended");
                    drop(sink);
                });
                None
            }
            Form::ClosureToTask => {
                let (sender, mut receiver) = mpsc::channel(QUEUE);
                let of_task = Arc::clone(&arrivals);
                reader.spawn(async move {
                    while let Some(payload) = receiver.recv().await {
                        let payload: Bytes = payload;
                        of_task.take(&payload);
                    }
                });
                let arrivals = Arc::clone(&arrivals);
                let push = move |payload: Vec<u8>| {
                    if sender.try_send(Bytes::from(payload)).is_err() {
                        arrivals.fail("the queue of the push closure overflowed");
                    }
                };
                Some(subscribed(&client, form.name(), push).await?)
            }
            Form::Closure => {
                let arrivals = Arc::clone(&arrivals);
                let push = move |payload: Vec<u8>| arrivals.take(&payload);
                Some(subscribed(&client, form.name(), push).await?)
            }
        };
        Ok(Self {
            form,
            arrivals,
            publish,
            _subscribe: subscribe,
            _reader: reader,
        })
    }
}

impl Contender for Raw {
    type Publisher = RawPublisher;

    fn name(&self) -> &'static str {
        self.form.name()
    }

    fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }

    fn publisher(&self) -> RawPublisher {
        RawPublisher {
            connection: self.publish.clone(),
            channel: self.form.name(),
        }
    }
}

impl Publisher for RawPublisher {
    async fn publish(&mut self, payload: Bytes) -> Result<()> {
        let command = self.command(&payload);
        self.connection.send_packed_command(&command).await?;
        Ok(())
    }
}

impl PublishMany for RawPublisher {
    /// In pipelines of [`PIPELINE`] commands.
    async fn publish_many(&mut self, payloads: Vec<Bytes>) -> Result<()> {
        for chunk in payloads.chunks(PIPELINE) {
            let mut pipe = redis::Pipeline::with_capacity(chunk.len());
            for payload in chunk {
                pipe.add_command(self.command(payload));
            }
            self.connection
                .send_packed_commands(&pipe, 0, chunk.len())
                .await?;
        }
        Ok(())
    }
}

impl RawPublisher {
    fn command(&self, payload: &Bytes) -> Cmd {
        let size = "PUBLISH".len() + self.channel.len() + payload.len();
        let mut command = Cmd::with_capacity(3, size);
        command.arg("PUBLISH").arg(self.channel).arg(&payload[..]);
        command
    }
}

fn client(url: &str) -> Result<Client> {
    let redis = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    let info = url
        .into_connection_info()?
        .set_tcp_settings(TcpSettings::default().set_nodelay(true))
        .set_redis_settings(redis);
    Ok(Client::open(info)?)
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_pipeline_buffer_size(PIPELINE_BUFFER)
}

/// A connection that hands the payloads of this channel to `push`.
async fn subscribed(
    client: &Client,
    channel: &str,
    push: impl Fn(Vec<u8>) + Send + Sync + 'static,
) -> Result<MultiplexedConnection> {
    let config = config().set_push_sender(move |info: PushInfo| {
        if info.kind == PushKind::Message
            && let Some(Value::BulkString(payload)) = info.data.into_iter().nth(1)
        {
            push(payload);
        }
        Ok::<(), SendError>(())
    });
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    connection.subscribe(channel).await?;
    Ok(connection)
}
