//! What the application on one node answers to the others: [`Service`].

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use async_trait::async_trait;

use super::inner::Inner;
use super::payload::Payload;
use super::signal::Refusal;
use crate::error::BoxError;
use crate::name::NodeId;

/// Answers questions that the application asks from node to node: see [`Hub::ask`](super::Hub::ask).
///
/// Each question runs in a task of its own, which is dropped when the time is over that the one who asks is ready to wait, or
/// the hub is closed. A service that needs the hub must not own it, or the hub is never dropped: let it have a
/// [`std::sync::Weak`] of what does, or close the hub by hand. An async closure's work can be done by any type that has what it needs:
///
/// ```
/// use async_trait::async_trait;
/// use backplane_core::hub::{Payload, Service};
/// use backplane_core::{BoxError, NodeId};
///
/// struct Load;
///
/// #[async_trait]
/// impl Service for Load {
///     async fn call(&self, _from: NodeId, question: Payload) -> Result<Payload, BoxError> {
///         match question.bytes().as_deref() {
///             Some(b"load") => Ok("0.7".into()),
///             _ => Err("I only know my load".into()),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers a question of a node, which may be this one.
    ///
    /// # Errors
    /// Any error is told to the one who asks, in words; so is a panic, without its words.
    async fn call(&self, from: NodeId, question: Payload) -> Result<Payload, BoxError>;
}

impl fmt::Debug for dyn Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl Inner {
    /// What the application of this node answers.
    pub(super) async fn answer_of_service(
        &self,
        from: NodeId,
        question: Payload,
    ) -> Result<Payload, Refusal> {
        let Some(service) = &self.service else {
            return Err(Refusal::NoService);
        };
        let panicked = || "the service panicked".to_owned();
        let call = catch_unwind(AssertUnwindSafe(|| service.call(from, question)));
        let Ok(call) = call else {
            return Err(Refusal::Failed(panicked()));
        };
        let mut call = pin!(call);
        let answer = poll_fn(|cx| {
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)));
            polled.unwrap_or_else(|_| Poll::Ready(Err(panicked().into())))
        });
        answer
            .await
            .map_err(|error| Refusal::Failed(error.to_string()))
    }
}
