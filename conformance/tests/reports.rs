//! What `verify` writes, and where: formats, files, colours, expected verdicts, jobs and order.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Quick rules, in two sections.
const RULES: &str = "D1,D3,O1";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backplane-conformance"));
    command.args(arguments).stdin(Stdio::null());
    for variable in [
        "NO_COLOR",
        "BACKPLANE_TIME_SCALE",
        "BACKPLANE_CONFORMANCE_SEED",
    ] {
        command.env_remove(variable);
    }
    command
}

fn verify(arguments: &[&str]) -> Output {
    let all = [&["verify", "memory", "--rule", RULES], arguments].concat();
    command(&all).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn path(directory: &TempDir, name: &str) -> String {
    directory.path().join(name).to_str().unwrap().to_owned()
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(file).unwrap()
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

// ---------------------------------------------------------------- formats and files

#[test]
fn text_is_grouped_by_section_and_ends_with_the_summary() {
    let output = verify(&["--seed", "5"]);
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    let places: Vec<_> = ["\nD. Delivery\n", "D1 ", "D3 ", "\nO. Order\n", "O1 "]
        .iter()
        .map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}")))
        .collect();
    assert!(places.is_sorted(), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("memory is certified (3 of "), "{text}");
    assert!(
        text.contains(" verify memory --rule D1,D3,O1 --seed 5\n"),
        "{text}"
    );
    assert!(text.contains("max_payload 1048576"), "{text}");
}

#[test]
fn one_document_is_all_that_is_on_standard_output() {
    let junit = stdout(&verify(&["--format", "junit"]));
    let junit = roxmltree::Document::parse(&junit).unwrap();
    assert_eq!(junit.root_element().attribute("tests"), Some("3"));
    let markdown = stdout(&verify(&["--format", "markdown"]));
    assert!(
        markdown.starts_with("# Conformance of memory\n"),
        "{markdown}"
    );
    let output = verify(&["--format", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["certified"], true);
    assert_eq!(json["backend_version"], env!("CARGO_PKG_VERSION"));
    let started = json["started"].as_str().unwrap();
    assert!(started.len() == 20 && started.ends_with('Z'), "{started}");
    assert!(stderr(&output).contains("[3/3] pass "), "{output:?}");
}

#[test]
fn files_have_documents_and_standard_output_is_for_people() {
    let directory = TempDir::new().unwrap();
    let (output, report) = (path(&directory, "a.json"), path(&directory, "b.xml"));
    let report = format!("junit:{report}");
    let arguments = ["--format", "json", "--output", &output, "--report", &report];
    fs::write(&output, "what was there before").unwrap();
    let run = verify(&arguments);
    assert!(run.status.success(), "{run:?}");
    assert!(stdout(&run).contains("memory is certified"), "{run:?}");
    let json: Value = serde_json::from_str(&read(&output)).unwrap();
    assert_eq!(json["summary"]["pass"], 3);
    assert!(read(path(&directory, "b.xml")).starts_with("<?xml"));
    // No draft is left.
    assert_eq!(names(&directory), ["a.json", "b.xml"]);
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_run() {
    let directory = TempDir::new().unwrap();
    let nowhere = path(&directory, "none/report.json");
    let here = directory.path().to_str().unwrap();
    for arguments in [
        ["--output", &*nowhere],
        ["--output", here],
        ["--report", &format!("markdown:{nowhere}")],
        ["--write-expected", &nowhere],
    ] {
        let output = verify(&arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(stdout(&output), "", "{output:?}");
        assert!(stderr(&output).contains("cannot write"), "{output:?}");
    }
}

#[test]
fn colour_is_for_terminals_and_for_who_asks() {
    let is_coloured = |output: &Output| stdout(output).contains("\x1b[");
    assert!(!is_coloured(&verify(&[])));
    assert!(!is_coloured(&verify(&["--color", "never"])));
    assert!(is_coloured(&verify(&["--color", "always"])));
    let all = ["verify", "memory", "--rule", "D3", "--color", "auto"];
    let output = command(&all).env("NO_COLOR", "1").output().unwrap();
    assert!(!is_coloured(&output));
}

// ---------------------------------------------------------------- expected verdicts

#[test]
fn expected_verdicts_are_written_compared_and_told_where_they_differ() {
    let directory = TempDir::new().unwrap();
    let file = path(&directory, "expected.json");
    let output = verify(&["--write-expected", &file]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        read(&file).contains("    \"D1\": \"pass\",\n"),
        "{}",
        read(&file)
    );
    assert!(verify(&["--expect", &file]).status.success());

    // Somebody expected something else of D3, and nothing of O1.
    let other = read(&file)
        .replace("\"D3\": \"pass\",", "\"D3\": {\"refused\": \"why not\"}")
        .replace("    \"O1\": \"pass\"\n", "");
    fs::write(&file, other).unwrap();
    let output = verify(&["--expect", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = stdout(&output);
    assert!(
        text.contains("\n  D3: expected refused, got pass\n"),
        "{text}"
    );
    assert!(text.contains("\n  O1: not listed, got pass\n"), "{text}");
    assert!(text.contains("memory is certified"), "{text}");
    let output = verify(&["--expect", &file, "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("D3: expected refused, got pass"));
    serde_json::from_slice::<Value>(&output.stdout).unwrap();

    // With --rule, only these rules are compared, and only these are written anew.
    let one = |arguments: &[&str]| {
        let all = [&["verify", "memory", "--rule", "D3"], arguments].concat();
        command(&all).output().unwrap()
    };
    assert_eq!(one(&["--expect", &file]).status.code(), Some(1));
    assert!(one(&["--write-expected", &file]).status.success());
    assert!(one(&["--expect", &file]).status.success());
    assert!(read(&file).contains("\"D1\": \"pass\""), "{}", read(&file));
}

#[test]
fn a_file_of_expectations_that_means_nothing_is_refused_before_the_run() {
    let directory = TempDir::new().unwrap();
    let file = path(&directory, "expected.json");
    for text in [None, Some(""), Some("{\"rules\": {}}")] {
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        let output = verify(&["--expect", &file]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(&file), "{output:?}");
        assert_eq!(stdout(&output), "");
    }
}

// ---------------------------------------------------------------- jobs, order, time

#[test]
fn several_jobs_in_any_order_print_and_find_the_same() {
    // Without the times and what names the way in which it ran.
    let lines = |arguments: &[&str]| {
        let output = verify(&[&["--seed", "9"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let text = stdout(&output);
        let is_rule = |line: &&str| line.starts_with("pass ");
        let strip = |line: &str| {
            line.split_whitespace()
                .filter(|word| word.parse::<u32>().is_err())
                .collect::<Vec<_>>()
                .join(" ")
        };
        text.lines().filter(is_rule).map(strip).collect::<Vec<_>>()
    };
    let one = lines(&["--jobs", "1"]);
    assert_eq!(one.len(), 3);
    assert_eq!(lines(&["--jobs", "3", "--shuffle"]), one);
    let output = verify(&[
        "--jobs",
        "64",
        "--shuffle",
        "--repeat",
        "5",
        "--format",
        "json",
    ]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    // A job for each rule is enough.
    assert_eq!(
        (&json["jobs"], &json["shuffled"]),
        (&3.into(), &true.into())
    );
    assert_eq!(
        (&json["repetitions"], &json["certified"]),
        (&5.into(), &true.into())
    );
    let reproduce = json["reproduce"].as_str().unwrap();
    assert!(
        reproduce.ends_with(" --repeat 5 --jobs 64 --shuffle"),
        "{reproduce}"
    );
}

#[test]
fn the_environment_stands_for_the_arguments_and_is_checked_too() {
    let with = |name: &str, value: &str, arguments: &[&str]| {
        let all = [
            &["verify", "memory", "--rule", "D3", "--format", "json"],
            arguments,
        ]
        .concat();
        command(&all).env(name, value).output().unwrap()
    };
    let json = |output: Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    let scale = "BACKPLANE_TIME_SCALE";
    assert_eq!(json(with(scale, "3", &[]))["time_scale"], 3.0);
    assert_eq!(
        json(with(scale, "3", &["--time-scale", "2"]))["time_scale"],
        2.0
    );
    assert_eq!(
        json(with("BACKPLANE_CONFORMANCE_SEED", "77", &[]))["seed"],
        77
    );
    for (name, value) in [
        (scale, "0.1"),
        (scale, ""),
        ("BACKPLANE_CONFORMANCE_SEED", "x"),
    ] {
        let output = with(name, value, &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(name), "{output:?}");
    }
}

#[test]
fn an_interrupt_ends_the_server_of_every_job() {
    let arguments = [
        "verify",
        "redis",
        "--fixture",
        "process",
        "--rule",
        RULES,
        "--jobs",
        "2",
        "--repeat",
        "1000000",
    ];
    let mut command = command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(out.any(|line| line.unwrap().starts_with("repetition 1 of ")));
    let servers = children(child.id());
    assert_eq!(servers.len(), 2, "{servers:?}");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    // Its output has to be read, or it waits for that.
    assert!(out.all(|line| line.is_ok()));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    for server in servers {
        assert!(!Path::new(&format!("/proc/{server}")).exists());
    }
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<u32> {
    let parent = format!("PPid:\t{parent}");
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| status.lines().any(|line| line == parent))
    };
    let processes = fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}

#[test]
fn a_server_that_is_given_is_not_shared_by_jobs() {
    let output = command(&[
        "verify",
        "redis",
        "--url",
        "redis://127.0.0.1:1",
        "--jobs",
        "2",
    ])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("--jobs"), "{output:?}");
}

// ---------------------------------------------------------------- the rule book

#[test]
fn the_rule_book_is_printed_in_every_format() {
    let print = |format: &str| stdout(&command(&["rules", "--format", format]).output().unwrap());
    let json: Value = serde_json::from_str(&print("json")).unwrap();
    let d1 = &json[0];
    assert_eq!(
        (&d1["id"], &d1["trial"]["level"]),
        (&"D1".into(), &"MUST".into())
    );
    assert!(!d1["trial"]["mutants"].as_array().unwrap().is_empty());
    assert!(print("markdown").contains("\n### D1 "));
    assert!(print("text").contains("\nD1   MUST "));
}
