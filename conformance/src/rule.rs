//! Rules as data: [`Rule`]. Reports, the command line and the tests are made from the one list in
//! [`rules`](crate::rules).

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::Serialize;

use crate::harness::Fault;
use crate::trial::Trial;
use crate::verdict::Outcome;

/// One rule of the contract, and the trial that proves it.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its number in the contract, such as `D1`.
    pub id: &'static str,
    /// Whether it binds.
    pub level: Level,
    /// What it says, in short.
    pub title: &'static str,
    /// What its trial needs of the harness.
    pub needs: &'static [Need],
    /// Its trial.
    pub trial: TrialFn,
}

/// A trial as a function.
pub type TrialFn = fn(Trial) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Whether a rule binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Level {
    /// It does.
    #[serde(rename = "MUST")]
    Must,
    /// It should be kept, and breaking it does not refuse the certificate.
    #[serde(rename = "SHOULD")]
    Should,
}

/// What a trial needs of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A fault handle for [`Fault::Kill`].
    Kill,
    /// A fault handle for [`Fault::Stop`].
    Stop,
    /// A fault handle for [`Fault::Freeze`].
    Freeze,
    /// A fault handle for [`Fault::Mute`].
    Mute,
    /// A fault handle for [`Fault::Isolate`].
    Isolate,
    /// A fault handle for [`Fault::KillSubscribers`] and [`Fault::KillPublishers`].
    KillByType,
    /// A fault handle for [`Fault::RefuseNew`].
    RefuseNew,
    /// A fault handle for [`Fault::Unanswered`].
    Unanswered,
    /// A fault handle for [`Fault::Delay`].
    Delay,
    /// A fault handle for [`Fault::Trickle`].
    Trickle,
    /// A fault handle for [`Fault::CutInSubscribe`].
    CutInSubscribe,
    /// A fault handle for [`Fault::CutInPublish`].
    CutInPublish,
    /// A fault handle for [`Fault::Overrun`].
    Overrun,
    /// A fault handle for [`Fault::OutOfMemory`].
    OutOfMemory,
    /// A fault handle for [`Fault::MaxClients`].
    MaxClients,
    /// A fault handle for [`Fault::RevokeAuth`].
    RevokeAuth,
    /// Any way to make the broker unavailable to every node: [`Fault::Kill`], or [`Fault::Isolate`].
    Outage,
    /// An [`Observer`](crate::Observer).
    Observer,
    /// A backend that is configured by a URL.
    Url,
}

impl Need {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Freeze => "freeze",
            Self::Mute => "mute",
            Self::Isolate => "isolate",
            Self::KillByType => "kill by type",
            Self::RefuseNew => "refuse new",
            Self::Unanswered => "unanswered",
            Self::Delay => "delay",
            Self::Trickle => "trickle",
            Self::CutInSubscribe => "cut in subscribe",
            Self::CutInPublish => "cut in publish",
            Self::Overrun => "overrun",
            Self::OutOfMemory => "out of memory",
            Self::MaxClients => "max clients",
            Self::RevokeAuth => "revoke credentials",
            Self::Outage => "outage",
            Self::Observer => "observer",
            Self::Url => "url",
        }
    }

    /// The faults that it stands for; one of the lists must be supported in full.
    pub(crate) fn faults(self) -> &'static [&'static [Fault]] {
        const NODE: backplane_core::NodeId = backplane_core::NodeId::from_u64(0);
        match self {
            Self::Kill => &[&[Fault::Kill]],
            Self::Stop => &[&[Fault::Stop]],
            Self::Freeze => &[&[Fault::Freeze]],
            Self::Mute => &[&[Fault::Mute]],
            Self::Isolate => &[&[Fault::Isolate(NODE)]],
            Self::KillByType => &[&[Fault::KillSubscribers, Fault::KillPublishers]],
            Self::RefuseNew => &[&[Fault::RefuseNew]],
            Self::Unanswered => &[&[Fault::Unanswered]],
            Self::Delay => &[&[Fault::Delay]],
            Self::Trickle => &[&[Fault::Trickle]],
            Self::CutInSubscribe => &[&[Fault::CutInSubscribe(NODE)]],
            Self::CutInPublish => &[&[Fault::CutInPublish(NODE)]],
            Self::Overrun => &[&[Fault::Overrun(NODE)]],
            Self::OutOfMemory => &[&[Fault::OutOfMemory]],
            Self::MaxClients => &[&[Fault::MaxClients]],
            Self::RevokeAuth => &[&[Fault::RevokeAuth]],
            Self::Outage => &[&[Fault::Kill], &[Fault::Isolate(NODE)]],
            Self::Observer | Self::Url => &[],
        }
    }
}

impl Level {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
        }
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("id", &self.id)
            .field("level", &self.level)
            .field("title", &self.title)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

/// Writes a rule: `rule!("D1", "title", [needs], function)`.
macro_rules! rule {
    ($id:literal, $title:literal, [$($need:ident),*], $trial:path) => {
        $crate::rule::Rule {
            id: $id,
            level: $crate::rule::Level::Must,
            title: $title,
            needs: &[$($crate::rule::Need::$need),*],
            trial: |trial| Box::pin($trial(trial)),
        }
    };
}
pub(crate) use rule;
