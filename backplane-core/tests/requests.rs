//! Requests to subscribe that are on their way at the same time.
#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

mod support;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backplane_core::driver::{
    BrokerChannel, Driver, Frame, Inbound, Link, LinkError, LinkErrorKind, LinkPublishError,
};
use backplane_core::{Backplane, Capabilities, Node, Subscribe};
use proptest::prelude::*;
use support::{channel, connected, options};
use tokio::time::sleep;

/// A broker that takes its time for each request, and looks at what is on its way at once.
#[derive(Clone, Debug, Default)]
struct Slow(Arc<Mutex<State>>);

#[derive(Debug)]
struct SlowLink(Slow, Inbound);

#[derive(Debug, Default)]
struct State {
    inbound: Option<Inbound>,
    subscribed: HashSet<BrokerChannel>,
    under_way: Vec<BrokerChannel>,
    requests: usize,
    most: usize,
    seed: u64,
}

impl Slow {
    /// Takes part in what is under way for a while.
    async fn request(
        &self,
        names: &[BrokerChannel],
        apply: impl Fn(&mut HashSet<BrokerChannel>, &BrokerChannel) -> bool,
    ) {
        let pause = {
            let mut state = self.0.lock().unwrap();
            let twice = names.iter().find(|name| state.under_way.contains(name));
            assert_eq!(twice, None, "it is part of two requests at once");
            state.under_way.extend_from_slice(names);
            state.requests += 1;
            state.most = state.most.max(state.requests);
            state.seed = state
                .seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            Duration::from_millis(state.seed >> 60)
        };
        let _under_way = UnderWay(self, names);
        sleep(pause).await;
        {
            let mut state = self.0.lock().unwrap();
            let set = &mut state.subscribed;
            for name in names {
                apply(set, name);
            }
        }
        sleep(pause).await;
    }

    fn break_link(&self) {
        let inbound = self.0.lock().unwrap().inbound.take();
        if let Some(inbound) = inbound {
            inbound.lost(LinkError::new(LinkErrorKind::Lost, "broken by the test"));
        }
    }

    fn subscribed(&self) -> HashSet<String> {
        let state = self.0.lock().unwrap();
        let names = state.subscribed.iter().map(ToString::to_string);
        names.filter(|name| !name.contains("!probe:")).collect()
    }
}

struct UnderWay<'a>(&'a Slow, &'a [BrokerChannel]);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // A failed assertion is told by its own panic.
        if let Ok(mut state) = self.0.0.lock() {
            state.requests -= 1;
            state.under_way.retain(|name| !self.1.contains(name));
        }
    }
}

#[async_trait]
impl Driver for Slow {
    type Link = SlowLink;

    fn endpoint(&self) -> String {
        "slow broker".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn connect(&self, inbound: Inbound) -> Result<SlowLink, LinkError> {
        let mut state = self.0.lock().unwrap();
        state.subscribed.clear();
        state.inbound = Some(inbound.clone());
        Ok(SlowLink(self.clone(), inbound))
    }
}

#[async_trait]
impl Link for SlowLink {
    async fn publish(
        &self,
        channel: &BrokerChannel,
        frame: &Frame,
    ) -> Result<(), LinkPublishError> {
        self.1.deliver(channel.as_bytes(), frame);
        Ok(())
    }

    async fn subscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        let add = |set: &mut HashSet<_>, name: &BrokerChannel| set.insert(name.clone());
        self.0.request(channels, add).await;
        Ok(())
    }

    async fn unsubscribe(&self, channels: &[BrokerChannel]) -> Result<(), LinkError> {
        let remove = |set: &mut HashSet<_>, name: &BrokerChannel| set.remove(name);
        self.0.request(channels, remove).await;
        Ok(())
    }

    async fn ping(&self) -> Result<(), LinkError> {
        Ok(())
    }

    async fn close(&self) {}
}

#[derive(Clone, Debug)]
enum Op {
    Subscribe {
        of: usize,
        first: usize,
        count: usize,
    },
    Unsubscribe {
        of: usize,
        first: usize,
        count: usize,
    },
    Drop(usize),
    Wait(u64),
    Break,
}

/// So many channels there are.
const CHANNELS: usize = 12;

