//! One option of a node, as a URL or a builder sets it: [`Setting`].

use std::time::Duration;

use backplane_core::{NodeOptions, Prefix, Requirement};

use crate::error::ConfigError;

/// One option of [`NodeOptions`] and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Prefix(Prefix),
    ConnectTimeout(Duration),
    PublishTimeout(Duration),
    SubscribeTimeout(Duration),
    HeartbeatInterval(Duration),
    HeartbeatTimeout(Duration),
    BackoffInitial(Duration),
    BackoffMax(Duration),
    QueueCapacity(usize),
    QueueBytes(usize),
    MaxPayload(usize),
    MaxPending(usize),
    MaxPendingBytes(usize),
    MaxBatchMessages(usize),
    MaxBatchBytes(usize),
    SubscribeBatch(usize),
    /// Only a program says what it depends on; a URL does not.
    Require(Requirement),
}

impl Setting {
    /// Reads a URL option; `None` when no option of a node has this name.
    pub(crate) fn parse(name: &str, value: &str) -> Option<Result<Self, ConfigError>> {
        let duration = |name, make: fn(Duration) -> Self| duration(name, value).map(make);
        let count = |name, make: fn(usize) -> Self| count(name, value).map(make);
        Some(match name {
            "prefix" => Prefix::new(value)
                .map(Self::Prefix)
                .map_err(ConfigError::InvalidPrefix),
            "connect_timeout" => duration("connect_timeout", Self::ConnectTimeout),
            "publish_timeout" => duration("publish_timeout", Self::PublishTimeout),
            "subscribe_timeout" => duration("subscribe_timeout", Self::SubscribeTimeout),
            "heartbeat_interval" => duration("heartbeat_interval", Self::HeartbeatInterval),
            "heartbeat_timeout" => duration("heartbeat_timeout", Self::HeartbeatTimeout),
            "backoff_initial" => duration("backoff_initial", Self::BackoffInitial),
            "backoff_max" => duration("backoff_max", Self::BackoffMax),
            "queue_capacity" => count("queue_capacity", Self::QueueCapacity),
            "queue_bytes" => count("queue_bytes", Self::QueueBytes),
            "max_payload" => count("max_payload", Self::MaxPayload),
            "max_pending" => count("max_pending", Self::MaxPending),
            "max_pending_bytes" => count("max_pending_bytes", Self::MaxPendingBytes),
            "max_batch_messages" => count("max_batch_messages", Self::MaxBatchMessages),
            "max_batch_bytes" => count("max_batch_bytes", Self::MaxBatchBytes),
            "subscribe_batch" => count("subscribe_batch", Self::SubscribeBatch),
            _ => return None,
        })
    }

    pub(crate) fn apply(self, options: NodeOptions) -> NodeOptions {
        match self {
            Self::Prefix(prefix) => options.prefix(prefix),
            Self::ConnectTimeout(timeout) => options.connect_timeout(timeout),
            Self::PublishTimeout(timeout) => options.publish_timeout(timeout),
            Self::SubscribeTimeout(timeout) => options.subscribe_timeout(timeout),
            Self::HeartbeatInterval(interval) => options.heartbeat_interval(interval),
            Self::HeartbeatTimeout(timeout) => options.heartbeat_timeout(timeout),
            Self::BackoffInitial(pause) => options.backoff_initial(pause),
            Self::BackoffMax(pause) => options.backoff_max(pause),
            Self::QueueCapacity(messages) => options.queue_capacity(messages),
            Self::QueueBytes(bytes) => options.queue_bytes(bytes),
            Self::MaxPayload(bytes) => options.max_payload(bytes),
            Self::MaxPending(messages) => options.max_pending(messages),
            Self::MaxPendingBytes(bytes) => options.max_pending_bytes(bytes),
            Self::MaxBatchMessages(messages) => options.max_batch_messages(messages),
            Self::MaxBatchBytes(bytes) => options.max_batch_bytes(bytes),
            Self::SubscribeBatch(channels) => options.subscribe_batch(channels),
            Self::Require(requirement) => options.require(requirement),
        }
    }
}

/// A duration such as `250ms`, `2s` or `1m`.
fn duration(name: &'static str, value: &str) -> Result<Duration, ConfigError> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let milliseconds_each: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(not_a_duration(name)),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds_each))
        .map(Duration::from_millis)
        .ok_or_else(|| not_a_duration(name))
}

