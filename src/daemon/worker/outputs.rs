//! Doing what the core wants done.

use crate::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest};
use crate::daemon::clock;
use crate::daemon::core::Core;
use crate::gateway::contract::{Input, Output};
use crate::policy::authentication::{AuthRequest, Verdict};
use crate::policy::failures::Class;

use super::Worker;

impl<C: Core> Worker<C> {
    pub(super) fn drain_outputs(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Broker(request) => self.ask_broker(request),
                Output::Authenticate { request, class } => self.authenticate(request, class),
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
        match self.ports.broker.requests.try_send(request) {
            Ok(()) => self.unanswered += u64::from(answered),
            Err(request) => {
                self.metrics.channel_full.inc();
                if let Some(event) = refusal(&request) {
                    self.core.handle(clock::now(), Input::Broker(event));
                }
            }
        }
    }

    /// Hands a login to the backends, or their being full back to the core.
    fn authenticate(&mut self, request: AuthRequest, class: Class) {
        let ticket = request.ticket;
        let to = self.ports.verdicts_to.clone();
        // A worker that ended waits for no verdict.
        let reply = Box::new(move |answer| drop(to.send(answer)));
        let taken = self
            .ports
            .auth
            .as_ref()
            .is_some_and(|auth| auth.try_submit(request, class, reply).is_ok());
        if taken {
            self.unanswered += 1;
        } else {
            self.metrics.channel_full.inc();
            let verdict = Verdict::Unavailable;
            self.core
                .handle(clock::now(), Input::Authenticated { ticket, verdict });
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
