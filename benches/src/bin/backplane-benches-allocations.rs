//! Counts what the contenders allocate, for `backplane-benches compare`.
//!
//! It is a program of its own because counting slows down every allocation. Everything runs on one thread, whose
//! allocations are counted.

use std::process::ExitCode;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use backplane_benches::allocations::Counted;
use backplane_benches::contender::{
    Broadcast, Contender, Form, MEMORY, Ours, REDIS, Raw, node_options, redis_node,
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

/// The numbers of awaiting publishers.
const PUBLISHERS: [usize; 3] = [1, 64, 1024];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, payload, subscriptions] = arguments.as_slice() else {
        eprintln!("error: run by `backplane-benches compare`: URL PAYLOAD SUBSCRIPTIONS");
        return ExitCode::from(2);
    };
    let (Ok(payload), Ok(subscriptions)) = (payload.parse(), subscriptions.parse()) else {
        eprintln!("error: a length and a number were expected");
        return ExitCode::from(2);
    };
    match run(url, payload, subscriptions) {
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

fn run(url: &str, payload: usize, subscriptions: usize) -> Result<String> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("a runtime"))?;
    let payload = Bytes::from(vec![b'.'; payload]);
    let mut counter = Counter {
        runtime,
        counted: Counted {
            subscriptions,
            ..Counted::default()
        },
    };
    counter.messages(url, &payload)?;
    counter.subscriptions(url, subscriptions)?;
    serde_json::to_string(&counter.counted).map_err(|error| Error::Counting(error.to_string()))
}

struct Counter {
    runtime: Runtime,
    counted: Counted,
}

impl Counter {
    fn messages(&mut self, url: &str, payload: &Bytes) -> Result<()> {
        for form in [Form::Stream, Form::ClosureToTask, Form::Closure] {
            let raw = self.runtime.block_on(Raw::open(url, form))?;
            for n in PUBLISHERS {
                self.flow(&n.to_string(), &raw, awaiting(&raw, n, payload, SPAN, None))?;
            }
        }
        let ours = self.runtime.block_on(Ours::on_redis(url))?;
        for n in PUBLISHERS {
            self.flow(
                &n.to_string(),
                &ours,
                awaiting(&ours, n, payload, SPAN, None),
            )?;
        }
        self.flow("many", &ours, many(&ours, payload, SPAN, 4096, None))?;
        let broadcast = self.runtime.block_on(async { Broadcast::open() });
        self.flow(
            "in_process",
            &broadcast,
            windowed(&broadcast, payload, SPAN, 1024),
        )?;
        let ours = self.runtime.block_on(Ours::in_memory())?;
        self.flow("in_process", &ours, windowed(&ours, payload, SPAN, 1024))
    }

    /// Runs this flow, once to warm up is not needed: what is made once is lost among very many messages.
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
