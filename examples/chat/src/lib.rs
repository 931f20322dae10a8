//! A chat over WebSockets, on as many servers as one likes: what a framework does with a hub.
//!
//! A client that connects to any [`Server`] reaches the clients of all. The hub is called at four places, which the code
//! marks as such:
//!
//! 1. a client connects: `connect` below;
//! 2. a client says something: `client.rs`;
//! 3. a client disconnects: `socket.rs`;
//! 4. messages were lost: `socket.rs`, and `way.rs` for what the client sees of it.
//!
//! The rest is what any server of WebSockets has: a task for each socket, bounds on everything that a client can fill, pings,
//! close frames, and an orderly end.
//!
//! It has no users to log in: whoever says to be Ann is Ann.

mod client;
mod protocol;
mod socket;
mod way;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use backplane_core::Backplane;
use backplane_core::hub::{Connect, Hub, HubError};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::way::{Way, follow};

/// The longest message of a client. What is longer ends the connection; a text that is too long for the chat gets an answer.
const MAX_MESSAGE: usize = 64 * 1024;
/// How long a server that shuts down waits for its clients.
const GRACE: Duration = Duration::from_secs(5);

/// A server of the chat. It runs until it is [shut down](Self::shut_down).
#[derive(Debug)]
#[must_use = "shut it down, so that clients get a close frame"]
pub struct Server {
    address: SocketAddr,
    node: Arc<dyn Backplane>,
    chat: Chat,
    stop: CancellationToken,
    serving: JoinHandle<io::Result<()>>,
    following: JoinHandle<()>,
}

/// What every request may use.
#[derive(Clone, Debug)]
struct Chat {
    hub: Hub,
    way: watch::Receiver<Way>,
    sockets: TaskTracker,
}

impl Server {
    /// Serves the chat on a socket, with a node of any backplane. In an outage too: its own clients can talk.
    ///
    /// # Errors
    /// Those of making a hub, and of a socket that has no address.
    pub async fn start(
        listener: TcpListener,
        node: Arc<dyn Backplane>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let address = listener.local_addr()?;
        let events = node.events();
        let (told, way) = watch::channel(Way::of(&node.state()));
        let following = tokio::spawn(follow(Arc::clone(&node), events, told));
        let chat = Chat {
            hub: Hub::builder(Arc::clone(&node)).name("chat").build().await?,
            way,
            sockets: TaskTracker::new(),
        };
        let stop = CancellationToken::new();
        let serving = axum::serve(listener, router(chat.clone()));
        let serving = serving.with_graceful_shutdown(stop.clone().cancelled_owned());
        Ok(Self {
            address,
            node,
            chat,
            stop,
            serving: tokio::spawn(serving.into_future()),
            following,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the server: nobody else gets in, each client gets what waits for it and a close frame, and the node leaves the
    /// backplane. Clients that do not answer are left after 5 s.
    pub async fn shut_down(self) {
        self.stop.cancel();
        // Ends every connection, and with it the task of every socket.
        self.chat.hub.close().await;
        self.chat.sockets.close();
        let ended = async {
            // Requests come first: one of them may still be opening a socket.
            let _ = self.serving.await;
            self.chat.sockets.wait().await;
        };
        let _ = timeout(GRACE, ended).await;
        self.node.close().await;
        let _ = self.following.await;
    }
}

fn router(chat: Chat) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/ws", get(connect))
        .with_state(chat)
}

/// The page, which needs nothing but itself and the socket.
async fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'";
    let headers = [(header::CONTENT_SECURITY_POLICY, policy)];
    (headers, Html(include_str!("page.html")))
}

#[derive(Debug, Deserialize)]
struct Who {
    user: String,
}

/// Place 1, a client connects. The hub is asked before the socket is open, while it can be refused in plain HTTP.
async fn connect(
    State(chat): State<Chat>,
    Query(Who { user }): Query<Who>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let request = Connect::new().user(user.as_str()).with_gaps();
    let connection = match chat.hub.connect(request).await {
        Ok(connection) => connection,
        Err(error @ HubError::InvalidName(_)) => {
            return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
        }
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    };
    let client = Client {
        hub: chat.hub,
        connection: connection.handle(),
        user,
    };
    let alive = chat.sockets.token();
    upgrade
        .max_message_size(MAX_MESSAGE)
        // What is reserved for each client; messages are short.
        .read_buffer_size(4096)
        .on_upgrade(async move |socket| {
            socket::serve(socket, connection, client, chat.way).await;
            drop(alive);
        })
}
