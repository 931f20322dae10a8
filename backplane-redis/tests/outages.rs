//! The server, or one connection to it, goes away.

mod common;

use std::pin::pin;
use std::time::{Duration, Instant};

use backplane_core::{
    Backplane, ConnectionState, Delivery, DisconnectKind, Event, NotSent, PublishErrorKind, Unknown,
};
use tokio::time::timeout;

use crate::common::{LONG, RedisServer, builder, channel, connect, message, next, subscribe};

#[tokio::test]
async fn a_node_outlives_its_server() {
    let mut server = RedisServer::start();
    let node = connect(server.url()).await;
    let mut events = node.events();
    let mut news = subscribe(&node, "news").await;

    server.kill();
    let killed = Instant::now();
    let down = timeout(LONG, events.recv()).await.unwrap().unwrap();
    assert!(
        killed.elapsed() < Duration::from_secs(1),
        "{:?}",
        killed.elapsed()
    );
    let Event::State(ConnectionState::Disconnected { reason }) = down else {
        panic!("{down:?}");
    };
    assert_eq!(reason.kind(), DisconnectKind::Lost);
    assert!(reason.to_string().contains(&server.address()), "{reason}");
    let error = node
        .publish(&channel("news"), "lost".into())
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        PublishErrorKind::NotSent(NotSent::Unavailable)
    );

    server.restart();
    let up = timeout(LONG, node.watch().connected()).await.unwrap();
    assert_eq!(up, Some(2));
    node.publish(&channel("news"), "hello".into())
        .await
        .unwrap();
    assert!(matches!(next(&mut news).await, Delivery::Gap(_)));
    assert_eq!(message(&mut news).await, "hello");
}

#[tokio::test]
async fn the_loss_of_either_connection_alone_is_an_outage_that_ends() {
    let server = RedisServer::start();
    let node = connect(server.url()).await;
    let mut news = subscribe(&node, "news").await;
    for (end, generation) in [("-pub", 2), ("-sub", 3)] {
        let mut events = node.events();
        let ids = server.clients(end);
        assert_eq!(ids.len(), 1);
        let killed = Instant::now();
        server.command(&format!("CLIENT KILL ID {}", ids[0]));
        let down = timeout(LONG, events.recv()).await.unwrap().unwrap();
        assert!(
            matches!(down, Event::State(ConnectionState::Disconnected { .. })),
            "{down:?}"
        );
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{end}: {:?}",
            killed.elapsed()
        );

        let is_back = |state: &ConnectionState| *state == ConnectionState::Connected { generation };
        timeout(LONG, node.watch().wait_for(is_back))
            .await
            .unwrap()
            .unwrap();
        node.publish(&channel("news"), end.into()).await.unwrap();
        assert!(matches!(next(&mut news).await, Delivery::Gap(_)));
        assert_eq!(message(&mut news).await, end);
    }
    for end in ["-pub", "-sub"] {
        assert_eq!(server.clients(end).len(), 1, "{end}");
    }
}

#[tokio::test]
async fn a_frozen_server_is_noticed_and_forgiven() {
    let server = RedisServer::start();
    let node = builder(server.url())
        .heartbeat_interval(Duration::from_millis(100))
        .heartbeat_timeout(Duration::from_millis(200))
        .connect_timeout(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let mut events = node.events();
    server.signal("-STOP");
    let down = timeout(LONG, events.recv()).await.unwrap().unwrap();
    let Event::State(ConnectionState::Disconnected { reason }) = down else {
        panic!("{down:?}");
    };
    assert_eq!(reason.kind(), DisconnectKind::Unresponsive, "{reason}");
    server.signal("-CONT");
    let up = timeout(LONG, node.watch().wait_for(ConnectionState::is_connected)).await;
    assert!(up.unwrap().is_some());
    node.health().await.unwrap();
}

#[tokio::test]
async fn a_frozen_server_does_not_hold_up_close() {
    let server = RedisServer::start();
    let node = connect(server.url()).await;
    server.signal("-STOP");
    let started = Instant::now();
    node.close().await;
    let took = started.elapsed();
    server.signal("-CONT");
    assert!(took < Duration::from_millis(450), "{took:?}");
}

#[tokio::test]
async fn a_publish_that_was_on_its_way_has_an_unknown_outcome() {
    let mut server = RedisServer::start();
    let node = connect(server.url()).await;
    let news = channel("news");
    server.signal("-STOP");
    let mut publish = pin!(node.publish(&news, "on its way".into()));
    // Polled once, it has left its caller.
    tokio::select! {
        biased;
        outcome = &mut publish => panic!("{outcome:?}"),
        () = std::future::ready(()) => {}
    }
    server.kill();
    let error = timeout(LONG, publish).await.unwrap().unwrap_err();
    assert_eq!(
        error.kind(),
        PublishErrorKind::Unknown(Unknown::ConnectionLost),
        "{error}"
    );
}
