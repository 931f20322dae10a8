//! How a node behaves: [`NodeOptions`].

use std::time::Duration;

use crate::capability::{Capabilities, Requirement};
use crate::error::InvalidOption;
use crate::name::Prefix;

/// How a node behaves, whatever its backend. Checked by the constructor that takes it.
///
/// # Batching
/// Messages of one channel that are published while one is on its way to the broker leave together, in one frame, when
/// the broker has answered. With them leaves what those who are answered publish in that moment, which lasts as long as a
/// pass of the runtime over its tasks, and a millisecond where each pass brings more of them.
/// [`max_batch_messages`](Self::max_batch_messages()) and [`max_batch_bytes`](Self::max_batch_bytes()) bound the frame. There
/// is no timer, and an idle publish leaves at once. The window of a channel is one frame, and not an option: with a second
/// one on its way, a message that the broker refuses would be overtaken, and could not be told from one that was lost (rules
/// O1 and L7). What a longer window would win, larger frames win. Channels do not wait for each other.
///
/// Each method sets the field of its name; a backend that implements [`Backplane`](crate::Backplane) itself
/// reads the fields.
///
/// ```
/// use std::time::Duration;
/// use backplane_core::{NodeOptions, Prefix};
///
/// let options = NodeOptions::new(Prefix::new("shop")?)
///     .heartbeat_interval(Duration::from_millis(500))
///     .queue_capacity(10_000);
/// assert!(options.validate().is_ok());
/// # Ok::<(), backplane_core::InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeOptions {
    /// See [`prefix`](Self::prefix()).
    pub prefix: Prefix,
    /// See [`connect_timeout`](Self::connect_timeout()).
    pub connect_timeout: Duration,
    /// See [`publish_timeout`](Self::publish_timeout()).
    pub publish_timeout: Duration,
    /// See [`subscribe_timeout`](Self::subscribe_timeout()).
    pub subscribe_timeout: Duration,
    /// See [`heartbeat_interval`](Self::heartbeat_interval()).
    pub heartbeat_interval: Duration,
    /// See [`heartbeat_timeout`](Self::heartbeat_timeout()).
    pub heartbeat_timeout: Duration,
    /// See [`backoff_initial`](Self::backoff_initial()).
    pub backoff_initial: Duration,
    /// See [`backoff_max`](Self::backoff_max()).
    pub backoff_max: Duration,
    /// See [`queue_capacity`](Self::queue_capacity()).
    pub queue_capacity: usize,
    /// See [`queue_bytes`](Self::queue_bytes()).
    pub queue_bytes: usize,
    /// See [`max_payload`](Self::max_payload()).
    pub max_payload: Option<usize>,
    /// See [`max_pending`](Self::max_pending()).
    pub max_pending: usize,
    /// See [`max_pending_bytes`](Self::max_pending_bytes()).
    pub max_pending_bytes: usize,
    /// See [`max_batch_messages`](Self::max_batch_messages()).
    pub max_batch_messages: usize,
    /// See [`max_batch_bytes`](Self::max_batch_bytes()).
    pub max_batch_bytes: usize,
    /// See [`subscribe_batch`](Self::subscribe_batch()).
    pub subscribe_batch: usize,
    /// See [`require`](Self::require()).
    pub requirements: Vec<Requirement>,
}

