//! What a stranger sees of a path: that a fault of it is in force, or over.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fixtures::probe::{self, Answer};
use crate::fixtures::{Mode, Proxy};

/// How long a proof may take.
const WITHIN: Duration = Duration::from_secs(10);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// So many answers are sent as one part, and one byte at a time are so many parts at least.
const PINGS: usize = 20;
const MANY_PARTS: usize = 10;

/// Returns when a mode was seen to be in force.
///
/// # Errors
/// What was seen instead.
pub(super) async fn in_force(mode: Mode, proxy: &Proxy) -> Result<(), String> {
    let addr = proxy.addr();
    match mode {
        Mode::Refuse => {
            refused(addr).await?;
            none_open(proxy)
        }
        Mode::RefuseNew => refused(addr).await,
        Mode::Unanswered => {
            none_open(proxy)?;
            probe::never_answers(addr)
                .await
                .map_err(within("unanswered"))
        }
        Mode::Delay(least) | Mode::Jitter { least, .. } => {
            let late = |answer: Answer| answer.took >= least * 2;
            answers(addr, 1, late, "the way is not slow").await
        }
        Mode::Trickle => {
            let in_parts = |answer: Answer| answer.parts >= MANY_PARTS;
            answers(addr, PINGS, in_parts, "the way does not trickle").await
        }
        // What they do shows only in what the server does.
        _ => Ok(()),
    }
}

/// Returns when a path was seen to be as good as the direct way.
///
/// # Errors
/// What was seen instead.
pub(super) async fn over(proxy: &Proxy, server: SocketAddr) -> Result<(), String> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let seen = match probe::answer(proxy.addr(), PINGS).await {
            Err(error) => format!("the proxy does not serve: {error}"),
            Ok(answer) if answer.parts >= MANY_PARTS => "the way trickles".to_owned(),
            Ok(answer) => {
                let direct = probe::answer(server, PINGS).await?;
                if answer.took < direct.took + super::faults::SLOW.0 * 2 {
                    return Ok(());
                }
                format!("the way is slow: {:?}", answer.took)
            }
        };
        if Instant::now() >= deadline {
            return Err(seen);
        }
        sleep(PAUSE).await;
    }
}

async fn refused(addr: SocketAddr) -> Result<(), String> {
    probe::is_refused(addr).await.map_err(within("refused"))
}

fn none_open(proxy: &Proxy) -> Result<(), String> {
    match proxy.connections() {
        0 => Ok(()),
        left => Err(format!(
            "{left} connections are still open behind the proxy"
        )),
    }
}

async fn answers(
    addr: SocketAddr,
    pings: usize,
    fits: impl Fn(Answer) -> bool,
    otherwise: &str,
) -> Result<(), String> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let seen = match probe::answer(addr, pings).await {
            Ok(answer) if fits(answer) => return Ok(()),
            Ok(answer) => format!("{answer:?}"),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(format!("{otherwise}: {seen}"));
        }
        sleep(PAUSE).await;
    }
}

fn within(what: &str) -> impl FnOnce(String) -> String {
    move |seen| format!("a connection to the proxy is not {what}: {seen}")
}
