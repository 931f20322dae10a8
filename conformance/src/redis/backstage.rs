//! Where the harness does its own work: [`Backstage`].

use std::future::Future;
use std::io;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

use crate::fixtures::FixtureError;
use crate::scale::stretched;

/// How long work that was given up may take to notice.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A runtime apart from the one that the suite runs on.
///
/// So the tasks of the suite's runtime are those of the nodes, and can be counted; and the harness
/// goes on when a trial blocks the suite's threads.
#[derive(Debug)]
pub(super) struct Backstage {
    // Taken in `drop` only.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Backstage {
    pub(super) fn start() -> Result<Self, FixtureError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("harness")
            .enable_all()
            .build()
            .map_err(FixtureError::io("a thread for the harness"))?;
        let handle = runtime.handle().clone();
        Ok(Self {
            runtime: Some(runtime),
            handle,
        })
    }

    /// Does work here, and returns its result.
    ///
    /// # Errors
    /// If the work panicked.
    ///
    /// # Cancel safety
    /// Dropping the future ends the work.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        let mut task = JoinSet::new();
        task.spawn_on(work, &self.handle);
        result(&mut task).await
    }

    /// Likewise, for work that blocks; it goes on when the future is dropped.
    pub(super) async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let mut task = JoinSet::new();
        task.spawn_blocking_on(work, &self.handle);
        result(&mut task).await
    }

    /// Lets work go on here until its end, or until the task is dropped.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Task {
        let mut task = JoinSet::new();
        task.spawn_on(work, &self.handle);
        Task(task)
    }
}

/// Work that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Task(#[allow(dead_code, reason = "aborts when dropped")] JoinSet<()>);

async fn result<T: 'static>(task: &mut JoinSet<T>) -> io::Result<T> {
    let ended = task.join_next().await;
    ended
        .unwrap_or_else(|| unreachable!("one task was spawned"))
        .map_err(io::Error::other)
}

impl Drop for Backstage {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // From another thread, because a runtime must not be waited for inside another one. What the tasks own,
        // such as a server, has ended when this returns.
        let end =
            thread::Builder::new().spawn(move || runtime.shutdown_timeout(stretched(END_LIMIT)));
        if let Ok(end) = end {
            let _ = end.join();
        }
    }
}
