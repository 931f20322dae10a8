//! What ran, on what and when: [`About`].

use std::time::SystemTime;

use backplane_core::{Capabilities, Order};
use serde::Serialize;

use super::SUITE_VERSION;
use crate::harness::Description;

/// What ran, on what and when: the head of every report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct About {
    /// The version of the suite.
    pub suite_version: &'static str,
    /// The backend under test.
    pub backend: String,
    /// Its own version, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_version: Option<String>,
    /// How its broker was provided.
    pub fixture: String,
    /// The broker's version, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// The seed that repeats the run's choices.
    pub seed: u64,
    /// When it began: UTC, as RFC 3339 has it.
    pub started: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The factor that stretched every time limit.
    pub time_scale: f64,
    /// How many rules were tried at once.
    pub jobs: usize,
    /// Whether the rules were tried in an order that the seed decides.
    pub shuffled: bool,
    /// What the backend declares; unknown where no node was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Declared>,
    /// The command line that repeats it, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reproduce: Option<String>,
}

/// What a backend declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Declared {
    /// The largest payload, in bytes.
    pub max_payload: usize,
    /// How far order reaches: `channel`, `publisher` or `total`.
    pub order: &'static str,
    /// Whether gaps count.
    pub counts_loss: bool,
    /// Whether what was published in an outage is delivered after it.
    pub replay: bool,
    /// Whether a promotion or a moved slot is an ordinary outage.
    pub failover: bool,
}

impl About {
    /// A run that begins now, one rule at a time.
    pub(crate) fn new(of: Description, seed: u64) -> Self {
        Self {
            suite_version: SUITE_VERSION,
            backend: of.backend,
            backend_version: of.backend_version,
            fixture: of.fixture,
            server_version: of.server,
            seed,
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            duration_ms: 0,
            time_scale: 1.0,
            jobs: 1,
            shuffled: false,
            capabilities: None,
            reproduce: None,
        }
    }

    /// The first line of a report.
    pub(crate) fn title(&self) -> String {
        let with = |what: &str, version: &Option<String>| match version {
            Some(version) => format!("{what}{version}"),
            None => String::new(),
        };
        format!(
            "backplane conformance {}: {}{}{}, fixture {}, seed {}",
            self.suite_version,
            self.backend,
            with(" ", &self.backend_version),
            with(", server ", &self.server_version),
            self.fixture,
            self.seed
        )
    }

    /// Everything as pairs of a name and a value.
    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("suite_version", self.suite_version.to_owned()),
            ("backend", self.backend.clone()),
        ];
        if let Some(version) = &self.backend_version {
            facts.push(("backend_version", version.clone()));
        }
        facts.push(("fixture", self.fixture.clone()));
        if let Some(version) = &self.server_version {
            facts.push(("server_version", version.clone()));
        }
        facts.push(("seed", self.seed.to_string()));
        facts.push(("started", self.started.clone()));
        facts.push(("duration_ms", self.duration_ms.to_string()));
        facts.push(("time_scale", self.time_scale.to_string()));
        facts.push(("jobs", self.jobs.to_string()));
        facts.push(("shuffled", self.shuffled.to_string()));
        if let Some(declared) = &self.capabilities {
            facts.push(("capabilities", declared.to_string()));
        }
        if let Some(command) = &self.reproduce {
            facts.push(("reproduce", command.clone()));
        }
        facts
    }
}

impl From<Capabilities> for Declared {
    fn from(of: Capabilities) -> Self {
        Self {
            max_payload: of.max_payload,
            order: match of.order {
                Order::Publisher => "publisher",
                Order::Total => "total",
                _ => "channel",
            },
            counts_loss: of.counts_loss,
            replay: of.replay,
            failover: of.failover,
        }
    }
}

impl std::fmt::Display for Declared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (max_payload, order) = (self.max_payload, self.order);
        write!(f, "max_payload {max_payload}, order {order}")?;
        let may = |declared, what| if declared { what } else { "" };
        f.write_str(may(self.counts_loss, ", counts_loss"))?;
        f.write_str(may(self.replay, ", replay"))?;
        f.write_str(may(self.failover, ", failover"))
    }
}
