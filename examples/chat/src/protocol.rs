//! What the page and the server say to each other: JSON texts, one a WebSocket message.

use serde::{Deserialize, Serialize};

/// What a client says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FromClient {
    /// Send a text. The client chooses the `id`, and finds it again in [`ToClient::Outcome`].
    Say { id: u64, to: To, text: String },
    /// Put me into a room.
    Join { room: String },
    /// Take me out of a room.
    Leave { room: String },
}

/// Whom a text is for: `"all"`, `{"room": "tea"}` or `{"user": "ann"}`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum To {
    All,
    Room(String),
    User(String),
}

/// What a client is told.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToClient<'a> {
    /// A text of somebody.
    Message {
        from: &'a str,
        to: &'a To,
        text: &'a str,
    },
    /// What became of what the client said.
    Outcome {
        id: u64,
        /// How many connections of this server have got it.
        here: usize,
        elsewhere: Elsewhere,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The client is in the room. While that is `deferred`, it hears only the people of this server.
    Joined { room: String, deferred: bool },
    /// The client is not in the room any longer.
    Left { room: String },
    /// Whether this server reaches the others: told at the start, and whenever it changes.
    Backplane {
        up: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
    },
    /// Here, messages from other servers are missing, or may be.
    Gap { what: String },
    /// Here, so many messages are missing, because the client was too slow.
    Missed { messages: u64 },
    /// What the client said was wrong, or could not be done. Nothing else has changed.
    Error { what: String },
}

/// What became of a text on the other servers.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Elsewhere {
    /// It is on its way to all that are attached.
    Accepted,
    /// It was for nobody there.
    NotNeeded,
    /// Nobody there will ever see it. Who sends it again reaches the people of this server again.
    NotSent,
    /// Some may see it. Who sends it again may reach them twice, too.
    Unknown,
}

impl ToClient<'_> {
    /// The text that goes over the socket.
    pub(crate) fn json(&self) -> String {
        // Only a key that is no text could fail, and there is none.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(crate) fn error(what: impl Into<String>) -> Self {
        Self::Error { what: what.into() }
    }
}
