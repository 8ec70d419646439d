//! From a hello to an established session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;

use portcullis_proto::types::reason::Limit;
use portcullis_proto::types::source_rates::Allowance;
use portcullis_proto::types::{PeerAddr, Transmits};

use super::super::aead::Aead;
use super::super::cid::{CID_LEN, Cid};
use super::super::context::Authority;
use super::super::contract::{CloseReason, DtlsEvent, DtlsNote, SessionId};
use super::super::handshake::{Pending, Progress, Start};
use super::super::hello::ClientHello;
use super::super::metrics::{Alert, HandshakeResult, RecordDrop};
use super::super::record::{ALERT, Header};
use super::super::sessions::{NewSession, Session};
use super::{DtlsListener, FLIGHT_KEPT};

/// When all places are taken, a handshake that was silent for this long gives way to a new one.
const STALE: Duration = Duration::from_secs(2);

const FATAL: u8 = 2;
const BAD_CERTIFICATE: u8 = 42;
const DECRYPT_ERROR: u8 = 51;

impl DtlsListener {
    /// A ClientHello, from wherever it claims to come. It changes nothing unless its cookie shows that the sender
    /// receives there, and never touches a live session (RFC 6347, 4.2.8).
    pub(super) fn handle_hello(
        &mut self,
        now: Instant,
        from: PeerAddr,
        header: &Header,
        record: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let hello = ClientHello::parse(header, record).ok_or(RecordDrop::BadHello)?;
        if !self.cookies.verify(now, from, &hello) {
            return self.ask_for_cookie(now, from, &hello, transmits);
        }
        if self
            .pendings
            .get(from)
            .is_some_and(|pending| pending.began_with(hello.random, now))
        {
            let mut pending = self.pendings.take(from).ok_or(RecordDrop::NoHandshake)?;
            if let Some(flight) = pending.repeat_for_hello(now) {
                for datagram in flight {
                    transmits.push(self.listener, from, datagram);
                }
                self.metrics.flights_repeated.inc();
                self.pendings.put(now, pending);
                return Ok(());
            }
            return self.feed(now, pending, transmits, |pending, _| {
                pending.feed_clear(header, record)
            });
        }
        self.admit(now, from, &hello, transmits)?;
        let cid = (self.context.cid() && self.settings.cid).then(|| self.new_cid());
        let start = Start {
            id: self.next_pending,
            address: from,
            now,
            timeout: self.settings.handshake_timeout,
            cid,
            shared: Arc::clone(&self.shared),
        };
        self.next_pending += 1;
        if let Some(replaced) = self.pendings.take(from) {
            self.fail(now, &replaced, replaced.doubt.unwrap_or(HandshakeResult::Timeout));
        }
        let Some(pending) = Pending::start(&self.context, &start, &hello, header, record) else {
            self.refuse_at(from, HandshakeResult::Protocol);
            self.count_half_open();
            return Err(RecordDrop::BadHello);
        };
        self.note(from, DtlsNote::Hello);
        self.feed(
            now,
            Box::new(pending),
            transmits,
            |pending, _| Ok(pending.drive()),
        )
    }

