//! The table of checks, in the order they run.

use crate::run::{Cmd, Result};

/// The crates that are published, and the feature sets in which each is linted by itself.
///
/// The default features and all features are linted for the workspace as a whole; there the
/// features that one crate switches on in a dependency are there for all of them, which hides a
/// feature that a crate forgot to ask for. Every feature of every crate is in this table (a test
/// looks), and the first set of each crate is the empty one.
const FEATURE_SETS: &[(&str, &[&str])] = &[
    ("backplane-core", &[""]),
    ("backplane-memory", &[""]),
    ("backplane-redis", &["", "tls"]),
    (
        "backplane-conformance",
        &[
            "",
            "memory",
            "fixtures",
            "model",
            "redis",
            "redis,container",
            "cli",
        ],
    ),
];

/// The backends that the suite certifies: a name for the check, the arguments of `verify`, and
/// what the machine needs. The verdicts are compared with `conformance/expected/NAME.json`.
const SUITES: &[(&str, &[&str], Needs)] = &[
    ("memory", &["memory", "--shuffle"], Needs::Nothing),
    (
        "redis-container",
        &["redis", "--fixture", "container"],
        Needs::Container,
    ),
    (
        "redis-process",
        &["redis", "--fixture", "process"],
        Needs::RedisServer,
    ),
    (
        "redis-proxy",
        &["redis", "--fixture", "proxy", "--jobs", "2", "--shuffle"],
        Needs::RedisServer,
    ),
];

/// The backends that are soaked: a name for the check, the arguments of `verify`, and what the machine needs.
const SOAKS: &[(&str, &[&str], Needs)] = &[
    ("memory", &["memory"], Needs::Nothing),
    (
        "redis",
        &["redis", "--fixture", "process"],
        Needs::RedisServer,
    ),
];

/// The example that runs without a server, and its package.
const EXAMPLE: (&str, &str, &[&str]) = ("backplane-redis", "two_nodes", &["memory"]);

/// What the core crate's users must not have to compile.
const NOT_IN_CORE: &[&str] = &["redis", "testcontainers", "criterion", "proptest"];

/// What has to be on the machine before a check can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing but cargo.
    Nothing,
    /// `redis-server` on `PATH`.
    RedisServer,
    /// `nats-server` on `PATH`, or in `/usr/sbin`, where Debian has it.
    NatsServer,
    /// Every server, and an image for the container fixture if containers are not declined.
    ServersAndImage,
    /// A container engine with an image for the container fixture.
    Container,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Check {
    /// What `--only` takes: `group`, or `group:detail`, or `group:detail:more`.
    pub(crate) name: String,
    /// What has to be there.
    pub(crate) needs: Needs,
    /// The command line.
    pub(crate) cmd: Cmd,
    /// How the outcome is judged.
    judge: Judge,
}

/// How the outcome of a command is judged.
#[derive(Clone, Copy, Debug)]
enum Judge {
    /// By its exit code.
    ExitCode,
    /// By the packages that it lists.
    LeanCore,
}

impl Check {
    fn new(name: impl Into<String>, needs: Needs, cmd: Cmd) -> Self {
        Self {
            name: name.into(),
            needs,
            cmd,
            judge: Judge::ExitCode,
        }
    }

    /// Whether `--only filter` means this check: its name, or a group, up to one of its colons.
    pub(crate) fn is_meant_by(&self, filter: &str) -> bool {
        let rest = self.name.strip_prefix(filter);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }

    /// Runs the check, with these variables for the tests.
    pub(crate) fn run(&self, env: &[(String, String)]) -> Result<()> {
        let mut cmd = self.cmd.clone();
        if self.needs != Needs::Nothing {
            for (key, value) in env {
                cmd = cmd.env(key, value);
            }
        }
        match self.judge {
            Judge::ExitCode => cmd.run(),
            Judge::LeanCore => {
                println!("$ {cmd}");
                lean(&cmd.stdout()?)
            }
        }
    }
}

