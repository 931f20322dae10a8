//! Subscriptions against a driver that counts, refuses and breaks.

mod support;

use std::time::Duration;

use backplane_core::{Backplane, ConnectionState, Node, Subscribe, SubscribeErrorKind, Subscribed};
use support::{Fake, channel, next, options, until};

#[tokio::test]
async fn ten_thousand_channels_subscribe_and_resubscribe_in_batches() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let channels: Vec<_> = (0..10_000).map(|i| channel(&format!("room {i}"))).collect();
    let subscription = node.subscribe(Subscribe::to(channels)).await.unwrap();
    let requests = fake.0.subscribes();
    assert_eq!(
        (requests.len(), requests.iter().sum::<usize>()),
        (10, 10_000)
    );

    fake.0.break_link();
    let mut watch = node.watch();
    watch.wait_for(|state| !state.is_connected()).await.unwrap();
    watch.connected().await.unwrap();
    let requests = fake.0.subscribes();
    assert_eq!(
        (requests.len(), requests.iter().sum::<usize>()),
        (10, 10_000)
    );
    drop(subscription);
    until("the broker forgets them", || fake.0.subscribed() == 0).await;
}

#[tokio::test]
async fn one_refused_channel_does_not_take_the_others_with_it() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut held = node
        .subscribe(Subscribe::to([channel("held")]))
        .await
        .unwrap();
    fake.0.refuse("t:forbidden");
    let request = Subscribe::to([channel("a"), channel("forbidden"), channel("b")]);
    let error = node.subscribe(request).await.unwrap_err();
    assert_eq!(error.kind(), SubscribeErrorKind::Refused);
    let error = held
        .handle()
        .subscribe([channel("forbidden")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), SubscribeErrorKind::Refused);
    until("the allowed ones of the failed call are given back", || {
        fake.0.subscribed() == 1
    })
    .await;
    assert_eq!(held.channels(), [channel("held")]);
    assert_eq!(node.state(), ConnectionState::Connected { generation: 1 });
    node.publish(&channel("held"), "on".into()).await.unwrap();
    assert_eq!(next(&mut held).await, "on");

    fake.0.allow_all();
    held.handle()
        .subscribe([channel("forbidden")])
        .await
        .unwrap();
}

#[tokio::test]
async fn two_calls_for_one_channel_are_independent() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut subscription = node.subscribe(Subscribe::to([])).await.unwrap();
    let handle = subscription.handle();
    let news = channel("news");
    for _ in 0..50 {
        // One call is dropped at its first await, the other goes on.
        let mut dropped = Box::pin(handle.subscribe([news.clone()]));
        let polled = futures_util::poll!(dropped.as_mut());
        assert!(polled.is_pending());
        let kept = handle.subscribe([news.clone()]);
        let (kept, ()) = tokio::join!(kept, async { drop(dropped) });
        kept.unwrap();
        node.publish(&news, "hello".into()).await.unwrap();
        assert_eq!(next(&mut subscription).await, "hello");
        handle.unsubscribe([news.clone()]);
    }
    until("the broker forgets it", || fake.0.subscribed() == 0).await;
    assert_eq!(node.stats().channels, 0);
}

#[tokio::test]
async fn a_call_that_succeeded_is_not_undone_by_the_end_of_another() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut subscription = node.subscribe(Subscribe::to([])).await.unwrap();
    let handle = subscription.handle();
    let news = channel("news");
    let mut first = Box::pin(handle.subscribe([news.clone()]));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    // It is in force, and the call that asked for it has not been polled again.
    until("the broker knows it", || fake.0.subscribed() == 1).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    handle.subscribe([news.clone()]).await.unwrap();
    drop(first);
    assert_eq!(subscription.channels(), std::slice::from_ref(&news));
    node.publish(&news, "hello".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "hello");
}

#[tokio::test]
async fn a_driver_that_panics_closes_the_node_and_leaves_nobody_waiting() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    let mut events = node.events();
    fake.0.panic_on_ping();
    // A second subscription of the channel costs a ping.
    let error = node
        .subscribe(Subscribe::to([news.clone()]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), SubscribeErrorKind::Closed);
    assert_eq!(node.state(), ConnectionState::Closed);
    assert_eq!(next(&mut subscription).await, "end");
    while events.recv().await.is_some() {}
    assert!(
        node.publish(&news, "late".into())
            .await
            .unwrap_err()
            .is_not_sent()
    );
    node.close().await;
}

