//! Histories written by hand: right ones, and one for each way to be wrong.

use backplane_core::OutageAccount;

use super::*;

const A: NodeId = NodeId::from_u64(1);

/// A publisher and a subscription of channel 0 on another node.
struct Case {
    ledger: Ledger,
    publisher: PublisherId,
    stream: StreamId,
    generation: Generation,
}

impl Case {
    fn new() -> Self {
        let mut case = Self::without_subscription();
        case.subscribe();
        case
    }

    fn without_subscription() -> Self {
        let mut ledger = Ledger::new(Terms {
            counts_loss: true,
            replay: false,
        });
        let publisher = ledger.open(A, 0);
        let node = ledger.open(NodeId::from_u64(2), 0);
        let generation = Generation { least: 1, most: 1 };
        let stream = ledger.subscribe(node, false, generation);
        Self {
            ledger,
            publisher,
            stream,
            generation,
        }
    }

    fn subscribe(&mut self) {
        self.ledger.join(self.stream, &[0]);
        let now = self.ledger.tick();
        self.ledger.joined(self.stream, &[0], Some((now, 1)));
    }

    fn publish(&mut self, fate: Fate) -> MessageId {
        let id = self.ledger.attempt(self.publisher, 0);
        self.ledger.settle(id, fate);
        id
    }

    fn accepted<const N: usize>(&mut self) -> [MessageId; N] {
        std::array::from_fn(|_| self.publish(Fate::Accepted))
    }

    fn deliver(&mut self, id: MessageId) {
        let looked = self.ledger.tick();
        let arrival = Arrival {
            id: Some(id),
            sender: A,
            topic: Some(0),
        };
        self.ledger
            .received(self.stream, looked, Item::Message(arrival));
    }

    fn gap(&mut self, gap: Gap) {
        let looked = self.ledger.tick();
        self.ledger.received(self.stream, looked, Item::Gap(gap));
    }

    fn outage(&mut self, missed: Option<u64>) {
        self.generation.least += 1;
        self.generation.most += 1;
        let account = OutageAccount::default();
        if let Some(missed) = missed {
            account.add(A, missed);
        }
        self.gap(Gap::outage(account));
    }

    /// Checks, and returns the account.
    fn check(&mut self) -> Account {
        self.ledger.check(self.stream, Some(self.generation));
        println!("{:#?}", self.ledger.violations());
        self.ledger.account().clone()
    }

    fn clean(&mut self) -> Account {
        let account = self.check();
        assert!(account.is_clean(), "{account}");
        account
    }
}

#[test]
fn all_in_order_is_clean() {
    let mut case = Case::new();
    for id in case.accepted::<5>() {
        case.deliver(id);
    }
    assert_eq!(case.clean().delivered, 5);
}

#[test]
fn a_message_that_is_missing_without_a_gap_is_lost() {
    let mut case = Case::new();
    let [a, b, c] = case.accepted();
    case.deliver(a);
    case.deliver(c);
    assert!(case.ledger.is_owed(case.stream));
    assert_eq!(case.check().unreported_lost, 1);
    assert!(case.ledger.violations()[0].text.contains(&b.to_string()));
}

#[test]
fn a_message_that_is_missing_at_the_end_is_lost() {
    let mut case = Case::new();
    let [a, _] = case.accepted();
    case.deliver(a);
    assert_eq!(case.check().unreported_lost, 1);
}

#[test]
fn a_gap_elsewhere_covers_nothing() {
    let mut case = Case::new();
    let [a, _, c] = case.accepted();
    case.deliver(a);
    case.deliver(c);
    case.outage(None);
    assert_eq!(case.check().unreported_lost, 1);

    // One that was told before the message was published is elsewhere too.
    let mut case = Case::new();
    case.outage(None);
    let [_] = case.accepted();
    assert_eq!(case.check().unreported_lost, 1);
}

#[test]
fn an_outage_covers_any_number_at_its_place() {
    let mut case = Case::new();
    let [a, _, _, d] = case.accepted();
    case.deliver(a);
    case.outage(Some(2));
    case.deliver(d);
    assert_eq!(case.clean().counted_lost, 2);
}

#[test]
fn an_outage_that_counts_wrong_is_found() {
    for (told, lost, unexpected) in [(None, 2, 0), (Some(1), 1, 0), (Some(3), 0, 1)] {
        let mut case = Case::new();
        let [a, _, _, d] = case.accepted();
        case.deliver(a);
        case.outage(told);
        case.deliver(d);
        let account = case.check();
        assert_eq!(account.unreported_lost, lost, "{told:?}");
        assert_eq!(account.unexpected, unexpected, "{told:?}");
    }
}

#[test]
fn who_subscribes_while_the_broker_drops_in_silence_may_count_what_was_before() {
    for silent in [false, true] {
        let mut case = Case::without_subscription();
        let [_, _] = case.accepted();
        if silent {
            case.ledger.silence();
        }
        case.subscribe();
        let [_, d] = case.accepted();
        case.outage(Some(3));
        // The gap was told after the third was published.
        case.deliver(d);
        assert_eq!(case.check().is_clean(), silent);
    }
}

