//! Takes datagrams apart and gives each record to whom it belongs, or a reason why to nobody.

use std::sync::Arc;
use std::time::Instant;

use portcullis_proto::session::KeyAnswer;
use portcullis_proto::types::{PeerAddr, Transmits};

use super::super::aead::Aead;
use super::super::cid::{CID_LEN, Cid};
use super::super::contract::{DtlsEvent, DtlsNote};
use super::super::handshake::Pending;
use super::super::hello::is_hello;
use super::super::kept::FLOOR;
use super::super::metrics::{Alert, HandshakeResult, RecordDrop};
use super::super::path::Check;
use super::super::psk::PskKeys;
use super::super::record::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, DTLS_1_0, DTLS_1_2, HANDSHAKE, Header,
    RETURN_ROUTABILITY_CHECK, TLS12_CID,
};
use super::super::sessions::Records;
use super::DtlsListener;

/// A datagram on its way through: who sent it, when, and where its records stand.
pub(super) struct Inbound<'a> {
    pub(super) now: Instant,
    pub(super) from: PeerAddr,
    pub(super) datagram: &'a mut [u8],
    /// Whether another node was reached by it.
    of_node: bool,
    /// Whether the rest of it is for another node.
    is_handed_on: bool,
}

impl<'a> Inbound<'a> {
    const fn new(now: Instant, from: PeerAddr, datagram: &'a mut [u8], of_node: bool) -> Self {
        Self {
            now,
            from,
            datagram,
            of_node,
            is_handed_on: false,
        }
    }
}

/// What a protected record holds at least: a type, and the tag of 16 bytes, or a nonce and a tag of 8 each (RFC 6655, RFC 9146).
const SHORTEST_PROTECTED: usize = 17;

