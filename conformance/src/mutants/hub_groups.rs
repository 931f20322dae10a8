//! Wrong at H11, H12, H13 and H15: groups, and what is left of a connection that is gone.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use backplane_core::hub::{ConnectionId, HubError, Payload, SendError, Sent};
use backplane_core::{NodeId, Subscribed};

use super::harness::Wrong;
use super::hubs::{Handle, Here, HubTwist, Known};
use super::node::lock;
use super::{Mutant, mutant};
use crate::hub::{Address, HubMember, Recipients};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "a-join-returns-before-it-is-done",
        "H11",
        "sent after they had joined: the first should get",
        "join does not wait for the broker's word",
        || Wrong::new().hubs(Late::new(What::Joins, false)),
    ),
    mutant!(
        "a-join-is-known-here-first",
        "H11",
        "sent after they had joined: the second should get",
        "a join is in force on its own node, and on the others a little later",
        || Wrong::new().hubs(Late::new(What::Joins, true)),
    ),
    mutant!(
        "a-leave-returns-before-it-is-done",
        "H12",
        "sent after they had left: who left first should get",
        "leave is a task that runs some time",
        || Wrong::new().hubs(Late::new(What::Leaves, false)),
    ),
    mutant!(
        "a-leave-is-known-here-first",
        "H12",
        "sent after they had left",
        "a leave is in force on its own node, and on the others a little later",
        || Wrong::new().hubs(Late::new(What::Leaves, true)),
    ),
    mutant!(
        "joins-are-counted",
        "H13",
        r#"left once, it is in ["g"]"#,
        "who joined three times has to leave three times",
        || Wrong::new().hubs(Counted::default()),
    ),
    mutant!(
        "a-second-join-is-an-error",
        "H13",
        "join failed",
        "who is in the group already is refused",
        || Wrong::new().hubs(Once),
    ),
    mutant!(
        "groups-fold-case",
        "H13",
        r#"group "g" should get only "group g", and got ["\"group g\"", "\"group G\""]"#,
        "names of groups are compared in lower case",
        || Wrong::new().hubs(Folded),
    ),
    mutant!(
        "a-group-is-a-user-too",
        "H13",
        "should get only",
        "groups and users have one space of names",
        || Wrong::new().sends_to(|_, to| match &to.include[..] {
            [Address::Group(name)] => {
                let user = Recipients::user(name);
                vec![to.and(user)]
            }
            _ => vec![to],
        }),
    ),
    mutant!(
        "who-is-gone-stays-in-its-groups",
        "H15",
        "on the broker, and it is",
        "a connection that its owner drops is not taken out of anything",
        || Wrong::new().hubs(Kept::default()),
    ),
    mutant!(
        "the-first-to-go-takes-its-user-along",
        "H15",
        "was ended before",
        "a disconnect ends the user, and not the connection",
        || Wrong::new().hubs(TakesAlong),
    ),
];

/// What comes late.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Joins,
    Leaves,
}

/// Does what was asked for when one send has passed, and says at once that it is done.
struct Late {
    what: What,
    /// Sends of the same node find it done.
    here_first: bool,
    pending: Mutex<Vec<Pending>>,
}

struct Pending {
    node: NodeId,
    who: Handle,
    group: String,
    passed: bool,
}

impl Late {
    const fn new(what: What, here_first: bool) -> Self {
        Self {
            what,
            here_first,
            pending: Mutex::new(Vec::new()),
        }
    }

    fn put_off(&self, here: &Here, who: &Handle, group: &str) {
        lock(&self.pending).push(Pending {
            node: here.node(),
            who: Handle::clone(who),
            group: group.to_owned(),
            passed: false,
        });
    }

