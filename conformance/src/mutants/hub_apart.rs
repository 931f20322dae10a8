//! Wrong at H25, H26 and H27: hubs of other names, processes without connections, and messages that are none.

use async_trait::async_trait;
use backplane_core::hub::{HubStats, Outbound};

use super::harness::Wrong;
use super::hubs::{Here, HubTwist};
use super::{Mutant, mutant};
use crate::hub::{Address, HubClient, HubSpec};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "hubs-have-no-names",
        "H25",
        "of hub \"chat\" should get",
        "all hubs of a backplane are one",
        || Wrong::new().hubs(Named(|_| "hub".to_owned())),
    ),
    mutant!(
        "names-of-hubs-fold-case",
        "H25",
        "of hub \"chat\" should get",
        "names of hubs are compared in lower case",
        || Wrong::new().hubs(Named(|name| name.to_lowercase())),
    ),
    mutant!(
        "the-name-of-a-hub-ends-at-a-colon",
        "H25",
        "of hub \"chat\" should get",
        "what follows a colon in the name of a hub is passed over",
        || Wrong::new().hubs(Named(|name| {
            let (name, _) = name.split_once(':').unwrap_or((name, ""));
            name.to_owned()
        })),
    ),
    mutant!(
        "who-has-no-connections-sends-nothing",
        "H26",
        "end 1\" did not reach a0",
        "a node without connections is taken for one that is not needed",
        || Wrong::new().sends_to(|here, to| match here.locals().is_empty() {
            true => vec![],
            false => vec![to],
        }),
    ),
    mutant!(
        "who-has-no-connections-knows-no-users",
        "H26",
        "should get 1 times, and got 0 times",
        "where a user is, is only known to nodes that have users",
        || Wrong::new().sends_to(|here, mut to| {
            if here.locals().iter().all(|it| it.user.is_none()) {
                to.include.retain(|it| !matches!(it, Address::User(_)));
            }
            vec![to]
        }),
    ),
    mutant!(
        "malformed-hub-messages-are-not-counted",
        "H27",
        "0 newer messages were sent",
        "what is no message of a hub is skipped in silence",
        || Wrong::new().hubs(Counts(|stats| stats.malformed = 0)),
    ),
    mutant!(
        "newer-hub-messages-are-malformed",
        "H27",
        "1 newer messages were sent",
        "a newer version is not told apart from rubbish",
        || Wrong::new().hubs(Counts(|stats| {
            stats.malformed += stats.incompatible;
            stats.incompatible = 0;
        })),
    ),
    mutant!(
        "a-malformed-hub-message-ends-the-connections",
        "H27",
        "was ended before",
        "a node that was sent rubbish gives up",
        || Wrong::new().hubs(GivesUp),
    ),
];

/// Makes hubs of another name.
struct Named(fn(&str) -> String);

impl HubTwist for Named {
    fn spec(&self, asked: HubSpec) -> HubSpec {
        HubSpec {
            name: (self.0)(&asked.name),
            ..asked
        }
    }
}

/// Counts something else.
struct Counts(fn(&mut HubStats));

impl HubTwist for Counts {
    fn stats(&self, mut stats: HubStats) -> HubStats {
        (self.0)(&mut stats);
        stats
    }
}

/// Has ended once something malformed came.
struct GivesUp;

#[async_trait]
impl HubTwist for GivesUp {
    async fn recv(&self, here: &Here, client: &mut dyn HubClient) -> Option<Outbound> {
        match here.hub.stats().malformed {
            0 => client.recv().await,
            _ => None,
        }
    }
}
