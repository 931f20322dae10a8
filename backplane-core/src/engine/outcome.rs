//! What became of a message: [`Outcome`].

use std::fmt;
use std::sync::Arc;

use crate::driver::LinkError;
use crate::error::{BoxError, NotSent, PublishError, PublishErrorKind, Unknown};
use crate::name::Channel;

/// What became of a message. Shared, because the messages of one frame share their fate.
pub(crate) type Outcome = Result<(), Failure>;

/// Why a message failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: PublishErrorKind,
    source: Option<Arc<LinkError>>,
}

impl Failure {
    pub(crate) const fn not_sent(why: NotSent, source: Option<Arc<LinkError>>) -> Self {
        Self {
            kind: PublishErrorKind::NotSent(why),
            source,
        }
    }

    pub(crate) const fn unknown(why: Unknown, source: Option<Arc<LinkError>>) -> Self {
        Self {
            kind: PublishErrorKind::Unknown(why),
            source,
        }
    }

    /// The flush of the message did not come to its end.
    pub(crate) const fn abandoned() -> Self {
        Self::unknown(Unknown::ConnectionLost, None)
    }

    pub(crate) const fn is_not_sent(&self) -> bool {
        matches!(self.kind, PublishErrorKind::NotSent(_))
    }

    pub(crate) fn into_error(self, channel: &Channel) -> PublishError {
        let source = self
            .source
            .map(|error| Box::new(SharedError(error)) as BoxError);
        match self.kind {
            PublishErrorKind::NotSent(why) => PublishError::not_sent(channel, why, source),
            PublishErrorKind::Unknown(why) => PublishError::unknown(channel, why, source),
        }
    }
}

/// A link's error, shared by all the messages that it hit.
#[derive(Debug)]
struct SharedError(Arc<LinkError>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
