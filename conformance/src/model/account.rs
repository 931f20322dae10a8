//! What a run of the model comes to: [`Account`].

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// How many messages had which fate.
///
/// The first group counts publishes, the second one deliveries: a message that three subscriptions get is delivered
/// three times. The last four are what must not be: a backend that keeps the guarantee leaves them at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Account {
    /// Publishes that were begun.
    pub attempted: u64,
    /// Publishes that ended with `NotSent`.
    pub not_sent: u64,
    /// Publishes that ended with `Unknown`, or were cancelled.
    pub unknown: u64,
    /// Deliveries of messages to subscriptions, each in its place.
    pub delivered: u64,
    /// Deliveries that were owed and are missing where a gap was told.
    pub counted_lost: u64,
    /// Deliveries that were owed and are missing where no gap, or too small a one, was told. Must be 0.
    pub unreported_lost: u64,
    /// Deliveries of what was delivered before. Must be 0.
    pub duplicated: u64,
    /// Deliveries after a later message of the same publisher and channel. Must be 0.
    pub reordered: u64,
    /// Whatever else should not be: messages that were reported as not sent, of another prefix or channel, gaps that
    /// stand for nothing, subscriptions left behind, calls that do not return. Must be 0.
    pub unexpected: u64,
    /// How often each kind of fault was made.
    pub faults: BTreeMap<String, u64>,
    /// How often each kind of operation on a hub was done, with the outcome that it has when nothing is in the way.
    pub hub: BTreeMap<String, u64>,
}

/// The four things that must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// See [`Account::duplicated`].
    Duplicated,
    /// See [`Account::reordered`].
    Reordered,
    /// See [`Account::unexpected`].
    Unexpected,
    /// See [`Account::unreported_lost`].
    UnreportedLost,
}

/// Something that must not be, and was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Violation {
    /// Of what kind.
    pub class: Class,
    /// How many deliveries it is about.
    pub count: u64,
    /// What happened, with publisher, channel and number.
    pub text: String,
}

impl Violation {
    pub(crate) fn new(class: Class, count: u64, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { class, count, text }
    }
}

impl Account {
    /// Whether nothing is there that must not be.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.unreported_lost == 0
            && self.duplicated == 0
            && self.reordered == 0
            && self.unexpected == 0
    }

    /// Why the run proves nothing, if it does not: nothing was attempted, or delivered, or broken.
    #[must_use]
    pub fn vacuous(&self) -> Option<&'static str> {
        match () {
            () if self.attempted == 0 => Some("nothing was published"),
            () if self.delivered == 0 => Some("nothing was delivered"),
            () if self.faults.is_empty() => Some("no fault was made"),
            () => None,
        }
    }

    /// Adds another account to this one.
    pub fn add(&mut self, other: &Self) {
        self.attempted += other.attempted;
        self.not_sent += other.not_sent;
        self.unknown += other.unknown;
        self.delivered += other.delivered;
        self.counted_lost += other.counted_lost;
        self.unreported_lost += other.unreported_lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.unexpected += other.unexpected;
        for (fault, times) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += times;
        }
        for (operation, times) in &other.hub {
            *self.hub.entry(operation.clone()).or_default() += times;
        }
    }

    /// A fault was made.
    pub(crate) fn fault(&mut self, kind: &str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// An operation on a hub was done.
    pub(crate) fn hub_operation(&mut self, kind: &str) {
        *self.hub.entry(kind.to_owned()).or_default() += 1;
    }

    pub(crate) fn record(&mut self, violation: &Violation) {
        let count = match violation.class {
            Class::Duplicated => &mut self.duplicated,
            Class::Reordered => &mut self.reordered,
            Class::Unexpected => &mut self.unexpected,
            Class::UnreportedLost => &mut self.unreported_lost,
        };
        *count += violation.count;
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "attempted {}, delivered {}, not sent {}, unknown {}, counted lost {}, unreported lost {}, duplicated {}, \
             reordered {}, unexpected {}",
            self.attempted,
            self.delivered,
            self.not_sent,
            self.unknown,
            self.counted_lost,
            self.unreported_lost,
            self.duplicated,
            self.reordered,
            self.unexpected,
        )
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::Unexpected => "unexpected",
            Self::UnreportedLost => "unreported lost",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.class, self.count, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_that_readers_of_reports_know() {
        let json = serde_json::to_value(Account::default()).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let mut known = [
            "attempted",
            "delivered",
            "not_sent",
            "unknown",
            "counted_lost",
            "unreported_lost",
            "duplicated",
            "reordered",
            "unexpected",
            "faults",
            "hub",
        ];
        known.sort_unstable();
        let mut sorted = keys;
        sorted.sort_unstable();
        assert_eq!(sorted, known);
    }

    #[test]
    fn a_violation_counts_in_its_class_only() {
        let mut account = Account::default();
        assert!(account.is_clean());
        account.record(&Violation::new(Class::Reordered, 2, "two"));
        assert!(!account.is_clean());
        let expected = Account {
            reordered: 2,
            ..Account::default()
        };
        assert_eq!(account, expected);
        account.add(&expected);
        assert_eq!(account.reordered, 4);
    }

    #[test]
    fn an_empty_account_proves_nothing() {
        let mut account = Account::default();
        assert!(account.vacuous().is_some());
        account.attempted = 1;
        account.delivered = 1;
        assert_eq!(account.vacuous(), Some("no fault was made"));
        account.faults.insert("kill".to_owned(), 1);
        assert_eq!(account.vacuous(), None);
    }
}
