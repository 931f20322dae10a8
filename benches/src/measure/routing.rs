//! Finding the subscription of a channel among very many others.

use std::time::{Duration, Instant};

use backplane_core::{Backplane, Channel, Delivery, Subscription};
use bytes::Bytes;

use crate::contender::BACKPLANE;
use crate::error::{Error, Result};

/// Publishes so many messages, each to another of these channels, and receives each before the next; how long that
/// takes. The subscription is of the same node and holds them all.
///
/// # Errors
/// Whatever publishing fails with; [`Error::Receiver`] if something else arrives.
pub async fn routed(
    node: &dyn Backplane,
    subscription: &mut Subscription,
    channels: &[Channel],
    count: u64,
) -> Result<Duration> {
    /// It has no factor in common with a power of ten, so all are visited, and not in the order of their names.
    const STEP: usize = 7919;
    let payload = Bytes::from_static(&[b'.'; 128]);
    let begin = Instant::now();
    let mut at = 0;
    for _ in 0..count {
        at = (at + STEP) % channels.len();
        node.publish(&channels[at], payload.clone()).await?;
        match subscription.recv().await {
            Some(Delivery::Message(_)) => {}
            other => {
                return Err(Error::Receiver {
                    contender: BACKPLANE,
                    what: format!("{other:?} arrived in place of a message"),
                });
            }
        }
    }
    Ok(begin.elapsed())
}
