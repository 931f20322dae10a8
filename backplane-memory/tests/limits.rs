//! The bus's own limits, where a rule of the suite does not see them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkErrorKind, LinkPublishError,
};
use backplane_core::{
    Backplane, Capabilities, Channel, ConnectionState, Delivery, Node, NodeOptions, Prefix,
    Subscribe, SubscribeError, Subscription,
};
use backplane_memory::{MemoryBus, MemoryDriver, MemoryLink};
use bytes::Bytes;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

/// After so many turns everything has run that does not wait for anything.
const TURNS: usize = 100;

const LONG: Duration = Duration::from_secs(10);

fn options() -> NodeOptions {
    NodeOptions::new(prefix())
}

fn prefix() -> Prefix {
    Prefix::new("t").unwrap()
}

async fn next(subscription: &mut Subscription) -> String {
    let delivery = timeout(LONG, subscription.recv());
    match delivery.await.unwrap().unwrap() {
        Delivery::Message(message) => String::from_utf8_lossy(message.payload()).into_owned(),
        Delivery::Gap(gap) => format!("gap: {gap}"),
    }
}

/// A subscribe whose answer does not come, and that the bus has done.
async fn waiting_subscribe<D: Driver>(
    bus: &MemoryBus,
    node: &Arc<Node<D>>,
    channels: [&Channel; 2],
) -> JoinHandle<Result<Subscription, SubscribeError>> {
    let [new, _] = channels;
    let (of, request) = (Arc::clone(node), Subscribe::to(channels.map(Clone::clone)));
    let call = tokio::spawn(async move { of.subscribe(request).await });
    let done = async {
        while bus.subscribers(&prefix(), new) == 0 {
            yield_now().await;
        }
    };
    timeout(LONG, done).await.unwrap();
    for _ in 0..TURNS {
        yield_now().await;
    }
    assert!(!call.is_finished());
    call
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

#[tokio::test]
async fn an_answer_waits_behind_what_was_delivered_before_the_subscribe() {
    let bus = MemoryBus::new();
    let a = bus.connect(options()).await.unwrap();
    let b = Arc::new(bus.connect(options()).await.unwrap());
    let [news, more] = ["news", "more"].map(|name| Channel::new(name).unwrap());
    let mut reader = b.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    bus.overrun(b.node_id(), 10);
    a.publish(&news, "before".into()).await.unwrap();
    // It is in force at the bus at once, and the node has not heard of it.
    let call = waiting_subscribe(&bus, &b, [&more, &news]).await;
    bus.relieve(b.node_id());
    let mut late = timeout(LONG, call).await.unwrap().unwrap().unwrap();
    a.publish(&news, "after".into()).await.unwrap();
    assert_eq!(next(&mut reader).await, "before");
    assert_eq!(next(&mut reader).await, "after");
    // What was accepted before the subscribe began does not come to it (rule D6).
    assert_eq!(next(&mut late).await, "after");
    assert_eq!(b.state(), ConnectionState::Connected { generation: 1 });
}

#[tokio::test]
async fn a_publish_of_a_node_that_takes_nothing_is_answered_at_once() {
    let bus = MemoryBus::new();
    let a = bus.connect(options()).await.unwrap();
    let b = bus.connect(options()).await.unwrap();
    let news = Channel::new("news").unwrap();
    let mut witness = a.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    let mut own = b.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    bus.overrun(b.node_id(), 10);
    b.publish(&news, "mine".into()).await.unwrap();
    assert_eq!(next(&mut witness).await, "mine");
    assert!(own.try_recv().is_err());
    bus.relieve(b.node_id());
    assert_eq!(next(&mut own).await, "mine");
}

#[tokio::test]
async fn an_answer_counts_as_a_message_and_is_lost_with_the_connection() {
    let bus = MemoryBus::new();
    let a = bus.connect(options()).await.unwrap();
    let b = Arc::new(bus.connect(options()).await.unwrap());
    let [news, more] = ["news", "more"].map(|name| Channel::new(name).unwrap());
    let mut reader = b.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    a.publish(&news, "heard".into()).await.unwrap();
    assert_eq!(next(&mut reader).await, "heard");
    bus.overrun(b.node_id(), 3);
    let call = waiting_subscribe(&bus, &b, [&more, &news]).await;
    for i in 0..3 {
        assert_eq!(b.state(), ConnectionState::Connected { generation: 1 });
        a.publish(&news, i.to_string().into()).await.unwrap();
    }
    let mut watch = b.watch();
    let again = watch.wait_for(|state| *state == ConnectionState::Connected { generation: 2 });
    timeout(LONG, again).await.unwrap().unwrap();
    a.publish(&news, "again".into()).await.unwrap();
    let gap = next(&mut reader).await;
    assert_eq!(gap, "gap: at least 3 messages missed (after an outage)");
    assert_eq!(next(&mut reader).await, "again");
    // After Ok it is in force; after an error nothing of it is left (rule S9).
    let made = timeout(LONG, call).await.unwrap().unwrap().ok();
    let held = usize::from(made.is_some());
    assert_eq!(bus.subscribers(&prefix(), &more), held);
}

#[tokio::test]
async fn answers_that_wait_end_with_the_connection_by_whatever_switch() {
    let switches: [(&str, Switch); 7] = [
        ("cut", |bus, node| assert_eq!(bus.cut(node.node_id()), 1)),
        ("cut_all", |bus, _| assert_eq!(bus.cut_all(), 1)),
        ("refuse", |bus, node| {
            assert_eq!(bus.refuse(node.node_id()), 1)
        }),
        ("revoke", |bus, _| assert_eq!(bus.revoke(), 1)),
        ("ignore", |bus, _| bus.ignore()),
        ("stop", |bus, _| bus.stop()),
        ("overflow", |bus, node| {
            let name = Channel::new("more").unwrap();
            let one = Bytes::from_static(b"one");
            bus.overrun(node.node_id(), 0);
            assert_eq!(bus.inject(&prefix(), &name, &one), 1);
        }),
    ];
    for (name, switch) in switches {
        let bus = MemoryBus::new();
        let tapped = Tapped {
            driver: bus.driver(),
            link: Arc::default(),
        };
        let made = Node::connect(tapped.clone(), options()).await;
        let node = Arc::new(made.unwrap());
        let link = tapped.link();
        let more = BrokerChannel::new(&prefix(), &Channel::new("more").unwrap());
        bus.overrun(node.node_id(), 10);
        let subscribe = tokio::spawn({
            let (link, more) = (Arc::clone(&link), [more]);
            async move { link.subscribe(&more).await }
        });
        let ping = tokio::spawn(async move { link.ping().await });
        for _ in 0..TURNS {
            yield_now().await;
        }
        assert!(!subscribe.is_finished() && !ping.is_finished(), "{name}");
        switch(&bus, &node);
        for call in [subscribe, ping] {
            let error = timeout(LONG, call).await.expect(name).unwrap().unwrap_err();
            assert_eq!(error.kind(), LinkErrorKind::Lost, "{name}: {error}");
        }
        node.close().await;
    }
}

#[tokio::test]
async fn a_node_that_takes_nothing_already_keeps_what_waits_for_it() {
    let bus = MemoryBus::new();
    let a = bus.connect(options()).await.unwrap();
    let b = bus.connect(options()).await.unwrap();
    let news = Channel::new("news").unwrap();
    let mut reader = b.subscribe(Subscribe::to([news.clone()])).await.unwrap();
    for i in 0..3 {
        assert_eq!(bus.overrun(b.node_id(), 10), 1);
        a.publish(&news, i.to_string().into()).await.unwrap();
    }
    bus.relieve(b.node_id());
    for i in 0..3 {
        assert_eq!(next(&mut reader).await, i.to_string());
    }
    assert_eq!(b.state(), ConnectionState::Connected { generation: 1 });
}

/// What ends the connections of a node.
type Switch = fn(&MemoryBus, &Node<Tapped>);

/// A driver that lets others use its latest link.
#[derive(Clone, Debug)]
struct Tapped {
    driver: MemoryDriver,
    link: Arc<Mutex<Option<Arc<MemoryLink>>>>,
}

#[derive(Debug)]
struct TappedLink(Arc<MemoryLink>);

impl Tapped {
    fn link(&self) -> Arc<MemoryLink> {
        Arc::clone(self.link.lock().unwrap().as_ref().unwrap())
    }
}

#[async_trait]
impl Driver for Tapped {
    type Link = TappedLink;

    fn endpoint(&self) -> String {
        self.driver.endpoint()
    }

    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    async fn connect(&self, inbound: Inbound) -> Result<TappedLink, LinkError> {
        let link = Arc::new(self.driver.connect(inbound).await?);
        *self.link.lock().unwrap() = Some(Arc::clone(&link));
        Ok(TappedLink(link))
    }
}

#[async_trait]
impl Link for TappedLink {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        self.0.publish(channel, frame).await
    }

    async fn subscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        self.0.subscribe(channels).await
    }

    async fn unsubscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        self.0.unsubscribe(channels).await
    }

    async fn ping(&self) -> Result<(), LinkError> {
        self.0.ping().await
    }

    // Its answers must come although nobody closes it.
    async fn close(&self) {}
}
