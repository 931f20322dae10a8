//! What a trial works with: isolated names, nodes, faults, and checks with deadlines.
//!
//! Nothing here waits in silence: that something does *not* arrive is shown by a sentinel, sent later on the same path,
//! that does.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use backplane_core::{
    Backplane, Capabilities, Channel, ConnectError, Delivery, Gap, Message, NodeOptions, Prefix,
    Stats, Subscribe, Subscription,
};
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::harness::{Fault, Faults, Harness, NodeSpec, Observer, Start};
use crate::rule::{Need, Rule};
use crate::verdict::{Ending, Outcome, broken, inconclusive};

/// How long something may take that must happen, before the scale factor.
pub(crate) const WITHIN: Duration = Duration::from_secs(10);

/// The pause between two looks at a condition.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A node under test.
pub(crate) type Node = Arc<dyn Backplane>;

/// One trial of one rule, in names of its own.
#[derive(Clone, Debug)]
pub struct Trial {
    harness: Arc<dyn Harness>,
    prefix: Prefix,
    seed: u64,
    scale: f64,
    reachable: bool,
    nodes: Arc<Mutex<Vec<Node>>>,
    capabilities: Arc<OnceLock<Capabilities>>,
}

impl Trial {
    pub(crate) fn new(harness: Arc<dyn Harness>, rule: &Rule, seed: u64, scale: f64) -> Self {
        // Short enough for rules that add to it, random enough for two runs on one broker.
        let name = format!("conf-{}-{seed:016x}", rule.id.to_lowercase());
        let prefix = Prefix::new(name).unwrap_or_else(|_| Prefix::unprefixed());
        let reachable = must_be_reachable(&*harness, rule);
        Self {
            harness,
            prefix,
            seed,
            scale,
            reachable,
            nodes: Arc::default(),
            capabilities: Arc::default(),
        }
    }

    // --- names

