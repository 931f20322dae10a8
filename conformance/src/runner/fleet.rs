//! Several harnesses at once: [`Fleet`].

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::stand::{End, Stand};
use super::{Plan, Progress, finished};
use crate::harness::Harness;
use crate::report::{Report, RuleResult};
use crate::scale::stretched;

/// How long the end of a harness may take, before the scale factor: a container has to be removed.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(30);

/// How long what still runs may take to notice that it is over, before the scale factor.
const RUNTIME_LIMIT: Duration = Duration::from_secs(5);

/// The threads of a worker that is not alone.
const THREADS: usize = 2;

/// Several workers, each with a harness and a runtime of its own, that share the rules of a run.
///
/// What its harnesses must not share is a broker: a fault that one makes must not reach another.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use backplane_conformance::{Description, Fleet, Harness, NodeSpec, Plan, rules};
/// # #[derive(Debug)] struct Mine(backplane_memory::MemoryBus);
/// # #[async_trait::async_trait]
/// # impl Harness for Mine {
/// #     fn describe(&self) -> Description { Description::new("mine") }
/// #     async fn node(&self, spec: &NodeSpec)
/// #         -> Result<std::sync::Arc<dyn backplane_core::Backplane>, backplane_core::ConnectError> {
/// #         Ok(std::sync::Arc::new(self.0.connect(spec.options.clone()).await?))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), String> {
/// let two = NonZeroUsize::new(2).ok_or("no workers")?;
/// let mut fleet = Fleet::new(two, || async { Ok(Mine(Default::default())) });
/// fleet.ready().await?;
/// # let d1 = rules::select(&["D1".to_owned()])?;
/// # let plan = Plan::new().rules(d1);
/// let report = fleet.run(plan.shuffled(true)).await;
/// fleet.shut_down().await?;
/// assert!(report.is_certified());
/// # Ok(())
/// # }
/// ```
pub struct Fleet {
    workers: Vec<Worker>,
    /// The harness of each worker, as soon as all have one.
    harnesses: Vec<Arc<dyn Harness>>,
    /// Its end, or `true`, ends the workers.
    stop: watch::Sender<bool>,
}

struct Worker {
    orders: mpsc::Sender<Order>,
    ready: Option<oneshot::Receiver<Made>>,
    over: oneshot::Receiver<Result<(), String>>,
}

type Made = Result<Arc<dyn Harness>, String>;

/// Makes the harness of a worker, inside its runtime.
type Make = dyn Fn() -> Pin<Box<dyn Future<Output = Made>>> + Send + Sync;

/// A run, as a worker gets it.
#[derive(Clone)]
struct Order {
    plan: Arc<Plan>,
    queue: Arc<Queue>,
    told: mpsc::Sender<Told>,
}

/// The rules that nobody has taken yet.
struct Queue {
    waiting: Mutex<VecDeque<usize>>,
    /// How many workers have a broker.
    alive: AtomicUsize,
}

/// What a worker tells of a run.
enum Told {
    Begin(usize),
    End(usize, RuleResult),
    Over(End),
}

