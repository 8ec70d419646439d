//! Whom an operator keeps out: what they have ends when the ban is made, and they do not come back while it lasts.

use std::sync::Arc;
use std::time::Instant;

use super::answers::unauthorized;
use super::context::{RequestContext, Target};
use super::events::{ClientEvent, EventKind};
use super::metrics::ConnectionEvent;
use super::peers::Peer;
use super::workers::ToPeer;
use super::{Gateway, cx};
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::{ObservationId, PeerId, Response};
use crate::policy::bans::{BanKind, Bans};
use crate::policy::connections::{Connection, ConnectionKey};
use crate::session::CloseReason;
use crate::types::{ClientId, Identity, ListenerId};

impl Gateway {
    /// Puts a list of bans in force. What those who are on it have, ends: connections, sessions, observations.
    pub fn set_bans(&mut self, now: Instant, bans: Arc<Bans>) {
        self.bans = bans;
        if self.bans.is_empty() {
            return;
        }
        self.end_requests_to_banned(now);
        let connections: Vec<(ConnectionKey, Option<PeerId>)> = self
            .connections
            .after(None)
            .filter(|connection| self.keeps_connection_out(now, connection))
            .map(|connection| (connection.key, connection.peer))
            .collect();
        for (key, peer) in connections {
            let (connections, observations) = (&mut self.connections, &mut self.observations);
            connections.end(&mut cx!(self, now), observations, key, ConnectionEvent::Banned);
            if let Some(peer) = peer {
                self.agenda.tell_peer(peer, ToPeer::Kick);
            }
        }
        let (all, _) = self.peers.page(0, usize::MAX);
        let mut gone = Vec::new();
        let mut stay = Vec::new();
        for (id, peer) in all {
            if self.keeps_peer_out(now, peer) {
                gone.push(id);
            } else {
                stay.push(id);
            }
        }
        for id in gone {
            self.close_session(now, id, CloseReason::Banned);
            self.peer_gone(now, id, CloseReason::Banned);
        }
        for id in stay {
            self.part_banned(now, id);
        }
    }

    /// Ends what banned clients have at a peer that others may share.
    fn part_banned(&mut self, now: Instant, id: PeerId) {
        let ids = self.observations.of(AccountHolder::Peer(id));
        let banned: Vec<ObservationId> = ids
            .iter()
            .filter(|id| {
                let client = self
                    .observations
                    .get(**id)
                    .and_then(|it| it.terms.client.as_ref());
                self.bans.kind_of(now, client, None).is_some()
            })
            .copied()
            .collect();
        for observation in banned {
            let refusal = unauthorized("banned");
            self.observations
                .refuse(&mut cx!(self, now), observation, refusal);
        }
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let is_banned = |client: &Option<ClientId>| self.bans.kind_of(now, client.as_ref(), None).is_some();
        if peer.bound.as_ref().is_some_and(|bound| is_banned(&bound.client)) {
            peer.bound = None;
        }
        if is_banned(&peer.client) {
            self.peers.set_client(id, None);
        }
    }

    fn keeps_connection_out(&self, now: Instant, connection: &Connection) -> bool {
        let place = self.connections.place(connection);
        let identity = connection.owner.identity();
        self.bans
            .kind_of(now, Some(&connection.client), identity)
            .is_some()
            || place.is_some_and(|place| self.bans.has_address(now, place.facts.address.ip()))
    }

    fn keeps_peer_out(&self, now: Instant, peer: &Peer) -> bool {
        self.bans.has_address(now, peer.address.ip())
            || self
                .session_ban(now, peer.listener, peer.identity.as_ref())
                .is_some()
    }

    /// What keeps out a session that proved `identity`: that, or the client id that it is on this listener.
    pub(super) fn session_ban(
        &self,
        now: Instant,
        listener: ListenerId,
        identity: Option<&Identity>,
    ) -> Option<BanKind> {
        if self.bans.is_empty() {
            return None;
        }
        let dtls = self
            .settings
            .listener(listener)
            .and_then(|listener| listener.dtls.as_ref());
        let client = dtls
            .zip(identity)
            .and_then(|(dtls, identity)| dtls.proved_client(identity));
        self.bans.kind_of(now, client.as_ref(), identity)
    }

    /// Lets a request of whom nothing keeps out pass.
    ///
    /// # Errors
    /// 4.01 for the others.
    pub(super) fn not_banned(&mut self, now: Instant, context: &RequestContext) -> Result<(), Response> {
        if self.bans.is_empty() {
            return Ok(());
        }
        let banned = self
            .bans
            .kind_of(now, context.client.as_ref(), context.from.identity());
        let Some(kind) = banned else { return Ok(()) };
        self.metrics.bans.inc(kind);
        let event = EventKind::LoginRefused;
        cx!(self, now).tell(event, &context.from, || {
            ClientEvent::of_request(event, context).because("banned")
        });
        Err(match context.target {
            Target::Connection(_) => {
                self.metrics.connection_events.inc(ConnectionEvent::Refused);
                unauthorized("Login Failed: banned")
            }
            Target::Topic(..) | Target::Collection(_) | Target::Discovery => unauthorized("banned"),
        })
    }
}
