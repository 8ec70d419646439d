//! A worker's access to the embedded broker.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::store::Answer;
use super::{Shared, Subscriber};
use crate::link::{Delivery, QueueReceiver};
use crate::metrics::LaneMetrics;
use crate::record;
use crate::topics::Sums;
use portcullis_proto::bridge::content;
use portcullis_proto::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest, FilterId, Ticket};
use portcullis_proto::coap::contract::Preconditions;
use portcullis_proto::types::{Message, TopicFilter, TopicName};

/// What one worker asks the embedded broker with.
pub(crate) struct Access {
    worker: usize,
    shared: Arc<Shared>,
    /// The ways to all workers, its own among them.
    workers: Vec<Delivery>,
    metrics: Arc<LaneMetrics>,
    found: Vec<Subscriber>,
    sums: Sums,
}

/// Where a worker's own events go.
pub(crate) struct Own<'a> {
    /// The queue in which others send it theirs.
    pub(crate) queue: &'a QueueReceiver<BrokerEvent>,
    /// What it takes in before anything else.
    pub(crate) at_hand: &'a mut VecDeque<BrokerEvent>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

impl Access {
    pub(crate) fn new(
        worker: usize,
        shared: Arc<Shared>,
        workers: Vec<Delivery>,
        metrics: Arc<LaneMetrics>,
    ) -> Self {
        Self {
            worker,
            shared,
            workers,
            metrics,
            found: Vec::new(),
            sums: Sums::default(),
        }
    }

    /// Does what is asked, and answers it unless that takes the disk or a long search.
    pub(crate) fn ask(&mut self, request: BrokerRequest, own: &mut Own<'_>) {
        match request {
            BrokerRequest::Publish { ticket, message } => self.take(ticket, &message, None, own),
            BrokerRequest::PublishIf {
                ticket,
                message,
                preconditions,
            } => self.take(ticket, &message, Some(&preconditions), own),
            BrokerRequest::Subscribe {
                ticket,
                filter_id,
                filter,
                qos: _,
                retained,
            } => self.subscribe(ticket, filter_id, filter, retained, own),
            BrokerRequest::Unsubscribe { filter_id } => self.shared.unsubscribe((self.worker, filter_id)),
            BrokerRequest::Restore {
                filter_id, filter, ..
            } => self.shared.subscribe((self.worker, filter_id), &filter),
            // Subscriptions to the embedded broker end with the process.
            BrokerRequest::Abandon { .. } | BrokerRequest::Restored => {}
            BrokerRequest::ReadRetained { ticket, topic } => self.read(ticket, &topic, own),
        }
    }

    fn take(
        &mut self,
        ticket: Ticket,
        message: &Arc<Message>,
        preconditions: Option<&Preconditions>,
        own: &mut Own<'_>,
    ) {
        self.metrics.sent.inc();
        let answer = if message.retain {
            self.publish_retained(ticket, message, preconditions, own)
        } else {
            self.publish(message, own);
            Ok(Answer::Now)
        };
        match answer {
            Ok(Answer::Now) => self.published(ticket, Ok(()), own),
            Ok(Answer::WhenDurable) => {}
            Err(error) => self.published(ticket, Err(error), own),
        }
    }

    /// Hands other workers what it has for them.
    pub(crate) fn flush(&mut self) {
        self.workers.iter_mut().for_each(Delivery::flush);
    }

    fn publish(&mut self, message: &Arc<Message>, own: &mut Own<'_>) {
        let expired = message.expires_at.is_some() && message.is_expired((self.shared.clock.now)());
        if !expired {
            self.deliver(message, own);
        }
    }

