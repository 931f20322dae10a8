//! S4: many tasks change the subscriptions of the same few channels at once.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use backplane_core::{
    Channel, Delivery, NodeId, Subscribe, SubscribeError, SubscribeErrorKind, SubscriptionHandle,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::subscriptions::give_up_after;
use crate::harness::Fault;
use crate::trial::{Node, Reader, Trial, chain, channel, ensure, show};
use crate::verdict::{Outcome, broken};

/// Few enough for the tasks to meet all the time.
const ROOMS: usize = 5;
const TASKS: usize = 8;

/// How many changes a round has, over all tasks, and in each part of a round with an outage.
const CHANGES: usize = 1200;

/// How many it has where each takes its time.
const SLOW_CHANGES: usize = 400;

/// How many subscriptions a task has at most.
const OWN: usize = 4;

pub(super) async fn s4(trial: Trial) -> Outcome {
    let trial = match trial.can(Fault::Kill) {
        true => trial,
        false => trial.with_reachable_nodes(),
    };
    let breakable = trial.can(Fault::Kill) || trial.can(Fault::Isolate(NodeId::from_u64(0)));
    let [a, b] = trial.nodes().await?;
    for number in 0..3 {
        let calm = Round::new(&trial, &a, &b, number, Meanwhile::Nothing)?;
        calm.run().await?;
    }
    if breakable {
        let broken = Round::new(&trial, &a, &b, 3, Meanwhile::Outage)?;
        broken.run().await?;
    }
    let trial = trial.with_reachable_nodes();
    if trial.can(Fault::Delay) {
        let [a, b] = trial.nodes().await?;
        let slow = Round::new(&trial, &a, &b, 4, Meanwhile::Delay)?;
        slow.run().await?;
    }
    Ok(())
}

/// What happens during the changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// The broker goes away, and comes back.
    Outage,
    /// The way is slow, so that many changes are on it at once.
    Delay,
}

/// One round, in channels of its own.
struct Round<'a> {
    trial: &'a Trial,
    publisher: &'a Node,
    node: &'a Node,
    number: u64,
    meanwhile: Meanwhile,
    rooms: Vec<Channel>,
    /// Every subscription holds it all the time.
    always: Channel,
}

/// A subscription, and the rooms that it must hold.
struct Held {
    reader: Reader,
    rooms: BTreeSet<usize>,
}

impl<'a> Round<'a> {
    fn new(
        trial: &'a Trial,
        publisher: &'a Node,
        node: &'a Node,
        number: u64,
        meanwhile: Meanwhile,
    ) -> Outcome<Self> {
        let room = |i| channel(format!("round {number}, room {i}"));
        Ok(Self {
            trial,
            publisher,
            node,
            number,
            meanwhile,
            rooms: (0..ROOMS).map(room).collect::<Outcome<_>>()?,
            always: channel(format!("round {number}"))?,
        })
    }

    async fn run(&self) -> Outcome {
        let mut held = self.change().await?;
        for (i, one) in held.iter().enumerate() {
            let holds = self.rooms_of(&one.reader.subscription.channels());
            ensure(
                holds == one.rooms,
                format!(
                    "subscription {i} holds rooms {holds:?} and should hold {:?}",
                    one.rooms
                ),
            )?;
        }
        self.right_on_the_node(&held).await?;
        self.right_on_the_broker(&held).await?;
        for one in &mut held {
            while one.reader.subscription.try_recv().is_ok() {}
        }
        self.right_readers(&mut held).await?;
        // All at once, and so everything in one batch.
        drop(held);
        self.right_on_the_node(&[]).await?;
        self.right_on_the_broker(&[]).await
    }

