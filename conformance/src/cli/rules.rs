//! `rules`: the rule book.

use super::commands::RulesFormat;
use super::screen::to_stdout;
use crate::book;

pub(super) fn print(format: RulesFormat) {
    match format {
        RulesFormat::Text => to_stdout(book::to_text()),
        RulesFormat::Json => to_stdout(book::to_json() + "\n"),
        RulesFormat::Markdown => to_stdout(book::to_markdown()),
    }
}
