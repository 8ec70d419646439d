//! Requests that wait: for the broker, for another worker, for an authentication backend.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Gateway;
use super::metrics::PublishResult;
use crate::bridge::contract::Ticket;
use crate::coap::contract::{Code, ExchangeId, ObservationId, PeerId, Request, Response};
use crate::policy::connections::{Connection, ConnectionKey};
use crate::policy::failures::Class;
use crate::policy::rate;
use crate::types::ClientId;
use crate::types::reason::Limit;

/// Max-Age of 5.03: when to try again (RFC 7252, 5.9.3.4).
pub(super) const RETRY_SECONDS: u32 = 5;

/// Another worker answers a claim within microseconds; one that does not answer by then is in trouble.
pub(super) const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// A request set aside whole, to be looked at again.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) peer: PeerId,
    pub(super) exchange: ExchangeId,
    pub(super) request: Request,
    pub(super) arrived: Instant,
}

/// What an answer is waited for.
pub(super) enum Pending {
    /// The broker's word on a publish.
    Publish {
        exchange: ExchangeId,
        arrived: Instant,
        success: Code,
    },
    /// The retained message for a plain GET.
    Read {
        exchange: ExchangeId,
        arrived: Instant,
        accept: Option<u16>,
    },
    /// The broker's word on a subscription; no exchange when an operator asked for it.
    Subscribe {
        exchange: Option<ExchangeId>,
        arrived: Instant,
        accept: Option<u16>,
        observation: ObservationId,
    },
    /// The broker's word on the subscription of an observation that moved here.
    Resume {
        connection: ConnectionKey,
        observation: ObservationId,
    },
    /// The broker's word, behind which nothing more comes for an observation that moved away.
    Fence { connection: ConnectionKey },
    /// The home worker's word on a new connection.
    Create(Box<Creation>),
    /// An authentication backend's word.
    Authenticate {
        parked: Box<Parked>,
        /// What was charged for it as a failure that it may turn out to be.
        charge: Option<(Class, IpAddr)>,
    },
    /// A connection that another worker may have.
    Claim(Box<ClaimInFlight>),
}

/// A connection that is made as soon as its home worker agrees.
pub(super) struct Creation {
    pub(super) connection: Connection,
    pub(super) peer: PeerId,
    /// What its client gets as answer; `None` when the handshake is the connection.
    pub(super) exchange: Option<ExchangeId>,
    /// Requests that wait for the connection.
    pub(super) parked: Vec<Parked>,
}

/// A connection that is fetched from another worker.
pub(super) struct ClaimInFlight {
    pub(super) client: ClientId,
    pub(super) peer: PeerId,
    /// Whether to make the connection when nobody has it: the handshake proved the client id.
    pub(super) implicit: bool,
    /// Requests that wait for the connection; the first is the one whose token was presented.
    pub(super) parked: Vec<Parked>,
}

impl Gateway {
    /// Sets something aside until its ticket comes back.
    ///
    /// # Errors
    /// 5.03 when too much waits already.
    pub(super) fn wait(&mut self, pending: Pending) -> Result<Ticket, Response> {
        self.pending_room()?;
        let ticket = self.ticket();
        self.pending.insert(ticket, pending);
        Ok(ticket)
    }

    /// Whether one thing more may wait.
    ///
    /// # Errors
    /// 5.03 when too much waits already.
    pub(super) fn pending_room(&self) -> Result<(), Response> {
        if self.pending.len() < self.settings.caps.pending_requests {
            return Ok(());
        }
        self.metrics.limits.inc(Limit::PendingRequests);
        Err(unavailable())
    }

    /// Answers everything that waits with 5.03: nobody will be there for what it waits for.
    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.pending);
        for pending in waiting.into_values() {
            let parked = match pending {
                Pending::Publish {
                    exchange, arrived, ..
                } => {
                    self.metrics.publishes.inc(PublishResult::Unavailable);
                    self.respond(now, arrived, exchange, unavailable());
                    continue;
                }
                Pending::Read {
                    exchange, arrived, ..
                }
                | Pending::Subscribe {
                    exchange: Some(exchange),
                    arrived,
                    ..
                } => {
                    self.respond(now, arrived, exchange, unavailable());
                    continue;
                }
                Pending::Subscribe { exchange: None, .. }
                | Pending::Resume { .. }
                | Pending::Fence { .. } => {
                    continue;
                }
                Pending::Create(creation) => {
                    if let Some(exchange) = creation.exchange {
                        self.respond(now, now, exchange, unavailable());
                    }
                    creation.parked
                }
                Pending::Authenticate { parked, .. } => vec![*parked],
                Pending::Claim(claim) => claim.parked,
            };
            for parked in parked {
                self.respond(now, parked.arrived, parked.exchange, unavailable());
            }
        }
        self.settle(now);
    }
}

/// 4.00 with a diagnostic.
pub(super) fn bad_request(text: impl Into<String>) -> Response {
    Response::diagnostic(Code::BAD_REQUEST, text)
}

/// 4.01 with a diagnostic.
pub(super) fn unauthorized(text: impl Into<String>) -> Response {
    Response::diagnostic(Code::UNAUTHORIZED, text)
}

/// 4.29 with the time to try again (RFC 8516).
pub(super) fn too_many_requests(after: Duration) -> Response {
    Response {
        max_age: Some(rate::max_age(after)),
        ..Response::new(Code::TOO_MANY_REQUESTS)
    }
}

/// 5.03 with the time to try again.
pub(super) fn unavailable() -> Response {
    Response {
        max_age: Some(RETRY_SECONDS),
        ..Response::new(Code::SERVICE_UNAVAILABLE)
    }
}
