//! One client: two futures in one task, one that listens and one that speaks. Whichever ends first ends the client.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use backplane_core::hub::{Connection, Ended, Outbound};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::Client;
use crate::protocol::ToClient;
use crate::way::Way;

/// How many replies wait for the client before we stop listening to it.
const REPLIES: usize = 8;
/// How often the client is asked whether it is still there. Its answer is a pong, which browsers send by themselves.
const PING: Duration = Duration::from_secs(20);
/// How long a client may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long one message may take into the socket. Meanwhile others wait in the hub's queue, which is bounded too.
const WRITE: Duration = Duration::from_secs(10);
/// How long the client has to answer our close frame.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a client is served no longer.
enum End {
    /// It has closed the socket, or is gone.
    Gone,
    /// What it sent is no WebSocket message, or too long for one.
    Broken,
    /// It says nothing, and does not answer pings.
    Silent,
    /// The hub has ended its connection.
    Ended(Option<Ended>),
}

/// Serves a client until either side ends it.
pub(crate) async fn serve(
    socket: WebSocket,
    mut connection: Connection,
    client: Client,
    way: watch::Receiver<Way>,
) {
    let (mut sink, mut stream) = socket.split();
    let (replies, waiting) = mpsc::channel(REPLIES);
    let end = tokio::select! {
        end = listen(&mut stream, &client, &replies) => end,
        end = speak(&mut sink, &mut connection, waiting, way) => end,
    };
    // Place 3, a client disconnects. It leaves its rooms now, and not when it has answered the close frame.
    drop(connection);
    let Some(frame) = end.frame() else { return };
    let farewell = async {
        if sink.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
}

/// Does what the client says, one thing after the other: while a message is on its way, the next one waits in the socket. So
/// one client's messages stay in order, and one that says too much is slowed down by its own connection.
async fn listen(
    stream: &mut SplitStream<WebSocket>,
    client: &Client,
    replies: &mpsc::Sender<String>,
) -> End {
    loop {
        let message = match timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_))) => return End::Broken,
            Ok(None) => return End::Gone,
            Err(_) => return End::Silent,
        };
        let reply = match message {
            Message::Text(text) => client.act(&text).await,
            Message::Binary(_) => ToClient::error("this chat takes text messages only"),
            // Answered already. After a close frame the stream ends by itself.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => continue,
        };
        if replies.send(reply.json()).await.is_err() {
            return End::Gone;
        }
    }
}

/// Writes what the client is to get, from wherever it comes.
async fn speak(
    sink: &mut SplitSink<WebSocket, Message>,
    connection: &mut Connection,
    mut replies: mpsc::Receiver<String>,
    mut way: watch::Receiver<Way>,
) -> End {
    let mut ping = interval(PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first thing that a client hears is how things stand.
    way.mark_changed();
    loop {
        // Nothing is lost in the branches that are not taken: all four are cancel safe.
        let message = tokio::select! {
            next = connection.recv() => match next {
                Some(outbound) => message(outbound),
                None => return End::Ended(connection.ended()),
            },
            Some(reply) = replies.recv() => Message::text(reply),
            Ok(()) = way.changed() => Message::text(way.borrow_and_update().told().json()),
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        match timeout(WRITE, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return End::Gone,
        }
    }
}

/// What the hub has for a client, as the client gets it.
fn message(outbound: Outbound) -> Message {
    let told = match outbound {
        Outbound::Message(payload) => {
            // The sender's server has written the JSON already, once for all: nothing is encoded or copied here.
            let text = payload.get("json").map(Utf8Bytes::try_from);
            match text {
                Some(Ok(text)) => return Message::Text(text),
                _ => ToClient::error("here is a message that is not for a chat"),
            }
        }
        Outbound::Missed(messages) => ToClient::Missed { messages },
        // Place 4, a gap. A chat that keeps its messages would let the client read them again from here on.
        Outbound::Gap(gap) => ToClient::Gap {
            what: gap.to_string(),
        },
        _ => ToClient::error("here is something that this server does not know"),
    };
    Message::text(told.json())
}

impl End {
    /// The last thing that the client hears, if it can hear anything.
    fn frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Gone => return None,
            Self::Broken => (close_code::POLICY, "what you sent is too long, or broken"),
            Self::Silent => (close_code::POLICY, "you do not answer"),
            Self::Ended(Some(Ended::HubClosed)) => (close_code::AWAY, "the server shuts down"),
            Self::Ended(Some(Ended::TooSlow)) => (close_code::AGAIN, "you are too slow"),
            Self::Ended(_) => (close_code::NORMAL, ""),
        };
        Some(CloseFrame {
            code,
            reason: reason.into(),
        })
    }
}
