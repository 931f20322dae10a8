//! A user of the server's ACL: what it needs, and what happens where it may not go.

mod common;

use backplane_core::{Backplane, NotSent, PublishErrorKind, Subscribe, SubscribeErrorKind};

use crate::common::{RedisServer, channel, connect, message, subscribe};

#[tokio::test]
async fn the_documented_permissions_are_enough() {
    let server = RedisServer::start();
    server.command(
        "ACL SETUSER shop on >p4ss resetchannels &shop:* &shop!* +publish +subscribe +unsubscribe +ping",
    );
    let node = connect(format!("redis://shop:p4ss@{}", server.address())).await;
    let mut news = subscribe(&node, "news").await;
    let also = subscribe(&node, "news").await;
    node.publish(&channel("news"), "hello".into())
        .await
        .unwrap();
    assert_eq!(message(&mut news).await, "hello");
    node.health().await.unwrap();
    drop((news, also));
    node.health().await.unwrap();
    node.close().await;
    assert!(!server.command("CLIENT LIST").contains("user=shop"));
}

#[tokio::test]
async fn a_channel_that_is_not_allowed_is_refused_and_the_node_stays_usable() {
    let server = RedisServer::start();
    server.command("ACL SETUSER shop on >p4ss ~* +@all resetchannels &shop:open &shop!*");
    let node = connect(format!("redis://shop:p4ss@{}", server.address())).await;
    let mut open = subscribe(&node, "open").await;

    let both = Subscribe::to([channel("open"), channel("closed")]);
    let error = node.subscribe(both).await.unwrap_err();
    assert_eq!(error.kind(), SubscribeErrorKind::Refused, "{error}");

    let error = node
        .publish(&channel("closed"), "s3cr3t".into())
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        PublishErrorKind::NotSent(NotSent::Refused),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");

    node.publish(&channel("open"), "hello".into())
        .await
        .unwrap();
    assert_eq!(message(&mut open).await, "hello");
    assert_eq!(node.watch().connected().await, Some(1));
}