    /// Lets the tasks do what they like, and returns what is left, the shared subscription last.
    async fn change(&self) -> Outcome<Vec<Held>> {
        let shared = self.trial.subscribe(self.node, [&self.always]).await?;
        let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut tasks = JoinSet::new();
        for task in 0..TASKS as u64 {
            let seed = self.trial.seed() ^ (self.number << 8 | task);
            let changer = Changer {
                trial: self.trial.clone(),
                publisher: Arc::clone(self.publisher),
                node: Arc::clone(self.node),
                shared: shared.subscription.handle(),
                rooms: self.rooms.clone(),
                always: self.always.clone(),
                outage: self.meanwhile == Meanwhile::Outage,
                random: StdRng::seed_from_u64(seed),
                held: Vec::new(),
            };
            tasks.spawn(changer.run(Arc::clone(&stop), Arc::clone(&changes)));
        }
        match self.meanwhile {
            Meanwhile::Nothing => self.after(&mut tasks, &changes, CHANGES).await?,
            Meanwhile::Outage => {
                self.after(&mut tasks, &changes, CHANGES).await?;
                self.trial.outage().await?;
                self.trial.all_down(&[self.publisher, self.node]).await?;
                self.after(&mut tasks, &changes, CHANGES).await?;
                self.trial.heal().await?;
                self.trial.all_up(&[self.publisher, self.node]).await?;
                self.after(&mut tasks, &changes, CHANGES).await?;
            }
            Meanwhile::Delay => {
                self.trial.inject(Fault::Delay).await?;
                self.after(&mut tasks, &changes, SLOW_CHANGES).await?;
                self.trial.heal().await?;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let mut held = Vec::new();
        while let Some(task) = self
            .trial
            .in_time("a subscribe does not end", tasks.join_next())
            .await?
        {
            held.extend(joined(task)?);
        }
        shared
            .subscription
            .handle()
            .unsubscribe(self.rooms.first().cloned());
        // Nobody knows which task was the last to change it; it must do what it says itself.
        let rooms = self.rooms_of(&shared.subscription.channels());
        held.push(Held {
            reader: shared,
            rooms,
        });
        Ok(held)
    }

    /// Waits for so many more changes.
    async fn after(
        &self,
        tasks: &mut JoinSet<Outcome<Vec<Held>>>,
        changes: &AtomicUsize,
        more: usize,
    ) -> Outcome {
        let enough = changes.load(Ordering::Relaxed) + more;
        let what = format!("{more} changes");
        let wait = self.trial.until(&what, || async {
            let seen = changes.load(Ordering::Relaxed);
            Ok((seen < enough).then(|| format!("{} less", enough - seen)))
        });
        tokio::select! {
            biased;
            // They end only when something is wrong.
            Some(task) = tasks.join_next() => joined(task).map(drop),
            done = wait => done,
        }
    }

    fn rooms_of(&self, channels: &[Channel]) -> BTreeSet<usize> {
        let held: HashSet<_> = channels.iter().collect();
        (0..ROOMS)
            .filter(|i| held.contains(&self.rooms[*i]))
            .collect()
    }

    /// The node's own count of what lives.
    async fn right_on_the_node(&self, held: &[Held]) -> Outcome {
        let rooms: BTreeSet<_> = held.iter().flat_map(|one| &one.rooms).collect();
        // Besides, there is the one that all hold.
        let channels = rooms.len() + usize::from(!held.is_empty());
        let expected = (held.len() as u64, channels as u64);
        let what = format!("{expected:?} live subscriptions and channels");
        self.trial
            .until(&what, || async {
                let stats = self.node.stats();
                let seen = (stats.subscriptions, stats.channels);
                Ok((seen != expected).then(|| format!("{seen:?}")))
            })
            .await
    }

    async fn right_on_the_broker(&self, held: &[Held]) -> Outcome {
        if self.trial.harness().observer().is_none() {
            return Ok(());
        }
        let prefix = self.trial.prefix();
        for (i, room) in self.rooms.iter().enumerate() {
            let wanted = held.iter().any(|one| one.rooms.contains(&i));
            let expected = u64::from(wanted);
            self.trial
                .until_subscriptions(&prefix, room, expected)
                .await?;
        }
        let expected = u64::from(!held.is_empty());
        self.trial
            .until_subscriptions(&prefix, &self.always, expected)
            .await
    }

    /// Those who hold a room get its messages, once, and nobody else does.
    async fn right_readers(&self, held: &mut [Held]) -> Outcome {
        for (i, room) in self.rooms.iter().enumerate() {
            let first = format!("first {i}");
            self.trial.publish(self.publisher, room, first).await?;
        }
        for (at, one) in held.iter_mut().enumerate() {
            let expected = one.rooms.iter().map(|i| format!("first {i}")).collect();
            exactly(at, &mut one.reader, expected).await?;
        }
        // A witness on the same node has every message before the sentinel is sent: what others were not to get, they
        // would have by then.
        let mut witness = self.trial.subscribe(self.node, &self.rooms).await?;
        for (i, room) in self.rooms.iter().enumerate() {
            let second = format!("second {i}");
            self.trial.publish(self.publisher, room, second).await?;
        }
        let all = (0..ROOMS).map(|i| format!("second {i}")).collect();
        exactly(held.len(), &mut witness, all).await?;
        self.trial
            .publish(self.publisher, &self.always, "end")
            .await?;
        for (at, one) in held.iter_mut().enumerate() {
            let mut expected: BTreeSet<_> =
                one.rooms.iter().map(|i| format!("second {i}")).collect();
            expected.insert("end".to_owned());
            exactly(at, &mut one.reader, expected).await?;
            let more = one.reader.subscription.try_recv().ok();
            ensure(
                more.is_none(),
                format!("subscription {at} got one too many: {more:?}"),
            )?;
        }
        Ok(())
    }
}

/// The next messages are these, in any order of channels; what was published during the changes, and the gaps of
/// an outage, may come before.
async fn exactly(at: usize, reader: &mut Reader, mut expected: BTreeSet<String>) -> Outcome {
    while let Some(next) = expected.first() {
        let what = format!("for subscription {at}, message {next:?}");
        let Delivery::Message(message) = reader.next(&what).await? else {
            continue;
        };
        let text = String::from_utf8_lossy(message.payload()).into_owned();
        if !expected.remove(&text) && text != NOISE {
            let got = show(message.payload());
            return broken(format!(
                "subscription {at} got {got}, which it should not get, or not again"
            ));
        }
    }
    Ok(())
}

fn joined(task: Result<Outcome<Vec<Held>>, tokio::task::JoinError>) -> Outcome<Vec<Held>> {
    match task {
        Ok(held) => held,
        Err(error) => broken(format!("a task that subscribes failed: {error}")),
    }
}

/// What is published during the changes.
const NOISE: &str = "noise";

/// One of the tasks: knows what its own subscriptions must hold.
struct Changer {
    trial: Trial,
    publisher: Node,
    node: Node,
    /// A subscription that all tasks change.
    shared: SubscriptionHandle,
    rooms: Vec<Channel>,
    always: Channel,
    outage: bool,
    random: StdRng,
    held: Vec<Held>,
}

impl Changer {
    async fn run(mut self, stop: Arc<AtomicBool>, changes: Arc<AtomicUsize>) -> Outcome<Vec<Held>> {
        while !stop.load(Ordering::Relaxed) {
            self.step().await?;
            changes.fetch_add(1, Ordering::Relaxed);
            // Not in step with the others.
            for _ in 0..self.random.random_range(0..3) {
                tokio::task::yield_now().await;
            }
        }
        // All leave one room at once.
        for one in &mut self.held {
            let handle = one.reader.subscription.handle();
            handle.unsubscribe(self.rooms.first().cloned());
            one.rooms.remove(&0);
        }
        Ok(self.held)
    }

    async fn step(&mut self) -> Outcome {
        let own = self.random.random_range(0..OWN);
        let i = self.random.random_range(0..ROOMS);
        let (room, polls) = (self.rooms[i].clone(), self.random.random_range(1..8));
        match self.random.random_range(0..10) {
            0 => self.subscribe(None).await?,
            1 => self.subscribe(Some(polls)).await?,
            2 if own < self.held.len() => drop(self.held.swap_remove(own)),
            3 => self.shared.unsubscribe([room]),
            4 => {
                let adding = self.shared.subscribe([room]);
                self.ended(give_up_after(polls, adding).await)?;
            }
            5 => {
                let adding = self.shared.subscribe([room]);
                let added = self.trial.in_time("subscribe does not return", adding);
                let added = added.await?;
                self.ended(Some(added))?;
            }
            6 => {
                let published = self.publisher.publish(&room, NOISE.into());
                let published = self.trial.in_time("publish does not return", published);
                if let Err(error) = published.await?
                    && !self.outage
                {
                    return broken(format!("publish failed: {}", chain(&error)));
                }
            }
            _ if own >= self.held.len() => {}
            7 => {
                let handle = self.held[own].reader.subscription.handle();
                handle.unsubscribe([room.clone()]);
                self.held[own].rooms.remove(&i);
                // Nobody else changes it.
                ensure(
                    !handle.channels().contains(&room),
                    format!("unsubscribe returned, and the subscription still holds room {i}"),
                )?;
            }
            what => {
                let handle = self.held[own].reader.subscription.handle();
                let adding = handle.subscribe([room.clone()]);
                let added = match what {
                    8 => give_up_after(polls, adding).await,
                    _ => Some(
                        self.trial
                            .in_time("subscribe does not return", adding)
                            .await?,
                    ),
                };
                // What was cancelled or has failed changes nothing.
                if self.ended(added)?.is_some() {
                    self.held[own].rooms.insert(i);
                    ensure(
                        handle.channels().contains(&room),
                        format!("subscribe returned, and the subscription does not hold room {i}"),
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Makes a subscription of some rooms, or gives it up after so many polls.
    async fn subscribe(&mut self, polls: Option<usize>) -> Outcome {
        if self.held.len() >= OWN {
            return Ok(());
        }
        let chosen: u32 = self.random.random();
        let rooms: BTreeSet<_> = (0..ROOMS).filter(|i| chosen >> i & 1 == 1).collect();
        let channels = rooms.iter().map(|i| self.rooms[*i].clone());
        let request = Subscribe::to(channels.chain([self.always.clone()]));
        let subscribing = self.node.subscribe(request);
        let subscribed = match polls {
            Some(polls) => give_up_after(polls, subscribing).await,
            None => Some(
                self.trial
                    .in_time("subscribe does not return", subscribing)
                    .await?,
            ),
        };
        if let Some(subscription) = self.ended(subscribed)? {
            let reader = self.trial.reader(subscription);
            self.held.push(Held { reader, rooms });
        }
        Ok(())
    }

    /// What a call came to, unless it was given up, or has failed as it may in an outage.
    fn ended<T>(&self, result: Option<Result<T, SubscribeError>>) -> Outcome<Option<T>> {
        match result {
            None => Ok(None),
            Some(Ok(done)) => Ok(Some(done)),
            Some(Err(error)) if self.outage && error.kind() == SubscribeErrorKind::Unavailable => {
                Ok(None)
            }
            Some(Err(error)) => broken(format!("subscribe failed: {}", chain(&error))),
        }
    }
}
