//! What this node has asked others and waits for: the pending [`Requests`].
//!
//! Replies are told apart by the node that sends them, not counted: one that comes twice, or too late, changes nothing, and
//! a node that goes ends the waiting for it at once (rules H14, H19 and H21). Whoever stops waiting leaves nothing
//! behind.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::signal::Reply;
use crate::engine::ById;
use crate::name::NodeId;

/// The requests of one node.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<Pending>);

#[derive(Debug)]
struct Pending {
    closed: bool,
    last_id: u64,
    by_id: HashMap<u64, Request, ById>,
}

#[derive(Debug)]
struct Request {
    /// At which attachment of this node it was made, if it was attached.
    made: Option<u64>,
    waiting: HashSet<NodeId, ById>,
    outcome: Outcome,
    done: Option<oneshot::Sender<()>>,
}

/// What became of a request, node by node.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// In the order in which they came. A long one has several parts.
    pub(super) replies: Vec<(NodeId, Reply)>,
    pub(super) missing: Vec<(NodeId, Missing)>,
}

/// Why a node has not replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// It left, or crashed.
    Gone,
    /// It was not asked, or its answer, or a part of it, may be lost: this node was not attached, or could not take it.
    Outage,
    /// It did not answer in time.
    TimedOut,
    /// It was asked, and refused: it is of a version that does not know the question.
    Refused,
}

/// A request that somebody waits for. Dropping it forgets the request.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    requests: &'a Requests,
    pub(super) id: u64,
    done: oneshot::Receiver<()>,
    over: bool,
}

/// The hub is closed.
#[derive(Debug)]
pub(super) struct Closed;

impl Default for Pending {
    fn default() -> Self {
        Self {
            closed: false,
            // An answer to an earlier hub of this node is none to this one.
            last_id: rand::random::<u64>() / 2,
            by_id: HashMap::default(),
        }
    }
}

impl Requests {
    /// Begins to wait for replies of these nodes, at this attachment of this node.
    pub(super) fn open(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        made: Option<u64>,
    ) -> Result<Waiting<'_>, Closed> {
        let (sender, done) = oneshot::channel();
        let mut pending = self.lock();
        if pending.closed {
            return Err(Closed);
        }
        pending.last_id += 1;
        let id = pending.last_id;
        let mut request = Request {
            made,
            waiting: nodes.into_iter().collect(),
            outcome: Outcome::default(),
            done: Some(sender),
        };
        let over = request.take_if_over();
        pending.by_id.insert(id, request);
        drop(pending);
        tell(over);
        Ok(Waiting {
            requests: self,
            id,
            done,
            over: false,
        })
    }

    /// A node replies. Says whether anybody waited for it.
    pub(super) fn reply(&self, from: NodeId, id: u64, reply: Reply) -> bool {
        let mut pending = self.lock();
        let Some(request) = pending.by_id.get_mut(&id) else {
            return false;
        };
        if !request.waiting.contains(&from) {
            return false;
        }
        if reply.is_last() {
            request.waiting.remove(&from);
        }
        let parts = match &reply {
            Reply::Connections { parts, .. } => *parts,
            _ => 0,
        };
        request.outcome.replies.push((from, reply));
        if parts > 0 {
            let came = request.outcome.replies.iter();
            let came = came.filter(|(node, _)| *node == from).count();
            if came as u64 != parts {
                request.outcome.missing.push((from, Missing::Outage));
            }
        }
        let over = request.take_if_over();
        drop(pending);
        tell(over);
        true
    }

    /// A node is gone: nobody waits for it any longer.
    pub(super) fn gone(&self, node: NodeId) {
        self.change_all(|request| {
            if request.waiting.remove(&node) {
                request.outcome.missing.push((node, Missing::Gone));
            }
        });
    }

    /// This node was not attached: replies that were on their way are lost, but not those to requests that were made at this
    /// attachment.
    pub(super) fn outage(&self, now: Option<u64>) {
        self.change_all(|request| {
            if request.made.is_some() && request.made != now {
                request.give_up(Missing::Outage);
            }
        });
    }

    /// Ends all waiting for ever.
    pub(super) fn close(&self) {
        let mut pending = self.lock();
        pending.closed = true;
        let requests = std::mem::take(&mut pending.by_id);
        drop(pending);
        drop(requests);
    }

    fn change_all(&self, change: impl Fn(&mut Request)) {
        let mut pending = self.lock();
        let requests = pending.by_id.values_mut();
        let over = requests.filter_map(|request| {
            change(request);
            request.take_if_over()
        });
        let over: Vec<_> = over.collect();
        drop(pending);
        tell(over);
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// Waits until every node has replied or is gone, or the time is over. Says whether nobody is waited for any more.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn over(&mut self, deadline: Instant) -> Result<bool, Closed> {
        if !self.over {
            match timeout_at(deadline, &mut self.done).await {
                Ok(Ok(())) => self.over = true,
                Ok(Err(_)) => {
                    self.over = true;
                    return Err(Closed);
                }
                Err(_) => {}
            }
        }
        Ok(self.over)
    }

    /// Ends the waiting: what came so far, and those who are missing, for this reason unless there is a better one.
    pub(super) fn take(&self, why: Missing) -> Outcome {
        let request = self.requests.lock().by_id.remove(&self.id);
        request.map_or_else(Outcome::default, |mut request| {
            request.give_up(why);
            request.outcome
        })
    }

    /// Both in one go.
    #[cfg(test)]
    async fn until(&mut self, deadline: Instant) -> Result<Outcome, Closed> {
        self.over(deadline).await?;
        Ok(self.take(Missing::TimedOut))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let request = self.requests.lock().by_id.remove(&self.id);
        drop(request);
    }
}

