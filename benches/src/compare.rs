//! The comparison: everything measured round by round, the contenders interleaved.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::allocations::{self, Counted};
use crate::arrivals::histogram;
use crate::contender::{Contender, MEMORY, REDIS};
use crate::error::Result;
use crate::field::{Field, IN_PROCESS, LATENCY, THROUGHPUT, Who, rotated};
use crate::figures::Figures;
use crate::keys::BARE_LOOP;
use crate::machine::About;
use crate::measure::throughput::Flow;
use crate::measure::{churn, fanout::Reading};
use crate::server::OwnServer;

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// How often everything is measured; medians are taken over the rounds.
    pub rounds: usize,
    /// In how many rounds very many channels are subscribed.
    pub churn_rounds: usize,
    /// How long a latency is measured in a round.
    pub latency_span: Duration,
    /// How long anything else is measured in a round.
    pub span: Duration,
    /// The numbers of awaiting publishers. 1, 64 and 1024 are among them.
    pub publishers: Vec<usize>,
    /// Messages a second where the rate is fixed.
    pub rate: u64,
    /// The length of a message.
    pub payload: usize,
    /// How many parked subscriptions a fan-out has.
    pub audience: usize,
    /// How many channels are very many.
    pub channels: usize,
    /// Whether it is the short form.
    pub quick: bool,
}

impl Plan {
    /// What the README's numbers are made with: at most six minutes.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rounds: 11,
            churn_rounds: 5,
            latency_span: Duration::from_millis(500),
            span: Duration::from_millis(400),
            publishers: vec![1, 8, 64, 256, 1024],
            rate: 2000,
            payload: 128,
            audience: 10_000,
            channels: 100_000,
            quick: false,
        }
    }

    /// At most one minute, and noisier.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: 5,
            churn_rounds: 3,
            latency_span: Duration::from_millis(250),
            span: Duration::from_millis(150),
            publishers: vec![1, 64, 1024],
            quick: true,
            ..Self::full()
        }
    }

    /// A few seconds, to see that it runs: its figures mean nothing.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            rounds: 1,
            churn_rounds: 1,
            latency_span: Duration::from_millis(30),
            span: Duration::from_millis(30),
            audience: 100,
            channels: 1000,
            ..Self::quick()
        }
    }

    fn warm_up(&self) -> Self {
        Self {
            latency_span: Duration::from_millis(30),
            span: Duration::from_millis(30),
            churn_rounds: 0,
            ..self.clone()
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
    /// What was counted instead of timed.
    pub counted: Counted,
}

/// The latency of one message at a time.
pub const CLOSED_LOOP: &str = "latency";
/// The latency at a fixed rate.
pub const FIXED_RATE: &str = "fixed_rate";

/// The quantiles that are told, by the suffix of their figure.
pub const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// How many messages one call of publish-many gets.
const CHUNK: usize = 4096;
/// How many messages may wait in the comparison with tokio broadcast, and how many one call of publish-many gets there.
const WINDOW: u64 = 1024;
const SMALL_CHUNK: usize = 128;

impl Comparison {
    /// Starts a server and measures. `progress` is told of each step.
    ///
    /// # Errors
    /// [`Error`](crate::error::Error): no server, or a measurement that is void.
    pub async fn run(plan: Plan, mut progress: impl FnMut(&str)) -> Result<Self> {
        let field = Field::open(plan.audience).await?;
        let version = field.server.version();
        let about = About::this_machine(version, plan.payload, plan.rounds, plan.quick);
        progress("counting allocations");
        let counted = allocations::count(&field.server.url(), &plan).await?;
        let mut comparison = Self {
            about,
            plan,
            figures: Figures::default(),
            latencies: BTreeMap::new(),
            counted,
        };
        // What is measured first would pay for what the others find warm.
        progress("warming up");
        let warm_up = comparison.plan.warm_up();
        comparison.round(&field, &warm_up, 0).await?;
        comparison.figures = Figures::default();
        comparison.latencies.clear();
        let plan = comparison.plan.clone();
        for round in 0..plan.rounds {
            progress(&format!("round {} of {}", round + 1, plan.rounds));
            comparison.round(&field, &plan, round).await?;
        }
        Ok(comparison)
    }

    async fn round(&mut self, field: &Field, plan: &Plan, round: usize) -> Result<()> {
        self.latency(field, plan, round).await?;
        self.throughput(field, plan, round).await?;
        self.fan_out(field, plan, round).await?;
        if round < plan.churn_rounds {
            self.churn(plan).await?;
        }
        Ok(())
    }

    async fn latency(&mut self, field: &Field, plan: &Plan, round: usize) -> Result<()> {
        let (len, span) = (plan.payload, plan.latency_span);
        for who in rotated(&LATENCY, round) {
            let latencies = field.closed_loop(who, len, span).await?;
            self.note_latencies(CLOSED_LOOP, field.name(who), &latencies);
        }
        for who in rotated(&LATENCY, round) {
            let latencies = field.fixed_rate(who, len, plan.rate, span).await?;
            self.note_latencies(FIXED_RATE, field.name(who), &latencies);
        }
        Ok(())
    }

    async fn throughput(&mut self, field: &Field, plan: &Plan, round: usize) -> Result<()> {
        let (payload, span) = (Bytes::from(vec![b'.'; plan.payload]), plan.span);
        for publishers in plan.publishers.iter().copied() {
            for who in rotated(&THROUGHPUT, round) {
                let flow = field.awaiting(who, publishers, &payload, span).await?;
                self.note_flow(&publishers.to_string(), field.name(who), flow);
            }
        }
        for who in rotated(&THROUGHPUT, round) {
            let flow = field.many(who, &payload, span, CHUNK).await?;
            self.note_flow("many", field.name(who), flow);
        }
        for who in rotated(&IN_PROCESS, round) {
            let flow = field.windowed(who, &payload, span, WINDOW).await?;
            self.note_flow("in_process", field.name(who), flow);
        }
        let flow = field.many(Who::Memory, &payload, span, SMALL_CHUNK).await?;
        self.note_flow("many", field.memory.name(), flow);
        Ok(())
    }

    async fn fan_out(&mut self, field: &Field, plan: &Plan, round: usize) -> Result<()> {
        let payload = Bytes::from(vec![b'.'; plan.payload]);
        for (reading, figure) in [
            (Reading::Single, "fanout_ns"),
            (Reading::Burst, "fanout_burst_ns"),
        ] {
            let mut order = [(BARE_LOOP, false), (MEMORY, true)];
            order.rotate_left(round % 2);
            for (name, is_ours) in order {
                let audience = field.audience(reading, is_ours);
                let nanos = audience.measure(&payload, plan.span).await?;
                self.figures.push(figure, name, nanos);
            }
        }
        Ok(())
    }

    /// On a server of its own, as it breaks every connection.
    async fn churn(&mut self, plan: &Plan) -> Result<()> {
        let server = OwnServer::start().await?;
        let churn = churn::churn(&server, plan.channels).await?;
        for (figure, who, seconds) in [
            ("subscribe_s", REDIS, churn.subscribe),
            ("resubscribe_s", REDIS, churn.resubscribe),
            ("subscribe_each_s", REDIS, churn.subscribe_each),
            ("subscribe_s", "raw", churn.raw_subscribe),
        ] {
            self.figures.push(figure, who, seconds);
        }
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