const fn not_a_duration(name: &'static str) -> ConfigError {
    ConfigError::InvalidValue {
        name,
        problem: "is no duration such as 250ms, 2s or 1m",
    }
}

fn count(name: &'static str, value: &str) -> Result<usize, ConfigError> {
    value
        .bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| value.parse().ok())
        .flatten()
        .ok_or(ConfigError::InvalidValue {
            name,
            problem: "is no whole number",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<Setting, String> {
        Setting::parse(name, value)
            .expect("a known option")
            .map_err(|e| e.to_string())
    }

    #[test]
    fn durations_have_a_number_and_a_unit() {
        let timeout = |value| parse("connect_timeout", value);
        assert_eq!(
            timeout("250ms"),
            Ok(Setting::ConnectTimeout(Duration::from_millis(250)))
        );
        assert_eq!(
            timeout("2s"),
            Ok(Setting::ConnectTimeout(Duration::from_secs(2)))
        );
        assert_eq!(
            timeout("1m"),
            Ok(Setting::ConnectTimeout(Duration::from_secs(60)))
        );
        for wrong in [
            "",
            "2",
            "s",
            "2 s",
            "2.5s",
            "-2s",
            "2S",
            "2h",
            "99999999999999999999s",
            "ä",
        ] {
            assert_eq!(
                timeout(wrong),
                Err("option connect_timeout: is no duration such as 250ms, 2s or 1m".to_owned()),
                "{wrong}"
            );
        }
        assert!(timeout(&format!("{}m", u64::MAX)).is_err());
    }

    #[test]
    fn counts_are_whole_numbers() {
        assert_eq!(
            parse("max_payload", "65536"),
            Ok(Setting::MaxPayload(65_536))
        );
        for wrong in ["", "+1", "-1", "1k", "1.5", "99999999999999999999999"] {
            assert_eq!(
                parse("max_payload", wrong),
                Err("option max_payload: is no whole number".to_owned()),
                "{wrong}"
            );
        }
    }

    #[test]
    fn every_option_of_a_node_sets_the_option_of_its_name() {
        let base = || NodeOptions::new(Prefix::unprefixed());
        let second = Duration::from_secs(1);
        let apply = |name, value| parse(name, value).unwrap().apply(base());
        let prefix = Prefix::new("shop").unwrap();
        assert_eq!(apply("prefix", "shop"), base().prefix(prefix));
        assert_eq!(
            apply("connect_timeout", "1s"),
            base().connect_timeout(second)
        );
        assert_eq!(
            apply("publish_timeout", "1s"),
            base().publish_timeout(second)
        );
        assert_eq!(
            apply("subscribe_timeout", "1s"),
            base().subscribe_timeout(second)
        );
        assert_eq!(
            apply("heartbeat_interval", "1s"),
            base().heartbeat_interval(second)
        );
        assert_eq!(
            apply("heartbeat_timeout", "1s"),
            base().heartbeat_timeout(second)
        );
        assert_eq!(
            apply("backoff_initial", "1s"),
            base().backoff_initial(second)
        );
        assert_eq!(apply("backoff_max", "1s"), base().backoff_max(second));
        assert_eq!(apply("queue_capacity", "7"), base().queue_capacity(7));
        assert_eq!(apply("queue_bytes", "7"), base().queue_bytes(7));
        assert_eq!(apply("max_payload", "7"), base().max_payload(7));
        assert_eq!(apply("max_pending", "7"), base().max_pending(7));
        assert_eq!(apply("max_pending_bytes", "7"), base().max_pending_bytes(7));
        assert_eq!(
            apply("max_batch_messages", "7"),
            base().max_batch_messages(7)
        );
        assert_eq!(apply("max_batch_bytes", "7"), base().max_batch_bytes(7));
        assert_eq!(apply("subscribe_batch", "7"), base().subscribe_batch(7));
    }

    #[test]
    fn an_empty_prefix_in_a_url_is_refused() {
        assert_eq!(
            parse("prefix", ""),
            Err("option prefix: a prefix must not be empty".to_owned())
        );
        assert!(Setting::parse("prefixx", "a").is_none());
    }
}
