//! The report as JUnit XML, as Jenkins, GitLab and GitHub's readers take it.

use std::fmt::Write as _;

use super::text::counted;
use super::{Report, RuleResult};
use crate::rule::Level;
use crate::verdict::VerdictKind;

pub(super) fn document(report: &Report) -> String {
    let all: Vec<&RuleResult> = report.rules.iter().collect();
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let name = escaped(&report.about.title());
    // Writing to a string does not fail.
    let _ = writeln!(out, "<testsuites name=\"{name}\" {}>", numbers(&all));
    for (section, rules) in report.sections() {
        suite(&mut out, report, section, &rules);
    }
    out.push_str("</testsuites>\n");
    out
}

fn suite(out: &mut String, report: &Report, section: &str, rules: &[&RuleResult]) {
    // The schema wants a time without a zone here; the property `started` has it with one.
    let timestamp = report.about.started.trim_end_matches('Z');
    let _ = writeln!(
        out,
        "  <testsuite name=\"{}\" {} timestamp=\"{}\">",
        escaped(section),
        numbers(rules),
        escaped(timestamp)
    );
    out.push_str("    <properties>\n");
    for (name, value) in report.about.facts() {
        let value = escaped(&value);
        let _ = writeln!(out, "      <property name=\"{name}\" value=\"{value}\"/>");
    }
    out.push_str("    </properties>\n");
    for rule in rules {
        case(out, &report.about.backend, rule);
    }
    out.push_str("  </testsuite>\n");
}

fn case(out: &mut String, backend: &str, rule: &RuleResult) {
    // Readers take what is before the last dot for a package.
    let section = rule.section.split_once(". ");
    let section = section.map_or(&*rule.section, |(_, title)| title);
    let _ = write!(
        out,
        "    <testcase classname=\"{}.{}\" name=\"{} {}\" time=\"{}\"",
        escaped(backend),
        escaped(section),
        rule.id,
        escaped(rule.title),
        seconds(rule.duration_ms)
    );
    let reason = escaped(&rule.reason);
    let kind = rule.verdict;
    match Element::of(rule) {
        Element::None => out.push_str("/>\n"),
        Element::Skipped => {
            let note = match kind.is_bad() {
                true => format!("SHOULD, {kind}"),
                false => counted(kind, 1).to_owned(),
            };
            let _ = writeln!(
                out,
                ">\n      <skipped message=\"{note}: {reason}\"/>\n    </testcase>"
            );
        }
        Element::Failure => {
            let details = details(rule);
            let _ = writeln!(
                out,
                ">\n      <failure message=\"{reason}\" type=\"{kind}\">{details}</failure>\n    </testcase>"
            );
        }
        Element::Error => {
            let details = details(rule);
            let _ = writeln!(
                out,
                ">\n      <error message=\"{reason}\" type=\"{kind}\">{details}</error>\n    </testcase>"
            );
        }
    }
}

fn details(rule: &RuleResult) -> String {
    let mut text = format!("{}\n\n{} {}\n", rule.reason, rule.id, rule.text);
    if let Some(command) = &rule.reproduce {
        let _ = write!(text, "\nrepeat: {command}\n");
    }
    escaped(&text)
}

/// What a case holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    None,
    Skipped,
    Failure,
    Error,
}

impl Element {
    const fn of(rule: &RuleResult) -> Self {
        match (rule.verdict, rule.level) {
            (VerdictKind::Pass, _) => Self::None,
            (VerdictKind::Fail, Level::Must) => Self::Failure,
            (VerdictKind::Inconclusive, Level::Must) => Self::Error,
            // A case that failed fails the whole for every reader, and this does not refuse the certificate.
            (VerdictKind::Fail | VerdictKind::Inconclusive, Level::Should) => Self::Skipped,
            (VerdictKind::Refused | VerdictKind::NotApplicable | VerdictKind::KnownFailure, _) => {
                Self::Skipped
            }
        }
    }
}

/// The attributes that count.
fn numbers(rules: &[&RuleResult]) -> String {
    let count = |element| {
        rules
            .iter()
            .filter(|rule| Element::of(rule) == element)
            .count()
    };
    format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{}\"",
        rules.len(),
        count(Element::Failure),
        count(Element::Error),
        count(Element::Skipped),
        seconds(rules.iter().map(|rule| rule.duration_ms).sum())
    )
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Text for an element or an attribute. What XML 1.0 has no way to say is written as its escape in Rust.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Readers turn them into spaces otherwise, in attributes at least.
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_xml_cannot_say_is_escaped_and_can_still_be_read() {
        let wild = "a<b>&\"c'\u{0}\u{1b}[m\u{fffe}\n\u{85}é🦀";
        let text = escaped(wild);
        let document = format!("<a b=\"{text}\">{text}</a>");
        let parsed = roxmltree::Document::parse(&document).unwrap();
        let expected = "a<b>&\"c'\\u{0}\\u{1b}[m\\u{fffe}\n\\u{85}é🦀";
        assert_eq!(parsed.root_element().text(), Some(expected));
        assert_eq!(parsed.root_element().attribute("b"), Some(expected));
    }
}