impl Fleet {
    /// Starts so many workers, each of which makes its harness.
    pub fn new<H, F>(jobs: NonZeroUsize, make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        H: Harness,
        F: Future<Output = Result<H, String>> + 'static,
    {
        Self::of(jobs, move || {
            let made = make();
            async move {
                let harness: Arc<dyn Harness> = Arc::new(made.await?);
                Ok(harness)
            }
        })
    }

    /// Likewise, with harnesses that are shared already.
    pub(crate) fn of<F>(jobs: NonZeroUsize, make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Made> + 'static,
    {
        let make: Arc<Make> = Arc::new(move || Box::pin(make()));
        let stop = watch::Sender::new(false);
        let threads = (jobs.get() > 1).then_some(THREADS);
        let workers = (0..jobs.get())
            .map(|_| Worker::start(Arc::clone(&make), threads, stop.subscribe()))
            .collect();
        Self {
            workers,
            harnesses: Vec::new(),
            stop,
        }
    }

    /// Waits until every worker has its harness.
    ///
    /// # Errors
    /// Why the first one has none that has none.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; it can be called again.
    pub async fn ready(&mut self) -> Result<(), String> {
        for worker in &mut self.workers {
            let Some(ready) = &mut worker.ready else {
                continue;
            };
            let made = ready.await;
            worker.ready = None;
            let harness = made.map_err(|_| "a worker ended before it had a harness".to_owned())?;
            self.harnesses.push(harness?);
        }
        Ok(())
    }

    /// The harness of the first worker, once the fleet is [ready](Self::ready).
    #[must_use]
    pub fn harness(&self) -> Option<&Arc<dyn Harness>> {
        self.harnesses.first()
    }

    /// Runs the rules, each on the next worker that has nothing to do.
    ///
    /// A worker whose broker does not come back, as [`Suite::run`](crate::Suite::run) has it, leaves the rest to the
    /// others.
    ///
    /// # Cancel safety
    /// Dropping the future ends the trials that run, and leaves the brokers as they are then.
    pub async fn run(&self, plan: Plan) -> Report {
        self.run_with(plan, |_| {}).await
    }

    /// Like [`run`](Self::run), and tells how it goes. Rules may begin and end in any order.
    pub async fn run_with(
        &self,
        plan: Plan,
        mut progress: impl FnMut(Progress<'_>) + Send,
    ) -> Report {
        let begin = Instant::now();
        let mut about = plan.about(self.describe(), self.workers.len());
        let total = plan.rules.len();
        let plan = Arc::new(plan);
        let mut told = self.order(&plan).await;
        let mut results: Vec<Option<RuleResult>> = vec![None; total];
        let mut lost = None;
        while let Some(told) = told.recv().await {
            match told {
                Told::Begin(index) => {
                    if let Some(rule) = plan.rules.get(index) {
                        progress(Progress::Begin { rule, index, total });
                    }
                }
                Told::End(index, result) => {
                    progress(Progress::End {
                        result: &result,
                        index,
                        total,
                    });
                    if let Some(place) = results.get_mut(index) {
                        *place = Some(result);
                    }
                }
                Told::Over(end) => {
                    let declared = end.capabilities.map(Into::into);
                    about.capabilities = about.capabilities.or(declared);
                    lost = lost.or(end.lost);
                }
            }
        }
        if results.iter().any(Option::is_none) {
            lost = lost.or_else(|| Some("a worker ended before its time".to_owned()));
        }
        finished(about, begin, results, lost)
    }

    /// Ends every worker and its harness, whatever it is at, and waits for it.
    ///
    /// # Errors
    /// Which harness does not end in time.
    pub async fn shut_down(self) -> Result<(), String> {
        self.stop.send_replace(true);
        let mut result = Ok(());
        for worker in self.workers {
            // A worker that panicked has ended too.
            result = result.and(worker.over.await.unwrap_or(Ok(())));
        }
        result
    }

    fn describe(&self) -> crate::Description {
        match self.harness() {
            Some(harness) => harness.describe(),
            None => crate::Description::new("unknown"),
        }
    }

    async fn order(&self, plan: &Arc<Plan>) -> mpsc::Receiver<Told> {
        let queue = Arc::new(Queue {
            waiting: Mutex::new(plan.order().into()),
            alive: AtomicUsize::new(self.workers.len()),
        });
        let (told, receiver) = mpsc::channel(self.workers.len() * 4);
        for worker in &self.workers {
            let order = Order {
                plan: Arc::clone(plan),
                queue: Arc::clone(&queue),
                told: told.clone(),
            };
            // A worker that has ended takes none, and the others do its part.
            let _ = worker.orders.send(order).await;
        }
        receiver
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("workers", &self.workers.len())
            .field("harnesses", &self.harnesses)
            .finish_non_exhaustive()
    }
}

impl Worker {
    fn start(make: Arc<Make>, threads: Option<usize>, stop: watch::Receiver<bool>) -> Self {
        // One run at a time, and the one that was given up before.
        let (orders, receiver) = mpsc::channel(2);
        let (ready_in, ready) = oneshot::channel();
        let (over_in, over) = oneshot::channel();
        let work = move || {
            let result = match runtime(threads) {
                Ok(runtime) => {
                    let result = runtime.block_on(work(&*make, ready_in, receiver, stop));
                    runtime.shutdown_timeout(stretched(RUNTIME_LIMIT));
                    result
                }
                Err(error) => {
                    let _ = ready_in.send(Err(format!("cannot start a runtime: {error}")));
                    Ok(())
                }
            };
            let _ = over_in.send(result);
        };
        // Without a thread everything in `work` is dropped, which `ready` tells.
        let _ = thread::Builder::new()
            .name("conformance".to_owned())
            .spawn(work);
        Self {
            orders,
            ready: Some(ready),
            over,
        }
    }
}

fn runtime(threads: Option<usize>) -> std::io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// The life of a worker.
async fn work(
    make: &Make,
    ready: oneshot::Sender<Made>,
    orders: mpsc::Receiver<Order>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let mut stopped = std::pin::pin!(async move {
        // That nobody can say it any more says it too.
        let _ = stop.wait_for(|stop| *stop).await;
    });
    let made = tokio::select! {
        biased;
        () = &mut stopped => return Ok(()),
        made = make() => made,
    };
    let harness = match made {
        Ok(harness) => harness,
        Err(why) => {
            let _ = ready.send(Err(why));
            return Ok(());
        }
    };
    let _ = ready.send(Ok(Arc::clone(&harness)));
    tokio::select! {
        biased;
        () = &mut stopped => {}
        () = serve(&harness, orders) => {}
    }
    let limit = stretched(SHUT_DOWN_LIMIT);
    timeout(limit, harness.shut_down())
        .await
        .map_err(|_| format!("the server did not end within {limit:?}"))
}

async fn serve(harness: &Arc<dyn Harness>, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        let given_up = order.told.clone();
        tokio::select! {
            biased;
            () = given_up.closed() => {}
            () = take(harness, &order) => {}
        }
    }
}

/// Takes rules until there are none, or no broker.
async fn take(harness: &Arc<dyn Harness>, order: &Order) {
    let Order { plan, queue, told } = order;
    let mut stand = Stand::new(Arc::clone(harness));
    let mut counted = true;
    loop {
        stand.look_again().await;
        // The last one goes on, to say of each rule that it was not tried.
        if stand.is_dead() && counted {
            counted = false;
            if queue.alive.fetch_sub(1, Ordering::AcqRel) > 1 {
                break;
            }
        }
        let Some(index) = queue.next() else { break };
        let Some(rule) = plan.rules.get(index) else {
            continue;
        };
        let _ = told.send(Told::Begin(index)).await;
        let result = stand.attempt(rule, plan).await;
        let _ = told.send(Told::End(index, result)).await;
    }
    let _ = told.send(Told::Over(stand.leave().await)).await;
}

impl Queue {
    fn next(&self) -> Option<usize> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    }
}
