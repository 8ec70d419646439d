//! What operators ask: new settings, goodbye, who is there, and requests to devices.

use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use super::contract::{ClientInfo, ControlAnswer, ControlRequest, Cursor, ObservationInfo, Output};
use super::metrics::ConnectionEvent;
use super::peers::Peer;
use super::pending::Pending;
use super::settings::Settings;
use super::timers::Timer;
use super::trace::Traced;
use crate::bridge::contract::BrokerRequest;
use crate::bridge::subscriptions::{Holder, Terms};
use crate::coap::contract::{OutgoingRequest, PeerId, RequestId, ResourceKey, Token};
use crate::policy::connections::{Connection, Grant};
use crate::policy::rate::Rate;
use crate::session::{CloseReason, SecureSource, SessionInfo};
use crate::types::message::Qos;
use crate::types::{ClientId, ListenerId, TopicFilter, Transport};

/// Requests to devices that may be under way at the same time.
const MAX_DEVICE_REQUESTS: usize = 1024;

impl Gateway {
    pub(super) fn control(&mut self, now: Instant, ticket: u64, request: ControlRequest) {
        let answer = match request {
            ControlRequest::Reconfigure { settings } => {
                self.reconfigure(now, settings);
                ControlAnswer::Done
            }
            ControlRequest::Drain => {
                self.give_up_waiting(now);
                for dtls in self.dtls.iter_mut().flatten() {
                    dtls.close_all(now, CloseReason::Shutdown, &mut self.transmits);
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
            ControlRequest::Show { client } => self.show(&client),
            ControlRequest::Kick { client } => self.kick(now, &client),
            ControlRequest::Subscribe {
                client,
                filter,
                qos,
                token,
            } => self.subscribe_for(now, &client, &filter, qos, token),
            ControlRequest::Unsubscribe { client, filter } => self.unsubscribe_for(&client, &filter),
            ControlRequest::Trace { id, target, preview } => self.begin_trace(now, id, &target, preview),
            ControlRequest::TakeTrace { id } => self.take_trace(now, id),
            ControlRequest::EndTrace { id } => self.end_trace(id),
            ControlRequest::Request { client, request } => {
                match self.request_to_device(now, ticket, &client, request) {
                    None => return,
                    Some(answer) => answer,
                }
            }
        };
        self.outputs.push_back(Output::Control { ticket, answer });
    }

    fn reconfigure(&mut self, now: Instant, settings: Arc<Settings>) {
        let heartbeat_changed = settings.heartbeat != self.settings.heartbeat;
        self.settings = settings;
        self.shared
            .failures
            .set_per_minute(self.settings.failed_logins_per_minute);
        self.request_rates
            .set_rate(Rate::per_second(self.settings.requests_per_second));
        self.verdicts.clear();
        self.verdicts_since = now;
        self.coap.reconfigure(self.settings.coap.clone());
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
            if let Ok(index) = u16::try_from(index) {
                self.dtls_events(now, ListenerId(index), &[]);
            }
        }
        // The listeners have their whole idle times again.
        self.take_steps();
        if heartbeat_changed {
            for connection in self.connections.iter() {
                if let Some(deadline) = connection.deadline(self.settings.heartbeat) {
                    self.timers.arm(deadline, Timer::Connection(connection.key));
                }
            }
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
        self.watch_dtls();
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
            self.peer_gone(now, peer);
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
                    .filter(|(_, peer)| peer.connections.is_empty())
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
        let peer = connection.peer.and_then(|peer| self.peers.get(peer));
        let dtls = self
            .listener_settings(connection.listener)
            .is_some_and(|listener| listener.dtls.is_some());
        ClientInfo {
            client: Some(connection.client.clone()),
            username: connection.username.clone(),
            listener: connection.listener,
            address: peer.map(|peer| peer.address),
            identity: peer.and_then(|peer| peer.identity.clone()),
            transport: if dtls { Transport::Dtls } else { Transport::Udp },
            session: peer.and_then(|peer| self.session_info(peer)),
            connected: true,
            since: connection.created_at,
            seen_at: self.last_sign(connection),
            observations: self.subscriptions.of(Holder::Connection(connection.key)).len(),
            retransmissions: peer.map_or(0, |peer| peer.coap.retransmissions()),
        }
    }

    fn peer_info(&self, id: PeerId, peer: &Peer) -> ClientInfo {
        ClientInfo {
            client: peer.known_as(),
            username: None,
            listener: peer.listener,
            address: Some(peer.address),
            identity: peer.identity.clone(),
            transport: if peer.session.is_some() {
                Transport::Dtls
            } else {
                Transport::Udp
            },
            session: self.session_info(peer),
            connected: false,
            since: peer.since,
            seen_at: peer.seen_at,
            observations: self.subscriptions.of(Holder::Peer(id)).len(),
            retransmissions: peer.coap.retransmissions(),
        }
    }

    /// What is known of the DTLS session of a peer.
    pub(super) fn session_info_of(&self, peer: PeerId) -> Option<SessionInfo> {
        self.session_info(self.peers.get(peer)?)
    }

    fn session_info(&self, peer: &Peer) -> Option<SessionInfo> {
        self.dtls
            .get(usize::from(peer.listener.0))?
            .as_ref()?
            .session(peer.session?)
    }

    /// Where a client is and what holds its observations.
    fn holder_of(&self, client: &ClientId) -> Option<(Holder, Option<PeerId>)> {
        match self.connections.of_client(client) {
            Some(connection) => Some((Holder::Connection(connection.key), connection.peer)),
            None => self
                .peers
                .of_client(client)
                .map(|peer| (Holder::Peer(peer), Some(peer))),
        }
    }

    fn show(&self, client: &ClientId) -> ControlAnswer {
        let info = match self.connections.of_client(client) {
            Some(connection) => Some(self.connection_info(connection)),
            None => self
                .peers
                .of_client(client)
                .and_then(|id| Some(self.peer_info(id, self.peers.get(id)?))),
        };
        let (Some(info), Some((holder, _))) = (info, self.holder_of(client)) else {
            return ControlAnswer::NotFound;
        };
        let observations = self.subscriptions.of(holder).iter().filter_map(|id| {
            let observation = self.subscriptions.get(*id)?;
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
        let Some((holder, peer)) = self.holder_of(client) else {
            return ControlAnswer::NotFound;
        };
        if let Holder::Connection(key) = holder {
            self.end_connection(now, key, ConnectionEvent::Kicked);
        }
        let Some(id) = peer else {
            return ControlAnswer::Done;
        };
        let Some(peer) = self.peers.get(id) else {
            return ControlAnswer::Done;
        };
        // Several clients may share a UDP address: that of the others stays.
        if let (Some(session), listener) = (peer.session, usize::from(peer.listener.0)) {
            if !self.traces.is_empty() {
                self.trace_peer(now, id, &Traced::Closed(CloseReason::Kicked));
            }
            if let Some(dtls) = self.dtls.get_mut(listener).and_then(Option::as_mut) {
                dtls.close(now, session, CloseReason::Kicked, &mut self.transmits);
            }
            self.peer_gone(now, id);
        } else if matches!(holder, Holder::Peer(_)) {
            self.peer_gone(now, id);
        } else {
            self.peers.set_client(id, None);
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
        let Some((holder, _)) = self.holder_of(client) else {
            return ControlAnswer::NotFound;
        };
        let held = self.subscriptions.of(holder).len();
        if !self.observation_room(held) {
            return ControlAnswer::Unavailable;
        }
        let terms = Terms {
            token,
            resource: ResourceKey(Arc::from(filter.as_str().as_bytes())),
            filter: filter.clone(),
            mounted: 0,
            qos: Some(qos),
            ceiling: None,
            subscribe_qos: qos,
            no_local: false,
            client: Some(client.clone()),
            username: None,
            identity: None,
            grant: Grant {
                superuser: true,
                ..Grant::default()
            },
        };
        let inserted = self.subscriptions.insert(now, holder, terms);
        for removed in inserted.replaced {
            self.forget_removed(removed);
        }
        self.metrics.subscriptions.set(self.subscriptions.len() as u64);
        self.arm_observation(now, inserted.id);
        let pending = Pending::Subscribe {
            exchange: None,
            arrived: now,
            accept: None,
            observation: inserted.id,
        };
        let Ok(ticket) = self.wait(pending) else {
            self.end_observation(inserted.id);
            return ControlAnswer::Unavailable;
        };
        let (filter_id, filter) = (inserted.filter_id, filter.clone());
        let request = BrokerRequest::Subscribe {
            ticket,
            filter_id,
            filter,
            qos,
            retained: false,
        };
        self.outputs.push_back(Output::Broker(request));
        ControlAnswer::Done
    }

    fn unsubscribe_for(&mut self, client: &ClientId, filter: &TopicFilter) -> ControlAnswer {
        let found = self
            .holder_of(client)
            .and_then(|(holder, _)| self.subscriptions.find(holder, filter));
        match found {
            Some(id) => {
                self.end_observation(id);
                ControlAnswer::Done
            }
            None => ControlAnswer::NotFound,
        }
    }

    /// Sends a request to a device; the answer comes later, or at once when it cannot be sent.
    fn request_to_device(
        &mut self,
        now: Instant,
        ticket: u64,
        client: &ClientId,
        request: OutgoingRequest,
    ) -> Option<ControlAnswer> {
        let Some((_, peer)) = self.holder_of(client) else {
            return Some(ControlAnswer::NotFound);
        };
        let id = RequestId(self.ticket().0);
        let peer = peer.filter(|_| self.device_requests.len() < MAX_DEVICE_REQUESTS);
        let Some(peer) = peer.and_then(|peer| self.peers.get_mut(peer)) else {
            return Some(ControlAnswer::Unavailable);
        };
        self.device_requests.insert(id, ticket);
        self.coap.request(now, &mut peer.coap, id, request);
        None
    }
}
