//! Asking a client and waiting for its answer (rule H19).

mod cluster;

use std::time::Duration;

use backplane_core::Backplane;
use backplane_core::hub::{
    CompleteError, Connect, Connection, Invocation, InvocationId, InvokeError, Overflow,
    RequestError, Target,
};
use cluster::{BOTH, Cluster, called, next, nothing_is_left, text, until};
use futures_util::future::join_all;
use futures_util::poll;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

fn ok(connection: &Connection, call: &Invocation, answer: &str) -> Result<(), CompleteError> {
    connection.complete(call.id, Ok::<_, String>(answer.to_owned().into_bytes()))
}

#[tokio::test]
async fn h19_a_value_and_an_error_of_the_client_come_back_from_any_node() {
    for mode in BOTH {
        let cluster = Cluster::of(2, mode).await;
        let mut client = cluster.connect(0).await;
        let id = client.id();
        for hub in &cluster.hubs {
            let answer = async {
                let call = called(&mut client).await;
                assert_eq!(text(&call.payload), "name?");
                ok(&client, &call, "ann").unwrap();
                // A second answer is nobody's.
                assert_eq!(
                    ok(&client, &call, "bob"),
                    Err(CompleteError::Unknown(call.id))
                );
                let call = called(&mut client).await;
                client.complete(call.id, Err::<&str, _>("no idea")).unwrap();
            };
            let ask = async {
                let name = hub.invoke(id, "name?", MINUTE).await.unwrap();
                assert_eq!(text(&name), "ann");
                let error = hub.invoke(id, "age?", MINUTE).await.unwrap_err();
                assert!(matches!(&error, InvokeError::Client(words) if words == "no idea"));
                let words = "the client answered with an error: no idea";
                assert_eq!(error.to_string(), words);
            };
            tokio::join!(answer, ask);
        }
        nothing_is_left(&cluster).await;
    }
}

#[tokio::test]
async fn h18_a_call_comes_in_order_with_messages() {
    for (mode, node) in [(BOTH[0], 0), (BOTH[0], 1), (BOTH[1], 0), (BOTH[1], 1)] {
        let cluster = Cluster::of(2, mode).await;
        let mut client = cluster.connect(node).await;
        let (hub, id) = (&cluster.hubs[0], client.id());
        client.join("g").await.unwrap();
        hub.send(Target::group("g"), "1").await.unwrap();
        let mut call = Box::pin(hub.invoke(id, "2", MINUTE));
        assert!(poll!(&mut call).is_pending());
        hub.send(Target::all(), "3").await.unwrap();
        assert_eq!(next(&mut client).await, "1");
        let asked = called(&mut client).await;
        assert_eq!(text(&asked.payload), "2");
        assert_eq!(next(&mut client).await, "3");
        ok(&client, &asked, "4").unwrap();
        assert_eq!(text(&call.await.unwrap()), "4");
        nothing_is_left(&cluster).await;
    }
}