    fn publish_retained(
        &mut self,
        ticket: Ticket,
        message: &Arc<Message>,
        preconditions: Option<&Preconditions>,
        own: &mut Own<'_>,
    ) -> Result<Answer, BrokerError> {
        let moment = self.shared.clock.moment();
        let expired = message.is_expired(moment.now);
        let record = (!expired && !message.payload.is_empty()).then(|| {
            let mut bytes = Vec::with_capacity(message.payload.len() + 128);
            record::encode(message, None, moment, &mut bytes);
            bytes
        });
        let shared = Arc::clone(&self.shared);
        let mut store = shared.store();
        if let Some(preconditions) = preconditions {
            let state = store.get(&message.topic, moment.now);
            if !preconditions.hold(state.as_deref().map(content::etag_of)) {
                return Err(BrokerError::Changed);
            }
        }
        let answer = store.retain(moment.now, (self.worker, ticket), message, record)?;
        if !expired {
            self.deliver(message, own);
            self.flush();
        }
        Ok(answer)
    }

    fn deliver(&mut self, message: &Arc<Message>, own: &mut Own<'_>) {
        self.found.clear();
        self.shared
            .matching(&message.topic, &mut self.sums, &mut self.found);
        if self.found.is_empty() {
            return;
        }
        self.found.sort_unstable();
        let found = std::mem::take(&mut self.found);
        for group in found.chunk_by(|a, b| a.0 == b.0) {
            let filters = group.iter().map(|(_, filter)| *filter).collect();
            if let Some((worker, _)) = group.first() {
                self.deliver_to(*worker, filters, message, own);
            }
        }
        self.found = found;
    }

    fn deliver_to(
        &mut self,
        worker: usize,
        filters: Box<[FilterId]>,
        message: &Arc<Message>,
        own: &mut Own<'_>,
    ) {
        let at_once = worker == self.worker && self.is_first(own);
        let delivered = if at_once {
            own.at_hand.push_back(BrokerEvent::Message {
                filters,
                message: Arc::clone(message),
                receipt: None,
            });
            true
        } else {
            let worker = self.workers.get_mut(worker);
            worker.is_some_and(|worker| worker.message(filters, message, None))
        };
        if delivered {
            self.metrics.received.inc();
        } else {
            self.metrics.undelivered.inc();
        }
    }

    /// Whether nothing else waits for the own worker, which an event at hand would overtake.
    fn is_first(&self, own: &Own<'_>) -> bool {
        own.queue.is_empty() && self.workers.get(self.worker).is_none_or(Delivery::is_empty)
    }

    /// Tells the own worker, behind what waits for it.
    fn tell(&mut self, event: BrokerEvent, own: &mut Own<'_>) {
        if self.is_first(own) {
            own.at_hand.push_back(event);
        } else if let Some(worker) = self.workers.get_mut(self.worker) {
            worker.answer(event);
            worker.flush();
        }
    }

    fn subscribe(
        &mut self,
        ticket: Ticket,
        filter_id: FilterId,
        filter: TopicFilter,
        retained: bool,
        own: &mut Own<'_>,
    ) {
        if filter.as_str().starts_with("$share/") {
            let result = Err(BrokerError::Refused);
            return self.tell(BrokerEvent::Subscribed { ticket, result }, own);
        }
        let shared = Arc::clone(&self.shared);
        let mut store = shared.store();
        shared.subscribe((self.worker, filter_id), &filter);
        let found = if retained {
            let now = (shared.clock.now)();
            store.find(now, (self.worker, ticket), filter)
        } else {
            Some(Vec::new())
        };
        // Under the lock: what is retained from here on comes behind this answer.
        if let Some(found) = found {
            let result = Ok(found);
            self.tell(BrokerEvent::Subscribed { ticket, result }, own);
        } else {
            shared.wake_keeper();
        }
    }

    fn read(&mut self, ticket: Ticket, topic: &TopicName, own: &mut Own<'_>) {
        let now = (self.shared.clock.now)();
        let result = Ok(self.shared.store().get(topic, now));
        self.tell(BrokerEvent::Retained { ticket, result }, own);
    }

    fn published(&self, ticket: Ticket, result: Result<(), BrokerError>, own: &mut Own<'_>) {
        if result.is_ok() {
            self.metrics.accepted.inc();
            self.metrics.acknowledged.inc();
            self.metrics.ack_seconds.observe(Duration::ZERO);
        } else {
            self.metrics.refused.inc();
        }
        own.at_hand.push_back(BrokerEvent::Published { ticket, result });
    }
}