#[test]
fn what_may_have_been_sent_makes_a_range_of_counts() {
    for told in [1, 2] {
        let mut case = Case::new();
        let [a, _] = case.accepted();
        case.publish(Fate::Unknown);
        let [d] = case.accepted();
        case.deliver(a);
        case.outage(Some(told));
        case.deliver(d);
        assert_eq!(case.clean().counted_lost, 1);
    }
}

#[test]
fn an_overflow_counts_exactly() {
    for (count, lost, unexpected) in [(1, 1, 0), (2, 0, 0), (3, 0, 1)] {
        let mut case = Case::new();
        let [a, _, _, d] = case.accepted();
        case.deliver(a);
        case.gap(Gap::overflow(count));
        case.deliver(d);
        let account = case.check();
        assert_eq!(account.unreported_lost, lost, "{count}");
        assert_eq!(account.unexpected, unexpected, "{count}");
    }
}

#[test]
fn duplicates_and_disorder_are_told_apart() {
    let mut case = Case::new();
    let [a, b, c] = case.accepted();
    for id in [a, c, b, c] {
        case.deliver(id);
    }
    let account = case.check();
    assert_eq!((account.reordered, account.duplicated), (1, 1));
    assert_eq!(account.unreported_lost, 0);
}

#[test]
fn a_message_that_was_not_sent_must_not_come() {
    let mut case = Case::new();
    let a = case.publish(Fate::NotSent);
    case.deliver(a);
    assert_eq!(case.check().unexpected, 1);
}

#[test]
fn a_message_of_unknown_fate_may_come_once() {
    let mut case = Case::new();
    let a = case.publish(Fate::Unknown);
    let b = case.publish(Fate::Unknown);
    case.deliver(b);
    case.clean();
    let _ = a;
}

#[test]
fn a_message_from_before_the_subscription_must_not_come() {
    let mut case = Case::without_subscription();
    let [a] = case.accepted();
    case.subscribe();
    case.deliver(a);
    assert_eq!(case.check().unexpected, 1);
}

#[test]
fn a_message_under_way_while_subscribing_may_come_or_not() {
    for comes in [false, true] {
        let mut case = Case::without_subscription();
        let a = case.ledger.attempt(case.publisher, 0);
        case.subscribe();
        case.ledger.settle(a, Fate::Accepted);
        if comes {
            case.deliver(a);
        }
        case.clean();
    }
}

#[test]
fn a_message_after_the_end_of_the_subscription_must_not_come() {
    let mut case = Case::new();
    let [a] = case.accepted();
    case.ledger.leave(case.stream, &[0]);
    case.ledger.left(case.stream, &[0]);
    case.deliver(a);
    assert_eq!(case.check().unexpected, 1);
}

#[test]
fn what_was_not_read_before_an_unsubscribe_is_given_up() {
    let mut case = Case::new();
    let [a, _] = case.accepted();
    case.deliver(a);
    case.ledger.leave(case.stream, &[0]);
    case.ledger.left(case.stream, &[0]);
    case.subscribe();
    let [c] = case.accepted();
    case.deliver(c);
    case.clean();
}

#[test]
fn another_prefix_channel_or_sender_is_unexpected() {
    let mut case = Case::new();
    let other = case.ledger.open(NodeId::from_u64(3), 1);
    let strange = case.ledger.attempt(other, 0);
    case.ledger.settle(strange, Fate::Accepted);
    let [a, b] = case.accepted();
    for (id, sender, topic) in [
        (Some(strange), NodeId::from_u64(3), Some(0)),
        (Some(a), A, Some(1)),
        (Some(b), NodeId::from_u64(9), Some(0)),
        (None, A, Some(0)),
    ] {
        let looked = case.ledger.tick();
        let arrival = Arrival { id, sender, topic };
        case.ledger
            .received(case.stream, looked, Item::Message(arrival));
    }
    assert_eq!(case.check().unexpected, 4);
}

#[test]
fn own_messages_come_unless_they_are_left_out() {
    let mut case = Case::new();
    let own = case.ledger.subscribe(case.publisher, true, case.generation);
    case.ledger.join(own, &[0]);
    case.ledger.joined(own, &[0], None);
    case.stream = own;
    let [a, b] = case.accepted();
    case.clean();
    case.deliver(a);
    assert_eq!(case.check().unexpected, 1);
    let _ = b;
}

#[test]
fn as_many_outages_are_told_as_there_were() {
    let mut case = Case::new();
    case.outage(None);
    case.gap(Gap::outage(OutageAccount::default()));
    assert_eq!(case.check().unexpected, 1, "one too many");

    let mut case = Case::new();
    case.generation = Generation { least: 2, most: 2 };
    assert_eq!(case.check().unexpected, 1, "none");

    let mut case = Case::new();
    case.generation = Generation { least: 1, most: 2 };
    case.outage(None);
    case.clean();
}

#[test]
fn a_gap_that_stands_for_nothing_is_unexpected() {
    let mut case = Case::new();
    case.gap(Gap::dropped(0));
    assert_eq!(case.check().unexpected, 1);
}

#[test]
fn what_was_checked_is_forgotten_and_still_must_not_come_again() {
    let mut case = Case::new();
    let [a] = case.accepted();
    case.deliver(a);
    case.clean();
    case.ledger.forget();
    case.deliver(a);
    assert_eq!(case.check().duplicated, 1);
}
