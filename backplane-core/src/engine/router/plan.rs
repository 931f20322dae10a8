//! What the supervisor does with the routes: tell the broker what has changed, and say when a link
//! is in force and when it is gone.

use super::{Router, Settled, Wake, lock};
use crate::driver::BrokerChannel;
use crate::engine::fate::LinkId;
use crate::error::SubscribeErrorKind;
use crate::message::{Gap, OutageAccount};

/// What the broker is to be told next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    id: u64,
    /// Channels to subscribe.
    pub(crate) subscribe: Vec<BrokerChannel>,
    /// Channels that are subscribed already and have new members: these wait for a round trip, so
    /// that nothing published before reaches them (rule D6).
    pub(crate) refresh: Vec<BrokerChannel>,
    /// Channels to unsubscribe.
    pub(crate) unsubscribe: Vec<BrokerChannel>,
}

impl Plan {
    /// How many channels it is about.
    pub(crate) fn len(&self) -> usize {
        self.subscribe.len() + self.refresh.len() + self.unsubscribe.len()
    }
}

impl Router {
    /// Resolves when there may be a plan.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes every route part of the coming plans, and says how many these are.
    pub(crate) fn plan_all(&self) -> usize {
        let mut guard = self.write();
        let table = &mut *guard;
        table.dirty.clear();
        for (name, route) in &mut table.routes {
            route.dirty = true;
            table.dirty.push_back(name.clone());
        }
        table.dirty.len()
    }

    /// Takes what the broker is to be told next, up to `limit` channels.
    pub(crate) fn plan(&self, limit: usize) -> Option<Plan> {
        let mut guard = self.write();
        let table = &mut *guard;
        let mut plan = Plan {
            id: self.next_id(),
            ..Plan::default()
        };
        while plan.len() < limit {
            let Some(name) = table.dirty.pop_front() else {
                break;
            };
            let Some(route) = table.routes.get_mut(&name) else {
                continue;
            };
            route.dirty = false;
            for member in route.members.iter_mut().filter(|m| m.since.is_none()) {
                member.plan = Some(plan.id);
            }
            match (route.members.is_empty(), route.on_broker) {
                (false, false) => plan.subscribe.push(name),
                (false, true) => {
                    if route.members.iter().any(|m| m.since.is_none()) {
                        plan.refresh.push(name);
                    }
                }
                (true, true) => plan.unsubscribe.push(name),
                (true, false) => {
                    table.routes.remove(&name);
                }
            }
        }
        (plan.len() > 0).then_some(plan)
    }

    /// A plan was done on this link, except for the channels that the broker refused.
    pub(crate) fn done(&self, plan: &Plan, refused: &[BrokerChannel], link: LinkId) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        for name in plan.subscribe.iter().chain(&plan.refresh) {
            let Some(route) = table.routes.get_mut(name) else {
                continue;
            };
            let result = if refused.contains(name) {
                Err(SubscribeErrorKind::Refused)
            } else {
                route.on_broker = true;
                Ok(())
            };
            for member in route.members.iter_mut().filter(|m| m.plan == Some(plan.id)) {
                member.plan = None;
                if result.is_ok() {
                    member.since = Some(link);
                }
                for wait in member.waiters.drain(..) {
                    settled.settle(&mut table.waiters, wait, result);
                }
            }
        }
        for name in &plan.unsubscribe {
            if let Some(route) = table.routes.get_mut(name) {
                route.on_broker = false;
                route.heard_mut().clear();
                if route.members.is_empty() {
                    table.routes.remove(name);
                }
            }
        }
    }

    /// The first of these channels that some subscription holds from before.
    pub(crate) fn first_held<'a>(
        &self,
        channels: &'a [BrokerChannel],
        link: LinkId,
    ) -> Option<&'a BrokerChannel> {
        let table = self.read();
        channels.iter().find(|name| {
            table.routes.get(*name).is_some_and(|route| {
                route
                    .members
                    .iter()
                    .any(|m| m.since.is_some_and(|since| since < link))
            })
        })
    }

    /// The node is attached through this link: deliveries count from now on, and every subscription that was in
    /// force before the outage has its gap first (rule L5).
    pub(crate) fn go_live(&self, link: LinkId) {
        let mut wake = Wake::default();
        let mut table = self.write();
        table.live = Some(link);
        for local in table.subscriptions.values_mut().filter(|s| s.owes_gap) {
            local.owes_gap = false;
            let account = OutageAccount::default();
            *lock(&local.inbox.account) = Some(account.clone());
            if local
                .inbox
                .queue
                .push_gap_then(Gap::outage(account), &mut wake)
            {
                self.counters.gaps.add(1);
            }
        }
    }

    /// The link is gone: the node is not attached any longer, or could not be attached.
    pub(crate) fn go_down(&self, link: LinkId) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        let was_live = table.live.take().is_some();
        table.dirty.clear();
        table.routes.retain(|_, route| !route.members.is_empty());
        for route in table.routes.values_mut() {
            route.on_broker = false;
            route.dirty = false;
            for member in &mut route.members {
                member.plan = None;
                member.waiters.clear();
                if !was_live && member.since == Some(link) {
                    member.since = None;
                }
                if member.since.is_some()
                    && let Some(local) = table.subscriptions.get_mut(&member.id)
                {
                    local.owes_gap = true;
                }
            }
        }
        for (_, waiter) in table.waiters.drain() {
            settled
                .0
                .push((waiter.done, Err(SubscribeErrorKind::Unavailable)));
        }
    }

    /// The node is closed: every subscription ends after what it has received (rule C1).
    pub(crate) fn close(&self) {
        let (mut settled, mut wake) = (Settled::default(), Wake::default());
        let mut guard = self.write();
        let table = &mut *guard;
        table.closed = true;
        table.live = None;
        table.routes.clear();
        table.dirty.clear();
        for (_, local) in table.subscriptions.drain() {
            local.inbox.queue.close_then(&mut wake);
        }
        for (_, waiter) in table.waiters.drain() {
            settled
                .0
                .push((waiter.done, Err(SubscribeErrorKind::Closed)));
        }
    }
}
