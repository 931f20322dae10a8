//! Throughput, counted at the receiver, and the CPU time that it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::PATIENCE;
use crate::clock;
use crate::contender::{Contender, PublishMany, Publisher};
use crate::cpu::CpuClock;
use crate::error::{Error, Result};

/// How much may be unread where publishers wait for the receiver: far less than its queue holds.
const UNREAD: u64 = 1 << 16;
const UNREAD_BYTES: u64 = 256 << 20;

/// What flowed in one round.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Messages counted at the receiver: exactly as many as were published.
    pub delivered: u64,
    /// From the first publish until the last arrived.
    pub elapsed: Duration,
    /// CPU time of this process.
    pub cpu: Duration,
    /// CPU time of the server, if there is one.
    pub server_cpu: Duration,
}

impl Flow {
    /// Messages a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.delivered as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of this process's CPU time for a message; equally, seconds for a million.
    #[must_use]
    pub fn cpu_per_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.delivered as f64
    }

    /// Likewise of the server's.
    #[must_use]
    pub fn server_cpu_per_message(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / self.delivered as f64
    }
}

/// As many publishers as wanted, each awaiting its publish before the next, for this long.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Lost`].
pub async fn awaiting<C: Contender>(
    contender: &C,
    publishers: usize,
    payload: &Bytes,
    span: Duration,
    server: Option<CpuClock>,
) -> Result<Flow> {
    let stop = Arc::new(AtomicBool::new(false));
    let goes_on = {
        let stop = Arc::clone(&stop);
        move |_| !stop.load(Ordering::Relaxed)
    };
    let (tasks, go) = publishing(contender, publishers, payload, &goes_on);
    let meter = Meter::start(contender, server);
    go.send_replace(());
    tokio::time::sleep(span).await;
    stop.store(true, Ordering::Relaxed);
    meter.finish(contender, sum(tasks).await?).await
}

/// As many publishers as wanted, each awaiting its publish before the next, until each has published so many. They wait
/// for the receiver while more is unread than its queue could hold, as without a broker nothing else holds them back.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Lost`].
pub async fn messages<C: Contender>(
    contender: &C,
    publishers: usize,
    payload: &Bytes,
    each: u64,
) -> Result<Flow> {
    let window = (UNREAD_BYTES / payload.len() as u64).clamp(1, UNREAD);
    let meter = Meter::start(contender, None);
    let mut tasks = JoinSet::new();
    for _ in 0..publishers {
        let (mut publisher, payload) = (contender.publisher(), payload.clone());
        let (arrivals, begin) = (Arc::clone(contender.arrivals()), meter.arrived);
        tasks.spawn(async move {
            for sent in 0..each {
                // All are about as far as this one.
                while begin + sent * publishers as u64 >= arrivals.count() + window {
                    arrivals.check()?;
                    tokio::task::yield_now().await;
                }
                publisher.publish(payload.clone()).await?;
            }
            Ok(each)
        });
    }
    meter.finish(contender, sum(tasks).await?).await
}

/// Tasks that publish as long as it goes on, from the moment that the sender tells them to begin.
fn publishing<C: Contender>(
    contender: &C,
    publishers: usize,
    payload: &Bytes,
    goes_on: &(impl Fn(u64) -> bool + Clone + Send + 'static),
) -> (JoinSet<Result<u64>>, watch::Sender<()>) {
    let (go, started) = watch::channel(());
    let mut tasks = JoinSet::new();
    for _ in 0..publishers {
        let (mut publisher, payload) = (contender.publisher(), payload.clone());
        let (goes_on, mut started) = (goes_on.clone(), started.clone());
        tasks.spawn(async move {
            let mut sent = 0;
            // Also if the sender was dropped: then the measurement has failed.
            let _ = started.changed().await;
            while goes_on(sent) {
                publisher.publish(payload.clone()).await?;
                sent += 1;
            }
            Ok(sent)
        });
    }
    (tasks, go)
}

async fn sum(mut tasks: JoinSet<Result<u64>>) -> Result<u64> {
    let mut sent = 0;
    while let Some(ended) = tasks.join_next().await {
        sent += ended??;
    }
    Ok(sent)
}

/// One publisher that never lets more than `window` messages wait, for this long. For contenders without a broker,
/// which nothing else holds back.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Lost`].
pub async fn windowed<C: Contender>(
    contender: &C,
    payload: &Bytes,
    span: Duration,
    window: u64,
) -> Result<Flow> {
    let (mut publisher, payload) = (contender.publisher(), payload.clone());
    let arrivals = Arc::clone(contender.arrivals());
    let meter = Meter::start(contender, None);
    let publishing = tokio::spawn(async move {
        let (begin, end) = (arrivals.count(), clock::now() + clock::nanos(span));
        let mut sent = 0;
        while clock::now() < end {
            if begin + sent - arrivals.count() >= window {
                arrivals.check()?;
                tokio::task::yield_now().await;
                continue;
            }
            // The clock is looked at once for several messages, so that it is not what is measured.
            for _ in 0..window / 8 {
                publisher.publish(payload.clone()).await?;
            }
            sent += window / 8;
        }
        Ok::<u64, Error>(sent)
    });
    let sent = publishing.await??;
    meter.finish(contender, sent).await
}

/// One task that publishes `chunk` messages with each call, for this long.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Lost`].
pub async fn many<C: Contender<Publisher: PublishMany>>(
    contender: &C,
    payload: &Bytes,
    span: Duration,
    chunk: usize,
    server: Option<CpuClock>,
) -> Result<Flow> {
    /// How many may wait to be read: far less than the subscription holds.
    const WINDOW: u64 = 1 << 18;
    let (mut publisher, payload) = (contender.publisher(), payload.clone());
    let arrivals = Arc::clone(contender.arrivals());
    let meter = Meter::start(contender, server);
    let publishing = tokio::spawn(async move {
        let (begin, end) = (arrivals.count(), clock::now() + clock::nanos(span));
        let mut sent = 0;
        while clock::now() < end {
            if begin + sent - arrivals.count() >= WINDOW {
                arrivals.check()?;
                tokio::task::yield_now().await;
                continue;
            }
            publisher.publish_many(vec![payload.clone(); chunk]).await?;
            sent += chunk as u64;
        }
        Ok::<u64, Error>(sent)
    });
    let sent = publishing.await??;
    meter.finish(contender, sent).await
}

/// The clocks at the beginning.
struct Meter {
    arrived: u64,
    time: u64,
    cpu: Duration,
    server: Option<(CpuClock, Duration)>,
}

impl Meter {
    fn start<C: Contender>(contender: &C, server: Option<CpuClock>) -> Self {
        Self {
            arrived: contender.arrivals().count(),
            cpu: CpuClock::THIS.used(),
            server: server.map(|clock| (clock, clock.used())),
            time: clock::now(),
        }
    }

    async fn finish<C: Contender>(self, contender: &C, sent: u64) -> Result<Flow> {
        let goal = self.arrived + sent;
        let arrivals = contender.arrivals();
        let last = arrivals.wait_for(goal, self.arrived, PATIENCE).await?;
        Ok(Flow {
            delivered: sent,
            elapsed: Duration::from_nanos(last - self.time),
            cpu: CpuClock::THIS.used() - self.cpu,
            server_cpu: self
                .server
                .map_or(Duration::ZERO, |(clock, before)| clock.used() - before),
        })
    }
}
