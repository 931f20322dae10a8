//! Who takes part in a run: [`Field`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backplane_memory::MemoryDriver;
use backplane_redis::RedisDriver;
use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::contender::{Broadcast, Contender, Floor, Form, Ours, Raw};
use crate::error::{Error, Result};
use crate::measure::fanout::{Audience, Reading};
use crate::measure::latency;
use crate::measure::throughput::{self, Flow};
use crate::server::OwnServer;

/// All contenders, connected, subscribed and parked, for the whole run.
#[derive(Debug)]
pub struct Field {
    /// The server of all but the churn.
    pub server: OwnServer,
    /// The Redis backend.
    pub redis: Ours<RedisDriver>,
    /// The memory backend.
    pub memory: Ours<MemoryDriver>,
    floor: Arc<Mutex<Floor>>,
    stream: Raw,
    to_task: Raw,
    closure: Raw,
    broadcast: Broadcast,
    audiences: Audiences,
}

#[derive(Debug)]
struct Audiences {
    bare: [Audience; 2],
    ours: [Audience; 2],
}

/// One of the contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Who {
    Floor,
    Stream,
    ToTask,
    Closure,
    Redis,
    Broadcast,
    Memory,
}

/// Whose latency is measured.
pub const LATENCY: [Who; 7] = [
    Who::Floor,
    Who::Stream,
    Who::ToTask,
    Who::Closure,
    Who::Redis,
    Who::Broadcast,
    Who::Memory,
];

/// Whose throughput is measured, of those on Redis.
pub const THROUGHPUT: [Who; 3] = [Who::Stream, Who::Closure, Who::Redis];

/// Whose throughput is measured, of those in one process.
pub const IN_PROCESS: [Who; 2] = [Who::Broadcast, Who::Memory];

/// The same in another order each round, so that nobody always comes after the same one.
#[must_use]
pub fn rotated<const N: usize>(all: &[Who; N], round: usize) -> [Who; N] {
    let mut order = *all;
    order.rotate_left(round % N);
    order
}

impl Field {
    /// Starts a server, and opens every contender; fan-outs get so many receivers.
    ///
    /// # Errors
    /// [`Error::Server`] without a server; whatever connecting can fail with.
    pub async fn open(audience: usize) -> Result<Self> {
        let server = OwnServer::start().await?;
        let url = server.url();
        let readings = (Reading::Single, Reading::Burst);
        Ok(Self {
            redis: Ours::on_redis(&url).await?,
            memory: Ours::in_memory().await?,
            floor: Arc::new(Mutex::new(Floor::open(&server)?)),
            stream: Raw::open(&url, Form::Stream).await?,
            to_task: Raw::open(&url, Form::ClosureToTask).await?,
            closure: Raw::open(&url, Form::Closure).await?,
            broadcast: Broadcast::open(),
            audiences: Audiences {
                bare: [
                    Audience::bare(audience, readings.0),
                    Audience::bare(audience, readings.1),
                ],
                ours: [
                    Audience::ours(audience, readings.0).await?,
                    Audience::ours(audience, readings.1).await?,
                ],
            },
            server,
        })
    }

    /// The receivers of a fan-out.
    #[must_use]
    pub const fn audience(&self, reading: Reading, is_ours: bool) -> &Audience {
        let [single, burst] = if is_ours {
            &self.audiences.ours
        } else {
            &self.audiences.bare
        };
        match reading {
            Reading::Single => single,
            Reading::Burst => burst,
        }
    }

    /// The name of a contender in reports.
    #[must_use]
    pub fn name(&self, who: Who) -> &'static str {
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

    /// See [`latency::closed_loop`].
    ///
    /// # Errors
    /// As it says.
    pub async fn closed_loop(
        &self,
        who: Who,
        len: usize,
        span: Duration,
    ) -> Result<Histogram<u64>> {
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

    /// See [`latency::fixed_rate`].
    ///
    /// # Errors
    /// As it says.
    pub async fn fixed_rate(
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

    /// See [`throughput::awaiting`].
    ///
    /// # Errors
    /// As it says.
    pub async fn awaiting(
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
            other => Err(Error::not_so(self.name(other))),
        }
    }

    /// See [`throughput::many`].
    ///
    /// # Errors
    /// As it says.
    pub async fn many(
        &self,
        who: Who,
        payload: &Bytes,
        span: Duration,
        chunk: usize,
    ) -> Result<Flow> {
        use throughput::many;
        let cpu = Some(self.server.cpu());
        match who {
            Who::Stream => many(&self.stream, payload, span, chunk, cpu).await,
            Who::ToTask => many(&self.to_task, payload, span, chunk, cpu).await,
            Who::Closure => many(&self.closure, payload, span, chunk, cpu).await,
            Who::Redis => many(&self.redis, payload, span, chunk, cpu).await,
            Who::Memory => many(&self.memory, payload, span, chunk, None).await,
            Who::Floor | Who::Broadcast => Err(Error::not_so(self.name(who))),
        }
    }

    /// See [`throughput::windowed`].
    ///
    /// # Errors
    /// As it says.
    pub async fn windowed(
        &self,
        who: Who,
        payload: &Bytes,
        span: Duration,
        window: u64,
    ) -> Result<Flow> {
        match who {
            Who::Broadcast => throughput::windowed(&self.broadcast, payload, span, window).await,
            Who::Memory => throughput::windowed(&self.memory, payload, span, window).await,
            other => Err(Error::not_so(self.name(other))),
        }
    }
}
