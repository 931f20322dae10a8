use super::*;
use crate::model::account::Class;

/// Two nodes, one client on each, and what is known of them.
struct Story {
    record: Record,
    here: PublisherId,
    there: PublisherId,
    near: ClientId,
    far: ClientId,
}

const OUTAGE: Item = Item::Gap {
    outage: true,
    counted: 0,
};

fn story(local_first: bool) -> Story {
    let mut record = Record::new(local_first);
    let (here, there) = (record.open(true), record.open(true));
    let near = record.connect(here, Some(0), false);
    let far = record.connect(there, Some(1), false);
    Story {
        record,
        here,
        there,
        near,
        far,
    }
}

impl Story {
    fn send(&mut self, to: Target, fate: Fate) -> MessageId {
        self.record.burst();
        let message = self.record.attempt(self.here, to);
        self.record.settle(message, fate);
        message
    }

    fn send_all(&mut self) -> MessageId {
        self.send(Target::of([Name::All]), Fate::Accepted)
    }

    fn send_group(&mut self, group: Group) -> MessageId {
        self.send(Target::of([Name::Group(group)]), Fate::Accepted)
    }

    fn gets(&mut self, client: ClientId, messages: &[MessageId]) {
        for message in messages {
            self.record.received(client, Item::Message(Some(*message)));
        }
    }

    /// A change of a group of the far client, asked for through a node.
    fn change(&mut self, through: PublisherId, join: bool, outcome: Outcome) {
        let before = self.record.is_in(self.far, 0);
        self.record.changing(self.far, 0, join);
        self.record
            .changed(self.far, 0, through, join, (before, outcome));
    }

    /// What is wrong.
    fn found(&mut self, calm: bool) -> Vec<(Class, u64)> {
        self.record.check(calm);
        let violations = self.record.violations().iter();
        violations.map(|v| (v.class, v.count)).collect()
    }
}

#[test]
fn what_arrives_once_and_in_order_is_right() {
    let mut story = story(true);
    let sent = [story.send_all(), story.send_all()];
    for client in [story.near, story.far] {
        story.gets(client, &sent);
    }
    assert_eq!(story.found(true), []);
    assert_eq!(story.record.account().delivered, 4);
}

#[test]
fn what_arrives_again_is_duplicated_now_and_later() {
    let mut story = story(true);
    let sent = story.send_all();
    story.gets(story.near, &[sent]);
    story.gets(story.far, &[sent, sent]);
    assert_eq!(story.found(true), [(Class::Duplicated, 1)]);
    story.gets(story.far, &[sent]);
    assert_eq!(story.found(true).len(), 2);
}

#[test]
fn what_arrives_after_a_later_one_is_reordered_unless_a_burst_sent_it_another_way() {
    let mut story = story(false);
    let sent = [story.send_all(), story.send_all()];
    story.gets(story.near, &sent);
    story.gets(story.far, &[sent[1], sent[0]]);
    assert_eq!(story.found(true), [(Class::Reordered, 1)]);

    for (local_first, ways, wrong) in [(false, 1, 2), (false, 2, 0), (true, 2, 1)] {
        let mut story = self::story(local_first);
        story.record.burst();
        let all = Target::of([Name::All]);
        let union = Target::of([Name::User(0), Name::User(1)]);
        let first = story.record.attempt(story.here, all.clone());
        let other = if ways == 1 { all } else { union };
        let second = story.record.attempt(story.here, other);
        for message in [first, second] {
            story.record.settle(message, Fate::Accepted);
        }
        for client in [story.near, story.far] {
            story.gets(client, &[second, first]);
        }
        let found = story.found(true);
        assert_eq!(found.len(), wrong, "{local_first} {ways} {found:?}");
    }
}

#[test]
fn what_a_client_is_not_meant_by_is_unexpected() {
    let mut story = story(true);
    let mut but = Target::of([Name::All]);
    but.except = vec![Name::User(1)];
    let sent = story.send(but, Fate::Accepted);
    story.gets(story.near, &[sent]);
    story.gets(story.far, &[sent]);
    assert_eq!(story.found(true), [(Class::Unexpected, 1)]);
}

