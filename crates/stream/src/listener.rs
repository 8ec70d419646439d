//! The streams of one listener of one worker, as the gateway knows sessions: messages and what happens to connections in, messages and
//! events out. What opens, reads and writes them is [`crate::gate`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use portcullis_dtls::{DtlsShared, TlsClient};
use portcullis_proto::coap::codec::Message;
use portcullis_proto::coap::contract::{Code, Token};
use portcullis_proto::session::{
    CloseReason, DtlsEvent, DtlsNote, DtlsSettings, KeyAnswer, RestoreResult, SecureTransport, SendError,
    SessionId, SessionInfo, StreamEvent, StreamSettings,
};
use portcullis_proto::state::Record;
use portcullis_proto::types::reason::{DropReason, Limit};
use portcullis_proto::types::{Identity, ListenerId, PeerAddr, Transmits, WorkerId};

use crate::frame;
use crate::gate::Gate;
use crate::metrics::StreamMetrics;
use crate::signal::{self, Fault, Signal};

/// A peer that released its connection gets the answers that are owed to it within this time.
const RELEASE: Duration = Duration::from_secs(10);
/// Tokens of requests without an answer that are kept of one connection. With more of them nothing is claimed about Custody.
const OWED: usize = 64;
/// Bits of the counter in a [`SessionId`]; above it stand the worker (8 bits) and the listener (16 bits).
const ID_COUNTER_BITS: u32 = 40;
/// What a connection holds, in bytes, beside its peer: its task, its buffers, its places here; and OpenSSL's part of it.
const TCP_WEIGHT: usize = 4 << 10;
const TLS_WEIGHT: usize = 32 << 10;
/// What a WebSocket's buffers are beside; those that grow with a long message are given back after it.
const WEB_WEIGHT: usize = 32 << 10;

/// One connection.
struct Stream {
    id: SessionId,
    since: Instant,
    heard: Instant,
    /// Under which time it stands among those that are looked at.
    wakes: Instant,
    identity: Option<Identity>,
    client: Option<Box<TlsClient>>,
    suite: &'static str,
    /// Most bytes of a message to its peer, once its CSM said so: a stream without one is none to the gateway.
    takes: Option<usize>,
    /// Bytes that were handed out and have not left.
    queued: usize,
    /// Requests of it without an answer, by their tokens.
    owed: Vec<Token>,
    /// Until when it may have the answers that it is owed, once its peer has released it.
    released: Option<Instant>,
}

/// The streams of one listener of one worker. It does no I/O.
pub struct StreamListener {
    listener: ListenerId,
    worker: WorkerId,
    gate: Arc<Gate>,
    settings: DtlsSettings,
    shared: Arc<DtlsShared>,
    metrics: Arc<StreamMetrics>,
    streams: HashMap<PeerAddr, Stream>,
    by_id: HashMap<SessionId, PeerAddr>,
    /// When which of them is to be looked at.
    wakes: BTreeSet<(Instant, SessionId)>,
    events: VecDeque<DtlsEvent>,
    next: u64,
    /// Whether whoever has proved nothing is kept out.
    refuses_unknown: bool,
}

impl StreamListener {
    /// A listener without streams. `seed` is for the ids of sessions; `metrics` has no other writer.
    #[must_use]
    pub fn new(
        listener: ListenerId,
        worker: WorkerId,
        gate: Arc<Gate>,
        settings: DtlsSettings,
        seed: [u8; 32],
        shared: Arc<DtlsShared>,
        metrics: Arc<StreamMetrics>,
    ) -> Self {
        Self {
            listener,
            worker,
            gate,
            settings,
            shared,
            metrics,
            streams: HashMap::new(),
            by_id: HashMap::new(),
            wakes: BTreeSet::new(),
            events: VecDeque::new(),
            // A listener that is made anew goes on somewhere else, so that no id comes back.
            next: StdRng::from_seed(seed).random(),
            refuses_unknown: false,
        }
    }

    fn stream(&self) -> StreamSettings {
        self.settings.stream.unwrap_or_default()
    }

