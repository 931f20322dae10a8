//! What this node does for others: their requests, one by one (rules H14, H19 and H21).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::builder::FOREVER;
use super::error::HubError;
use super::id::Key;
use super::inner::Inner;
use super::invocations::{Asker, InvocationId};
use super::outbox::Ended;
use super::payload::Payload;
use super::scatter::is_too_large;
use super::select::Selection;
use super::signal::{ConnectionInfo, Query, Refusal, Reply, Request, Signal};
use super::wire;
use crate::error::{NotSent, PublishError, PublishErrorKind};
use crate::name::NodeId;
use crate::state::ConnectionState;
use crate::subscription::Subscribed;

/// How many requests of other nodes are in work at a time. What comes beyond waits for nothing: it is refused.
pub(super) const MAX_SERVED: usize = 4096;

/// How many calls of other nodes wait for clients at a time: they take no task, and clients take their time.
pub(super) const MAX_CALLS: usize = 65_536;

/// How many words of this node are on their way to others at a time without a request that holds a place: refusals, and
/// answers to a hello. What comes beyond is not said. A request that is not even refused runs into its time limit, and a
/// node that is not greeted is heard of with its next heartbeat.
pub(super) const MAX_ASIDES: usize = 1024;

/// How many bytes of a list of connections go into one message, about.
const PART: usize = 64 * 1024;

