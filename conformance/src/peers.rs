//! What the suites of others test, and which of our rules says the same: the last part of the rule book.
//!
//! Names of tests are those of their authors; what is said beside them is ours.

use std::fmt::Write as _;

use crate::report::markdown::escaped;

/// A suite of somebody else.
struct Suite {
    title: &'static str,
    about: &'static str,
    tests: &'static [Theirs],
}

/// One of its tests, the rules that say the same, and what is different.
type Theirs = (&'static str, &'static [&'static str], &'static str);

const HEAD: &str = "
## What others test

The suites for backplanes that others have, test by test, and the rules here that say the same. A rule that is not tested yet
is named all the same. What none of these suites tests: the loss, recovery and order of messages (sections O, L and R, and H16 to
H18 and H23), slow receivers (B and H22), and the suite itself, by mutants.
";

const SUITES: &[Suite] = &[
    Suite {
        title: "SignalR, specification tests of a hub lifetime manager: one server",
        about: "`HubLifetimeManagerTestsBase`, 12 tests.",
        tests: &[
            ("SendAllAsyncWritesToAllConnectionsOutput", &["H1"], ""),
            (
                "SendAllAsyncDoesNotWriteToDisconnectedConnectionsOutput",
                &["H15"],
                "",
            ),
            (
                "SendGroupAsyncWritesToAllConnectionsInGroupOutput",
                &["H5"],
                "",
            ),
            (
                "SendGroupExceptAsyncDoesNotWriteToExcludedConnections",
                &["H7"],
                "",
            ),
            ("SendConnectionAsyncWritesToConnectionOutput", &["H3"], ""),
            ("CanProcessClientReturnResult", &["H19"], ""),
            ("CanProcessClientReturnErrorResult", &["H19"], ""),
            (
                "ExceptionWhenIncorrectClientCompletesClientResult",
                &["H19"],
                "",
            ),
            (
                "ConnectionIDNotPresentWhenInvokingClientResult",
                &["H19"],
                "",
            ),
            ("InvokesForMultipleClientsDoNotCollide", &["H19"], ""),
            (
                "ClientDisconnectsWithoutCompletingClientResult",
                &["H19"],
                "",
            ),
            ("CanCancelClientResult", &["H19"], ""),
        ],
    },
    Suite {
        title: "SignalR, specification tests of a hub lifetime manager: two servers",
        about: "`ScaleoutHubLifetimeManagerTests`, 23 tests.",
        tests: &[
            (
                "InvokeAllAsyncWithMultipleServersWritesToAllConnectionsOutput",
                &["H1"],
                "",
            ),
            (
                "InvokeAllAsyncWithMultipleServersDoesNotWriteToDisconnectedConnectionsOutput",
                &["H15"],
                "",
            ),
            (
                "InvokeConnectionAsyncOnServerWithoutConnectionWritesOutputToConnection",
                &["H3"],
                "",
            ),
            (
                "InvokeGroupAsyncOnServerWithoutConnectionWritesOutputToGroupConnection",
                &["H5"],
                "",
            ),
            (
                "DisconnectConnectionRemovesConnectionFromGroup",
                &["H15"],
                "",
            ),
            (
                "RemoveGroupFromLocalConnectionNotInGroupDoesNothing",
                &["H13"],
                "",
            ),
            (
                "RemoveGroupFromConnectionOnDifferentServerNotInGroupDoesNothing",
                &["H13", "H14"],
                "",
            ),
            (
                "AddGroupAsyncForConnectionOnDifferentServerWorks",
                &["H11", "H14"],
                "",
            ),
            (
                "AddGroupAsyncForLocalConnectionAlreadyInGroupDoesNothing",
                &["H13"],
                "",
            ),
            (
                "AddGroupAsyncForConnectionOnDifferentServerAlreadyInGroupDoesNothing",
                &["H13", "H14"],
                "",
            ),
            (
                "RemoveGroupAsyncForConnectionOnDifferentServerWorks",
                &["H12", "H14"],
                "",
            ),
            (
                "InvokeConnectionAsyncForLocalConnectionDoesNotPublishToBackplane",
                &["H3", "H16"],
                "here a send to a local connection is told as `NotNeeded`; a connection is on one node only",
            ),
            (
                "WritingToRemoteConnectionThatFailsDoesNotThrow",
                &["H24"],
                "",
            ),
            (
                "WritingToGroupWithOneConnectionFailingSecondConnectionStillReceivesMessage",
                &["H24"],
                "",
            ),
            (
                "InvokeUserSendsToAllConnectionsForUser",
                &["H8"],
                "here also that no other user gets it",
            ),
            (
                "StillSubscribedToUserAfterOneOfMultipleConnectionsAssociatedWithUserDisconnects",
                &["H15"],
                "",
            ),
            ("CanProcessClientReturnResultAcrossServers", &["H19"], ""),
            (
                "CanProcessClientReturnErrorResultAcrossServers",
                &["H19"],
                "",
            ),
            (
                "ConnectionIDNotPresentMultiServerWhenInvokingClientResult",
                &["H19"],
                "",
            ),
            (
                "ClientDisconnectsWithoutCompletingClientResultOnSecondServer",
                &["H19"],
                "",
            ),
            ("InvocationsFromDifferentServersUseUniqueIDs", &["H19"], ""),
            (
                "ConnectionDoesNotExist_FailsInvokeConnectionAsync",
                &["H19"],
                "",
            ),
            (
                "ClientReturnResultAcrossServersWithWrongReturnedTypeErrors",
                &[],
                "payloads are bytes here, and types are the framework's",
            ),
        ],
    },
    Suite {
        title: "socket.io, the shared tests of its adapters",
        about: "By what they are called; a name may stand for several tests.",
        tests: &[
            ("broadcasts to all clients", &["H1"], ""),
            (
                "broadcasts to all clients in a namespace",
                &["H25"],
                "a namespace is a hub of a name",
            ),
            ("broadcasts to all clients in a room", &["H5"], ""),
            ("broadcasts to all clients except in room", &["H2"], ""),
            ("broadcasts to all clients once", &["H6"], ""),
            (
                "broadcasts to local clients only",
                &[],
                "a send is for every node; who wants only its own clients has them",
            ),
            ("broadcasts to a single client", &["H3"], ""),
            (
                "broadcasts with multiple acknowledgements (also binary content, no client, timeout)",
                &["H19"],
                "one connection at a time",
            ),
            (
                "broadcasts with a single acknowledgement (local, remote)",
                &["H19"],
                "",
            ),
            (
                "makes all, matching or a given socket instance join the specified room",
                &["H11", "H14"],
                "a given connection; for many, the nodes are asked (H21)",
            ),
            (
                "makes all, matching or a given socket instance leave the specified room",
                &["H12", "H14"],
                "likewise",
            ),
            (
                "makes all socket instances disconnect; sends a packet before all socket instances disconnect",
                &["H21", "H18"],
                "the nodes are asked to; order holds for what they send before",
            ),
            (
                "returns all socket instances; returns a single socket instance",
                &["H21"],
                "",
            ),
            (
                "returns only local socket instances",
                &[],
                "a framework has the table of its own clients",
            ),
            ("sends an event to other server instances", &["H21"], ""),
            (
                "sends an event and receives a response from the other server instances",
                &["H21"],
                "",
            ),
            (
                "sends an event but timeout if one server does not respond",
                &["H21"],
                "what the others said is kept, and the missing node is named",
            ),
            (
                "succeeds even if an instance leaves the cluster",
                &["H21", "H20"],
                "",
            ),
            ("works with a numeric room", &[], "names are text"),
            ("ignores messages from unknown channels", &["H27", "I6"], ""),
            ("allRooms", &["H21"], ""),
            (
                "unsubscribes when close is called",
                &["H15", "C2"],
                "skipped there",
            ),
        ],
    },
];

/// The part of the book.
pub(crate) fn to_markdown() -> String {
    let mut out = HEAD.to_owned();
    for suite in SUITES {
        // Writing to a string does not fail.
        let _ = writeln!(out, "\n### {}\n\n{}\n", suite.title, suite.about);
        out.push_str("| their test | our rules | |\n| --- | --- | --- |\n");
        for (name, rules, note) in suite.tests {
            let rules = match rules {
                [] => "none".to_owned(),
                rules => rules.join(", "),
            };
            let _ = writeln!(out, "| {} | {rules} | {note} |", escaped(name));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::clause;

    #[test]
    fn every_rule_that_is_named_is_in_the_contract_and_what_has_none_says_why() {
        for (name, rules, note) in SUITES.iter().flat_map(|suite| suite.tests) {
            assert!(rules.iter().all(|id| clause(id).is_some()), "{name}");
            assert!(!rules.is_empty() || !note.is_empty(), "{name}");
        }
    }

    #[test]
    fn all_35_specification_tests_of_signalr_are_there_once() {
        let theirs = || SUITES[..2].iter().flat_map(|suite| suite.tests);
        assert_eq!(theirs().count(), 35);
        let names: std::collections::HashSet<_> = theirs().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), 35);
    }
}
