//! Confirmable messages of ours: retransmission until they are acknowledged, reset, or given up (RFC 7252, 4.2).

use std::time::{Duration, Instant};

use super::contract::{Event, NotificationOutcome, ObservationId, RequestId};
use super::endpoint::{Endpoint, Timeout};
use super::peer::Peer;
use super::timers::TimerKey;

/// What a confirmable message of ours was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A notification.
    Notification(ObservationId),
    /// A response that was not ready in time to go with the ACK, and the observation that it begins.
    Response(Option<ObservationId>),
    /// A request to a device.
    Request(RequestId),
}

/// A confirmable message that waits for its ACK.
#[derive(Debug)]
pub(crate) struct Outstanding {
    datagram: Box<[u8]>,
    retries: u32,
    timeout: Duration,
    timer: TimerKey,
    purpose: Purpose,
    /// How often the peer had moved when it was sent.
    moves: u32,
    /// Whether it was sent at all: to an unproven address it may have to wait.
    sent: bool,
}

impl Outstanding {
    /// What waiting for an acknowledgement weighs, in bytes: the message, its entry and its timer.
    fn weight(datagram: &[u8]) -> usize {
        size_of::<Self>() + 64 + datagram.len()
    }

    /// Whether it was not sent again yet.
    pub(crate) const fn is_new(&self) -> bool {
        self.retries == 0
    }

    pub(crate) fn timer(&self) -> TimerKey {
        self.timer
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        let mut timers = super::timers::TimerHeap::new();
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let timer = timers.set(Instant::now(), ());
        Self {
            datagram: Box::default(),
            retries: 0,
            timeout: Duration::ZERO,
            timer,
            purpose: Purpose::Response(None),
            moves: 0,
            sent: true,
        }
    }
}

impl Endpoint {
    /// Sends the confirmable message that was written to the outbox, and keeps it until it is acknowledged.
    pub(super) fn send_confirmable(&mut self, now: Instant, peer: &mut Peer, mid: u16, purpose: Purpose) {
        if peer.is_stream() {
            self.transmit_draft(peer);
            return;
        }
        let datagram: Box<[u8]> = self.outbox.drafted().into();
        peer.unacknowledged += Outstanding::weight(&datagram);
        let sent = self.transmit_draft(peer);
        peer.has_unsent |= !sent;
        let timeout = self.parameters.first_timeout(&mut self.rng);
        let timer = self
            .timers
            .set(now + timeout, Timeout::Retransmit { peer: peer.id, mid });
        if matches!(purpose, Purpose::Response(_)) {
            peer.separate += 1;
        }
        let moves = peer.moves;
        peer.outstanding.insert(
            mid,
            Outstanding {
                datagram,
                retries: 0,
                timeout,
                timer,
                purpose,
                moves,
                sent,
            },
        );
    }

    /// Ends the wait for an ACK: it came, or nobody wants it any more.
    pub(super) fn settle(&mut self, peer: &mut Peer, mid: u16) -> Option<Outstanding> {
        let outstanding = peer.outstanding.remove(&mid)?;
        let weight = Outstanding::weight(&outstanding.datagram);
        peer.unacknowledged = peer.unacknowledged.saturating_sub(weight);
        if matches!(outstanding.purpose, Purpose::Response(_)) {
            peer.separate = peer.separate.saturating_sub(1);
        }
        self.timers.cancel(outstanding.timer);
        Some(outstanding)
    }

    /// Ends the wait for the ACK of a request of ours, if it still waits.
    pub(super) fn settle_request(&mut self, peer: &mut Peer, mid: u16, request: RequestId) {
        if peer.purpose(mid) == Some(Purpose::Request(request)) {
            self.settle(peer, mid);
        }
    }

    /// The end of a confirmable message of ours by an ACK, empty or with a response in it, or by a RST. What it was, if there is
    /// one of this id. Only who received the message knows the id, so this proves the address; but who rejects a response does not
    /// want it, as one would in whose name it was asked for.
    pub(super) fn conclude(&mut self, peer: &mut Peer, mid: u16, acknowledged: bool) -> Option<Purpose> {
        let outstanding = self.settle(peer, mid)?;
        let wanted = acknowledged || !matches!(outstanding.purpose, Purpose::Response(_));
        if wanted && outstanding.sent && peer.is_believed(outstanding.moves) {
            peer.prove();
        }
        Some(outstanding.purpose)
    }

