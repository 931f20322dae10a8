//! The bus's own limits, where a rule of the suite does not see them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use backplane_core::{
    Backplane, Channel, ConnectionState, Delivery, NodeOptions, Prefix, Subscribe, Subscription,
};
use backplane_memory::MemoryBus;
use bytes::Bytes;

fn options() -> NodeOptions {
    NodeOptions::new(Prefix::new("t").unwrap())
}

async fn next(subscription: &mut Subscription) -> String {
    let delivery = tokio::time::timeout(Duration::from_secs(10), subscription.recv());
    match delivery.await.unwrap().unwrap() {
        Delivery::Message(message) => String::from_utf8_lossy(message.payload()).into_owned(),
        Delivery::Gap(gap) => format!("gap: {gap}"),
    }
}

#[tokio::test]
async fn what_waits_for_a_node_that_takes_nothing_comes_in_order_when_it_is_relieved() {
    let bus = MemoryBus::new();
    let a = bus.connect(options()).await.unwrap();
    let b = bus.connect(options()).await.unwrap();
    let news = Channel::new("news").unwrap();
    let mut reader = b.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    let mut witness = a.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    assert_eq!(bus.overrun(b.node_id(), 3), 1);
    for i in 0..3 {
        a.publish(&news, i.to_string().into()).await.unwrap();
        assert_eq!(next(&mut witness).await, i.to_string());
    }
    assert!(reader.try_recv().is_err());
    bus.relieve(b.node_id());
    a.publish(&news, Bytes::from_static(b"3")).await.unwrap();
    for i in 0..4 {
        assert_eq!(next(&mut reader).await, i.to_string());
    }
    assert_eq!(b.state(), ConnectionState::Connected { generation: 1 });
}

#[tokio::test]
async fn one_more_than_the_limit_costs_the_connection_and_all_that_waited() {
    let bus = MemoryBus::new();
    let a = bus.connect(options()).await.unwrap();
    let b = bus.connect(options()).await.unwrap();
    let news = Channel::new("news").unwrap();
    let mut reader = b.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    a.publish(&news, "heard".into()).await.unwrap();
    assert_eq!(next(&mut reader).await, "heard");
    bus.overrun(b.node_id(), 3);
    for i in 0..4 {
        a.publish(&news, i.to_string().into()).await.unwrap();
    }
    let mut watch = b.watch();
    let again = watch.wait_for(|state| *state == ConnectionState::Connected { generation: 2 });
    again.await.unwrap();
    a.publish(&news, "again".into()).await.unwrap();
    let gap = next(&mut reader).await;
    assert_eq!(gap, "gap: at least 4 messages missed (after an outage)");
    assert_eq!(next(&mut reader).await, "again");
    // It is over with that: the node takes what comes.
    bus.relieve(b.node_id());
}
