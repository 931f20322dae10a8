//! What the eager constructor says when it cannot attach: the kind that fits, the address, no secret.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use backplane_core::{Backplane, ConnectError, ConnectErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{LONG, RedisServer, builder, connect, free_port};

/// Connects with a password, and checks that the error names the address and hides the password.
async fn refused(address: &str) -> ConnectError {
    let url = format!("redis://alice:s3cr3t@{address}?connect_timeout=300ms");
    let error = builder(url).connect().await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(
        error.endpoint().contains(address) && error.to_string().contains(address),
        "{text}"
    );
    assert!(!text.contains("s3cr3t"), "{text}");
    error
}

/// A server that answers every connection's first bytes with this, and then reads on or closes.
async fn fake(answer: &'static [u8], then_close: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                if socket.read(&mut buffer).await.is_err()
                    || socket.write_all(answer).await.is_err()
                {
                    return;
                }
                while !then_close && socket.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    address
}

#[tokio::test]
async fn nobody_listens() {
    let error = refused(&format!("127.0.0.1:{}", free_port())).await;
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_host_that_does_not_exist() {
    let error = refused("nowhere.invalid:6379").await;
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable, "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_socket_that_does_not_exist() {
    let error = builder("unix:///nowhere/redis.sock?pass=s3cr3t")
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable, "{error}");
    assert!(
        error.to_string().contains("unix:///nowhere/redis.sock"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("s3cr3t"));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let started = Instant::now();
    let error = refused(&fake(b"", false).await).await;
    assert_eq!(error.kind(), ConnectErrorKind::Timeout, "{error}");
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < LONG,
        "{took:?}"
    );
}

#[tokio::test]
async fn a_server_without_resp3() {
    for answer in [
        &b"-ERR unknown command 'HELLO'\r\n"[..],
        b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `alice`, `s3cr3t`, \r\n",
        b"-NOPROTO unsupported protocol version\r\n",
    ] {
        let error = refused(&fake(answer, false).await).await;
        assert_eq!(error.kind(), ConnectErrorKind::Incompatible, "{error}");
        let text = "does not speak RESP3; Redis 6 or later is required";
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_port_that_speaks_another_protocol() {
    let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let error = refused(&fake(answer, true).await).await;
    assert_eq!(error.kind(), ConnectErrorKind::Incompatible, "{error}");
    assert!(
        error
            .to_string()
            .contains("does not speak the Redis protocol"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_hangs_up() {
    let error = refused(&fake(b"", true).await).await;
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable, "{error}");
    assert!(
        error.to_string().contains("closed the connection"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_serves_others() {
    for answer in [
        &b"-ERR max number of clients reached\r\n"[..],
        b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
    ] {
        let error = refused(&fake(answer, true).await).await;
        assert_eq!(error.kind(), ConnectErrorKind::Refused, "{error}");
    }
}

#[tokio::test]
async fn a_server_with_too_many_clients() {
    let server = RedisServer::start_with(&["--maxclients", "2"]);
    let _first = connect(server.url()).await;
    let error = builder(server.url()).connect().await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Refused, "{error}");
    assert!(
        error.to_string().contains("max number of clients"),
        "{error}"
    );
}

#[tokio::test]
async fn a_wrong_or_a_missing_password() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let (address, port) = (server.address(), server.port);
    for url in [
        format!("redis://:s3cr3t@{address}"),
        format!("redis://default:s3cr3t@{address}"),
        format!("redis://nobody:s3cr3t@{address}"),
        server.url(),
    ] {
        let error = builder(&url).connect().await.unwrap_err();
        assert_eq!(
            error.kind(),
            ConnectErrorKind::Unauthorized,
            "{url}: {error}"
        );
        assert!(
            error.to_string().contains(&format!("127.0.0.1:{port}")),
            "{error}"
        );
        assert!(
            !format!("{error} {error:?}").contains("s3cr3t"),
            "{error:?}"
        );
    }
    connect(format!("redis://:right@{address}")).await;
    builder(server.url())
        .password("right")
        .connect()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let server = RedisServer::start();
    let error = builder(server.url() + "/99").connect().await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Refused, "{error}");
    assert!(
        error.to_string().contains("DB index is out of range"),
        "{error}"
    );
}

/// What is published on a replica reaches neither its primary nor the nodes there.
#[tokio::test]
async fn a_replica() {
    let primary = RedisServer::start();
    let port = primary.address().rsplit(':').next().unwrap().to_owned();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let error = builder(replica.url()).connect().await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("is a replica"), "{error}");
    // It is taken as soon as it is promoted.
    let node = builder(replica.url()).connect_lazy().unwrap();
    replica.command("REPLICAOF NO ONE");
    let attached = tokio::time::timeout(LONG, node.watch().connected()).await;
    assert_eq!(attached.unwrap(), Some(1));
}
