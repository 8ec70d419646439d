//! What operators ask: new settings, goodbye, who is there, and requests to devices.

use std::sync::Arc;
use std::time::Instant;

use super::contract::{ClientInfo, ControlAnswer, ControlRequest, Cursor, ObservationInfo, Output};
use super::metrics::ConnectionEvent;
use super::peers::Peer;
use super::pending_requests::Awaited;
use super::settings::Settings;
use super::workers::ToPeer;
use super::{Gateway, cx};
use crate::bridge::contract::BrokerRequest;
use crate::bridge::subscriptions::{AccountHolder, Terms};
use crate::coap::contract::{PeerId, ResourceKey, Token};
use crate::policy::attributes::Attributes;
use crate::policy::connections::{Connection, Grant, Presence};
use crate::session::{CloseReason, SecureSource};
use crate::types::message::Qos;
use crate::types::{ClientId, ListenerId, TopicFilter};

impl Gateway {
    pub(super) fn control(&mut self, now: Instant, ticket: u64, request: ControlRequest) {
        let answer = match request {
            ControlRequest::Reconfigure { settings } => {
                self.reconfigure(now, settings);
                ControlAnswer::Done
            }
            ControlRequest::Drain { goodbye } => {
                for dtls in self.dtls.iter_mut().flatten() {
                    if goodbye {
                        dtls.close_all(now, CloseReason::Shutdown, &mut self.transmits);
                    } else {
                        dtls.leave(now, &mut self.transmits);
                    }
                }
                ControlAnswer::Done
            }
            ControlRequest::AddListener { listener, dtls } => self.add_listener(listener, dtls),
            ControlRequest::SetListener { listener, enabled } => self.set_listener(now, listener, enabled),
            ControlRequest::Pressure { memory, spool } => {
                (self.pressure.memory, self.pressure.spool) = (memory, spool);
                ControlAnswer::Done
            }
            ControlRequest::Page { from, places } => self.page(from, places),
            ControlRequest::Show { client } => match self.holder_of(&client) {
                Some((holder, _)) => self.show(holder),
                None => ControlAnswer::NotFound,
            },
            ControlRequest::ShowPeer { peer } => self.show(AccountHolder::Peer(peer)),
            ControlRequest::Bans { bans } => {
                self.set_bans(now, bans);
                ControlAnswer::Done
            }
            ControlRequest::Traffic { peer } => match self.peers.get(peer) {
                Some(peer) => ControlAnswer::Traffic(Box::new(peer.traffic.clone())),
                None => ControlAnswer::NotFound,
            },
            ControlRequest::Kick { client } => self.kick(now, &client),
            ControlRequest::KickPeer { peer } => match self.peers.get(peer) {
                Some(_) => {
                    self.end_peer(now, peer, CloseReason::Kicked);
                    ControlAnswer::Done
                }
                None => ControlAnswer::NotFound,
            },
            ControlRequest::Subscribe {
                client,
                filter,
                qos,
                token,
            } => self.subscribe_for(now, &client, &filter, qos, token),
            ControlRequest::Unsubscribe { client, filter } => self.unsubscribe_for(now, &client, &filter),
            ControlRequest::Trace { id, target, preview } => self.begin_trace(now, id, &target, preview),
            ControlRequest::TakeTrace { id } => self.take_trace(now, id),
            ControlRequest::EndTrace { id } => self.end_trace(id),
            ControlRequest::TakeOver(taken) => self.take_over(now, &taken),
            ControlRequest::LetGo(marks) => {
                self.let_go(now, &marks);
                ControlAnswer::Done
            }
            ControlRequest::Request {
                client,
                request,
                wait,
            } => match self.request_to_device(now, ticket, client, (request, wait)) {
                None => return,
                Some(answer) => answer,
            },
        };
        self.agenda.output(Output::Control { ticket, answer });
    }

    fn reconfigure(&mut self, now: Instant, settings: Arc<Settings>) {
        let heartbeat_changed = settings.heartbeats_differ(&self.settings);
        self.settings = settings;
        self.ledger.set_limit(self.settings.caps.memory);
        self.shared
            .failures
            .set_per_minute(self.settings.failed_logins_per_minute);
        self.guard.reconfigure(now, &self.settings);
        self.coap
            .reconfigure(self.settings.coap.clone(), self.settings.caps);
        for index in 0..self.dtls.len() {
            let settings = self
                .settings
                .listeners
                .get(index)
                .and_then(|listener| listener.dtls.as_ref());
            let dtls = self.dtls.get_mut(index).and_then(Option::as_mut);
            if let (Some(dtls), Some(settings)) = (dtls, settings) {
                dtls.reconfigure(now, settings.transport.clone(), &mut self.transmits);
            }
        }
        // The listeners have their whole idle times again.
        self.take_steps();
        if heartbeat_changed {
            self.connections.arm_all(&mut cx!(self, now));
        }
    }

