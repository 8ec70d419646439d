//! Traces: what one device sends and gets, for an operator who watches it.
//!
//! Whoever watches asks again and again for what came meanwhile ([`super::contract::ControlRequest::TakeTrace`]). A trace that
//! nobody asks for any more ends by itself, and one that is asked too seldom loses what came last, counted. Without a trace
//! the packet path pays one look at an empty list.

mod matching;
mod notes;
mod record;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use super::contract::ControlAnswer;
use super::timers::Timer;
use crate::coap::contract::{PeerId, Token};
use crate::coap::describe::describe;
use crate::session::DtlsNote;
use crate::types::reason::DropReason;
use crate::types::{ListenerId, PeerAddr, Transport};

use matching::{Named, Watched};
pub(super) use notes::{About, Notes};
pub(super) use record::mask;
pub use record::{Carried, Errand, MASK, TraceRecord, Traced, TracedMessage};

/// Traces at the same time, per worker.
const MAX_TRACES: usize = 8;

/// Records of one trace that wait to be taken.
const MAX_RECORDS: usize = 1024;

/// Most bytes of a payload that a record holds.
pub const MAX_PREVIEW: usize = 1024;

/// Requests that named another than the target, and that a trace holds in case they turn out to be of it.
const MAX_UNCLAIMED: usize = 64;

/// A trace that nobody asked for this long ends.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// All traces of a worker.
#[derive(Default)]
pub(super) struct Traces(Vec<Trace>);

struct Trace {
    id: u64,
    watched: Watched,
    preview: usize,
    records: VecDeque<TraceRecord>,
    /// Requests by peer, message id and token: whose they are is known once they are let in.
    unclaimed: VecDeque<(PeerId, u16, Token, TraceRecord)>,
    lost: u64,
    asked_at: Instant,
}

impl Trace {
    fn push(&mut self, record: TraceRecord) {
        if self.records.len() < MAX_RECORDS {
            self.records.push_back(record);
        } else {
            self.lost += 1;
        }
    }

    /// Holds a request that may turn out to be of the target.
    fn hold(&mut self, peer: PeerId, (mid, token): (u16, Token), record: TraceRecord) {
        if self.unclaimed.len() >= MAX_UNCLAIMED {
            self.unclaimed.pop_front();
        }
        self.unclaimed.push_back((peer, mid, token, record));
    }

    /// Takes the request that the target turned out to have sent, since it is answered.
    fn claim(&mut self, peer: Option<PeerId>, (mid, token): (u16, Token)) {
        let is_it = |held: &(PeerId, u16, Token, TraceRecord)| {
            Some(held.0) == peer && (held.1 == mid || held.2 == token)
        };
        if let Some(at) = self.unclaimed.iter().position(is_it)
            && let Some((.., record)) = self.unclaimed.remove(at)
        {
            self.push(record);
        }
    }
}

impl Traces {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A message of ours leaves.
    #[cold]
    pub(super) fn sent(&mut self, now: Instant, seen: &Seen<'_>, bytes: &[u8], sealed: bool) {
        let Some(described) = describe(bytes) else { return };
        for trace in &mut self.0 {
            if trace.watched.sends(seen, &described) {
                trace.claim(seen.peer, (described.mid, described.token));
                let message = TracedMessage::of(&described, trace.preview);
                trace.push(seen.record(now, None, Traced::Sent { message, sealed }));
            }
        }
    }

    fn received(&mut self, now: Instant, seen: &Seen<'_>, bytes: &[u8], dropped: Option<DropReason>) {
        let Some(described) = describe(bytes) else {
            let dropped = dropped.unwrap_or(DropReason::Malformed);
            let len = bytes.len();
            return self.tell(now, seen, &Traced::Datagram { len, dropped });
        };
        let named = Named::of(&described);
        for trace in &mut self.0 {
            let is_wanted = trace.watched.receives(seen, &described, &named);
            let stranger = seen.peer.filter(|_| named.client.is_some() && dropped.is_none());
            if !is_wanted && stranger.is_none() {
                continue;
            }
            let message = TracedMessage::of(&described, trace.preview);
            let record = seen.record(
                now,
                named.client.as_deref(),
                Traced::Received { message, dropped },
            );
            match stranger {
                Some(peer) if !is_wanted => trace.hold(peer, (described.mid, described.token), record),
                _ => trace.push(record),
            }
        }
    }

    /// Something that is no message happened to a peer.
    fn tell(&mut self, now: Instant, seen: &Seen<'_>, what: &Traced) {
        for trace in &mut self.0 {
            if trace.watched.knows(seen) {
                trace.push(seen.record(now, None, what.clone()));
            }
        }
    }
}

/// A peer as far as it is known where something happens.
pub(super) struct Seen<'a> {
    pub(super) listener: ListenerId,
    pub(super) transport: Transport,
    pub(super) address: Option<PeerAddr>,
    pub(super) peer: Option<PeerId>,
    pub(super) identity: Option<&'a str>,
    pub(super) client: Option<&'a str>,
    /// The clients of its connections, each with its user name.
    pub(super) connections: Vec<(&'a str, Option<&'a str>)>,
}