impl Request {
    fn give_up(&mut self, why: Missing) {
        let waiting = self.waiting.drain();
        self.outcome.missing.extend(waiting.map(|node| (node, why)));
    }

    /// Gives whom to tell, when no lock is held: whoever is woken may run code of anybody's.
    fn take_if_over(&mut self) -> Option<oneshot::Sender<()>> {
        let is_over = self.waiting.is_empty();
        self.done.take_if(|_| is_over)
    }
}

fn tell(over: impl IntoIterator<Item = oneshot::Sender<()>>) {
    for done in over {
        // Whoever has stopped waiting does not want to know.
        let _ = done.send(());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Arc, mpsc};
    use std::task::{Context, Wake, Waker};
    use std::time::Duration;

    use super::*;
    use crate::subscription::Subscribed;

    const DONE: Reply = Reply::Done(Subscribed::InForce);

    fn nodes<const N: usize>() -> [NodeId; N] {
        std::array::from_fn(|n| NodeId::from_u64(n as u64))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn each_node_is_heard_once_and_late_or_foreign_replies_change_nothing() {
        let requests = Requests::default();
        let [a, b, stranger] = nodes();
        let mut waiting = requests.open([a, b], Some(1)).unwrap();
        let id = waiting.id;
        assert!(!requests.reply(stranger, id, DONE) && !requests.reply(a, id + 1, DONE));
        assert!(requests.reply(b, id, Reply::Count(2)));
        assert!(!requests.reply(b, id, Reply::Count(3)));
        let begin = Instant::now();
        assert!(requests.reply(a, id, Reply::Count(1)));
        let outcome = waiting.until(soon()).await.unwrap();
        assert_eq!(
            outcome.replies,
            [(b, Reply::Count(2)), (a, Reply::Count(1))]
        );
        assert!(outcome.missing.is_empty() && waiting.over);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert!(!requests.reply(a, id, DONE));
        assert_eq!(requests.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_goes_ends_the_waiting_for_it_and_a_silent_one_is_named() {
        let requests = Requests::default();
        let [a, b, c] = nodes();
        let mut waiting = requests.open([a, b, c], Some(1)).unwrap();
        requests.gone(b);
        assert!(requests.reply(a, waiting.id, DONE));
        let begin = Instant::now();
        let outcome = waiting.until(soon()).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
        assert_eq!(outcome.replies, [(a, DONE)]);
        assert_eq!(
            outcome.missing,
            [(b, Missing::Gone), (c, Missing::TimedOut)]
        );
        assert!(!waiting.over);

        let mut waiting = requests.open([a, b], Some(1)).unwrap();
        let begin = Instant::now();
        requests.gone(a);
        requests.outage(Some(1));
        assert!(!waiting.over(Instant::now()).await.unwrap());
        requests.outage(Some(2));
        let outcome = waiting.until(soon()).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(outcome.missing, [(a, Missing::Gone), (b, Missing::Outage)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_in_parts_is_over_with_its_last_part() {
        let requests = Requests::default();
        let [a] = nodes();
        let part = |parts| Reply::Connections {
            list: Vec::new(),
            parts,
        };
        let mut waiting = requests.open([a], Some(1)).unwrap();
        assert!(requests.reply(a, waiting.id, part(0)));
        assert!(requests.reply(a, waiting.id, part(2)));
        assert!(!requests.reply(a, waiting.id, part(2)));
        assert_eq!(waiting.until(soon()).await.unwrap().replies.len(), 2);
    }

    /// Looks at the requests when it is woken, as an executor may that goes on with the task at once.
    struct Curious(Arc<Requests>, mpsc::Sender<usize>);

    impl Wake for Curious {
        fn wake(self: Arc<Self>) {
            self.1.send(self.0.len()).unwrap();
        }
    }

    #[test]
    fn whoever_waits_is_woken_with_no_lock_held() {
        let [a] = nodes();
        let ends: [fn(&Requests, u64); 3] = [
            |requests, id| assert!(requests.reply(NodeId::from_u64(0), id, DONE)),
            |requests, _| requests.gone(NodeId::from_u64(0)),
            |requests, _| requests.outage(None),
        ];
        for end in ends {
            let requests = Arc::new(Requests::default());
            let (tell, told) = mpsc::channel();
            // One that waits for a lock that it holds itself never ends.
            std::thread::spawn(move || {
                let waker = Waker::from(Arc::new(Curious(Arc::clone(&requests), tell)));
                let mut waiting = requests.open([a], Some(1)).unwrap();
                let mut context = Context::from_waker(&waker);
                assert!(Pin::new(&mut waiting.done).poll(&mut context).is_pending());
                end(&requests, waiting.id);
            });
            assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(1));
        }
    }

    #[tokio::test]
    async fn whoever_stops_waiting_leaves_nothing_behind_and_closing_ends_all() {
        let requests = Requests::default();
        let [a] = nodes();
        drop(requests.open([a], Some(1)).unwrap());
        let mut waiting = requests.open([a], Some(1)).unwrap();
        assert!(futures_util::poll!(Box::pin(waiting.until(soon()))).is_pending());
        drop(waiting);
        assert_eq!(requests.len(), 0);
        let mut waiting = requests.open([a], Some(1)).unwrap();
        requests.close();
        assert!(waiting.until(soon()).await.is_err());
        assert!(requests.open([a], Some(1)).is_err());
        // Nobody to wait for.
        let none = Requests::default();
        assert!(none.open([], Some(1)).unwrap().until(soon()).await.is_ok());
    }
}