    fn add_listener(&mut self, listener: ListenerId, source: Option<Arc<dyn SecureSource>>) -> ControlAnswer {
        let index = usize::from(listener.0);
        let Some(settings) = self.settings.listeners.get(index) else {
            return ControlAnswer::NotFound;
        };
        if index != self.disabled.len() {
            return ControlAnswer::Unavailable;
        }
        let dtls = super::open_transport(listener, self.worker, settings, source.as_deref(), &mut self.rng);
        self.dtls.push(dtls);
        self.disabled.push(false);
        self.watch();
        self.take_steps();
        ControlAnswer::Done
    }

    fn set_listener(&mut self, now: Instant, listener: ListenerId, enabled: bool) -> ControlAnswer {
        let index = usize::from(listener.0);
        let Some(place) = self.disabled.get_mut(index) else {
            return ControlAnswer::NotFound;
        };
        *place = !enabled;
        if enabled {
            return ControlAnswer::Done;
        }
        if let Some(dtls) = self.dtls.get_mut(index).and_then(Option::as_mut) {
            dtls.close_all(now, CloseReason::Kicked, &mut self.transmits);
        }
        let (peers, _) = self.peers.page(0, usize::MAX);
        let there: Vec<PeerId> = peers
            .filter(|(_, peer)| peer.listener == listener)
            .map(|(id, _)| id)
            .collect();
        for peer in there {
            self.peer_gone(now, peer, CloseReason::Kicked);
        }
        ControlAnswer::Done
    }

    fn page(&self, from: Cursor, places: usize) -> ControlAnswer {
        match from {
            Cursor::Connections(after) => {
                let page: Vec<&Connection> = self.connections.after(after).take(places).collect();
                let next = match page.last() {
                    Some(last) if page.len() == places => Cursor::Connections(Some(last.key)),
                    _ => Cursor::Peers(0),
                };
                let clients = page
                    .into_iter()
                    .map(|connection| self.connection_info(connection))
                    .collect();
                ControlAnswer::Page {
                    clients,
                    next: Some(next),
                }
            }
            Cursor::Peers(from) => {
                let (peers, next) = self.peers.page(from, places);
                let clients = peers
                    .filter(|(_, peer)| peer.guests.is_empty())
                    .map(|(id, peer)| self.peer_info(id, peer))
                    .collect();
                ControlAnswer::Page {
                    clients,
                    next: next.map(Cursor::Peers),
                }
            }
        }
    }

    fn connection_info(&self, connection: &Connection) -> ClientInfo {
        let place = self.connections.place(connection);
        // Of a peer of this worker everything is known as it is now.
        let here = connection.peer.and_then(|id| self.peers.get(id));
        ClientInfo {
            client: Some(connection.client.clone()),
            username: connection.username.clone(),
            listener: connection.listener,
            address: match here {
                Some(peer) => Some(peer.address),
                None => place.map(|place| place.facts.address),
            },
            identity: place.and_then(|place| place.facts.identity().cloned()),
            attributes: connection.grant.attributes.clone(),
            transport: self.settings.transport(connection.listener),
            session: match here {
                Some(peer) => peer.session_info(&self.dtls),
                None => place.and_then(|place| place.facts.session.as_deref().cloned()),
            },
            connected: true,
            presence: match connection.presence {
                Presence::Online if connection.peer.is_none() => Presence::Asleep,
                presence => presence,
            },
            lifetime: connection.lifetime,
            since: connection.created_at,
            seen_at: self.connections.last_sign(connection),
            observations: self
                .observations
                .of(AccountHolder::Connection(connection.key))
                .len(),
            retransmissions: match here {
                Some(peer) => peer.coap.retransmissions(),
                None => place.map_or(0, |place| place.retransmissions),
            },
            peer: connection.peer,
            traffic: here.map(|peer| peer.traffic.clone()),
        }
    }

