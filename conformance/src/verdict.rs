//! How a trial ends: [`Verdict`], and [`Ending`] on the way to it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the suite says of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The backend keeps the rule.
    Pass,
    /// The backend breaks the rule, in this way.
    Fail(String),
    /// The trial could not tell, for this reason. Counts as a failure of the run.
    Inconclusive(String),
    /// The backend does not declare the capability, and refuses as it must.
    Refused(String),
    /// The rule, or its trial, does not apply here, for this reason.
    NotApplicable(String),
    /// The backend breaks the rule, as it says itself, for this reason.
    KnownFailure(String),
}

/// The name of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// [`Verdict::Pass`].
    Pass,
    /// [`Verdict::Fail`].
    Fail,
    /// [`Verdict::Inconclusive`].
    Inconclusive,
    /// [`Verdict::Refused`].
    Refused,
    /// [`Verdict::NotApplicable`].
    NotApplicable,
    /// [`Verdict::KnownFailure`].
    KnownFailure,
}

impl Verdict {
    /// Its name.
    #[must_use]
    pub const fn kind(&self) -> VerdictKind {
        match self {
            Self::Pass => VerdictKind::Pass,
            Self::Fail(_) => VerdictKind::Fail,
            Self::Inconclusive(_) => VerdictKind::Inconclusive,
            Self::Refused(_) => VerdictKind::Refused,
            Self::NotApplicable(_) => VerdictKind::NotApplicable,
            Self::KnownFailure(_) => VerdictKind::KnownFailure,
        }
    }

    /// The reason; empty for a pass.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Pass => "",
            Self::Fail(reason)
            | Self::Inconclusive(reason)
            | Self::Refused(reason)
            | Self::NotApplicable(reason)
            | Self::KnownFailure(reason) => reason,
        }
    }

    /// Whether a backend with this verdict on a MUST rule is not certified.
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        self.kind().is_bad()
    }
}

impl VerdictKind {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Refused => "refused",
            Self::NotApplicable => "not_applicable",
            Self::KnownFailure => "known_failure",
        }
    }

    /// Whether a backend with this verdict on a MUST rule is not certified.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Fail | Self::Inconclusive)
    }

    /// How bad it is, from 0 for a pass.
    pub(crate) const fn severity(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::NotApplicable => 1,
            Self::Refused => 2,
            Self::KnownFailure => 3,
            Self::Inconclusive => 4,
            Self::Fail => 5,
        }
    }
}

impl fmt::Display for VerdictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a trial ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The backend broke the rule.
    Broken(String),
    /// The environment did not work.
    Inconclusive(String),
    /// The trial does not apply.
    NotApplicable(String),
    /// The backend does not promise it, and refused as it must.
    Refused(String),
}

/// What a trial returns.
pub type Outcome<T = ()> = Result<T, Ending>;

/// Ends a trial because the backend broke the rule.
pub(crate) fn broken<T>(how: impl fmt::Display) -> Outcome<T> {
    Err(Ending::Broken(how.to_string()))
}

/// Ends a trial because the environment did not work.
pub(crate) fn inconclusive<T>(why: impl fmt::Display) -> Outcome<T> {
    Err(Ending::Inconclusive(why.to_string()))
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(()) => Self::Pass,
            Err(Ending::Broken(how)) => Self::Fail(how),
            Err(Ending::Inconclusive(why)) => Self::Inconclusive(why),
            Err(Ending::NotApplicable(why)) => Self::NotApplicable(why),
            Err(Ending::Refused(why)) => Self::Refused(why),
        }
    }
}
