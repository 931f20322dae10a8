//! How a message is sent: to the connections here, and on its way to the others.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::builder::DeliveryMode;
use super::error::SendError;
use super::inner::Inner;
use super::payload::Payload;
use super::target::{Address, Target};
use crate::error::{NotSent, PublishError};
use crate::name::{Channel, InvalidName, NameKind, check};

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// How many connections of this node have it in their queue. None yet
    /// [through the backplane](DeliveryMode::ThroughBackplane): they get it when it comes back.
    pub local: usize,
    /// What became of it for the other nodes.
    pub others: Others,
}

/// What became of a message for other nodes than the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Others {
    /// The backplane has accepted it: every node that is attached gets it.
    Accepted,
    /// It was for nobody, or for connections of this node alone.
    NotNeeded,
}

/// Where a message goes besides this node's own connections.
enum Way<'a> {
    Nowhere,
    Out(Channel, Option<Cow<'a, [Address]>>),
}

impl Inner {
    pub(super) async fn send(&self, target: Target, payload: Payload) -> Result<Sent, SendError> {
        let (local, out) = self.send_here(target, &payload)?;
        let others = match out {
            None => Others::NotNeeded,
            Some((channel, message)) => {
                let published = self.backplane.publish(&channel, message).await;
                published.map_err(|source| SendError::Publish { local, source })?;
                if channel == *self.protocol.all() {
                    self.spoke.store(true, Ordering::Relaxed);
                }
                Others::Accepted
            }
        };
        Ok(Sent { local, others })
    }

    /// All that is done before anything is waited for: says how many connections were reached, and what is to be
    /// published.
    fn send_here(
        &self,
        target: Target,
        payload: &Payload,
    ) -> Result<(usize, Option<(Channel, Bytes)>), SendError> {
        if self.stop.is_cancelled() {
            return Err(SendError::Closed);
        }
        let mut addresses = target.include.iter().chain(&target.except);
        addresses.try_for_each(check_name)?;
        let target = target.simplified();
        let out = match self.way(&target.include)? {
            Way::Nowhere => None,
            Way::Out(channel, targets) => {
                let message = self
                    .protocol
                    .encode(targets.as_deref(), &target.except, payload);
                self.check_size(&channel, &message)?;
                Some((channel, message))
            }
        };
        self.counters.sent.add(1);
        let local = match self.mode {
            DeliveryMode::LocalFirst => self.deliver_here(&target, payload),
            DeliveryMode::ThroughBackplane => 0,
        };
        Ok((local, out))
    }

    /// The way of a simplified list of targets. One message whatever their number, so that nobody gets it twice.
    fn way<'a>(&self, include: &'a [Address]) -> Result<Way<'a>, InvalidName> {
        Ok(match include {
            [] => Way::Nowhere,
            [Address::All] => Way::Out(self.protocol.all().clone(), None),
            [Address::Group(name)] => Way::Out(self.protocol.group(name)?, None),
            [Address::User(id)] => Way::Out(self.protocol.user(id)?, None),
            // They are sorted: connections come before all else, those of one node beside each other.
            [.., Address::Connection(_)] => {
                let list = self.elsewhere(include);
                match &*list {
                    [] => Way::Nowhere,
                    [Address::Connection(first), ..] if is_last_on(&list, first.node()) => {
                        Way::Out(self.protocol.node(first.node())?, Some(list))
                    }
                    _ => Way::Out(self.protocol.all().clone(), Some(list)),
                }
            }
            list => Way::Out(self.protocol.all().clone(), Some(Cow::Borrowed(list))),
        })
    }

    /// The connections that are reached through the backplane.
    fn elsewhere<'a>(&self, connections: &'a [Address]) -> Cow<'a, [Address]> {
        let is_here = |address: &Address| matches!(address, Address::Connection(id) if id.node() == self.node);
        if self.mode == DeliveryMode::ThroughBackplane || !connections.iter().any(is_here) {
            return Cow::Borrowed(connections);
        }
        let elsewhere = connections.iter().filter(|address| !is_here(address));
        elsewhere.cloned().collect()
    }

    /// Nobody gets a message that the backplane would refuse to some (rule D4).
    fn check_size(&self, channel: &Channel, message: &Bytes) -> Result<(), SendError> {
        let (size, limit) = (message.len(), self.backplane.capabilities().max_payload);
        match size > limit {
            true => Err(SendError::Publish {
                local: 0,
                source: PublishError::not_sent(channel, NotSent::TooLarge { size, limit }, None),
            }),
            false => Ok(()),
        }
    }
}

fn is_last_on(connections: &[Address], node: crate::NodeId) -> bool {
    matches!(connections.last(), Some(Address::Connection(last)) if last.node() == node)
}

pub(super) fn check_name(address: &Address) -> Result<(), InvalidName> {
    match address {
        Address::All | Address::Connection(_) => Ok(()),
        Address::Group(name) => check(NameKind::Group, name, Target::MAX_NAME_LEN),
        Address::User(id) => check(NameKind::User, id, Target::MAX_NAME_LEN),
    }
}