    /// An ACK, empty or with a response in it. What it acknowledged, if it belonged to a message of ours.
    pub(super) fn on_acknowledgement(&mut self, now: Instant, peer: &mut Peer, mid: u16) -> Option<Purpose> {
        let Some(purpose) = self.conclude(peer, mid, true) else {
            peer.guessed();
            return None;
        };
        self.events.push_back(Event::Alive { peer: peer.id });
        match purpose {
            Purpose::Notification(observation) => self.notification_acknowledged(now, peer, observation),
            Purpose::Response(began) => {
                if let Some(id) = began {
                    self.beginning_concluded(now, peer, id, NotificationOutcome::Acknowledged);
                }
                // What waited for the proof of its address goes.
                self.pump(now, peer);
            }
            Purpose::Request(_) => self.pump(now, peer),
        }
        Some(purpose)
    }

    /// Sends a confirmable message again that was not acknowledged in time, or gives it up at its last time: what it was, and whether it
    /// is sent again.
    pub(super) fn repeat(&mut self, now: Instant, peer: &mut Peer, mid: u16) -> Option<(Purpose, bool)> {
        let outstanding = peer.outstanding.get_mut(&mid)?;
        let purpose = outstanding.purpose;
        if outstanding.retries >= self.parameters.max_retransmit {
            self.settle(peer, mid);
            return Some((purpose, false));
        }
        outstanding.retries += 1;
        outstanding.timeout = outstanding.timeout.saturating_mul(2);
        outstanding.timer = self.timers.set(
            now + outstanding.timeout,
            Timeout::Retransmit { peer: peer.id, mid },
        );
        if self.send_kept(peer, mid) {
            peer.retransmissions += 1;
            self.metrics.retransmissions.inc();
        }
        Some((purpose, true))
    }

    /// Sends what a peer did not acknowledge at its first repetition once more now: it was heard of, and may sleep again when the next
    /// one is due.
    pub(crate) fn nudge(&mut self, peer: &mut Peer) {
        let unanswered = peer
            .outstanding
            .iter()
            .filter(|(_, it)| it.sent && it.retries > 0);
        let mut mids: Vec<u16> = unanswered.map(|(mid, _)| *mid).collect();
        mids.sort_unstable();
        for mid in mids {
            if self.send_kept(peer, mid) {
                peer.retransmissions += 1;
                self.metrics.retransmissions.inc();
            }
        }
    }

    /// Sends the confirmable messages that had to wait, as far as they fit into what the address may get now.
    pub(super) fn send_waiting(&mut self, peer: &mut Peer) {
        if !std::mem::take(&mut peer.has_unsent) {
            return;
        }
        let waiting = peer.outstanding.iter().filter(|(_, it)| !it.sent);
        let waiting: Vec<_> = waiting.map(|(mid, it)| (*mid, it.datagram.len())).collect();
        for (mid, len) in waiting {
            peer.has_unsent |= len > peer.room() || !self.send_kept(peer, mid);
        }
    }

    /// Sends a confirmable message that is kept.
    fn send_kept(&mut self, peer: &mut Peer, mid: u16) -> bool {
        let moves = peer.moves;
        let Some(outstanding) = peer.outstanding.get_mut(&mid) else {
            return false;
        };
        let datagram = std::mem::take(&mut outstanding.datagram);
        let sent = self.transmit(peer, &datagram);
        if let Some(outstanding) = peer.outstanding.get_mut(&mid) {
            outstanding.datagram = datagram;
            if sent && !std::mem::replace(&mut outstanding.sent, true) {
                outstanding.moves = moves;
            }
        }
        sent
    }
}

impl Peer {
    /// What the confirmable message of ours with this id is, if one waits for its ACK.
    pub(super) fn purpose(&self, mid: u16) -> Option<Purpose> {
        self.outstanding.get(&mid).map(|it| it.purpose)
    }
}
