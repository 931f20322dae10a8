//! Latency, from the start of a publish until the subscriber has the message.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use crate::arrivals::histogram;
use crate::clock::{self, Schedule, nanos};
use crate::contender::{Contender, Floor, Publisher};
use crate::error::{Error, Result};

/// One message at a time: the next is published when the one before has arrived. Nanoseconds.
///
/// Publisher and subscriber are tasks of their own, and the subscriber is parked when the message comes.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Lost`].
pub async fn closed_loop<C: Contender>(
    contender: &C,
    len: usize,
    span: Duration,
) -> Result<Histogram<u64>> {
    let begin = contender.arrivals().count();
    contender.arrivals().start_timing();
    let end = clock::now() + nanos(span);
    let publishing = back_and_forth(
        contender,
        move || clock::stamped(clock::now(), len),
        move |_| clock::now() < end,
    );
    let sent = in_time(contender.name(), span, publishing).await??;
    finish(contender, begin, begin + sent).await
}

/// So many times the same message, one at a time; how long that takes.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Lost`].
pub async fn round_trips<C: Contender>(
    contender: &C,
    payload: &Bytes,
    count: u64,
) -> Result<Duration> {
    let payload = payload.clone();
    let begin = contender.arrivals().count();
    let first = clock::now();
    let sent =
        back_and_forth(contender, move || payload.clone(), move |sent| sent < count).await??;
    let arrivals = contender.arrivals();
    let last = arrivals.wait_for(begin + sent, begin, PATIENCE).await?;
    Ok(Duration::from_nanos(last - first))
}

/// Publishes the next message when the one before has arrived, as long as it goes on. Returns how many.
fn back_and_forth<C: Contender>(
    contender: &C,
    mut payload: impl FnMut() -> Bytes + Send + 'static,
    mut goes_on: impl FnMut(u64) -> bool + Send + 'static,
) -> JoinHandle<Result<u64>> {
    let arrivals = Arc::clone(contender.arrivals());
    let mut publisher = contender.publisher();
    tokio::spawn(async move {
        let (begin, mut sent) = (arrivals.count(), 0);
        while goes_on(sent) {
            publisher.publish(payload()).await?;
            sent += 1;
            arrivals.reach(begin + sent).await;
        }
        Ok(sent)
    })
}

/// Messages at a fixed rate, on time whatever becomes of the ones before: a delayed send counts from when it should have
/// been, which corrects coordinated omission. Nanoseconds.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Lost`].
pub async fn fixed_rate<C: Contender>(
    contender: &C,
    len: usize,
    rate: u64,
    span: Duration,
) -> Result<Histogram<u64>> {
    let begin = contender.arrivals().count();
    let mut publisher = contender.publisher();
    contender.arrivals().start_timing();
    let runtime = Handle::current();
    // Timers of the runtime are too coarse.
    let publishing = tokio::task::spawn_blocking(move || {
        clock::sleep_precisely();
        let first = clock::now();
        let mut schedule = Schedule::new(first, 1_000_000_000 / rate);
        let mut sent = begin;
        loop {
            let intended = schedule.take();
            if intended - first >= nanos(span) {
                return Ok::<_, Error>(sent);
            }
            clock::sleep_until(intended);
            runtime.block_on(publisher.publish(clock::stamped(intended, len)))?;
            sent += 1;
        }
    });
    let sent = in_time(contender.name(), span, publishing).await??;
    finish(contender, begin, sent).await
}

/// The [closed loop](closed_loop) of the floor.
///
/// # Errors
/// [`Error::Io`].
pub async fn floor_closed_loop(
    floor: &Arc<Mutex<Floor>>,
    len: usize,
    span: Duration,
) -> Result<Histogram<u64>> {
    floor_loop(floor, len, span, None).await
}

/// The [fixed rate](fixed_rate) of the floor.
///
/// # Errors
/// [`Error::Io`].
pub async fn floor_fixed_rate(
    floor: &Arc<Mutex<Floor>>,
    len: usize,
    rate: u64,
    span: Duration,
) -> Result<Histogram<u64>> {
    floor_loop(floor, len, span, Some(rate)).await
}

async fn floor_loop(
    floor: &Arc<Mutex<Floor>>,
    len: usize,
    span: Duration,
    rate: Option<u64>,
) -> Result<Histogram<u64>> {
    let floor = Arc::clone(floor);
    let looping = tokio::task::spawn_blocking(move || {
        clock::sleep_precisely();
        let mut floor = floor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latencies = histogram();
        let first = clock::now();
        let mut schedule = rate.map(|rate| Schedule::new(first, 1_000_000_000 / rate));
        loop {
            let sent = match &mut schedule {
                Some(schedule) => {
                    let intended = schedule.take();
                    clock::sleep_until(intended);
                    intended
                }
                None => clock::now(),
            };
            if sent - first >= nanos(span) {
                return Ok::<_, Error>(latencies);
            }
            let payload = clock::stamped(sent, len);
            let received = floor.send_and_receive(&payload)?;
            let latency = clock::stamp(received).map(|sent| clock::now() - sent);
            floor.finish()?;
            latencies.saturating_record(latency.unwrap_or(u64::MAX));
        }
    });
    in_time(Floor::NAME, span, looping).await?
}

async fn in_time<T>(name: &str, span: Duration, task: JoinHandle<T>) -> Result<T> {
    let within = span + PATIENCE;
    match timeout(within, task).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Err(Error::TooLong {
            what: format!("{name}: a latency measurement"),
            within,
        }),
    }
}

async fn finish<C: Contender>(contender: &C, begin: u64, sent: u64) -> Result<Histogram<u64>> {
    let arrived = contender.arrivals().wait_for(sent, begin, PATIENCE).await;
    let latencies = contender.arrivals().stop_timing();
    arrived?;
    Ok(latencies)
}
