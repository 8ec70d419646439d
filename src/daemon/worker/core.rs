//! What a worker drives: the core behind the methods of [`crate::gateway::contract`].

use std::time::Instant;

use crate::gateway::Gateway;
use crate::gateway::contract::{Input, Output};
use crate::types::Transmits;

impl Core for Gateway {
    fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.handle(now, input);
    }

    fn transmits(&self) -> &Transmits {
        self.transmits()
    }

    fn transmits_sent(&mut self) {
        self.transmits_sent();
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.poll_output()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }
}

/// A pure state machine that a [`super::Worker`] feeds and drains.
pub trait Core {
    /// Takes in a datagram, a message, an answer or a command.
    fn handle(&mut self, now: Instant, input: Input<'_>);
    /// The datagrams to send.
    fn transmits(&self) -> &Transmits;
    /// They were sent, or counted as send errors.
    fn transmits_sent(&mut self);
    /// The next thing that it wants done; none when all is said.
    fn poll_output(&mut self) -> Option<Output>;
    /// When [`Core::handle_timeout`] is due; none when nothing waits for time to pass.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Does what was due at [`Core::poll_timeout`].
    fn handle_timeout(&mut self, now: Instant);
}
