//! Confirmable messages of ours: retransmission until they are acknowledged, reset, or given up (RFC 7252, 4.2).

use std::time::{Duration, Instant};

use super::contract::{Event, ObservationId, RequestId};
use super::endpoint::{Endpoint, Timer};
use super::timers::TimerKey;

/// What a confirmable message of ours was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A notification.
    Notification(ObservationId),
    /// A response that was not ready in time to go with the ACK.
    Response,
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
}

impl Outstanding {
    pub(crate) fn timer(&self) -> TimerKey {
        self.timer
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        let mut timers = super::timers::Timers::new();
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let timer = timers.set(Instant::now(), ());
        Self {
            datagram: Box::default(),
            retries: 0,
            timeout: Duration::ZERO,
            timer,
            purpose: Purpose::Response,
        }
    }
}

impl Endpoint {
    /// Sends a confirmable message and keeps it until it is acknowledged.
    pub(super) fn send_confirmable(
        &mut self,
        now: Instant,
        slot: usize,
        mid: u16,
        datagram: Vec<u8>,
        purpose: Purpose,
    ) {
        self.transmit(slot, &datagram);
        let timeout = self.parameters.first_timeout(&mut self.rng);
        let timer = self.timers.set(now + timeout, Timer::Retransmit { slot, mid });
        let Some(peer) = self.peers.get_mut(slot) else {
            self.timers.cancel(timer);
            return;
        };
        if purpose == Purpose::Response {
            peer.separate += 1;
            self.separate += 1;
        }
        peer.outstanding.insert(
            mid,
            Outstanding {
                datagram: datagram.into_boxed_slice(),
                retries: 0,
                timeout,
                timer,
                purpose,
            },
        );
    }

    /// Ends the wait for an ACK: it came, or nobody wants it any more.
    pub(super) fn settle(&mut self, slot: usize, mid: u16) -> Option<Purpose> {
        let peer = self.peers.get_mut(slot)?;
        let outstanding = peer.outstanding.remove(&mid)?;
        if outstanding.purpose == Purpose::Response {
            peer.separate = peer.separate.saturating_sub(1);
            self.separate = self.separate.saturating_sub(1);
        }
        self.timers.cancel(outstanding.timer);
        Some(outstanding.purpose)
    }

    /// Ends the wait for the ACK of a request of ours, if it still waits.
    pub(super) fn settle_request(&mut self, slot: usize, mid: u16, request: RequestId) {
        if self.purpose(slot, mid) == Some(Purpose::Request(request)) {
            self.settle(slot, mid);
        }
    }

    /// What the confirmable message of ours with this id is, if one waits for its ACK.
    pub(super) fn purpose(&self, slot: usize, mid: u16) -> Option<Purpose> {
        self.peers.get(slot)?.outstanding.get(&mid).map(|it| it.purpose)
    }

    /// An ACK, empty or with a response in it. What it acknowledged, if it belonged to a message of ours.
    pub(super) fn on_acknowledgement(&mut self, now: Instant, slot: usize, mid: u16) -> Option<Purpose> {
        let Some(purpose) = self.settle(slot, mid) else {
            if let Some(peer) = self.peers.get_mut(slot) {
                peer.guessed();
            }
            return None;
        };
        let peer = self.peers.get(slot)?;
        let id = peer.id;
        if peer.is_believed() {
            self.peers.set_proven(slot);
        }
        self.events.push_back(Event::Alive { peer: id });
        if let Purpose::Notification(observation) = purpose {
            self.notification_acknowledged(now, slot, observation);
        }
        Some(purpose)
    }

    /// A RST. Whether it belonged to a message of ours.
    pub(super) fn on_reset(&mut self, now: Instant, slot: usize, mid: u16) -> bool {
        match self.settle(slot, mid) {
            Some(Purpose::Notification(observation)) => self.notification_reset(now, slot, observation),
            Some(Purpose::Request(request)) => self.request_reset(now, slot, request),
            Some(Purpose::Response) => {}
            None => return self.non_notification_reset(now, slot, mid),
        }
        true
    }

    /// The time-out of a confirmable message: sends it again, or gives it up.
    pub(super) fn on_retransmit(&mut self, now: Instant, slot: usize, mid: u16) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let Some(outstanding) = peer.outstanding.get_mut(&mid) else {
            return;
        };
        let purpose = outstanding.purpose;
        if outstanding.retries >= self.parameters.max_retransmit {
            self.settle(slot, mid);
            match purpose {
                Purpose::Notification(observation) => self.notification_timed_out(now, slot, observation),
                Purpose::Request(request) => self.request_timed_out(now, slot, request),
                Purpose::Response => {}
            }
            return;
        }
        outstanding.retries += 1;
        outstanding.timeout = outstanding.timeout.saturating_mul(2);
        outstanding.timer = self
            .timers
            .set(now + outstanding.timeout, Timer::Retransmit { slot, mid });
        let datagram = std::mem::take(&mut outstanding.datagram);
        peer.retransmissions += 1;
        self.metrics.retransmissions.inc();
        self.transmit(slot, &datagram);
        if let Some(outstanding) = self
            .peers
            .get_mut(slot)
            .and_then(|peer| peer.outstanding.get_mut(&mid))
        {
            outstanding.datagram = datagram;
        }
        if let Purpose::Notification(observation) = purpose {
            self.notification_stalled(now, slot, observation);
        }
    }
}