    /// The trial's prefix.
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix.clone()
    }

    /// Another prefix, which no other trial has either.
    pub(crate) fn prefix_like(&self, make: impl FnOnce(&str) -> String) -> Outcome<Prefix> {
        Prefix::new(make(self.prefix.as_str())).or_else(inconclusive)
    }

    /// The trial's seed, for its choices.
    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    /// How long something may take that must happen.
    pub(crate) fn within(&self) -> Duration {
        self.scaled(WITHIN)
    }

    /// What the backend declares, if a node was made.
    pub(crate) fn capabilities(&self) -> Option<Capabilities> {
        self.capabilities.get().copied()
    }

    /// A bound on the backend, on a machine as slow as the scale factor says.
    pub(crate) fn scaled(&self, bound: Duration) -> Duration {
        bound.mul_f64(self.scale)
    }

    // --- nodes

    /// The default options, in the trial's prefix, on a machine as slow as the scale factor says.
    pub(crate) fn options(&self) -> NodeOptions {
        let mut options = NodeOptions::new(self.prefix());
        if self.scale > 1.0 {
            for timeout in [
                &mut options.connect_timeout,
                &mut options.publish_timeout,
                &mut options.subscribe_timeout,
                &mut options.heartbeat_timeout,
            ] {
                *timeout = timeout.mul_f64(self.scale);
            }
        }
        options
    }

    /// A node in the trial's prefix.
    pub(crate) async fn node(&self) -> Outcome<Node> {
        self.node_with(self.options()).await
    }

    /// Several nodes in the trial's prefix.
    pub(crate) async fn nodes<const N: usize>(&self) -> Outcome<[Node; N]> {
        let mut nodes = Vec::with_capacity(N);
        for _ in 0..N {
            nodes.push(self.node().await?);
        }
        nodes
            .try_into()
            .or_else(|_| inconclusive("the number of nodes is wrong"))
    }

    /// A node with these options.
    pub(crate) async fn node_with(&self, options: NodeOptions) -> Outcome<Node> {
        match self.start(options, Start::Eager).await? {
            Ok(node) => Ok(node),
            Err(error) => inconclusive(format!("cannot make a node: {}", chain(&error))),
        }
    }

    /// Makes a node, or says what its constructor says.
    pub(crate) async fn start(
        &self,
        options: NodeOptions,
        start: Start,
    ) -> Outcome<Result<Node, ConnectError>> {
        let spec = self.spec(options, start);
        let made = timeout(self.within(), self.harness.node(&spec)).await;
        let Ok(made) = made else {
            return broken(format!(
                "making a node took longer than {:?}",
                self.within()
            ));
        };
        if let Ok(node) = &made {
            let _ = self.capabilities.set(node.capabilities());
            self.lock().push(Arc::clone(node));
        }
        Ok(made)
    }

    /// A node [elsewhere](Harness::node_elsewhere) with these options, if the harness has such a place.
    pub(crate) async fn node_elsewhere(&self, options: NodeOptions) -> Outcome<Node> {
        let spec = self.spec(options, Start::Eager);
        let made = self.harness.node_elsewhere(&spec);
        match self.in_time("making a node does not end", made).await? {
            None => Err(Ending::NotApplicable(
                "this backend has nothing that looks like isolation and is none".to_owned(),
            )),
            Some(Ok(node)) => {
                self.lock().push(Arc::clone(&node));
                Ok(node)
            }
            Some(Err(error)) => {
                inconclusive(format!("cannot make a node elsewhere: {}", chain(&error)))
            }
        }
    }

    /// What a node is made from, for a trial that calls the constructor itself.
    pub(crate) fn spec(&self, options: NodeOptions, start: Start) -> NodeSpec {
        NodeSpec {
            options,
            start,
            reachable: self.reachable,
        }
    }

    /// Forgets a node, so that the trial holds the last reference.
    pub(crate) fn forget(&self, node: &Node) {
        self.lock().retain(|known| !Arc::ptr_eq(known, node));
    }

    /// Closes every node of the trial.
    pub(crate) async fn clean_up(&self) -> Outcome {
        let nodes = std::mem::take(&mut *self.lock());
        for node in nodes {
            if timeout(self.within(), node.close()).await.is_err() {
                return broken("closing a node does not end");
            }
        }
        Ok(())
    }

    // --- the broker

    /// The harness.
    pub(crate) fn harness(&self) -> &dyn Harness {
        &*self.harness
    }

    /// The outside view; rules that use it need it.
    pub(crate) fn observer(&self) -> Outcome<&dyn Observer> {
        self.harness.observer().ok_or_else(|| missing("observer"))
    }

    /// The trial with nodes that [`Fault::Mute`] and [`Fault::Isolate`] reach, for a rule that uses them where it
    /// [can](Self::can) and does not need them.
    pub(crate) const fn with_reachable_nodes(mut self) -> Self {
        self.reachable = true;
        self
    }

    /// Whether the harness can make a fault, and it would reach the trial's nodes.
    pub(crate) fn can(&self, fault: Fault) -> bool {
        if fault.needs_a_way() && !self.reachable {
            return false;
        }
        self.harness
            .faults()
            .is_some_and(|faults| faults.supports(fault).is_ok())
    }

    /// Makes a fault.
    pub(crate) async fn inject(&self, fault: Fault) -> Outcome {
        self.faults()?
            .inject(fault)
            .await
            .or_else(|e| inconclusive(format!("{fault}: {e}")))
    }

    /// Makes the broker unavailable to every node, in the hardest way there is.
    pub(crate) async fn outage(&self) -> Outcome {
        if self.faults()?.supports(Fault::Kill).is_ok() {
            return self.inject(Fault::Kill).await;
        }
        let nodes = self.lock().clone();
        for node in nodes {
            self.inject(Fault::Isolate(node.node_id())).await?;
        }
        Ok(())
    }

    /// Ends every fault.
    pub(crate) async fn heal(&self) -> Outcome {
        self.faults()?
            .heal()
            .await
            .or_else(|e| inconclusive(format!("heal: {e}")))
    }

    /// An outage that every one of these nodes notices, and its end.
    pub(crate) async fn outage_and_back(&self, nodes: &[&Node]) -> Outcome {
        self.outage().await?;
        self.all_down(nodes).await?;
        self.heal().await?;
        self.all_up(nodes).await
    }

    /// Waits until every one of these nodes says that it is not connected.
    pub(crate) async fn all_down(&self, nodes: &[&Node]) -> Outcome {
        for node in nodes {
            let mut watch = node.watch();
            let down = watch.wait_for(|state| !state.is_connected());
            self.in_time("the node does not notice the outage", down)
                .await?;
        }
        Ok(())
    }

    /// Waits until every one of these nodes says that it is connected.
    pub(crate) async fn all_up(&self, nodes: &[&Node]) -> Outcome {
        for node in nodes {
            let mut watch = node.watch();
            let what = "the node does not reconnect";
            if self.in_time(what, watch.connected()).await?.is_none() {
                return broken("the node closed itself");
            }
        }
        Ok(())
    }

    /// Waits until every one of these nodes is connected and healthy: a broken connection that was not noticed
    /// yet has been.
    pub(crate) async fn all_settled(&self, nodes: &[&Node]) -> Outcome {
        for node in nodes {
            self.until("a healthy node", || async {
                Ok(node.health().await.err().map(|error| chain(&error)))
            })
            .await?;
        }
        self.all_up(nodes).await
    }

    // --- messages

    /// Subscribes, which must work.
    pub(crate) async fn subscribe(
        &self,
        node: &Node,
        channels: impl IntoIterator<Item = &Channel>,
    ) -> Outcome<Reader> {
        self.subscribe_to(node, Subscribe::to(channels.into_iter().cloned()))
            .await
    }

    /// Subscribes, which must work.
    pub(crate) async fn subscribe_to(&self, node: &Node, request: Subscribe) -> Outcome<Reader> {
        let subscribed = self
            .in_time("subscribe does not return", node.subscribe(request))
            .await?;
        match subscribed {
            Ok(subscription) => Ok(self.reader(subscription)),
            Err(error) => broken(format!("subscribe failed: {}", chain(&error))),
        }
    }

    /// Reads a subscription with the deadlines of the trial.
    pub(crate) fn reader(&self, subscription: Subscription) -> Reader {
        Reader {
            subscription,
            within: self.within(),
        }
    }

    /// Publishes, which must work.
    pub(crate) async fn publish(
        &self,
        node: &Node,
        channel: &Channel,
        payload: impl Into<Bytes>,
    ) -> Outcome {
        let published = node.publish(channel, payload.into());
        match self.in_time("publish does not return", published).await? {
            Ok(()) => Ok(()),
            Err(error) => broken(format!("publish failed: {}", chain(&error))),
        }
    }

    /// Waits for something that must happen in time.
    pub(crate) async fn in_time<T>(
        &self,
        otherwise: &str,
        work: impl Future<Output = T>,
    ) -> Outcome<T> {
        let within = self.within();
        match timeout(within, work).await {
            Ok(done) => Ok(done),
            Err(_) => broken(format!("{otherwise} within {within:?}")),
        }
    }

    /// Waits until a condition holds that must hold in the end. `look` returns what it sees if it does not.
    pub(crate) async fn until<F>(&self, expected: &str, mut look: impl FnMut() -> F) -> Outcome
    where
        F: Future<Output = Outcome<Option<String>>>,
    {
        let deadline = Instant::now() + self.within();
        loop {
            let Some(seen) = look().await? else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return broken(format!("expected {expected}, and it is {seen}"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until so many messages were put into the queues of a node's subscriptions, or have overflowed, since the
    /// counters were these: those that are not read have what they are going to have.
    pub(crate) async fn all_offered(&self, node: &Node, before: &Stats, offered: u64) -> Outcome {
        self.until(&format!("{offered} messages queued or dropped"), || async {
            let now = node.stats();
            let [delivered, overflowed] = [
                now.delivered.saturating_sub(before.delivered),
                now.overflowed.saturating_sub(before.overflowed),
            ];
            let seen = delivered + overflowed;
            Ok((seen < offered).then(|| seen.to_string()))
        })
        .await
    }

    /// Waits until the broker has so many subscriptions of a channel.
    pub(crate) async fn until_subscriptions(
        &self,
        prefix: &Prefix,
        channel: &Channel,
        expected: u64,
    ) -> Outcome {
        let what = format!("{expected} subscriptions of {channel:?} on the broker");
        self.until(&what, || async {
            let seen = self.observer()?.subscriptions(prefix, channel).await;
            let seen = seen.or_else(inconclusive)?;
            Ok((seen != expected).then(|| seen.to_string()))
        })
        .await
    }

    /// Waits until the broker has so many connections.
    pub(crate) async fn until_connections(&self, expected: u64) -> Outcome {
        let what = format!("{expected} connections on the broker");
        self.until(&what, || async {
            let seen = self.connections().await?;
            Ok((seen != expected).then(|| seen.to_string()))
        })
        .await
    }

    /// How many connections the broker has now.
    pub(crate) async fn connections(&self) -> Outcome<u64> {
        self.observer()?.connections().await.or_else(inconclusive)
    }

    fn faults(&self) -> Outcome<&dyn Faults> {
        self.harness
            .faults()
            .ok_or_else(|| missing("fault handles"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the trial of a rule needs to break the way to single nodes, rather than the broker itself.
fn must_be_reachable(harness: &dyn Harness, rule: &Rule) -> bool {
    let can_kill = || {
        harness
            .faults()
            .is_some_and(|faults| faults.supports(Fault::Kill).is_ok())
    };
    let needs_a_way = |need: &Need| {
        let mut faults = need.faults().iter().copied().flatten();
        faults.any(|fault| fault.needs_a_way())
    };
    rule.needs.iter().any(|need| match need {
        Need::Outage => !can_kill(),
        need => needs_a_way(need),
    })
}

/// Reads a subscription, with deadlines.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) subscription: Subscription,
    within: Duration,
}

impl Reader {
    /// The next delivery, which must come; `what` names what is waited for.
    pub(crate) async fn next(&mut self, what: &str) -> Outcome<Delivery> {
        match timeout(self.within, self.subscription.recv()).await {
            Ok(Some(delivery)) => Ok(delivery),
            Ok(None) => broken(format!("the stream ended before {what}")),
            Err(_) => broken(format!("{what} did not arrive within {:?}", self.within)),
        }
    }

    /// The next deliveries, of which one must come and no more than so many; `what` names what is waited for.
    pub(crate) async fn next_many(&mut self, what: &str, limit: usize) -> Outcome<Vec<Delivery>> {
        let mut taken = Vec::new();
        let taking = self.subscription.recv_many(&mut taken, limit);
        match timeout(self.within, taking).await {
            Ok(0) => broken(format!("the stream ended before {what}")),
            Ok(count) if count == taken.len() && count <= limit => Ok(taken),
            Ok(count) => broken(format!(
                "{limit} deliveries were asked for, {count} were told, and {} came",
                taken.len()
            )),
            Err(_) => broken(format!("{what} did not arrive within {:?}", self.within)),
        }
    }

    /// The next delivery must be this message.
    pub(crate) async fn expect(&mut self, payload: impl AsRef<[u8]>) -> Outcome<Message> {
        let expected = show(payload.as_ref());
        match self.next(&format!("message {expected}")).await? {
            Delivery::Message(message) if message.payload() == payload.as_ref() => Ok(message),
            Delivery::Message(message) => {
                let got = show(message.payload());
                broken(format!("expected message {expected}, got message {got}"))
            }
            Delivery::Gap(gap) => broken(format!("expected message {expected}, got a gap: {gap}")),
        }
    }

    /// The next deliveries must be these messages.
    pub(crate) async fn expect_all<P: AsRef<[u8]>>(
        &mut self,
        payloads: impl IntoIterator<Item = P>,
    ) -> Outcome {
        for payload in payloads {
            self.expect(payload).await?;
        }
        Ok(())
    }

    /// The next delivery must be a gap.
    pub(crate) async fn expect_gap(&mut self) -> Outcome<Gap> {
        match self.next("a gap").await? {
            Delivery::Gap(gap) => Ok(gap),
            Delivery::Message(message) => broken(format!(
                "expected a gap, got message {}",
                show(message.payload())
            )),
        }
    }

    /// Everything up to the sentinel, which must come; the sentinel is left out.
    pub(crate) async fn up_to(&mut self, sentinel: impl AsRef<[u8]>) -> Outcome<Vec<Delivery>> {
        let sentinel = sentinel.as_ref();
        let mut seen = Vec::new();
        loop {
            match self.next(&format!("message {}", show(sentinel))).await? {
                Delivery::Message(message) if message.payload() == sentinel => return Ok(seen),
                other => seen.push(other),
            }
        }
    }

    /// The stream must end after this many further messages.
    pub(crate) async fn expect_end(&mut self) -> Outcome {
        match timeout(self.within, self.subscription.recv()).await {
            Ok(None) => Ok(()),
            Ok(Some(delivery)) => {
                broken(format!("expected the end of the stream, got {delivery:?}"))
            }
            Err(_) => broken(format!("the stream did not end within {:?}", self.within)),
        }
    }
}

/// The payloads of the messages in a list, as text.
pub(crate) fn texts(deliveries: &[Delivery]) -> Vec<String> {
    let text = |delivery: &Delivery| match delivery {
        Delivery::Message(message) => show(message.payload()),
        Delivery::Gap(gap) => format!("gap: {gap}"),
    };
    deliveries.iter().map(text).collect()
}

/// A payload of the suite as text; these are no secrets.
pub(crate) fn show(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) if text.len() <= 80 => format!("{text:?}"),
        _ => format!("of {} bytes", payload.len()),
    }
}

/// A channel of the suite.
pub(crate) fn channel(name: impl AsRef<str>) -> Outcome<Channel> {
    Channel::new(name.as_ref()).or_else(inconclusive)
}

/// An error with its sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Breaks the rule unless a condition holds.
pub(crate) fn ensure(holds: bool, otherwise: impl Display) -> Outcome {
    if holds { Ok(()) } else { broken(otherwise) }
}

fn missing(what: &str) -> Ending {
    Ending::NotApplicable(format!("the harness has no {what}"))
}