impl Seen<'_> {
    fn record(&self, at: Instant, named: Option<&str>, what: Traced) -> TraceRecord {
        let only = match self.connections.as_slice() {
            [(only, _)] if !only.is_empty() => Some(*only),
            _ => None,
        };
        let client = named.or(self.client).or(only);
        TraceRecord {
            at,
            listener: self.listener,
            transport: self.transport,
            address: self.address,
            // Parameters that a device joined by `&` are all part of the first one's value.
            client: client.map(|client| Arc::from(mask(client))),
            identity: self.identity.map(Arc::from),
            what,
        }
    }
}

impl Gateway {
    /// Begins a trace.
    pub(super) fn begin_trace(
        &mut self,
        now: Instant,
        id: u64,
        target: &Arc<str>,
        preview: usize,
    ) -> ControlAnswer {
        if self.traces.0.len() >= MAX_TRACES {
            return ControlAnswer::Unavailable;
        }
        if self.traces.is_empty() {
            self.timers.arm(now + FORGOTTEN, Timer::Traces);
        }
        self.traces.0.push(Trace {
            id,
            watched: Watched::new(target),
            preview: preview.min(MAX_PREVIEW),
            records: VecDeque::new(),
            unclaimed: VecDeque::new(),
            lost: 0,
            asked_at: now,
        });
        self.watch();
        ControlAnswer::Done
    }

    /// What came to a trace since it was asked last.
    pub(super) fn take_trace(&mut self, now: Instant, id: u64) -> ControlAnswer {
        let Some(trace) = self.traces.0.iter_mut().find(|trace| trace.id == id) else {
            return ControlAnswer::NotFound;
        };
        trace.asked_at = now;
        ControlAnswer::Traced {
            records: std::mem::take(&mut trace.records).into(),
            lost: std::mem::take(&mut trace.lost),
        }
    }

    /// Ends a trace.
    pub(super) fn end_trace(&mut self, id: u64) -> ControlAnswer {
        let before = self.traces.0.len();
        self.traces.0.retain(|trace| trace.id != id);
        self.watch();
        if self.traces.0.len() < before {
            ControlAnswer::Done
        } else {
            ControlAnswer::NotFound
        }
    }

    /// Ends the traces that nobody asks for any more.
    pub(super) fn check_traces(&mut self, now: Instant) {
        self.traces
            .0
            .retain(|trace| now.saturating_duration_since(trace.asked_at) < FORGOTTEN);
        self.watch();
        if !self.traces.is_empty() {
            self.timers.arm(now + FORGOTTEN, Timer::Traces);
        }
    }

    /// Has the operations note what they do, and the DTLS listeners tell of what happens outside of sessions, for as long as someone
    /// watches.
    pub(super) fn watch(&mut self) {
        self.watch_operations();
        for dtls in self.dtls.iter_mut().flatten() {
            dtls.set_watched(!self.traces.is_empty());
        }
    }

    #[cold]
    pub(super) fn trace_received(
        &mut self,
        now: Instant,
        id: PeerId,
        bytes: &[u8],
        dropped: Option<DropReason>,
    ) {
        let Self {
            traces,
            peers,
            settings,
            ..
        } = self;
        if let Some(peer) = peers.get(id) {
            let seen = peer.seen(id, settings);
            traces.received(now, &seen, bytes, dropped);
        }
    }

    /// Something happened to a peer that has, or had until now, a session.
    #[cold]
    pub(super) fn trace_peer(&mut self, now: Instant, id: PeerId, what: &Traced) {
        let Self {
            traces,
            peers,
            settings,
            ..
        } = self;
        if let Some(peer) = peers.get(id) {
            traces.tell(now, &peer.seen(id, settings), what);
        }
    }

    #[cold]
    pub(super) fn trace_dropped(
        &mut self,
        now: Instant,
        listener: ListenerId,
        from: PeerAddr,
        len: usize,
        dropped: DropReason,
    ) {
        let seen = self.seen_from(listener, from, None);
        self.traces.tell(now, &seen, &Traced::Datagram { len, dropped });
    }

    #[cold]
    pub(super) fn trace_note(
        &mut self,
        now: Instant,
        listener: ListenerId,
        address: PeerAddr,
        identity: Option<&str>,
        note: DtlsNote,
    ) {
        let seen = self.seen_from(listener, address, identity);
        self.traces.tell(now, &seen, &Traced::Dtls(note));
    }

    fn seen_from<'a>(&self, listener: ListenerId, address: PeerAddr, identity: Option<&'a str>) -> Seen<'a> {
        Seen {
            listener,
            transport: self.settings.transport(listener),
            address: Some(address),
            peer: None,
            identity,
            client: None,
            connections: Vec::new(),
        }
    }
}