/// The first call is for a membership that has been left since.
#[tokio::test]
async fn a_call_that_ends_after_a_leave_does_not_touch_the_next_membership() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let subscription = node.subscribe(Subscribe::to([])).await.unwrap();
    let handle = subscription.handle();
    let news = channel("news");
    let mut first = Box::pin(handle.subscribe([news.clone()]));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    handle.unsubscribe([news.clone()]);
    let mut second = Box::pin(handle.subscribe([news.clone()]));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    drop(first);
    second.await.unwrap();
    assert_eq!(subscription.channels(), std::slice::from_ref(&news));
}

#[tokio::test(start_paused = true)]
async fn a_deferred_channel_that_is_refused_keeps_nobody_away() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut held = node
        .subscribe(Subscribe::to([channel("held")]))
        .await
        .unwrap();
    fake.0.refuse("t:forbidden");
    fake.0.break_link();
    let mut watch = node.watch();
    watch.wait_for(|state| !state.is_connected()).await.unwrap();
    let accepted = held
        .handle()
        .subscribe_deferred([channel("forbidden")])
        .await
        .unwrap();
    assert_eq!(accepted, Subscribed::Deferred);
    let again = held
        .handle()
        .subscribe_deferred([channel("held")])
        .await
        .unwrap();
    assert_eq!(
        again,
        Subscribed::Deferred,
        "nothing is in force in an outage"
    );
    assert_eq!(watch.connected().await, Some(2));
    assert!(held.is_deferred());
    node.publish(&channel("held"), "on".into()).await.unwrap();
    assert!(next(&mut held).await.starts_with("gap"));
    assert_eq!(next(&mut held).await, "on");
    // Once it is allowed, asking again brings it into force.
    fake.0.allow_all();
    held.handle()
        .subscribe([channel("forbidden")])
        .await
        .unwrap();
    assert!(!held.is_deferred());
}

#[tokio::test]
async fn a_second_local_subscription_costs_a_round_trip_and_no_subscribe() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let _first = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    assert_eq!((fake.0.subscribes().len(), fake.0.pings()), (1, 0));
    let _second = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    assert_eq!((fake.0.subscribes().len(), fake.0.pings()), (0, 1));
}

#[tokio::test]
async fn a_deferred_subscribe_is_not_failed_by_an_outage_that_begins_meanwhile() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut subscription = node.subscribe(Subscribe::to([])).await.unwrap();
    let handle = subscription.handle();
    for round in 0..20 {
        let news = channel(&format!("news {round}"));
        let mut subscribing = Box::pin(handle.subscribe_deferred([news.clone()]));
        assert!(futures_util::poll!(subscribing.as_mut()).is_pending());
        fake.0.break_link();
        subscribing.await.unwrap();
        node.watch().connected().await.unwrap();
        while node.publish(&news, "hello".into()).await.is_err() {
            tokio::task::yield_now().await;
        }
        while next(&mut subscription).await != "hello" {}
    }
}

#[tokio::test]
async fn a_deferred_channel_takes_effect_with_the_reconnection_and_has_no_gap() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let mut subscription = node.subscribe(Subscribe::to([])).await.unwrap();
    fake.0.break_link();
    let mut watch = node.watch();
    watch.wait_for(|state| !state.is_connected()).await.unwrap();
    let news = channel("news");
    let accepted = subscription
        .handle()
        .subscribe_deferred([news.clone()])
        .await
        .unwrap();
    assert_eq!(accepted, Subscribed::Deferred);
    assert!(subscription.is_deferred());
    watch.connected().await.unwrap();
    assert!(!subscription.is_deferred());
    node.publish(&news, "hello".into()).await.unwrap();
    assert_eq!(next(&mut subscription).await, "hello");
}

#[tokio::test(start_paused = true)]
async fn failures_to_attach_make_one_gap_not_many() {
    let fake = Fake::new();
    let node = Node::connect(fake.clone(), options()).await.unwrap();
    let news = channel("news");
    let mut subscription = node.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    fake.0.refuse("t:news");
    fake.0.break_link();
    let mut events = node.events();
    let mut failures = 0;
    while failures < 5 {
        let event = tokio::time::timeout(Duration::from_secs(60), events.recv())
            .await
            .unwrap();
        let state = match event.unwrap() {
            backplane_core::Event::State(state) => state,
            other => panic!("{other:?}"),
        };
        if let ConnectionState::Disconnected { reason } = state {
            failures += 1;
            let text = reason.to_string();
            assert!(text.starts_with("fake broker: "), "{text}");
        }
    }
    fake.0.allow_all();
    node.watch().connected().await.unwrap();
    node.publish(&news, "after".into()).await.unwrap();
    assert!(next(&mut subscription).await.starts_with("gap"));
    assert_eq!(next(&mut subscription).await, "after");
}