    fn get(&self, session: SessionId) -> Option<&Stream> {
        self.streams.get(self.by_id.get(&session)?)
    }

    fn opened(
        &mut self,
        now: Instant,
        from: PeerAddr,
        (identity, suite, client): (Option<Identity>, &'static str, Option<Box<TlsClient>>),
        transmits: &mut Transmits,
    ) {
        if self.streams.contains_key(&from) {
            // The kernel lets an address have one connection, so that of before has ended.
            self.end(from, CloseReason::Replaced, None, transmits);
        }
        if let Err(limit) = self.admit(identity.as_ref(), transmits) {
            self.metrics.limits.inc(limit);
            push(transmits, self.listener, from, &signal::abort(None, "no room"));
            transmits.push_end(self.listener, from);
            return;
        }
        let counter = self.next & ((1 << ID_COUNTER_BITS) - 1);
        self.next = self.next.wrapping_add(1);
        let owner = u64::from(self.worker.0) << 16 | u64::from(self.listener.0);
        let id = SessionId(owner << ID_COUNTER_BITS | counter);
        if let Some(identity) = &identity {
            self.shared.session_began(identity);
        }
        let wakes = now + self.settings.handshake_timeout;
        let mut stream = Stream {
            id,
            since: now,
            heard: now,
            wakes,
            identity,
            client,
            suite,
            takes: None,
            queued: 0,
            owed: Vec::new(),
            released: None,
        };
        let csm = signal::csm(self.stream().max_message);
        stream.queued += push(transmits, self.listener, from, &csm);
        self.by_id.insert(id, from);
        self.wakes.insert((wakes, id));
        self.streams.insert(from, stream);
    }

    /// Whether there is room for a session of this identity.
    fn admit(&mut self, identity: Option<&Identity>, transmits: &mut Transmits) -> Result<(), Limit> {
        if self.streams.len() >= self.settings.max_sessions {
            return Err(Limit::Sessions);
        }
        let Some(identity) = identity else {
            return match self.refuses_unknown {
                true => Err(Limit::Overload),
                false => Ok(()),
            };
        };
        if self.shared.sessions_of(identity) < self.settings.sessions_per_identity {
            return Ok(());
        }
        let own = self
            .streams
            .iter()
            .filter(|(_, it)| it.identity.as_ref() == Some(identity));
        let most_idle = own.min_by_key(|(_, it)| it.heard).map(|(from, _)| *from);
        let most_idle = most_idle.ok_or(Limit::IdentitySessions)?;
        self.metrics.limits.inc(Limit::IdentitySessions);
        self.end(most_idle, CloseReason::Evicted, None, transmits);
        Ok(())
    }

    /// Ends a stream, with `last` as its last message.
    fn end(&mut self, from: PeerAddr, reason: CloseReason, last: Option<&[u8]>, transmits: &mut Transmits) {
        let Some(stream) = self.forget(from, reason) else {
            return;
        };
        if let Some(last) = last {
            push(transmits, self.listener, from, last);
        }
        transmits.push_end(self.listener, from);
        if stream.takes.is_some() {
            let session = stream.id;
            self.events.push_back(DtlsEvent::Closed { session, reason });
        }
    }

    fn forget(&mut self, from: PeerAddr, reason: CloseReason) -> Option<Stream> {
        let stream = self.streams.remove(&from)?;
        self.by_id.remove(&stream.id);
        self.wakes.remove(&(stream.wakes, stream.id));
        if let Some(identity) = &stream.identity {
            self.shared.session_ended(identity);
        }
        self.metrics.closed.inc(reason);
        self.metrics.sessions.sub(u64::from(stream.takes.is_some()));
        Some(stream)
    }

    fn abort(&mut self, from: PeerAddr, fault: Option<u16>, why: &str, transmits: &mut Transmits) {
        let last = signal::abort(fault, why);
        self.end(from, CloseReason::MalformedStream, Some(&last), transmits);
    }

    /// A message of the peer that is for its connection, and not for the gateway; false when it is for that too.
    fn signalled(&mut self, from: PeerAddr, datagram: &mut [u8], transmits: &mut Transmits) -> bool {
        let read = signal::read(datagram);
        let Some(stream) = self.streams.get_mut(&from) else {
            return true;
        };
        match read {
            Err(Fault::Malformed) => self.abort(from, None, "no message", transmits),
            Err(Fault::Critical(number)) => self.abort(from, Some(number), "critical option", transmits),
            Ok(Signal::Csm(max_message)) => {
                let takes = max_message.or(stream.takes).unwrap_or(signal::BASE_MESSAGE);
                if stream.takes.replace(takes).is_none() {
                    self.metrics.sessions.inc();
                    self.events.push_back(DtlsEvent::Established {
                        session: stream.id,
                        address: from,
                        identity: stream.identity.clone(),
                    });
                }
            }
            Ok(_) if stream.takes.is_none() => self.abort(from, None, "a CSM comes first", transmits),
            Ok(Signal::Ping(token, custody)) => {
                let pong = signal::pong(token, custody && stream.owed.is_empty());
                stream.queued += push(transmits, self.listener, from, &pong);
                return false;
            }
            Ok(Signal::Release) => {
                stream.released = Some(stream.heard + RELEASE);
                self.wake_at(from, RELEASE);
                self.end_when_answered(from, transmits);
            }
            Ok(Signal::Abort) => self.end(from, CloseReason::Aborted, None, transmits),
            Ok(Signal::Pong | Signal::Unknown) => {}
        }
        true
    }

    /// Has a stream looked at so long after it was heard.
    fn wake_at(&mut self, from: PeerAddr, after: Duration) {
        if let Some(stream) = self.streams.get_mut(&from) {
            self.wakes.remove(&(stream.wakes, stream.id));
            stream.wakes = stream.heard + after;
            self.wakes.insert((stream.wakes, stream.id));
        }
    }

    /// Ends a stream that its peer released and that is owed nothing.
    fn end_when_answered(&mut self, from: PeerAddr, transmits: &mut Transmits) {
        let is_done = |stream: &Stream| stream.released.is_some() && stream.owed.is_empty();
        if self.streams.get(&from).is_some_and(is_done) {
            self.end(from, CloseReason::StreamEnded, None, transmits);
        }
    }

    /// When a stream ends of itself.
    fn deadline(&self, stream: &Stream) -> (Instant, CloseReason) {
        match (stream.takes, stream.released) {
            (_, Some(until)) => (until, CloseReason::StreamEnded),
            (None, _) => (stream.since + self.settings.handshake_timeout, CloseReason::NoCsm),
            (Some(_), None) => (stream.heard + self.settings.idle_timeout, CloseReason::Idle),
        }
    }
}

/// Appends a message to what is to be sent; its length in the stream.
fn push(transmits: &mut Transmits, listener: ListenerId, to: PeerAddr, datagram: &[u8]) -> usize {
    let mut len = 0;
    transmits.push_with(listener, to, |out| {
        let before = out.len();
        frame::write(datagram, out);
        len = out.len() - before;
    });
    len
}

impl SecureTransport for StreamListener {
    /// Nothing asks for keys: TLS has those of the file alone.
    fn give_keys(&mut self, _: Instant, _: u64, _: KeyAnswer, _: &mut Transmits) {}

