//! The comparison: everything measured round by round, the contenders interleaved.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backplane_memory::MemoryDriver;
use backplane_redis::RedisDriver;
use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::arrivals::histogram;
use crate::contender::{Broadcast, Contender, Floor, Form, Ours, Raw};
use crate::error::{Error, Result};
use crate::figures::Figures;
use crate::machine::About;
use crate::measure::throughput::Flow;
use crate::measure::{latency, throughput};
use crate::server::OwnServer;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often everything is measured; medians are taken over the rounds.
    pub rounds: usize,
    /// How long a latency is measured in a round.
    pub latency_span: Duration,
    /// How long a throughput is measured in a round.
    pub throughput_span: Duration,
    /// The numbers of awaiting publishers.
    pub publishers: Vec<usize>,
    /// Messages a second where the rate is fixed.
    pub rate: u64,
    /// The length of a message.
    pub payload: usize,
    /// Whether it is the short form.
    pub quick: bool,
}

impl Plan {
    /// What the README's numbers are made with: at most six minutes.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rounds: 11,
            latency_span: Duration::from_millis(500),
            throughput_span: Duration::from_millis(400),
            publishers: vec![1, 8, 64, 256, 1024],
            rate: 2000,
            payload: 128,
            quick: false,
        }
    }

    /// At most one minute, and noisier.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: 5,
            latency_span: Duration::from_millis(250),
            throughput_span: Duration::from_millis(200),
            publishers: vec![1, 64, 1024],
            quick: true,
            ..Self::full()
        }
    }
}

/// What a run has measured.
#[derive(Debug)]
pub struct Comparison {
    /// Where and with what.
    pub about: About,
    /// How much.
    pub plan: Plan,
    /// Every figure of every round.
    pub figures: Figures,
    /// All latencies of all rounds, by measurement and contender, in nanoseconds.
    pub latencies: BTreeMap<(&'static str, &'static str), Histogram<u64>>,
}

/// The latency of one message at a time.
pub const CLOSED_LOOP: &str = "latency";
/// The latency at a fixed rate.
pub const FIXED_RATE: &str = "fixed_rate";

/// The quantiles that are told, by the suffix of their figure.
pub const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// Who takes part.
struct Field {
    server: OwnServer,
    floor: Arc<Mutex<Floor>>,
    stream: Raw,
    to_task: Raw,
    closure: Raw,
    redis: Ours<RedisDriver>,
    broadcast: Broadcast,
    memory: Ours<MemoryDriver>,
}

/// One of those who take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Floor,
    Stream,
    ToTask,
    Closure,
    Redis,
    Broadcast,
    Memory,
}

const LATENCY: [Who; 7] = [
    Who::Floor,
    Who::Stream,
    Who::ToTask,
    Who::Closure,
    Who::Redis,
    Who::Broadcast,
    Who::Memory,
];
const THROUGHPUT: [Who; 3] = [Who::Stream, Who::Closure, Who::Redis];
const IN_PROCESS: [Who; 2] = [Who::Broadcast, Who::Memory];

/// How many messages one call of publish-many gets.
const CHUNK: usize = 4096;
/// How many messages may wait in the comparison with tokio broadcast.
const WINDOW: u64 = 1024;

impl Comparison {
    /// Starts a server and measures. `progress` is told before each round.
    ///
    /// # Errors
    /// [`Error`]: no server, or a measurement that is void.
    pub async fn run(plan: Plan, mut progress: impl FnMut(usize)) -> Result<Self> {
        let field = Field::open().await?;
        let version = field.server.version();
        let about = About::this_machine(version, plan.payload, plan.rounds, plan.quick);
        let mut comparison = Self {
            about,
            plan,
            figures: Figures::default(),
            latencies: BTreeMap::new(),
        };
        // What is measured first would pay for what the others find warm.
        let warm_up = Plan {
            latency_span: Duration::from_millis(30),
            throughput_span: Duration::from_millis(30),
            ..comparison.plan.clone()
        };
        let measured = std::mem::replace(&mut comparison.plan, warm_up);
        comparison.round(&field, 0).await?;
        comparison.plan = measured;
        comparison.figures = Figures::default();
        comparison.latencies.clear();
        for round in 0..comparison.plan.rounds {
            progress(round);
            comparison.round(&field, round).await?;
        }
        Ok(comparison)
    }

    async fn round(&mut self, field: &Field, round: usize) -> Result<()> {
        let (len, span) = (self.plan.payload, self.plan.latency_span);
        for who in rotated(&LATENCY, round) {
            let latencies = field.closed_loop(who, len, span).await?;
            self.note_latencies(CLOSED_LOOP, field.name(who), &latencies);
        }
        for who in rotated(&LATENCY, round) {
            let latencies = field.fixed_rate(who, len, self.plan.rate, span).await?;
            self.note_latencies(FIXED_RATE, field.name(who), &latencies);
        }
        let payload = Bytes::from(vec![b'.'; len]);
        let span = self.plan.throughput_span;
        for publishers in self.plan.publishers.clone() {
            for who in rotated(&THROUGHPUT, round) {
                let flow = field.awaiting(who, publishers, &payload, span).await?;
                self.note_flow(&publishers.to_string(), field.name(who), flow);
            }
        }
        let cpu = Some(field.server.cpu());
        let flow = throughput::many(&field.redis, &payload, span, CHUNK, cpu).await?;
        self.note_flow("many", field.redis.name(), flow);
        for who in rotated(&IN_PROCESS, round) {
            let flow = field.windowed(who, &payload, span).await?;
            self.note_flow("in_process", field.name(who), flow);
        }
        let flow =
            throughput::many(&field.memory, &payload, span, WINDOW as usize / 8, None).await?;
        self.note_flow("many", field.memory.name(), flow);
        Ok(())
    }

