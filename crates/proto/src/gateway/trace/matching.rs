//! Whose messages a trace wants: by client id, user name, DTLS identity or address.
//!
//! Several clients may share a UDP address. What names another client there is left out, and so is what answers it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Seen;
use crate::bridge::uri::{self, Who};
use crate::coap::contract::{Code, PeerId, Token};
use crate::coap::describe::Described;
use crate::coap::metrics::MessageType;
use crate::gateway::peers::Peer;
use crate::gateway::settings::Settings;
use crate::types::{PeerAddr, Transport};

/// Peers, addresses, and requests of others that a trace remembers; the oldest go.
const REMEMBERED: usize = 64;

/// Connections of one peer that are looked at.
const CONNECTIONS: usize = 64;

/// Who a message says it is of.
#[derive(Default)]
pub(super) struct Named {
    pub(super) client: Option<String>,
    username: Option<String>,
}

impl Named {
    pub(super) fn of(described: &Described) -> Self {
        let mut named = Self::default();
        for parameter in &described.query {
            let text = String::from_utf8_lossy(parameter);
            match text.split_once('=').map(|(name, value)| (uri::who(name), value)) {
                Some((Some(Who::Client), value)) => named.client = Some(value.to_owned()),
                Some((Some(Who::User), value)) => named.username = Some(value.to_owned()),
                _ => {}
            }
        }
        named
    }
}

/// What a trace wants, and what it learned on the way.
pub(super) struct Watched {
    target: Arc<str>,
    ip: Option<IpAddr>,
    address: Option<SocketAddr>,
    /// Peers that named the target.
    peers: VecDeque<PeerId>,
    /// Where DTLS peers with the target's identity were.
    addresses: VecDeque<PeerAddr>,
    /// Requests of others at a shared address.
    foreign: VecDeque<(PeerId, u16, Token)>,
}

impl Watched {
    pub(super) fn new(target: &Arc<str>) -> Self {
        let address: Option<SocketAddr> = target.parse().ok();
        Self {
            ip: target.parse().ok().map(|ip: IpAddr| ip.to_canonical()),
            address: address.and_then(PeerAddr::new).map(PeerAddr::socket_addr),
            target: Arc::clone(target),
            peers: VecDeque::new(),
            addresses: VecDeque::new(),
            foreign: VecDeque::new(),
        }
    }

    fn is(&self, name: Option<&str>) -> bool {
        name == Some(&*self.target)
    }

    /// Whether all of a peer is wanted, whatever its messages say.
    fn owns(&self, seen: &Seen<'_>) -> bool {
        let is_there =
            |address: PeerAddr| self.ip == Some(address.ip()) || self.address == Some(address.socket_addr());
        seen.address.is_some_and(is_there) || self.is(seen.identity)
    }

    fn has_part(&self, seen: &Seen<'_>) -> bool {
        self.is(seen.client)
            || seen.peer.is_some_and(|peer| self.peers.contains(&peer))
            || seen
                .connections
                .iter()
                .any(|(client, username)| self.is(Some(client)) || self.is(*username))
    }

    /// Whether what happens to a peer as a whole is wanted.
    pub(super) fn knows(&mut self, seen: &Seen<'_>) -> bool {
        let known = self.owns(seen) || self.has_part(seen);
        if seen.transport == Transport::Udp {
            return known;
        }
        let Some(address) = seen.address else { return known };
        if known {
            remember(&mut self.addresses, address);
        }
        // A record or a hello names nobody: it is of whoever was there last.
        known || seen.identity.is_none() && self.addresses.contains(&address)
    }

    pub(super) fn receives(&mut self, seen: &Seen<'_>, described: &Described, named: &Named) -> bool {
        if self.knows(seen) && (self.owns(seen) || seen.transport != Transport::Udp) {
            return true;
        }
        let by_name = self.is(named.client.as_deref()) || self.is(named.username.as_deref());
        let Some(peer) = seen.peer else { return by_name };
        if by_name {
            remember(&mut self.peers, peer);
            return true;
        }
        let of_other = named.client.is_some();
        let wanted = !of_other && self.has_part(seen);
        if !wanted && described.code.is_request() && self.has_part(seen) {
            remember(&mut self.foreign, (peer, described.mid, described.token));
        }
        wanted
    }

    pub(super) fn sends(&mut self, seen: &Seen<'_>, described: &Described) -> bool {
        if !self.knows(seen) {
            return false;
        }
        let answers_other = |(peer, mid, token): &(PeerId, u16, Token)| {
            Some(*peer) == seen.peer
                && match (described.kind, described.code) {
                    (MessageType::Ack | MessageType::Rst, Code::EMPTY) => *mid == described.mid,
                    _ => *token == described.token,
                }
        };
        self.owns(seen) || seen.transport != Transport::Udp || !self.foreign.iter().any(answers_other)
    }
}

/// Puts something at the end of a list that stays short.
fn remember<T: PartialEq>(list: &mut VecDeque<T>, item: T) {
    if list.contains(&item) {
        return;
    }
    if list.len() >= REMEMBERED {
        list.pop_front();
    }
    list.push_back(item);
}

impl Peer {
    /// The peer as traces see it.
    pub(in crate::gateway) fn seen(&self, id: PeerId, settings: &Settings) -> Seen<'_> {
        Seen {
            listener: self.listener,
            transport: settings.transport(self.listener),
            address: Some(self.address),
            peer: Some(id),
            identity: self.identity.as_ref().map(|identity| &*identity.name),
            client: self.client.as_ref().map(crate::types::ClientId::as_str),
            connections: self
                .guests
                .iter()
                .take(CONNECTIONS)
                .map(|guest| (guest.client.as_str(), guest.username.as_deref()))
                .collect(),
        }
    }
}
