//! Doing what the core wants done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::auth::KeyRequest;
use crate::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest};
use crate::daemon::clock;
use crate::daemon::worker::core::Core;
use crate::gateway::contract::{Input, Output};
use crate::gateway::workers::WorkerMessage;
use crate::group::Sent;
use crate::policy::authentication::{AuthRequest, Verdict};
use crate::policy::failures::Class;
use crate::session::KeyAnswer;
use crate::types::{ListenerId, PeerAddr, WorkerId};

use super::{TRANSMITS, Word, Worker, WorkerError};

/// Notifications that wait for one worker to have room: one message may have as many observers there.
const UNSENT_NOTIFICATIONS: usize = 65_536;

impl<C: Core> Worker<C> {
    /// Does what the core wants done and sends what it wants sent.
    pub(super) async fn settle(&mut self) -> Result<(), WorkerError> {
        let mut more = true;
        while more {
            more = self.drain_outputs();
            self.flush_broker();
            self.transmit().await?;
        }
        Ok(())
    }

    pub(super) async fn transmit(&mut self) -> Result<(), WorkerError> {
        if !self.core.transmits().is_empty() {
            let waiting = self.core.transmits();
            match &self.ports.links {
                None => self.outbox.flush(&mut self.sockets, waiting.iter()).await?,
                Some(links) => {
                    for (_, to, bytes) in waiting.iter() {
                        if let Some(via) = to.via() {
                            self.metrics.returned.inc(links.answer(via, to, bytes));
                        }
                    }
                    let here = waiting.iter().filter(|(_, to, _)| to.via().is_none());
                    self.outbox.flush(&mut self.sockets, here).await?;
                }
            }
            self.send_in_streams();
            self.core.transmits_sent();
        }
        Ok(())
    }

