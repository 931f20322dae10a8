//! What an error of the Redis client means: for a connection that is being opened, and for a request
//! on an open one.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use backplane_core::driver::{LinkError, LinkErrorKind, LinkPublishError};
use redis::{ErrorKind, RedisError};

use crate::config::Secret;

/// Servers may quote at length.
const MAX_QUOTE_LEN: usize = 200;

/// Why a connection could not be opened. Names the address; never the password, which some servers
/// quote.
pub(crate) fn on_connect(
    endpoint: &str,
    password: Option<&Secret>,
    error: &RedisError,
) -> LinkError {
    use LinkErrorKind::{Incompatible, Lost, Timeout, Unauthorized, Unreachable};
    let (kind, told) = match error.kind() {
        ErrorKind::RESP3NotSupported => (Incompatible, no_resp3(endpoint)),
        ErrorKind::Server(_) | ErrorKind::Extension => match refusal_on_connect(error) {
            Incompatible => (Incompatible, no_resp3(endpoint)),
            kind => (kind, format!("{endpoint} says: {}", quote(error, password))),
        },
        ErrorKind::AuthenticationFailed => (Unauthorized, format!("{endpoint} says no")),
        ErrorKind::Parse => (
            Incompatible,
            format!("{endpoint} does not speak the Redis protocol"),
        ),
        // A certificate of the system's store that cannot be used.
        ErrorKind::Client => (Incompatible, format!("no TLS with {endpoint}: {error}")),
        ErrorKind::Io if is_invalid_data(error) => {
            (Incompatible, format!("no TLS with {endpoint}: {error}"))
        }
        ErrorKind::Io if error.is_timeout() => (Timeout, format!("no answer from {endpoint}")),
        ErrorKind::Io if error.is_connection_dropped() && !error.is_connection_refusal() => {
            let told = format!(
                "{endpoint} closed the connection before it was ready (one side may expect TLS and \
                 the other not)"
            );
            (Lost, told)
        }
        // Nobody listens, a name that does not resolve, no route, no permission.
        _ => (Unreachable, format!("no connection to {endpoint}: {error}")),
    };
    LinkError::new(kind, told)
}

/// Why a request on an open connection failed: `Refused` when the server says so, and otherwise the
/// connection is lost.
pub(crate) fn on_request(endpoint: &str, request: &str, error: &RedisError) -> LinkError {
    if is_reply(error) {
        let quote = quote(error, None);
        LinkError::new(
            LinkErrorKind::Refused,
            format!("{endpoint} refused {request}: {quote}"),
        )
    } else {
        lost(format_args!(
            "the connection to {endpoint} broke during {request}: {error}"
        ))
    }
}

/// Why a message was not published.
///
/// Only an error reply that Redis gives before it runs a command proves that the message will not be
/// delivered. A reply that is not among those may come from a proxy that had passed the message on.
pub(crate) fn on_publish(endpoint: &str, error: &RedisError) -> LinkPublishError {
    let link_error = on_request(endpoint, "PUBLISH", error);
    if proves_rejection(error) {
        LinkPublishError::NotSent(link_error)
    } else {
        LinkPublishError::Unknown(link_error)
    }
}

pub(crate) fn lost(how: impl fmt::Display) -> LinkError {
    LinkError::new(LinkErrorKind::Lost, how)
}

/// Whether the server answered, and the answer is an error.
pub(crate) fn is_reply(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

fn refusal_on_connect(error: &RedisError) -> LinkErrorKind {
    let detail = error.detail().unwrap_or_default();
    match error.code() {
        Some("NOPROTO") => LinkErrorKind::Incompatible,
        Some("WRONGPASS" | "NOAUTH") => LinkErrorKind::Unauthorized,
        Some("ERR") if is_unknown_command(error) => LinkErrorKind::Incompatible,
        Some("ERR") if detail.contains("invalid password") || detail.contains("AUTH") => {
            LinkErrorKind::Unauthorized
        }
        _ => LinkErrorKind::Refused,
    }
}

fn proves_rejection(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    match error.code() {
        Some("ERR") => [
            "unknown command",
            "wrong number of arguments",
            "Protocol error",
            "Can't execute",
            "Only HELLO messages are accepted by Sentinel",
        ]
        .iter()
        .any(|start| detail.starts_with(start)),
        Some(
            "ASK" | "BUSY" | "CLUSTERDOWN" | "CROSSSLOT" | "DENIED" | "LOADING" | "MASTERDOWN"
            | "MISCONF" | "MOVED" | "NOAUTH" | "NOPERM" | "NOREPLICAS" | "OOM" | "READONLY"
            | "TRYAGAIN",
        ) => is_reply(error),
        _ => false,
    }
}

fn no_resp3(endpoint: &str) -> String {
    format!("{endpoint} does not speak RESP3; Redis 6 or later is required")
}

fn is_unknown_command(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.starts_with("unknown command"))
}

