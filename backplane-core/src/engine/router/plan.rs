//! What the supervisor does with the routes: tell the broker what has changed, and say when a link
//! is in force and when it is gone.

use std::collections::VecDeque;

use super::{Router, Settled, Wakes};
use crate::driver::BrokerChannel;
use crate::engine::fate::LinkId;
use crate::error::SubscribeErrorKind;
use crate::name::Channel;

/// What the broker is to be told next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    id: u64,
    /// Channels to subscribe.
    pub(crate) subscribe: Vec<BrokerChannel>,
    /// Channels that are subscribed already and have new members: these wait for a round trip, so
    /// that nothing published before reaches them (rule D6).
    pub(crate) refresh: Vec<Channel>,
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

    /// Resolves when a plan has left enough for another one at the same time.
    pub(crate) async fn backlog(&self) {
        self.backlog.notified().await;
    }

    /// Makes every route part of the coming plans, and says how many these are.
    pub(crate) fn plan_all(&self) -> usize {
        let mut guard = self.write();
        let table = &mut *guard;
        table.dirty.clear();
        table.dirty.reserve(table.routes.len());
        for route in table.routes.iter() {
            route.lock().dirty = true;
            table.dirty.push_back(route.channel.clone());
        }
        table.dirty.len()
    }

    /// Takes what the broker is to be told next, up to `limit` channels; nothing, when fewer than `least` wait.
    ///
    /// A channel of a plan is in no other one until that plan is [done](Self::done).
    pub(crate) fn plan(&self, limit: usize, least: usize) -> Option<Plan> {
        let mut guard = self.write();
        let table = &mut *guard;
        if table.dirty.len() < least {
            return None;
        }
        let mut plan = Plan {
            id: self.next_id(),
            ..Plan::default()
        };
        while plan.len() < limit {
            let Some(channel) = table.dirty.pop_front() else {
                break;
            };
            let Some(route) = table.routes.of(&channel) else {
                continue;
            };
            let mut route = route.lock();
            // One that was forgotten, and came again, may stand here twice.
            if !route.dirty {
                continue;
            }
            route.dirty = false;
            match (route.members.is_empty(), route.on_broker) {
                (false, false) => plan.subscribe.push(self.namespace.name(&channel)),
                (false, true) if !route.members.has_waiting() => continue,
                (false, true) => plan.refresh.push(channel),
                (true, true) => plan.unsubscribe.push(self.namespace.name(&channel)),
                (true, false) => {
                    drop(route);
                    table.routes.remove(channel.as_str().as_bytes());
                    continue;
                }
            }
            route.planned = true;
            for member in route.members.waiting_mut() {
                member.pend(plan.id).plan = Some(plan.id);
            }
        }
        if table.dirty.len() >= limit {
            self.backlog.notify_one();
        }
        (plan.len() > 0).then_some(plan)
    }

    /// A plan was done on this link, except for the channels that the broker refused, which stand in the order of the
    /// plan.
    pub(crate) fn done(&self, plan: &Plan, refused: &[BrokerChannel], link: LinkId) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        let mut refused = refused.iter().peekable();
        let subscribed = plan.subscribe.iter().map(|name| {
            let result = match refused.next_if(|refused| *refused == name) {
                Some(_) => Err(SubscribeErrorKind::Refused),
                None => Ok(()),
            };
            (self.local(name), result)
        });
        let refreshed = plan.refresh.iter();
        let refreshed = refreshed.map(|channel| (channel.as_str().as_bytes(), Ok(())));
        for (name, result) in subscribed.chain(refreshed) {
            let Some(route) = table.routes.get(name) else {
                continue;
            };
            let channel = &route.channel;
            let mut route = route.lock();
            route.on_broker |= result.is_ok();
            let in_force = result.is_ok().then_some(link);
            route.members.planned(plan.id, in_force, |wait| {
                settled.settle(&mut table.waiters, wait, result);
            });
            route.planned = false;
            if route.dirty {
                // What has come in since it became part of the plan is next.
                table.dirty.push_back(channel.clone());
            }
        }
        for name in &plan.unsubscribe {
            let name = self.local(name);
            let Some(route) = table.routes.get(name) else {
                continue;
            };
            let channel = &route.channel;
            let mut route = route.lock();
            route.on_broker = false;
            route.planned = false;
            route.heard.clear();
            if route.members.is_empty() {
                drop(route);
                table.routes.remove(name);
            } else if route.dirty {
                table.dirty.push_back(channel.clone());
            }
        }
        table.trim();
        let more = !table.dirty.is_empty();
        drop(guard);
        if more {
            // Who was told of these changes found them in this plan, and waits again.
            self.changed.notify_one();
        }
    }

    /// The channel of a name that the node made itself.
    fn local<'a>(&self, name: &'a BrokerChannel) -> &'a [u8] {
        self.namespace.channel(name.as_bytes()).unwrap_or_default()
    }

    /// The first of these channels that some subscription holds from before.
    pub(crate) fn first_held<'a>(
        &self,
        channels: &'a [BrokerChannel],
        link: LinkId,
    ) -> Option<&'a BrokerChannel> {
        let table = self.read();
        channels.iter().find(|name| {
            table.routes.get(self.local(name)).is_some_and(|route| {
                let route = route.lock();
                let mut in_force = route.members.in_force().iter();
                in_force.any(|member| member.since() < link)
            })
        })
    }

    /// The node is attached through this link: deliveries count from now on, and every subscription that was in
    /// force before the outage has its gap first (rule L5).
    pub(crate) fn go_live(&self, link: LinkId) {
        let mut wakes = Wakes::default();
        let mut table = self.write();
        for local in table.subscriptions.values_mut().filter(|s| s.owes_gap) {
            local.owes_gap = false;
            let new = local.queue.push_outage_then(&mut wakes);
            self.counters.gaps.add(u64::from(new));
        }
        self.live.set(Some(link));
    }

    /// The link is gone: the node is not attached any longer, or could not be attached.
    pub(crate) fn go_down(&self, link: LinkId) {
        let mut settled = Settled::default();
        let mut guard = self.write();
        let table = &mut *guard;
        let was_live = self.live.is_some();
        self.live.set(None);
        table.dirty.clear();
        // Who delivers at this moment has a route locked: behind this, nothing more comes.
        table.routes.retain(|route| {
            route.on_broker = false;
            route.dirty = false;
            route.planned = false;
            if !was_live {
                route.members.undo(link);
            }
            for member in route.members.all_mut() {
                member.settle(|pending| {
                    pending.plan = None;
                    pending.waiters.clear();
                });
            }
            for member in route.members.in_force() {
                if let Some(local) = table.subscriptions.get_mut(&member.id) {
                    local.owes_gap = true;
                }
            }
        });
        settled.fail_all(&mut table.waiters, SubscribeErrorKind::Unavailable);
        table.trim();
    }

    /// The node is closed: every subscription ends after what it has received (rule C1).
    pub(crate) fn close(&self) {
        let (mut settled, mut wakes) = (Settled::default(), Wakes::default());
        let mut guard = self.write();
        let table = &mut *guard;
        table.closed = true;
        self.live.set(None);
        let members = table.routes.clear();
        table.routes.trim();
        table.occupied = 0;
        table.dirty = VecDeque::new();
        let subscriptions = std::mem::take(&mut table.subscriptions);
        for local in subscriptions.values() {
            local.queue.close_then(&mut wakes);
        }
        settled.fail_all(&mut table.waiters, SubscribeErrorKind::Closed);
        drop(guard);
        drop((members, subscriptions));
    }
}
