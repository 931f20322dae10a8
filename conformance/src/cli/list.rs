//! `list`: the rules.

use serde::Serialize;

use super::commands::ListFormat;
use super::screen::to_stdout;
use crate::rule::{Level, Need, Rule};
use crate::rules;

#[derive(Serialize)]
struct Line {
    id: &'static str,
    level: Level,
    title: &'static str,
    needs: Vec<&'static str>,
}

impl From<Rule> for Line {
    fn from(rule: Rule) -> Self {
        let needs = rule.needs.iter().copied().map(Need::as_str).collect();
        Self {
            id: rule.id,
            level: rule.level,
            title: rule.title,
            needs,
        }
    }
}

pub(super) fn print(format: ListFormat) {
    let lines: Vec<Line> = rules::all().into_iter().map(Line::from).collect();
    match format {
        ListFormat::Text => {
            for line in lines {
                to_stdout(format_args!("{}\n", text(&line)));
            }
        }
        ListFormat::Json => {
            // Strings only: this cannot fail.
            let json = serde_json::to_string_pretty(&lines).unwrap_or_default();
            to_stdout(format_args!("{json}\n"));
        }
    }
}

fn text(line: &Line) -> String {
    let needs = match &line.needs[..] {
        [] => String::new(),
        needs => format!(" (needs: {})", needs.join(", ")),
    };
    format!(
        "{:<4} {:<6} {}{needs}",
        line.id,
        line.level.as_str(),
        line.title
    )
}