/// All checks, in the order they run: the cheap ones first.
pub(crate) fn all() -> Vec<Check> {
    let nothing = Needs::Nothing;
    let mut checks = vec![
        Check::new("fmt", nothing, cargo("fmt --all --check")),
        Check::new(
            "clippy:default",
            nothing,
            clippy(cargo("clippy --workspace --all-targets")),
        ),
        Check::new(
            "clippy:all-features",
            nothing,
            clippy(cargo("clippy --workspace --all-targets --all-features")),
        ),
    ];
    for (package, sets) in FEATURE_SETS {
        for set in *sets {
            // Without dev-dependencies, whose features would stand in for missing ones.
            let mut cmd = cargo("clippy --lib --bins --no-default-features --package");
            cmd = cmd.args([*package]);
            let mut name = format!("clippy:{package}:none");
            if !set.is_empty() {
                cmd = cmd.args(["--features", set]);
                name = format!("clippy:{package}:{set}");
            }
            checks.push(Check::new(name, nothing, clippy(cmd)));
        }
    }
    let doc = cargo("doc --workspace --no-deps --all-features --locked --document-private-items");
    let flags =
        "-D warnings -D rustdoc::broken_intra_doc_links -A rustdoc::private_intra_doc_links";
    checks.push(Check::new("doc", nothing, doc.env("RUSTDOCFLAGS", flags)));

    // The example for authors of backends certifies itself below. The one for authors of frameworks is tested here like any crate.
    let test = cargo("test --workspace --exclude backplane-example-nats --all-features --locked");
    checks.push(Check::new("test", Needs::ServersAndImage, test));
    let test = cargo("test --package backplane-example-nats --lib --locked");
    checks.push(Check::new("test-nats", nothing, test));

    let tree = cargo("tree --locked --package backplane-core --all-features --target all");
    let tree = tree.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    checks.push(Check {
        judge: Judge::LeanCore,
        ..Check::new("lean-core", nothing, tree)
    });

    for (name, args, needs) in SUITES {
        let cmd = cargo("run --locked --release --package backplane-conformance -- verify");
        let cmd = cmd.args(args.iter().copied());
        let cmd = cmd.args(["--expect", &expected(name)]);
        checks.push(Check::new(format!("suite:{name}"), *needs, cmd));
    }
    // The example for authors certifies itself. Its test binary runs in its own directory.
    let nats =
        cargo("test --locked --package backplane-example-nats --test conformance -- --expect");
    let nats = nats.args([format!("../../{}", expected("nats"))]);
    checks.push(Check::new("suite:nats", Needs::NatsServer, nats));

    for (name, args, needs) in SOAKS {
        let cmd = cargo("run --locked --release --package backplane-conformance -- verify");
        let cmd = cmd.args(args.iter().copied()).args(["--soak", "20s"]);
        checks.push(Check::new(format!("soak:{name}"), *needs, cmd));
    }
    // All mutants against all rules take ten minutes; these are all that each must fail, and some that it must not. They
    // wait most of the time, so many run at once.
    let mutants = "run --locked --release --package backplane-conformance -- mutants";
    let mutants = cargo(mutants).args(["--others", "6", "--jobs", "48"]);
    checks.push(Check::new("mutants", nothing, mutants));

    let (package, example, args) = EXAMPLE;
    let cmd = cargo("run --locked --package").args([package, "--example", example, "--"]);
    checks.push(Check::new(
        "example",
        nothing,
        cmd.args(args.iter().copied()),
    ));
    checks
}

/// The file with the verdicts that a suite is expected to have.
fn expected(suite: &str) -> String {
    format!("conformance/expected/{suite}.json")
}

/// A call of cargo; `line` is split at its spaces.
fn cargo(line: &str) -> Cmd {
    Cmd::new("cargo").args(line.split(' '))
}

fn clippy(cmd: Cmd) -> Cmd {
    cmd.args(["--locked", "--", "-D", "warnings"])
}