fn op() -> impl Strategy<Value = Op> {
    let some = || (0..3_usize, 0..CHANNELS, 1..8_usize);
    prop_oneof![
        6 => some().prop_map(|(of, first, count)| Op::Subscribe { of, first, count }),
        4 => some().prop_map(|(of, first, count)| Op::Unsubscribe { of, first, count }),
        1 => (0..3_usize).prop_map(Op::Drop),
        4 => (0..30_u64).prop_map(Op::Wait),
        1 => Just(Op::Break),
    ]
}

/// Runs the operations; returns what is subscribed in the end, what is held, and how many requests there were at once.
async fn run(ops: Vec<Op>, batch: usize, seed: u64) -> (HashSet<String>, HashSet<String>, usize) {
    let slow = Slow::default();
    slow.0.lock().unwrap().seed = seed;
    let node = Node::connect(slow.clone(), options().subscribe_batch(batch));
    let node = node.await.unwrap();
    let open = || async { Some(node.subscribe(Subscribe::to([])).await.unwrap()) };
    let mut subscriptions = [open().await, open().await, open().await];
    let names = |first: usize, count: usize| {
        (first..first + count).map(|n| channel(&format!("{}", n % CHANNELS)))
    };
    for op in ops {
        match op {
            Op::Subscribe { of, first, count } => {
                let subscription = subscriptions[of].as_ref().unwrap();
                let handle = subscription.handle();
                let channels: Vec<_> = names(first, count).collect();
                // It is deferred in an outage, and may be refused when one comes in its way.
                tokio::spawn(async move { handle.subscribe_deferred(channels).await });
                tokio::task::yield_now().await;
            }
            Op::Unsubscribe { of, first, count } => {
                let subscription = subscriptions[of].as_ref().unwrap();
                subscription.handle().unsubscribe(names(first, count));
            }
            Op::Drop(of) => {
                subscriptions[of] = None;
                subscriptions[of] = open().await;
            }
            Op::Wait(millis) => sleep(Duration::from_millis(millis)).await,
            Op::Break => slow.break_link(),
        }
    }
    // Until everything is told, and any link is back. The clock is not a real one.
    sleep(Duration::from_secs(60)).await;
    connected(&node).await;
    let held = subscriptions.iter().flatten().flat_map(|s| s.channels());
    let held = held.map(|channel| format!("t:{channel}")).collect();
    let most = slow.0.lock().unwrap().most;
    (slow.subscribed(), held, most)
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_channel_is_part_of_one_request_at_a_time_and_the_right_set_is_subscribed(
        ops in prop::collection::vec(op(), 1..60),
        batch in 1..4_usize,
        seed: u64,
    ) {
        let (subscribed, held, most) = paused().block_on(run(ops, batch, seed));
        prop_assert_eq!(subscribed, held);
        prop_assert!(most <= 2, "{} requests at once", most);
    }
}

#[test]
fn two_full_requests_are_on_their_way_at_once_and_few_changes_are_collected() {
    let all = Op::Subscribe {
        of: 0,
        first: 0,
        count: CHANNELS,
    };
    let (subscribed, _, most) = paused().block_on(run(vec![all, Op::Wait(100)], 2, 1));
    assert_eq!((subscribed.len(), most), (CHANNELS, 2));
    let one = |first| Op::Subscribe {
        of: 0,
        first,
        count: 1,
    };
    let few = (0..CHANNELS).flat_map(|n| [one(n), Op::Wait(1)]).collect();
    let (subscribed, _, most) = paused().block_on(run(few, 1000, 1));
    assert_eq!((subscribed.len(), most), (CHANNELS, 1));
}

/// Nothing else happens afterwards that would have the broker told.
#[test]
fn what_changes_while_a_further_request_is_on_its_way_is_told_after_it() {
    for (count, seed, wait) in (4..8)
        .flat_map(|count| (0..8).map(move |seed| (count, seed)))
        .flat_map(|(count, seed)| (0..40).map(move |wait| (count, seed, wait)))
    {
        let all = Op::Subscribe {
            of: 0,
            first: 0,
            count,
        };
        let last = Op::Unsubscribe {
            of: 0,
            first: count - 1,
            count: 1,
        };
        let ops = vec![all, Op::Wait(wait), last];
        let (subscribed, held, _) = paused().block_on(run(ops, 2, seed << 40));
        assert_eq!(subscribed, held, "{count} channels, {wait} ms, seed {seed}");
    }
}
