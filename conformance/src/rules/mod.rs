//! The rules, one file for each section of the contract.

mod backpressure;
mod batches;
mod cancelling;
mod churn;
mod closing;
mod delivery;
mod hub;
mod isolation;
mod limits;
mod loss;
mod malformed;
mod neighbours;
mod network;
mod order;
mod promise;
mod reconnection;
mod storm;
mod subscriptions;
mod together;
mod visibility;

use crate::rule::Rule;

/// All rules, in the order of the contract.
#[must_use]
pub fn all() -> Vec<Rule> {
    let mut all = [
        delivery::RULES,
        order::RULES,
        together::RULES,
        subscriptions::RULES,
        isolation::RULES,
        loss::RULES,
        reconnection::RULES,
        backpressure::RULES,
        closing::RULES,
        neighbours::RULES,
        cancelling::RULES,
        malformed::RULES,
        network::RULES,
        visibility::RULES,
    ]
    .concat();
    all.extend(hub::rules());
    all.sort_by_key(|rule| place(rule.id));
    all
}

/// The sections in the order of the contract.
const SECTIONS: &str = "DOSILRBCMVH";

/// Where in the contract a rule stands: its section, and its number there.
fn place(id: &str) -> (Option<usize>, Option<u32>) {
    let section = id.chars().next().and_then(|letter| SECTIONS.find(letter));
    let number = id.get(1..).and_then(|number| number.parse().ok());
    (section, number)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_in_the_order_of_the_contract_once_each() {
        let places: Vec<_> = all().iter().map(|rule| place(rule.id)).collect();
        assert!(
            places
                .iter()
                .all(|(section, number)| section.is_some() && number.is_some())
        );
        assert!(places.is_sorted_by(|one, next| one < next), "{places:?}");
        assert!(place("L9") < place("L11") && place("L11") < place("R1"));
    }
}