    fn ask_for_cookie(
        &mut self,
        now: Instant,
        from: PeerAddr,
        hello: &ClientHello<'_>,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        if !hello.cookie.is_empty() {
            self.metrics.cookies_failed.inc();
        }
        if self.refuses_unproven {
            self.metrics.limits.inc(Limit::Overload);
            return Err(RecordDrop::Overload);
        }
        let rate = self.settings.handshakes_per_second;
        if !self.shared.takes_hello(now, from.source(), rate) {
            self.metrics.limits.inc(Limit::HandshakeRate);
            return Err(RecordDrop::HelloRate);
        }
        let cookies = &mut self.cookies;
        transmits.push_with(self.listener, from, |out| {
            cookies.write_request(now, from, hello, out)
        });
        self.metrics.cookies_sent.inc();
        Ok(())
    }

    /// Whether a handshake with a good cookie may begin.
    fn admit(
        &mut self,
        now: Instant,
        from: PeerAddr,
        hello: &ClientHello<'_>,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let known = [self.sessions.by_address(from), self.sessions.cid_at(from)];
        let is_duplicate = known.into_iter().flatten().any(|key| {
            self.sessions
                .get(key)
                .is_some_and(|session| session.was_made_by(hello.random, now))
        });
        if is_duplicate {
            return Err(RecordDrop::DuplicateHello);
        }
        self.has_turn(now, from)?;
        let exchange = self.context.exchange(hello.suites);
        self.effort.add(now, exchange, self.context.asks_certificates());
        if self.pendings.len() < self.settings.max_half_open || self.pendings.get(from).is_some() {
            return Ok(());
        }
        self.metrics.limits.inc(Limit::HalfOpen);
        let silent = self.pendings.most_silent();
        let stale = silent.filter(|silent| now.saturating_duration_since(silent.heard) >= STALE);
        let stale = stale.map(|stale| stale.address);
        let stale = stale.and_then(|stale| self.pendings.take(stale));
        let stale = stale.ok_or(RecordDrop::HalfOpen)?;
        self.give_up(now, &stale, HandshakeResult::Limit, transmits);
        Ok(())
    }

    /// Whether a source may begin a handshake now. Its cookie has proved the address, so nobody else can spend what it has: only
    /// while places, the processor or the listener's rate are short does it wait for its own rate. A fleet behind one address gets
    /// back in like this.
    fn has_turn(&mut self, now: Instant, from: PeerAddr) -> Result<(), RecordDrop> {
        let (shared, settings) = (&self.shared, &self.settings);
        let all = Allowance::per_second(settings.max_handshakes_per_second, 1);
        let has_places = self.pendings.len() < settings.max_half_open / 2;
        if has_places
            && !self.effort.is_high(now)
            && shared.takes_listener(now, self.listener, all.while_half_is_left())
        {
            return Ok(());
        }
        let (limit, drop) = if !shared.takes_handshake(now, from.source(), settings.handshakes_per_second) {
            (Limit::HandshakeRate, RecordDrop::HandshakeRate)
        } else if !shared.takes_listener(now, self.listener, all) {
            (Limit::ListenerHandshakeRate, RecordDrop::ListenerHandshakeRate)
        } else {
            return Ok(());
        };
        self.metrics.limits.inc(limit);
        Err(drop)
    }

    fn new_cid(&mut self) -> Cid {
        loop {
            let mut cid: Cid = self.rng.random::<[u8; CID_LEN]>();
            let [worker, high, low, ..] = &mut cid;
            *worker = self.worker.0;
            if let Some(node) = self.shared.nodes.own() {
                [*high, *low] = node.to_be_bytes();
            }
            if self.sessions.by_cid(cid).is_none() {
                return cid;
            }
        }
    }

    /// Gives a handshake that was taken from its table one more record, sends what it says, and puts it back, makes
    /// it a session, or lets it go.
    pub(super) fn feed(
        &mut self,
        now: Instant,
        mut pending: Box<Pending>,
        transmits: &mut Transmits,
        step: impl FnOnce(&mut Pending, &mut Aead) -> Result<Progress, RecordDrop>,
    ) -> Result<(), RecordDrop> {
        let mut outcome = step(&mut pending, &mut self.aead);
        if outcome.is_ok() {
            pending.heard = now;
        }
        if outcome == Ok(Progress::Waiting) {
            outcome = Ok(self.choose_key(now, &mut pending));
        }
        self.flush(&mut pending, transmits);
        if let Some(result) = pending.refused() {
            self.give_up(now, &pending, result, transmits);
            self.count_half_open();
            return Ok(());
        }
        if outcome == Ok(Progress::Waiting)
            && let Some(early) = pending.take_early()
            && let Some(header) = Header::parse(&early, CID_LEN)
        {
            let late = pending.feed_protected(&mut self.aead, now, &header, &early);
            outcome = Ok(late.unwrap_or(Progress::Waiting));
            self.flush(&mut pending, transmits);
        }
        let result = match outcome {
            Ok(Progress::Waiting) => {
                self.pendings.put(now, pending);
                Ok(())
            }
            Ok(Progress::Failed(result)) => {
                self.fail(now, &pending, result);
                Ok(())
            }
            Ok(Progress::Done) => {
                self.establish(now, pending, transmits);
                Ok(())
            }
            Err(reason) => {
                if reason == RecordDrop::HandshakeRecords {
                    self.fail(now, &pending, HandshakeResult::Protocol);
                } else {
                    self.pendings.put(now, pending);
                }
                Err(reason)
            }
        };
        self.count_half_open();
        result
    }

    pub(super) fn flush(&mut self, pending: &mut Pending, transmits: &mut Transmits) {
        let (listener, address) = (self.listener, pending.address);
        let alerts = pending.take_output(&mut self.aead, |bytes| transmits.push(listener, address, bytes));
        for alert in alerts {
            self.sent_alert(pending, alert);
        }
    }

    /// The handshake is done: whoever it belongs to is judged by the material of now, which may be newer than the
    /// handshake, or than the ticket that it redeemed.
    fn establish(&mut self, now: Instant, pending: Box<Pending>, transmits: &mut Transmits) {
        let Some(authority) = pending.authorize(&self.context, &self.shared.chains) else {
            self.refuse(now, *pending, transmits);
            return;
        };
        self.note_key(&pending);
        let (address, started, random) = (pending.address, pending.started, pending.random);
        let Some(finished) = pending.finish() else {
            self.refuse_at(address, HandshakeResult::Protocol);
            return;
        };
        self.replace(address, &authority);
        if !self.make_room(&authority, finished.records.is_legacy(), transmits) {
            return self.refuse_at(address, HandshakeResult::Limit);
        }
        self.metrics.handshakes.inc(HandshakeResult::Ok);
        self.metrics
            .handshake_seconds
            .observe(now.saturating_duration_since(started));
        self.metrics.suites.inc(finished.suite);
        if finished.resumed {
            self.metrics.resumed.inc();
        }
        if self.settings.wants_identity && authority.identity.is_none() {
            self.metrics.unidentified.inc();
        }
        let id = self.new_session_id();
        let identity = authority.identity.clone();
        let session = Session::new(NewSession {
            id,
            address,
            authority,
            now,
            random,
            finished,
        });
        self.keep_flight(now, id);
        if let Some(identity) = &identity {
            self.shared.session_began(identity);
        }
        self.shared.nothing_restored_at(self.listener, address);
        self.sessions.insert(session);
        self.keep(id);
        self.count_sessions();
        self.events.push_back(DtlsEvent::Established {
            session: id,
            address,
            identity,
        });
    }

    /// Ends what must give way to a new session: one of its own identity when that has its share, else one of which nothing is
    /// known, else the most idle one. False when nothing gives way to it.
    fn make_room(&mut self, authority: &Authority, legacy: bool, transmits: &mut Transmits) -> bool {
        let mut evict = |listener: &mut Self, limit, least: Option<SessionId>| {
            listener.metrics.limits.inc(limit);
            let Some(key) = least.and_then(|least| listener.sessions.by_id(least)) else {
                return false;
            };
            listener.say_goodbye(key, transmits);
            listener.end(key, CloseReason::Evicted);
            true
        };
        if let Some(identity) = &authority.identity
            && self.shared.sessions_of(identity) >= self.settings.sessions_per_identity
        {
            let own = self.sessions.most_idle_of(identity);
            if !evict(self, Limit::IdentitySessions, own) {
                return false;
            }
        }
        let is_known = authority.identity.is_some();
        while legacy && self.sessions.legacy_len() >= self.settings.legacy_max_sessions {
            let least = self.sessions.least_legacy(is_known);
            if !evict(self, Limit::LegacySessions, least) {
                return false;
            }
        }
        while self.sessions.len() >= self.settings.max_sessions.max(1) {
            let least = self.sessions.least(is_known);
            if !evict(self, Limit::Sessions, least) {
                return false;
            }
        }
        true
    }

    fn keep_flight(&mut self, now: Instant, id: SessionId) {
        self.flights.push_back((now + FLIGHT_KEPT, id));
        if self.flights.len() > self.settings.max_sessions.max(1) {
            self.forget_flight();
        }
    }

    /// A finished handshake of someone who is not, or no longer, let in: alert and forget.
    fn refuse(&mut self, now: Instant, pending: Pending, transmits: &mut Transmits) {
        let (resumed, address) = (pending.is_resumed(), pending.address);
        let (result, code) = if pending.uses_psk() {
            (HandshakeResult::UnknownIdentity, DECRYPT_ERROR)
        } else {
            (HandshakeResult::BadCertificate, BAD_CERTIFICATE)
        };
        if resumed {
            self.metrics.resumptions_refused.inc();
        }
        self.fail(now, &pending, result);
        let Some(mut finished) = pending.finish() else {
            return;
        };
        let cid: &[u8] = finished.cid.as_ref().map_or(&[], |(_, theirs)| theirs);
        let what = super::Seal {
            kind: ALERT,
            sequence: finished.write.sequence,
            explicit: finished.write.explicit,
            cid,
            plaintext: &[FATAL, code],
        };
        let aead = &mut self.aead;
        let mut sealed = None;
        let records = &mut finished.records;
        transmits.push_with(self.listener, address, |out| {
            sealed = records.seal(aead, &what, out);
        });
        if sealed.is_some() {
            let alert = if records.is_legacy() {
                Alert::CloseNotify
            } else {
                Alert::from_code(code)
            };
            self.metrics.alerts_sent.inc(alert);
            self.note(address, DtlsNote::AlertSent(alert));
        }
    }

    /// Ends what stood at the address of a new session. A session with a Connection ID and another identity stays:
    /// its peer may have moved unheard, and the address gone to someone else.
    fn replace(&mut self, address: PeerAddr, authority: &Authority) {
        if let Some(key) = self.sessions.by_address(address) {
            self.end(key, CloseReason::Replaced);
        }
        if let Some(key) = self.sessions.cid_at(address)
            && self
                .sessions
                .get(key)
                .is_some_and(|old| old.authority.identity == authority.identity)
        {
            self.end(key, CloseReason::Replaced);
        }
    }
}
