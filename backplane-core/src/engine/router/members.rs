//! The subscriptions on one route: [`Members`].

use std::collections::HashMap;
use std::{mem, slice};

use super::SubscriptionId;
use super::ids::ById;
use crate::engine::fate::LinkId;
use crate::queue::QueueWriter;

/// Up to so many members are found by looking at each.
const LISTED: usize = 16;

/// A subscription on a route.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: SubscriptionId,
    pub(super) queue: QueueWriter,
    /// The link on which it came into force; means nothing before.
    since: LinkId,
    /// `None` when nobody waits for it.
    pending: Option<Box<Pending>>,
    pub(super) without_own: bool,
    /// Whether a call that asked for it has succeeded.
    pub(super) confirmed: bool,
}

/// What is under way for a member.
#[derive(Debug)]
pub(super) struct Pending {
    /// Tells the member from one that left before it.
    pub(super) token: u64,
    /// The plan that brings it into force.
    pub(super) plan: Option<u64>,
    /// Calls that asked for it and have not returned.
    pub(super) claims: u32,
    /// Calls that wait until it is in force.
    pub(super) waiters: Vec<u64>,
}

/// The subscriptions on a route. Those in force come first, in no particular order.
///
/// Finding, adding and removing one, and bringing it into force, take the same time however many there are.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: List,
    in_force: usize,
}

#[derive(Debug, Default)]
enum List {
    #[default]
    None,
    One(Member),
    Many(Box<Many>),
}

#[derive(Debug)]
struct Many {
    members: Vec<Member>,
    /// Where each is, when they are more than a few; else empty.
    places: HashMap<SubscriptionId, usize, ById>,
}

impl Member {
    pub(super) const fn new(id: SubscriptionId, queue: QueueWriter, without_own: bool) -> Self {
        Self {
            id,
            queue,
            since: LinkId(0),
            pending: None,
            without_own,
            confirmed: false,
        }
    }

    /// The link on which it came into force, if it is.
    pub(super) const fn since(&self) -> LinkId {
        self.since
    }

    pub(super) fn pending(&self) -> Option<&Pending> {
        self.pending.as_deref()
    }

    /// What is under way for it; from now on something is. A token is needed if nothing was.
    pub(super) fn pend(&mut self, token: u64) -> &mut Pending {
        self.pending.get_or_insert_with(|| {
            Box::new(Pending {
                token,
                plan: None,
                claims: 0,
                waiters: Vec::new(),
            })
        })
    }

    /// Changes what is under way for it, if something is.
    pub(super) fn settle<T>(&mut self, change: impl FnOnce(&mut Pending) -> T) -> Option<T> {
        let pending = self.pending.as_deref_mut()?;
        let changed = change(pending);
        if pending.plan.is_none() && pending.claims == 0 && pending.waiters.is_empty() {
            self.pending = None;
        }
        Some(changed)
    }

    /// One of the calls that asked for it has returned.
    pub(super) fn release(&mut self) {
        self.settle(|pending| pending.claims = pending.claims.saturating_sub(1));
    }

    pub(super) fn has_token(&self, token: u64) -> bool {
        self.pending().is_some_and(|pending| pending.token == token)
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.pending().is_some_and(|pending| pending.claims > 0)
    }

    pub(super) fn into_waiters(self) -> Vec<u64> {
        self.pending
            .map_or_else(Vec::new, |pending| pending.waiters)
    }
}

