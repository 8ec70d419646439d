//! The smallest core: every datagram goes back to where it came from. What the shell costs is measured with it.

use std::time::Instant;

use crate::gateway::contract::{ControlAnswer, ControlRequest, Input, Output};
use crate::types::{PeerAddr, Transmits};

use super::worker::core::Core;

/// Sends every datagram back, and `bye` to the latest peer when it is drained.
#[derive(Debug, Default)]
pub struct Echo {
    transmits: Transmits,
    answer: Option<u64>,
    latest: Option<(crate::types::ListenerId, PeerAddr)>,
}

impl Core for Echo {
    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram {
                listener,
                from,
                local,
                bytes,
            } => {
                if let Some(peer) = PeerAddr::new(from).map(|peer| peer.writing_to(local)) {
                    self.latest = Some((listener, peer));
                    self.transmits.push(listener, peer, bytes);
                }
            }
            Input::Control { ticket, request } => {
                self.answer = Some(ticket);
                if let (ControlRequest::Drain { .. }, Some((listener, peer))) = (request, self.latest) {
                    self.transmits.push(listener, peer, b"bye");
                }
            }
            Input::Stream { .. }
            | Input::Broker(_)
            | Input::Worker(_)
            | Input::Refused(_)
            | Input::Authenticated { .. }
            | Input::KeysFound { .. } => {}
        }
    }

    fn transmits(&self) -> &Transmits {
        &self.transmits
    }

    fn transmits_sent(&mut self) {
        self.transmits.clear();
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.answer.take().map(|ticket| Output::Control {
            ticket,
            answer: ControlAnswer::Done,
        })
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _now: Instant) {}
}
