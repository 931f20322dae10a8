//! How far each publisher of a channel was heard: [`Publishers`].

use std::collections::HashMap;

use crate::engine::fate::LinkId;
use crate::name::NodeId;

/// How many publishers a channel remembers.
pub(super) const MAX_PUBLISHERS: usize = 4096;

/// Up to so many are found by looking at each.
const LISTED: usize = 8;

/// How far a publisher was heard, and on which link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) next: u64,
    pub(super) link: LinkId,
}

/// The publishers that a channel remembers. Without any it needs no memory of its own.
#[allow(clippy::box_collection)] // most are few, and the box keeps them small
#[derive(Debug)]
pub(super) enum Publishers {
    Few(Vec<(NodeId, Heard)>),
    Many(Box<HashMap<NodeId, Heard>>),
}

impl Default for Publishers {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Publishers {
    pub(super) fn get_mut(&mut self, publisher: NodeId) -> Option<&mut Heard> {
        match self {
            Self::Few(few) => few
                .iter_mut()
                .find(|(p, _)| *p == publisher)
                .map(|(_, h)| h),
            Self::Many(many) => many.get_mut(&publisher),
        }
    }

    /// Remembers one that is not known. When they are too many, those that were last heard on earlier links go
    /// first; what is forgotten is merely not counted.
    pub(super) fn add(&mut self, publisher: NodeId, heard: Heard) {
        match self {
            Self::Few(few) => {
                if few.len() < LISTED {
                    // Most channels have one or two.
                    few.reserve_exact(1);
                    few.push((publisher, heard));
                } else {
                    let all = few.drain(..).chain([(publisher, heard)]);
                    *self = Self::Many(Box::new(all.collect()));
                }
            }
            Self::Many(many) => {
                if many.len() >= MAX_PUBLISHERS {
                    many.retain(|_, h| h.link == heard.link);
                    if many.len() >= MAX_PUBLISHERS {
                        many.clear();
                    }
                }
                many.insert(publisher, heard);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_push_out_those_of_earlier_links_first() {
        let mut publishers = Publishers::default();
        let set = |publishers: &mut Publishers, n: u64, link| {
            let publisher = NodeId::from_u64(n);
            let (next, link) = (n, LinkId(link));
            match publishers.get_mut(publisher) {
                Some(heard) => *heard = Heard { next, link },
                None => publishers.add(publisher, Heard { next, link }),
            }
        };
        let known = |publishers: &mut Publishers, n: u64| {
            publishers
                .get_mut(NodeId::from_u64(n))
                .map(|heard| heard.next)
        };
        for n in 0..100 {
            set(&mut publishers, n, 1);
        }
        for n in 100..MAX_PUBLISHERS as u64 {
            set(&mut publishers, n, 2);
        }
        assert_eq!(known(&mut publishers, 7), Some(7));
        set(&mut publishers, 5, 2);
        set(&mut publishers, 10_000, 2);
        assert_eq!(
            [5, 7, 200, 10_000].map(|n| known(&mut publishers, n)),
            [Some(5), None, Some(200), Some(10_000)]
        );
        for n in 20_000..30_000 {
            set(&mut publishers, n, 2);
        }
        let Publishers::Many(many) = &publishers else {
            panic!("they are many");
        };
        assert!(many.len() <= MAX_PUBLISHERS);
    }
}
