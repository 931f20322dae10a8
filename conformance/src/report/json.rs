//! The report as JSON.

use serde::Serialize;

use super::{About, Report, RuleResult, Summary};

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    about: &'a About,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetitions: Option<u64>,
    certified: bool,
    summary: Summary,
    rules: &'a [RuleResult],
}

pub(super) fn document(report: &Report) -> String {
    let document = Document {
        about: &report.about,
        repetitions: report.repetitions,
        certified: report.is_certified(),
        summary: report.summary,
        rules: &report.rules,
    };
    // Strings, numbers and truth values only: this cannot fail.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}