#[tokio::test]
async fn h19_an_answer_of_another_connection_is_refused_and_the_right_one_can_still_answer() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let [mut asked, other] = [cluster.connect(1).await, cluster.connect(1).await];
    let id = asked.id();
    let answer = async {
        let call = called(&mut asked).await;
        let wrong = ok(&other, &call, "me!").unwrap_err();
        assert_eq!(wrong, CompleteError::WrongConnection(call.id));
        let unknown = InvocationId::from_u64(call.id.as_u64() + 1);
        assert_eq!(
            other.complete(unknown, Ok::<_, String>("x")),
            Err(CompleteError::Unknown(unknown))
        );
        assert_eq!(call.id.to_string().parse(), Ok(call.id));
        ok(&asked, &call, "right").unwrap();
    };
    let (result, ()) = tokio::join!(cluster.hubs[0].invoke(id, "?", MINUTE), answer);
    assert_eq!(text(&result.unwrap()), "right");
    nothing_is_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h19_calls_of_many_nodes_to_one_client_do_not_collide_in_whatever_order_it_answers() {
    let cluster = Cluster::of(3, BOTH[0]).await;
    let mut client = cluster.connect(0).await;
    let id = client.id();
    let calls = (0..90).map(|n| {
        let hub = &cluster.hubs[n % 3];
        async move { (n, hub.invoke(id, n.to_string().into_bytes(), MINUTE).await) }
    });
    let answer = async {
        let mut asked = Vec::new();
        while asked.len() < 90 {
            asked.push(called(&mut client).await);
        }
        for call in asked.iter().rev() {
            match text(&call.payload).parse::<u32>().unwrap() {
                n if n % 7 == 0 => client.complete(call.id, Err::<&str, _>(n.to_string())),
                n => ok(&client, call, &n.to_string()),
            }
            .unwrap();
        }
    };
    let (results, ()) = tokio::join!(join_all(calls), answer);
    for (n, result) in results {
        match result {
            Ok(answer) => assert_eq!(text(&answer), n.to_string()),
            Err(InvokeError::Client(words)) => assert_eq!((words, n % 7), (n.to_string(), 0)),
            Err(other) => panic!("{other}"),
        }
    }
    nothing_is_left(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn h19_a_client_that_does_not_answer_in_time_and_one_that_disconnects_are_told_apart() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    for hub in &cluster.hubs {
        let mut client = cluster.connect(1).await;
        let id = client.id();
        let begin = Instant::now();
        // Longer than a node is waited for that is not heard.
        let (error, call) = tokio::join!(hub.invoke(id, "?", MINUTE), called(&mut client));
        let error = error.unwrap_err();
        assert!(
            matches!(error, InvokeError::Timeout { connection, timeout } if (connection, timeout) == (id, MINUTE))
        );
        assert_eq!(begin.elapsed(), MINUTE);
        until("the connection's node knows that", || {
            cluster.hubs[1].stats().invocations == 0
        })
        .await;
        assert_eq!(next(&mut client).await, format!("Cancelled({:?})", call.id));
        assert_eq!(
            ok(&client, &call, "late"),
            Err(CompleteError::Unknown(call.id))
        );

        let begin = Instant::now();
        let go = async {
            called(&mut client).await;
            drop(client);
        };
        let (error, ()) = tokio::join!(hub.invoke(id, "?", MINUTE), go);
        assert!(matches!(error, Err(InvokeError::Disconnected(gone)) if gone == id));
        let error = hub.invoke(id, "?", MINUTE).await.unwrap_err();
        assert!(
            matches!(error, InvokeError::Request(RequestError::UnknownConnection(gone)) if gone == id)
        );
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
    nothing_is_left(&cluster).await;
}

#[tokio::test]
async fn h19_who_stops_waiting_takes_the_call_back_and_the_connection_is_told() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let mut client = cluster.connect(1).await;
    let id = client.id();
    for hub in &cluster.hubs {
        let mut call = Box::pin(hub.invoke(id, "?", MINUTE));
        assert!(poll!(&mut call).is_pending());
        let asked = called(&mut client).await;
        drop(call);
        assert_eq!(
            next(&mut client).await,
            format!("Cancelled({:?})", asked.id)
        );
        assert_eq!(
            ok(&client, &asked, "late"),
            Err(CompleteError::Unknown(asked.id))
        );
        nothing_is_left(&cluster).await;
        // One that the client has not seen yet it never sees.
        let mut call = Box::pin(hub.invoke(id, "never", MINUTE));
        assert!(poll!(&mut call).is_pending());
        until("it waits there", || {
            cluster.hubs[1].stats().invocations == 1
        })
        .await;
        drop(call);
        nothing_is_left(&cluster).await;
        hub.send(Target::connection(id), "end").await.unwrap();
        assert_eq!(next(&mut client).await, "end");
    }
}

#[tokio::test(start_paused = true)]
async fn h19_a_call_ends_when_the_node_of_the_connection_leaves_or_crashes() {
    let cluster = Cluster::of(3, BOTH[0]).await;
    cluster.acquainted().await;
    let hub = &cluster.hubs[0];
    for (node, crash) in [(1, false), (2, true)] {
        let mut client = cluster.connect(node).await;
        let id = client.id();
        let begin = Instant::now();
        let go = async {
            called(&mut client).await;
            match crash {
                true => cluster.crash(node),
                false => cluster.hubs[node].close().await,
            }
        };
        let (error, ()) = tokio::join!(hub.invoke(id, "?", MINUTE), go);
        let gone = cluster.nodes[node].node_id();
        assert!(
            matches!(error, Err(InvokeError::Request(RequestError::NodeGone(node))) if node == gone)
        );
        let bound = Duration::from_millis(if crash { 4500 } else { 0 });
        assert!(begin.elapsed() <= bound, "{:?}", begin.elapsed());
    }
    assert_eq!(hub.stats().requests, 0);
}

#[tokio::test(start_paused = true)]
async fn h19_nothing_is_left_where_the_client_is_when_the_node_that_asked_crashes() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let mut client = cluster.connect(1).await;
    let mut call = Box::pin(cluster.hubs[0].invoke(client.id(), "?", MINUTE));
    assert!(poll!(&mut call).is_pending());
    let asked = called(&mut client).await;
    let begin = Instant::now();
    cluster.crash(0);
    assert_eq!(
        next(&mut client).await,
        format!("Cancelled({:?})", asked.id)
    );
    assert!(begin.elapsed() <= Duration::from_millis(4500));
    assert_eq!(cluster.hubs[1].stats().invocations, 0);
}

