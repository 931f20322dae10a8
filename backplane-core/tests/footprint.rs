//! What an idle subscription holds on the heap. The counting allocator of `allocation-counter` counts each thread for
//! itself, and the runtime has one thread.
#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

mod support;

use allocation_counter::measure;
use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkPublishError,
};
use backplane_core::{Backplane, Capabilities, Node, Subscribe};
use futures_util::future::join_all;
use support::options;

/// A broker that keeps nothing, and gives each node what it sends to itself.
#[derive(Debug)]
struct Mirror;

#[derive(Debug)]
struct Reflection(Inbound);

#[async_trait]
impl Driver for Mirror {
    type Link = Reflection;

    fn endpoint(&self) -> String {
        "a mirror".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn connect(&self, inbound: Inbound) -> Result<Reflection, LinkError> {
        Ok(Reflection(inbound))
    }
}

#[async_trait]
impl Link for Reflection {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        self.0.deliver(channel.as_bytes(), frame);
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

/// The name of its channel, the handle that its user holds, and the node's tables, also when these have just doubled.
#[test]
fn an_idle_subscription_with_a_channel_of_its_own_takes_less_than_500_bytes() {
    // Tables of 16384 places are full with the one, and have doubled with the other.
    for (count, bound) in [(14_336, 440), (14_337, 470)] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let node = runtime.block_on(Node::connect(Mirror, options())).unwrap();
        let mut held = Vec::new();
        let info = measure(|| {
            held = runtime.block_on(join_all((0..count).map(|n| {
                let channel = support::channel(&format!("channel-{n:06}"));
                node.subscribe(Subscribe::to([channel]))
            })));
        });
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(node.stats().channels, count);
        let bytes = u64::try_from(info.bytes_current).unwrap() / count;
        let allocations = u64::try_from(info.count_current).unwrap() / count;
        println!("{count} subscriptions: {bytes} bytes and {allocations} allocations each");
        assert!(bytes <= bound, "{bytes} bytes, and {bound} are allowed");
        assert!(allocations <= 6, "{allocations} allocations");

        let left = measure(|| {
            held = Vec::new();
            runtime.block_on(async {
                while node.stats().channels > 0 {
                    tokio::task::yield_now().await;
                }
                // The broker is told, and the routes are forgotten.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            });
        });
        let left = info.bytes_current + left.bytes_current;
        println!("{left} bytes are left of them");
        assert!(left <= 128 << 10, "{left} bytes are left");
    }
}
