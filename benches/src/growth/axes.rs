//! The measurements along each axis.

use std::time::{Duration, Instant};

use backplane_core::driver::Driver;
use backplane_core::{Backplane, Channel, Node, Subscribe};
use backplane_memory::MemoryBus;
use bytes::Bytes;

use super::{Axis, Growth};
use crate::contender::{Contender, MEMORY, Ours, REDIS, node_options, redis_node};
use crate::error::Result;
use crate::measure::churn::{churn, names};
use crate::measure::fanout::{Audience, Reading};
use crate::measure::latency::round_trips;
use crate::measure::routing::routed;
use crate::server::OwnServer;

const PUBLISH: &str = "publish";
const SUBSCRIBE: &str = "subscribe all";

/// One message at a time, of each length.
pub(super) async fn payloads(growth: &mut Growth, server: &OwnServer) -> Result<()> {
    let memory = Ours::in_memory().await?;
    let redis = Ours::on_redis(&server.url()).await?;
    for size in growth.plan.payloads.clone() {
        payload(growth, &memory, size).await?;
        payload(growth, &redis, size).await?;
    }
    Ok(())
}

async fn payload<C: Contender>(growth: &mut Growth, contender: &C, size: usize) -> Result<()> {
    let payload = Bytes::from(vec![b'.'; size]);
    let run = async |count| round_trips(contender, &payload, count).await;
    let seconds = per_call(growth.plan.span, run).await?;
    growth.push(Axis::Payload, PUBLISH, contender.name(), size, seconds);
    Ok(())
}

/// One message to so many subscriptions of one node.
pub(super) async fn subscriptions(growth: &mut Growth, server: &OwnServer) -> Result<()> {
    for size in growth.plan.subscriptions.clone() {
        let memory = Audience::ours(size, Reading::Single).await?;
        audience(growth, MEMORY, size, &memory).await?;
        let node = redis_node(&server.url()).await?;
        let redis = Audience::of(node, REDIS, size, Reading::Single).await?;
        audience(growth, REDIS, size, &redis).await?;
    }
    Ok(())
}

async fn audience<D: Driver>(
    growth: &mut Growth,
    who: &'static str,
    size: usize,
    audience: &Audience<D>,
) -> Result<()> {
    let payload = Bytes::from_static(&[b'.'; 128]);
    let run = async |count| audience.publishes(&payload, count).await;
    let seconds = per_call(growth.plan.span, run).await?;
    growth.push(Axis::Subscriptions, PUBLISH, who, size, seconds);
    Ok(())
}

/// Subscribing to so many channels, a message to one of them, and the way back after an outage.
pub(super) async fn channels(growth: &mut Growth, server: &OwnServer) -> Result<()> {
    for size in growth.plan.channels.clone() {
        let names = names(size)?;
        let memory = MemoryBus::new().connect(node_options()?).await?;
        let subscribe = channel(growth, MEMORY, &memory, &names).await?;
        growth.push(Axis::Channels, SUBSCRIBE, MEMORY, size, subscribe);
        let redis = redis_node(&server.url()).await?;
        channel(growth, REDIS, &redis, &names).await?;
        redis.close().await;

        let own = OwnServer::start().await?;
        let churn = churn(&own, size).await?;
        for (cost, seconds) in [
            (SUBSCRIBE, churn.subscribe),
            ("subscribe each", churn.subscribe_each),
            ("back after kill", churn.resubscribe),
        ] {
            growth.push(Axis::Channels, cost, REDIS, size, seconds);
        }
    }
    Ok(())
}

/// A message to one of these channels; returns what subscribing took.
async fn channel(
    growth: &mut Growth,
    who: &'static str,
    node: &dyn Backplane,
    names: &[Channel],
) -> Result<f64> {
    let begin = Instant::now();
    let mut subscription = node.subscribe(Subscribe::to(names.to_vec())).await?;
    let subscribe = begin.elapsed().as_secs_f64();
    let run = async |count| routed(node, &mut subscription, names, count).await;
    let seconds = per_call(growth.plan.span, run).await?;
    growth.push(Axis::Channels, PUBLISH, who, names.len(), seconds);
    Ok(subscribe)
}

/// One message to so many nodes, each with a subscription, from one more.
pub(super) async fn nodes(growth: &mut Growth, server: &OwnServer) -> Result<()> {
    for size in growth.plan.nodes.clone() {
        let bus = MemoryBus::new();
        let connect = async || Ok(bus.connect(node_options()?).await?);
        many_nodes(growth, MEMORY, size, connect).await?;
        let connect = async || redis_node(&server.url()).await;
        many_nodes(growth, REDIS, size, connect).await?;
    }
    Ok(())
}

async fn many_nodes<D: Driver>(
    growth: &mut Growth,
    who: &'static str,
    size: usize,
    connect: impl AsyncFn() -> Result<Node<D>>,
) -> Result<()> {
    let begin = Instant::now();
    let mut nodes = Vec::with_capacity(size);
    for _ in 0..size {
        nodes.push(connect().await?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    growth.push(Axis::Nodes, "connect", who, size, seconds);
    let audience = Audience::across(connect().await?, nodes, who).await?;
    let payload = Bytes::from_static(&[b'.'; 128]);
    let run = async |count| audience.publishes(&payload, count).await;
    let seconds = per_call(growth.plan.span, run).await?;
    growth.push(Axis::Nodes, PUBLISH, who, size, seconds);
    audience.close().await;
    Ok(())
}

/// Seconds for a call, of as many as fill the span.
async fn per_call(
    span: Duration,
    mut run: impl AsyncFnMut(u64) -> Result<Duration>,
) -> Result<f64> {
    // The first ones are slower.
    run(2).await?;
    let mut count = 1;
    loop {
        let elapsed = run(count).await?;
        if elapsed >= span || count >= 1 << 24 {
            return Ok(elapsed.as_secs_f64() / count as f64);
        }
        let missing = span.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
        count = (count as f64 * missing.clamp(1.5, 100.0)).ceil() as u64;
    }
}