/// Checks the packages of the core crate, one `name version` a line.
fn lean(tree: &str) -> Result<()> {
    let packages: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    if packages.first() != Some(&"backplane-core") || !packages.contains(&"tokio") {
        return Err(format!("this is not the tree of backplane-core: {tree}"));
    }
    let found: Vec<_> = NOT_IN_CORE
        .iter()
        .filter(|name| packages.contains(name))
        .collect();
    if found.is_empty() {
        println!(
            "none of {} packages is one of {NOT_IN_CORE:?}",
            packages.len()
        );
        Ok(())
    } else {
        Err(format!("backplane-core must not depend on {found:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::run::workspace;

    #[test]
    fn every_check_has_its_own_name() {
        let checks = all();
        let names: HashSet<_> = checks.iter().map(|check| &check.name).collect();
        assert_eq!(names.len(), checks.len());
    }

    #[test]
    fn every_feature_of_every_published_crate_is_linted_by_itself() {
        for dir in fs::read_dir(workspace()).unwrap() {
            let Ok(manifest) = fs::read_to_string(dir.unwrap().path().join("Cargo.toml")) else {
                continue;
            };
            let package = value(&manifest, "name").unwrap();
            if value(&manifest, "publish").is_some() {
                continue;
            }
            let (_, sets) = FEATURE_SETS
                .iter()
                .find(|(name, _)| *name == package)
                .unwrap_or_else(|| panic!("{package} is not in FEATURE_SETS"));
            assert_eq!(
                sets.first(),
                Some(&""),
                "{package}: the first set is the empty one"
            );
            let linted: HashSet<_> = sets.iter().flat_map(|set| set.split(',')).collect();
            for feature in features(&manifest).filter(|feature| *feature != "default") {
                assert!(
                    linted.contains(feature),
                    "{package}: {feature} is not in FEATURE_SETS"
                );
            }
        }
    }

    #[test]
    fn every_suite_has_its_expected_verdicts_and_every_file_its_suite() {
        let directory = workspace().join("conformance/expected");
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|file| {
                file.unwrap()
                    .path()
                    .strip_prefix(workspace())
                    .unwrap()
                    .to_owned()
            })
            .collect();
        files.sort();
        let suites = SUITES.iter().map(|suite| suite.0).chain(["nats"]);
        let mut named: Vec<PathBuf> = suites.map(|suite| expected(suite).into()).collect();
        named.sort();
        assert_eq!(files, named);
    }

    #[test]
    fn a_forbidden_package_in_the_core_is_found_and_its_namesakes_are_not() {
        let good = "backplane-core v0.1.0 (/x)\nredis-protocol v1.0.0\ntokio v1.0.0";
        lean(good).unwrap();
        let error = lean(&format!("{good}\nredis v1.8.0")).unwrap_err();
        assert!(error.contains("redis"), "{error}");
    }

    #[test]
    fn an_empty_tree_is_not_a_lean_one() {
        lean("").unwrap_err();
    }

    #[test]
    fn a_filter_means_a_check_or_a_group_and_not_the_start_of_a_name() {
        let check = Check::new("suite:memory", Needs::Nothing, cargo("version"));
        assert!(check.is_meant_by("suite"));
        assert!(check.is_meant_by("suite:memory"));
        assert!(!check.is_meant_by("suite:mem"));
        assert!(!check.is_meant_by("suite:"));
        assert!(!check.is_meant_by(""));
        assert!(!check.is_meant_by("memory"));
    }

    fn value<'a>(manifest: &'a str, key: &str) -> Option<&'a str> {
        let (_, rest) = manifest.split_once(&format!("\n{key} = "))?;
        rest.lines().next().map(|value| value.trim_matches('"'))
    }

    fn features(manifest: &str) -> impl Iterator<Item = &str> {
        let section = manifest
            .split_once("\n[features]\n")
            .map_or("", |(_, rest)| rest);
        let lines = section.lines().take_while(|line| !line.starts_with('['));
        lines
            .filter_map(|line| line.split_once(" = "))
            .map(|(name, _)| name)
    }
}
