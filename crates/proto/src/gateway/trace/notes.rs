//! What is done for a request beside its messages: what the access rules said, what went to the broker, and what came back. Noted
//! while anybody traces, and handed to the traces once the request is done with for now.

use std::sync::Arc;
use std::time::Instant;

use super::Seen;
use super::record::{Carried, Errand, Traced, mask};
use crate::bridge::contract::{BrokerError, Ticket};
use crate::coap::contract::PeerId;
use crate::gateway::Gateway;
use crate::gateway::asker::Asker;
use crate::gateway::context::{PeerFacts, RequestContext};
use crate::policy::authorization::{Access, Decision};
use crate::types::hash::IdMap;
use crate::types::{ClientId, ListenerId, Message, PeerAddr};

/// Who a note is about.
#[derive(Clone)]
pub(in crate::gateway) struct About {
    peer: PeerId,
    listener: ListenerId,
    /// Where it is, as far as this worker knows.
    address: Option<PeerAddr>,
    identity: Option<Arc<str>>,
    client: Option<ClientId>,
    username: Option<Arc<str>>,
}

impl About {
    /// Whoever asks with a request.
    pub(in crate::gateway) fn asker(context: &RequestContext, asker: &Asker) -> Self {
        let from: &PeerFacts = &context.from;
        Self {
            peer: from.id,
            listener: from.listener,
            address: Some(from.address),
            identity: asker.identity.clone(),
            client: asker.client.clone(),
            username: asker.username.clone(),
        }
    }

    /// An observer.
    pub(in crate::gateway) fn observer(
        peer: PeerId,
        listener: ListenerId,
        (client, username, identity): (Option<&ClientId>, Option<&Arc<str>>, Option<&Arc<str>>),
    ) -> Self {
        Self {
            peer,
            listener,
            address: None,
            identity: identity.cloned(),
            client: client.cloned(),
            username: username.cloned(),
        }
    }
}

/// What the broker was asked.
struct Asked {
    about: About,
    errand: Errand,
    topic: Arc<str>,
    at: Instant,
}

/// What was noted since the traces were told last, and what the broker was asked meanwhile; nothing of it while nobody traces.
#[derive(Default)]
pub(in crate::gateway) struct Notes {
    is_on: bool,
    told: Vec<(About, Traced)>,
    /// As many as requests may wait for the broker.
    asked: IdMap<Ticket, Asked>,
}

impl Notes {
    /// Whether anybody wants to know.
    pub(in crate::gateway) const fn is_on(&self) -> bool {
        self.is_on
    }

    fn switch(&mut self, on: bool) {
        self.is_on = on;
        if !on {
            *self = Self::default();
        }
    }

    /// The access rules were asked.
    pub(in crate::gateway) fn judged(&mut self, about: About, access: &Access<'_>, decision: Decision) {
        let topic = mask(access.topic).into();
        let action = access.action;
        self.told.push((
            about,
            Traced::Judged {
                action,
                topic,
                decision,
            },
        ));
    }

    /// The broker is asked for something, and will answer under this ticket. Nothing where it began before anybody traced.
    pub(in crate::gateway) fn asked(
        &mut self,
        now: Instant,
        ticket: Ticket,
        about: Option<About>,
        errand: Errand,
        carried: impl FnOnce() -> Carried,
    ) {
        let Some(about) = about.filter(|_| self.is_on) else {
            return;
        };
        let carried = carried();
        let asked = Asked {
            about: about.clone(),
            errand,
            topic: Arc::clone(&carried.topic),
            at: now,
        };
        self.asked.insert(ticket, asked);
        self.told.push((about, Traced::Asked { errand, carried }));
    }

    /// The broker answered. Who it was about, who may have more to ask.
    pub(in crate::gateway) fn answered(
        &mut self,
        now: Instant,
        ticket: Ticket,
        error: Option<BrokerError>,
    ) -> Option<About> {
        if !self.is_on {
            return None;
        }
        let asked = self.asked.remove(&ticket)?;
        let what = Traced::Answered {
            errand: asked.errand,
            topic: asked.topic,
            error,
            after: now.saturating_duration_since(asked.at),
        };
        self.told.push((asked.about.clone(), what));
        Some(asked.about)
    }

    /// The broker brought a message for an observer.
    pub(in crate::gateway) fn delivered(&mut self, about: About, message: &Message) {
        let carried = Carried::of(message);
        self.told.push((about, Traced::Delivered(carried)));
    }
}

impl Gateway {
    /// Begins or stops to take notes, as somebody traces or nobody does.
    pub(super) fn watch_operations(&mut self) {
        self.agenda.notes.switch(!self.traces.is_empty());
    }

    /// Hands the traces what was noted.
    pub(in crate::gateway) fn trace_notes(&mut self, now: Instant) {
        if self.agenda.notes.told.is_empty() {
            return;
        }
        for (about, what) in std::mem::take(&mut self.agenda.notes.told) {
            let here = || self.peers.get(about.peer).map(|peer| peer.address);
            let client = about.client.as_ref().map_or("", ClientId::as_str);
            let seen = Seen {
                listener: about.listener,
                transport: self.settings.transport(about.listener),
                address: about.address.or_else(here),
                // Where clients share an address, what names one is not of another.
                peer: about.client.is_none().then_some(about.peer),
                identity: about.identity.as_deref(),
                client: about.client.as_ref().map(ClientId::as_str),
                connections: about
                    .username
                    .as_deref()
                    .map(|name| (client, Some(name)))
                    .into_iter()
                    .collect(),
            };
            self.traces.tell(now, &seen, &what);
        }
    }
}