impl Members {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.list, List::None)
    }

    /// Those in force.
    pub(super) fn in_force(&self) -> &[Member] {
        &self.all()[..self.in_force]
    }

    /// Whether some are not in force.
    pub(super) fn has_waiting(&self) -> bool {
        self.in_force < self.all().len()
    }

    /// Those not in force.
    pub(super) fn waiting_mut(&mut self) -> &mut [Member] {
        let in_force = self.in_force;
        &mut self.all_mut()[in_force..]
    }

    pub(super) fn all_mut(&mut self) -> &mut [Member] {
        match &mut self.list {
            List::None => &mut [],
            List::One(member) => slice::from_mut(member),
            List::Many(many) => &mut many.members,
        }
    }

    /// A member, and whether it is in force.
    pub(super) fn get_mut(&mut self, id: SubscriptionId) -> Option<(&mut Member, bool)> {
        let at = self.place(id)?;
        let in_force = at < self.in_force;
        Some((&mut self.all_mut()[at], in_force))
    }

    /// Whether a subscription is a member and not in force.
    pub(super) fn is_waiting(&self, id: SubscriptionId) -> bool {
        self.place(id).is_some_and(|at| at >= self.in_force)
    }

    /// The member of this subscription, made and not in force if there is none; and whether it is in force.
    pub(super) fn get_or_add(
        &mut self,
        id: SubscriptionId,
        make: impl FnOnce() -> Member,
    ) -> (&mut Member, bool) {
        let at = self.place(id).unwrap_or_else(|| {
            self.add(make());
            self.all().len() - 1
        });
        let in_force = at < self.in_force;
        (&mut self.all_mut()[at], in_force)
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) -> Option<Member> {
        let mut at = self.place(id)?;
        if at < self.in_force {
            self.in_force -= 1;
            self.swap(at, self.in_force);
            at = self.in_force;
        }
        self.swap(at, self.all().len() - 1);
        match mem::take(&mut self.list) {
            List::None => None,
            List::One(member) => Some(member),
            List::Many(mut many) => {
                let removed = many.pop();
                self.list = match many.members.len() {
                    1 => many.members.pop().map_or(List::None, List::One),
                    _ => List::Many(many),
                };
                removed
            }
        }
    }

    /// A plan was done on this link, or refused (`None`): brings its members into force, and says which calls had
    /// waited for them.
    pub(super) fn planned(&mut self, plan: u64, done: Option<LinkId>, mut waited: impl FnMut(u64)) {
        for at in self.in_force..self.all().len() {
            let member = &mut self.all_mut()[at];
            if member.pending().is_none_or(|p| p.plan != Some(plan)) {
                continue;
            }
            let waiters = member.settle(|pending| {
                pending.plan = None;
                mem::take(&mut pending.waiters)
            });
            waiters.into_iter().flatten().for_each(&mut waited);
            if let Some(link) = done {
                member.since = link;
                self.swap(at, self.in_force);
                self.in_force += 1;
            }
        }
    }

    /// Those that came into force on this link are not any longer.
    pub(super) fn undo(&mut self, link: LinkId) {
        for at in (0..self.in_force).rev() {
            if self.all()[at].since == link {
                self.in_force -= 1;
                self.swap(at, self.in_force);
            }
        }
    }

    fn add(&mut self, member: Member) {
        self.list = match mem::take(&mut self.list) {
            List::None => List::One(member),
            List::One(first) => List::Many(Box::new(Many {
                members: vec![first, member],
                places: HashMap::default(),
            })),
            List::Many(mut many) => {
                many.add(member);
                List::Many(many)
            }
        };
    }

    fn all(&self) -> &[Member] {
        match &self.list {
            List::None => &[],
            List::One(member) => slice::from_ref(member),
            List::Many(many) => &many.members,
        }
    }

    fn place(&self, id: SubscriptionId) -> Option<usize> {
        match &self.list {
            List::Many(many) if !many.places.is_empty() => many.places.get(&id).copied(),
            _ => self.all().iter().position(|member| member.id == id),
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        if let List::Many(many) = &mut self.list
            && a != b
        {
            many.members.swap(a, b);
            if !many.places.is_empty() {
                many.places.insert(many.members[a].id, a);
                many.places.insert(many.members[b].id, b);
            }
        }
    }
}

impl Many {
    fn add(&mut self, member: Member) {
        let (id, at) = (member.id, self.members.len());
        self.members.push(member);
        if !self.places.is_empty() {
            self.places.insert(id, at);
        } else if at >= LISTED {
            let each = self.members.iter().enumerate();
            self.places = each.map(|(at, member)| (member.id, at)).collect();
        }
    }

