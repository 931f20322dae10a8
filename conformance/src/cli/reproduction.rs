//! The command lines that repeat a run.

use crate::report::Report;

/// The flags that a run had, as a person would repeat them.
#[derive(Clone, Debug)]
pub(super) struct Reproduction {
    /// The command that runs the whole suite on the backend.
    pub(super) command: String,
    /// The rules that were chosen; none means all.
    pub(super) rules: Vec<String>,
    /// How often everything was run.
    pub(super) repeat: u64,
    /// Whether the time scale has to be told.
    pub(super) scale: f64,
    /// The jobs, where they were chosen.
    pub(super) jobs: Option<usize>,
    /// Whether the order was decided by the seed.
    pub(super) shuffle: bool,
}

impl Reproduction {
    /// Adds the command lines to a report.
    pub(super) fn add_to(&self, report: Report) -> Report {
        let seed = report.about.seed;
        report.reproduced_by(self.run(seed), |rule| self.trial(rule, seed))
    }

    /// Repeats one trial: a rule makes the same choices alone.
    fn trial(&self, rule: &str, seed: u64) -> String {
        format!(
            "{} --rule {rule} --seed {seed}{}",
            self.command,
            self.scale()
        )
    }

    fn run(&self, seed: u64) -> String {
        let mut line = self.command.clone();
        if !self.rules.is_empty() {
            line.push_str(&format!(" --rule {}", self.rules.join(",")));
        }
        line.push_str(&format!(" --seed {seed}"));
        if self.repeat > 1 {
            line.push_str(&format!(" --repeat {}", self.repeat));
        }
        if let Some(jobs) = self.jobs {
            line.push_str(&format!(" --jobs {jobs}"));
        }
        if self.shuffle {
            line.push_str(" --shuffle");
        }
        line + &self.scale()
    }

    fn scale(&self) -> String {
        match self.scale {
            1.0 => String::new(),
            scale => format!(" --time-scale {scale}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::each_verdict;

    #[test]
    fn a_failure_comes_with_the_command_line_that_repeats_it() {
        let mut of = Reproduction {
            command: "verify it".to_owned(),
            rules: Vec::new(),
            repeat: 1,
            scale: 1.0,
            jobs: None,
            shuffle: false,
        };
        let report = of.add_to(each_verdict());
        assert_eq!(
            report.about.reproduce.as_deref(),
            Some("verify it --seed 7")
        );
        let lines = report.rules.iter().map(|rule| rule.reproduce.as_deref());
        let expected = [
            None,
            Some("verify it --rule D2 --seed 7"),
            Some("verify it --rule D3 --seed 7"),
            None,
            None,
            None,
        ];
        assert_eq!(lines.collect::<Vec<_>>(), expected);

        of.rules = vec!["D2".to_owned(), "L6".to_owned()];
        (of.repeat, of.scale, of.jobs, of.shuffle) = (3, 2.5, Some(2), true);
        let report = of.add_to(each_verdict());
        let all = "verify it --rule D2,L6 --seed 7 --repeat 3 --jobs 2 --shuffle --time-scale 2.5";
        assert_eq!(report.about.reproduce.as_deref(), Some(all));
        let one = "verify it --rule D2 --seed 7 --time-scale 2.5";
        assert_eq!(report.rules[1].reproduce.as_deref(), Some(one));
    }
}
