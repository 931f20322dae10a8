//! Cuts that wait for a request: [`Trap`].

use backplane_core::NodeId;

/// What an armed cut waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trap {
    /// The node's next request to subscribe.
    Subscribe,
    /// The node's next publish; its own probes are publishes, too.
    Publish,
}

/// On which side of the bus' work an armed cut happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums)]
pub enum Moment {
    /// The bus does not get the request.
    Before,
    /// The bus has done it, and the node gets no answer.
    After,
}

/// The armed traps, and how often one was sprung.
#[derive(Debug, Default)]
pub(crate) struct Traps {
    armed: Vec<(NodeId, Trap, Moment)>,
    before: u64,
    after: u64,
}

impl Traps {
    /// Arms a trap, instead of one of this kind that the node has.
    pub(crate) fn arm(&mut self, node: NodeId, trap: Trap, moment: Moment) {
        self.armed
            .retain(|(of, kind, _)| (*of, *kind) != (node, trap));
        self.armed.push((node, trap, moment));
    }

    pub(crate) fn disarm(&mut self) {
        self.armed.clear();
    }

    pub(crate) const fn are_armed(&self) -> bool {
        !self.armed.is_empty()
    }

    /// Takes and counts the trap that is sprung by this, if any.
    pub(crate) fn spring(&mut self, node: NodeId, by: Trap) -> Option<Moment> {
        let place = self
            .armed
            .iter()
            .position(|(of, kind, _)| (*of, *kind) == (node, by))?;
        let (_, _, moment) = self.armed.swap_remove(place);
        match moment {
            Moment::Before => self.before += 1,
            Moment::After => self.after += 1,
        }
        Some(moment)
    }

    pub(crate) const fn sprung(&self, moment: Moment) -> u64 {
        match moment {
            Moment::Before => self.before,
            Moment::After => self.after,
        }
    }
}
