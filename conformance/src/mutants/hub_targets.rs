//! Wrong at H1 to H10: who gets what is sent.

use super::harness::Wrong;
use super::hubs::{Here, connections};
use super::{Mutant, mutant};
use crate::hub::{Address, Recipients};

pub(super) const MUTANTS: &[Mutant] = &[
    mutant!(
        "all-are-those-of-this-node",
        "H1",
        "did not reach a1",
        "a send to all is not told to the other nodes",
        || Wrong::new().sends_to(|here, to| match to == Recipients::all() {
            true => vec![connections(&here.locals())],
            false => vec![to],
        }),
    ),
    mutant!(
        "all-are-those-of-the-other-nodes",
        "H1",
        "did not reach a0",
        "the sender's own node takes a send to all for an echo",
        || Wrong::new().sends_to(|here, to| match to == Recipients::all() {
            true => vec![to.but(connections(&here.locals()))],
            false => vec![to],
        }),
    ),
    mutant!(
        "all-and-more-is-more-than-one-send",
        "H1",
        "should get 1 times, and got 2 times",
        "what names everybody and somebody is sent to each of the two",
        || Wrong::new().sends_to(|_, to| match to.include.contains(&Address::All) {
            true => one_each(to),
            false => vec![to],
        }),
    ),
    mutant!(
        "whom-all-leaves-out-is-left-out-here",
        "H2",
        "should get 0 times, and got 1 times",
        "the exceptions of a send to all are not told to the other nodes",
        || Wrong::new().sends_to(|here, to| match is_all(&to) && !to.except.is_empty() {
            true => here_only(here, to),
            false => vec![to],
        }),
    ),
    mutant!(
        "all-leaves-out-connections-only",
        "H2",
        "should get 0 times, and got 1 times",
        "groups and users among the exceptions of a send to all are passed over",
        || Wrong::new().sends_to(|_, mut to| {
            if is_all(&to) {
                to.except.retain(|it| matches!(it, Address::Connection(_)));
            }
            vec![to]
        }),
    ),
    mutant!(
        "all-leaves-nobody-out-who-is-named",
        "H2",
        "should get 0 times, and got 1 times",
        "who is named besides all is not left out",
        || Wrong::new().sends_to(|_, mut to| {
            if to.include.contains(&Address::All) {
                let named = to.include.clone();
                to.except.retain(|it| !named.contains(it));
            }
            vec![to]
        }),
    ),
    mutant!(
        "a-connection-elsewhere-is-gone",
        "H3",
        "did not reach a1",
        "a connection that is not of this node is taken for one that has ended",
        || Wrong::new().sends_to(|here, to| match &to.include[..] {
            [Address::Connection(id)] if !here.locals().iter().any(|it| it.id == *id) => vec![],
            _ => vec![to],
        }),
    ),
    mutant!(
        "a-connection-is-its-user",
        "H3",
        "a1 should get 0 times, and got 1 times",
        "a send to a connection goes to all connections of its user",
        || Wrong::new().sends_to(|here, to| match &to.include[..] {
            [Address::Connection(_)] => {
                let user = here.named(&to.include).pop().and_then(|it| it.user);
                match user {
                    Some(user) => vec![Recipients {
                        include: vec![Address::User(user)],
                        ..to
                    }],
                    None => vec![to],
                }
            }
            _ => vec![to],
        }),
    ),
    mutant!(
        "a-connection-named-twice-gets-it-twice",
        "H4",
        "should get 1 times, and got 2 times",
        "a send to connections is a send to each in the list",
        || Wrong::new().sends_to(|_, to| match are_connections(&to) {
            true => one_each(to),
            false => vec![to],
        }),
    ),
    mutant!(
        "connections-are-on-the-node-of-the-first",
        "H4",
        "should get 1 times, and got 0 times",
        "a send to connections goes to the node of the first one",
        || Wrong::new().sends_to(|here, mut to| {
            let node = here.named(&to.include[..to.include.len().min(1)]).pop();
            if let (true, Some(first)) = (are_connections(&to), node) {
                let beside = here.named(&to.include);
                let beside = beside.iter().filter(|it| it.node == first.node);
                to.include = beside.map(|it| Address::Connection(it.id)).collect();
            }
            vec![to]
        }),
    ),
    mutant!(
        "a-group-is-its-members-here",
        "H5",
        "did not reach a1",
        "a send to a group is not told to the other nodes",
        || Wrong::new().sends_to(|here, to| match &to.include[..] {
            [Address::Group(_)] if to.except.is_empty() => {
                let mut members = here.named(&to.include);
                members.retain(|it| it.node == here.node());
                vec![connections(&members)]
            }
            _ => vec![to],
        }),
    ),
    mutant!(
        "a-group-is-everybody",
        "H5",
        "c0 should get 0 times, and got 1 times",
        "nodes do not look who is in a group",
        || Wrong::new().sends_to(|_, to| match &to.include[..] {
            [Address::Group(_)] if to.except.is_empty() => vec![Recipients::all()],
            _ => vec![to],
        }),
    ),
    mutant!(
        "several-groups-are-several-sends",
        "H6",
        "should get 1 times, and got 2 times",
        "who is in two of the groups gets it twice",
        || Wrong::new().sends_to(|_, to| match are_groups(&to) {
            true => one_each(to),
            false => vec![to],
        }),
    ),
    mutant!(
        "of-several-groups-the-last-one-counts",
        "H6",
        "should get 1 times, and got 0 times",
        "each group takes the place of the one before",
        || Wrong::new().sends_to(|_, mut to| {
            if are_groups(&to) {
                to.include.drain(..to.include.len() - 1);
            }
            vec![to]
        }),
    ),
    mutant!(
        "a-group-leaves-nobody-out",
        "H7",
        "should get 0 times, and got 1 times",
        "the exceptions of a send to a group are forgotten",
        || Wrong::new().sends_to(|_, mut to| {
            if matches!(to.include[..], [Address::Group(_)]) {
                to.except.clear();
            }
            vec![to]
        }),
    ),
    mutant!(
        "whom-a-group-leaves-out-is-left-out-here",
        "H7",
        "should get 0 times, and got 1 times",
        "the exceptions of a send to a group are not told to the other nodes",
        || Wrong::new().sends_to(|here, to| match &to.include[..] {
            [Address::Group(_)] if !to.except.is_empty() => here_only(here, to),
            _ => vec![to],
        }),
    ),
    mutant!(
        "a-user-has-one-connection",
        "H8",
        "did not reach a1",
        "the connections of a user take the place of each other",
        || Wrong::new().sends_to(|here, to| match &to.include[..] {
            [Address::User(_)] if to.except.is_empty() => {
                let mut found = here.named(&to.include);
                found.truncate(1);
                vec![connections(&found)]
            }
            _ => vec![to],
        }),
    ),
    mutant!(
        "a-user-is-here-or-nowhere",
        "H8",
        "did not reach a1",
        "a send to a user who has a connection here is not told to the other nodes",
        || Wrong::new().sends_to(|here, to| match &to.include[..] {
            [Address::User(_)] if to.except.is_empty() => {
                let mut found = here.named(&to.include);
                found.retain(|it| it.node == here.node());
                match found.is_empty() {
                    true => vec![to],
                    false => vec![connections(&found)],
                }
            }
            _ => vec![to],
        }),
    ),
    mutant!(
        "a-user-named-twice-gets-it-twice",
        "H9",
        "should get 1 times, and got 2 times",
        "a send to users is a send to each in the list",
        || Wrong::new().sends_to(|_, to| match are_users(&to) {
            true => one_each(to),
            false => vec![to],
        }),
    ),
    mutant!(
        "of-several-users-the-first-one-counts",
        "H9",
        "should get 1 times, and got 0 times",
        "the others of a list of users are passed over",
        || Wrong::new().sends_to(|_, mut to| {
            if are_users(&to) {
                to.include.truncate(1);
            }
            vec![to]
        }),
    ),
    mutant!(
        "a-user-leaves-nobody-out",
        "H10",
        "should get 0 times, and got 1 times",
        "the exceptions of a send to a user are forgotten",
        || Wrong::new().sends_to(|_, mut to| {
            if matches!(to.include[..], [Address::User(_)]) {
                to.except.clear();
            }
            vec![to]
        }),
    ),
    mutant!(
        "a-user-leaves-one-connection-out",
        "H10",
        "should get 0 times, and got 1 times",
        "of the exceptions of a send to a user only the first counts",
        || Wrong::new().sends_to(|_, mut to| {
            if matches!(to.include[..], [Address::User(_)]) {
                to.except.truncate(1);
            }
            vec![to]
        }),
    ),
];

fn is_all(to: &Recipients) -> bool {
    to.include == [Address::All]
}

fn are_connections(to: &Recipients) -> bool {
    let is_one = |it: &Address| matches!(it, Address::Connection(_));
    to.include.len() > 1 && to.include.iter().all(is_one)
}

fn are_groups(to: &Recipients) -> bool {
    let is_one = |it: &Address| matches!(it, Address::Group(_));
    to.include.len() > 1 && to.include.iter().all(is_one)
}

fn are_users(to: &Recipients) -> bool {
    let is_one = |it: &Address| matches!(it, Address::User(_));
    to.include.len() > 1 && to.include.iter().all(is_one)
}

/// A send for each part, with all the exceptions.
fn one_each(to: Recipients) -> Vec<Recipients> {
    let Recipients { include, except } = to;
    let one = |address| Recipients {
        include: vec![address],
        except: except.clone(),
    };
    include.into_iter().map(one).collect()
}

/// Leaves out connections of this node, and others not.
fn here_only(here: &Here, to: Recipients) -> Vec<Recipients> {
    let mut left_out = here.named(&to.except);
    left_out.retain(|it| it.node == here.node());
    vec![Recipients {
        except: connections(&left_out).include,
        ..to
    }]
}