    fn peer_info(&self, id: PeerId, peer: &Peer) -> ClientInfo {
        ClientInfo {
            client: peer.known_as(),
            username: None,
            listener: peer.listener,
            address: Some(peer.address),
            identity: peer.identity.clone(),
            attributes: peer
                .identity
                .as_ref()
                .map_or_else(Attributes::default, |identity| identity.attributes.clone()),
            transport: self.settings.transport(peer.listener),
            session: peer.session_info(&self.dtls),
            connected: false,
            presence: Presence::Online,
            lifetime: None,
            since: peer.since,
            seen_at: peer.seen_at,
            observations: self.observations.of(AccountHolder::Peer(id)).len(),
            retransmissions: peer.coap.retransmissions(),
            peer: Some(id),
            traffic: Some(peer.traffic.clone()),
        }
    }

    fn show(&self, holder: AccountHolder) -> ControlAnswer {
        let info = match holder {
            AccountHolder::Connection(key) => self.connections.get(key).map(|it| self.connection_info(it)),
            AccountHolder::Peer(id) => self.peers.get(id).map(|peer| self.peer_info(id, peer)),
        };
        let Some(info) = info else {
            return ControlAnswer::NotFound;
        };
        let observations = self.observations.of(holder).iter().filter_map(|id| {
            let observation = self.observations.get(*id)?;
            Some(ObservationInfo {
                filter: observation.terms.filter.clone(),
                qos: observation.terms.subscribe_qos,
                token: observation.terms.token,
                sequence: observation.sequence,
                confirmed_at: observation.confirmed_at,
                no_local: observation.terms.no_local,
            })
        });
        ControlAnswer::Client(Box::new(info), observations.collect())
    }

    fn kick(&mut self, now: Instant, client: &ClientId) -> ControlAnswer {
        self.end_device_requests(now, client);
        match self.holder_of(client) {
            Some((AccountHolder::Connection(key), peer)) => {
                let (connections, observations) = (&mut self.connections, &mut self.observations);
                connections.end(&mut cx!(self, now), observations, key, ConnectionEvent::Kicked);
                if let Some(peer) = peer {
                    self.agenda.tell_peer(peer, ToPeer::Kick);
                }
            }
            Some((AccountHolder::Peer(id), _)) => self.end_peer(now, id, CloseReason::Kicked),
            None => return ControlAnswer::NotFound,
        }
        ControlAnswer::Done
    }

    fn subscribe_for(
        &mut self,
        now: Instant,
        client: &ClientId,
        filter: &TopicFilter,
        qos: Qos,
        token: Token,
    ) -> ControlAnswer {
        let Some((holder, at)) = self.holder_of(client) else {
            return ControlAnswer::NotFound;
        };
        if let AccountHolder::Peer(peer) = holder {
            self.keep_peer(peer);
        }
        let known = at.and_then(|id| self.peers.get(id)).map(|peer| peer.listener);
        let mut cx = cx!(self, now);
        let terms = Terms {
            token,
            // Of a client that is at another worker it is not known, and what holds for all holds.
            listener: known.unwrap_or(ListenerId(u16::MAX)),
            resource: ResourceKey::get(std::iter::once("ps").chain(filter.as_str().split('/'))),
            block_szx: None,
            filter: filter.clone(),
            mounted: 0,
            accept: None,
            qos: Some(qos),
            ceiling: None,
            subscribe_qos: qos,
            no_local: false,
            conditions: None,
            client: Some(client.clone()),
            username: None,
            identity: None,
            grant: Grant {
                superuser: true,
                ..Grant::default()
            },
            principal: None,
        };
        if !self.observations.has_room(&cx, holder, &terms) {
            return ControlAnswer::Unavailable;
        }
        let (observation, filter_id, _) = self.observations.insert(&mut cx, holder, at, terms);
        let awaited = Awaited::Subscribe {
            reply: None,
            observation,
        };
        let Ok(ticket) = self.pending.wait(&mut cx, awaited) else {
            self.observations.end(&mut cx, observation);
            return ControlAnswer::Unavailable;
        };
        cx.agenda.broker(BrokerRequest::Subscribe {
            ticket,
            filter_id,
            filter: filter.clone(),
            qos,
            retained: false,
        });
        ControlAnswer::Done
    }

    fn unsubscribe_for(&mut self, now: Instant, client: &ClientId, filter: &TopicFilter) -> ControlAnswer {
        let holder = self.holder_of(client);
        match holder.and_then(|(holder, _)| self.observations.find(holder, filter)) {
            Some(id) => {
                self.observations.end(&mut cx!(self, now), id);
                ControlAnswer::Done
            }
            None => ControlAnswer::NotFound,
        }
    }
}
