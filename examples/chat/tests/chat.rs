//! Two servers and a Redis are one chat.
#![allow(clippy::unwrap_used)] // clippy knows tests only by their attribute

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Client, all, outcome, redis, room, server, soon, user};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

#[tokio::test]
async fn what_is_said_on_one_server_is_heard_on_both_and_does_not_come_back() {
    let redis = redis().await;
    let (here, there) = (server(&redis).await, server(&redis).await);
    let mut ann = Client::enter(here.address(), "ann").await;
    let mut bob = Client::enter(there.address(), "bob").await;
    let mut cid = Client::enter(here.address(), "cid").await;

    for text in ["1", "2", "3"] {
        assert_eq!(ann.say(all(), text).await, outcome(1, "accepted"));
    }
    for text in ["1", "2", "3"] {
        assert_eq!(bob.hears().await, format!("ann: {text}"));
        assert_eq!(cid.hears().await, format!("ann: {text}"));
    }
    bob.say(all(), "end").await;
    assert_eq!(ann.hears().await, "bob: end");
}

#[tokio::test]
async fn a_room_is_heard_by_those_who_are_in_it() {
    let redis = redis().await;
    let (here, there) = (server(&redis).await, server(&redis).await);
    let mut ann = Client::enter(here.address(), "ann").await;
    let mut bob = Client::enter(there.address(), "bob").await;
    let mut cid = Client::enter(there.address(), "cid").await;
    assert!(!bob.join("tea").await && !cid.join("tea").await);
    cid.leave("tea").await;

    // She need not be in it.
    assert_eq!(ann.say(room("tea"), "hot").await, outcome(0, "accepted"));
    bob.leave("tea").await;
    ann.say(room("tea"), "cold").await;
    ann.say(all(), "end").await;
    assert_eq!(bob.hears().await, "ann: hot");
    assert_eq!(bob.hears().await, "ann: end");
    assert_eq!(cid.hears().await, "ann: end");
}

#[tokio::test]
async fn a_user_with_two_connections_hears_on_both() {
    let redis = redis().await;
    let (here, there) = (server(&redis).await, server(&redis).await);
    let mut phone = Client::enter(here.address(), "ann").await;
    let mut desk = Client::enter(there.address(), "ann").await;
    let mut bob = Client::enter(here.address(), "bob").await;

    assert_eq!(bob.say(user("ann"), "hi").await, outcome(1, "accepted"));
    assert_eq!(phone.hears().await, "bob: hi");
    assert_eq!(desk.hears().await, "bob: hi");
    // To her other self, but not back.
    assert_eq!(phone.say(user("ann"), "note").await, outcome(0, "accepted"));
    assert_eq!(desk.hears().await, "ann: note");
    desk.say(all(), "end").await;
    assert_eq!(phone.hears().await, "ann: end");
    assert_eq!(bob.hears().await, "ann: end");
}

#[tokio::test]
async fn who_disconnects_has_left_everything() {
    let redis = redis().await;
    let here = server(&redis).await;
    let mut ann = Client::enter(here.address(), "ann").await;
    for politely in [true, false] {
        let mut bob = Client::enter(here.address(), "bob").await;
        bob.join("tea").await;
        assert_eq!(ann.say(room("tea"), "x").await, outcome(1, "accepted"));
        assert_eq!(ann.say(user("bob"), "x").await, outcome(1, "accepted"));
        if politely {
            bob.close().await;
        } else {
            drop(bob);
            let gone = async { while ann.say(room("tea"), "x").await.0 > 0 {} };
            soon("the server has found out", gone).await;
        }
        for to in [room("tea"), user("bob"), all()] {
            assert_eq!(ann.say(to, "x").await, outcome(0, "accepted"));
        }
    }
}

