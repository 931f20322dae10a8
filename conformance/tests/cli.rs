//! The command says what it found, by its output and by its exit code.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use backplane_conformance::fixtures::{RedisProcess, Server, ServerFault};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::TcpSocket;

const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backplane-conformance"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Exit code 2, nothing on standard output, and one of these texts each on standard error.
fn assert_refused(output: &Output, texts: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(stdout(output), "", "{output:?}");
    for text in texts {
        assert!(stderr(output).contains(text), "{text}: {output:?}");
    }
}

// ---------------------------------------------------------------- list

#[test]
fn list_prints_every_rule_with_what_it_needs() {
    let output = run(&["list"]);
    assert!(output.status.success());
    let text = stdout(&output);
    let rules = backplane_conformance::rules::all();
    assert_eq!(text.lines().count(), rules.len());
    for (line, rule) in text.lines().zip(&rules) {
        assert!(line.starts_with(rule.id), "{line}");
        assert!(line.contains("MUST") && line.contains(rule.title), "{line}");
        assert_eq!(line.contains("(needs: "), !rule.needs.is_empty(), "{line}");
    }
}

#[test]
fn list_is_a_document_as_well() {
    let output = run(&["list", "--format", "json"]);
    let listed = document(&output);
    let rules = backplane_conformance::rules::all();
    assert_eq!(listed.as_array().unwrap().len(), rules.len());
    for (listed, rule) in listed.as_array().unwrap().iter().zip(&rules) {
        let needs: Vec<&str> = rule.needs.iter().map(|need| need.as_str()).collect();
        let expected = serde_json::json!({
            "id": rule.id, "level": rule.level.as_str(), "title": rule.title, "needs": needs,
        });
        assert_eq!(*listed, expected);
    }
}

// ---------------------------------------------------------------- verify memory

#[test]
fn a_certified_backend_ends_with_success() {
    let output = run(&["verify", "memory", "--rule", "d1", "--rule", "O1"]);
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    assert!(text.contains("pass         D1 "), "{text}");
    assert!(text.contains("pass         O1 "), "{text}");
    assert!(text.contains("memory is certified (2 of "), "{text}");
    assert!(text.contains("2 passed, 0 failed"), "{text}");
    // Nobody looks at it, so nothing is overwritten.
    assert_eq!(stderr(&output), "");
}

