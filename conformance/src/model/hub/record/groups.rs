//! Who is in which group, as far as anybody can know.

use std::collections::HashSet;

use super::{ClientId, GROUPS, Group, Outcome, Record, Sure, Target, User};
use crate::model::ledger::{MessageId, PublisherId};

impl Record {
    /// A request about a client and a group is about to begin, through this hub.
    pub(in crate::model::hub) fn changing(&mut self, id: ClientId, group: Group, join: bool) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let membership = &mut client.groups[usize::from(group)];
        if membership.state == Sure::of(join) && membership.open.iter().all(|open| open.1 == join) {
            return;
        }
        membership.state = Sure::Maybe;
        self.unsure(id, group);
    }

    /// It has returned. `state` is what was known before it began.
    pub(in crate::model::hub) fn changed(
        &mut self,
        id: ClientId,
        group: Group,
        hub: PublisherId,
        join: bool,
        (before, outcome): (Sure, Outcome),
    ) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let membership = &mut client.groups[usize::from(group)];
        match outcome {
            Outcome::Done => {
                // Whatever this hub asked for before was done before, or is overtaken.
                membership.open.retain(|open| open.0 != hub);
                let agreed = membership.open.iter().all(|open| open.1 == join);
                membership.state = if agreed { Sure::of(join) } else { Sure::Maybe };
            }
            Outcome::NotDone => membership.state = before,
            Outcome::Unknown => {
                membership.open.push((hub, join));
                if before != Sure::of(join) {
                    membership.state = Sure::Maybe;
                }
            }
        }
    }

    /// What is known of a client and a group.
    pub(in crate::model::hub) fn is_in(&self, client: ClientId, group: Group) -> Sure {
        let client = self.clients.get(&client);
        client.map_or(Sure::No, |client| client.groups[usize::from(group)].state)
    }

    /// Whether the target means the client now.
    pub(in crate::model::hub) fn means(&self, to: &Target, id: ClientId) -> Sure {
        let Some(client) = self.clients.get(&id).filter(|client| !client.ended) else {
            return Sure::No;
        };
        to.means(id, client.user, &client.groups())
    }

    /// How many groups and users have a client on a hub: at least, and at most.
    pub(in crate::model::hub) fn rooms(&self, hub: PublisherId) -> (u64, u64) {
        let here = || self.clients.values().filter(|c| c.hub == hub && !c.ended);
        let users: HashSet<User> = here().filter_map(|client| client.user).collect();
        let groups = |least: Sure| {
            let is =
                |group: &u8| here().any(|client| client.groups[usize::from(*group)].state >= least);
            (0..GROUPS).filter(is).count() as u64
        };
        let users = users.len() as u64;
        (users + groups(Sure::Yes), users + groups(Sure::Maybe))
    }

    fn unsure(&mut self, id: ClientId, group: Group) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        for (hub, sender) in &mut self.senders {
            if self.local_first && *hub == client.hub {
                continue;
            }
            for (number, sent) in &mut sender.sent {
                let message = MessageId {
                    publisher: *hub,
                    number: *number,
                };
                let known = sent.known.get_mut(&id);
                if let Some(known) = known.filter(|_| !client.received.contains(&message)) {
                    known.groups[usize::from(group)] = Sure::Maybe;
                }
            }
        }
    }
}