#[tokio::test]
async fn h22_a_call_that_does_not_fit_fails_by_name_or_ends_the_connection() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    for hub in &cluster.hubs {
        let request = || Connect::new().queue_capacity(1);
        let mut slow = cluster.hubs[1].connect(request()).await.unwrap();
        hub.send(Target::connection(slow.id()), "1").await.unwrap();
        let error = hub.invoke(slow.id(), "2", MINUTE).await.unwrap_err();
        assert!(matches!(error, InvokeError::QueueFull(id) if id == slow.id()));
        assert_eq!(next(&mut slow).await, "1");
        hub.send(Target::connection(slow.id()), "3").await.unwrap();
        assert_eq!(next(&mut slow).await, "3");

        let request = request().overflow(Overflow::Disconnect);
        let mut slow = cluster.hubs[1].connect(request).await.unwrap();
        hub.send(Target::connection(slow.id()), "1").await.unwrap();
        let error = hub.invoke(slow.id(), "2", MINUTE).await.unwrap_err();
        assert!(matches!(error, InvokeError::Disconnected(id) if id == slow.id()));
        assert_eq!(next(&mut slow).await, "1");
        assert_eq!(next(&mut slow).await, "TooSlow");
    }
    nothing_is_left(&cluster).await;
}

#[tokio::test]
async fn h16_a_call_to_a_connection_of_this_node_works_in_an_outage() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let [mut here, there] = [cluster.connect(0).await, cluster.connect(1).await];
    cluster.stop().await;
    let hub = &cluster.hubs[0];
    let id = here.id();
    let answer = async {
        let call = called(&mut here).await;
        ok(&here, &call, "here").unwrap();
    };
    let (answer, ()) = tokio::join!(hub.invoke(id, "?", MINUTE), answer);
    assert_eq!(text(&answer.unwrap()), "here");
    let error = hub.invoke(there.id(), "?", MINUTE).await.unwrap_err();
    let InvokeError::Request(error @ RequestError::Publish(_)) = error else {
        panic!("{error}");
    };
    assert!(error.is_not_done());
}

#[tokio::test]
async fn an_answer_that_is_too_large_for_the_backplane_is_an_error_and_no_silence() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let mut client = cluster.connect(1).await;
    let id = client.id();
    let limit = cluster.nodes[0].capabilities().max_payload;
    let answer = async {
        let call = called(&mut client).await;
        client
            .complete(call.id, Ok::<_, String>(vec![0; limit + 1]))
            .unwrap();
    };
    let (error, ()) = tokio::join!(cluster.hubs[0].invoke(id, "?", MINUTE), answer);
    let Err(InvokeError::Request(RequestError::Failed { node, reason })) = error else {
        panic!("{error:?}");
    };
    assert_eq!(node, cluster.nodes[1].node_id());
    assert!(reason.contains("bytes"), "{reason}");
}

