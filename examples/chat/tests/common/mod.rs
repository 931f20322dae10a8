//! Servers of the chat, and WebSocket clients that read what is there.
#![allow(dead_code, unreachable_pub)] // each test uses a part of it
#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backplane_conformance::fixtures::{RedisProcess, Server as _};
use backplane_core::Prefix;
use backplane_example_chat::Server;
use backplane_redis::RedisBuilder;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long anything that must come may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What must come in time.
pub async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> T {
    timeout(PATIENCE, coming)
        .await
        .unwrap_or_else(|_| panic!("in time: {what}"))
}

pub async fn redis() -> RedisProcess {
    RedisProcess::start().await.unwrap()
}

pub fn node(url: &str) -> RedisBuilder {
    RedisBuilder::new(url).prefix(Prefix::new("test").unwrap())
}

/// A server of the chat on a free port.
pub async fn server(redis: &RedisProcess) -> Server {
    let node = node(&redis.url()).connect().await.unwrap();
    serve(Arc::new(node)).await
}

pub async fn serve(node: Arc<dyn backplane_core::Backplane>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::start(listener, node).await.unwrap()
}

/// A client that has entered.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What came before what was waited for.
    earlier: VecDeque<Value>,
    last_id: u64,
}

impl Client {
    /// Enters under a name. When it returns, the server says that it reaches the others.
    pub async fn enter(address: SocketAddr, user: &str) -> Self {
        let mut client = Self::enter_anyhow(address, user).await;
        while client.told("backplane").await["up"] != true {}
        client
    }

    /// Enters under a name, whatever the server says.
    pub async fn enter_anyhow(address: SocketAddr, user: &str) -> Self {
        Self::try_enter(address, &format!("?user={user}"))
            .await
            .unwrap()
    }

    pub async fn try_enter(address: SocketAddr, query: &str) -> Result<Self, Error> {
        let url = format!("ws://{address}/ws{query}");
        let (socket, _) = soon("a socket", connect_async(url)).await?;
        Ok(Self {
            socket,
            earlier: VecDeque::new(),
            last_id: 0,
        })
    }

    pub async fn send(&mut self, message: impl Into<Message>) {
        self.socket.send(message.into()).await.unwrap();
    }

    /// Says something without waiting for the outcome; its id.
    pub async fn start_to_say(&mut self, to: Value, text: &str) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        let said = json!({ "type": "say", "id": id, "to": to, "text": text });
        self.send(said.to_string()).await;
        id
    }

    /// Says something, and waits for the outcome: how many have it here, and what became of it elsewhere.
    pub async fn say(&mut self, to: Value, text: &str) -> (u64, String) {
        let id = self.start_to_say(to, text).await;
        let outcome = self.outcome().await;
        assert_eq!(outcome.0, id);
        (outcome.1, outcome.2)
    }

    /// The next outcome: of which text, how many have it here, and what became of it elsewhere.
    pub async fn outcome(&mut self) -> (u64, u64, String) {
        let told = self.told("outcome").await;
        let number = |name: &str| told[name].as_u64().unwrap();
        let elsewhere = told["elsewhere"].as_str().unwrap().to_owned();
        (number("id"), number("here"), elsewhere)
    }

    /// Joins a room; whether that is deferred.
    pub async fn join(&mut self, room: &str) -> bool {
        self.send(json!({ "type": "join", "room": room }).to_string())
            .await;
        let joined = self.told("joined").await;
        assert_eq!(joined["room"], room);
        joined["deferred"].as_bool().unwrap()
    }

    pub async fn leave(&mut self, room: &str) {
        self.send(json!({ "type": "leave", "room": room }).to_string())
            .await;
        assert_eq!(self.told("left").await["room"], room);
    }

    /// The next that it is told of this type. What comes before is kept for later.
    pub async fn told(&mut self, kind: &str) -> Value {
        if let Some(at) = self.earlier.iter().position(|told| told["type"] == kind) {
            return self.earlier.remove(at).unwrap();
        }
        // One deadline for all of it: pings come for ever.
        soon(kind, self.read_until(kind)).await
    }

    async fn read_until(&mut self, kind: &str) -> Value {
        loop {
            let next = self.socket.next().await;
            match next.unwrap_or_else(|| panic!("no end before: {kind}")) {
                Ok(Message::Text(text)) => {
                    let told: Value = serde_json::from_str(&text).unwrap();
                    if told["type"] == kind {
                        return told;
                    }
                    self.earlier.push_back(told);
                }
                Ok(Message::Ping(_)) => {}
                other => panic!("{other:?} instead of: {kind}"),
            }
        }
    }

    /// Whether it was told of this type before what it has read last, and has not read it yet.
    pub fn has_been_told(&self, kind: &str) -> bool {
        self.earlier.iter().any(|told| told["type"] == kind)
    }

    /// The next text of somebody, as `from: text`.
    pub async fn hears(&mut self) -> String {
        let told = self.told("message").await;
        format!("{}: {}", told["from"], told["text"]).replace('"', "")
    }

    /// Whatever comes before the socket ends, as texts; and the code of the close frame, if there was one.
    pub async fn end(self) -> (Vec<Value>, Option<CloseCode>) {
        soon("the end of the socket", self.read_to_end()).await
    }

    async fn read_to_end(mut self) -> (Vec<Value>, Option<CloseCode>) {
        let mut code = None;
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    self.earlier.push_back(serde_json::from_str(&text).unwrap());
                }
                Some(Ok(Message::Close(frame))) => code = frame.map(|frame| frame.code),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (self.earlier.into(), code),
            }
        }
    }

    /// Closes the socket. When it returns, the server is done with this client.
    pub async fn close(mut self) {
        self.socket.close(None).await.unwrap();
        self.end().await;
    }
}

/// To everybody.
pub fn all() -> Value {
    json!("all")
}

pub fn room(name: &str) -> Value {
    json!({ "room": name })
}

pub fn user(name: &str) -> Value {
    json!({ "user": name })
}

/// What an outcome is compared with.
pub fn outcome(here: u64, elsewhere: &str) -> (u64, String) {
    (here, elsewhere.to_owned())
}
