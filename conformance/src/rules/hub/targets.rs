//! Who gets what is sent (rules H1 to H10).

use backplane_core::hub::ConnectionId;

use super::cast::BOTH;
use super::crowd::{Case, Crowd, End};
use crate::hub::Recipients;
use crate::rule::{Rule, rule};
use crate::trial::{Node, Trial};
use crate::verdict::{Outcome, inconclusive};

pub(super) const RULES: &[Rule] = &[
    rule!("H1", "a send to all reaches every connection once", [], h1),
    rule!("H2", "a send to all but some leaves these out", [], h2),
    rule!("H3", "a send to a connection reaches it alone", [], h3),
    rule!(
        "H4",
        "a send to connections reaches each of them once",
        [],
        h4
    ),
    rule!("H5", "a send to a group reaches its members", [], h5),
    rule!(
        "H6",
        "a send to groups reaches the members of any once",
        [],
        h6
    ),
    rule!("H7", "a send to a group but some leaves these out", [], h7),
    rule!("H8", "a send to a user reaches all its connections", [], h8),
    rule!(
        "H9",
        "a send to users reaches all their connections",
        [],
        h9
    ),
    rule!("H10", "a send to a user but some leaves these out", [], h10),
];

type Cases = Vec<(Recipients, &'static str)>;

async fn h1(trial: Trial) -> Outcome {
    reach(&trial, End::All, |crowd| {
        let all = Recipients::all;
        Ok(vec![
            (all(), "a b c d"),
            // However many name it.
            (all().and(all()), "a b c d"),
            (all().and(Recipients::groups(["g", "h"])), "a b c d"),
            (
                Recipients::user("ann")
                    .and(crowd.ids(&["a0", "d1"])?)
                    .and(all()),
                "a b c d",
            ),
        ])
    })
    .await
}

async fn h2(trial: Trial) -> Outcome {
    reach(&trial, End::All, |crowd| {
        let but = |others| Recipients::all().but(others);
        Ok(vec![
            (but(crowd.ids(&["a0"])?), "a1 a2 b c d"),
            (but(crowd.ids(&["a0", "d2"])?), "a1 a2 b c d0 d1"),
            (but(Recipients::connection(nobody()?)), "a b c d"),
            (but(Recipients::group("g")), "c d"),
            (but(Recipients::groups(["g", "none"])), "c d"),
            (
                but(Recipients::user("ann").and(Recipients::group("h"))),
                "d",
            ),
            // Who is named as well is left out all the same.
            (
                but(crowd.ids(&["b1"])?).and(crowd.ids(&["b1"])?),
                "a b0 b2 c d",
            ),
        ])
    })
    .await
}

async fn h3(trial: Trial) -> Outcome {
    reach(&trial, End::Connections, |crowd| {
        let names = ["a0", "b0", "b1", "d2"];
        let cases = names.map(|name| Ok((Recipients::connection(crowd.id(name)?), name)));
        let mut cases: Cases = cases.into_iter().collect::<Outcome<_>>()?;
        // One that is gone is no error, and one that is left out gets nothing.
        cases.push((Recipients::connection(nobody()?), ""));
        cases.push((crowd.ids(&["a1"])?.but(crowd.ids(&["a1"])?), ""));
        Ok(cases)
    })
    .await
}

async fn h4(trial: Trial) -> Outcome {
    reach(&trial, End::Connections, |crowd| {
        Ok(vec![
            (crowd.ids(&["a1", "b1"])?, "a1 b1"),
            (crowd.ids(&["a1", "b1", "a1"])?, "a1 b1"),
            (crowd.ids(&["a0", "b1", "c2", "c2", "d2"])?, "a0 b1 c2 d2"),
            (
                crowd
                    .ids(&["d0", "a0"])?
                    .and(Recipients::connection(nobody()?)),
                "a0 d0",
            ),
            (
                crowd.ids(&["a0", "b1", "c2"])?.but(crowd.ids(&["b1"])?),
                "a0 c2",
            ),
            (Recipients::connections([]), ""),
        ])
    })
    .await
}

async fn h5(trial: Trial) -> Outcome {
    reach(&trial, End::Group, |_| {
        Ok(vec![
            (Recipients::group("g"), "a b"),
            (Recipients::group("h"), "b c"),
            (Recipients::group("none"), ""),
        ])
    })
    .await
}

async fn h6(trial: Trial) -> Outcome {
    reach(&trial, End::Group, |crowd| {
        let groups = |names: &[&str]| Recipients::groups(names.iter().copied());
        Ok(vec![
            (groups(&["g", "h"]), "a b c"),
            (groups(&["g", "g"]), "a b"),
            (groups(&["none", "h"]), "b c"),
            (groups(&[]), ""),
            // With whomever else.
            (
                groups(&["g", "h"])
                    .and(Recipients::user("bob"))
                    .and(crowd.ids(&["b2", "d1"])?),
                "a b c d1",
            ),
            (groups(&["g", "h"]).but(crowd.ids(&["b0"])?), "a b1 b2 c"),
        ])
    })
    .await
}

async fn h7(trial: Trial) -> Outcome {
    reach(&trial, End::Group, |crowd| {
        let but = |others| Recipients::group("g").but(others);
        Ok(vec![
            (but(crowd.ids(&["a1"])?), "a0 a2 b"),
            (but(crowd.ids(&["a1", "b0", "c2"])?), "a0 a2 b1 b2"),
            (but(Recipients::group("h")), "a"),
            (but(Recipients::user("ann")), "b"),
            (but(Recipients::group("g")), ""),
            (
                but(crowd.ids(&["d1"])?).and(crowd.ids(&["d1", "d2"])?),
                "a b d2",
            ),
        ])
    })
    .await
}

async fn h8(trial: Trial) -> Outcome {
    reach(&trial, End::Users, |_| {
        Ok(vec![
            (Recipients::user("ann"), "a"),
            (Recipients::user("dan"), "d"),
            (Recipients::user("nobody"), ""),
        ])
    })
    .await
}

async fn h9(trial: Trial) -> Outcome {
    reach(&trial, End::Users, |_| {
        let users = |ids: &[&str]| Recipients::users(ids.iter().copied());
        Ok(vec![
            (users(&["ann", "bob", "nobody"]), "a b"),
            (users(&["dan", "ann", "dan"]), "a d"),
            (users(&[]), ""),
            (
                users(&["ann", "bob"])
                    .and(Recipients::user("cid"))
                    .but(Recipients::user("bob")),
                "a c",
            ),
        ])
    })
    .await
}

async fn h10(trial: Trial) -> Outcome {
    reach(&trial, End::Users, |crowd| {
        let but = |others| Recipients::user("bob").but(others);
        Ok(vec![
            (but(crowd.ids(&["b2"])?), "b0 b1"),
            (but(crowd.ids(&["b0", "b1", "a2"])?), "b2"),
            (but(Recipients::group("h")), ""),
            (but(Recipients::user("ann")), "b"),
            (but(Recipients::user("bob")), ""),
        ])
    })
    .await
}

/// Sends to each of these on each of three nodes, in both ways of delivery.
async fn reach(trial: &Trial, end: End, cases: fn(&Crowd) -> Outcome<Cases>) -> Outcome {
    let nodes: [Node; 3] = trial.nodes().await?;
    for mode in BOTH {
        let mut crowd = Crowd::on(trial, &nodes, mode).await?;
        for (to, meant) in cases(&crowd)? {
            let case = Case { to, meant };
            for by in 0..nodes.len() {
                crowd.check(by, &case, end).await?;
            }
        }
    }
    Ok(())
}

/// A connection that is nowhere.
fn nobody() -> Outcome<ConnectionId> {
    "0000000000000001".repeat(3).parse().or_else(inconclusive)
}
