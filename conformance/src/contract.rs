//! The text of the rules, read from `CONTRACT.md`, where it is written once: [`all`].

use std::sync::OnceLock;

/// The file itself.
const TEXT: &str = include_str!("../CONTRACT.md");

/// A rule as the contract says it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Clause {
    /// Its number, such as `D1`.
    pub id: String,
    /// What it says, in full.
    pub text: String,
    /// The title of its section, such as `Delivery`.
    pub section: String,
}

/// All rules of the contract, in its order, those without a trial included.
#[must_use]
pub fn all() -> &'static [Clause] {
    static ALL: OnceLock<Vec<Clause>> = OnceLock::new();
    ALL.get_or_init(|| parse(TEXT))
}

/// The rule with this number.
#[must_use]
pub fn clause(id: &str) -> Option<&'static Clause> {
    all().iter().find(|clause| clause.id == id)
}

/// What the rule with this number says, in full; empty for a rule that the contract does not have.
pub(crate) fn text(id: &str) -> &'static str {
    clause(id).map_or("", |clause| &clause.text)
}

/// The heading of the section of the rule with this number, such as `D. Delivery`.
pub(crate) fn heading(id: &str) -> String {
    let letter = id.trim_end_matches(|c: char| c.is_ascii_digit());
    let of_it = |clause: &&Clause| clause.letter() == letter;
    match all().iter().find(of_it) {
        Some(clause) => format!("{letter}. {}", clause.section),
        None => letter.to_owned(),
    }
}

impl Clause {
    /// The letter of its section.
    #[must_use]
    pub fn letter(&self) -> &str {
        self.id.trim_end_matches(|c: char| c.is_ascii_digit())
    }

    /// What stands in brackets in its text: capabilities, and what only an observer can see.
    #[must_use]
    pub fn tags(&self) -> Vec<&str> {
        let parts = self.text.split('[').skip(1);
        let tags = parts.filter_map(|part| part.split_once(']').map(|(tag, _)| tag));
        // `[a]` is a channel name, as D5 has it.
        tags.filter(|tag| tag.len() > 1).collect()
    }
}

/// Reads the sections `## D. Delivery` and the items `- D1 text`, which go on in indented lines.
fn parse(text: &str) -> Vec<Clause> {
    let mut clauses = Vec::new();
    let mut section = None;
    let mut item = String::new();
    for line in text.lines().chain([""]) {
        if let (Some(more), false) = (line.strip_prefix("  "), item.is_empty()) {
            item.push(' ');
            item.push_str(more.trim());
            continue;
        }
        if let Some((letter, title)) = section {
            split(&item, letter, title, &mut clauses);
        }
        item.clear();
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.split_once(". ");
        } else if let Some(begin) = line.strip_prefix("- ") {
            item.push_str(begin.trim());
        }
    }
    clauses
}

/// Adds the rules of one item: one, or several in a row as in `H11 .. H12 ..`, or a list with a common end as in
/// `H1 all; H2 all except - each reaches ..`.
fn split(item: &str, letter: &str, section: &str, clauses: &mut Vec<Clause>) {
    let mut rest = item;
    let mut found: Vec<(String, &str, bool)> = Vec::new();
    while let Some((id, text)) = numbered(rest, letter) {
        let (text, listed, more) = match next_rule(text, letter, id) {
            Some(at) => (&text[..at], text[..at].ends_with("; "), &text[at..]),
            None => (text, false, ""),
        };
        found.push((format!("{letter}{id}"), text.trim(), listed));
        rest = more;
    }
    let common = found
        .last()
        .and_then(|(_, text, _)| text.split_once(" - "))
        .map(|(_, common)| common.to_owned());
    clauses.extend(found.into_iter().map(|(id, text, listed)| {
        let text = match &common {
            Some(common) if listed => format!("{} - {common}", text.trim_end_matches(';')),
            _ => text.to_owned(),
        };
        let section = section.to_owned();
        Clause { id, text, section }
    }));
}

/// `12` and the text of `H12 the text`.
fn numbered<'a>(item: &'a str, letter: &str) -> Option<(u32, &'a str)> {
    let (number, text) = item.strip_prefix(letter)?.split_once(' ')?;
    Some((number.parse().ok()?, text))
}

/// Where the next rule of the same item begins: its number follows, at the begin of a sentence or after a semicolon.
fn next_rule(text: &str, letter: &str, id: u32) -> Option<usize> {
    let next = format!("{letter}{} ", id + 1);
    let mut places = text.match_indices(&next).map(|(at, _)| at);
    places.find(|at| text[..*at].ends_with(". ") || text[..*at].ends_with("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules;

    fn said(text: &str) -> Vec<(String, String)> {
        let clauses = parse(text).into_iter();
        clauses.map(|clause| (clause.id, clause.text)).collect()
    }

    fn pairs<const N: usize>(all: [(&str, &str); N]) -> Vec<(String, String)> {
        all.map(|(id, text)| (id.to_owned(), text.to_owned()))
            .into()
    }

    #[test]
    fn a_rule_goes_on_in_indented_lines_and_ends_with_the_item() {
        let text = "# T\n- X1 not in a section\n## D. Delivery\n- D1 one\n  and more\n\n  not this\n- D2 two\nnor this\n";
        assert_eq!(said(text), pairs([("D1", "one and more"), ("D2", "two")]));
        assert_eq!(parse(text)[0].section, "Delivery");
    }

    #[test]
    fn several_rules_in_one_item_are_several_rules() {
        let text = "## H. Hub\n- H11 When it is so. H12 The same, as O1 and H11 say (H13 too).\n";
        let expected = [
            ("H11", "When it is so."),
            ("H12", "The same, as O1 and H11 say (H13 too)."),
        ];
        assert_eq!(said(text), pairs(expected));
    }

    #[test]
    fn a_list_has_its_end_in_common() {
        let text = "## H. Hub\n- H1 all; H2 but one - each of them;\n  once.\n";
        let expected = [
            ("H1", "all - each of them; once."),
            ("H2", "but one - each of them; once."),
        ];
        assert_eq!(said(text), pairs(expected));
    }

    #[test]
    fn brackets_are_tags_and_channel_names_are_not() {
        let tags = |id: &str| clause(id).unwrap().tags();
        assert_eq!(tags("S2"), ["observer"]);
        assert_eq!(tags("O4"), ["order: total"]);
        assert!(tags("D5").is_empty());
    }

    #[test]
    fn the_rules_of_the_contract_are_numbered_without_a_hole() {
        let mut last: Option<(&str, u32)> = None;
        for clause in all() {
            let number: u32 = clause.id[1..].parse().unwrap();
            let expected = match last {
                Some((letter, number)) if letter == clause.letter() => number + 1,
                _ => 1,
            };
            assert_eq!(number, expected, "{}", clause.id);
            assert!(clause.text.len() > 2, "{clause:?}");
            last = Some((clause.letter(), number));
        }
        assert!(clause("D1").is_some() && clause("H27").is_some() && clause("H28").is_none());
    }

    #[test]
    fn every_trial_has_its_text_in_the_contract_and_follows_its_order() {
        let places: Vec<_> = rules::all()
            .iter()
            .map(|rule| {
                let place = all().iter().position(|clause| clause.id == rule.id);
                place.unwrap_or_else(|| panic!("{} is not in CONTRACT.md", rule.id))
            })
            .collect();
        assert!(places.is_sorted(), "{places:?}");
    }
}
