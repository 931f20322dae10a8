//! Counts what the contenders allocate, for `backplane-benches compare`.
//!
//! It is a program of its own because counting slows down every allocation. Everything runs on one thread, whose
//! allocations are counted.

use std::process::ExitCode;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use backplane_benches::allocations::Counted;
use backplane_benches::contender::{
    Broadcast, Contender, Form, MEMORY, Ours, PublishMany, REDIS, Raw, node_options, redis_node,
};
use backplane_benches::error::{Error, Result};
use backplane_benches::measure::churn;
use backplane_benches::measure::throughput::{Flow, awaiting, many, windowed};
use backplane_core::Backplane;
use backplane_memory::MemoryBus;
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

/// How long messages are published for one figure.
const SPAN: Duration = Duration::from_millis(150);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(task) = Task::read(&arguments) else {
        eprintln!(
            "error: run by `backplane-benches compare`: URL PAYLOAD SUBSCRIPTIONS PUBLISHERS.."
        );
        return ExitCode::from(2);
    };
    match run(&task) {
        Ok(counted) => {
            println!("{counted}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What to count.
struct Task {
    url: String,
    payload: Bytes,
    subscriptions: usize,
    publishers: Vec<usize>,
}

impl Task {
    fn read(arguments: &[String]) -> Option<Self> {
        let (url, numbers) = arguments.split_first()?;
        let numbers: Option<Vec<usize>> = numbers.iter().map(|n| n.parse().ok()).collect();
        let [payload, subscriptions, publishers @ ..] = numbers.as_deref()? else {
            return None;
        };
        Some(Self {
            url: url.clone(),
            payload: Bytes::from(vec![b'.'; *payload]),
            subscriptions: *subscriptions,
            publishers: publishers.to_vec(),
        })
    }
}

fn run(task: &Task) -> Result<String> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("a runtime"))?;
    let mut counter = Counter {
        runtime,
        counted: Counted {
            subscriptions: task.subscriptions,
            ..Counted::default()
        },
    };
    counter.messages(task)?;
    counter.subscriptions(&task.url, task.subscriptions)?;
    serde_json::to_string(&counter.counted).map_err(|error| Error::Counting(error.to_string()))
}

struct Counter {
    runtime: Runtime,
    counted: Counted,
}

impl Counter {
    fn messages(&mut self, task: &Task) -> Result<()> {
        for form in [Form::Stream, Form::ClosureToTask, Form::Closure] {
            let raw = self.runtime.block_on(Raw::open(&task.url, form))?;
            self.on_redis(task, &raw)?;
        }
        let ours = self.runtime.block_on(Ours::on_redis(&task.url))?;
        self.on_redis(task, &ours)?;
        let payload = &task.payload;
        let broadcast = self.runtime.block_on(async { Broadcast::open() });
        let flow = windowed(&broadcast, payload, SPAN, 1024);
        self.flow("in_process", &broadcast, flow)?;
        let ours = self.runtime.block_on(Ours::in_memory())?;
        self.flow("in_process", &ours, windowed(&ours, payload, SPAN, 1024))
    }

    fn on_redis<C>(&mut self, task: &Task, contender: &C) -> Result<()>
    where
        C: Contender<Publisher: PublishMany>,
    {
        for n in task.publishers.iter().copied() {
            let flow = awaiting(contender, n, &task.payload, SPAN, None);
            self.flow(&n.to_string(), contender, flow)?;
        }
        let flow = many(contender, &task.payload, SPAN, 4096, None);
        self.flow("many", contender, flow)
    }

    /// Allocations of this flow for a message; what is allocated once is lost among very many.
    fn flow<C: Contender>(
        &mut self,
        what: &str,
        contender: &C,
        flow: impl Future<Output = Result<Flow>>,
    ) -> Result<()> {
        let (flow, info) = counting(|| self.runtime.block_on(flow));
        let allocations = info.count_total as f64 / flow?.delivered as f64;
        let figure = self.counted.per_message.entry(what.to_owned()).or_default();
        figure.insert(contender.name().to_owned(), allocations);
        Ok(())
    }

    /// What idle subscriptions hold, their handles included, and the names of their channels.
    fn subscriptions(&mut self, url: &str, count: usize) -> Result<()> {
        let redis = self.runtime.block_on(redis_node(url))?;
        self.idle(REDIS, &redis, count)?;
        let bus = MemoryBus::new();
        let memory = self.runtime.block_on(bus.connect(node_options()?))?;
        self.idle(MEMORY, &memory, count)
    }

    fn idle(&mut self, name: &str, node: &impl Backplane, count: usize) -> Result<()> {
        let (held, info) = counting(|| {
            let names = churn::names(count)?;
            self.runtime.block_on(churn::subscribe_each(node, &names))
        });
        let held = held?;
        let bytes = info.bytes_current as f64 / held.len() as f64;
        self.counted.per_subscription.insert(name.to_owned(), bytes);
        Ok(())
    }
}

fn counting<T>(run: impl FnOnce() -> T) -> (T, AllocationInfo) {
    let mut result = None;
    let info = measure(|| result = Some(run()));
    match result {
        Some(result) => (result, info),
        None => unreachable!("measure runs what it is given"),
    }
}
