//! Which verdicts a backend is expected to have: [`Expected`], a file that lies in the repository, so that a rule cannot
//! silently stop applying.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::verdict::VerdictKind;

/// The verdict that each rule is expected to have on one backend and one fixture.
///
/// As a file it is JSON with one line for each rule, in the order of the contract:
///
/// ```json
/// {
///   "backend": "memory",
///   "fixture": "none",
///   "rules": {
///     "M3": "pass",
///     "M4": {"not_applicable": "this backend is configured without a URL"}
///   }
/// }
/// ```
///
/// The reasons are for the reader; they are not compared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Expected {
    /// The backend.
    pub backend: String,
    /// How its broker is provided.
    pub fixture: String,
    /// What is expected of each rule.
    pub rules: BTreeMap<String, Expectation>,
}

/// What is expected of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Entry", into = "Entry")]
#[non_exhaustive]
pub struct Expectation {
    /// The verdict.
    pub verdict: VerdictKind,
    /// Why it is not a pass.
    pub reason: String,
}

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Pass(VerdictKind),
    Other(BTreeMap<VerdictKind, String>),
}

impl TryFrom<Entry> for Expectation {
    type Error = &'static str;

    fn try_from(entry: Entry) -> Result<Self, Self::Error> {
        const SHAPE: &str = "a rule is \"pass\", or one verdict with its reason";
        match entry {
            Entry::Pass(verdict @ VerdictKind::Pass) => Ok(Self {
                verdict,
                reason: String::new(),
            }),
            Entry::Pass(_) => Err(SHAPE),
            Entry::Other(mut entry) => match (entry.pop_first(), entry.is_empty()) {
                (Some((verdict, reason)), true) => Ok(Self { verdict, reason }),
                _ => Err(SHAPE),
            },
        }
    }
}

impl From<Expectation> for Entry {
    fn from(of: Expectation) -> Self {
        match of.verdict {
            VerdictKind::Pass => Self::Pass(of.verdict),
            verdict => Self::Other(BTreeMap::from([(verdict, of.reason)])),
        }
    }
}

/// A rule that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// Another verdict.
    Verdict {
        /// The rule.
        rule: String,
        /// What was expected.
        expected: VerdictKind,
        /// What it is.
        got: VerdictKind,
        /// Why; empty for a pass.
        reason: String,
    },
    /// Nothing is expected of it.
    NotListed {
        /// The rule.
        rule: String,
        /// What it is.
        got: VerdictKind,
    },
    /// It was not run.
    NotRun {
        /// The rule.
        rule: String,
        /// What was expected.
        expected: VerdictKind,
    },
    /// The expectations are those of another backend, or of another fixture.
    Other {
        /// Whose they are.
        expected: String,
        /// What ran.
        got: String,
    },
}

impl Expected {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// What a report found.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let rules = report.rules.iter().map(|rule| {
            let (verdict, reason) = (rule.verdict, rule.reason.clone());
            (rule.id.to_owned(), Expectation { verdict, reason })
        });
        Self {
            backend: report.about.backend.clone(),
            fixture: report.about.fixture.clone(),
            rules: rules.collect(),
        }
    }

    /// The text of the file: one line for each rule.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings only: this cannot fail.
        let json = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let lines = in_order(self.rules.keys()).into_iter().filter_map(|id| {
            let expectation = self.rules.get(id)?;
            let verdict = json(expectation.verdict.as_str());
            let value = match expectation.verdict {
                VerdictKind::Pass => verdict,
                _ => format!("{{{verdict}: {}}}", json(&expectation.reason)),
            };
            Some(format!("    {}: {value}", json(id)))
        });
        let lines: Vec<String> = lines.collect();
        format!(
            "{{\n  \"backend\": {},\n  \"fixture\": {},\n  \"rules\": {{\n{}\n  }}\n}}\n",
            json(&self.backend),
            json(&self.fixture),
            lines.join(",\n")
        )
    }

    /// Where a report is not as expected, in the order of the contract. With `all`, a rule that is listed and was not run is a
    /// difference as well.
    #[must_use]
    pub fn differences(&self, report: &Report, all: bool) -> Vec<Difference> {
        let mut differences = Vec::new();
        let got = (&report.about.backend, &report.about.fixture);
        if got != (&self.backend, &self.fixture) {
            let name = |backend: &str, fixture: &str| format!("{backend}, fixture {fixture}");
            differences.push(Difference::Other {
                expected: name(&self.backend, &self.fixture),
                got: name(got.0, got.1),
            });
        }
        for rule in &report.rules {
            match self.rules.get(rule.id) {
                None => differences.push(Difference::NotListed {
                    rule: rule.id.to_owned(),
                    got: rule.verdict,
                }),
                Some(expected) if expected.verdict != rule.verdict => {
                    differences.push(Difference::Verdict {
                        rule: rule.id.to_owned(),
                        expected: expected.verdict,
                        got: rule.verdict,
                        reason: rule.reason.clone(),
                    });
                }
                Some(_) => {}
            }
        }
        if all {
            let ran = |id: &str| report.rules.iter().any(|rule| rule.id == id);
            let missing = in_order(self.rules.keys())
                .into_iter()
                .filter(|id| !ran(id));
            differences.extend(missing.filter_map(|id| {
                Some(Difference::NotRun {
                    rule: id.to_owned(),
                    expected: self.rules.get(id)?.verdict,
                })
            }));
        }
        differences
    }
}

