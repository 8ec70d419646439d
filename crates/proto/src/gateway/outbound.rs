//! Messages out: answers to the message layer, and what it wants sent to its peers, sealed where they speak DTLS.

use std::time::Instant;

use super::Gateway;
use super::contract::{ControlAnswer, Output};
use crate::coap::contract::{RequestError, RequestId, Response};

impl Gateway {
    /// A device answered a request of ours, or did not.
    pub(super) fn device_answered(&mut self, request: RequestId, result: Result<Response, RequestError>) {
        if let Some(ticket) = self.device_requests.remove(&request) {
            self.agenda.output(Output::Control {
                ticket,
                answer: ControlAnswer::Answered(result),
            });
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
                traces.sent(now, &peer.seen(id), bytes, sealed);
            }
        });
    }
}
