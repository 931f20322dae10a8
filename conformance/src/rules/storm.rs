//! Many publish at once while something breaks: [`Storm`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backplane_core::{Channel, PublishError};
use futures_util::future::join_all;
use tokio::task::JoinHandle;

use crate::trial::{Node, Trial};
use crate::verdict::{Outcome, broken};

/// How many messages each publisher sends as fast as it can. More follow slowly: a backend that makes nobody wait
/// must not fill the memory.
const FAST: usize = 100_000;

/// What a publisher does after its message of this number. One whose publish never waits must not keep from happening
/// what is to end it.
pub(super) async fn pause(number: usize) {
    match number < FAST {
        true => tokio::task::yield_now().await,
        false => tokio::time::sleep(Duration::from_millis(1)).await,
    }
}

/// What publishers were told of their messages.
pub(super) type Told = Vec<(String, Result<(), PublishError>)>;

/// What a publisher does when a publish has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterFailure {
    GoOn,
    Stop,
}

/// Publishers that send as fast as they can, until they are told to end, or this is dropped.
pub(super) struct Storm {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Storm {
    /// So many publishers, each with a task of its own. Message `i` of publisher `n` is `"{name}.{n}.{i}"`.
    pub(super) fn start(
        publishers: usize,
        node: &Node,
        channel: &Channel,
        name: &str,
        after_failure: AfterFailure,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::new(Mutex::new(Told::new()));
        let publisher = |n: usize| {
            let (node, channel, name) = (Arc::clone(node), channel.clone(), name.to_owned());
            let (stop, told) = (Arc::clone(&stop), Arc::clone(&told));
            tokio::spawn(async move {
                for i in 0_usize.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let payload = format!("{name}.{n}.{i}");
                    let outcome = node.publish(&channel, payload.clone().into()).await;
                    let failed = outcome.is_err();
                    lock(&told).push((payload, outcome));
                    if failed && after_failure == AfterFailure::Stop {
                        break;
                    }
                    pause(i).await;
                }
            })
        };
        let tasks = (0..publishers).map(publisher).collect();
        Self { stop, told, tasks }
    }

    /// Waits until so many publishes have returned.
    pub(super) async fn has_told(&self, trial: &Trial, at_least: usize) -> Outcome {
        let expected = format!("{at_least} messages on their way");
        let look = || async {
            let told = lock(&self.told).len();
            Ok((told < at_least).then(|| told.to_string()))
        };
        trial.until(&expected, look).await
    }

    /// Stops the publishers, and waits until the last publish has returned.
    pub(super) async fn end(mut self) -> Outcome<Told> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = join_all(&mut self.tasks).await;
        if ended.iter().any(Result::is_err) {
            return broken("a publish panicked");
        }
        Ok(std::mem::take(&mut *lock(&self.told)))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn lock(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