/// The numbers in the order of the contract; what it does not have comes last.
fn in_order<'a>(ids: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let place = |id: &str| {
        let place = crate::contract::all()
            .iter()
            .position(|clause| clause.id == id);
        place.unwrap_or(usize::MAX)
    };
    let mut ids: Vec<&str> = ids.map(String::as_str).collect();
    ids.sort_by_key(|id| place(id));
    ids
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict {
                rule,
                expected,
                got,
                reason,
            } => {
                write!(f, "{rule}: expected {expected}, got {got}")?;
                match &**reason {
                    "" => Ok(()),
                    reason => write!(f, " ({reason})"),
                }
            }
            Self::NotListed { rule, got } => write!(f, "{rule}: not listed, got {got}"),
            Self::NotRun { rule, expected } => {
                write!(f, "{rule}: expected {expected}, and it was not run")
            }
            Self::Other { expected, got } => write!(f, "expected {expected}, got {got}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{each_verdict, report};
    use crate::rules;
    use crate::verdict::Verdict;

    const FILE: &str = r#"{
  "backend": "b",
  "fixture": "f",
  "rules": {
    "D1": "pass",
    "D2": {"fail": "got <\u001b[0m> | \"x\" &\nmore"},
    "D3": {"inconclusive": "no server"},
    "L6": {"not_applicable": "it has no such fault"},
    "L8": {"refused": "it says so"},
    "L9": {"known_failure": "issue 12"}
  }
}
"#;

    fn lines(expected: &Expected, report: &Report, all: bool) -> Vec<String> {
        let differences = expected.differences(report, all);
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_file_has_a_line_for_each_rule_in_the_order_of_the_contract() {
        let expected = Expected::of(&each_verdict());
        assert_eq!(expected.to_json(), FILE);
        assert_eq!(Expected::from_json(FILE), Ok(expected));
        let order = ["S8", "R10", "D10", "R9", "D2"].map(str::to_owned);
        // What the contract does not have comes last, as it came.
        assert_eq!(in_order(order.iter())[..3], ["D2", "S8", "R9"]);
    }

    #[test]
    fn what_is_as_expected_has_no_difference_whatever_the_reasons() {
        let report = each_verdict();
        let mut expected = Expected::of(&report);
        for expectation in expected.rules.values_mut() {
            expectation.reason.push_str(", or so");
        }
        assert!(lines(&expected, &report, true).is_empty());
    }

    #[test]
    fn every_difference_is_told_in_a_line() {
        let expected = Expected::of(&report(
            1,
            &[
                ("D1", Verdict::Pass),
                ("D2", Verdict::Refused("x".to_owned())),
                ("D4", Verdict::Pass),
            ],
        ));
        let found = report(
            1,
            &[
                ("D1", Verdict::NotApplicable("no fault".to_owned())),
                ("D2", Verdict::Pass),
                ("D3", Verdict::Pass),
            ],
        );
        let differences = [
            "D1: expected pass, got not_applicable (no fault)",
            "D2: expected refused, got pass",
            "D3: not listed, got pass",
        ];
        assert_eq!(lines(&expected, &found, false), differences);
        let all = lines(&expected, &found, true);
        assert_eq!(all[..3], differences);
        assert_eq!(all[3..], ["D4: expected pass, and it was not run"]);
    }

    #[test]
    fn the_verdicts_of_another_backend_are_not_compared_in_silence() {
        let report = each_verdict();
        let mut expected = Expected::of(&report);
        expected.fixture = "g".to_owned();
        let told = lines(&expected, &report, true);
        assert_eq!(told, ["expected b, fixture g, got b, fixture f"]);
    }

    #[test]
    fn a_file_that_means_nothing_is_refused() {
        let with = |rule: &str| {
            format!(r#"{{"backend": "b", "fixture": "f", "rules": {{"D1": {rule}}}}}"#)
        };
        assert!(Expected::from_json(&with(r#""pass""#)).is_ok());
        for wrong in [
            r#""fail""#,
            r#""passed""#,
            r#"{}"#,
            r#"{"fail": "x", "refused": "y"}"#,
            "1",
        ] {
            assert!(Expected::from_json(&with(wrong)).is_err(), "{wrong}");
        }
        assert!(Expected::from_json("").is_err());
        assert!(Expected::from_json(r#"{"rules": {}}"#).is_err());
    }

    #[test]
    fn the_files_of_this_repository_list_every_rule() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/expected");
        let mut files = 0;
        for file in std::fs::read_dir(directory).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let expected = Expected::from_json(&text).unwrap();
            assert_eq!(expected.to_json(), text, "{path:?}");
            let has = |id: &str| expected.rules.contains_key(id);
            let rules = rules::all();
            let missing: Vec<&str> = rules
                .iter()
                .map(|rule| rule.id)
                .filter(|id| !has(id))
                .collect();
            assert!(
                missing.is_empty() && expected.rules.len() == rules.len(),
                "{path:?} is out of date; it lacks {missing:?}; write it anew with `verify .. --write-expected`"
            );
            files += 1;
        }
        assert!(files > 0);
    }
}
