//! Questions to all nodes (rule H21).

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout_at};

use super::answers::Answers;
use super::ask::answer;
use super::error::RequestError;
use super::inner::Inner;
use super::payload::Payload;
use super::requests::{Missing, Outcome};
use super::send::check_name;
use super::signal::{ConnectionInfo, Query, Reply, Request, Signal};
use super::target::Target;
use super::wire::Addresses;
use crate::engine::ById;
use crate::error::{NotSent, PublishErrorKind};
use crate::name::NodeId;

/// What the other nodes said.
struct Gathered {
    replies: Vec<(NodeId, Vec<Reply>)>,
    missing: Vec<(NodeId, Missing)>,
    settled: bool,
}

impl Inner {
    pub(super) async fn count(&self, target: Target) -> Result<Answers<u64>, RequestError> {
        let target = checked(target)?;
        let gathered = self.gather(Request::Count(query(&target))).await?;
        let own = self.count_here(&query(&target));
        Ok(
            gathered.into_answers(self.node, own, |_, replies| match replies.last() {
                Some(Reply::Count(count)) => Some(*count),
                _ => None,
            }),
        )
    }

    pub(super) async fn connections(
        &self,
        target: Target,
    ) -> Result<Answers<Vec<ConnectionInfo>>, RequestError> {
        let target = checked(target)?;
        let gathered = self.gather(Request::List(query(&target))).await?;
        let own = self.list_here(&query(&target));
        Ok(gathered.into_answers(self.node, own, |_, replies| {
            let mut all = Vec::new();
            for reply in replies {
                match reply {
                    Reply::Connections { list, .. } => all.extend(list),
                    _ => return None,
                }
            }
            Some(all)
        }))
    }

    pub(super) async fn ask_all(
        &self,
        question: Payload,
    ) -> Result<Answers<Result<Payload, RequestError>>, RequestError> {
        let others = self.gather(Request::Ask(question.clone()));
        let (own, gathered) = tokio::join!(self.ask_here(question), others);
        Ok(gathered?.into_answers(self.node, own, |node, mut replies| {
            replies.pop().map(|reply| answer(node, reply))
        }))
    }

    /// Asks all other nodes that are there, and waits for each of them.
    async fn gather(&self, request: Request) -> Result<Gathered, RequestError> {
        let patience = self.timing.request_timeout;
        let deadline = Instant::now() + patience;
        // Those who are known have the rest of the time for their answers.
        let mut settled = self.presence.settle(deadline - patience / 8).await;
        if !settled && self.presence.lock().peers().next().is_none() {
            settled = self.presence.settle(deadline).await;
        }
        let (mut waiting, attached, alone) = {
            // One that goes from now on is not waited for.
            let roster = self.presence.lock();
            let nodes = roster.peers().map(|(node, _)| node);
            let waiting = self.requests.open(nodes, self.generation())?;
            (
                waiting,
                roster.is_attached(),
                roster.peers().next().is_none(),
            )
        };
        let outcome = match (alone, attached) {
            (true, _) => Outcome::default(),
            (false, false) => waiting.take(Missing::Outage),
            (false, true) => {
                let id = waiting.id;
                let bytes = self.protocol.encode_signal(&Signal::Request {
                    id,
                    patience,
                    request,
                });
                let publish = self.backplane.publish(self.protocol.all(), bytes);
                match timeout_at(deadline, publish).await {
                    Err(_) => waiting.take(Missing::TimedOut),
                    Ok(Ok(())) => {
                        self.spoke.store(true, Ordering::Relaxed);
                        waiting.over(deadline).await?;
                        waiting.take(Missing::TimedOut)
                    }
                    Ok(Err(error)) if is_too_large(error.kind()) => {
                        return Err(RequestError::Publish(error));
                    }
                    Ok(Err(_)) => waiting.take(Missing::Outage),
                }
            }
        };
        Ok(Gathered::of(outcome, settled))
    }
}

impl Gathered {
    fn of(outcome: Outcome, settled: bool) -> Self {
        let mut replies: Vec<(NodeId, Vec<Reply>)> = Vec::new();
        let mut places: HashMap<NodeId, usize, ById> = HashMap::default();
        for (node, reply) in outcome.replies {
            let place = *places.entry(node).or_insert_with(|| {
                replies.push((node, Vec::new()));
                replies.len() - 1
            });
            replies[place].1.push(reply);
        }
        Self {
            replies,
            missing: outcome.missing,
            settled,
        }
    }

    /// What each node said, in the caller's terms; whatever cannot be said in them is missing.
    fn into_answers<T>(
        self,
        me: NodeId,
        own: T,
        read: impl Fn(NodeId, Vec<Reply>) -> Option<T>,
    ) -> Answers<T> {
        let mut answers = Answers {
            answers: vec![(me, own)],
            missing: self.missing,
            settled: self.settled,
        };
        for (node, replies) in self.replies {
            match read(node, replies) {
                Some(answer) => answers.answers.push((node, answer)),
                None => answers.missing.push((node, Missing::Refused)),
            }
        }
        answers
    }
}

fn checked(target: Target) -> Result<Target, RequestError> {
    let mut addresses = target.include.iter().chain(&target.except);
    addresses.try_for_each(check_name)?;
    Ok(target.simplified())
}

fn query(target: &Target) -> Query {
    Query {
        targets: Addresses::of(&target.include),
        except: Addresses::of(&target.except),
    }
}

pub(super) const fn is_too_large(kind: PublishErrorKind) -> bool {
    matches!(kind, PublishErrorKind::NotSent(NotSent::TooLarge { .. }))
}
