//! What a gateway counts above the CoAP layer.

use std::sync::Arc;

use super::restore::Origin;
use crate::policy::authorization::AuthorizationMetrics;
use crate::policy::bans::BanKind;
use crate::policy::connections::Presence;
use crate::policy::ledger::StandingBytes;
use crate::policy::overload::Step;
use crate::session::RestoreResult;
use crate::types::ListenerId;
use crate::types::metrics::{
    Counter, DATAGRAMS_DROPPED, Exposes, Family, Histogram, LIMITS_REJECTED, PerListener, REQUEST_SECONDS,
    SESSIONS,
};
use crate::types::reason::{DropReason, Limit};
use crate::{labels, metrics};

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
        /// Its client id, its identity or its address was banned.
        Banned = "banned",
        /// Made before a restart of the process, and goes on.
        Restored = "restored",
        /// Went on from another address, session or worker.
        Moved = "moved",
        /// Gave way for want of memory.
        Evicted = "evicted",
        /// Another node of the group took it over while this one was taken for dead.
        TakenOver = "taken_over",
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
        /// If-Match or If-None-Match did not hold: 4.12.
        Precondition = "precondition",
        /// The broker refused it.
        Refused = "refused",
        /// The broker cannot take it now: 5.03.
        Unavailable = "unavailable",
    }
}

labels! {
    /// What became of a message for an observer with conditions: `observe_conditions_total{result}`.
    pub enum ConditionResult {
        /// Notified at once.
        Notified = "notified",
        /// Put off until `c.pmin` or `c.epmin` is over; a later message may take its place.
        Waited = "waited",
        /// Kept back: it meets no condition.
        Withheld = "withheld",
        /// Notified because a time was over, and not because it came.
        Timed = "timed",
        /// Its payload is no value that the conditions are about, so that it was treated like one that meets them.
        Unfit = "unfit",
    }
}

labels! {
    /// What became of a payload that a rule of `[[translate]]` is about: `translations_total{result}`.
    pub enum TranslationResult {
        /// A publish: the broker got it in the other encoding, or each of its elements.
        Published = "published",
        /// A publish that could not be translated: 4.15.
        Refused = "refused",
        /// A message of the broker in the other encoding; once for all observers of a worker.
        Delivered = "delivered",
        /// A message of the broker that could not be translated: nothing for observers who want the other encoding.
        Dropped = "dropped",
        /// Could not be translated, and went on as it was.
        Passed = "passed",
    }
}

labels! {
    /// What became of a notification for a client that is away or asleep: `queue_notifications_total{result}`.
    pub enum QueueResult {
        /// It waits for the client.
        Queued = "queued",
        /// The client was heard of, and it goes out; where nobody acknowledges it, it is queued once more.
        Delivered = "delivered",
        /// A newer one of its topic took its place (`coap.sleep.keep`).
        Replaced = "replaced",
        /// Its own time was over, or `coap.sleep.queue_age`.
        Expired = "expired",
        /// There was no room for it.
        Dropped = "dropped",
        /// Its observation ended before.
        Forgotten = "forgotten",
    }
}

labels! {
    /// What became of a request to a device that may wait for it: `queue_requests_total{result}`.
    pub enum DeviceRequestResult {
        /// The device could not be reached: it waits, once more where it went out before.
        Queued = "queued",
        /// The device answered.
        Answered = "answered",
        /// The device was not heard of in time.
        Expired = "expired",
        /// The device got it and gave no valid answer.
        Failed = "failed",
        /// There was no room for it.
        Refused = "refused",
    }
}

labels! {
    /// What was done to the topic collection: `collection_requests_total{result}`.
    pub enum CollectionResult {
        /// Topics were listed, or one was read.
        Read = "read",
        /// A topic was created.
        Created = "created",
        /// A topic's configuration was changed.
        Changed = "changed",
        /// A topic was deleted.
        Deleted = "deleted",
        /// A topic's time was over: it was deleted.
        Expired = "expired",
        /// The request was refused.
        Refused = "refused",
        /// What the broker keeps of a topic could not be read.
        Damaged = "damaged",
    }
}

metrics! {
    /// The counters of one listener of one worker.
    pub struct ListenerMetrics {
        /// Peers that are known now; plain UDP only.
        pub udp_peers: Counter = shared SESSIONS [listener, transport],
        /// Datagrams that asked whether the listener serves, and were answered by `health_reply`.
        pub health_requests: Counter = counter "health_requests_total" [listener, transport],
        /// Datagrams that ended before the CoAP layer, by reason.
        pub dropped: Family<DropReason> = shared DATAGRAMS_DROPPED [listener, transport] by [reason],
    }
}

