//! A broker that takes its time, refuses now and then, and sometimes says that it failed although it did not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::bridge::contract::{BrokerError, BrokerEvent, BrokerRequest, FilterId};
use portcullis::types::{Message, TopicFilter};

use crate::chance::Chance;

#[derive(Default)]
pub(crate) struct Broker {
    subscriptions: Vec<(usize, FilterId, TopicFilter)>,
    retained: HashMap<String, Arc<Message>>,
    /// What it took, in order.
    pub(crate) taken: Vec<Arc<Message>>,
    /// Until when each worker's events are under way: they arrive in order.
    busy: HashMap<usize, Instant>,
    /// Whether it makes trouble.
    pub(crate) is_lying: bool,
}

impl Broker {
    /// What comes of a request: events for workers, each with its time.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        worker: usize,
        request: BrokerRequest,
        chance: &mut Chance,
    ) -> Vec<(Instant, usize, BrokerEvent)> {
        let fails = self.is_lying && chance.percent(10);
        let mut events = Vec::new();
        match request {
            BrokerRequest::Publish { ticket, message } | BrokerRequest::PublishIf { ticket, message, .. } => {
                // One that fails may have been taken all the same.
                if !fails || chance.percent(50) {
                    self.take(&message, &mut events);
                }
                let result = if fails {
                    Err(BrokerError::Unavailable)
                } else {
                    Ok(())
                };
                events.push((worker, BrokerEvent::Published { ticket, result }));
            }
            BrokerRequest::Subscribe {
                ticket,
                filter_id,
                filter,
                retained,
                ..
            } => {
                let mut found: Vec<_> = self
                    .retained
                    .values()
                    .filter(|message| retained && filter.matches(&message.topic))
                    .cloned()
                    .collect();
                found.sort_by(|a, b| a.topic.as_str().cmp(b.topic.as_str()));
                if !fails && !self.subscriptions.iter().any(|(_, id, _)| *id == filter_id) {
                    self.subscriptions.push((worker, filter_id, filter));
                }
                let result = if fails {
                    Err(BrokerError::Unavailable)
                } else {
                    Ok(found)
                };
                events.push((worker, BrokerEvent::Subscribed { ticket, result }));
            }
            BrokerRequest::Unsubscribe { filter_id } => {
                self.subscriptions.retain(|(_, id, _)| *id != filter_id)
            }
            BrokerRequest::Restore {
                filter_id, filter, ..
            } => {
                if !self.subscriptions.iter().any(|(_, id, _)| *id == filter_id) {
                    self.subscriptions.push((worker, filter_id, filter));
                }
            }
            BrokerRequest::Abandon { .. } | BrokerRequest::Restored => {}
            BrokerRequest::ReadRetained { ticket, topic } => {
                let result = if fails {
                    Err(BrokerError::Unavailable)
                } else {
                    Ok(self.retained.get(topic.as_str()).cloned())
                };
                events.push((worker, BrokerEvent::Retained { ticket, result }));
            }
        }
        let most = if self.is_lying { 3_000 } else { 50 };
        let in_order = |(worker, event)| {
            let busy = self.busy.entry(worker).or_insert(now);
            *busy = (*busy).max(now) + chance.millis(0, most) / 4 + Duration::from_micros(1);
            (*busy, worker, event)
        };
        events.into_iter().map(in_order).collect()
    }

    fn take(&mut self, message: &Arc<Message>, events: &mut Vec<(usize, BrokerEvent)>) {
        self.taken.push(Arc::clone(message));
        if message.retain {
            self.retained
                .insert(message.topic.as_str().to_owned(), Arc::clone(message));
        }
        let mut of_worker: HashMap<usize, Vec<FilterId>> = HashMap::new();
        for (worker, id, filter) in &self.subscriptions {
            if filter.matches(&message.topic) {
                of_worker.entry(*worker).or_default().push(*id);
            }
        }
        let mut of_worker: Vec<_> = of_worker.into_iter().collect();
        of_worker.sort_by_key(|(worker, _)| *worker);
        for (worker, filters) in of_worker {
            let event = BrokerEvent::Message {
                filters: filters.into(),
                message: Arc::clone(message),
                receipt: None,
            };
            events.push((worker, event));
        }
    }

    /// Where a payload stands among what was taken, the last time.
    pub(crate) fn place_of(&self, payload: &[u8]) -> Option<usize> {
        self.taken.iter().rposition(|message| message.payload == payload)
    }

    /// The gateways are no more.
    pub(crate) fn forget_subscriptions(&mut self) {
        self.subscriptions.clear();
        self.busy.clear();
    }

    /// Whether it has filters of devices; the gateway's own stay.
    pub(crate) fn has_subscriptions(&self) -> bool {
        let filters = self.subscriptions.iter().map(|(_, _, filter)| filter);
        filters.filter(|filter| !filter.as_str().starts_with('$')).count() > 0
    }
}