#[test]
fn what_was_not_sent_is_for_the_senders_node_alone_and_only_local_first() {
    for (local_first, wrong) in [(true, 1), (false, 2)] {
        let mut story = story(local_first);
        let sent = story.send(Target::of([Name::All]), Fate::NotSent);
        story.gets(story.near, &[sent]);
        story.gets(story.far, &[sent]);
        assert_eq!(story.found(false).len(), wrong);
    }
    let mut story = story(true);
    story.send(Target::of([Name::All]), Fate::NotSent);
    assert_eq!(story.found(false), [(Class::UnreportedLost, 1)]);
}

#[test]
fn what_is_missing_without_a_gap_at_its_place_is_lost() {
    let mut story = story(true);
    let sent = [story.send_all(), story.send_all(), story.send_all()];
    story.gets(story.near, &sent);
    story.gets(story.far, &[sent[0], sent[2]]);
    story.record.received(story.far, OUTAGE);
    assert_eq!(story.record.owes(story.far), 1);
    assert_eq!(story.found(false), [(Class::UnreportedLost, 1)]);
}

#[test]
fn an_outage_covers_any_number_at_its_place_and_is_counted() {
    let mut story = story(true);
    let sent: Vec<_> = (0..4).map(|_| story.send_all()).collect();
    story.gets(story.near, &sent);
    story.gets(story.far, &sent[..1]);
    story.record.received(story.far, OUTAGE);
    story.gets(story.far, &sent[3..]);
    assert_eq!(story.found(false), []);
    assert_eq!(story.record.account().counted_lost, 2);
}

#[test]
fn an_outage_does_not_cover_what_came_without_the_backplane_or_was_sent_after_it() {
    let mut story = story(true);
    story.record.received(story.near, OUTAGE);
    story.record.received(story.far, OUTAGE);
    let sent = story.send_all();
    story.record.received(story.near, OUTAGE);
    assert_eq!(story.record.owes(story.near), 1);
    assert_eq!(story.record.owes(story.far), 1);
    story.gets(story.far, &[sent]);
    assert_eq!(story.found(false), [(Class::UnreportedLost, 1)]);
}

#[test]
fn what_a_queue_missed_covers_so_many_and_stands_for_no_more() {
    for (missed, wrong) in [
        (1, vec![(Class::UnreportedLost, 1)]),
        (2, vec![]),
        (3, vec![(Class::Unexpected, 1)]),
    ] {
        let mut story = story(true);
        let sent: Vec<_> = (0..4).map(|_| story.send_all()).collect();
        story.gets(story.far, &sent);
        story.gets(story.near, &sent[..1]);
        story.record.received(story.near, Item::Missed(missed));
        story.gets(story.near, &sent[3..]);
        assert_eq!(story.found(false), wrong);
    }
}

#[test]
fn a_gap_without_a_fault_is_unexpected() {
    let mut story = story(true);
    story.record.received(story.far, OUTAGE);
    story.record.received(story.near, Item::Missed(1));
    let found = story.found(true);
    // The one says that something is missing, too, and nothing is.
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|(class, _)| *class == Class::Unexpected));
}

#[test]
fn a_suspicion_counts_only_if_nothing_was_in_the_way() {
    for calm in [false, true] {
        let mut story = story(true);
        let suspicion = Violation::new(Class::Unexpected, 1, "no answer");
        story.record.suspect(suspicion);
        assert_eq!(story.found(calm).len(), usize::from(calm));
    }
}

#[test]
fn a_member_gets_what_is_sent_after_the_join_and_nothing_after_the_leave() {
    let mut story = story(true);
    let before = story.send_group(0);
    story.change(story.there, true, Outcome::Done);
    let inside = story.send_group(0);
    story.gets(story.far, &[inside]);
    story.change(story.there, false, Outcome::Done);
    assert_eq!(story.found(true), []);
    let after = story.send_group(0);
    story.gets(story.far, &[after]);
    assert_eq!(story.found(true), [(Class::Unexpected, 1)]);
    assert!(before.number < after.number);
}

#[test]
fn what_is_on_its_way_while_a_group_changes_may_arrive_or_not() {
    for arrives in [false, true] {
        let mut story = story(true);
        story.change(story.there, true, Outcome::Done);
        let sent = story.send_group(0);
        story.change(story.there, false, Outcome::Done);
        if arrives {
            story.gets(story.far, &[sent]);
        }
        assert_eq!(story.found(true), []);
    }
}