    fn handle_datagram(
        &mut self,
        now: Instant,
        from: PeerAddr,
        datagram: &mut [u8],
        transmits: &mut Transmits,
    ) -> bool {
        self.metrics.received.inc();
        self.metrics.received_bytes.add(datagram.len() as u64);
        let Some(stream) = self.streams.get_mut(&from) else {
            // It was under way when its stream was ended.
            return true;
        };
        stream.heard = now;
        let code = datagram.get(1).copied().unwrap_or_default();
        if signal::is_signal(code) {
            if !self.signalled(from, datagram, transmits)
                && let Some(stream) = self.streams.get(&from)
            {
                // To the message layer a ping is an empty confirmable message: a sign of life.
                datagram.fill(0);
                if let Some(first) = datagram.first_mut() {
                    *first = 0x40;
                }
                let (session, range) = (stream.id, 0..4);
                self.events.push_back(DtlsEvent::Plaintext { session, range });
            }
            return true;
        }
        if stream.takes.is_none() {
            self.abort(from, None, "a CSM comes first", transmits);
            return true;
        }
        // Empty messages keep a connection alive, and say nothing (RFC 8323, 3.4).
        if code == Code::EMPTY.0 {
            return true;
        }
        match Message::parse(datagram) {
            Ok(message) => {
                if message.code.is_request() && stream.owed.len() < OWED {
                    stream.owed.push(message.token);
                }
                let (session, range) = (stream.id, 0..datagram.len());
                self.events.push_back(DtlsEvent::Plaintext { session, range });
            }
            Err(malformed) if malformed.reason == DropReason::Malformed => {
                self.abort(from, None, "no message", transmits);
            }
            // A code that means nothing here may mean something some day.
            Err(_) => return false,
        }
        true
    }

