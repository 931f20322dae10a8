//! What this node wants of one connection or one node, wherever it is: joins, leaves, calls and questions (rules H11 to
//! H14, H19 and H21).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::builder::{DeliveryMode, FOREVER};
use super::error::{HubError, InvokeError, RequestError};
use super::id::ConnectionId;
use super::inner::Inner;
use super::invocations::{Asker, InvocationId};
use super::outbox::Ended;
use super::payload::Payload;
use super::requests::{Closed, Missing, Waiting};
use super::signal::{Refusal, Reply, Request, Signal};
use super::target::Target;
use crate::name::{NameKind, NodeId, check};
use crate::subscription::Subscribed;

/// A call to a connection of this node. Dropping it takes the call back, unless it was answered.
struct Call<'a> {
    inner: &'a Inner,
    id: Option<InvocationId>,
}

/// A request to another node. Dropping it forgets the request; a call that may be in work there is taken back.
struct Asked<'a> {
    inner: &'a Inner,
    node: NodeId,
    /// How long a call is in work there, if it is one that is not over.
    call: Option<Duration>,
    waiting: Waiting<'a>,
}

impl Inner {
    pub(super) async fn join_anywhere(
        self: &Arc<Self>,
        connection: ConnectionId,
        group: &str,
    ) -> Result<Subscribed, RequestError> {
        if connection.node() == self.node {
            let joined = match self.begin_join(&connection, group) {
                Ok(claim) => claim.join(&connection).await,
                Err(error) => Err(error),
            };
            return joined.map_err(|error| about(connection, error));
        }
        check(NameKind::Group, group, Target::MAX_NAME_LEN)?;
        let group = group.to_owned();
        self.change(connection, Request::Join { connection, group })
            .await
    }

    pub(super) async fn leave_anywhere(
        &self,
        connection: ConnectionId,
        group: &str,
    ) -> Result<(), RequestError> {
        if connection.node() == self.node {
            return match self.leave(&connection, group) {
                Ok(true) => Ok(()),
                Ok(false) => Err(self.unknown(connection)),
                Err(error) => Err(about(connection, error)),
            };
        }
        check(NameKind::Group, group, Target::MAX_NAME_LEN)?;
        let group = group.to_owned();
        self.change(connection, Request::Leave { connection, group })
            .await?;
        Ok(())
    }

    pub(super) async fn disconnect_anywhere(
        &self,
        connection: ConnectionId,
    ) -> Result<(), RequestError> {
        if self.is_at_hand(connection) {
            return match self.disconnect(&connection, Ended::Removed) {
                true => Ok(()),
                false => Err(self.unknown(connection)),
            };
        }
        self.change(connection, Request::Disconnect(connection))
            .await?;
        Ok(())
    }

    pub(super) async fn ask(
        &self,
        node: NodeId,
        question: Payload,
    ) -> Result<Payload, RequestError> {
        if node == self.node {
            return self.ask_here(question).await;
        }
        let request = Request::Ask(question);
        answer(node, self.ask_one(node, request).await?)
    }

