//! What became of messages that were published together: [`PublishManyError`].

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;

use crate::error::PublishError;

/// Why [`publish_many`](crate::Backplane::publish_many) did not publish all of its messages.
///
/// Every message has an outcome of its own: those that no failure names were accepted by the broker.
#[derive(Debug)]
pub struct PublishManyError {
    total: usize,
    failures: Vec<PublishFailure>,
}

/// Messages in a row that failed for the same reason.
#[derive(Debug)]
pub struct PublishFailure {
    range: Range<usize>,
    error: PublishError,
}

impl PublishManyError {
    /// Puts the failures of a call with `total` messages together, in order; `Ok` when there are none. For a backend
    /// that implements [`Backplane`](crate::Backplane) itself.
    ///
    /// # Errors
    /// When there is a failure.
    pub fn of(
        total: usize,
        failures: impl IntoIterator<Item = (Range<usize>, PublishError)>,
    ) -> Result<(), Self> {
        let failures: Vec<_> = failures
            .into_iter()
            .map(|(range, error)| PublishFailure { range, error })
            .collect();
        match failures.is_empty() {
            true => Ok(()),
            false => Err(Self { total, failures }),
        }
    }

    /// The failures, in the order of the messages. At least one.
    #[must_use]
    pub fn failures(&self) -> &[PublishFailure] {
        &self.failures
    }

    /// Why the message at this place of the call failed; `None` when the broker accepted it.
    #[must_use]
    pub fn of_message(&self, at: usize) -> Option<&PublishError> {
        let failure = self.failures.iter().find(|f| f.range.contains(&at));
        failure.map(|failure| &failure.error)
    }

    /// How many messages failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failures.iter().map(|f| f.range.len()).sum()
    }

    /// How many messages the call was about.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Whether it is certain that no node will ever see any of the messages that failed.
    #[must_use]
    pub fn is_not_sent(&self) -> bool {
        self.failures.iter().all(|f| f.error.is_not_sent())
    }
}

impl PublishFailure {
    /// Which messages of the call, counted from 0.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Why.
    #[must_use]
    pub const fn error(&self) -> &PublishError {
        &self.error
    }

    /// Why, for who keeps it.
    #[must_use]
    pub fn into_error(self) -> PublishError {
        self.error
    }
}

impl fmt::Display for PublishManyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, total) = (self.failed(), self.total);
        write!(f, "{failed} of {total} messages failed")?;
        match self.failures.first() {
            Some(first) => write!(f, ": {}", first.error),
            None => Ok(()),
        }
    }
}

impl StdError for PublishManyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.failures.first().and_then(|first| first.error.source())
    }
}

impl IntoIterator for PublishManyError {
    type Item = PublishFailure;
    type IntoIter = std::vec::IntoIter<PublishFailure>;

    /// The failures, in the order of the messages.
    fn into_iter(self) -> Self::IntoIter {
        self.failures.into_iter()
    }
}
