//! What the nodes of a hub answered: [`Answers`].

use super::requests::Missing;
use super::signal::ConnectionInfo;
use crate::name::NodeId;

/// What each node answered, and which did not: an answer that is not complete is neither hidden nor thrown away
/// (rule H21).
#[derive(Clone, Debug)]
#[must_use = "it may not be complete"]
pub struct Answers<T> {
    pub(super) answers: Vec<(NodeId, T)>,
    pub(super) missing: Vec<(NodeId, Missing)>,
    pub(super) settled: bool,
}

impl<T> Answers<T> {
    /// What these nodes answered and those did not, for a hub of another kind, or a test.
    pub const fn new(
        answers: Vec<(NodeId, T)>,
        missing: Vec<(NodeId, Missing)>,
        settled: bool,
    ) -> Self {
        Self {
            answers,
            missing,
            settled,
        }
    }

    /// Whether every node of the hub has answered, and it is certain that they are all.
    #[must_use]
    pub const fn complete(&self) -> bool {
        self.missing.is_empty() && self.settled
    }

    /// The nodes that did not answer, each with the reason.
    #[must_use]
    pub fn missing(&self) -> &[(NodeId, Missing)] {
        &self.missing
    }

    /// Whether it was certain which nodes there are: not in an outage, nor for a moment after the start or after one.
    #[must_use]
    pub const fn settled(&self) -> bool {
        self.settled
    }

    /// What each node answered, this one first.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &T)> {
        self.answers.iter().map(|(node, answer)| (*node, answer))
    }

    /// What this node answered.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Option<&T> {
        self.iter()
            .find(|(from, _)| *from == node)
            .map(|(_, answer)| answer)
    }
}

impl Answers<u64> {
    /// The sum of what the nodes counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.answers.iter().map(|(_, count)| count).sum()
    }
}

impl Answers<Vec<ConnectionInfo>> {
    /// The connections of all nodes that answered.
    pub fn connections(&self) -> impl Iterator<Item = &ConnectionInfo> {
        self.answers.iter().flat_map(|(_, list)| list)
    }
}

impl<T> IntoIterator for Answers<T> {
    type Item = (NodeId, T);
    type IntoIter = std::vec::IntoIter<(NodeId, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.answers.into_iter()
    }
}
