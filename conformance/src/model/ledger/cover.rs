//! Which missing messages the gaps of a stream can stand for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A message that did not arrive, and the places in the stream where it can be missing: from `from`, before `until`.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Missing {
    pub(in crate::model) from: usize,
    pub(in crate::model) until: usize,
}

/// A gap, its place, and for how many messages it can stand.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Slot {
    pub(in crate::model) at: usize,
    pub(in crate::model) room: u64,
}

/// Gives each missing message to a gap, as many as can be. Returns the indices of those that are left over,
/// and how much room is.
///
/// Places are intervals, so taking the one that must be placed first is best.
pub(in crate::model) fn assign(missing: &[Missing], slots: &[Slot]) -> (Vec<usize>, u64) {
    let mut order: Vec<usize> = (0..missing.len()).collect();
    order.sort_by_key(|index| missing[*index].from);
    let mut coming = order.into_iter().peekable();
    let mut open = BinaryHeap::new();
    let (mut left, mut room_left) = (Vec::new(), 0u64);
    for slot in slots {
        while let Some(index) = coming.next_if(|index| missing[*index].from <= slot.at) {
            open.push(Reverse((missing[index].until, index)));
        }
        let mut room = slot.room;
        while let Some(Reverse((until, index))) = open.peek().copied() {
            if until <= slot.at {
                left.push(index);
            } else if room > 0 {
                room -= 1;
            } else {
                break;
            }
            open.pop();
        }
        room_left = room_left.saturating_add(room);
    }
    left.extend(open.into_iter().map(|Reverse((_, index))| index));
    left.extend(coming);
    left.sort_unstable();
    (left, room_left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(places: &[(usize, usize)]) -> Vec<Missing> {
        let make = |(from, until): &(usize, usize)| Missing {
            from: *from,
            until: *until,
        };
        places.iter().map(make).collect()
    }

    fn slots(gaps: &[(usize, u64)]) -> Vec<Slot> {
        let make = |(at, room): &(usize, u64)| Slot {
            at: *at,
            room: *room,
        };
        gaps.iter().map(make).collect()
    }

    #[test]
    fn a_gap_covers_only_what_is_missing_at_its_place() {
        let all = missing(&[(0, 2), (3, 5)]);
        assert_eq!(assign(&all, &slots(&[(1, 2)])), (vec![1], 1));
        assert_eq!(assign(&all, &slots(&[(2, 2)])), (vec![0, 1], 2));
        assert_eq!(assign(&all, &slots(&[(1, 1), (4, 1)])), (vec![], 0));
    }

    #[test]
    fn what_must_be_placed_first_is_placed_first() {
        // The long one fits both gaps, the short one only the first.
        let all = missing(&[(0, 9), (0, 2)]);
        assert_eq!(assign(&all, &slots(&[(1, 1), (5, 1)])), (vec![], 0));
    }

    #[test]
    fn a_count_covers_so_many_and_no_more() {
        let all = missing(&[(0, 9), (0, 9), (0, 9)]);
        assert_eq!(assign(&all, &slots(&[(4, 2)])).0.len(), 1);
        assert_eq!(assign(&all, &slots(&[(4, 5)])), (vec![], 2));
    }
}