#[test]
fn the_document_is_all_that_is_on_standard_output() {
    let output = run(&[
        "verify", "memory", "--rule", "D1,M4", "--seed", "5", "--format", "json",
    ]);
    assert!(output.status.success(), "{output:?}");
    let document = document(&output);
    assert_eq!(document["suite_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["backend"], "memory");
    assert_eq!(document["fixture"], "none");
    assert_eq!(document["seed"], 5);
    assert!(document["duration_ms"].is_u64());
    let summary = serde_json::json!({
        "pass": 1, "fail": 0, "inconclusive": 0, "refused": 0, "not_applicable": 1, "known_failure": 0,
    });
    assert_eq!(document["summary"], summary);
    let [d1, m4] = &document["rules"].as_array().unwrap()[..] else {
        panic!("{document}")
    };
    for (rule, id, verdict) in [(d1, "D1", "pass"), (m4, "M4", "not_applicable")] {
        assert_eq!((&rule["id"], &rule["level"]), (&id.into(), &"MUST".into()));
        assert_eq!(rule["verdict"], verdict);
        assert!(rule["title"].is_string() && rule["duration_ms"].is_u64());
        assert_eq!(rule["reason"] == "", verdict == "pass");
    }
    let progress = stderr(&output);
    assert!(progress.contains("[1/2] pass D1"), "{progress}");
    assert!(progress.contains("[2/2] not_applicable M4"), "{progress}");
}

#[test]
fn the_same_seed_has_the_same_verdicts() {
    let verdicts = || {
        let output = run(&[
            "verify", "memory", "--rule", "D1", "--seed", "5", "--format", "json",
        ]);
        let mut document = document(&output);
        for rule in document["rules"].as_array_mut().unwrap() {
            rule["duration_ms"].take();
        }
        (document["seed"].take(), document["rules"].take())
    };
    assert_eq!(verdicts(), verdicts());
}

#[test]
fn repetitions_are_told_one_by_one_and_summed_up() {
    let arguments = [
        "verify", "memory", "--rule", "D1", "--seed", "5", "--repeat", "3",
    ];
    let output = run(&arguments);
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    for (n, seed) in [(1, 5), (2, 6), (3, 7)] {
        let line = format!("repetition {n} of 3, seed {seed}: memory is certified");
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains("3 repetitions"), "{text}");
    assert!(!text.contains("pass  "), "{text}");

    let output = run(&[&arguments[..], &["--format", "json"]].concat());
    let document = document(&output);
    assert_eq!(document["repetitions"], 3);
    assert_eq!(document["seed"], 5);
    assert_eq!(document["rules"].as_array().unwrap().len(), 1);
    assert!(stderr(&output).contains("repetition 3 of 3, seed 7: "));
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let memory = |more: &[&'static str]| run(&[&["verify", "memory"][..], more].concat());
    assert_refused(&memory(&["--rule", "D1", "--rule", "Z9"]), &["Z9", "list"]);
    assert_refused(&memory(&["--seed", "x"]), &["--seed"]);
    assert_refused(&memory(&["--repeat", "0"]), &["--repeat"]);
    assert_refused(&memory(&["--time-scale", "0.5"]), &["1 to 100"]);
    assert_refused(&memory(&["--format", "xml"]), &["text", "json"]);
    assert_refused(&run(&["verify", "nats"]), &["nats"]);
}

// ---------------------------------------------------------------- verify redis

#[test]
fn fixture_and_url_have_to_fit() {
    let redis = |more: &[&'static str]| run(&[&["verify", "redis"][..], more].concat());
    assert_refused(
        &redis(&["--fixture", "nothing"]),
        &["container", "process", "proxy", "url"],
    );
    assert_refused(&redis(&["--fixture", "url"]), &["--url"]);
    assert_refused(
        &redis(&["--fixture", "process", "--url", "redis://h"]),
        &["--fixture url"],
    );
    assert_refused(&redis(&["--url", "http://h"]), &["redis://"]);
}

#[test]
fn without_a_server_the_message_says_what_to_install() {
    let output = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("PATH", "").env("DOCKER_HOST", NO_ENGINE);
        command.output().unwrap()
    };
    let server = ["redis-server", "apt-get install redis-server"];
    assert_refused(
        &output(&["verify", "redis", "--fixture", "process"]),
        &server,
    );
    assert_refused(&output(&["verify", "redis", "--fixture", "proxy"]), &server);
    assert_refused(&output(&["verify", "redis"]), &server);
    assert_refused(&output(&["verify", "redis"]), &["container", "--url"]);
}

#[test]
fn the_way_from_container_to_process_is_told_and_never_taken_unasked() {
    let output = |more: &[&'static str]| {
        let mut command = command(&[&["verify", "redis", "--rule", "D1"][..], more].concat());
        command.env("DOCKER_HOST", NO_ENGINE).output().unwrap()
    };
    let fallen_back = output(&[]);
    assert!(fallen_back.status.success(), "{fallen_back:?}");
    assert!(stdout(&fallen_back).contains("fixture process"));
    assert_eq!(stderr(&fallen_back).lines().count(), 1, "{fallen_back:?}");
    assert!(stderr(&fallen_back).starts_with("no container, so "));
    assert_refused(&output(&["--fixture", "container"]), &["container"]);
}

#[test]
fn a_dead_address_is_named_without_the_password() {
    // Bound and not listening: connections are refused, and nobody else gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = socket.local_addr().unwrap();
    let url = format!("redis://:s3cr3t@{addr}");
    let output = run(&["verify", "redis", "--url", &url]);
    assert_refused(&output, &[&addr.to_string(), "refused"]);
    assert!(!stderr(&output).contains("s3cr3t"), "{output:?}");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_repeated() {
    let server = RedisProcess::start().await.unwrap();
    configure(&server, &["requirepass", "r1ght"]).await;

    let verify = |password: &str| {
        let url = format!("redis://:{password}@{}", server.addr());
        run(&["verify", "redis", "--url", &url, "--rule", "D1,V3"])
    };
    let output = verify("s3cr3t");
    assert_refused(&output, &[&server.addr().to_string(), "uthentication"]);
    assert!(!stderr(&output).contains("s3cr3t"), "{output:?}");
    let output = verify("r1ght");
    assert!(output.status.success(), "{output:?}");
    assert!(!format!("{output:?}").contains("r1ght"), "{output:?}");
}

#[tokio::test]
async fn a_server_that_dies_for_good_ends_the_run_without_a_certificate() {
    let server = RedisProcess::start().await.unwrap();
    let mut command = command(&[
        "verify",
        "redis",
        "--url",
        &server.url(),
        "--rule",
        "D1,D3",
        "--repeat",
        "1000000",
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    until_first_repetition(&mut out);
    server.inject(ServerFault::Kill).await.unwrap();
    // Past the lines that were printed before the server died.
    let rest: Vec<String> = out.lines().map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("the broker is lost"), "{output:?}");
    assert!(stderr(&output).contains(&server.addr().to_string()));
    assert!(rest.iter().any(|line| line.contains("NOT certified")));
    assert!(
        rest.iter()
            .any(|line| line.contains("--url \"$URL\" --rule D")),
        "{rest:?}"
    );
}

#[test]
fn an_interrupt_ends_the_server_too() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = command(&[
            "verify",
            "redis",
            "--fixture",
            "process",
            "--rule",
            "D1",
            "--repeat",
            "1000000",
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        until_first_repetition(&mut out);
        let servers = children(child.id());
        assert_eq!(servers.len(), 1, "{servers:?}");

        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, signal).unwrap();
        // Its output has to be read, or it waits for that.
        assert!(out.lines().all(|line| line.is_ok()));
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(128 + signal as i32));
        for server in servers {
            assert!(!Path::new(&format!("/proc/{server}")).exists());
        }
    }
}

fn until_first_repetition(out: &mut impl BufRead) {
    let mut lines = out.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("repetition 1 of ")));
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |status: &str| {
        status
            .lines()
            .any(|line| line == format!("PPid:\t{parent}"))
    };
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|it| is_child(&it))
        })
        .collect()
}

