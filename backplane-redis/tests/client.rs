//! What this crate relies on in the Redis client library, beyond its documentation.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::common::{LONG, RedisServer};

struct Received {
    messages: Weak<AtomicUsize>,
    connection: MultiplexedConnection,
    over: watch::Receiver<()>,
}

/// A connection that counts its messages.
async fn open(server: &RedisServer) -> Received {
    let client = redis::Client::open(format!("{}?protocol=resp3", server.url())).unwrap();
    let counter = Arc::new(AtomicUsize::new(0));
    let messages = Arc::downgrade(&counter);
    let (alive, over) = watch::channel(());
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            let _alive = &alive;
            if push.kind == PushKind::Message {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), SendError>(())
        });
    let connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap();
    Received {
        messages,
        connection,
        over,
    }
}

fn count(received: &Received) -> usize {
    received
        .messages
        .upgrade()
        .map_or(0, |messages| messages.load(Ordering::Relaxed))
}

async fn ping(connection: &mut MultiplexedConnection) {
    redis::cmd("PING").exec_async(connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_comes_after_every_message_that_was_sent_before_it() {
    let server = RedisServer::start();
    let (mut publisher, mut subscriber) = (open(&server).await, open(&server).await);
    subscriber.connection.subscribe("c").await.unwrap();
    let mut sent = 0;
    for burst in 1..200_usize {
        let mut pipe = redis::pipe();
        for _ in 0..burst {
            pipe.cmd("PUBLISH").arg("c").arg("message").ignore();
        }
        let _: () = pipe.query_async(&mut publisher.connection).await.unwrap();
        sent += burst;
        ping(&mut subscriber.connection).await;
        assert_eq!(count(&subscriber), sent);
    }
}

#[tokio::test]
async fn a_subscribe_waits_for_all_its_confirmations_and_a_refused_one_for_none() {
    let server = RedisServer::start();
    server.command("ACL SETUSER default resetchannels &c*");
    let mut subscriber = open(&server).await;
    let names: Vec<String> = (0..1000).map(|i| format!("c{i}")).collect();
    subscriber.connection.subscribe(&names).await.unwrap();
    assert!(server.command("PUBSUB NUMSUB c999").contains("int(1)"));

    let error = subscriber
        .connection
        .subscribe(&["c1", "x", "c2"])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("NOPERM"));
    // Nothing is left over to answer the wrong request.
    let pong: String = redis::cmd("PING")
        .query_async(&mut subscriber.connection)
        .await
        .unwrap();
    assert_eq!(pong, "PONG");
    subscriber.connection.unsubscribe(&names).await.unwrap();
    assert!(server.command("PUBSUB NUMSUB c0").contains("int(0)"));
}

#[tokio::test]
async fn the_last_handle_takes_the_connection_and_its_receiver_along() {
    let server = RedisServer::start();
    let Received {
        messages,
        connection,
        mut over,
    } = open(&server).await;
    let other = connection.clone();
    drop(connection);
    ping(&mut other.clone()).await;
    assert!(over.has_changed().is_ok());
    drop(other);
    assert!(timeout(LONG, over.changed()).await.unwrap().is_err());
    assert!(messages.upgrade().is_none());
}

#[tokio::test]
async fn the_receiver_ends_with_the_connection() {
    let mut server = RedisServer::start();
    let mut received = open(&server).await;
    server.kill();
    assert!(
        timeout(LONG, received.over.changed())
            .await
            .unwrap()
            .is_err()
    );
}