    /// The application asks itself.
    pub(super) async fn ask_here(&self, question: Payload) -> Result<Payload, RequestError> {
        if self.stop.is_cancelled() {
            return Err(RequestError::Closed);
        }
        let (node, timeout) = (self.node, self.timing.request_timeout);
        let answer = self.answer_of_service(node, question);
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer.map_err(|why| refused(node, why)),
            Err(_) => Err(RequestError::Timeout { node, timeout }),
        }
    }

    pub(super) async fn invoke(
        &self,
        connection: ConnectionId,
        payload: Payload,
        patience: Duration,
    ) -> Result<Payload, InvokeError> {
        match self.is_at_hand(connection) {
            true => self.invoke_here(connection, &payload, patience).await,
            false => self.invoke_there(connection, payload, patience).await,
        }
    }

    /// Whether a connection is of this node, and not reached [through the backplane](DeliveryMode::ThroughBackplane) all
    /// the same, behind the messages that were sent to it before (rules H17 and H18).
    fn is_at_hand(&self, connection: ConnectionId) -> bool {
        connection.node() == self.node && self.mode == DeliveryMode::LocalFirst
    }

    async fn invoke_here(
        &self,
        connection: ConnectionId,
        payload: &Payload,
        patience: Duration,
    ) -> Result<Payload, InvokeError> {
        let (tell, answer) = oneshot::channel();
        let call = match self.call(&connection, payload, Asker::Here(tell)) {
            Ok(call) => call,
            Err((Refusal::UnknownConnection, _)) => return Err(self.unknown(connection).into()),
            Err((why, _)) => return Err(not_answered(connection, why)),
        };
        let mut call = Call {
            inner: self,
            id: Some(call),
        };
        let answered = timeout(patience, answer).await;
        let answered = answered.map_err(|_| InvokeError::Timeout {
            connection,
            timeout: patience,
        })?;
        call.id = None;
        match answered {
            Ok(answer) => answer.map_err(|why| not_answered(connection, why)),
            Err(_) => Err(RequestError::Closed.into()),
        }
    }

    async fn invoke_there(
        &self,
        connection: ConnectionId,
        payload: Payload,
        patience: Duration,
    ) -> Result<Payload, InvokeError> {
        let node = connection.node();
        let request = Request::Invoke {
            connection,
            payload,
        };
        match self.exchange(node, request, patience).await {
            Ok(Reply::Value(answer)) => Ok(answer),
            Ok(Reply::Refused(Refusal::UnknownConnection)) => {
                Err(RequestError::UnknownConnection(connection).into())
            }
            Ok(Reply::Refused(Refusal::Failed(reason))) => {
                Err(RequestError::Failed { node, reason }.into())
            }
            Ok(Reply::Refused(why)) => Err(not_answered(connection, why)),
            Ok(_) => Err(RequestError::Unsupported(node).into()),
            Err(RequestError::Timeout { timeout, .. }) => Err(InvokeError::Timeout {
                connection,
                timeout,
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the node of a connection to change something about it.
    async fn change(
        &self,
        connection: ConnectionId,
        request: Request,
    ) -> Result<Subscribed, RequestError> {
        let node = connection.node();
        match self.ask_one(node, request).await? {
            Reply::Done(subscribed) => Ok(subscribed),
            Reply::Refused(Refusal::UnknownConnection) => {
                Err(RequestError::UnknownConnection(connection))
            }
            Reply::Refused(why) => Err(refused(node, why)),
            _ => Err(RequestError::Unsupported(node)),
        }
    }

    async fn ask_one(&self, node: NodeId, request: Request) -> Result<Reply, RequestError> {
        let patience = self.timing.request_timeout;
        self.exchange(node, request, patience).await
    }

    /// Asks one other node, and waits for its reply.
    async fn exchange(
        &self,
        node: NodeId,
        request: Request,
        patience: Duration,
    ) -> Result<Reply, RequestError> {
        let deadline = Instant::now() + patience.min(FOREVER);
        let channel = self.protocol.node(node)?;
        let mut asked = Asked {
            inner: self,
            node,
            call: matches!(request, Request::Invoke { .. }).then_some(patience),
            waiting: self.requests.open([node], self.generation())?,
        };
        // If it goes from now on, the waiting ends.
        if self.presence.lock().is_gone(node) {
            asked.call = None;
            return Err(RequestError::NodeGone(node));
        }
        let bytes = self.protocol.encode_signal(&Signal::Request {
            id: asked.waiting.id,
            patience,
            request,
        });
        match timeout_at(deadline, self.backplane.publish(&channel, bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                asked.call = asked.call.filter(|_| !error.is_not_sent());
                return Err(RequestError::Publish(error));
            }
            Err(_) => {
                let timeout = patience;
                return Err(RequestError::Timeout { node, timeout });
            }
        }
        asked.reply(deadline, patience).await
    }

    /// Tells a node that nobody waits for a call any longer; in an outage, as soon as this node is attached again.
    fn take_back(&self, node: NodeId, id: u64, patience: Duration) {
        let Some(inner) = self.me.upgrade() else {
            return;
        };
        self.spawn(async move {
            let cancel = Signal::Cancel { id };
            // After that the node forgets it by itself.
            let _ = inner.publish_in_the_end(node, &cancel, patience).await;
        });
    }

    fn unknown(&self, connection: ConnectionId) -> RequestError {
        match self.stop.is_cancelled() {
            true => RequestError::Closed,
            false => RequestError::UnknownConnection(connection),
        }
    }
}

impl Asked<'_> {
    async fn reply(&mut self, deadline: Instant, timeout: Duration) -> Result<Reply, RequestError> {
        let (inner, node) = (self.inner, self.node);
        let itself = node == inner.node;
        // Every node is heard in this time that is there, unless this one hears nobody; and sooner, if it knows them all.
        let sign = Instant::now() + inner.timing.node_timeout;
        if !itself && !inner.presence.lock().knows(node) {
            let is_over = self.waiting.over(sign.min(deadline)).await?;
            let roster = inner.presence.lock();
            let is_sure = sign <= deadline || roster.is_settled(Instant::now());
            if !is_over && is_sure && roster.is_attached() && !roster.knows(node) {
                return Err(RequestError::NodeGone(node));
            }
        }
        self.waiting.over(deadline).await?;
        let outcome = self.waiting.take(Missing::TimedOut);
        if let Some((_, reply)) = outcome.replies.into_iter().next() {
            self.call = None;
            return Ok(reply);
        }
        Err(match outcome.missing.first() {
            Some((_, Missing::Outage)) => RequestError::AnswerLost(node),
            Some((_, Missing::TimedOut)) => RequestError::Timeout { node, timeout },
            _ => {
                self.call = None;
                RequestError::NodeGone(node)
            }
        })
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let inner = self.inner;
            inner.tell_cancelled(inner.invocations.cancel(id));
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(patience) = self.call {
            self.inner.take_back(self.node, self.waiting.id, patience);
        }
    }
}

impl From<Closed> for RequestError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// What a node answers to a question of the application.
pub(super) fn answer(node: NodeId, reply: Reply) -> Result<Payload, RequestError> {
    match reply {
        Reply::Value(answer) => Ok(answer),
        Reply::Refused(why) => Err(refused(node, why)),
        _ => Err(RequestError::Unsupported(node)),
    }
}

fn refused(node: NodeId, why: Refusal) -> RequestError {
    match why {
        Refusal::Failed(reason) | Refusal::Client(reason) => RequestError::Failed { node, reason },
        Refusal::NoService => RequestError::NoService(node),
        _ => RequestError::Unsupported(node),
    }
}

fn not_answered(connection: ConnectionId, why: Refusal) -> InvokeError {
    match why {
        Refusal::Client(error) => InvokeError::Client(error),
        Refusal::QueueFull => InvokeError::QueueFull(connection),
        Refusal::Disconnected => InvokeError::Disconnected(connection),
        why => refused(connection.node(), why).into(),
    }
}

fn about(connection: ConnectionId, error: HubError) -> RequestError {
    match error {
        HubError::Disconnected => RequestError::UnknownConnection(connection),
        error => error.into(),
    }
}