    /// What a send on this node has to find done. For the others the send is the one that passes.
    async fn catch_up(&self, own: NodeId) -> Result<(), HubError> {
        let pending = std::mem::take(&mut *lock(&self.pending));
        let is_due = |it: &Pending| it.passed || self.here_first && it.node == own;
        let (due, later): (Vec<_>, Vec<_>) = pending.into_iter().partition(is_due);
        let passed = later.into_iter().map(|it| Pending { passed: true, ..it });
        lock(&self.pending).extend(passed);
        for Pending { who, group, .. } in due {
            match self.what {
                What::Joins => drop(who.join(&group).await?),
                What::Leaves => who.leave(&group).await?,
            }
        }
        Ok(())
    }
}

#[async_trait]
impl HubTwist for Late {
    async fn send(&self, here: &Here, to: Recipients, payload: Payload) -> Result<Sent, SendError> {
        let done = self.catch_up(here.node()).await;
        done.map_err(|_| SendError::Closed)?;
        here.hub.send(&to, payload).await
    }

    async fn join(&self, here: &Here, who: &Handle, group: &str) -> Result<Subscribed, HubError> {
        if self.what != What::Joins {
            return who.join(group).await;
        }
        self.put_off(here, who, group);
        Ok(Subscribed::InForce)
    }

    async fn leave(&self, here: &Here, who: &Handle, group: &str) -> Result<(), HubError> {
        if self.what != What::Leaves {
            return who.leave(group).await;
        }
        self.put_off(here, who, group);
        Ok(())
    }
}

/// Leaves a group when it was left as often as it was joined.
#[derive(Default)]
struct Counted(Mutex<HashMap<(ConnectionId, String), usize>>);

#[async_trait]
impl HubTwist for Counted {
    async fn join(&self, _here: &Here, who: &Handle, group: &str) -> Result<Subscribed, HubError> {
        *lock(&self.0)
            .entry((who.id(), group.to_owned()))
            .or_default() += 1;
        who.join(group).await
    }

    async fn leave(&self, _here: &Here, who: &Handle, group: &str) -> Result<(), HubError> {
        let left = match lock(&self.0).get_mut(&(who.id(), group.to_owned())) {
            Some(count) => {
                *count = count.saturating_sub(1);
                *count
            }
            None => 0,
        };
        match left {
            0 => who.leave(group).await,
            _ => Ok(()),
        }
    }
}

/// Joins once.
struct Once;

#[async_trait]
impl HubTwist for Once {
    async fn join(&self, _here: &Here, who: &Handle, group: &str) -> Result<Subscribed, HubError> {
        match who.groups().iter().any(|known| known == group) {
            true => Err(HubError::Disconnected),
            false => who.join(group).await,
        }
    }
}

/// Knows groups in lower case.
struct Folded;

#[async_trait]
impl HubTwist for Folded {
    async fn send(
        &self,
        here: &Here,
        mut to: Recipients,
        payload: Payload,
    ) -> Result<Sent, SendError> {
        for address in to.include.iter_mut().chain(&mut to.except) {
            if let Address::Group(name) = address {
                *name = name.to_lowercase();
            }
        }
        here.hub.send(&to, payload).await
    }

    async fn join(&self, _here: &Here, who: &Handle, group: &str) -> Result<Subscribed, HubError> {
        who.join(&group.to_lowercase()).await
    }

    async fn leave(&self, _here: &Here, who: &Handle, group: &str) -> Result<(), HubError> {
        who.leave(&group.to_lowercase()).await
    }
}

/// Never lets go of a connection.
#[derive(Default)]
struct Kept(Mutex<Vec<Box<dyn HubMember>>>);

impl HubTwist for Kept {
    fn gone(&self, _here: &Here, client: Box<dyn HubMember>, _who: &Known) {
        lock(&self.0).push(client);
    }
}

/// Ends the other connections of the user on the node.
struct TakesAlong;

impl HubTwist for TakesAlong {
    fn gone(&self, here: &Here, client: Box<dyn HubMember>, who: &Known) {
        drop(client);
        let same = |it: &Known| it.user.is_some() && it.user == who.user;
        for other in here.locals().into_iter().filter(same) {
            other.handle.disconnect();
        }
    }
}
