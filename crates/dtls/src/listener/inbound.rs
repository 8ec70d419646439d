//! Takes datagrams apart and gives each record to whom it belongs, or a reason why to nobody.

use std::time::Instant;

use portcullis_proto::types::{PeerAddr, Transmits};

use super::super::cid::{CID_LEN, Cid};
use super::super::contract::DtlsNote;
use super::super::hello::is_hello;
use super::super::metrics::{Alert, RecordDrop};
use super::super::record::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, DTLS_1_0, DTLS_1_2, HANDSHAKE, Header, TLS12_CID,
};
use super::DtlsListener;

/// A datagram on its way through: who sent it, when, and where its records stand.
pub(super) struct Inbound<'a> {
    pub(super) now: Instant,
    pub(super) from: PeerAddr,
    pub(super) datagram: &'a mut [u8],
}

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
        if datagram.is_empty() {
            self.drop_record(from, RecordDrop::Empty);
        }
        self.asked_from = Some(from);
        let mut inbound = Inbound { now, from, datagram };
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
        Err(RecordDrop::UnknownCid)
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
}
