//! What becomes of what waits: when its time is up, and when its peer is forgotten.

use std::time::Instant;

use crate::coap::contract::{Event, NotificationOutcome, RequestError};
use crate::coap::metrics::NotificationResult;
use crate::coap::peer::{Peer, PeerTable};
use crate::coap::reliability::Purpose;

use super::{Endpoint, Timeout};

impl Endpoint {
    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant, peers: &mut impl PeerTable) {
        self.saw_time(now);
        while let Some(timer) = self.timers.pop_due(now) {
            let id = match timer {
                Timeout::Retransmit { peer, .. } | Timeout::Request { peer, .. } => Some(peer),
                Timeout::Exchange { at } => self.exchanges.get(at).map(|exchange| exchange.peer),
            };
            // The timers of a peer end with it.
            let Some(peer) = id.and_then(|id| peers.coap(id)) else {
                continue;
            };
            match timer {
                Timeout::Retransmit { mid, .. } => self.on_retransmit(now, peer, mid),
                Timeout::Exchange { at } => self.on_exchange_timeout(now, peer, at),
                Timeout::Request { request, .. } => self.request_timed_out(now, peer, request),
            }
        }
        self.dedup.expire(now);
        self.transfers.expire(now);
    }

    /// The time-out of a confirmable message: sends it again, or gives it up.
    fn on_retransmit(&mut self, now: Instant, peer: &mut Peer, mid: u16) {
        match self.repeat(now, peer, mid) {
            Some((Purpose::Notification(observation), true)) => {
                self.notification_stalled(now, peer, observation)
            }
            Some((Purpose::Notification(observation), false)) => {
                self.notification_timed_out(now, peer, observation)
            }
            Some((Purpose::Request(_), true)) => self.pump(now, peer),
            Some((Purpose::Request(request), false)) => self.request_unreached(now, peer, request),
            Some((Purpose::Response(Some(id)), false)) => {
                self.beginning_concluded(now, peer, id, NotificationOutcome::TimedOut);
            }
            Some((Purpose::Response(_), _)) | None => {}
        }
    }

    /// Forgets all of a peer but the messages of it that were handled: they may come again. Requests of ours to it end with
    /// [`RequestError::Gone`]; other events about it no longer come.
    pub fn forget(&mut self, mut peer: Peer) {
        self.fail_requests(&mut peer, RequestError::Gone);
        self.transfers.remove_peer(peer.id);
        for outstanding in peer.outstanding.values() {
            self.timers.cancel(outstanding.timer());
        }
        while let Some(at) = peer.exchanges.first().copied() {
            self.remove_exchange(&mut peer, at);
        }
        if let Some(observing) = peer.observing.take() {
            for confirmable in observing.unsettled() {
                self.metrics
                    .notification(confirmable, NotificationResult::Dropped);
            }
            self.weigh_queue(&mut peer);
        }
        self.events.retain(|event| match event {
            Event::Request { peer: of, .. }
            | Event::Notified { peer: of, .. }
            | Event::Alive { peer: of } => *of != peer.id,
            Event::Answered { .. } | Event::Unanswered { .. } => true,
        });
    }
}
