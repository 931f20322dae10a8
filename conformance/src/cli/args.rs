//! The arguments of a run: the same for every backend.

use std::num::NonZeroUsize;
use std::path::PathBuf;
#[cfg(feature = "model")]
use std::time::Duration;

use clap::{Args, ColorChoice, ValueEnum};

use crate::scale;

/// How to run.
#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    /// Write the result there in that format; what is printed is for people then
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Write the result to a file as well, such as junit:target/junit.xml; may be given several times
    #[arg(long = "report", value_name = "FORMAT:FILE", value_parser = report)]
    pub(super) reports: Vec<(Format, PathBuf)>,
    /// When to colour what is for people; NO_COLOR says never
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub(super) color: ColorChoice,
    /// Run only this rule; may be given several times
    #[arg(long = "rule", value_name = "ID", value_delimiter = ',')]
    pub(super) rules: Vec<String>,
    /// Repeat the choices of an earlier run [default: random]
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Run everything so many times, with the seeds N, N+1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) repeat: u64,
    /// Try so many rules at once, each on a broker of its own [default: 4 in memory, else 1]
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// Try the rules in an order that the seed decides
    #[arg(long)]
    pub(super) shuffle: bool,
    /// Instead of the rules, run random operations against the model for so long, such as 30s, 10m or 2h
    #[cfg(feature = "model")]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration,
        conflicts_with_all = ["rules", "repeat", "jobs", "shuffle", "output", "reports", "expect", "write_expected"]
    )]
    pub(super) soak: Option<Duration>,
    /// Stretch every time limit by this factor, for a slow machine: 1 to 100 [default: $BACKPLANE_TIME_SCALE, else 1]
    #[arg(long, value_name = "F", value_parser = scale::parse)]
    pub(super) time_scale: Option<f64>,
    /// Fail unless the verdicts are the ones in this file
    #[arg(long, value_name = "FILE")]
    pub(super) expect: Option<PathBuf>,
    /// Write the verdicts to such a file; with --rule, only those of these rules are changed
    #[arg(long, value_name = "FILE", conflicts_with = "expect")]
    pub(super) write_expected: Option<PathBuf>,
}

/// How a result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Lines for people
    #[default]
    Text,
    /// One JSON document
    Json,
    /// JUnit XML
    Junit,
    /// Markdown tables
    Markdown,
}

/// `junit:target/junit.xml`.
fn report(text: &str) -> Result<(Format, PathBuf), String> {
    let shape = "it must be FORMAT:FILE, with text, json, junit or markdown as the format";
    match text.split_once(':') {
        Some((format, file)) if !file.is_empty() => {
            let format = Format::from_str(format, false).map_err(|_| shape.to_owned())?;
            Ok((format, file.into()))
        }
        _ => Err(shape.to_owned()),
    }
}

#[cfg(feature = "model")]
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "it must be a number and s, m or h, such as 90s".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be from 1s to 8760h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "model")]
    #[test]
    fn a_duration_has_a_unit() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7200)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in [
            "",
            "s",
            "10",
            "0s",
            "-1s",
            "1.5h",
            "10 m",
            "1d",
            "9999999999999999999h",
            "8761h",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_report_has_a_format_and_a_file() {
        assert_eq!(report("junit:a:b").unwrap(), (Format::Junit, "a:b".into()));
        for wrong in ["junit", "junit:", "xml:a", ":a", ""] {
            assert!(
                report(wrong).unwrap_err().contains("FORMAT:FILE"),
                "{wrong}"
            );
        }
    }
}
