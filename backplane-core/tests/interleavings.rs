//! Calls that are polled, parked and dropped in any order, on a broker that comes and goes: what each
//! caller is told must agree with what arrived, and with what is subscribed in the end.
#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

mod support;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backplane_core::{Backplane, Delivery, Node, NodeOptions, PublishError, Subscribe};
use proptest::prelude::*;
use support::{Fake, OnPublish, channel, options};

#[derive(Clone, Debug)]
enum Op {
    Start,
    Poll(usize),
    Drop(usize),
    Run,
    Gate(bool),
    Broker(OnPublish),
    AtOnce,
}

fn op() -> impl Strategy<Value = Op> {
    let broker = prop_oneof![
        6 => Just(OnPublish::Deliver),
        1 => Just(OnPublish::DeliverTwice),
        2 => Just(OnPublish::NotSent),
        1 => Just(OnPublish::Unknown),
        2 => Just(OnPublish::UnknownButDeliver),
    ];
    prop_oneof![
        6 => Just(Op::Start),
        6 => any::<usize>().prop_map(Op::Poll),
        2 => any::<usize>().prop_map(Op::Drop),
        5 => Just(Op::Run),
        2 => any::<bool>().prop_map(Op::Gate),
        2 => broker.prop_map(Op::Broker),
        1 => Just(Op::AtOnce),
    ]
}

type Publish = Pin<Box<dyn Future<Output = Result<(), PublishError>>>>;

