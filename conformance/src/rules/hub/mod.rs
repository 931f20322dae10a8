//! H: the hub. Trials see it through its [port](crate::hub), on whatever backend the harness has.

mod apart;
mod cast;
mod clients;
mod crowd;
mod groups;
mod invoke;
mod outage;
mod presence;
mod queries;
mod remote;
mod targets;

use crate::rule::Rule;

/// The rules of the section.
pub(super) fn rules() -> Vec<Rule> {
    [
        targets::RULES,
        groups::RULES,
        remote::RULES,
        outage::RULES,
        clients::RULES,
        invoke::RULES,
        presence::RULES,
        queries::RULES,
        apart::RULES,
    ]
    .concat()
}
