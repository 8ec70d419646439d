//! Doing what the core wants done.

use tokio::sync::mpsc::error::TrySendError;

use crate::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest};
use crate::daemon::clock;
use crate::daemon::core::Core;
use crate::gateway::contract::{Input, Output};

use super::Worker;

impl<C: Core> Worker<C> {
    pub(super) fn drain_outputs(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Broker(request) => self.ask_broker(request),
                Output::Worker { to, message } => {
                    let sent = self
                        .ports
                        .workers
                        .get(usize::from(to.0))
                        .map(|worker| worker.try_send(message));
                    if !matches!(sent, Some(Ok(()))) {
                        self.metrics.channel_full.inc();
                    }
                }
                Output::Control { ticket, answer } => {
                    if let Some(reply) = self.tickets.remove(&ticket) {
                        // Whoever asked may have gone.
                        drop(reply.send(answer));
                    }
                }
            }
        }
    }

    /// Hands a request to the broker, or its failure back to the core.
    fn ask_broker(&mut self, request: BrokerRequest) {
        let answered = !matches!(request, BrokerRequest::Unsubscribe { .. });
        match self.ports.broker.try_send(request) {
            Ok(()) => self.unanswered += u64::from(answered),
            Err(TrySendError::Full(request) | TrySendError::Closed(request)) => {
                self.metrics.channel_full.inc();
                match refusal(&request) {
                    Some(event) => self.core.handle(clock::now(), Input::Broker(event)),
                    // An unsubscription that is lost would leave the broker sending for ever. Their number is bounded by
                    // that of the filters that stand.
                    None => self.late.push_back(request),
                }
            }
        }
    }

    /// Tries again what may not be lost.
    pub(super) fn retry_late(&mut self) {
        while let Some(request) = self.late.pop_front() {
            if let Err(TrySendError::Full(request)) = self.ports.broker.try_send(request) {
                self.late.push_front(request);
                return;
            }
        }
    }

    /// Counts down what the broker still owes.
    pub(super) fn note_answer(&mut self, event: &BrokerEvent) {
        let answer = matches!(
            event,
            BrokerEvent::Published { .. } | BrokerEvent::Subscribed { .. } | BrokerEvent::Retained { .. }
        );
        self.unanswered = self.unanswered.saturating_sub(u64::from(answer));
    }
}

/// The answer to a request that the broker cannot take now; none where none is expected.
fn refusal(request: &BrokerRequest) -> Option<BrokerEvent> {
    match *request {
        BrokerRequest::Publish { ticket, .. } => Some(BrokerEvent::Published {
            ticket,
            result: Err(BrokerError::Unavailable),
        }),
        BrokerRequest::Subscribe { ticket, .. } => Some(BrokerEvent::Subscribed {
            ticket,
            result: Err(BrokerError::Unavailable),
        }),
        BrokerRequest::ReadRetained { ticket, .. } => Some(BrokerEvent::Retained {
            ticket,
            result: Err(BrokerError::Unavailable),
        }),
        BrokerRequest::Unsubscribe { .. } => None,
    }
}