impl Inner {
    /// A node asks for something. Nothing is waited for here: what takes time has a task of its own.
    pub(super) fn serve(
        self: &Arc<Self>,
        from: NodeId,
        id: u64,
        patience: Duration,
        request: Request,
    ) {
        // What this node wants of itself it does itself, but for what must not overtake messages.
        let in_order = matches!(request, Request::Invoke { .. } | Request::Disconnect(_));
        if from == self.node && !in_order {
            return;
        }
        let room = match &request {
            Request::Invoke { .. } => &self.calls,
            _ => &self.served,
        };
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
            self.counters.refused.add(1);
            let why = Refusal::Failed("too many requests are in work".to_owned());
            let reply = Reply::Refused(why);
            return self.signal_aside(from, Signal::Reply { id, reply });
        };
        let reply = match request {
            Request::Join { connection, group } => {
                // It begins now, before whatever comes next.
                let claim = match self.begin_join(&connection, &group) {
                    Ok(claim) => claim,
                    Err(error) => {
                        let reply = Reply::Refused(not_joined(error));
                        return self.signal_later(from, Signal::Reply { id, reply }, permit);
                    }
                };
                let inner = Arc::clone(self);
                return self.spawn(async move {
                    // When the time is over, nobody waits any more.
                    let Ok(joined) = timeout(patience, claim.join(&connection)).await else {
                        return;
                    };
                    let reply = match joined {
                        Ok(subscribed) => Reply::Done(subscribed),
                        Err(error) => Reply::Refused(not_joined(error)),
                    };
                    inner.signal(from, &Signal::Reply { id, reply }).await;
                    drop(permit);
                });
            }
            Request::Leave { connection, group } => match self.leave(&connection, &group) {
                Ok(true) => Reply::Done(Subscribed::InForce),
                Ok(false) => Reply::Refused(Refusal::UnknownConnection),
                Err(error) => Reply::Refused(Refusal::Failed(error.to_string())),
            },
            Request::Disconnect(connection) => match self.disconnect(&connection, Ended::Removed) {
                true => Reply::Done(Subscribed::InForce),
                false => Reply::Refused(Refusal::UnknownConnection),
            },
            Request::Invoke {
                connection,
                payload,
            } => {
                let until = Instant::now() + patience.min(FOREVER);
                let asker = Asker::There {
                    node: from,
                    request: id,
                    until,
                    permit,
                };
                match self.call(&connection, &payload, asker) {
                    Ok(_) => return,
                    Err((why, Some(asker))) => return self.answer(asker, Err(why)),
                    // The hub is closed.
                    Err((_, None)) => return,
                }
            }
            Request::Count(query) => Reply::Count(self.count_here(&query)),
            Request::List(query) => {
                let inner = Arc::clone(self);
                return self.spawn(async move {
                    inner.send_list(from, id, &query).await;
                    drop(permit);
                });
            }
            Request::Ask(payload) => {
                let inner = Arc::clone(self);
                return self.spawn(async move {
                    let Ok(answer) =
                        timeout(patience, inner.answer_of_service(from, payload)).await
                    else {
                        return;
                    };
                    let reply = answer.map_or_else(Reply::Refused, Reply::Value);
                    inner.signal(from, &Signal::Reply { id, reply }).await;
                    drop(permit);
                });
            }
            Request::Newer => Reply::Refused(Refusal::Unsupported),
        };
        self.signal_later(from, Signal::Reply { id, reply }, permit);
    }

    /// How many connections of this node these are.
    pub(super) fn count_here(&self, query: &Query) -> u64 {
        let table = self.read();
        let selection = Selection::of(&table, &*self.protocol, query.targets.iter());
        let mut count = 0;
        selection.each(&table, &*self.protocol, query.except.iter(), |_| count += 1);
        count
    }

    /// Which connections of this node these are.
    pub(super) fn list_here(&self, query: &Query) -> Vec<ConnectionInfo> {
        let mut found = Vec::new();
        {
            let table = self.read();
            let selection = Selection::of(&table, &*self.protocol, query.targets.iter());
            selection.each(&table, &*self.protocol, query.except.iter(), |member| {
                found.push((Arc::clone(&member.outbox), table.user(member)));
            });
        }
        let infos = found.into_iter().map(|(outbox, user)| ConnectionInfo {
            id: outbox.id,
            user: user.map(|channel| self.protocol.user_name(&channel).to_owned()),
            metadata: outbox.metadata(),
        });
        infos.collect()
    }

    /// Replies with a list, in parts that the backplane takes.
    async fn send_list(&self, to: NodeId, id: u64, query: &Query) {
        let limit = PART.min(self.backplane.capabilities().max_payload / 2);
        let (mut part, mut size, mut parts) = (Vec::new(), 0, 1);
        for info in self.list_here(query) {
            let len = wire::wire_len(&info);
            if size + len > limit && !part.is_empty() {
                let list = std::mem::take(&mut part);
                let reply = Reply::Connections { list, parts: 0 };
                parts += 1;
                self.signal(to, &Signal::Reply { id, reply }).await;
                size = 0;
            }
            size += len;
            part.push(info);
        }
        let reply = Reply::Connections { list: part, parts };
        self.signal(to, &Signal::Reply { id, reply }).await;
    }

    /// A node does not want the result of a call any more.
    pub(super) fn cancelled(&self, from: NodeId, id: u64) {
        let cancelled = self.invocations.cancel_request(from, id);
        self.tell_cancelled(cancelled);
    }

    /// Calls nobody waits for are forgotten: those of a node that is gone, and those whose time is over.
    pub(super) fn forget_calls(&self, gone: Option<NodeId>, now: Instant) {
        let forgotten = self.invocations.cancel_where(gone, now);
        self.tell_cancelled(forgotten);
    }

    /// Tells connections that nobody waits for their answers.
    pub(super) fn tell_cancelled(&self, calls: impl IntoIterator<Item = (Key, InvocationId)>) {
        for (key, id) in calls {
            self.deliver_cancel(key, id);
        }
    }

    /// Hands an answer of a client over to whoever waits for it.
    pub(super) fn answer(&self, asker: Asker, answer: Result<Payload, Refusal>) {
        match asker {
            // Whoever has stopped waiting does not want to know.
            Asker::Here(tell) => drop(tell.send(answer)),
            Asker::There {
                node,
                request,
                permit,
                ..
            } => {
                let reply = answer.map_or_else(Reply::Refused, Reply::Value);
                self.signal_later(node, Signal::Reply { id: request, reply }, permit);
            }
        }
    }

    /// Sends a signal to a node in a task of its own, without a request that holds a place for it.
    pub(super) fn signal_aside(&self, to: NodeId, signal: Signal) {
        match Arc::clone(&self.asides).try_acquire_owned() {
            Ok(permit) => self.signal_later(to, signal, permit),
            Err(_) => {
                tracing::debug!(node = %to, "a node was not answered: too much is on its way")
            }
        }
    }

    /// Sends a signal to a node in a task of its own.
    fn signal_later(&self, to: NodeId, signal: Signal, permit: OwnedSemaphorePermit) {
        // Without itself it is being dropped, and nobody waits for it.
        let Some(inner) = self.me.upgrade() else {
            return;
        };
        self.spawn(async move {
            inner.signal(to, &signal).await;
            drop(permit);
        });
    }

    /// Nobody here is told when it does not get through: the one who waits for it notices that this node is gone, or that the
    /// time is over. What is too large for the backplane is said in so many words.
    async fn signal(&self, to: NodeId, signal: &Signal) {
        let published = match signal {
            // A part of a list must not come twice.
            Signal::Reply { reply, .. } if !matches!(reply, Reply::Connections { .. }) => {
                // After that this node is lost for the other.
                let limit = self.timing.node_timeout;
                self.publish_in_the_end(to, signal, limit).await
            }
            _ => self.publish_signal(to, signal).await,
        };
        let Err(error) = published else {
            return;
        };
        tracing::debug!(node = %to, %error, "a node was not answered");
        let too_large = is_too_large(error.kind());
        if let (Signal::Reply { id, .. }, true) = (signal, too_large) {
            let why = Refusal::Failed(error.to_string());
            let reply = Signal::Reply {
                id: *id,
                reply: Reply::Refused(why),
            };
            // There is nothing else to say.
            let _ = self.publish_signal(to, &reply).await;
        }
    }

    /// As [`publish_signal`](Self::publish_signal), and once more when an outage that has been in the way is over, if it does
    /// not last longer than this. It may then arrive twice.
    pub(super) async fn publish_in_the_end(
        &self,
        to: NodeId,
        signal: &Signal,
        limit: Duration,
    ) -> Result<(), PublishError> {
        let deadline = Instant::now() + limit.min(FOREVER);
        let mut watch = self.backplane.watch();
        loop {
            let tried = watch.current();
            let published = self.publish_signal(to, signal).await;
            if !matches!(&published, Err(error) if is_cut_off(error.kind())) {
                return published;
            }
            let attached = |state: &ConnectionState| state.is_connected() && *state != tried;
            match timeout_at(deadline, watch.wait_for(attached)).await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return published,
            }
        }
    }

    async fn publish_signal(&self, to: NodeId, signal: &Signal) -> Result<(), PublishError> {
        // The channel of a node has a valid name if the hub has one.
        let Ok(channel) = self.protocol.node(to) else {
            return Ok(());
        };
        let bytes = self.protocol.encode_signal(signal);
        self.backplane.publish(&channel, bytes).await
    }
}

const fn is_cut_off(kind: PublishErrorKind) -> bool {
    matches!(
        kind,
        PublishErrorKind::NotSent(NotSent::Unavailable) | PublishErrorKind::Unknown(_)
    )
}

fn not_joined(error: HubError) -> Refusal {
    match error {
        HubError::Disconnected => Refusal::UnknownConnection,
        error => Refusal::Failed(error.to_string()),
    }
}