// ---------------------------------------------------------------- a broken environment

/// Longer than any of these takes, and much shorter than the suite.
const AT_ONCE: Duration = Duration::from_secs(15);

/// The suite on a server that cannot be used, in time.
fn on_url(url: &str) -> Output {
    let begin = Instant::now();
    let output = run(&["verify", "redis", "--url", url, "--rule", "D1"]);
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    let told = format!("{}{}", stdout(&output), stderr(&output));
    assert!(!told.contains("s3cr3t"), "{told}");
    output
}

/// Somebody who listens and does this with each connection.
fn listener(with: impl Fn(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut open = Vec::new();
        for client in listener.incoming() {
            let mut client = client.unwrap();
            with(&mut client);
            open.push(client);
        }
    });
    addr
}

#[test]
fn what_is_not_redis_is_told_from_what_does_not_answer() {
    let url = |addr: SocketAddr| format!("redis://:s3cr3t@{addr}");
    let http = listener(|client| {
        let _ = client.read(&mut [0; 512]);
        let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let output = on_url(&url(http));
    assert_refused(
        &output,
        &[
            &http.to_string(),
            "does not speak the Redis protocol",
            "HTTP/1.1 400",
        ],
    );
    let silent = listener(|_| {});
    let output = on_url(&url(silent));
    assert_refused(
        &output,
        &[&silent.to_string(), "does not answer a PING", "TLS"],
    );
    let closing = listener(|client| client.shutdown(Shutdown::Both).unwrap());
    let output = on_url(&url(closing));
    assert_refused(&output, &[&closing.to_string(), "ends them"]);
    let loading = listener(|client| {
        let _ = client.write_all(b"-LOADING Redis is loading the dataset in memory\r\n");
    });
    let output = on_url(&url(loading));
    assert_refused(&output, &[&loading.to_string(), "LOADING Redis is loading"]);

    for scheme in ["rediss", "valkeys"] {
        let url = format!("{scheme}://:s3cr3t@127.0.0.1:1");
        assert_refused(&on_url(&url), &["error: ", "TLS"]);
    }
    let nowhere = on_url("redis://:s3cr3t@no-such-host.invalid:6379");
    assert_refused(&nowhere, &["no-such-host.invalid"]);
}

#[tokio::test]
async fn a_server_that_needs_a_password_is_told_so() {
    let server = RedisProcess::start().await.unwrap();
    configure(&server, &["requirepass", "s3cr3t"]).await;
    let output = on_url(&server.url());
    assert_refused(
        &output,
        &[
            &server.addr().to_string(),
            "asks for a password",
            "redis://:PASSWORD@",
        ],
    );
}

#[tokio::test]
async fn a_server_without_room_is_told_so() {
    let server = RedisProcess::start().await.unwrap();
    let open = configure(&server, &["maxclients", "1"]).await;
    let output = on_url(&server.url());
    assert_refused(
        &output,
        &[&server.addr().to_string(), "max number of clients"],
    );
    drop(open);
}

#[tokio::test]
async fn a_replica_is_refused_and_its_primary_named() {
    let primary = RedisProcess::start().await.unwrap();
    let replica = RedisProcess::start().await.unwrap();
    let mut connection = connect(&replica).await;
    let mut follow = redis::cmd("REPLICAOF");
    follow.arg("127.0.0.1").arg(primary.addr().port());
    follow.exec_async(&mut connection).await.unwrap();
    let output = on_url(&replica.url());
    assert_refused(&output, &["replica", &primary.addr().to_string()]);
}

#[test]
fn an_image_that_cannot_be_had_is_named() {
    let mut command = command(&["verify", "redis", "--fixture", "container", "--rule", "D1"]);
    let image = "127.0.0.1:1/no-such-image:0";
    let output = command
        .env("BACKPLANE_REDIS_IMAGE", image)
        .output()
        .unwrap();
    if engine_answers() {
        assert_refused(&output, &[image, "BACKPLANE_REDIS_IMAGE"]);
    } else {
        assert_refused(&output, &["no container engine answers"]);
    }
}

/// Whether to go on. Without an engine the test is skipped, aloud; `BACKPLANE_REQUIRE_CONTAINER` makes that a
/// failure.
fn engine_answers() -> bool {
    let info = Command::new("docker").arg("info").output();
    let answers = info.is_ok_and(|output| output.status.success());
    if !answers {
        eprintln!("skipped: no container engine answers `docker info`");
        let required = std::env::var_os("BACKPLANE_REQUIRE_CONTAINER").is_some();
        assert!(!required, "a container engine is required");
    }
    answers
}

#[test]
fn an_engine_that_does_not_answer_is_told_in_time() {
    let silent = listener(|_| {});
    let mut command = command(&["verify", "redis", "--fixture", "container", "--rule", "D1"]);
    let begin = Instant::now();
    let output = command
        .env("DOCKER_HOST", format!("tcp://{silent}"))
        .output()
        .unwrap();
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert_refused(&output, &["no container engine answers", "DOCKER_HOST"]);
}

/// The verdict of a trial in which the server was killed or frozen from outside is no verdict on the backend.
#[test]
fn a_server_that_is_broken_half_way_is_not_blamed_on_the_backend() {
    for (fixture, signal, how) in [
        ("process", Signal::SIGKILL, "SIGKILL"),
        ("proxy", Signal::SIGKILL, "SIGKILL"),
        ("process", Signal::SIGSTOP, "was frozen"),
    ] {
        let output = broken_half_way(fixture, |suite| {
            let [server] = children(suite)[..] else {
                panic!("one server is expected: {:?}", children(suite))
            };
            let pid = Pid::from_raw(i32::try_from(server).unwrap());
            kill(pid, signal).unwrap();
        });
        let (told, rest) = output;
        assert!(told.contains(how), "{told}");
        assert!(told.contains("not by this suite"), "{told}");
        assert!(!rest.contains("FAIL "), "{rest}");
    }
}

#[test]
fn a_container_that_is_killed_half_way_is_not_blamed_on_the_backend() {
    if !engine_answers() {
        return;
    }
    for (removal, reason) in [
        (&["kill"][..], "not by this suite"),
        (&["rm", "--force"], "could not"),
    ] {
        let (told, rest) = broken_half_way("container", |suite| {
            let mut list = Command::new("docker");
            list.args(["ps", "--quiet", "--filter"]);
            let name = format!("name=backplane-redis-.*-{suite}-");
            let found = list.arg(name).output().unwrap();
            let id = stdout(&found).trim().to_owned();
            assert!(!id.is_empty() && !id.contains('\n'), "{found:?}");
            let mut end = Command::new("docker");
            let ended = end.args(removal).arg(id).output().unwrap();
            assert!(ended.status.success(), "{ended:?}");
        });
        assert!(told.contains("container"), "{told}");
        assert!(told.contains(reason), "{told}");
        assert!(!rest.contains("FAIL "), "{rest}");
    }
}

/// Runs the suite on a fixture and breaks the server in the second repetition; returns the reason of the trial that
/// could not tell, and all that was printed.
fn broken_half_way(fixture: &str, break_it: impl Fn(u32)) -> (String, String) {
    let mut command = command(&[
        "verify",
        "redis",
        "--fixture",
        fixture,
        "--rule",
        "O1,B2",
        "--repeat",
        "40",
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    until_first_repetition(&mut out);
    break_it(child.id());
    let lines: Vec<String> = out.lines().map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    let all = format!("{}\n{}", lines.join("\n"), stderr(&output));
    assert!(begin.elapsed() < Duration::from_secs(120), "{all}");
    assert_eq!(output.status.code(), Some(1), "{all}");
    assert!(all.contains("NOT certified"), "{all}");
    let told = lines
        .iter()
        .skip_while(|line| !line.starts_with("INCONCLUSIVE"))
        .nth(1);
    let told = told.unwrap_or_else(|| panic!("nothing was inconclusive: {all}"));
    (told.clone(), all)
}

async fn connect(server: &RedisProcess) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Changes a setting; the connection is open as long as the result lives.
async fn configure(server: &RedisProcess, setting: &[&str]) -> redis::aio::MultiplexedConnection {
    let mut connection = connect(server).await;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg(setting);
    set.exec_async(&mut connection).await.unwrap();
    connection
}
