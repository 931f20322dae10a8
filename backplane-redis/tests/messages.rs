//! Messages pass through a real server, whatever the way to it.

mod common;

use backplane_core::{Backplane, NotSent, PublishErrorKind};
use backplane_redis::RedisDriver;
use bytes::Bytes;

use crate::common::{RedisServer, builder, channel, connect, message, subscribe};

#[tokio::test]
async fn a_message_reaches_every_node_of_the_prefix_once_and_in_order() {
    let server = RedisServer::start();
    let (one, two) = (connect(server.url()).await, connect(server.url()).await);
    let (mut at_one, mut at_two) = (subscribe(&one, "news").await, subscribe(&two, "news").await);
    for i in 0..1000_u32 {
        one.publish(&channel("news"), i.to_be_bytes().to_vec().into())
            .await
            .unwrap();
    }
    for subscription in [&mut at_one, &mut at_two] {
        for i in 0..1000_u32 {
            assert_eq!(message(subscription).await, i.to_be_bytes().to_vec());
        }
        assert!(subscription.try_recv().is_err());
    }
}

#[tokio::test]
async fn the_largest_payload_passes_and_one_byte_more_is_refused() {
    let server = RedisServer::start();
    let node = connect(server.url()).await;
    let mut news = subscribe(&node, "news").await;
    let largest = Bytes::from(vec![0xFF; RedisDriver::MAX_PAYLOAD]);
    node.publish(&channel("news"), largest.clone())
        .await
        .unwrap();
    assert_eq!(message(&mut news).await, largest);

    let too_large = Bytes::from(vec![0; RedisDriver::MAX_PAYLOAD + 1]);
    let error = node.publish(&channel("news"), too_large).await.unwrap_err();
    assert!(matches!(
        error.kind(),
        PublishErrorKind::NotSent(NotSent::TooLarge { .. })
    ));
    node.publish(&channel("news"), Bytes::new()).await.unwrap();
    assert_eq!(message(&mut news).await, Bytes::new());
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_works_like_tcp() {
    let server = RedisServer::start_with(&["--unixsocket", "{dir}/redis.sock"]);
    server.command("ACL SETUSER al@ce on >p&w allchannels +@all");
    let socket = server.socket().display().to_string();
    let one = connect(format!("unix://{socket}")).await;
    let two = connect(format!(
        "redis+unix://{socket}?user=al%40ce&pass=p%26w&db=3"
    ))
    .await;
    let mut news = subscribe(&two, "news").await;
    one.publish(&channel("news"), "hello".into()).await.unwrap();
    assert_eq!(message(&mut news).await, "hello");
}

#[tokio::test]
async fn the_database_number_does_not_isolate() {
    let server = RedisServer::start();
    let (one, two) = (
        connect(server.url()).await,
        connect(server.url() + "/5").await,
    );
    let mut news = subscribe(&two, "news").await;
    one.publish(&channel("news"), "hello".into()).await.unwrap();
    assert_eq!(message(&mut news).await, "hello");
    assert_eq!(server.command("CLIENT LIST").matches(" db=5 ").count(), 2);
}

#[tokio::test]
async fn the_connections_have_names_and_nothing_is_left_of_them_once_close_returns() {
    let server = RedisServer::start();
    let node = builder(server.url())
        .client_name("web")
        .connect()
        .await
        .unwrap();
    let id = node.node_id();
    for end in ["pub", "sub"] {
        assert_eq!(server.clients(&format!("web-{id}-{end}")).len(), 1, "{end}");
    }
    let _news = subscribe(&node, "news").await;
    assert!(server.command("PUBSUB CHANNELS").contains("shop:news"));
    node.close().await;
    assert!(!server.command("CLIENT LIST").contains("web-"));
    assert!(!server.command("PUBSUB CHANNELS").contains("shop"));
}

#[tokio::test]
async fn a_lazy_node_attaches_when_the_server_appears() {
    let mut server = RedisServer::start();
    server.kill();
    let node = builder(server.url()).connect_lazy().unwrap();
    assert!(!node.state().is_connected());
    server.restart();
    assert_eq!(node.watch().connected().await, Some(1));
    let mut news = subscribe(&node, "news").await;
    node.publish(&channel("news"), "hello".into())
        .await
        .unwrap();
    assert_eq!(message(&mut news).await, "hello");
}
