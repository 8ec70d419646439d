//! Messages that arrived from the broker, and what it has to be told of them.

use std::collections::{HashSet, VecDeque};

use bytes::BytesMut;

use super::codec::{self, Ack};
use portcullis_proto::types::message::Qos;

/// What the broker was not told to have arrived.
#[derive(Debug)]
struct Owed {
    ack: Ack,
    packet: u16,
    may_be_told: bool,
}

/// The messages above QoS 0 that arrived. They are numbered from 0 on.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Those at QoS 2 that the broker has not released.
    unreleased: HashSet<u16>,
    acknowledged_later: bool,
    /// In the order in which they arrived, in which the broker has to be told (MQTT 5, 4.6).
    owed: VecDeque<Owed>,
    /// The number of the first of these.
    since: u64,
}

impl Arrivals {
    /// Tells the broker that messages arrived only once [`Self::acknowledge`] says so.
    pub(super) fn acknowledge_later(&mut self) {
        self.acknowledged_later = true;
    }

    /// A message arrives: its number, where the broker is told later. Nothing where it is here already.
    pub(super) fn arrives(&mut self, qos: Qos, packet: u16, output: &mut BytesMut) -> Option<Option<u64>> {
        let (ack, is_new) = match qos {
            Qos::AtMostOnce | Qos::AtLeastOnce => (Ack::Puback, true),
            Qos::ExactlyOnce => (Ack::Pubrec, self.unreleased.insert(packet)),
        };
        let number = self.next();
        self.owed.push_back(Owed {
            ack,
            packet,
            may_be_told: false,
        });
        if !is_new || !self.acknowledged_later {
            self.acknowledge(number, output);
        }
        is_new.then(|| self.acknowledged_later.then_some(number))
    }

    /// The broker releases a message at QoS 2: what comes under its identifier now is another.
    pub(super) fn released(&mut self, packet: u16) {
        self.unreleased.remove(&packet);
    }

    /// The broker need not keep this message any longer. It hears of it once that is so for all before it.
    pub(super) fn acknowledge(&mut self, number: u64, output: &mut BytesMut) {
        let at = number.checked_sub(self.since);
        let owed = at.and_then(|at| self.owed.get_mut(usize::try_from(at).ok()?));
        if let Some(owed) = owed {
            owed.may_be_told = true;
        }
        while let Some(owed) = self.owed.front().filter(|owed| owed.may_be_told) {
            codec::ack(owed.ack, owed.packet, output);
            self.owed.pop_front();
            self.since += 1;
        }
    }

    /// The number of the first message that the broker was not told to have arrived.
    pub(super) const fn since(&self) -> u64 {
        self.since
    }

    /// The number of the next message.
    pub(super) fn next(&self) -> u64 {
        self.since + self.owed.len() as u64
    }
}