metrics! {
    /// The counters of one worker's gateway. One writer: the worker.
    pub struct GatewayMetrics {
        /// In the order of their ids.
        pub listeners: Box<[ListenerMetrics]>,
        /// Connections (connection mode).
        pub connections: Counter = gauge "connections" [],
        /// Connections by whether their client can be reached.
        pub connection_states: Family<Presence> = gauge "connection_states" [] by [state],
        /// Requests to devices that are asleep or away.
        pub queued_requests: Counter = gauge "queued_requests" [],
        /// Requests to devices that may wait for them, by what became of them.
        pub queue_requests: Family<DeviceRequestResult> = counter "queue_requests_total" [] by [result],
        /// Notifications that wait for clients that are away or asleep.
        pub queued_notifications: Counter = gauge "queued_notifications" [],
        /// Notifications for clients that are away or asleep, by what became of them.
        pub queue_notifications: Family<QueueResult> = counter "queue_notifications_total" [] by [result],
        /// What happened to connections.
        pub connection_events: Family<ConnectionEvent> = counter "connections_total" [] by [result],
        /// Observations.
        pub subscriptions: Counter = gauge "subscriptions" [],
        /// Topics in the collection.
        pub topics: Counter = gauge "topics" [],
        /// What was done to the topic collection.
        pub collection: Family<CollectionResult> = counter "collection_requests_total" [] by [result],
        /// Messages for observers with conditions, by what became of them.
        pub conditions: Family<ConditionResult> = counter "observe_conditions_total" [] by [result],
        /// Payloads that were to be translated, by what became of them.
        pub translations: Family<TranslationResult> = counter "translations_total" [] by [result],
        /// Observations that an earlier process left, by what became of them.
        pub observations_restored: Family<RestoreResult> = counter "observations_restored_total" [how = "memory"] by [result],
        /// Observations that were found on disk, by what became of them.
        pub observations_from_disk: Family<RestoreResult> = counter "observations_restored_total" [how = "disk"] by [result],
        /// Observations that a node left that is gone, by what became of them.
        pub observations_from_node: Family<RestoreResult> = counter "observations_restored_total" [how = "group"] by [result],
        /// Notifications at QoS 1 or 2 that an earlier process had not delivered, by what became of them.
        pub notifications_restored: Family<RestoreResult> = counter "notifications_restored_total" [how = "memory"] by [result],
        /// Notifications that were found on disk, by what became of them.
        pub notifications_from_disk: Family<RestoreResult> = counter "notifications_restored_total" [how = "disk"] by [result],
        /// Notifications that a node had not delivered that is gone, by what became of them.
        pub notifications_from_node: Family<RestoreResult> = counter "notifications_restored_total" [how = "group"] by [result],
        /// Notifications at QoS 1 or 2 that a kill would lose until they are delivered: there was no room to keep them, and their client had
        /// the most in it.
        pub notifications_not_kept: Counter = counter "notifications_not_kept_total" [],
        /// What the ACL said, by action.
        pub authorizations: AuthorizationMetrics = counter "authorizations_total" [] by [action, result],
        /// Who was kept out by a ban: datagrams of a source, handshakes and requests of an identity, requests of a client id.
        pub bans: Family<BanKind> = counter "bans_enforced_total" [] by [kind],
        /// Publishes of clients by what became of them.
        pub publishes: Family<PublishResult> = counter "publishes_total" [] by [result],
        /// Requests that were asked to show by an Echo option that they are meant now.
        pub stale_requests: Counter = counter "stale_requests_total" [],
        /// Datagrams of other nodes of the group for a listener that this one does not have.
        pub no_listener: Counter = counter "group_no_listener_total" [],
        /// From a request's last datagram to its answer.
        pub request_seconds: Histogram[REQUEST_SECONDS] = histogram "request_seconds" [],
        /// Refusals by the limit that was hit.
        pub limits: Family<Limit> = shared LIMITS_REJECTED [] by [limit],
        /// What peers make the gateway keep, by what is kept and by what is known of them.
        pub standing_bytes: Arc<StandingBytes> = gauge "standing_bytes" [] by [table, standing],
        /// Workers that hold a step against overload.
        pub overload: Family<Step> = gauge "overload_active" [] by [action],
        /// The highest pressure of each worker, added up: over the number of workers something is full.
        pub pressure_millis: Counter = thousandths "overload_pressure_ratio" [],
    }
}

impl GatewayMetrics {
    /// Where observations and notifications are counted that an earlier process left.
    pub(super) const fn restored(&self, origin: Origin, from_disk: bool) -> [&Family<RestoreResult>; 2] {
        match (origin, from_disk) {
            (Origin::Node, _) => [&self.observations_from_node, &self.notifications_from_node],
            (Origin::Process, true) => [&self.observations_from_disk, &self.notifications_from_disk],
            (Origin::Process, false) => [&self.observations_restored, &self.notifications_restored],
        }
    }

    /// Zeroed counters for `listeners` listeners.
    #[must_use]
    pub fn new(listeners: usize) -> Self {
        Self {
            listeners: (0..listeners).map(|_| ListenerMetrics::default()).collect(),
            ..Self::default()
        }
    }
}

impl PerListener for GatewayMetrics {
    fn of_listener(&self, listener: ListenerId) -> Option<&dyn Exposes> {
        let counters = self.listeners.get(usize::from(listener.0))?;
        Some(counters)
    }
}