    /// Gives room back when only few are left of many.
    fn pop(&mut self) -> Option<Member> {
        let member = self.members.pop()?;
        self.places.remove(&member.id);
        let len = self.members.len();
        if len <= LISTED / 2 {
            self.places = HashMap::default();
        }
        if len * 4 <= self.members.capacity() {
            self.members.shrink_to(len * 2);
            self.places.shrink_to(len * 2);
        }
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::queue::queue;

    #[derive(Clone, Debug)]
    enum Op {
        Add(u64),
        Remove(u64),
        Plan,
        Done(bool),
        Undo,
    }

    fn op() -> impl Strategy<Value = Op> {
        let id = || 0..40_u64;
        prop_oneof![
            6 => id().prop_map(Op::Add),
            4 => id().prop_map(Op::Remove),
            2 => Just(Op::Plan),
            2 => any::<bool>().prop_map(Op::Done),
            1 => Just(Op::Undo),
        ]
    }

    /// Where a member stands.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Stands {
        Waiting,
        Planned,
        InForce,
    }

    proptest! {
        #[test]
        fn members_are_where_a_plain_map_has_them(ops in prop::collection::vec(op(), 1..300)) {
            let (mut members, mut model) = (Members::default(), BTreeMap::new());
            let link = LinkId(1);
            for op in ops {
                match op {
                    Op::Add(id) => {
                        let id = SubscriptionId(id);
                        let (member, _) =
                            members.get_or_add(id, || Member::new(id, queue(1, 1).0, false));
                        prop_assert_eq!(member.id, id);
                        model.entry(id.0).or_insert(Stands::Waiting);
                    }
                    Op::Remove(id) => {
                        let removed = members.remove(SubscriptionId(id)).map(|m| m.id.0);
                        prop_assert_eq!(removed, model.remove(&id).map(|_| id));
                    }
                    Op::Plan => {
                        for member in members.waiting_mut() {
                            let id = member.id.0;
                            let pending = member.pend(0);
                            pending.plan = Some(7);
                            pending.waiters = vec![id];
                        }
                        let waiting = model.values_mut().filter(|s| **s == Stands::Waiting);
                        waiting.for_each(|stands| *stands = Stands::Planned);
                    }
                    Op::Done(well) => {
                        let mut waited = Vec::new();
                        members.planned(7, well.then_some(link), |id| waited.push(id));
                        waited.sort_unstable();
                        let mut planned = Vec::new();
                        for (id, stands) in &mut model {
                            if *stands == Stands::Planned {
                                *stands = if well { Stands::InForce } else { Stands::Waiting };
                                planned.push(*id);
                            }
                        }
                        prop_assert_eq!(waited, planned);
                    }
                    Op::Undo => {
                        members.undo(link);
                        let in_force = model.values_mut().filter(|s| **s == Stands::InForce);
                        in_force.for_each(|stands| *stands = Stands::Waiting);
                    }
                }
                let mut in_force: Vec<_> = members.in_force().iter().map(|m| m.id.0).collect();
                in_force.sort_unstable();
                let expected = model.iter().filter(|(_, s)| **s == Stands::InForce);
                prop_assert_eq!(in_force, expected.map(|(id, _)| *id).collect::<Vec<_>>());
                prop_assert_eq!(members.is_empty(), model.is_empty());
                for id in 0..40 {
                    let found = members.get_mut(SubscriptionId(id)).map(|(m, f)| (m.id.0, f));
                    let expected = model.get(&id).map(|s| (id, *s == Stands::InForce));
                    prop_assert_eq!(found, expected);
                    let waits = expected.is_some_and(|(_, in_force)| !in_force);
                    prop_assert_eq!(members.is_waiting(SubscriptionId(id)), waits);
                }
            }
        }
    }

    #[test]
    fn one_member_needs_no_memory_of_its_own() {
        assert!(size_of::<Members>() <= 48, "{}", size_of::<Members>());
    }
}