/// Runs the operations, then lets everything end; returns what each caller was told (`None`: it was
/// dropped) and what arrived.
async fn run(ops: Vec<Op>, options: NodeOptions) -> (Vec<Option<Result<(), bool>>>, Vec<String>) {
    let fake = Fake::new();
    let node = Arc::new(Node::connect(fake.clone(), options).await.unwrap());
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    let mut told = Vec::new();
    let mut open: Vec<(usize, Publish)> = Vec::new();
    let not_sent = |result: Result<(), PublishError>| result.map_err(|e| e.is_not_sent());
    let mut closed = false;
    for op in ops {
        match op {
            Op::Start => {
                let number = told.len();
                let (node, news) = (Arc::clone(&node), news.clone());
                let publish = async move { node.publish(&news, number.to_string().into()).await };
                told.push(None);
                open.push((number, Box::pin(publish)));
            }
            Op::Poll(at) if !open.is_empty() => {
                let at = at % open.len();
                let (number, publish) = &mut open[at];
                let polled = publish
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()));
                if let Poll::Ready(result) = polled {
                    told[*number] = Some(not_sent(result));
                    drop(open.remove(at));
                }
            }
            Op::Drop(at) if !open.is_empty() => {
                let at = at % open.len();
                drop(open.remove(at));
            }
            Op::Run => {
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
            }
            Op::Gate(false) if !closed => {
                fake.0.close_gate();
                closed = true;
            }
            Op::Gate(true) if closed => {
                fake.0.open_gate();
                closed = false;
            }
            Op::Broker(what) => fake.0.on_publish(what),
            Op::AtOnce => fake.0.answer_at_once(),
            _ => {}
        }
    }
    if closed {
        fake.0.open_gate();
    }
    for (number, publish) in open {
        let ended = tokio::time::timeout(Duration::from_secs(3600), publish).await;
        told[number] = Some(not_sent(ended.expect("a publish does not end")));
    }
    fake.0.on_publish(OnPublish::Deliver);
    node.publish(&news, "end".into()).await.unwrap();
    let mut arrived = Vec::new();
    loop {
        match subscription.recv().await.expect("the stream goes on") {
            Delivery::Message(m) if &m.payload()[..] == b"end" => break,
            Delivery::Message(m) => arrived.push(String::from_utf8_lossy(m.payload()).into_owned()),
            Delivery::Gap(_) => {}
        }
    }
    (told, arrived)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_callers_are_told_agrees_with_what_arrived(
        ops in prop::collection::vec(op(), 1..80),
        batch in 1..4_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (told, arrived) = runtime.block_on(run(ops, options().max_batch_messages(batch)));
        let mut times: HashMap<&str, usize> = HashMap::new();
        for text in &arrived {
            *times.entry(text).or_default() += 1;
        }
        for (number, told) in told.iter().enumerate() {
            let arrived = times.get(number.to_string().as_str()).copied().unwrap_or_default();
            match told {
                Some(Ok(())) => prop_assert_eq!(arrived, 1, "message {} was accepted", number),
                Some(Err(true)) => prop_assert_eq!(arrived, 0, "message {} was not sent", number),
                Some(Err(false)) | None => prop_assert!(arrived <= 1, "message {}", number),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum SubscribeOp {
    Start(usize),
    Poll(usize),
    Drop(usize),
    Leave(usize),
    Run,
    Break,
}

fn subscribe_op() -> impl Strategy<Value = SubscribeOp> {
    prop_oneof![
        6 => (0..3_usize).prop_map(SubscribeOp::Start),
        6 => any::<usize>().prop_map(SubscribeOp::Poll),
        3 => any::<usize>().prop_map(SubscribeOp::Drop),
        3 => (0..3_usize).prop_map(SubscribeOp::Leave),
        4 => Just(SubscribeOp::Run),
        1 => Just(SubscribeOp::Break),
    ]
}

/// Says whether it succeeded.
type Call = Pin<Box<dyn Future<Output = bool>>>;

/// Checks the one set of channels that the calls that succeeded, and the leaves after them, allow.
async fn subscribe_in_any_order(ops: Vec<SubscribeOp>) {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut subscription = node.subscribe(Subscribe::to([])).await.unwrap();
    let handle = subscription.handle();
    let rooms: Vec<_> = (0..3).map(|i| channel(&format!("room {i}"))).collect();
    // The room, unless it was left after the call had begun; and whether it has begun.
    let mut open: Vec<(Option<usize>, bool, Call)> = Vec::new();
    // Whether a call for the room has succeeded since it was last left.
    let mut succeeded = [false; 3];
    for op in ops {
        match op {
            SubscribeOp::Start(room) => {
                let (handle, name) = (handle.clone(), rooms[room].clone());
                let call = async move { handle.subscribe([name]).await.is_ok() };
                open.push((Some(room), false, Box::pin(call)));
            }
            SubscribeOp::Poll(at) if !open.is_empty() => {
                let at = at % open.len();
                let (room, begun, call) = &mut open[at];
                *begun = true;
                let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                if let Poll::Ready(ok) = polled {
                    if let Some(room) = *room {
                        succeeded[room] |= ok;
                    }
                    drop(open.remove(at));
                }
            }
            SubscribeOp::Drop(at) if !open.is_empty() => {
                let at = at % open.len();
                drop(open.remove(at));
            }
            SubscribeOp::Leave(room) => {
                // A call that is open may end well later, and means nothing for the room then.
                for (of, begun, _) in &mut open {
                    if *begun && *of == Some(room) {
                        *of = None;
                    }
                }
                handle.unsubscribe([rooms[room].clone()]);
                succeeded[room] = false;
            }
            SubscribeOp::Run => {
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
            }
            SubscribeOp::Break => fake.0.break_link(),
            _ => {}
        }
    }
    drop(open);
    // A broken link is noticed, and mended, before anything is looked at.
    while node.health().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let held = subscription.channels();
    for (room, name) in rooms.iter().enumerate() {
        assert_eq!(held.contains(name), succeeded[room], "room {room}");
    }
    support::until("the broker has the same set", || {
        fake.0.subscribed() == held.len()
    })
    .await;
    assert_eq!(node.stats().channels, held.len() as u64);
    while subscription.try_recv().is_ok() {}
    for (room, name) in rooms.iter().enumerate() {
        node.publish(name, room.to_string().into()).await.unwrap();
        let expected = succeeded[room].then(|| room.to_string());
        let got = subscription
            .try_recv()
            .ok()
            .and_then(Delivery::into_message);
        let got = got.map(|m| String::from_utf8_lossy(m.payload()).into_owned());
        assert_eq!(got, expected);
    }
    assert!(subscription.try_recv().is_err(), "something arrived twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whatever_is_cancelled_exactly_what_succeeded_is_subscribed(
        ops in prop::collection::vec(subscribe_op(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(subscribe_in_any_order(ops));
    }
}
