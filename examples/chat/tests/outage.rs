//! What clients are told when Redis is killed or frozen, and when it is back.

mod common;

use std::sync::Arc;
use std::time::Duration;

use backplane_conformance::fixtures::{Server as _, ServerFault};
use common::{Client, all, node, outcome, redis, room, serve, server, soon};

#[tokio::test]
async fn a_killed_redis_is_told_to_all_and_the_people_of_a_server_go_on() {
    let redis = redis().await;
    let (here, there) = (server(&redis).await, server(&redis).await);
    let mut ann = Client::enter(here.address(), "ann").await;
    let mut bob = Client::enter(there.address(), "bob").await;
    let mut cid = Client::enter(here.address(), "cid").await;
    for outage in ["first", "second"] {
        redis.inject(ServerFault::Kill).await.unwrap();
        for client in [&mut ann, &mut bob, &mut cid] {
            let told = client.told("backplane").await;
            assert_eq!(told["up"], false);
            assert!(told["why"].is_string(), "{told}");
        }
        // Each server is a chat of its own now, and says so to who says something.
        assert_eq!(ann.say(all(), outage).await, outcome(1, "not_sent"));
        assert_eq!(cid.hears().await, format!("ann: {outage}"));
        assert_eq!(bob.say(all(), outage).await, outcome(0, "not_sent"));
        assert!(bob.join(outage).await, "it is deferred");
        assert!(cid.join(outage).await, "it is deferred");
        assert_eq!(ann.say(room(outage), "local").await, outcome(1, "not_sent"));
        assert_eq!(cid.hears().await, "ann: local");
        // Who comes now is told at once.
        let mut dan = Client::enter_anyhow(here.address(), "dan").await;
        assert_eq!(dan.told("backplane").await["up"], false);

        redis.heal().await.unwrap();
        for client in [&mut ann, &mut bob, &mut cid, &mut dan] {
            assert_eq!(client.told("backplane").await["up"], true);
            let what = client.told("gap").await["what"].to_string();
            assert!(what.contains("an outage"), "{what}");
        }
        // What was not sent never comes. What was joined in the outage is in force.
        assert_eq!(ann.say(room(outage), "again").await, outcome(1, "accepted"));
        assert_eq!(bob.hears().await, "ann: again");
        assert_eq!(cid.hears().await, "ann: again");
        assert_eq!(bob.say(all(), "hello").await, outcome(0, "accepted"));
        for client in [&mut ann, &mut cid, &mut dan] {
            assert_eq!(client.hears().await, "bob: hello");
        }
        dan.close().await;
    }
}

#[tokio::test]
async fn what_is_not_known_is_told_as_that_and_who_waits_for_it_goes_on_hearing() {
    let redis = redis().await;
    // Nothing but the publish finds out that Redis stands still.
    let patient = node(&redis.url())
        .heartbeat_interval(Duration::from_secs(600))
        .heartbeat_timeout(Duration::from_secs(600))
        .publish_timeout(Duration::from_secs(4));
    let here = serve(Arc::new(patient.connect().await.unwrap())).await;
    let mut ann = Client::enter(here.address(), "ann").await;
    let mut bob = Client::enter(here.address(), "bob").await;
    redis.inject(ServerFault::Freeze).await.unwrap();

    let first = ann.start_to_say(all(), "ann speaks").await;
    assert_eq!(bob.hears().await, "ann: ann speaks");
    bob.start_to_say(all(), "bob speaks").await;
    assert_eq!(ann.hears().await, "bob: bob speaks");
    assert!(!ann.has_been_told("outcome"), "she still waits");
    let (id, reached, elsewhere) = ann.outcome().await;
    assert_eq!((id, reached, &*elsewhere), (first, 1, "unknown"));
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.told("backplane").await["up"], false);
    }
    assert_eq!(ann.say(all(), "x").await, outcome(1, "not_sent"));

    redis.heal().await.unwrap();
    assert_eq!(ann.told("backplane").await["up"], true);
    assert_eq!(ann.say(all(), "y").await, outcome(1, "accepted"));
}

#[tokio::test]
async fn a_server_starts_without_redis_and_reaches_the_others_when_it_is_there() {
    let redis = redis().await;
    let there = server(&redis).await;
    let mut bob = Client::enter(there.address(), "bob").await;
    redis.inject(ServerFault::Kill).await.unwrap();
    let here = serve(Arc::new(node(&redis.url()).connect_lazy().unwrap())).await;
    let mut ann = Client::enter_anyhow(here.address(), "ann").await;
    let mut cid = Client::enter_anyhow(here.address(), "cid").await;
    let explained = async {
        loop {
            let told = ann.told("backplane").await;
            assert_eq!(told["up"], false);
            if told["why"].is_string() {
                return;
            }
        }
    };
    soon("why there is no way", explained).await;
    assert_eq!(ann.say(all(), "local").await, outcome(1, "not_sent"));
    assert_eq!(cid.hears().await, "ann: local");

    redis.heal().await.unwrap();
    while ann.told("backplane").await["up"] != true {}
    while bob.told("backplane").await["up"] != true {}
    assert_eq!(ann.say(all(), "to all").await, outcome(1, "accepted"));
    assert_eq!(bob.hears().await, "ann: to all");
}

#[tokio::test]
async fn a_server_shuts_down_in_an_outage_too() {
    let redis = redis().await;
    let here = server(&redis).await;
    let mut ann = Client::enter(here.address(), "ann").await;
    redis.inject(ServerFault::Kill).await.unwrap();
    assert_eq!(ann.told("backplane").await["up"], false);
    let ((_, code), ()) = tokio::join!(ann.end(), soon("the end", here.shut_down()));
    assert_eq!(code.map(u16::from), Some(1001));
}
