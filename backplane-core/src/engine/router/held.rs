//! The channels of one subscription: [`Held`].

use std::collections::HashSet;

use ahash::RandomState;

use crate::name::Channel;

/// The channels of one subscription. One needs no memory of its own.
#[allow(clippy::box_collection)] // most are one, and the box keeps it small
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    None,
    One(Channel),
    Many(Box<HashSet<Channel, RandomState>>),
}

impl Held {
    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize) {
        if more > 1 {
            let mut many = std::mem::take(self).into_set();
            many.reserve(more);
            *self = Self::Many(many);
        }
    }

    pub(super) fn insert(&mut self, channel: Channel) {
        match self {
            Self::None => *self = Self::One(channel),
            Self::One(only) if *only == channel => {}
            Self::One(_) => {
                let mut many = std::mem::take(self).into_set();
                many.insert(channel);
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                many.insert(channel);
            }
        }
    }

    /// Whether it was held.
    pub(super) fn remove(&mut self, channel: &Channel) -> bool {
        match self {
            Self::None => false,
            Self::One(only) => {
                let held = only == channel;
                if held {
                    *self = Self::None;
                }
                held
            }
            Self::Many(many) => {
                let held = many.remove(channel);
                if many.len() * 8 <= many.capacity() {
                    many.shrink_to(many.len() * 2);
                }
                held
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Channel> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(only) => (Some(only), None),
            Self::Many(many) => (None, Some(many)),
        };
        one.into_iter()
            .chain(many.into_iter().flat_map(|m| m.iter()))
    }

    #[allow(clippy::box_collection)]
    fn into_set(self) -> Box<HashSet<Channel, RandomState>> {
        match self {
            Self::None => Box::default(),
            Self::One(only) => Box::new([only].into_iter().collect()),
            Self::Many(many) => many,
        }
    }
}
