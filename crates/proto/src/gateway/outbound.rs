//! Messages out: answers to the message layer, and what it wants sent to its peers, sealed where they speak DTLS.

use std::time::Instant;

use super::Gateway;
use super::contract::{ControlAnswer, Output};
use crate::coap::contract::{ExchangeId, Notification, ObservationId, RequestError, RequestId, Response};

impl Gateway {
    /// Answers a request that arrived at `arrived`.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        arrived: Instant,
        exchange: ExchangeId,
        response: Response,
    ) {
        self.metrics
            .request_seconds
            .observe(now.saturating_duration_since(arrived));
        self.coap.respond(now, &mut self.peers, exchange, response);
    }

    /// A device answered a request of ours, or did not.
    pub(super) fn device_answered(&mut self, request: RequestId, result: Result<Response, RequestError>) {
        if let Some(ticket) = self.device_requests.remove(&request) {
            self.outputs.push_back(Output::Control {
                ticket,
                answer: ControlAnswer::Answered(result),
            });
        }
    }

    /// Sends an error that ends an observation (RFC 7641, 4.2); not confirmable: the observation ends either way.
    pub(super) fn send_last(&mut self, now: Instant, id: ObservationId, response: Response) {
        let Some(observation) = self.subscriptions.get_mut(id) else {
            return;
        };
        let notification = Notification {
            token: observation.terms.token,
            resource: observation.terms.resource.clone(),
            confirmable: false,
            observe: observation.next_sequence(),
            code: response.code,
            payload: response.payload,
            content_format: None,
            expires_at: None,
        };
        let holder = observation.holder;
        if let Some(peer) = self.place_of(holder).and_then(|peer| self.peers.get_mut(peer)) {
            self.coap.notify(now, &mut peer.coap, id, notification);
        }
    }

    /// Hands what the message layer wants sent to the sockets, through DTLS where the peer has a session.
    pub(super) fn flush(&mut self, now: Instant) {
        let Self {
            coap,
            peers,
            dtls,
            transmits,
            traces,
            connections,
            ..
        } = self;
        coap.drain_transmits(|id, bytes| {
            let Some(peer) = peers.get(id) else { return };
            let sealed = match peer.session {
                None => {
                    transmits.push(peer.listener, peer.address, bytes);
                    true
                }
                // A session that cannot seal any more says so as an event of its own.
                Some(session) => dtls
                    .get_mut(usize::from(peer.listener.0))
                    .and_then(Option::as_mut)
                    .is_some_and(|dtls| dtls.send(session, bytes, transmits).is_ok()),
            };
            if !traces.is_empty() {
                traces.sent(now, &peer.seen(id, connections), bytes, sealed);
            }
        });
    }
}
