//! What a gateway counts above the CoAP layer.

use std::sync::Arc;

use crate::labels;
use crate::policy::authorization::AuthorizationMetrics;
use crate::policy::ledger::StandingBytes;
use crate::policy::overload::Step;
use crate::types::metrics::{Counter, Family, Histogram, REQUEST_SECONDS};
use crate::types::reason::{DropReason, Limit};

labels! {
    /// What happened to a connection: `connections_total{result}`.
    pub enum ConnectionEvent {
        /// Created.
        Created = "created",
        /// Created again by a client that was connected: the older one ended.
        Replaced = "replaced",
        /// Created by the handshake that proved its client id.
        Implicit = "implicit",
        /// Closed by its client.
        Closed = "closed",
        /// Ended by silence, or with its credential.
        Expired = "expired",
        /// Ended with its DTLS session (`on_close = "end"`).
        Ended = "ended",
        /// Ended by an operator.
        Kicked = "kicked",
        /// Went on from another address, session or worker.
        Moved = "moved",
        /// Gave way for want of memory.
        Evicted = "evicted",
        /// Create was refused.
        Refused = "refused",
        /// A request named a wrong or unknown token.
        WrongToken = "wrong_token",
    }
}

labels! {
    /// What became of a publish: `publishes_total{result}`.
    pub enum PublishResult {
        /// The broker has it as its QoS demands: 2.04.
        Accepted = "accepted",
        /// Not a topic, or a bad parameter.
        Invalid = "invalid",
        /// Not allowed: 4.01.
        Denied = "denied",
        /// The broker refused it.
        Refused = "refused",
        /// The broker cannot take it now: 5.03.
        Unavailable = "unavailable",
    }
}

/// The counters of one listener of one worker.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    /// Peers that are known now; plain UDP only.
    pub udp_peers: Counter,
    /// Datagrams that ended before the CoAP layer, by reason.
    pub dropped: Family<DropReason>,
}

/// The counters of one worker's gateway. One writer: the worker.
#[derive(Debug)]
pub struct GatewayMetrics {
    /// By listener.
    pub listeners: Box<[ListenerMetrics]>,
    /// Connections now.
    pub connections: Counter,
    /// What happened to connections.
    pub connection_events: Family<ConnectionEvent>,
    /// Observations now.
    pub subscriptions: Counter,
    /// What clients were allowed and denied.
    pub authorizations: AuthorizationMetrics,
    /// Publishes by what became of them.
    pub publishes: Family<PublishResult>,
    /// From a request's last datagram to its answer.
    pub request_seconds: Histogram,
    /// Refusals by the limit that was hit.
    pub limits: Family<Limit>,
    /// Gauge: what peers make it keep, in bytes.
    pub standing_bytes: Arc<StandingBytes>,
    /// Gauge: 1 for each step against overload that is held.
    pub overload: Family<Step>,
    /// Gauge: the highest pressure, in thousandths of full.
    pub pressure_millis: Counter,
}

impl GatewayMetrics {
    /// Zeroed counters for `listeners` listeners.
    #[must_use]
    pub fn new(listeners: usize) -> Self {
        Self {
            listeners: (0..listeners).map(|_| ListenerMetrics::default()).collect(),
            connections: Counter::default(),
            connection_events: Family::default(),
            subscriptions: Counter::default(),
            authorizations: AuthorizationMetrics::default(),
            publishes: Family::default(),
            request_seconds: Histogram::new(REQUEST_SECONDS),
            limits: Family::default(),
            standing_bytes: Arc::default(),
            overload: Family::default(),
            pressure_millis: Counter::default(),
        }
    }
}