#[tokio::test]
async fn closing_the_hub_ends_calls_on_both_sides() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let mut client = cluster.connect(1).await;
    let [asks, owns] = [&cluster.hubs[0], &cluster.hubs[1]];
    let mut here = Box::pin(owns.invoke(client.id(), "?", MINUTE));
    let mut there = Box::pin(asks.invoke(client.id(), "?", MINUTE));
    assert!(poll!(&mut here).is_pending() && poll!(&mut there).is_pending());
    called(&mut client).await;
    called(&mut client).await;
    asks.close().await;
    let closed = |error| matches!(error, Err(InvokeError::Request(RequestError::Closed)));
    assert!(closed(there.await));
    until("only the one of its own node is left", || {
        owns.stats().invocations == 1
    })
    .await;
    owns.close().await;
    assert!(closed(here.await));
    assert_eq!(owns.stats().invocations, 0);
}

#[tokio::test]
async fn a_caller_may_be_ready_to_wait_for_ever() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    let mut client = cluster.connect(1).await;
    let id = client.id();
    for hub in &cluster.hubs {
        let answer = async {
            let call = called(&mut client).await;
            ok(&client, &call, "at last").unwrap();
        };
        let (answer, ()) = tokio::join!(hub.invoke(id, "?", Duration::MAX), answer);
        assert_eq!(text(&answer.unwrap()), "at last");
    }
    nothing_is_left(&cluster).await;
}

#[tokio::test]
async fn h19_a_call_whose_answer_an_outage_took_is_taken_back_too() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let mut client = cluster.connect(1).await;
    let id = client.id();
    let hub = &cluster.hubs[0];
    for dropped_meanwhile in [false, true] {
        let mut call = Box::pin(hub.invoke(id, "?", MINUTE));
        assert!(poll!(&mut call).is_pending());
        let asked = called(&mut client).await;
        cluster.crash(0);
        until("the hub is cut off", || !hub.nodes().settled).await;
        match dropped_meanwhile {
            true => drop(call),
            false => {
                let error = call.await.unwrap_err();
                let InvokeError::Request(RequestError::AnswerLost(_)) = error else {
                    panic!("{error}");
                };
            }
        }
        cluster.bus.admit(cluster.nodes[0].node_id());
        assert_eq!(
            next(&mut client).await,
            format!("Cancelled({:?})", asked.id)
        );
        nothing_is_left(&cluster).await;
        cluster.connected().await;
    }
}

#[tokio::test]
async fn h19_an_answer_that_is_given_in_a_short_outage_of_the_clients_node_comes_after_it() {
    let cluster = Cluster::of(2, BOTH[0]).await;
    cluster.acquainted().await;
    let mut client = cluster.connect(1).await;
    let id = client.id();
    let answer = async {
        let call = called(&mut client).await;
        cluster.crash(1);
        until("the hub is cut off", || !cluster.hubs[1].nodes().settled).await;
        ok(&client, &call, "in the dark").unwrap();
        cluster.bus.admit(cluster.nodes[1].node_id());
    };
    let (answered, ()) = tokio::join!(cluster.hubs[0].invoke(id, "?", MINUTE), answer);
    assert_eq!(text(&answered.unwrap()), "in the dark");
    nothing_is_left(&cluster).await;
}

#[tokio::test]
async fn h14_calls_that_clients_do_not_answer_leave_room_for_joins() {
    let cluster = Cluster::with(2, |hub| hub.receive_capacity(6000)).await;
    cluster.acquainted().await;
    let request = Connect::new().queue_capacity(5000);
    let client = cluster.hubs[1].connect(request).await.unwrap();
    let (hub, id) = (&cluster.hubs[0], client.id());
    let mut calls: Vec<_> = (0..5000)
        .map(|_| Box::pin(hub.invoke(id, "?", MINUTE)))
        .collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    hub.join(id, "g").await.unwrap();
    assert_eq!(cluster.hubs[1].stats().invocations, 5000);
    assert_eq!(cluster.hubs[1].stats().refused, 0);
}