    /// Returns whether there is more to do once what is to be sent has left.
    pub(super) fn drain_outputs(&mut self) -> bool {
        self.pass_on();
        let now = clock::now();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Broker(request) => self.ask_broker(now, request),
                Output::Authenticate { request, class } => self.authenticate(request, class),
                Output::FindKeys {
                    listener,
                    ticket,
                    from,
                    identity,
                } => self.find_keys(ticket, (listener, from), identity),
                Output::Worker { to, message } => self.tell(to, message),
                Output::Forward {
                    node,
                    listener,
                    from,
                    record,
                } => {
                    let links = self.ports.links.as_ref();
                    let sent = links.map(|links| links.forward(node, listener, from, &record));
                    self.metrics.forwarded.inc(sent.unwrap_or(Sent::UnknownNode));
                }
                Output::Seek(seek) => {
                    let seeks = self.ports.seeks.as_ref();
                    if seeks.is_none_or(|seeks| seeks.try_send(seek).is_err()) {
                        self.metrics.seeks_lost.inc();
                    }
                }
                Output::Event(event) => {
                    if self.ports.events.try_send((clock::wall(), event)).is_err() {
                        self.metrics.events_lost.inc();
                    }
                }
                Output::Control { ticket, answer } => {
                    if let Some(reply) = self.tickets.remove(&ticket) {
                        // Whoever asked may have gone.
                        drop(reply.send(answer));
                    }
                }
            }
            if self.core.transmits().len() >= TRANSMITS {
                return true;
            }
        }
        false
    }

    /// Tells another worker. A request that its inbox has no room for goes back to the core, and so does a notification behind
    /// too many others. The rest waits here, in order, and is not lost: of a connection that ended somebody has to hear. What
    /// may wait is bounded by what the core lets begin, connections and observations.
    fn tell(&mut self, to: WorkerId, message: WorkerMessage) {
        let index = usize::from(to.0);
        if self.unsent.len() <= index {
            self.unsent.resize_with(index + 1, VecDeque::new);
        }
        let (Some(waiting), Some(worker)) = (self.unsent.get_mut(index), self.ports.workers.get(index))
        else {
            return;
        };
        let asks = message.asks();
        let room = match message.may_be_refused() {
            true if asks => usize::from(worker.capacity() > 0),
            true => UNSENT_NOTIFICATIONS,
            false => usize::MAX,
        };
        if waiting.len() >= room {
            self.metrics.channel_full.inc();
            return self.core.handle(clock::now(), Input::Refused(message));
        }
        self.asked += u64::from(asks);
        waiting.push_back(message);
        if waiting.len() > 1 || !hand_over(waiting, worker) {
            self.metrics.channel_full.inc();
        }
    }

    /// Hands over what other workers had no room for.
    fn pass_on(&mut self) {
        for (waiting, worker) in self.unsent.iter_mut().zip(&self.ports.workers) {
            hand_over(waiting, worker);
        }
    }

    /// Hands a request to the broker, and what that answers at once, or its failure, back to the core.
    fn ask_broker(&mut self, now: Instant, request: BrokerRequest) {
        let answered = request.is_answered();
        match self.ports.broker.ask(request) {
            Ok(()) => self.unanswered += u64::from(answered),
            Err(request) => self.refuse(now, &request),
        }
        while let Some(event) = self.ports.broker.next_at_hand() {
            self.note_answer(&event);
            self.core.handle(now, Input::Broker(event));
        }
    }

    fn refuse(&mut self, now: Instant, request: &BrokerRequest) {
        self.metrics.channel_full.inc();
        if let Some(event) = refusal(request) {
            self.core.handle(now, Input::Broker(event));
        }
    }

    /// Lets what was asked of the broker, and what it has for other workers, leave. The answers that the broker gave at once must
    /// not leave before: who gets one may act on what others have not seen yet.
    pub(super) fn flush_broker(&mut self) {
        for request in self.ports.broker.flush() {
            let answered = request.is_answered();
            self.unanswered = self.unanswered.saturating_sub(u64::from(answered));
            self.refuse(clock::now(), &request);
        }
    }

    /// Hands a login to the backends, or their being full back to the core.
    fn authenticate(&mut self, request: AuthRequest, class: Class) {
        let ticket = request.ticket;
        let to = self.ports.verdicts_to.clone();
        // A worker that ended waits for no verdict.
        let reply = Box::new(move |answer| drop(to.send(Word::Verdict(answer))));
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

    /// Asks for the keys of a PSK identity.
    fn find_keys(&mut self, ticket: u64, (listener, peer): (ListenerId, PeerAddr), identity: Arc<str>) {
        let to = self.ports.verdicts_to.clone();
        let reply = move |answer| {
            // A worker that ended waits for no keys.
            drop(to.send(Word::Keys {
                listener,
                ticket,
                answer,
            }));
        };
        match &self.ports.auth {
            Some(auth) => {
                let request = KeyRequest {
                    listener,
                    peer,
                    identity,
                };
                auth.find_keys(request, Box::new(reply));
            }
            None => reply(KeyAnswer::Unavailable),
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

/// Hands over what waits, as far as there is room. Whether all of it went, or nobody is there to take it.
fn hand_over(waiting: &mut VecDeque<WorkerMessage>, to: &mpsc::Sender<WorkerMessage>) -> bool {
    while let Some(message) = waiting.pop_front() {
        match to.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => {
                waiting.push_front(message);
                return false;
            }
            // It has ended, and with it the process will.
            Err(TrySendError::Closed(_)) => waiting.clear(),
        }
    }
    true
}

/// The answer to a request that the broker cannot take now; none where none is expected.
fn refusal(request: &BrokerRequest) -> Option<BrokerEvent> {
    match *request {
        BrokerRequest::Publish { ticket, .. } | BrokerRequest::PublishIf { ticket, .. } => {
            Some(BrokerEvent::Published {
                ticket,
                result: Err(BrokerError::Unavailable),
            })
        }
        BrokerRequest::Subscribe { ticket, .. } => Some(BrokerEvent::Subscribed {
            ticket,
            result: Err(BrokerError::Unavailable),
        }),
        BrokerRequest::ReadRetained { ticket, .. } => Some(BrokerEvent::Retained {
            ticket,
            result: Err(BrokerError::Unavailable),
        }),
        BrokerRequest::Unsubscribe { .. }
        | BrokerRequest::Restore { .. }
        | BrokerRequest::Abandon { .. }
        | BrokerRequest::Restored => None,
    }
}
