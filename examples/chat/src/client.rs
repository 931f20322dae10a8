//! What a client can do: say something, join a room, leave it.

use backplane_core::Subscribed;
use backplane_core::hub::{ConnectionHandle, Hub, Others, Payload, SendError, Target};

use crate::protocol::{Elsewhere, FromClient, To, ToClient};

/// How long a text may be, in bytes.
const MAX_TEXT: usize = 4096;
/// How many rooms a client may be in.
const MAX_ROOMS: usize = 50;

/// A client, as its socket's task knows it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) hub: Hub,
    pub(crate) connection: ConnectionHandle,
    /// Who it says it is: nobody has checked that.
    pub(crate) user: String,
}

impl Client {
    /// Place 2, a client says something. Whatever is wrong with it, it gets an answer, and stays connected.
    pub(crate) async fn act(&self, said: &str) -> ToClient<'static> {
        match serde_json::from_str(said) {
            Ok(FromClient::Say { id, to, text }) => self.say(id, &to, &text).await,
            Ok(FromClient::Join { room }) => self.join(room).await,
            Ok(FromClient::Leave { room }) => match self.connection.leave(&room).await {
                Ok(()) => ToClient::Left { room },
                Err(error) => ToClient::error(format!("you are still in that room: {error}")),
            },
            Err(error) => ToClient::error(format!("that is not understood: {error}")),
        }
    }

    /// Sends a text to whom it is for, but not back.
    async fn say(&self, id: u64, to: &To, text: &str) -> ToClient<'static> {
        if text.len() > MAX_TEXT {
            let what = format!("message {id} is longer than {MAX_TEXT} bytes, and was not sent");
            return ToClient::error(what);
        }
        let target = match to {
            To::All => Target::all(),
            To::Room(name) => Target::group(name),
            To::User(name) => Target::user(name),
        };
        let target = target.except_connection(self.connection.id());
        let from = &self.user;
        let message = ToClient::Message { from, to, text }.json();
        let sent = self.hub.send(target, Payload::with("json", message)).await;
        let (here, elsewhere, why) = match sent {
            Ok(sent) => match sent.others {
                Others::NotNeeded => (sent.local, Elsewhere::NotNeeded, None),
                _ => (sent.local, Elsewhere::Accepted, None),
            },
            // The people of this server have got it. The others never will, or nobody knows: that makes a difference to who
            // wants to say it again.
            Err(SendError::Publish { local, source }) => {
                let elsewhere = match source.is_not_sent() {
                    true => Elsewhere::NotSent,
                    false => Elsewhere::Unknown,
                };
                (local, elsewhere, Some(source.to_string()))
            }
            Err(error) => return ToClient::error(format!("message {id} was not sent: {error}")),
        };
        ToClient::Outcome {
            id,
            here,
            elsewhere,
            why,
        }
    }

    async fn join(&self, room: String) -> ToClient<'static> {
        if self.connection.groups().len() >= MAX_ROOMS {
            return ToClient::error(format!("you are in {MAX_ROOMS} rooms already"));
        }
        match self.connection.join(&room).await {
            Ok(subscribed) => ToClient::Joined {
                room,
                deferred: subscribed == Subscribed::Deferred,
            },
            Err(error) => ToClient::error(format!("you are not in that room: {error}")),
        }
    }
}
