//! `rediss://` against a server with a certificate of a private authority.

#![cfg(feature = "tls")]

mod common;

use std::path::PathBuf;

use backplane_core::ConnectErrorKind;
use backplane_redis::ConfigError;

use crate::common::{RedisServer, builder, channel, free_port, message, subscribe};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tls")
        .join(name)
}

fn start() -> (RedisServer, u16) {
    let port = free_port();
    let path = |name| file(name).display().to_string();
    let server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    (server, port)
}

#[tokio::test]
async fn messages_pass_when_the_authority_is_trusted() {
    let (_server, port) = start();
    let ca = file("ca.pem");
    let one = builder(format!("rediss://localhost:{port}"))
        .ca_cert(&ca)
        .connect()
        .await
        .unwrap();
    let url = format!("rediss://127.0.0.1:{port}?ca_cert={}", ca.display());
    let two = builder(url).connect().await.unwrap();
    let mut news = subscribe(&two, "news").await;
    one.publish(&channel("news"), "hello".into()).await.unwrap();
    assert_eq!(message(&mut news).await, "hello");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_a_typed_error() {
    let (_server, port) = start();
    let url = format!("rediss://:s3cr3t@localhost:{port}");
    let error = builder(url).connect().await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::Incompatible, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("certificate") && text.contains(&format!("localhost:{port}")),
        "{text}"
    );
    assert!(!format!("{error:?}").contains("s3cr3t"));
}

#[tokio::test]
async fn a_connection_without_tls_to_a_tls_port_says_what_may_be_wrong() {
    let (_server, port) = start();
    let error = builder(format!("redis://localhost:{port}"))
        .connect()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[test]
fn a_file_that_is_no_authority_is_refused() {
    for (path, problem) in [
        (file("README.md"), "no certificate"),
        (file("nothing.pem"), "No such file"),
    ] {
        let error = builder("rediss://localhost")
            .ca_cert(&path)
            .build()
            .unwrap_err();
        assert!(matches!(&error, ConfigError::CaCert { path: p, .. } if *p == path));
        assert!(error.to_string().contains(problem), "{error}");
    }
}
