//! NATS as a stranger sees it: its monitoring endpoint, and a connection without the client library.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use backplane_conformance::Observer;
use backplane_core::driver::BrokerChannel;
use backplane_core::{Channel, Prefix};
use backplane_example_nats::subject;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::NatsHarness;
use crate::server::USER;

#[async_trait]
impl Observer for NatsHarness {
    async fn subscriptions(&self, prefix: &Prefix, channel: &Channel) -> Result<u64, String> {
        let subject = subject(&BrokerChannel::new(prefix, channel));
        let held = |node: &Value| -> usize {
            let subjects = node["subscriptions_list"].as_array();
            subjects.map_or(0, |all| all.iter().filter(|s| **s == *subject).count())
        };
        let nodes = self.nodes().await?;
        Ok(nodes.iter().map(held).sum::<usize>() as u64)
    }

    async fn connections(&self) -> Result<u64, String> {
        Ok(self.nodes().await?.len() as u64)
    }

    /// The server's own number counts the echoes, too.
    async fn publishes(&self) -> Result<Option<u64>, String> {
        Ok(None)
    }

    async fn write(&self, prefix: &Prefix, channel: &Channel, bytes: Bytes) -> Result<(), String> {
        if self.subscriptions(prefix, channel).await? == 0 {
            return Err("nobody was subscribed".to_owned());
        }
        let subject = subject(&BrokerChannel::new(prefix, channel));
        let login = json!({ "verbose": false, "user": USER, "pass": self.server.password });
        let mut request =
            format!("CONNECT {login}\r\nPUB {subject} {}\r\n", bytes.len()).into_bytes();
        request.extend_from_slice(&bytes);
        request.extend_from_slice(b"\r\nPING\r\n");
        let addr = self.broker.place().addr;
        self.broker.ask(send(addr, request)).await
    }
}

impl NatsHarness {
    /// The connections of nodes, as the server lists them.
    async fn nodes(&self) -> Result<Vec<Value>, String> {
        let monitor = self.broker.place().more[0];
        let listed = self.broker.ask(get(monitor, "/connz?subs=1&limit=4096"));
        let mut nodes = match listed.await?["connections"].take() {
            Value::Array(connections) => connections,
            other => return Err(format!("the server lists no connections: {other}")),
        };
        let is_node = |c: &Value| {
            c["name"]
                .as_str()
                .is_some_and(|n| n.starts_with("backplane-"))
        };
        nodes.retain(is_node);
        Ok(nodes)
    }
}

/// Sends requests of which the last is a PING, and waits for its answer: the server has done them all then.
async fn send(addr: SocketAddr, requests: Vec<u8>) -> io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(addr).await?);
    stream.write_all(&requests).await?;
    let mut line = String::new();
    while line != "PONG\r\n" {
        line.clear();
        let read = stream.read_line(&mut line).await?;
        if read == 0 || line.starts_with("-ERR") {
            return Err(io::Error::other(format!("no PONG came, but {line:?}")));
        }
    }
    Ok(())
}

async fn get(addr: SocketAddr, path: &str) -> io::Result<Value> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(serde_json::from_str(body)?)
}