#[test]
fn a_request_of_unknown_outcome_makes_a_group_unsure_until_one_that_it_cannot_overtake() {
    let mut story = story(true);
    story.change(story.here, true, Outcome::Unknown);
    assert_eq!(story.record.is_in(story.far, 0), Sure::Maybe);
    // By another way, which the join may still overtake.
    story.change(story.there, false, Outcome::Done);
    assert_eq!(story.record.is_in(story.far, 0), Sure::Maybe);
    // By the same.
    story.change(story.here, false, Outcome::Done);
    assert_eq!(story.record.is_in(story.far, 0), Sure::No);

    story.change(story.here, true, Outcome::Unknown);
    story.change(story.there, true, Outcome::Done);
    assert_eq!(story.record.is_in(story.far, 0), Sure::Yes);
    story.change(story.here, true, Outcome::NotDone);
    assert_eq!(story.record.is_in(story.far, 0), Sure::Yes);

    // After a check nothing of it is on its way any more.
    story.change(story.here, false, Outcome::Unknown);
    story.found(false);
    assert_eq!(story.record.is_in(story.far, 0), Sure::Maybe);
    story.change(story.there, true, Outcome::Done);
    assert_eq!(story.record.is_in(story.far, 0), Sure::Yes);
}

#[test]
fn of_a_client_that_has_ended_only_what_comes_before_its_last_message_is_owed() {
    let mut story = story(false);
    let sent: Vec<_> = (0..3).map(|_| story.send_all()).collect();
    story.gets(story.near, &sent);
    story.gets(story.far, &sent[1..2]);
    story.record.disconnect(story.far);
    story.record.received(story.far, Item::End);
    assert_eq!(story.found(false), [(Class::UnreportedLost, 1)]);
}

#[test]
fn nothing_comes_after_the_end() {
    let mut story = story(false);
    let sent = story.send_all();
    story.gets(story.near, &[sent]);
    story.record.received(story.far, Item::End);
    story.gets(story.far, &[sent]);
    assert_eq!(story.found(true), [(Class::Unexpected, 1)]);
}

#[test]
fn a_client_that_connects_later_may_get_what_is_on_its_way_but_not_from_its_own_node() {
    for local_first in [true, false] {
        let mut story = story(local_first);
        let sent = story.send_all();
        let near = story.record.connect(story.here, None, false);
        let far = story.record.connect(story.there, None, false);
        for client in [story.near, story.far, near, far] {
            story.gets(client, &[sent]);
        }
        assert_eq!(story.found(true).len(), usize::from(local_first));
    }
}

#[test]
fn a_node_that_was_made_in_an_outage_owes_from_the_next_check_on() {
    let mut story = story(true);
    let hub = story.record.open(false);
    let client = story.record.connect(hub, None, false);
    let sent = story.send_all();
    story.gets(story.near, &[sent]);
    story.gets(story.far, &[sent]);
    assert_eq!(story.found(false), []);
    story.send_all();
    assert_eq!(story.record.owes(client), 1);
}

#[test]
fn what_a_node_that_is_gone_had_on_its_way_may_come_for_a_while() {
    let mut story = story(true);
    let sent = story.send(Target::of([Name::All]), Fate::Unknown);
    story.gets(story.near, &[sent]);
    story.record.close(story.here);
    assert_eq!(story.found(false), []);
    story.gets(story.far, &[sent]);
    assert_eq!(story.found(false), []);
    let late = story.record.connect(story.there, None, false);
    story.gets(late, &[sent]);
    assert_eq!(story.found(false), [(Class::Reordered, 1)]);
}

#[test]
fn it_knows_how_many_clients_of_the_node_a_message_is_for_and_how_many_rooms_there_are() {
    let mut story = story(true);
    story.record.connect(story.here, Some(0), true);
    let sent = story.send_all();
    assert_eq!(story.record.local(sent), (1, 2));
    assert_eq!(story.record.rooms(story.here), (1, 1));
    story.change(story.here, true, Outcome::Unknown);
    assert_eq!(story.record.rooms(story.there), (1, 2));
}
