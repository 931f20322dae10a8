//! The rules, one file for each section of the contract.

mod backpressure;
mod closing;
mod delivery;
mod isolation;
mod limits;
mod loss;
mod malformed;
mod order;
mod reconnection;
mod subscriptions;
mod visibility;

use crate::rule::Rule;

/// All rules, in the order of the contract.
#[must_use]
pub fn all() -> Vec<Rule> {
    [
        delivery::RULES,
        order::RULES,
        subscriptions::RULES,
        isolation::RULES,
        loss::RULES,
        reconnection::RULES,
        backpressure::RULES,
        closing::RULES,
        malformed::RULES,
        visibility::RULES,
    ]
    .concat()
}

/// The rules with these numbers, in the order of the contract; all when none is given.
///
/// # Errors
/// The first number that no rule has.
pub fn select(ids: &[String]) -> Result<Vec<Rule>, String> {
    let all = all();
    let known = |id: &String| all.iter().any(|rule| rule.id.eq_ignore_ascii_case(id));
    if let Some(unknown) = ids.iter().find(|id| !known(id)) {
        return Err(unknown.clone());
    }
    let wanted = |rule: &Rule| ids.iter().any(|id| rule.id.eq_ignore_ascii_case(id));
    Ok(all
        .into_iter()
        .filter(|rule| ids.is_empty() || wanted(rule))
        .collect())
}
