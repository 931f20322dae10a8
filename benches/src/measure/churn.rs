//! Very many channels: subscribing to them, and again after an outage.

use std::time::{Duration, Instant};

use backplane_core::{Backplane, Channel, ConnectionState, Subscribe, Subscription};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::contender::{REDIS, redis_node};
use crate::error::{Error, Result};
use crate::server::OwnServer;

/// How many subscribes are under way at once, where each channel is a subscription of its own.
const AT_ONCE: usize = 1024;

/// How long a subscribe or a resubscribe may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What it took, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// All channels in one subscription.
    pub subscribe: f64,
    /// From the kill of all connections until the node is attached with every channel in force.
    pub resubscribe: f64,
    /// Each channel a subscription of its own.
    pub subscribe_each: f64,
    /// The raw crate: one `SUBSCRIBE` of all.
    pub raw_subscribe: f64,
}

/// Subscribes to this many channels, breaks every connection of the server, and waits for all to be back. What the
/// node says is checked at the server. The server must have no other clients.
///
/// # Errors
/// Whatever subscribing fails with; [`Error::TooLong`].
pub async fn churn(server: &OwnServer, count: usize) -> Result<Churn> {
    let names = names(count)?;

    let node = redis_node(&server.url()).await?;
    let begin = Instant::now();
    let all = node.subscribe(Subscribe::to(names.clone())).await?;
    let subscribe = begin.elapsed().as_secs_f64();
    server.wait_for_channels(count, false).await?;

    let mut state = node.watch();
    let ConnectionState::Connected { generation: before } = state.current() else {
        return Err(Error::Receiver {
            contender: REDIS,
            what: "the node is not attached".to_owned(),
        });
    };
    let begin = Instant::now();
    server.kill_connections().await?;
    let is_back = |state: &ConnectionState| matches!(state, ConnectionState::Connected { generation } if *generation > before);
    let back = tokio::time::timeout(LIMIT, state.wait_for(is_back));
    if back.await.is_err() {
        return Err(Error::TooLong {
            what: "the resubscribe".to_owned(),
            within: LIMIT,
        });
    }
    let resubscribe = begin.elapsed().as_secs_f64();
    server.wait_for_channels(count, false).await?;
    drop(all);
    server.wait_for_channels(AT_ONCE, true).await?;

    let begin = Instant::now();
    let each = subscribe_each(&node, &names).await?;
    let subscribe_each = begin.elapsed().as_secs_f64();
    server.wait_for_channels(count, false).await?;
    drop(each);
    node.close().await;
    server.wait_for_channels(0, true).await?;

    let raw_subscribe = raw_subscribe(server, &names).await?;
    server.wait_for_channels(0, true).await?;
    Ok(Churn {
        subscribe,
        resubscribe,
        subscribe_each,
        raw_subscribe,
    })
}

/// As many channels, of 14 bytes each.
///
/// # Errors
/// None: the names are valid.
pub fn names(count: usize) -> Result<Vec<Channel>> {
    (0..count)
        .map(|n| Ok(Channel::new(format!("channel-{n:06}"))?))
        .collect()
}

/// A subscription for each of these channels, many at once.
///
/// # Errors
/// The first that failed.
pub async fn subscribe_each(node: &impl Backplane, names: &[Channel]) -> Result<Vec<Subscription>> {
    let subscribes = names
        .iter()
        .map(|name| node.subscribe(Subscribe::to([name.clone()])));
    let mut all = Vec::with_capacity(names.len());
    let mut done = stream::iter(subscribes).buffer_unordered(AT_ONCE);
    while let Some(subscription) = done.try_next().await? {
        all.push(subscription);
    }
    Ok(all)
}

async fn raw_subscribe(server: &OwnServer, names: &[Channel]) -> Result<f64> {
    let client = redis::Client::open(format!("{}?protocol=resp3", server.url()))?;
    let config = redis::AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_push_sender(|_| Ok::<(), redis::aio::SendError>(()));
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let names: Vec<&str> = names.iter().map(Channel::as_str).collect();
    let begin = Instant::now();
    connection.subscribe(names).await?;
    Ok(begin.elapsed().as_secs_f64())
}