/// The server's words, without what they may repeat of ours: the arguments of a command that it does not
/// know, and the password.
fn quote(error: &RedisError, password: Option<&Secret>) -> String {
    let code = error.code().unwrap_or("ERR");
    if is_unknown_command(error) {
        return format!("{code} unknown command");
    }
    let mut text = format!("{code} {}", error.detail().unwrap_or_default());
    if let Some(password) = password.map(Secret::expose).filter(|p| !p.is_empty()) {
        text = text.replace(password, "***");
    }
    match text.char_indices().nth(MAX_QUOTE_LEN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Whether the bytes that came are not what was expected: so rustls reports its errors.
fn is_invalid_data(error: &RedisError) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>())
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "redis://h:6379";

    fn reply(line: &str) -> RedisError {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes())
            .unwrap()
            .extract_error()
            .unwrap_err()
    }

    fn broken(kind: io::ErrorKind) -> RedisError {
        io::Error::from(kind).into()
    }

    #[test]
    fn an_error_on_connecting_gets_the_kind_that_fits_and_names_the_address() {
        use LinkErrorKind::{Incompatible, Lost, Refused, Timeout, Unauthorized, Unreachable};
        let password = Secret::new("s3cr3t");
        for (error, kind) in [
            (
                reply("WRONGPASS invalid username-password pair or user is disabled."),
                Unauthorized,
            ),
            (
                reply("NOAUTH HELLO must be called with the client already authenticated"),
                Unauthorized,
            ),
            (reply("ERR invalid password"), Unauthorized),
            (reply("NOPROTO unsupported protocol version"), Incompatible),
            (
                reply("ERR unknown command 'HELLO', with args beginning with: '3' 's3cr"),
                Incompatible,
            ),
            (
                reply("ERR unknown command `hello`, with args `s3cr3t`"),
                Incompatible,
            ),
            (reply("ERR max number of clients reached"), Refused),
            (
                reply("DENIED Redis is running in protected mode because s3cr3t"),
                Refused,
            ),
            (
                reply("LOADING Redis is loading the dataset in memory"),
                Refused,
            ),
            (
                reply("NOPERM User alice has no permissions to run the 'select' command"),
                Refused,
            ),
            (reply("ERR DB index is out of range"), Refused),
            (broken(io::ErrorKind::ConnectionRefused), Unreachable),
            (broken(io::ErrorKind::NotFound), Unreachable),
            (broken(io::ErrorKind::HostUnreachable), Unreachable),
            (broken(io::ErrorKind::PermissionDenied), Unreachable),
            (
                io::Error::other("failed to lookup address information").into(),
                Unreachable,
            ),
            (broken(io::ErrorKind::TimedOut), Timeout),
            (broken(io::ErrorKind::ConnectionReset), Lost),
            (broken(io::ErrorKind::UnexpectedEof), Lost),
            (broken(io::ErrorKind::InvalidData), Incompatible),
            (
                redis::parse_redis_value(b"HTTP/1.1 400\r\n").unwrap_err(),
                Incompatible,
            ),
            ((ErrorKind::RESP3NotSupported, "no").into(), Incompatible),
        ] {
            let found = on_connect(AT, Some(&password), &error);
            let text = found.to_string();
            assert_eq!(found.kind(), kind, "{text}");
            assert!(text.contains(AT), "{text}");
            assert!(!text.contains("s3cr"), "{text}");
        }
    }

    #[test]
    fn only_a_reply_that_precedes_the_command_proves_that_nothing_was_sent() {
        let is_certain = |error: &RedisError| match on_publish(AT, error) {
            LinkPublishError::NotSent(error) => {
                assert_eq!(error.kind(), LinkErrorKind::Refused, "{error}");
                true
            }
            LinkPublishError::Unknown(_) => false,
        };
        for line in [
            "NOPERM this user has no permissions to access one of the channels used as arguments",
            "NOAUTH Authentication required.",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "MISCONF Redis is configured to save RDB snapshots",
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "ERR unknown command 'PUBLISH'",
            "ERR Protocol error: invalid bulk length",
        ] {
            assert!(is_certain(&reply(line)), "{line}");
        }
        for line in [
            "ERR upstream timed out",
            "upstream failure",
            "ERR",
            "UNKNOWN code",
        ] {
            assert!(!is_certain(&reply(line)), "{line}");
        }
        for kind in [
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::TimedOut,
            io::ErrorKind::UnexpectedEof,
        ] {
            let error = on_publish(AT, &broken(kind));
            let lost = |e: &LinkError| e.kind() == LinkErrorKind::Lost;
            assert!(
                matches!(&error, LinkPublishError::Unknown(e) if lost(e)),
                "{error:?}"
            );
        }
    }

    #[test]
    fn what_a_server_quotes_is_cut_and_holds_no_payload() {
        let unknown =
            reply("ERR unknown command 'PUBLISH', with args beginning with: 'c' 'payload'");
        assert!(
            !on_request(AT, "PUBLISH", &unknown)
                .to_string()
                .contains("payload")
        );
        let long = on_request(
            AT,
            "PUBLISH",
            &reply(&format!("NOPERM {}", "ä".repeat(9999))),
        );
        assert!(long.to_string().chars().count() < 300);
    }
}