    fn note_latencies(
        &mut self,
        measurement: &'static str,
        who: &'static str,
        latencies: &Histogram<u64>,
    ) {
        for (suffix, quantile) in QUANTILES {
            let micros = latencies.value_at_quantile(quantile) as f64 / 1e3;
            self.figures
                .push(format!("{measurement}_{suffix}_us"), who, micros);
        }
        let all = self.latencies.entry((measurement, who));
        // Both have the same bounds.
        let _ = all.or_insert_with(histogram).add(latencies);
    }

    fn note_flow(&mut self, what: &str, who: &'static str, flow: Flow) {
        let figures = &mut self.figures;
        figures.push(format!("throughput_{what}"), who, flow.rate());
        figures.push(format!("cpu_us_{what}"), who, flow.cpu_per_message());
        if !flow.server_cpu.is_zero() {
            let server = flow.server_cpu_per_message();
            figures.push(format!("redis_cpu_us_{what}"), who, server);
        }
    }
}

impl Field {
    async fn open() -> Result<Self> {
        let server = OwnServer::start().await?;
        let floor = Arc::new(Mutex::new(Floor::open(&server)?));
        Ok(Self {
            floor,
            stream: Raw::open(&server, Form::Stream).await?,
            to_task: Raw::open(&server, Form::ClosureToTask).await?,
            closure: Raw::open(&server, Form::Closure).await?,
            redis: Ours::on_redis(&server).await?,
            broadcast: Broadcast::open(),
            memory: Ours::in_memory().await?,
            server,
        })
    }

    fn name(&self, who: Who) -> &'static str {
        match who {
            Who::Floor => Floor::NAME,
            Who::Stream => self.stream.name(),
            Who::ToTask => self.to_task.name(),
            Who::Closure => self.closure.name(),
            Who::Redis => self.redis.name(),
            Who::Broadcast => self.broadcast.name(),
            Who::Memory => self.memory.name(),
        }
    }

    async fn closed_loop(&self, who: Who, len: usize, span: Duration) -> Result<Histogram<u64>> {
        match who {
            Who::Floor => latency::floor_closed_loop(&self.floor, len, span).await,
            Who::Stream => latency::closed_loop(&self.stream, len, span).await,
            Who::ToTask => latency::closed_loop(&self.to_task, len, span).await,
            Who::Closure => latency::closed_loop(&self.closure, len, span).await,
            Who::Redis => latency::closed_loop(&self.redis, len, span).await,
            Who::Broadcast => latency::closed_loop(&self.broadcast, len, span).await,
            Who::Memory => latency::closed_loop(&self.memory, len, span).await,
        }
    }

    async fn fixed_rate(
        &self,
        who: Who,
        len: usize,
        rate: u64,
        span: Duration,
    ) -> Result<Histogram<u64>> {
        match who {
            Who::Floor => latency::floor_fixed_rate(&self.floor, len, rate, span).await,
            Who::Stream => latency::fixed_rate(&self.stream, len, rate, span).await,
            Who::ToTask => latency::fixed_rate(&self.to_task, len, rate, span).await,
            Who::Closure => latency::fixed_rate(&self.closure, len, rate, span).await,
            Who::Redis => latency::fixed_rate(&self.redis, len, rate, span).await,
            Who::Broadcast => latency::fixed_rate(&self.broadcast, len, rate, span).await,
            Who::Memory => latency::fixed_rate(&self.memory, len, rate, span).await,
        }
    }

    async fn awaiting(
        &self,
        who: Who,
        publishers: usize,
        payload: &Bytes,
        span: Duration,
    ) -> Result<Flow> {
        use throughput::awaiting;
        let cpu = Some(self.server.cpu());
        match who {
            Who::Stream => awaiting(&self.stream, publishers, payload, span, cpu).await,
            Who::ToTask => awaiting(&self.to_task, publishers, payload, span, cpu).await,
            Who::Closure => awaiting(&self.closure, publishers, payload, span, cpu).await,
            Who::Redis => awaiting(&self.redis, publishers, payload, span, cpu).await,
            Who::Floor | Who::Broadcast | Who::Memory => Err(Error::not_so(self.name(who))),
        }
    }

    async fn windowed(&self, who: Who, payload: &Bytes, span: Duration) -> Result<Flow> {
        match who {
            Who::Broadcast => throughput::windowed(&self.broadcast, payload, span, WINDOW).await,
            Who::Memory => throughput::windowed(&self.memory, payload, span, WINDOW).await,
            other => Err(Error::not_so(self.name(other))),
        }
    }
}

/// The same in another order each round, so that nobody always comes after the same one.
fn rotated<const N: usize>(all: &[Who; N], round: usize) -> [Who; N] {
    let mut order = *all;
    order.rotate_left(round % N);
    order
}