impl NodeOptions {
    /// The defaults, for this prefix.
    #[must_use]
    pub const fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            connect_timeout: Duration::from_secs(2),
            publish_timeout: Duration::from_secs(2),
            subscribe_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(2),
            heartbeat_timeout: Duration::from_secs(2),
            backoff_initial: Duration::from_millis(50),
            backoff_max: Duration::from_millis(500),
            queue_capacity: 4096,
            queue_bytes: 64 << 20,
            max_payload: None,
            max_pending: 65_536,
            max_pending_bytes: 64 << 20,
            max_batch_messages: 512,
            max_batch_bytes: 256 * 1024,
            subscribe_batch: 1024,
            requirements: Vec::new(),
        }
    }

    /// The namespace that the node shares with the others of its deployment.
    #[must_use]
    pub fn prefix(mut self, prefix: Prefix) -> Self {
        self.prefix = prefix;
        self
    }

    /// How long one try to attach may take, until the connection is ready. Default 2 s.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the broker may take to accept a message. After it the outcome is
    /// [`Unknown`](crate::Unknown), and the broker counts as gone. A message that has waited so long for
    /// its turn behind others fails with [`NotSent::Overloaded`](crate::NotSent::Overloaded), so a publish
    /// ends within twice this time (rules L1 and B5). Default 2 s.
    #[must_use]
    pub const fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = timeout;
        self
    }

    /// How long a subscribe may wait for the broker's confirmation. Default 5 s.
    #[must_use]
    pub const fn subscribe_timeout(mut self, timeout: Duration) -> Self {
        self.subscribe_timeout = timeout;
        self
    }

    /// How often a probe is sent through the broker and back. A frozen or mute broker is
    /// noticed within this interval plus the [timeout](Self::heartbeat_timeout) (rules L6 and L7).
    /// Default 2 s.
    #[must_use]
    pub const fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// How long a probe may take. Default 2 s.
    #[must_use]
    pub const fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat_timeout = timeout;
        self
    }

    /// The pause after the first failed try to attach. It doubles with each further failure, up to
    /// [`backoff_max`](Self::backoff_max), and is shortened by up to half at random. Default 50 ms.
    #[must_use]
    pub const fn backoff_initial(mut self, pause: Duration) -> Self {
        self.backoff_initial = pause;
        self
    }

    /// The longest pause between two tries to attach. Default 500 ms.
    #[must_use]
    pub const fn backoff_max(mut self, pause: Duration) -> Self {
        self.backoff_max = pause;
        self
    }

    /// How many messages a subscription's queue holds, unless the subscription
    /// [says otherwise](crate::Subscribe::capacity). At least 1. Default 4096.
    #[must_use]
    pub const fn queue_capacity(mut self, messages: usize) -> Self {
        self.queue_capacity = messages;
        self
    }

    /// How many bytes of payload a subscription's queue holds, unless the subscription
    /// [says otherwise](crate::Subscribe::max_bytes); a single message may have more. What does not fit is
    /// counted into the same gap as what exceeds the [capacity](Self::queue_capacity) (rules B2 and B3).
    ///
    /// Default 64 MiB. That is 16 KiB for each message of a full queue of the default capacity, so the capacity is
    /// what ordinary messages meet first; it is there for the large ones, of which 4096 would take 4 GiB.
    #[must_use]
    pub const fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Lowers the largest payload, in bytes. Default, and upper bound: what the backend allows.
    #[must_use]
    pub const fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = Some(bytes);
        self
    }

    /// How many publishes may be under way or wait for their turn, over all channels; one more fails at once
    /// with [`NotSent::Overloaded`](crate::NotSent::Overloaded) (rule B5). At least 1. Default 65 536. A single publish that
    /// is done without waiting, as those of the memory backend are, takes no room; a call with many takes it first.
    #[must_use]
    pub const fn max_pending(mut self, messages: usize) -> Self {
        self.max_pending = messages;
        self
    }

    /// How many payload bytes may be under way or wait for their turn, over all channels; a publish beyond that
    /// fails at once with [`NotSent::Overloaded`](crate::NotSent::Overloaded), unless it is the only one (rule B5).
    /// Default 64 MiB.
    #[must_use]
    pub const fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.max_pending_bytes = bytes;
        self
    }

    /// How many messages to one channel may leave in one frame. At least 1. Default 512.
    #[must_use]
    pub const fn max_batch_messages(mut self, messages: usize) -> Self {
        self.max_batch_messages = messages;
        self
    }

    /// How many payload bytes may leave in one frame of several messages; a larger message leaves alone.
    /// At most what the largest payload may have. Default 256 KiB.
    #[must_use]
    pub const fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// How many channels are subscribed or unsubscribed in one request to the broker (rule S5). At least
    /// 1. Default 1024.
    #[must_use]
    pub const fn subscribe_batch(mut self, channels: usize) -> Self {
        self.subscribe_batch = channels;
        self
    }

    /// States what the application depends on. May be called several times; all of it must be met.
    ///
    /// A backend that does not declare it refuses to make the node, before it connects: the eager constructor with
    /// [`Unsupported`](crate::ConnectErrorKind::Unsupported), the lazy one with an [`InvalidOption`] called
    /// `require`. Default: nothing beyond the rules that bind all.
    ///
    /// ```
    /// use backplane_core::{ConnectErrorKind, NodeOptions, Order, Prefix, Requirement};
    /// use backplane_memory::MemoryBus;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = NodeOptions::new(Prefix::new("shop")?).require(Requirement::Order(Order::Total));
    /// let bus = MemoryBus::new();
    /// bus.connect(options.clone()).await?;
    ///
    /// // The memory bus keeps nothing for later, so who depends on that had better know at once.
    /// let refused = bus.connect(options.require(Requirement::Replay)).await;
    /// assert_eq!(refused.unwrap_err().kind(), ConnectErrorKind::Unsupported);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn require(mut self, requirement: Requirement) -> Self {
        self.requirements.push(requirement);
        self
    }

    /// Checks the values, and the [requirements](Self::require()) against what a backend declares. The
    /// constructors of a node do it before they connect; a backend that implements
    /// [`Backplane`](crate::Backplane) itself has to.
    ///
    /// # Errors
    /// [`InvalidOption`] names the first option with an impossible value, or the first requirement that is not
    /// met.
    pub fn validate_for(&self, capabilities: &Capabilities) -> Result<(), InvalidOption> {
        self.validate()?;
        let offered = self.lowered(*capabilities);
        let unmet = self.requirements.iter().find(|r| !r.is_met_by(&offered));
        match unmet {
            Some(requirement) => Err(InvalidOption {
                name: InvalidOption::REQUIRE,
                problem: format!("the backend does not promise {requirement}"),
            }),
            None => Ok(()),
        }
    }

    /// What a backend with these capabilities promises to a node with these options.
    pub(crate) fn lowered(&self, mut capabilities: Capabilities) -> Capabilities {
        if let Some(limit) = self.max_payload {
            capabilities.max_payload = capabilities.max_payload.min(limit);
        }
        capabilities
    }

    /// Checks the values. The constructors of a node do it too.
    ///
    /// # Errors
    /// [`InvalidOption`] names the first option with an impossible value.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        let day = Duration::from_secs(24 * 60 * 60);
        for (name, value) in [
            ("connect_timeout", self.connect_timeout),
            ("publish_timeout", self.publish_timeout),
            ("subscribe_timeout", self.subscribe_timeout),
            ("heartbeat_interval", self.heartbeat_interval),
            ("heartbeat_timeout", self.heartbeat_timeout),
            ("backoff_initial", self.backoff_initial),
            ("backoff_max", self.backoff_max),
        ] {
            if value < Duration::from_millis(1) || value > day {
                let problem = format!("{value:?} is not between 1 ms and 24 h");
                return Err(InvalidOption { name, problem });
            }
        }
        for (name, value) in [
            ("queue_capacity", self.queue_capacity),
            ("max_pending", self.max_pending),
            ("max_batch_messages", self.max_batch_messages),
            ("subscribe_batch", self.subscribe_batch),
        ] {
            if value == 0 {
                return Err(InvalidOption {
                    name,
                    problem: "must be at least 1".to_owned(),
                });
            }
        }
        if self.backoff_initial > self.backoff_max {
            let problem = format!(
                "{:?} is more than backoff_max, {:?}",
                self.backoff_initial, self.backoff_max
            );
            return Err(InvalidOption {
                name: "backoff_initial",
                problem,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Order;

    #[test]
    fn requirements_are_met_or_refused_by_name() {
        let options = || NodeOptions::new(Prefix::unprefixed());
        let mut offered = Capabilities::new();
        offered.order = Order::Publisher;
        offered.max_payload = 1000;
        for met in [
            Requirement::Order(Order::Channel),
            Requirement::Order(Order::Publisher),
            Requirement::CountsLoss,
            Requirement::MaxPayload(1000),
        ] {
            assert_eq!(options().require(met).validate_for(&offered), Ok(()));
        }
        for unmet in [
            Requirement::Order(Order::Total),
            Requirement::Replay,
            Requirement::Failover,
            Requirement::MaxPayload(1001),
        ] {
            // Others that are met do not hide it.
            let options = options().require(Requirement::CountsLoss).require(unmet);
            let error = options.validate_for(&offered).unwrap_err();
            assert_eq!(error.name, "require");
            assert!(error.problem.contains(&unmet.to_string()), "{error}");
            // It is no impossible value as such.
            assert_eq!(options.validate(), Ok(()));
        }
        offered.counts_loss = false;
        assert!(
            options()
                .require(Requirement::CountsLoss)
                .validate_for(&offered)
                .is_err()
        );
    }

    #[test]
    fn a_lowered_payload_is_what_a_requirement_is_held_against() {
        let options = NodeOptions::new(Prefix::unprefixed())
            .max_payload(10)
            .require(Requirement::MaxPayload(11));
        assert!(options.validate_for(&Capabilities::new()).is_err());
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        let options = || NodeOptions::new(Prefix::unprefixed());
        assert_eq!(options().validate(), Ok(()));
        let refused = |options: NodeOptions| options.validate().unwrap_err().name;
        assert_eq!(refused(options().queue_capacity(0)), "queue_capacity");
        assert_eq!(
            refused(options().heartbeat_timeout(Duration::ZERO)),
            "heartbeat_timeout"
        );
        assert_eq!(
            refused(options().backoff_initial(Duration::from_secs(9))),
            "backoff_initial"
        );
        assert_eq!(
            refused(options().connect_timeout(Duration::MAX)),
            "connect_timeout"
        );
    }
}
