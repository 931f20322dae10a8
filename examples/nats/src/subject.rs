//! Channel names as NATS subjects.

use std::fmt::Write;

use backplane_core::driver::BrokerChannel;

/// The subject of a channel: one token below `backplane`, so that permissions for `backplane.*` cover them all.
///
/// In a subject the dot parts tokens, `*` and `>` are wildcards, and white space ends it. Here every byte that
/// is not plainly a name is written as `%` and two digits, the `%` itself included, so that no two names meet
/// (rules D5, I3 and I4). At three bytes for one the longest name has 2.7 kB; a server takes lines of 4 kB.
#[must_use]
pub fn subject(channel: &BrokerChannel) -> String {
    let mut subject = String::from("backplane.");
    for byte in channel.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_:!/".contains(byte) {
            subject.push(char::from(*byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(subject, "%{byte:02X}");
        }
    }
    subject
}

#[cfg(test)]
mod tests {
    use backplane_core::{Channel, Prefix};

    use super::*;

    fn of(prefix: &str, channel: &str) -> String {
        let (prefix, channel) = (Prefix::new(prefix).unwrap(), Channel::new(channel).unwrap());
        subject(&BrokerChannel::new(&prefix, &channel))
    }

    #[test]
    fn what_means_something_to_nats_is_escaped() {
        assert_eq!(of("app", "room:7"), "backplane.app:room:7");
        assert_eq!(of("app", "a.*.> \n"), "backplane.app:a%2E%2A%2E%3E%20%0A");
        assert_eq!(of("app", "%2E"), "backplane.app:%252E");
        assert_eq!(of("app", "é"), "backplane.app:%C3%A9");
    }

    #[test]
    fn the_longest_subject_fits_into_a_line_of_the_protocol() {
        let longest = of(&"%".repeat(Prefix::MAX_LEN), &" ".repeat(Channel::MAX_LEN));
        assert!(longest.len() < 4000, "{}", longest.len());
    }
}
