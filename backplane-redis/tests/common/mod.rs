//! A `redis-server` child process, and what the tests share.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backplane_core::{Backplane, Channel, Delivery, Prefix, Subscribe, Subscription};
use backplane_redis::{RedisBuilder, RedisNode};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than anything here takes, shorter than patience.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A server of its own on a free port. It ends with the value.
pub(crate) struct RedisServer {
    child: Child,
    pub(crate) port: u16,
    args: Vec<String>,
    dir: TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments, and waits until it is ready.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        for _ in 0..20 {
            let port = free_port();
            if let Some(child) = launch(port, &args, &dir) {
                return Self {
                    child,
                    port,
                    args,
                    dir,
                };
            }
        }
        panic!(
            "redis-server does not start; is it installed, and are its arguments right? {args:?}"
        );
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = launch(self.port, &self.args, &self.dir).expect("the port is free again");
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Runs a command as the default user and returns the answer as text.
    pub(crate) fn command(&self, command: &str) -> String {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            cmd.arg(word);
        });
        match cmd.query(&mut client.get_connection().unwrap()).unwrap() {
            redis::Value::BulkString(text) => String::from_utf8(text).unwrap(),
            other => format!("{other:?}"),
        }
    }

    /// The ids of the clients whose name has this end.
    pub(crate) fn clients(&self, name_end: &str) -> Vec<u64> {
        let field = |line: &str, name: &str| -> Option<String> {
            line.split(' ')
                .find_map(|word| word.strip_prefix(name))
                .map(str::to_owned)
        };
        self.command("CLIENT LIST")
            .lines()
            .filter(|line| field(line, "name=").is_some_and(|name| name.ends_with(name_end)))
            .map(|line| field(line, "id=").unwrap().parse().unwrap())
            .collect()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(port: u16, args: &[String], dir: &TempDir) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--port",
        ])
        .arg(port.to_string())
        .args(
            args.iter()
                .map(|arg| arg.replace("{dir}", dir.path().to_str().unwrap())),
        )
        .arg("--dir")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-server is installed");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    if lines
        .by_ref()
        .any(|line| line.is_ok_and(|line| line.contains("Ready to accept")))
    {
        // Its log must not fill the pipe.
        std::thread::spawn(move || lines.count());
        return Some(child);
    }
    child.wait().unwrap();
    None
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) fn builder(url: impl AsRef<str>) -> RedisBuilder {
    RedisBuilder::new(url).prefix(Prefix::new("shop").unwrap())
}

pub(crate) async fn connect(url: impl AsRef<str>) -> RedisNode {
    builder(url).connect().await.unwrap()
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

pub(crate) async fn subscribe(node: &RedisNode, name: &str) -> Subscription {
    node.subscribe(Subscribe::to([channel(name)]))
        .await
        .unwrap()
}

/// The next delivery, which must come.
pub(crate) async fn next(subscription: &mut Subscription) -> Delivery {
    timeout(LONG, subscription.recv())
        .await
        .expect("a delivery in time")
        .expect("an open stream")
}

/// The payload of the next delivery, which must be a message.
pub(crate) async fn message(subscription: &mut Subscription) -> Bytes {
    match next(subscription).await {
        Delivery::Message(message) => message.into_payload(),
        Delivery::Gap(gap) => panic!("a gap instead of a message: {gap}"),
    }
}
