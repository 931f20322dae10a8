//! The program as people run it, against a real server.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The figures that others read, by name: they are not renamed lightly.
const REQUIRED: [&str; 16] = [
    "latency_p50_vs_raw",
    "latency_p99_vs_raw",
    "cpu_per_msg_64_vs_raw",
    "cpu_per_msg_1024_vs_raw",
    "latency_p50_vs_floor",
    "throughput_1_vs_raw",
    "throughput_64_vs_raw",
    "throughput_1024_vs_raw",
    "publish_many_msgs_per_s",
    "memory_throughput_vs_broadcast",
    "memory_latency_p50_vs_broadcast",
    "fanout_10k_vs_bare_loop",
    "fanout_10k_bursts_vs_bare_loop",
    "subscribe_100k_s",
    "resubscribe_100k_s",
    "bytes_per_subscription",
];

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_backplane-benches"));
    // The program that counts lies beside it: cargo has built both.
    program.env_remove("CARGO");
    program
}

#[test]
fn a_short_comparison_has_every_figure_as_a_positive_number_and_a_plot() {
    let plot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compare.svg");
    let output = program()
        .args(["compare", "--quick", "--tiny", "--format", "json", "--plot"])
        .arg(&plot)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in REQUIRED {
        let value = all[key].as_f64();
        assert!(value.is_some_and(|value| value > 0.0), "{key}: {value:?}");
    }
    assert!(all["about"]["redis"].as_str().unwrap().contains('.'));
    assert!(all["details"]["figures"]["latency_p50_us"]["raw stream"]["median"].is_f64());
    let plot = std::fs::read_to_string(plot).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("backplane redis"));
}

#[test]
fn without_a_server_the_program_says_what_to_install() {
    let output = program()
        .args(["compare", "--quick"])
        .env("PATH", "")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("redis-server"), "{error}");
    assert!(error.contains("apt-get install redis-server"), "{error}");
}

#[test]
fn a_short_page_has_the_tables_and_its_plots_beside_it() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&directory).unwrap();
    let readme = directory.join("README.md");
    let around = [
        "# Fast\n<!-- numbers -->",
        "<!-- end of numbers -->\nMore.\n",
    ];
    std::fs::write(&readme, around.join("\nold\n")).unwrap();
    let output = program()
        .args(["page", "--quick", "--tiny", "--directory"])
        .arg(&directory)
        .arg("--readme")
        .arg(&readme)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let page = std::fs::read_to_string(directory.join("NUMBERS.md")).unwrap();
    for part in ["## Comparison", "## Growth", "## Method", "NOT OPTIMISED"] {
        assert_eq!(
            page.contains(part),
            part != "NOT OPTIMISED" || cfg!(debug_assertions)
        );
    }
    let readme = std::fs::read_to_string(readme).unwrap();
    assert!(
        readme.starts_with(around[0]) && readme.ends_with(around[1]),
        "{readme}"
    );
    assert!(
        readme.contains("| figure |") && !readme.contains("old"),
        "{readme}"
    );
    for plot in page
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        let plot = std::fs::read_to_string(directory.join(plot)).unwrap();
        assert!(
            plot.contains("<polyline") && !plot.contains("NaN"),
            "{plot}"
        );
    }
}

#[test]
fn a_file_without_marks_is_refused_before_anything_is_measured() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unmarked.md");
    std::fs::write(&file, "<!-- end of numbers --> <!-- numbers -->").unwrap();
    let output = program()
        .args(["page", "--tiny", "--readme"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("unmarked.md has no marks"), "{error}");
}
