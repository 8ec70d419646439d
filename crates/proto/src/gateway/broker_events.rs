//! What the broker says, to the requests that wait for it and to the observers.

use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use super::metrics::PublishResult;
use super::notify::may_receive;
use super::pending::{Pending, unavailable};
use crate::bridge::content;
use crate::bridge::contract::{BrokerError, BrokerEvent, Ticket};
use crate::bridge::handover::Stage;
use crate::bridge::subscriptions::Holder;
use crate::coap::contract::{Code, ExchangeId, ObservationId, Response};
use crate::types::Message;
use crate::types::reason::Limit;

impl Gateway {
    pub(super) fn broker_event(&mut self, now: Instant, event: BrokerEvent) {
        match event {
            BrokerEvent::Message { filters, message } => self.message(now, &filters, &message),
            BrokerEvent::Published { ticket, result } => self.published(now, ticket, result),
            BrokerEvent::Retained { ticket, result } => self.retained(now, ticket, result),
            BrokerEvent::Subscribed { ticket, result } => self.subscribed(now, ticket, result),
            BrokerEvent::SubscriptionLost { filter_id, error } => {
                while let Some((id, _)) = self.subscriptions.nth_of_filter(filter_id, 0) {
                    self.refuse_observation(now, id, error);
                }
            }
        }
    }

    fn published(&mut self, now: Instant, ticket: Ticket, result: Result<(), BrokerError>) {
        let Some(Pending::Publish {
            exchange,
            arrived,
            success,
        }) = self.pending.remove(&ticket)
        else {
            return;
        };
        self.metrics.publishes.inc(match result {
            Ok(()) => PublishResult::Accepted,
            Err(BrokerError::NotAuthorized) => PublishResult::Denied,
            Err(BrokerError::Refused | BrokerError::TooLarge) => PublishResult::Refused,
            Err(BrokerError::Quota | BrokerError::Unavailable) => PublishResult::Unavailable,
        });
        let response = match result {
            Ok(()) => Response::new(success),
            Err(error) => self.refusal(error),
        };
        self.respond(now, arrived, exchange, response);
    }

    fn retained(&mut self, now: Instant, ticket: Ticket, result: Result<Option<Arc<Message>>, BrokerError>) {
        let Some(Pending::Read {
            exchange,
            arrived,
            accept,
        }) = self.pending.remove(&ticket)
        else {
            return;
        };
        let response = match result {
            Ok(Some(message)) if !message.is_expired(now) => representation(&message, accept),
            Ok(_) if content::is_acceptable(accept) => Response::new(Code::NOT_FOUND),
            Ok(_) => Response::new(Code::NOT_ACCEPTABLE),
            Err(error) => self.refusal(error),
        };
        self.respond(now, arrived, exchange, response);
    }

    fn subscribed(&mut self, now: Instant, ticket: Ticket, result: Result<Vec<Arc<Message>>, BrokerError>) {
        match self.pending.get(&ticket) {
            Some(&Pending::Resume {
                connection,
                observation,
            }) => {
                self.pending.remove(&ticket);
                return self.resumed(now, connection, observation, result.err());
            }
            Some(&Pending::Fence { connection }) => {
                self.pending.remove(&ticket);
                return self.fenced(now, connection);
            }
            _ => {}
        }
        let Some(Pending::Subscribe {
            exchange,
            arrived,
            accept,
            observation: id,
        }) = self.pending.remove(&ticket)
        else {
            return;
        };
        let here = self.subscriptions.get_mut(id);
        let Some(observation) = here.filter(|observation| !matches!(observation.holder, Holder::Moved(_)))
        else {
            // Cancelled, or its client went away, before the broker answered.
            if let Some(exchange) = exchange {
                self.respond(now, arrived, exchange, Response::new(Code::CONTENT));
            }
            return;
        };
        match (result, exchange) {
            (Err(error), Some(exchange)) => {
                self.end_observation(id);
                let response = self.refusal(error);
                self.respond(now, arrived, exchange, response);
            }
            (Err(error), None) => self.refuse_observation(now, id, error),
            (Ok(_), None) => observation.stage = Stage::live(),
            (Ok(messages), Some(exchange)) => {
                observation.stage = Stage::live();
                let asked = Asked {
                    exchange,
                    arrived,
                    accept,
                };
                self.begin_observation(now, id, &asked, messages);
            }
        }
    }

    /// The answer to a subscription carries the first retained message; a wildcard's others follow as notifications.
    fn begin_observation(
        &mut self,
        now: Instant,
        id: ObservationId,
        asked: &Asked,
        messages: Vec<Arc<Message>>,
    ) {
        let Some(observation) = self.subscriptions.get_mut(id) else {
            return;
        };
        let own: Vec<_> = messages
            .into_iter()
            .filter(|message| {
                !message.is_expired(now)
                    && !observation.is_own(message)
                    && may_receive(&self.settings.authorizer, &self.metrics, observation, message)
            })
            .collect();
        let mut messages = own.into_iter();
        let first = messages.next();
        observation.last.clone_from(&first);
        let mut response = first.map_or_else(
            || Response::new(Code::CONTENT),
            |message| representation(&message, asked.accept),
        );
        if response.code != Code::CONTENT {
            // An error ends an observation before it began (RFC 7641, 4.1).
            self.end_observation(id);
            return self.respond(now, asked.arrived, asked.exchange, response);
        }
        response.observe = Some(observation.next_sequence());
        self.respond(now, asked.arrived, asked.exchange, response);
        for message in messages {
            self.notify_one(now, id, &message);
        }
    }

    /// Ends an observation that the broker does not want, and tells its client.
    pub(super) fn refuse_observation(&mut self, now: Instant, id: ObservationId, error: BrokerError) {
        let response = self.refusal(error);
        self.send_last(now, id, response);
        self.end_observation(id);
    }

    fn refusal(&self, error: BrokerError) -> Response {
        match error {
            BrokerError::NotAuthorized => Response::diagnostic(Code::UNAUTHORIZED, "refused by the broker"),
            BrokerError::Refused => Response::diagnostic(Code::BAD_REQUEST, "refused by the broker"),
            BrokerError::TooLarge => {
                self.metrics.limits.inc(Limit::BodySize);
                Response::diagnostic(Code::REQUEST_ENTITY_TOO_LARGE, "larger than the broker takes")
            }
            BrokerError::Quota | BrokerError::Unavailable => unavailable(),
        }
    }
}

/// The request that a subscription answers.
struct Asked {
    exchange: ExchangeId,
    arrived: Instant,
    /// The Content-Format that the client wants.
    accept: Option<u16>,
}

/// The answer that shows a retained message, or 4.06 when it is of another format than the one asked for.
fn representation(message: &Message, accept: Option<u16>) -> Response {
    let format = message.content_type.as_deref().and_then(content::content_format);
    let acceptable = match format {
        Some(_) => accept.is_none() || accept == format,
        None => content::is_acceptable(accept),
    };
    if !acceptable {
        return Response::new(Code::NOT_ACCEPTABLE);
    }
    Response {
        payload: message.payload.clone(),
        content_format: format,
        ..Response::new(Code::CONTENT)
    }
}
