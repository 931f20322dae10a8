//! The receiving side of a node, fed with several broker messages: it does not panic, a subscription gets at most
//! what was in right frames, in a queue that stays within its bounds, and a right frame of an unknown publisher
//! still arrives.
#![no_main]

use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkPublishError,
};
use backplane_core::{
    Backplane, Capabilities, Channel, Delivery, Node, NodeOptions, Prefix, Subscribe,
};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const CAPACITY: usize = 8;
const BYTES: usize = 64;

/// A broker that delivers a node's own frames, which are its probes, and what the fuzzer says.
#[derive(Clone, Debug, Default)]
struct Broker(Arc<Mutex<Option<Inbound>>>);

impl Broker {
    fn deliver(&self, channel: &[u8], bytes: &Bytes) {
        let inbound = self.0.lock().expect("no panic is caught").clone();
        inbound
            .expect("the node is attached")
            .deliver_bytes(channel, bytes);
    }
}

#[async_trait]
impl Driver for Broker {
    type Link = Self;

    fn endpoint(&self) -> String {
        "fuzzer".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn connect(&self, inbound: Inbound) -> Result<Self, LinkError> {
        *self.0.lock().expect("no panic is caught") = Some(inbound);
        Ok(self.clone())
    }
}

#[async_trait]
impl Link for Broker {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        self.deliver(channel.as_bytes(), &frame.encode());
        Ok(())
    }

    async fn subscribe(&self, _: &[BrokerChannel]) -> Result<(), LinkError> {
        Ok(())
    }

    async fn unsubscribe(&self, _: &[BrokerChannel]) -> Result<(), LinkError> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), LinkError> {
        Ok(())
    }

    async fn close(&self) {}
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(receive(data));
});

async fn receive(data: &[u8]) {
    let broker = Broker::default();
    let news = Channel::new("news").expect("a right name");
    let options = NodeOptions::new(Prefix::new("fuzz").expect("a right name"));
    let name = BrokerChannel::new(&options.prefix, &news);
    let node = Node::connect(broker.clone(), options)
        .await
        .expect("it attaches");
    let request = Subscribe::to([news.clone()])
        .capacity(CAPACITY)
        .max_bytes(BYTES);
    let mut subscription = node.subscribe(request).await.expect("it subscribes");

    // Each message of the broker begins with its length; a longer one than is left ends the input.
    let (mut rest, mut sent, mut bad) = (data, 0, 0);
    while let Some((len, behind)) = rest.split_at_checked(2) {
        let len = usize::from(u16::from_le_bytes([len[0], len[1]])).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        let bytes = Bytes::copy_from_slice(bytes);
        match Frame::decode(&bytes) {
            Ok(frame) => sent += frame.len() as u64,
            Err(_) => bad += 1,
        }
        broker.deliver(name.as_bytes(), &bytes);
    }
    let stats = node.stats();
    assert_eq!(stats.malformed + stats.incompatible, bad);
    assert_eq!(stats.delivered + stats.overflowed + stats.duplicates, sent);

    let (mut messages, mut bytes) = (0, 0);
    while let Ok(delivery) = subscription.try_recv() {
        if let Delivery::Message(message) = delivery {
            messages += 1;
            bytes += message.payload().len();
        }
    }
    assert_eq!(messages as u64, stats.delivered);
    assert!(messages <= CAPACITY && (bytes <= BYTES || messages == 1));

    node.publish(&news, "right".into()).await.expect("it sends");
    let arrived = subscription.try_recv();
    assert!(
        matches!(&arrived, Ok(Delivery::Message(m)) if m.payload() == "right"),
        "{arrived:?}"
    );
    node.close().await;
}
