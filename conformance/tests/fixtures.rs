//! The fixtures do what they say: every fault is seen from outside, and so is its end.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::{
    io::ErrorKind,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use backplane_conformance::fixtures::{
    ClientKind, ExternalRedis, FixtureError, Mode, Moment, Proxy, RedisObserver, RedisProcess,
    Server, ServerFault, Trap,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redis::{
    AsyncCommands, AsyncConnectionConfig, Client, PushInfo, PushKind, aio::MultiplexedConnection,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{self, UnboundedReceiver},
    time::{sleep, timeout},
};

/// The longest wait for something that must happen.
const SOON: Duration = Duration::from_secs(10);

// ---------------------------------------------------------------- servers

#[tokio::test]
async fn a_process_obeys() {
    let server = RedisProcess::start().await.unwrap();
    assert_eq!(server.kind(), "process");
    obeys(&server).await;
}

#[tokio::test]
async fn a_process_returns_as_another_one_and_leaves_no_zombie() {
    let server = RedisProcess::start().await.unwrap();
    let first = server.pid().await;
    server.inject(ServerFault::Kill).await.unwrap();
    assert!(!Path::new(&format!("/proc/{first}")).exists());
    server.heal().await.unwrap();
    let second = server.pid().await;
    assert_ne!(first, second);
    drop(server);
    assert!(!Path::new(&format!("/proc/{second}")).exists());
}

#[tokio::test]
async fn a_frozen_process_ends_with_its_owner() {
    let server = RedisProcess::start().await.unwrap();
    let (pid, addr) = (server.pid().await, server.addr());
    server.inject(ServerFault::Freeze).await.unwrap();
    drop(server);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(dial(addr).await.unwrap_err(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn processes_side_by_side_do_not_meet() {
    let (a, b) = tokio::join!(RedisProcess::start(), RedisProcess::start());
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_ne!(a.addr(), b.addr());
    a.inject(ServerFault::Kill).await.unwrap();
    RedisObserver::connect(&b.url()).await.unwrap();
}

#[tokio::test]
async fn a_process_that_others_have_ended_is_told_once_and_runs_again() {
    let server = RedisProcess::start().await.unwrap();
    let theirs = || async {
        let pid = server.pid().await;
        let raw = Pid::from_raw(i32::try_from(pid).unwrap());
        kill(raw, Signal::SIGKILL).unwrap();
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Its first thread may end before the others, and the process ends with the last.
        let threads = || {
            std::fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .count()
        };
        eventually("its end", || stat().contains(") Z ") && threads() == 1).await;
    };
    theirs().await;
    let died = |error: FixtureError| {
        let text = error.to_string();
        assert!(matches!(error, FixtureError::Died { .. }), "{text}");
        assert!(text.contains("SIGKILL"), "{text}");
    };
    died(server.inject(ServerFault::Kill).await.unwrap_err());
    died(server.heal().await.unwrap_err());
    server.heal().await.unwrap();
    assert_ping(&mut dial(server.addr()).await.unwrap()).await;

    // One that we have ended is none of theirs.
    server.inject(ServerFault::Kill).await.unwrap();
    server.inject(ServerFault::Stop).await.unwrap();
    server.heal().await.unwrap();
    let pid = Pid::from_raw(i32::try_from(server.pid().await).unwrap());
    // Also while it is still about to end.
    kill(pid, Signal::SIGKILL).unwrap();
    died(server.heal().await.unwrap_err());
    server.heal().await.unwrap();
}

#[tokio::test]
async fn a_process_that_others_have_frozen_is_told_once_and_goes_on() {
    let server = RedisProcess::start().await.unwrap();
    let pid = server.pid().await;
    let raw = Pid::from_raw(i32::try_from(pid).unwrap());
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    kill(raw, Signal::SIGSTOP).unwrap();
    eventually("its stop", || stat().contains(") T ")).await;
    let frozen = |error: FixtureError| {
        let text = error.to_string();
        assert!(matches!(error, FixtureError::Died { .. }), "{text}");
        assert!(text.contains("was frozen, and not by this suite"), "{text}");
    };
    frozen(server.inject(ServerFault::Freeze).await.unwrap_err());
    frozen(server.heal().await.unwrap_err());
    server.heal().await.unwrap();
    assert_eq!(server.pid().await, pid);

    // One that we have frozen is none of theirs.
    server.inject(ServerFault::Freeze).await.unwrap();
    server.inject(ServerFault::Freeze).await.unwrap();
    server.heal().await.unwrap();
}

#[tokio::test]
async fn a_server_that_its_owner_has_restarted_is_told_once() {
    let server = RedisProcess::start().await.unwrap();
    let external = ExternalRedis::connect(&server.url()).await.unwrap();
    external.heal().await.unwrap();
    server.inject(ServerFault::Kill).await.unwrap();
    external.heal().await.unwrap_err();
    server.heal().await.unwrap();
    let error = external.heal().await.unwrap_err();
    assert!(matches!(error, FixtureError::Died { .. }), "{error}");
    external.heal().await.unwrap();
}

#[cfg(feature = "container")]
mod container {
    use backplane_conformance::fixtures::{RedisContainer, container_available};

    use super::*;

    /// Whether to go on. Without an engine the test is skipped, aloud; `BACKPLANE_REQUIRE_CONTAINER`
    /// makes that a failure.
    async fn engine_answers() -> bool {
        match container_available().await {
            Ok(()) => true,
            Err(reason) if std::env::var_os("BACKPLANE_REQUIRE_CONTAINER").is_none() => {
                eprintln!("skipped: {reason}");
                false
            }
            Err(reason) => panic!("{reason}"),
        }
    }

    #[tokio::test]
    async fn a_container_obeys() {
        if engine_answers().await {
            let server = RedisContainer::start(None).await.unwrap();
            assert_eq!(server.kind(), "container");
            obeys(&server).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_paused_container_ends_with_its_owner() {
        if engine_answers().await {
            let server = RedisContainer::start(None).await.unwrap();
            let addr = server.addr();
            server.inject(ServerFault::Freeze).await.unwrap();
            drop(server);
            assert_eq!(dial(addr).await.unwrap_err(), ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn a_container_may_outlive_its_runtime() {
        let runtime = || tokio::runtime::Runtime::new().unwrap();
        let server = runtime().block_on(async {
            if engine_answers().await {
                Some(RedisContainer::start(None).await.unwrap())
            } else {
                None
            }
        });
        if let Some(server) = server {
            let addr = server.addr();
            runtime().block_on(server.heal()).unwrap();
            drop(server);
            let dialled = runtime().block_on(dial(addr));
            assert_eq!(dialled.unwrap_err(), ErrorKind::ConnectionRefused);
        }
    }

    #[tokio::test]
    async fn a_missing_image_is_named() {
        if engine_answers().await {
            let image = "backplane-there-is-no-such-image:none";
            let error = RedisContainer::start(Some(image)).await.unwrap_err();
            assert!(
                matches!(error, FixtureError::ImageMissing { .. }),
                "{error}"
            );
            assert!(error.to_string().contains(image), "{error}");
        }
    }
}

/// What every server that supports every fault does.
async fn obeys(server: &dyn Server) {
    let addr = server.addr();
    let observer = RedisObserver::connect(&server.url()).await.unwrap();
    assert_eq!(observer.server_version().await.unwrap(), server.version());
    server.heal().await.unwrap();

    for fault in ServerFault::ALL {
        server.supports(fault).unwrap();
        server.inject(fault).await.unwrap();
        server.inject(fault).await.unwrap();
        match fault {
            ServerFault::Freeze => {
                let mut stream = dial(addr).await.unwrap();
                stream.write_all(b"PING\r\n").await.unwrap();
                assert_silent(&mut stream).await;
                server.heal().await.unwrap();
                // Late, but not lost.
                assert_reads(&mut stream, b"+PONG\r\n").await;
            }
            _ => {
                assert_eq!(dial(addr).await.unwrap_err(), ErrorKind::ConnectionRefused);
                let down = server.inject(ServerFault::Freeze).await.unwrap_err();
                assert!(matches!(down, FixtureError::Down { .. }), "{down}");
                server.heal().await.unwrap();
            }
        }
        server.heal().await.unwrap();
        observer.ping().await.unwrap();
    }

    // From one fault straight into another.
    for fault in [ServerFault::Stop, ServerFault::Kill] {
        server.inject(ServerFault::Freeze).await.unwrap();
        server.inject(fault).await.unwrap();
        assert_eq!(dial(addr).await.unwrap_err(), ErrorKind::ConnectionRefused);
        server.heal().await.unwrap();
    }
    assert_eq!(server.addr(), addr);
}

#[tokio::test]
async fn an_external_server_is_not_broken_and_its_password_not_told() {
    let server = RedisProcess::start().await.unwrap();
    let addr = server.addr();
    let client = Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let set: Result<(), _> = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "s3cr3t"])
        .query_async(&mut connection)
        .await;
    set.unwrap();

    let url = format!("redis://:s3cr3t@localhost:{}/3", addr.port());
    let external = ExternalRedis::connect(&url).await.unwrap();
    assert_eq!((external.kind(), external.addr()), ("url", addr));
    assert_eq!(
        (external.url(), external.version()),
        (url.clone(), server.version())
    );
    assert!(!format!("{external:?}").contains("s3cr3t"));
    external.heal().await.unwrap();
    for fault in ServerFault::ALL {
        assert!(external.supports(fault).unwrap_err().contains("not ours"));
        let error = external.inject(fault).await.unwrap_err();
        assert!(matches!(error, FixtureError::Unsupported { .. }), "{error}");
    }
    let observer = RedisObserver::connect(&url).await.unwrap();
    assert!(!format!("{observer:?}").contains("s3cr3t"));

    let wrong = format!("redis://:n0tth3pw@{addr}");
    let down = "redis://:n0tth3pw@127.0.0.1:1";
    for url in [wrong.as_str(), down] {
        let error = ExternalRedis::connect(url).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("127.0.0.1:") && !text.contains("n0tth3pw"),
            "{text}"
        );
    }
}

// ---------------------------------------------------------------- proxy

async fn proxied() -> (RedisProcess, Proxy, RedisObserver) {
    let server = RedisProcess::start().await.unwrap();
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let observer = RedisObserver::connect(&server.url()).await.unwrap();
    (server, proxy, observer)
}

#[tokio::test]
async fn a_proxy_passes_everything() {
    let (_server, proxy, _observer) = proxied().await;
    let (mut connection, _pushes) = resp3(proxy.addr()).await;
    for size in [0, 1, 16 * 1024, 5_000_000] {
        let value: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let _: () = connection.set("key", &value).await.unwrap();
        let back: Vec<u8> = connection.get("key").await.unwrap();
        assert!(back == value, "{size} bytes");
    }
    assert_eq!((proxy.connections(), proxy.muted()), (1, 0));
    drop(connection);
    eventually("the connection to end", || proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_proxy_refuses_and_returns_on_the_same_port() {
    let (_server, proxy, _observer) = proxied().await;
    let addr = proxy.addr();
    for _ in 0..20 {
        let mut stream = dial(addr).await.unwrap();
        assert_ping(&mut stream).await;
        proxy.set(Mode::Refuse).await.unwrap();
        assert_eq!(proxy.mode(), Mode::Refuse);
        assert_eq!(proxy.connections(), 0);
        assert_eq!(dial(addr).await.unwrap_err(), ErrorKind::ConnectionRefused);
        assert_reset(&mut stream).await;
        proxy.set(Mode::Refuse).await.unwrap();
        assert_eq!(dial(addr).await.unwrap_err(), ErrorKind::ConnectionRefused);
        proxy.set(Mode::Pass).await.unwrap();
        assert_ping(&mut dial(addr).await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_proxy_stalls_and_loses_nothing() {
    let (server, proxy, observer) = proxied().await;
    let (mut connection, mut pushes) = resp3(proxy.addr()).await;
    connection.subscribe("c").await.unwrap();
    assert_eq!(soon(pushes.recv()).await.unwrap().kind, PushKind::Subscribe);
    let mut stream = dial(proxy.addr()).await.unwrap();
    assert_ping(&mut stream).await;

    proxy.set(Mode::Stall).await.unwrap();
    // Towards the server, on an open and on a new connection.
    let mut new = dial(proxy.addr()).await.unwrap();
    for stream in [&mut stream, &mut new] {
        stream.write_all(&b"INCR n\r\n".repeat(500)).await.unwrap();
    }
    // Towards the client: more than a socket buffer holds.
    let payload = vec![b'x'; 10_000];
    for i in 0..1_000_u32 {
        let payload = [&i.to_be_bytes()[..], &payload].concat();
        assert_eq!(observer.publish(b"c", &payload).await.unwrap(), 1);
    }
    assert_silent(&mut stream).await;
    assert_silent(&mut new).await;
    assert!(pushes.try_recv().is_err());
    assert_eq!(proxy.connections(), 3);
    let mut direct = dial(server.addr()).await.unwrap();
    direct.write_all(b"EXISTS n\r\n").await.unwrap();
    assert_reads(&mut direct, b":0\r\n").await;

    proxy.set(Mode::Pass).await.unwrap();
    for i in 0..1_000_u32 {
        let message = message(&mut pushes).await;
        assert_eq!(message.len(), 10_004);
        assert_eq!(message[..4], i.to_be_bytes());
    }
    let last = async |stream: &mut TcpStream| {
        let mut all = Vec::new();
        while all.iter().filter(|byte| **byte == b'\n').count() < 500 {
            assert_ne!(soon(stream.read_buf(&mut all)).await.unwrap(), 0);
        }
        let text = String::from_utf8(all).unwrap();
        let numbers: Vec<u32> = text
            .lines()
            .map(|line| line[1..].parse().unwrap())
            .collect();
        assert!(numbers.is_sorted() && numbers.len() == 500);
        numbers[499]
    };
    let (a, b) = (last(&mut stream).await, last(&mut new).await);
    assert_eq!(a.max(b), 1_000);
}

#[tokio::test]
async fn a_stalled_proxy_holds_back_the_end_of_a_stream() {
    let (_server, proxy, observer) = proxied().await;
    let mut stream = dial(proxy.addr()).await.unwrap();
    assert_ping(&mut stream).await;
    proxy.set(Mode::Stall).await.unwrap();
    assert_eq!(observer.kill_clients(ClientKind::Normal).await.unwrap(), 1);
    assert_silent(&mut stream).await;
    proxy.set(Mode::Pass).await.unwrap();
    assert_reset(&mut stream).await;
}

#[tokio::test]
async fn a_mute_proxy_drops_messages_and_nothing_else() {
    let (_server, proxy, observer) = proxied().await;
    let (mut connection, mut pushes) = resp3(proxy.addr()).await;
    connection.subscribe("c").await.unwrap();
    connection.psubscribe("c*").await.unwrap();
    observer.publish(b"c", b"before").await.unwrap();
    assert_eq!(message(&mut pushes).await, b"before");
    assert_eq!(message(&mut pushes).await, b"before");

    proxy.set(Mode::Mute).await.unwrap();
    for _ in 0..50 {
        assert_eq!(observer.publish(b"c", b"unheard").await.unwrap(), 2);
    }
    // The server answers these after the messages, on the same connection.
    connection.subscribe("d").await.unwrap();
    connection.ping::<()>().await.unwrap();
    let mut echo = redis::cmd("ECHO");
    echo.arg(b">3\r\n$7\r\nmessage\r\n");
    let value: Vec<u8> = echo.query_async(&mut connection).await.unwrap();
    assert_eq!(value, b">3\r\n$7\r\nmessage\r\n");
    assert_eq!(proxy.muted(), 100);

    proxy.set(Mode::Pass).await.unwrap();
    observer.publish(b"d", b"after").await.unwrap();
    assert_eq!(message(&mut pushes).await, b"after");
    assert_eq!(proxy.muted(), 100);
}

#[tokio::test]
async fn muting_in_mid_stream_splits_no_frame() {
    let (_server, proxy, observer) = proxied().await;
    let (mut connection, mut pushes) = resp3(proxy.addr()).await;
    connection.subscribe("c").await.unwrap();

    const COUNT: u64 = 2_000;
    let publishing = async {
        for i in 0..COUNT {
            let payload = vec![b'\n'; 1 + (i as usize * 37) % 40_000];
            assert_eq!(observer.publish(b"c", &payload).await.unwrap(), 1);
        }
    };
    tokio::pin!(publishing);
    let mut mute = false;
    loop {
        tokio::select! {
            () = &mut publishing => break,
            () = sleep(Duration::from_micros(700)) => {
                mute = !mute;
                proxy.set(if mute { Mode::Mute } else { Mode::Pass }).await.unwrap();
                connection.ping::<()>().await.unwrap();
            }
        }
    }
    proxy.set(Mode::Pass).await.unwrap();
    observer.publish(b"c", b"last").await.unwrap();
    let mut received = 0;
    while message(&mut pushes).await != b"last" {
        received += 1;
    }
    assert_eq!(received + proxy.muted(), COUNT);
    assert!(received > 0 && proxy.muted() > 0);
}

#[tokio::test]
async fn a_proxy_delays_without_slowing_down() {
    let (_server, proxy, _observer) = proxied().await;
    let mut stream = dial(proxy.addr()).await.unwrap();
    assert_ping(&mut stream).await;
    let by = Duration::from_millis(50);
    proxy.set(Mode::Delay(by)).await.unwrap();

    let begin = Instant::now();
    // Sent 2 ms apart, so that each is a chunk of its own.
    for i in 0..40 {
        stream
            .write_all(format!("ECHO {i}\r\n").as_bytes())
            .await
            .unwrap();
        sleep(Duration::from_millis(2)).await;
    }
    let expected: String = (0..40_usize)
        .map(|i| format!("${}\r\n{i}\r\n", i.to_string().len()))
        .collect();
    assert_reads(&mut stream, expected.as_bytes()).await;
    let took = begin.elapsed();
    // One after another it would be 40 times 100 ms.
    assert!(took >= by * 2 && took < by * 40, "{took:?}");

    stream.write_all(b"PING\r\n").await.unwrap();
    proxy.set(Mode::Pass).await.unwrap();
    assert_reads(&mut stream, b"+PONG\r\n").await;
    assert_ping(&mut stream).await;
}

#[tokio::test]
async fn a_delayed_chunk_is_released_by_pass_and_held_by_stall() {
    let (_server, proxy, _observer) = proxied().await;
    let mut stream = dial(proxy.addr()).await.unwrap();
    assert_ping(&mut stream).await;
    proxy
        .set(Mode::Delay(Duration::from_secs(3600)))
        .await
        .unwrap();
    stream.write_all(b"PING\r\n").await.unwrap();
    assert_silent(&mut stream).await;
    proxy.set(Mode::Stall).await.unwrap();
    assert_silent(&mut stream).await;
    proxy.set(Mode::Pass).await.unwrap();
    assert_reads(&mut stream, b"+PONG\r\n").await;
}

#[tokio::test]
async fn a_proxy_refuses_new_connections_and_serves_the_open_ones() {
    let (_server, proxy, _observer) = proxied().await;
    for _ in 0..20 {
        let mut open = dial(proxy.addr()).await.unwrap();
        // Not accepted yet, as far as the proxy knows; it goes on as well.
        let mut opening = dial(proxy.addr()).await.unwrap();
        proxy.set(Mode::RefuseNew).await.unwrap();
        proxy.set(Mode::RefuseNew).await.unwrap();
        let refused = dial(proxy.addr()).await.unwrap_err();
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        assert_ping(&mut open).await;
        assert_ping(&mut opening).await;
        assert_eq!(proxy.connections(), 2);
        assert_eq!(proxy.cut().await, 2);
        let refused = dial(proxy.addr()).await.unwrap_err();
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        proxy.set(Mode::Pass).await.unwrap();
        assert_ping(&mut dial(proxy.addr()).await.unwrap()).await;
        eventually("the connection to end", || proxy.connections() == 0).await;
    }
}

#[tokio::test]
async fn a_proxy_accepts_and_never_answers() {
    let (_server, proxy, observer) = proxied().await;
    let mut open = dial(proxy.addr()).await.unwrap();
    assert_ping(&mut open).await;
    proxy.set(Mode::Unanswered).await.unwrap();
    assert_eq!(proxy.connections(), 0);
    assert_reset(&mut open).await;
    let mut new = dial(proxy.addr()).await.unwrap();
    new.write_all(b"INCR n\r\n").await.unwrap();
    assert_silent(&mut new).await;
    assert_eq!(observer.clients().await.unwrap(), []);
    // One that gives up is forgotten; one that does not is reset when the fault ends, and nothing of it is done.
    drop(dial(proxy.addr()).await.unwrap());
    proxy.set(Mode::Pass).await.unwrap();
    assert_reset(&mut new).await;
    let mut stream = dial(proxy.addr()).await.unwrap();
    stream.write_all(b"EXISTS n\r\n").await.unwrap();
    assert_reads(&mut stream, b":0\r\n").await;
}

#[tokio::test]
async fn jitter_varies_by_its_seed_and_keeps_the_order() {
    let server = RedisProcess::start().await.unwrap();
    let (least, most) = (Duration::from_millis(2), Duration::from_millis(30));
    for seed in [1, 2] {
        let proxy = Proxy::start_seeded(server.addr(), seed).await.unwrap();
        let mut stream = dial(proxy.addr()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        assert_ping(&mut stream).await;
        proxy.set(Mode::Jitter { least, most }).await.unwrap();
        let begin = Instant::now();
        assert_ping(&mut stream).await;
        assert!(begin.elapsed() >= least * 2);
        let mut expected = String::new();
        for i in 10..60 {
            let request = format!("ECHO {i}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            expected += &format!("$2\r\n{i}\r\n");
            // A chunk of its own, if the proxy is quick enough.
            tokio::task::yield_now().await;
        }
        assert_reads(&mut stream, expected.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_trickle_is_slow_enough_to_be_read_in_bytes_and_quick_enough_for_a_heartbeat() {
    let (_server, proxy, _observer) = proxied().await;
    let mut stream = dial(proxy.addr()).await.unwrap();
    assert_ping(&mut stream).await;
    proxy.set(Mode::Trickle).await.unwrap();
    let value = vec![b'x'; 5_000];
    let length = value.len();
    let request = [
        format!("*2\r\n$4\r\nECHO\r\n${length}\r\n").into_bytes(),
        value,
        b"\r\n".to_vec(),
    ];
    let begin = Instant::now();
    stream.write_all(&request.concat()).await.unwrap();
    let (mut read, mut parts) = (0, 0);
    let mut buffer = [0; 4096];
    while read < format!("${length}\r\n").len() + length + 2 {
        let more = soon(stream.read(&mut buffer)).await.unwrap();
        assert_ne!(more, 0);
        assert!(
            buffer[..more]
                .iter()
                .all(|byte| b"$0123456789\r\nx".contains(byte))
        );
        read += more;
        parts += 1;
    }
    let took = begin.elapsed();
    println!(
        "{} bytes/s each way",
        (length as f64 / took.as_secs_f64()) as u64
    );
    assert!(parts > 50, "{read} bytes came in only {parts} parts");
    assert!(took < SOON, "{took:?}");
    proxy.set(Mode::Pass).await.unwrap();
    assert_ping(&mut stream).await;
}

#[tokio::test]
async fn an_armed_cut_happens_before_or_after_the_server_has_done_it() {
    let (server, proxy, observer) = proxied().await;
    let (mut listener, mut pushes) = resp3(server.addr()).await;
    listener.subscribe("c").await.unwrap();
    for round in 0..10 {
        for moment in [Moment::Before, Moment::After] {
            let (mut publisher, _) = resp3(proxy.addr()).await;
            let (_idle, _) = resp3(proxy.addr()).await;
            let sprung = proxy.sprung(moment);
            proxy.arm(Trap::RedisPublish, moment);
            // Nothing else springs it.
            publisher.subscribe("d").await.unwrap();
            publisher.ping::<()>().await.unwrap();
            assert_eq!(proxy.sprung(moment), sprung);
            let text = format!("{moment:?} {round} {}", "x".repeat(100_000));
            let published: Result<u64, _> = publisher.publish("c", &text).await;
            assert!(published.is_err(), "{moment:?}");
            assert_eq!(proxy.sprung(moment), sprung + 1);
            // The others went with it, and new ones are served.
            eventually("the connections to end", || proxy.connections() == 0).await;
            let (mut again, _) = resp3(proxy.addr()).await;
            let _: u64 = again.publish("c", "end").await.unwrap();
            if moment == Moment::After {
                assert_eq!(message(&mut pushes).await, text.as_bytes());
            }
            assert_eq!(message(&mut pushes).await, b"end");
        }
    }
    for moment in [Moment::Before, Moment::After] {
        let (mut subscriber, _) = resp3(proxy.addr()).await;
        proxy.arm(Trap::RedisSubscribe, moment);
        assert!(subscriber.subscribe("e").await.is_err());
        assert_eq!(observer.subscribers(b"e").await.unwrap(), 0);
    }
    assert_eq!(
        (proxy.sprung(Moment::Before), proxy.sprung(Moment::After)),
        (11, 11)
    );
    proxy.arm(Trap::RedisPublish, Moment::Before);
    proxy.disarm();
    let (mut publisher, _) = resp3(proxy.addr()).await;
    let _: u64 = publisher.publish("c", "disarmed").await.unwrap();
}

#[tokio::test]
async fn an_armed_cut_waits_for_bytes_of_any_protocol() {
    let (server, proxy, _observer) = proxied().await;
    let mut direct = dial(server.addr()).await.unwrap();
    for (moment, expected) in [(Moment::Before, b":0\r\n"), (Moment::After, b":1\r\n")] {
        let mut stream = dial(proxy.addr()).await.unwrap();
        assert_ping(&mut stream).await;
        proxy.arm(Trap::Bytes(b"INCR n\r\n".to_vec()), moment);
        assert_ping(&mut stream).await;
        // What follows it is never done.
        stream.write_all(b"INCR n\r\nINCR n\r\n").await.unwrap();
        assert_reset(&mut stream).await;
        assert_eq!(proxy.sprung(moment), 1);
        direct.write_all(b"EXISTS n\r\n").await.unwrap();
        assert_reads(&mut direct, expected).await;
    }
    direct.write_all(b"GET n\r\n").await.unwrap();
    assert_reads(&mut direct, b"$1\r\n1\r\n").await;
    let mut stream = dial(proxy.addr()).await.unwrap();
    proxy.arm(Trap::Bytes(Vec::new()), Moment::Before);
    stream.write_all(b"?").await.unwrap();
    assert_reset(&mut stream).await;
}

#[tokio::test]
async fn a_proxy_cuts_what_is_open_and_only_that() {
    let (_server, proxy, observer) = proxied().await;
    assert_eq!(proxy.cut().await, 0);
    for mode in [
        Mode::Pass,
        Mode::Stall,
        Mode::Mute,
        Mode::Delay(Duration::from_millis(5)),
        Mode::Jitter {
            least: Duration::from_millis(1),
            most: Duration::from_millis(5),
        },
        Mode::Trickle,
    ] {
        let mut streams = Vec::new();
        for _ in 0..5 {
            let mut stream = dial(proxy.addr()).await.unwrap();
            assert_ping(&mut stream).await;
            streams.push(stream);
        }
        proxy.set(mode).await.unwrap();
        assert_eq!(proxy.connections(), 5);
        assert_eq!(proxy.cut().await, 5, "{mode}");
        assert_eq!((proxy.connections(), proxy.mode()), (0, mode));
        for stream in &mut streams {
            assert_reset(stream).await;
        }
        let begin = Instant::now();
        while !observer.clients().await.unwrap().is_empty() {
            assert!(begin.elapsed() < SOON, "the server still has clients");
        }
        dial(proxy.addr()).await.unwrap();
        proxy.set(Mode::Pass).await.unwrap();
        assert_ping(&mut dial(proxy.addr()).await.unwrap()).await;
        eventually("the connections to end", || proxy.connections() == 0).await;
    }
}

#[tokio::test]
async fn a_cut_misses_no_connection() {
    let (_server, proxy, _observer) = proxied().await;
    for _ in 0..200 {
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(dial(proxy.addr()).await.unwrap());
        }
        assert_eq!(proxy.cut().await, 5);
        for stream in &mut streams {
            assert_reset(stream).await;
        }
    }
}

#[tokio::test]
async fn a_proxy_shows_the_faults_of_its_server() {
    let (server, proxy, _observer) = proxied().await;
    let mut stream = dial(proxy.addr()).await.unwrap();
    assert_ping(&mut stream).await;
    server.inject(ServerFault::Kill).await.unwrap();
    assert_reset(&mut stream).await;
    let mut stream = dial(proxy.addr()).await.unwrap();
    assert_reset(&mut stream).await;
    eventually("the connections to end", || proxy.connections() == 0).await;
    server.heal().await.unwrap();
    assert_ping(&mut dial(proxy.addr()).await.unwrap()).await;
}

#[tokio::test]
async fn a_dropped_proxy_leaves_nothing_open() {
    let (_server, proxy, observer) = proxied().await;
    let addr = proxy.addr();
    let mut stream = dial(addr).await.unwrap();
    assert_ping(&mut stream).await;
    proxy.set(Mode::Stall).await.unwrap();
    drop(proxy);
    assert_reset(&mut stream).await;
    let begin = Instant::now();
    while dial(addr).await.is_ok() || !observer.clients().await.unwrap().is_empty() {
        assert!(begin.elapsed() < SOON);
    }
}

// ---------------------------------------------------------------- observer

#[tokio::test]
async fn an_observer_counts() {
    let server = RedisProcess::start().await.unwrap();
    let observer = RedisObserver::connect(&server.url()).await.unwrap();
    let second = RedisObserver::connect(&server.url()).await.unwrap();
    second.ping().await.unwrap();
    assert_eq!(observer.clients().await.unwrap(), []);
    assert_eq!(observer.publish(b"p[1]*:a", b"x").await.unwrap(), 0);

    let (mut one, _one) = resp3(server.addr()).await;
    let (mut two, _two) = resp3(server.addr()).await;
    let (_three, _pushes) = resp3(server.addr()).await;
    one.subscribe(&["p[1]*:a", "p[1]*:b", "p1:c"])
        .await
        .unwrap();
    one.psubscribe("p*").await.unwrap();
    two.subscribe("p[1]*:a").await.unwrap();

    assert_eq!(observer.subscribers(b"p[1]*:a").await.unwrap(), 2);
    assert_eq!(observer.subscribers(b"p1:c").await.unwrap(), 1);
    assert_eq!(observer.subscribers(b"nobody").await.unwrap(), 0);
    let channels = observer.channels(b"p[1]*").await.unwrap();
    assert_eq!(channels, [b"p[1]*:a".to_vec(), b"p[1]*:b".to_vec()]);
    assert_eq!(observer.publish(b"p[1]*:a", b"x").await.unwrap(), 3);

    let clients = observer.clients().await.unwrap();
    let counts: Vec<_> = clients
        .iter()
        .map(|client| (client.kind(), client.subscriptions, client.patterns))
        .collect();
    assert_eq!(
        counts,
        [
            (ClientKind::Pubsub, 3, 1),
            (ClientKind::Pubsub, 1, 0),
            (ClientKind::Normal, 0, 0)
        ]
    );

    assert_eq!(observer.kill_clients(ClientKind::Pubsub).await.unwrap(), 2);
    assert_eq!(observer.subscribers(b"p[1]*:a").await.unwrap(), 0);
    // The third client and the second observer, which comes back by itself.
    assert_eq!(observer.kill_clients(ClientKind::Normal).await.unwrap(), 2);
    second.ping().await.unwrap();
    assert_eq!(second.clients().await.unwrap(), []);
}

#[tokio::test]
async fn an_observer_survives_its_server() {
    let server = RedisProcess::start().await.unwrap();
    let observer = RedisObserver::connect(&server.url()).await.unwrap();
    for fault in ServerFault::ALL {
        server.inject(fault).await.unwrap();
        let begin = Instant::now();
        let error = observer.publish(b"c", b"x").await.unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(8));
        assert!(
            error.to_string().contains(&server.addr().to_string()),
            "{error}"
        );
        server.heal().await.unwrap();
        assert_eq!(observer.publish(b"c", b"x").await.unwrap(), 0);
    }
}

// ---------------------------------------------------------------- helpers

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future)
        .await
        .expect("it should have happened by now")
}

async fn dial(addr: SocketAddr) -> Result<TcpStream, ErrorKind> {
    soon(TcpStream::connect(addr))
        .await
        .map_err(|error| error.kind())
}

async fn assert_reads(stream: &mut TcpStream, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    soon(stream.read_exact(&mut read)).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&read),
        String::from_utf8_lossy(expected)
    );
}

async fn assert_ping(stream: &mut TcpStream) {
    stream.write_all(b"PING\r\n").await.unwrap();
    assert_reads(stream, b"+PONG\r\n").await;
}

async fn assert_silent(stream: &mut TcpStream) {
    let read = timeout(Duration::from_millis(100), stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

/// The connection ends, with a reset or without one.
async fn assert_reset(stream: &mut TcpStream) {
    assert!(soon(stream.read_u8()).await.is_err());
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < SOON, "waited in vain for {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

async fn resp3(addr: SocketAddr) -> (MultiplexedConnection, UnboundedReceiver<PushInfo>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let config = AsyncConnectionConfig::new()
        .set_push_sender(sender)
        .set_response_timeout(Some(SOON))
        .set_connection_timeout(Some(SOON));
    let client = Client::open(format!("redis://{addr}/?protocol=resp3")).unwrap();
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    (connection.await.unwrap(), receiver)
}

/// The payload of the next published message.
async fn message(pushes: &mut UnboundedReceiver<PushInfo>) -> Vec<u8> {
    loop {
        let push = soon(pushes.recv()).await.expect("the connection is gone");
        if matches!(push.kind, PushKind::Message | PushKind::PMessage) {
            let payload = push.data.into_iter().next_back().unwrap();
            return redis::from_redis_value(payload).unwrap();
        }
    }
}
