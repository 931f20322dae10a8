//! Reports for tests, with a fixed time.

use std::time::Duration;

use super::{About, Declared, Report, RuleResult};
use crate::harness::Description;
use crate::rules;
use crate::verdict::Verdict;

/// The result of a rule, after 10 ms.
pub(crate) fn result(id: &str, verdict: &Verdict) -> RuleResult {
    let rules = rules::all();
    let rule = rules.iter().find(|rule| rule.id == id).unwrap();
    RuleResult::new(rule, verdict, Duration::from_millis(10))
}

/// A report on a backend `b` that took 25 ms.
pub(crate) fn report(seed: u64, verdicts: &[(&str, Verdict)]) -> Report {
    let of = Description::new("b")
        .backend_version("1.2.3")
        .fixture("f")
        .server("7.0");
    let mut about = About::new(of, seed);
    about.started = "2026-01-02T03:04:05Z".to_owned();
    about.duration_ms = 25;
    about.capabilities = Some(Declared {
        max_payload: 100,
        order: "publisher",
        counts_loss: true,
        replay: false,
        failover: false,
    });
    let results = verdicts.iter().map(|(id, verdict)| result(id, verdict));
    Report::new(about, results.collect())
}

/// One of each verdict, in two sections, with reasons that are hard to write.
pub(crate) fn each_verdict() -> Report {
    let why = |text: &str| text.to_owned();
    let report = report(
        7,
        &[
            ("D1", Verdict::Pass),
            ("D2", Verdict::Fail(why("got <\u{1b}[0m> | \"x\" &\nmore"))),
            ("D3", Verdict::Inconclusive(why("no server"))),
            ("L8", Verdict::Refused(why("it says so"))),
            ("L6", Verdict::NotApplicable(why("it has no such fault"))),
            ("L9", Verdict::KnownFailure(why("issue 12"))),
        ],
    );
    report.reproduced_by("suite --seed 7".to_owned(), |id| {
        format!("suite --rule {id}")
    })
}