    fn handle_stream(
        &mut self,
        now: Instant,
        from: PeerAddr,
        event: StreamEvent,
        transmits: &mut Transmits,
    ) -> Option<SessionId> {
        match event {
            StreamEvent::Opened {
                identity,
                suite,
                credential,
            } => {
                let client = credential.and_then(|credential| credential.downcast().ok());
                self.opened(now, from, (identity, suite, client), transmits);
            }
            StreamEvent::Written(bytes) => {
                let stream = self.streams.get_mut(&from)?;
                stream.queued = stream.queued.saturating_sub(bytes);
                return Some(stream.id);
            }
            StreamEvent::Ended(reason) => {
                if let Some(stream) = self.forget(from, reason)
                    && stream.takes.is_some()
                {
                    let session = stream.id;
                    self.events.push_back(DtlsEvent::Closed { session, reason });
                }
            }
            StreamEvent::Failed {
                identity,
                result,
                after,
            } => self.events.push_back(DtlsEvent::Noted {
                address: from,
                identity,
                note: DtlsNote::Failed { result, after },
            }),
        }
        None
    }

    fn handle_timeout(&mut self, now: Instant, transmits: &mut Transmits) {
        while let Some((at, session)) = self.wakes.first().copied()
            && at <= now
        {
            self.wakes.pop_first();
            let Some(from) = self.by_id.get(&session).copied() else {
                continue;
            };
            let due = self.streams.get(&from).map(|stream| self.deadline(stream));
            match due {
                Some((until, reason)) if until <= now => {
                    self.end(from, reason, Some(&signal::release()), transmits);
                }
                Some((until, _)) => {
                    if let Some(stream) = self.streams.get_mut(&from) {
                        stream.wakes = until;
                    }
                    self.wakes.insert((until, session));
                }
                None => {}
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    fn send(
        &mut self,
        session: SessionId,
        plaintext: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), SendError> {
        let from = *self.by_id.get(&session).ok_or(SendError::NoSession)?;
        let most = self.stream().max_queued;
        let stream = self.streams.get_mut(&from).ok_or(SendError::NoSession)?;
        // There are no acknowledgements in a stream, and nothing is rejected.
        let Some(code) = plaintext
            .get(1)
            .map(|code| Code(*code))
            .filter(|code| *code != Code::EMPTY)
        else {
            return Ok(());
        };
        if stream.queued + plaintext.len() > most {
            let last = signal::abort(None, "too much waits to be read");
            self.end(from, CloseReason::SlowReader, Some(&last), transmits);
            return Err(SendError::NoSession);
        }
        let len = push(transmits, self.listener, from, plaintext);
        stream.queued += len;
        self.metrics.sent.inc();
        self.metrics.sent_bytes.add(len as u64);
        if code.is_response() && !stream.owed.is_empty() {
            let token = Message::parse(plaintext).ok().map(|message| message.token);
            if let Some(at) = stream.owed.iter().position(|owed| Some(*owed) == token) {
                stream.owed.swap_remove(at);
                self.end_when_answered(from, transmits);
            }
        }
        Ok(())
    }

    fn max_plaintext(&self, session: SessionId) -> usize {
        // What is ours to take is theirs too: a queue has room for some of the longest.
        let most = self.stream().max_message;
        let takes = self.get(session).and_then(|stream| stream.takes);
        takes.unwrap_or(signal::BASE_MESSAGE).min(most)
    }

    fn confirm_address(&mut self, _: SessionId) {}

    fn close(&mut self, _: Instant, session: SessionId, reason: CloseReason, transmits: &mut Transmits) {
        if let Some(from) = self.by_id.get(&session).copied() {
            self.forget(from, reason);
            push(transmits, self.listener, from, &signal::release());
            transmits.push_end(self.listener, from);
        }
    }

    fn restore(&mut self, _: &mut Transmits, _: bool) -> Vec<(RestoreResult, u64)> {
        Vec::new()
    }

    fn kept(&self, _: SessionId) -> Option<Record> {
        None
    }

    fn leave(&mut self, now: Instant, transmits: &mut Transmits) {
        self.close_all(now, CloseReason::Shutdown, transmits);
    }

    fn close_all(&mut self, _: Instant, reason: CloseReason, transmits: &mut Transmits) {
        let all: Vec<PeerAddr> = self.streams.keys().copied().collect();
        for from in all {
            self.forget(from, reason);
            push(transmits, self.listener, from, &signal::release());
            transmits.push_end(self.listener, from);
        }
    }

    fn reconfigure(&mut self, _: Instant, settings: DtlsSettings, transmits: &mut Transmits) {
        let before = std::mem::replace(&mut self.settings, settings);
        let most = self.stream().max_message;
        if before.stream.is_some_and(|before| before.max_message != most) {
            let csm = signal::csm(most);
            for (from, stream) in &mut self.streams {
                stream.queued += push(transmits, self.listener, *from, &csm);
            }
        }
        let Some(context) = self.gate.context() else {
            return;
        };
        let lost = |stream: &Stream| !context.still_admits(stream.client.as_deref());
        let lost: Vec<PeerAddr> = self
            .streams
            .iter()
            .filter(|(_, stream)| lost(stream))
            .map(|(from, _)| *from)
            .collect();
        for from in lost {
            self.end(from, CloseReason::Revoked, Some(&signal::release()), transmits);
        }
    }

    fn set_pressure(&mut self, idle_timeout: Duration, refuse_unproven: bool) {
        self.refuses_unknown = refuse_unproven;
        let is_shorter = idle_timeout < self.settings.idle_timeout;
        self.settings.idle_timeout = idle_timeout;
        if is_shorter {
            let due = self.streams.iter().map(|(from, it)| (*from, self.deadline(it).0));
            let due: Vec<_> = due.collect();
            for (from, at) in due {
                if let Some(stream) = self.streams.get_mut(&from) {
                    self.wakes.remove(&(stream.wakes, stream.id));
                    stream.wakes = at;
                    self.wakes.insert((at, stream.id));
                }
            }
        }
    }

    fn set_watched(&mut self, _: bool) {}

    fn session(&self, session: SessionId) -> Option<SessionInfo> {
        let address = *self.by_id.get(&session)?;
        let stream = self.streams.get(&address)?;
        Some(SessionInfo {
            address,
            identity: stream.identity.clone(),
            suite: stream.suite,
            cid: false,
            established_at: stream.since,
            resumed: false,
            max_plaintext: self.max_plaintext(session),
        })
    }

    fn session_count(&self) -> usize {
        self.streams.len()
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn queued(&self, session: SessionId) -> usize {
        self.get(session).map_or(0, |stream| stream.queued)
    }

    fn session_weight(&self) -> usize {
        let stream = self.stream();
        let tls = if stream.tls { TLS_WEIGHT } else { 0 };
        let web = if stream.web { WEB_WEIGHT } else { 0 };
        TCP_WEIGHT + tls + web
    }
}

#[cfg(test)]
mod tests;
