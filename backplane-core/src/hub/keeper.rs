//! The task that says that this node is there, and notices who is not (rule H20).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::inner::Inner;
use super::roster::News;
use super::signal::{Birth, Signal, Word};
use crate::name::NodeId;
use crate::state::ConnectionState;

/// Says hello whenever the node was attached, is heard in each interval, and says bye in the end.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut watch = inner.backplane.watch();
    // Two silent halves in a row are an interval.
    let mut half = interval(inner.timing.heartbeat_interval / 2);
    half.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut attached = None;
    loop {
        let state = tokio::select! {
            biased;
            () = inner.stop.cancelled() => break,
            state = watch.wait_for(|state| generation(state) != attached) => state,
            _ = half.tick() => {
                inner.tick().await;
                continue;
            }
        };
        let Some(state) = state else { break };
        attached = generation(&state);
        // By now it may be attached again, and ask again.
        inner.requests.outage(inner.generation());
        match attached {
            Some(_) => {
                inner.presence.lock().attach(Instant::now());
                inner.say(Word::Hello).await;
            }
            None => inner.presence.lock().detach(),
        }
        inner.presence.changed();
        if state == ConnectionState::Closed {
            break;
        }
    }
    if attached.is_some() {
        inner.say(Word::Bye).await;
    }
}

const fn generation(state: &ConnectionState) -> Option<u64> {
    match state {
        ConnectionState::Connected { generation } => Some(*generation),
        _ => None,
    }
}

impl Inner {
    /// How often this node was attached, if it is.
    pub(super) fn generation(&self) -> Option<u64> {
        generation(&self.backplane.state())
    }

    /// A node says something about itself.
    pub(super) fn hear(self: &Arc<Self>, from: NodeId, birth: Birth, word: Word) {
        if from == self.node {
            if birth != self.birth && word != Word::Bye {
                tracing::warn!(hub = self.name, "this node has two hubs of one name");
            }
            return;
        }
        let now = Instant::now();
        let mut roster = self.presence.lock();
        let news = match &word {
            Word::Bye => match roster.bye(from, birth) {
                true => News::Anew,
                false => News::Nothing,
            },
            _ => roster.present(from, birth, now),
        };
        if let Word::Here { settled, known } = &word {
            roster.told(*settled, known.iter().copied(), now);
        }
        let answer = (word == Word::Hello).then(|| Word::Here {
            settled: roster.is_settled(now),
            known: roster.peers().map(|(node, _)| node).collect(),
        });
        drop(roster);
        if news == News::Anew {
            if word != Word::Bye {
                tracing::warn!(hub = self.name, node = %from, "a hub was started anew without a bye, or its node has two of one name");
            }
            self.gone(from);
        }
        if news != News::Nothing || matches!(word, Word::Here { .. }) {
            self.presence.changed();
        }
        if let Some(word) = answer {
            let birth = self.birth;
            self.signal_aside(from, Signal::Presence { birth, word });
        }
    }

    /// Something came from a node. One that is not known is asked: its hello was lost, or it was taken for lost, and as long
    /// as it has something to say it does not say that it is there.
    pub(super) fn heard(&self, from: NodeId) {
        let is_stranger = self.presence.lock().heard(from, Instant::now());
        if is_stranger {
            let (birth, word) = (self.birth, Word::Hello);
            self.signal_aside(from, Signal::Presence { birth, word });
        }
    }

    async fn tick(self: &Arc<Self>) {
        let now = Instant::now();
        let lost = self.presence.lock().tick(now);
        for node in &lost {
            self.gone(*node);
        }
        if !lost.is_empty() {
            self.presence.changed();
        }
        self.forget_calls(None, now);
        // Whatever else was published to all says as well that this node is there.
        let attached = self.presence.lock().is_attached();
        if attached && !self.spoke.swap(false, Ordering::Relaxed) {
            self.say(Word::Beat).await;
        }
    }

    /// What a node was asked, it does not answer any more, and what it asked for, it does not want any more.
    fn gone(self: &Arc<Self>, node: NodeId) {
        self.requests.gone(node);
        self.forget_calls(Some(node), Instant::now());
    }

    /// Says it to all. If it does not get through, the next heartbeat may, or there is an outage.
    async fn say(&self, word: Word) {
        let birth = self.birth;
        let bytes = self
            .protocol
            .encode_signal(&Signal::Presence { birth, word });
        let said = self.backplane.publish(self.protocol.all(), bytes).await;
        if let Err(error) = said {
            tracing::debug!(hub = self.name, %error, "the other nodes were not told of this one");
        }
    }
}
