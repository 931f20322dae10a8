//! The program: two processes and a Redis are one chat.
#![allow(clippy::expect_used, clippy::unwrap_used)] // clippy knows tests only by their attribute

mod common;

use std::net::SocketAddr;
use std::process::Stdio;

use backplane_conformance::fixtures::{Server as _, ServerFault};
use common::{Client, all, outcome, redis, room, soon};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// A process of the program. It ends with the value.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    async fn start(backend: &[&str]) -> Self {
        let mut child = program()
            .args(["--listen", "127.0.0.1:0"])
            .args(backend)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = soon("the address", lines.next_line()).await.unwrap();
        let line = line.expect("the program runs");
        let address = line.strip_prefix("open http://").unwrap().parse().unwrap();
        // The pipe stays open for what it says at its end.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address }
    }

    /// Waits until it has ended by this signal, in its own good time.
    async fn end_by(mut self, signal: Signal) {
        let id = self.child.id().expect("it runs");
        kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
        let status = soon("the end of the process", self.child.wait()).await;
        assert!(status.unwrap().success());
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_backplane-example-chat"))
}

#[tokio::test]
async fn two_processes_and_a_redis_are_one_chat_through_an_outage_and_a_crash() {
    let redis = redis().await;
    let url = redis.url();
    let here = Process::start(&["--redis", &url]).await;
    let mut there = Process::start(&["--redis", &url]).await;
    let mut ann = Client::enter(here.address, "ann").await;
    let mut bob = Client::enter(there.address, "bob").await;
    bob.join("tea").await;
    assert_eq!(ann.say(room("tea"), "hi").await, outcome(0, "accepted"));
    assert_eq!(bob.hears().await, "ann: hi");
    assert_eq!(bob.say(all(), "hello").await, outcome(0, "accepted"));
    assert_eq!(ann.hears().await, "bob: hello");

    redis.inject(ServerFault::Kill).await.unwrap();
    assert_eq!(ann.told("backplane").await["up"], false);
    assert_eq!(ann.say(all(), "lost").await, outcome(0, "not_sent"));
    redis.heal().await.unwrap();
    for client in [&mut ann, &mut bob] {
        while client.told("backplane").await["up"] != true {}
        client.told("gap").await;
    }
    assert_eq!(ann.say(room("tea"), "back").await, outcome(0, "accepted"));
    assert_eq!(bob.hears().await, "ann: back");

    // One crashes; the other goes on.
    there.child.kill().await.unwrap();
    assert_eq!(bob.end().await.1, None);
    assert_eq!(ann.say(all(), "alone").await, outcome(0, "accepted"));
}

#[tokio::test]
async fn a_process_that_is_asked_to_end_says_goodbye() {
    // At the terminal, and by a service manager.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let process = Process::start(&["--memory"]).await;
        let ann = Client::enter(process.address, "ann").await;
        let (closed, ()) = tokio::join!(ann.end(), process.end_by(signal));
        assert_eq!(closed.1, Some(CloseCode::Away), "{signal}");
    }
}

#[tokio::test]
async fn a_process_without_redis_is_a_chat_by_itself() {
    let alone = Process::start(&["--memory"]).await;
    let mut ann = Client::enter(alone.address, "ann").await;
    let mut bob = Client::enter(alone.address, "bob").await;
    assert_eq!(ann.say(all(), "hi").await, outcome(1, "accepted"));
    assert_eq!(bob.hears().await, "ann: hi");
}

#[tokio::test]
async fn a_program_that_is_not_told_its_backend_says_so() {
    for arguments in [&[][..], &["--memory", "--redis", "redis://localhost"]] {
        let output = soon("the end", program().args(arguments).output()).await;
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("--redis") && text.contains("--memory"),
            "{text}"
        );
    }
}
