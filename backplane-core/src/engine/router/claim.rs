//! How channels are added to a subscription: a [`Claim`] for each call, until it returns.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::ids::ById;
use super::{Member, Router, Routes, SubscriptionId};
use crate::error::SubscribeErrorKind;
use crate::name::Channel;

/// What [`Router::claim`] leads to.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// Everything is in force already.
    InForce,
    /// It takes effect with the reconnection.
    Deferred,
    /// It is being done; the claim must be confirmed or dropped.
    Waiting(Claim, oneshot::Receiver<Result<(), SubscribeErrorKind>>),
}

/// The new members of a call that has not returned; dropping it takes them back (rule S7).
#[derive(Debug)]
pub(crate) struct Claim {
    router: Arc<Router>,
    id: SubscriptionId,
    members: Vec<(Channel, u64)>,
}

/// A call that waits until so many members are in force.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) remaining: usize,
    pub(super) done: Answer,
}

/// Calls to be answered, when the table is not locked any longer.
#[derive(Debug, Default)]
pub(super) struct Settled(Vec<(Answer, Result<(), SubscribeErrorKind>)>);

pub(super) type Waiters = HashMap<u64, Waiter, ById>;

type Answer = oneshot::Sender<Result<(), SubscribeErrorKind>>;

impl Router {
    /// Adds channels to a subscription.
    pub(crate) fn claim(
        self: &Arc<Self>,
        id: SubscriptionId,
        channels: &[Channel],
        deferred: bool,
    ) -> Result<Claimed, SubscribeErrorKind> {
        let mut guard = self.write();
        let table = &mut *guard;
        let Some(local) = table.subscriptions.get_mut(&id) else {
            return Err(SubscribeErrorKind::Closed);
        };
        let live = self.live.is_some();
        if !live && !deferred && !channels.is_empty() {
            return Err(SubscribeErrorKind::Unavailable);
        }
        let wait = self.next_id();
        let (mut claimed, mut remaining) = (Vec::new(), 0);
        local.channels.reserve(channels.len());
        // One that is named twice is claimed and waited for twice.
        for channel in channels {
            let route = table.routes.get_or_add(channel);
            let mut route = route.lock();
            if route.members.is_empty() {
                table.occupied += 1;
            }
            let (member, in_force) = route.members.get_or_add(id, || {
                local.channels.insert(channel.clone());
                local.member(id)
            });
            if !live {
                member.confirmed = true;
            } else if !in_force || !member.confirmed {
                // Also one that is in force already, but for a call that may still be cancelled.
                let pending = member.pend(wait);
                pending.claims += 1;
                claimed.push((channel.clone(), pending.token));
            }
            if in_force {
                continue;
            }
            if live {
                member.pend(wait).waiters.push(wait);
                remaining += 1;
            }
            if member
                .pending()
                .is_none_or(|pending| pending.plan.is_none())
            {
                route.touch(channel, &mut table.dirty);
            }
        }
        if !live && !channels.is_empty() {
            return Ok(Claimed::Deferred);
        }
        let (done, confirmed) = oneshot::channel();
        if remaining > 0 {
            table.waiters.insert(wait, Waiter { remaining, done });
        }
        drop(guard);
        let claim = Claim {
            router: Arc::clone(self),
            id,
            members: claimed,
        };
        if remaining == 0 {
            claim.confirm();
            return Ok(Claimed::InForce);
        }
        self.changed.notify_one();
        Ok(Claimed::Waiting(claim, confirmed))
    }

    fn withdraw(&self, id: SubscriptionId, members: &[(Channel, u64)]) {
        let mut settled = Settled::default();
        let mut left = Vec::new();
        let mut guard = self.write();
        let table = &mut *guard;
        for (channel, token) in members {
            let unclaimed = change(&table.routes, channel, id, *token, |member| {
                member.release();
                !member.confirmed && !member.is_claimed()
            });
            if unclaimed == Some(true) {
                table.remove_member(channel, id, &mut settled);
                left.push(channel.clone());
            }
        }
        if let Some(local) = table.subscriptions.get_mut(&id) {
            for channel in &left {
                local.channels.remove(channel);
            }
            local.queue.purge(&left);
        }
        drop(guard);
        self.changed.notify_one();
    }

    fn confirm(&self, id: SubscriptionId, members: &[(Channel, u64)]) {
        let table = self.write();
        for (channel, token) in members {
            change(&table.routes, channel, id, *token, |member| {
                member.release();
                member.confirmed = true;
            });
        }
    }
}

impl Claim {
    /// The call succeeded: the members stay.
    pub(crate) fn confirm(mut self) {
        let members = std::mem::take(&mut self.members);
        self.router.confirm(self.id, &members);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.members.is_empty() {
            self.router.withdraw(self.id, &self.members);
        }
    }
}

impl Settled {
    /// One member that a call waits for has this result.
    pub(super) fn settle(
        &mut self,
        waiters: &mut Waiters,
        wait: u64,
        result: Result<(), SubscribeErrorKind>,
    ) {
        let Some(waiter) = waiters.get_mut(&wait) else {
            return;
        };
        waiter.remaining -= 1;
        if (result.is_err() || waiter.remaining == 0)
            && let Some(waiter) = waiters.remove(&wait)
        {
            self.0.push((waiter.done, result));
        }
    }

    /// All calls fail in this way.
    pub(super) fn fail_all(&mut self, waiters: &mut Waiters, kind: SubscribeErrorKind) {
        let failed = std::mem::take(waiters).into_values();
        self.0.extend(failed.map(|waiter| (waiter.done, Err(kind))));
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        for (answer, result) in self.0.drain(..) {
            // The caller may have given up; its claim takes the members back.
            let _ = answer.send(result);
        }
    }
}

/// Changes the member that a claim is for, if it has not left since.
fn change<T>(
    routes: &Routes,
    channel: &Channel,
    id: SubscriptionId,
    token: u64,
    change: impl FnOnce(&mut Member) -> T,
) -> Option<T> {
    let mut route = routes.of(channel)?.lock();
    let (member, _) = route.members.get_mut(id)?;
    member.has_token(token).then(|| change(member))
}