#[tokio::test]
async fn what_is_malformed_gets_an_answer_and_loses_nothing() {
    let redis = redis().await;
    let here = server(&redis).await;
    let mut ann = Client::enter(here.address(), "ann").await;
    let mut bob = Client::enter(here.address(), "bob").await;
    ann.join("tea").await;
    let say = |to, text| json!({ "type": "say", "id": 7, "to": to, "text": text }).to_string();
    let join = |room: &str| json!({ "type": "join", "room": room }).to_string();
    let wrong: [(Message, &str); 10] = [
        ("hello".into(), "not understood"),
        ("".into(), "not understood"),
        ("[".repeat(10_000).into(), "not understood"),
        (r#"{"type":"dance"}"#.into(), "unknown variant `dance`"),
        (r#"{"type":"join"}"#.into(), "missing field `room`"),
        (Bytes::from_static(&[0xFF]).into(), "text messages only"),
        (say(json!("nobody"), "x").into(), "unknown variant `nobody`"),
        (say(room(""), "x").into(), "message 7 was not sent"),
        (say(all(), &"x".repeat(4097)).into(), "longer than 4096"),
        (join(&"x".repeat(257)).into(), "you are not in that room"),
    ];
    for (number, (message, expected)) in wrong.into_iter().enumerate() {
        ann.send(message).await;
        let what = ann.told("error").await["what"].to_string();
        assert!(what.contains(expected), "{expected}: {what}");
        let text = number.to_string();
        assert_eq!(bob.say(room("tea"), &text).await, outcome(1, "accepted"));
        assert_eq!(ann.hears().await, format!("bob: {text}"));
        assert_eq!(ann.say(all(), &text).await, outcome(1, "accepted"));
        assert_eq!(bob.hears().await, format!("ann: {text}"));
    }
    for number in 1..50 {
        ann.join(&number.to_string()).await;
    }
    ann.send(join("one more")).await;
    let what = ann.told("error").await["what"].to_string();
    assert!(what.contains("50 rooms already"), "{what}");
}

#[tokio::test]
async fn a_message_beyond_all_bounds_ends_its_client_and_no_other() {
    let redis = redis().await;
    let here = server(&redis).await;
    let mut ann = Client::enter(here.address(), "ann").await;
    let mut bob = Client::enter(here.address(), "bob").await;
    ann.send("x".repeat(64 * 1024 + 1)).await;
    assert_eq!(ann.end().await.1, Some(CloseCode::Policy));
    assert_eq!(bob.say(all(), "x").await, outcome(0, "accepted"));
}

#[tokio::test]
async fn who_has_no_valid_name_is_refused_before_the_socket_opens() {
    let redis = redis().await;
    let here = server(&redis).await;
    for query in ["", "?user=", &format!("?user={}", "x".repeat(257))] {
        match Client::try_enter(here.address(), query).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 400, "{query}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("entered with {query:?}"),
        }
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let redis = redis().await;
    let here = server(&redis).await;
    let answer = soon("the page", get(here.address())).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-security-policy: default-src 'none'"));
    let (_, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for foreign in ["src=", "http://", "https://", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[tokio::test]
async fn a_server_that_shuts_down_says_goodbye_and_the_others_go_on() {
    let redis = redis().await;
    let (here, there) = (server(&redis).await, server(&redis).await);
    let mut ann = Client::enter(here.address(), "ann").await;
    let mut bob = Client::enter(there.address(), "bob").await;
    let mut cid = Client::enter(there.address(), "cid").await;
    assert_eq!(ann.say(all(), "last").await, outcome(0, "accepted"));
    assert_eq!(bob.hears().await, "ann: last");
    assert_eq!(bob.say(user("ann"), "bye").await, outcome(0, "accepted"));
    assert_eq!(ann.hears().await, "bob: bye");

    let address = here.address();
    let begin = Instant::now();
    let (ending, ()) = tokio::join!(ann.end(), here.shut_down());
    assert_eq!(ending, (vec![], Some(CloseCode::Away)));
    // It waits for what there is to wait for, and not for its patience to end.
    assert!(begin.elapsed() < Duration::from_secs(5));
    let late = Client::try_enter(address, "?user=dan").await;
    assert!(matches!(late, Err(Error::Io(_))), "nobody listens");
    assert_eq!(bob.say(all(), "still here").await, outcome(1, "accepted"));
    assert_eq!(cid.hears().await, "ann: last");
    assert_eq!(cid.hears().await, "bob: still here");
}

async fn get(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}