impl DtlsListener {
    /// Takes a datagram. Records are opened in place, and each plaintext is an event of its own. Whether any of its records
    /// went further.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: PeerAddr,
        datagram: &mut [u8],
        transmits: &mut Transmits,
    ) -> bool {
        self.take_apart(Inbound::new(now, from, datagram, false), transmits)
    }

    /// Takes records that reached another node, which took them for ours by their Connection ID. What is not of a session here is of
    /// nobody: it might go round for ever.
    pub fn handle_records_of_node(
        &mut self,
        now: Instant,
        from: PeerAddr,
        datagram: &mut [u8],
        transmits: &mut Transmits,
    ) -> bool {
        self.take_apart(Inbound::new(now, from, datagram, true), transmits)
    }

    fn take_apart(&mut self, mut inbound: Inbound<'_>, transmits: &mut Transmits) -> bool {
        let from = inbound.from;
        if inbound.datagram.is_empty() {
            self.drop_record(from, RecordDrop::Empty);
        }
        self.asked_from = Some(from);
        let (mut at, mut taken) = (0, false);
        while at < inbound.datagram.len() {
            let Some(header) = Header::parse(inbound.datagram.get(at..).unwrap_or_default(), CID_LEN) else {
                self.drop_record(from, RecordDrop::Malformed);
                return taken;
            };
            match self.dispatch(&mut inbound, at, &header, transmits) {
                Ok(()) => taken = true,
                Err(reason) => self.drop_record(from, reason),
            }
            if inbound.is_handed_on {
                return true;
            }
            at += header.record_len();
        }
        taken
    }

    fn drop_record(&mut self, from: PeerAddr, reason: RecordDrop) {
        self.metrics.records_dropped.inc(reason);
        self.note(from, DtlsNote::Dropped(reason));
    }

    fn dispatch(
        &mut self,
        inbound: &mut Inbound<'_>,
        at: usize,
        header: &Header,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let known = header.version == DTLS_1_2 || header.version == DTLS_1_0 && header.epoch == 0;
        match (header.kind, header.epoch) {
            _ if !known => Err(RecordDrop::Version),
            (TLS12_CID, 1) => self.dispatch_cid(inbound, at, header, transmits),
            _ if inbound.of_node => Err(RecordDrop::CidRequired),
            (HANDSHAKE | CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA, 0) => {
                self.dispatch_clear(inbound, at, header, transmits)
            }
            (HANDSHAKE | ALERT | APPLICATION_DATA, 1) => {
                self.dispatch_protected(inbound, at, header, transmits)
            }
            (CHANGE_CIPHER_SPEC..=APPLICATION_DATA | TLS12_CID, 2..) => Err(RecordDrop::Epoch),
            _ => Err(RecordDrop::ContentType),
        }
    }

    fn dispatch_clear(
        &mut self,
        inbound: &mut Inbound<'_>,
        at: usize,
        header: &Header,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let (now, from) = (inbound.now, inbound.from);
        let record = inbound
            .datagram
            .get(at..at + header.record_len())
            .unwrap_or_default();
        match header.kind {
            HANDSHAKE if is_hello(header, record) => self.handle_hello(now, from, header, record, transmits),
            HANDSHAKE | CHANGE_CIPHER_SPEC => {
                let pending = self.pendings.take(from).ok_or(RecordDrop::NoHandshake)?;
                self.feed(now, pending, transmits, |pending, _| {
                    pending.feed_clear(header, record)
                })
            }
            ALERT => {
                // Only a whole one may touch the handshake: what is taken out and not put back is over.
                if let Some([level, code]) = record.get(header.header_len..)
                    && let Some(mut pending) = self.pendings.take(from)
                {
                    let alert = Alert::from_code(*code);
                    self.heard_alert(from, alert);
                    pending.hear_alert(*level, alert);
                    self.pendings.put(now, pending);
                }
                Err(RecordDrop::Unprotected)
            }
            _ => Err(RecordDrop::Unprotected),
        }
    }

    /// A record of epoch 1 without a Connection ID: of the live session at its address, else of the handshake there.
    fn dispatch_protected(
        &mut self,
        inbound: &mut Inbound<'_>,
        at: usize,
        header: &Header,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let from = inbound.from;
        let in_flight = self.pendings.get(from).is_some();
        let Some(key) = self.sessions.by_address(from) else {
            return if in_flight {
                self.feed_protected(inbound, at, header, transmits)
            } else if self.sessions.cid_at(from).is_some() {
                Err(RecordDrop::CidRequired)
            } else {
                self.hand_on(from, at..at + header.record_len())
            };
        };
        if !in_flight {
            return self.open(inbound, at, header, key, transmits);
        }
        // A record that does not open is spoilt, so the handshake needs it as it came.
        let record = at..at + header.record_len();
        let mut spare = std::mem::take(&mut self.spare);
        spare.clear();
        spare.extend_from_slice(inbound.datagram.get(record.clone()).unwrap_or_default());
        let before = self
            .sessions
            .get(key)
            .map(|session| (session.id, session.failures));
        let mut result = self.open(inbound, at, header, key, transmits);
        if matches!(
            result,
            Err(RecordDrop::NotAuthentic | RecordDrop::ForgeryRate | RecordDrop::Replay)
        ) {
            if let Some(place) = inbound.datagram.get_mut(record)
                && place.len() == spare.len()
            {
                place.copy_from_slice(&spare);
            }
            let fed = self.feed_protected(inbound, at, header, transmits);
            if fed.is_ok() {
                result = fed;
                // The handshake may have ended, and its session have the place of the old one.
                if let (Some(session), Some((id, failures))) = (self.sessions.get_mut(key), before)
                    && session.id == id
                {
                    session.failures = failures;
                }
            }
        }
        self.spare = spare;
        result
    }

    fn dispatch_cid(
        &mut self,
        inbound: &mut Inbound<'_>,
        at: usize,
        header: &Header,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let cid: Cid = *inbound
            .datagram
            .get(at + 11..)
            .and_then(|bytes| bytes.first_chunk())
            .ok_or(RecordDrop::Malformed)?;
        if let Some(key) = self.sessions.by_cid(cid) {
            return self.open(inbound, at, header, key, transmits);
        }
        let pending = self.pendings.get(inbound.from).and_then(|pending| pending.cids());
        if pending.is_some_and(|(ours, _)| ours == cid) {
            return self.feed_protected(inbound, at, header, transmits);
        }
        let [_, high, low, ..] = cid;
        let node = u16::from_be_bytes([high, low]);
        let is_others = !inbound.of_node && self.shared.nodes.has(node);
        // Of what comes first in a datagram alone: by that the kernel chose the worker.
        let is_sought =
            self.tenure.is_some() && at == 0 && (!inbound.of_node || self.shared.nodes.own() == Some(node));
        if !is_others && !is_sought {
            return Err(RecordDrop::UnknownCid);
        }
        if header.record_len() < header.header_len + SHORTEST_PROTECTED {
            return Err(RecordDrop::Malformed);
        }
        let (from, range) = (inbound.from, at..inbound.datagram.len());
        if !is_others {
            if !self.shared.takes_lookup(inbound.now, from.source()) {
                return Err(RecordDrop::UnknownCid);
            }
            inbound.is_handed_on = true;
            self.events.push_back(DtlsEvent::Nobodys { cid, from, range });
            return Ok(());
        }
        if !self.shared.takes_forward(inbound.now, from.source()) {
            return Err(RecordDrop::ForwardRate);
        }
        // The rest with it, whatever it is: a datagram becomes one, and not as many as there are records in it.
        inbound.is_handed_on = true;
        self.events.push_back(DtlsEvent::OfNode { node, from, range });
        Ok(())
    }

    fn feed_protected(
        &mut self,
        inbound: &mut Inbound<'_>,
        at: usize,
        header: &Header,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let now = inbound.now;
        let record = inbound
            .datagram
            .get(at..at + header.record_len())
            .ok_or(RecordDrop::Malformed)?;
        let pending = self
            .pendings
            .take(inbound.from)
            .ok_or(RecordDrop::UnknownSession)?;
        self.feed(now, pending, transmits, |pending, aead| {
            pending.feed_protected(aead, now, header, record)
        })
    }

    /// Opens a record of a live session.
    pub(super) fn open(
        &mut self,
        inbound: &mut Inbound<'_>,
        at: usize,
        header: &Header,
        key: u32,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        if self.tenure.is_some() {
            self.doubt(inbound.now, key);
        }
        let session = self.sessions.get_mut(key).ok_or(RecordDrop::UnknownSession)?;
        if session.cid.is_some() != (header.kind == TLS12_CID) {
            return Err(RecordDrop::CidRequired);
        }
        if !session.window.is_fresh(header.sequence) {
            return Err(RecordDrop::Replay);
        }
        let per_second = session.records.failures_per_second();
        if per_second.is_some_and(|limit| !session.failures.may_try(inbound.now, limit)) {
            return Err(RecordDrop::ForgeryRate);
        }
        let record = inbound
            .datagram
            .get_mut(at..at + header.record_len())
            .ok_or(RecordDrop::Malformed)?;
        if let (Records::Legacy(legacy), HANDSHAKE) = (&session.records, header.kind) {
            // What cannot be told from the end of another handshake at this address is left to that.
            let is_ours = legacy.knows(header, record);
            let is_in_flight = self.pendings.get(inbound.from).is_some();
            return if is_ours.unwrap_or(!is_in_flight) && legacy.is_as_long_as_finished(record) {
                self.repeat_flight(inbound.now, key, transmits)
            } else if is_ours == Some(true) {
                Err(RecordDrop::Renegotiation)
            } else {
                Err(RecordDrop::NotAuthentic)
            };
        }
        let Some(opened) = session.records.open(&mut self.aead, header, record) else {
            self.count_failure(inbound.now, key, transmits);
            return Err(RecordDrop::NotAuthentic);
        };
        if session.gate.is_some() {
            return self.hear_gated(inbound, at, header, (key, &opened), transmits);
        }
        let is_newest = session.window.is_newest(header.sequence);
        session.window.mark(header.sequence);
        if let Some(kept) = session.kept {
            // Before anything comes of it: no later process takes the record once more.
            kept.set(FLOOR, session.window.floor());
        }
        let id = session.id;
        let confirms = is_newest && opened.kind == APPLICATION_DATA;
        if self.sessions.touch(key, inbound.now) {
            self.keep_heard(key, inbound.now);
        }
        if header.kind == TLS12_CID {
            self.place(inbound, key, header.record_len(), is_newest, transmits);
        }
        let range = at + opened.plaintext.start..at + opened.plaintext.end;
        match opened.kind {
            APPLICATION_DATA => {
                if confirms {
                    self.drop_flight(key);
                }
                if range.is_empty() {
                    return Err(RecordDrop::NoData);
                }
                self.events.push_back(DtlsEvent::Plaintext { session: id, range });
                Ok(())
            }
            ALERT => {
                let body = inbound.datagram.get(range).unwrap_or_default();
                self.hear_alert(key, body, transmits)
            }
            HANDSHAKE => {
                let first = inbound.datagram.get(range).and_then(|body| body.first()).copied();
                self.hear_handshake(inbound.now, key, first, transmits)
            }
            RETURN_ROUTABILITY_CHECK if header.kind == TLS12_CID => {
                let check = Check::read(inbound.datagram.get(range).unwrap_or_default());
                self.hear_check(inbound, key, check, transmits)
            }
            _ => Err(RecordDrop::ContentType),
        }
    }

    /// Goes on with the handshake that asked for keys; it may have ended since.
    pub fn give_keys(&mut self, now: Instant, ticket: u64, answer: KeyAnswer, transmits: &mut Transmits) {
        let Some(address) = self.asked.remove(&ticket) else {
            return;
        };
        let is_it = |pending: &Pending| pending.id == ticket && pending.is_asking();
        if !self.pendings.get(address).is_some_and(is_it) {
            return;
        }
        let Some(mut pending) = self.pendings.take(address) else {
            return;
        };
        let keys = match answer {
            KeyAnswer::Unavailable => {
                pending.doubt = Some(HandshakeResult::KeySource);
                self.give_up(now, &pending, HandshakeResult::KeySource, transmits);
                return self.count_half_open();
            }
            KeyAnswer::Unknown => None,
            KeyAnswer::Known(known) => pending
                .identity()
                .map(|identity| Arc::new(PskKeys::live(identity, &known))),
        };
        let shared = Arc::clone(&self.shared);
        let heard = pending.heard;
        let step = |pending: &mut Pending, _: &mut Aead| {
            let source = pending.address.source();
            Ok(pending.give_keys(keys, |keys| shared.guess(keys, source)))
        };
        if self.feed(now, pending, transmits, step).is_err() {
            return;
        }
        // The peer itself said nothing.
        if let Some(mut pending) = self.pendings.take(address) {
            pending.heard = heard;
            self.pendings.put(now, pending);
        }
    }
}
