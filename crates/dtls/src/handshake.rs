//! One handshake in flight: OpenSSL does it, we watch. At its end the keys are ours and the SSL goes.

mod gate;
mod translate;
mod unlock;
pub(super) mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::ssl::{ShutdownState, SslStream};

use portcullis_proto::types::PeerAddr;

use super::aead::{Aead, SessionKeys};
use super::bio::{Pipe, is_waiting};
use super::chains::Chains;
use super::cid::{Cid, Notes, notes_index};
use super::context::{Authority, DtlsContext};
use super::ffi;
use super::hello::{CLIENT_HELLO, ClientHello, Fragments, Negotiated};
use super::legacy::{LegacyRecords, RecordMac};
use super::metrics::{Alert, HandshakeResult, RecordDrop};
use super::psk::identity_text;
use super::record::{
    ALERT, CHANGE_CIPHER_SPEC, DTLS_1_2, HANDSHAKE, Header, MAX_PLAINTEXT, TLS12_CID, renumber,
};
use super::replay::ReplayWindow;
use super::sessions::Records;
use super::shared::DtlsShared;
use super::suite::{KeyExchange, Suite};
use gate::Gate;
use translate::{reseal, reseal_with_cid};
use unlock::Choice;
use verdict::judge;

/// A client whose whole last flight came this often, each time with a Finished that does not open, has another key. One record
/// that does not open may be anyone's, and the peer itself must still have its chance.
const BAD_FLIGHTS: u8 = 2;
/// A flight is not repeated sooner after the last sign of the peer.
const FLIGHT_PAUSE: Duration = Duration::from_millis(200);
/// A hello that comes again this long after the client had gone on is that of a device that rebooted.
const REBOOT: Duration = Duration::from_secs(1);
/// Records that one handshake may take: a long chain in small fragments, some times over.
const MAX_RECORDS: u32 = 1024;
/// Records that do not open may be tried in one handshake. A forger's chance is 2^-48 with tags of 8 bytes.
const MAX_FORGERIES: u32 = 1 << 16;
/// A protected record that overtakes ChangeCipherSpec is kept if it is not longer than this.
const MAX_EARLY: usize = 512;

const ALERT_FATAL: u8 = 2;
const ALERT_HANDSHAKE_FAILURE: u8 = 40;
const ALERT_UNSUPPORTED_CERTIFICATE: u8 = 43;
const ALERT_DECRYPT_ERROR: u8 = 51;
const ALERT_INTERNAL_ERROR: u8 = 80;
const ALERT_USER_CANCELED: u8 = 90;

/// Why a handshake is not to go on as OpenSSL would have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It negotiated what our records do not keep.
    Foreign,
    /// The client takes a raw public key only (RFC 7250), and would be sent a certificate.
    RawKey,
}

/// What the records of a handshake with known keys are protected with.
enum Protection {
    /// With an AEAD, which is ours.
    Own(SessionKeys),
    /// With CBC, which stays OpenSSL's; and how to know a client's record if the MAC is over the ciphertext.
    Legacy(RecordMac),
}

/// How far a handshake has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    Done,
    Failed(HandshakeResult),
}

/// Where the writing of records stands when it becomes ours.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WriteState {
    /// The next sequence number in epoch 1.
    pub(super) sequence: u64,
    /// The next explicit nonce. It goes on from OpenSSL's, which excludes that one is used twice.
    pub(super) explicit: u64,
    /// The next sequence number in epoch 0.
    clear: u64,
}

/// A handshake in flight.
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) address: PeerAddr,
    pub(super) started: Instant,
    pub(super) heard: Instant,
    pub(super) deadline: Instant,
    /// Under which time it stands in the timer queue.
    pub(super) wakes: Instant,
    pub(super) random: [u8; 32],
    /// Whether the client has gone on after its hello.
    answered: bool,
    /// Whether ChangeCipherSpec came, and whether it did since the last Finished that did not open.
    changes: bool,
    changed: bool,
    bad_flights: u8,
    pub(super) doubt: Option<HandshakeResult>,
    keys: Option<(Suite, Protection)>,
    /// What the client's flight waits behind while its pre-shared key is not chosen, and how it was chosen.
    gate: Option<Box<Gate>>,
    choice: Choice,
    pub(super) window: ReplayWindow,
    pub(super) write: WriteState,
    clear_window: ReplayWindow,
    fragments: Fragments,
    stream: SslStream<Pipe>,
    cid: Option<Cid>,
    early: Vec<u8>,
    records: u32,
    forgeries: u32,
    /// How many hellos OpenSSL was shown before the client's, by which the client's records have higher numbers for it.
    skipped: u16,
    /// The number of the hello's record, which the ServerHello must have (RFC 6347, 4.2.1), and what is added to OpenSSL's own
    /// numbers for that.
    hello_number: u64,
    renumbered_by: Option<u64>,
    /// Most bytes of plaintext in a record to the client, and what its hello says of that.
    max_plaintext: usize,
    record_size_limit: Option<usize>,
    encrypt_then_mac: bool,
    extended_master_secret: bool,
    /// Bytes of the last record of handshake that opened.
    finished_len: usize,
    /// How it is to fail although OpenSSL goes on.
    refusal: Option<Refusal>,
    flight: Vec<Box<[u8]>>,
}

/// What a finished handshake leaves behind.
pub(super) struct Finished {
    pub(super) suite: Suite,
    pub(super) records: Records,
    pub(super) window: ReplayWindow,
    pub(super) write: WriteState,
    /// Ours, and what the client wants in records to it.
    pub(super) cid: Option<(Cid, Box<[u8]>)>,
    /// Whether a new address of the client is checked (RFC 9853).
    pub(super) rrc: bool,
    /// The server's last flight; empty when the client had the last word.
    pub(super) flight: Vec<Box<[u8]>>,
    pub(super) resumed: bool,
    /// Most bytes of plaintext in a record to the client.
    pub(super) max_plaintext: usize,
}

/// What a new handshake is told.
pub(super) struct Start {
    pub(super) id: u64,
    pub(super) address: PeerAddr,
    pub(super) now: Instant,
    pub(super) timeout: Duration,
    pub(super) cid: Option<Cid>,
    pub(super) shared: Arc<DtlsShared>,
}

impl Pending {
    /// Begins a handshake with the record that holds a ClientHello with a good cookie.
    pub(super) fn start(
        context: &DtlsContext,
        start: &Start,
        hello: &ClientHello<'_>,
        header: &Header,
        record: &[u8],
    ) -> Option<Self> {
        let mut fragments = Fragments::new(hello.message_sequence, context.asks_certificates());
        if !fragments.accept(header.version, record.get(header.header_len..)?) {
            return None;
        }
        let has_raw_key = context.has_raw_keys() && hello.takes_raw_key().0;
        let wants_raw_key =
            hello.refuses_x509() && !has_raw_key && !context.exchange(hello.suites).uses_psk();
        let notes = Notes {
            offer: start.cid,
            ..Notes::default()
        };
        let ssl = context.server(notes, &start.shared, hello).ok()?;
        let mut stream = SslStream::new(ssl, Pipe::default()).ok()?;
        let skipped = match hello.message_sequence {
            0 | 1 => 0,
            more => more,
        };
        ffi::skip_hellos(&mut stream, skipped);
        put(&mut stream, record, skipped);
        let taken = skipped > 0 || ffi::listen(&mut stream);
        drain_errors();
        let deadline = start.now + start.timeout;
        taken.then(|| Self {
            id: start.id,
            address: start.address,
            started: start.now,
            heard: start.now,
            deadline,
            wakes: deadline,
            random: *hello.random,
            answered: false,
            changes: false,
            changed: false,
            bad_flights: 0,
            doubt: None,
            keys: None,
            gate: None,
            choice: Choice::default(),
            window: ReplayWindow::default(),
            write: WriteState::default(),
            clear_window: ReplayWindow::default(),
            fragments,
            stream,
            cid: start.cid,
            early: Vec::new(),
            records: 0,
            forgeries: 0,
            skipped,
            hello_number: header.sequence,
            renumbered_by: None,
            max_plaintext: MAX_PLAINTEXT,
            record_size_limit: hello.record_size_limit(),
            encrypt_then_mac: false,
            extended_master_secret: false,
            finished_len: 0,
            refusal: wants_raw_key.then_some(Refusal::RawKey),
            flight: Vec::new(),
        })
    }

    /// Lets OpenSSL go on with what it holds.
    pub(super) fn drive(&mut self) -> Progress {
        let progress = match self.stream.accept() {
            Ok(()) => Progress::Done,
            Err(error) if is_waiting(self.stream.ssl(), &error) => Progress::Waiting,
            Err(error) => Progress::Failed(judge(error.ssl_error())),
        };
        drain_errors();
        if self.keys.is_none() {
            self.keys = self.derive();
        }
        progress
    }

    /// The keys, once OpenSSL has both the master secret and the suite: when ChangeCipherSpec is processed, or at
    /// once when a session is resumed.
    fn derive(&self) -> Option<(Suite, Protection)> {
        let ssl = self.stream.ssl();
        let suite = Suite::from_id(ssl.current_cipher()?.protocol_id())?;
        let (mut master, mut client, mut server) = (zeroize::Zeroizing::new([0; 48]), [0; 32], [0; 32]);
        let whole = ssl.session()?.master_key(master.as_mut_slice()) == 48
            && ssl.client_random(&mut client) == 32
            && ssl.server_random(&mut server) == 32;
        whole.then(|| {
            let protection = match suite.algorithm() {
                Some(algorithm) => Protection::Own(SessionKeys::derive(algorithm, &master, &client, &server)),
                None => Protection::Legacy(RecordMac::derive(&master, &client, &server)),
            };
            (suite, protection)
        })
    }

    /// Feeds a record of epoch 0: handshake or ChangeCipherSpec. What OpenSSL would drop ends here and has no say in what
    /// follows: anyone can have sent it.
    pub(super) fn feed_clear(&mut self, header: &Header, record: &[u8]) -> Result<Progress, RecordDrop> {
        if !self.clear_window.is_fresh(header.sequence) {
            return Err(RecordDrop::Replay);
        }
        let body = record.get(header.header_len..).unwrap_or_default();
        match header.kind {
            HANDSHAKE if self.fragments.accept(header.version, body) => {}
            HANDSHAKE => return Err(RecordDrop::Fragment),
            CHANGE_CIPHER_SPEC if body == [1] => {}
            _ => return Err(RecordDrop::ContentType),
        }
        self.records += 1;
        if self.records > MAX_RECORDS {
            return Err(RecordDrop::HandshakeRecords);
        }
        self.clear_window.mark(header.sequence);
        self.answered |= body.first() != Some(&CLIENT_HELLO);
        self.changed |= header.kind == CHANGE_CIPHER_SPEC;
        self.changes |= self.changed;
        if self.is_held(header, record) {
            return Ok(Progress::Waiting);
        }
        put(&mut self.stream, record, self.skipped);
        Ok(self.drive())
    }

    /// Whether a hello with this random belongs to this handshake. A client that had gone on and was silent does not return to
    /// its hello: it rebooted, and has no better randomness than before.
    pub(super) fn began_with(&self, random: &[u8; 32], now: Instant) -> bool {
        self.random == *random && !(self.answered && now >= self.heard + REBOOT)
    }

    /// Hears of an alert in the clear. Anyone could have sent it, so it only names what it will have been when the peer stays
    /// silent.
    pub(super) fn hear_alert(&mut self, level: u8, alert: Alert) {
        if level != ALERT_FATAL {
            return;
        }
        let result = if alert.is_about_certificates() {
            HandshakeResult::BadCertificate
        } else if matches!(alert, Alert::DecryptError | Alert::BadRecordMac) {
            HandshakeResult::WrongKey
        } else {
            HandshakeResult::Protocol
        };
        self.doubt.get_or_insert(result);
    }

    /// Feeds a record of epoch 1, Finished most likely.
    pub(super) fn feed_protected(
        &mut self,
        aead: &mut Aead,
        now: Instant,
        header: &Header,
        record: &[u8],
    ) -> Result<Progress, RecordDrop> {
        if !self.is_time() {
            if record.len() <= MAX_EARLY {
                self.early.clear();
                self.early.extend_from_slice(record);
                if self.gate.is_some() {
                    return Ok(Progress::Waiting);
                }
            }
            return Err(RecordDrop::Early);
        }
        let negotiated = self.cids().is_some();
        if negotiated != (header.kind == TLS12_CID) {
            return Err(if negotiated {
                RecordDrop::CidRequired
            } else {
                RecordDrop::ContentType
            });
        }
        if !self.window.is_fresh(header.sequence) {
            return Err(RecordDrop::Replay);
        }
        if self.forgeries >= MAX_FORGERIES {
            return Err(RecordDrop::ForgeryRate);
        }
        let keys = match &self.keys {
            Some((_, Protection::Own(keys))) => keys,
            Some((_, Protection::Legacy(mac))) => {
                let is_good = !self.encrypt_then_mac || mac.is_good(header, record);
                return self.feed_legacy(now, header, record, is_good);
            }
            None => return Err(RecordDrop::Early),
        };
        let mut copy = record.to_vec();
        let Some(opened) = aead.open(&keys.client, header, &mut copy) else {
            self.forgeries += 1;
            self.doubt_key(now);
            return Err(RecordDrop::NotAuthentic);
        };
        self.window.mark(header.sequence);
        self.records += 1;
        if self.records > MAX_RECORDS {
            return Err(RecordDrop::HandshakeRecords);
        }
        if !matches!(opened.kind, HANDSHAKE | ALERT) {
            return Err(RecordDrop::ContentType);
        }
        if header.kind == TLS12_CID {
            let ordinary =
                reseal(aead, keys, header, record, &copy, &opened).ok_or(RecordDrop::NotAuthentic)?;
            self.stream.get_mut().put(&ordinary);
        } else {
            self.stream.get_mut().put(record);
        }
        Ok(self.drive())
    }

    /// Feeds a record that OpenSSL opens itself. One that is not authentic shows in that nothing comes of it.
    fn feed_legacy(
        &mut self,
        now: Instant,
        header: &Header,
        record: &[u8],
        is_good: bool,
    ) -> Result<Progress, RecordDrop> {
        if !matches!(header.kind, HANDSHAKE | ALERT) {
            return Err(RecordDrop::ContentType);
        }
        let mut progress = Progress::Waiting;
        if is_good {
            self.stream.get_mut().put(record);
            progress = self.drive();
        }
        if progress == Progress::Waiting && !self.stream.get_ref().has_output() {
            self.forgeries += 1;
            self.doubt_key(now);
            return Err(RecordDrop::NotAuthentic);
        }
        self.window.mark(header.sequence);
        self.records += 1;
        if header.kind == HANDSHAKE {
            self.finished_len = record.len();
        }
        Ok(progress)
    }

    /// Whether a protected record can be opened. OpenSSL would keep those before ChangeCipherSpec, whoever sent them.
    const fn is_time(&self) -> bool {
        match &self.keys {
            Some((_, Protection::Own(_))) => true,
            Some((_, Protection::Legacy(_))) => self.changes,
            None => false,
        }
    }

    /// The protected record that came too early, once it is its time.
    pub(super) fn take_early(&mut self) -> Option<Vec<u8>> {
        (self.is_time() && !self.early.is_empty()).then(|| std::mem::take(&mut self.early))
    }

    /// A Finished that does not open is silent in OpenSSL. The record may be forged, so the handshake lives on until the client
    /// has brought its whole flight again.
    fn doubt_key(&mut self, now: Instant) {
        let unknown = notes_index()
            .ok()
            .and_then(|index| self.stream.ssl().ex_data(index))
            .is_some_and(|notes| notes.unknown_identity);
        let result = if unknown {
            HandshakeResult::UnknownIdentity
        } else {
            HandshakeResult::WrongKey
        };
        self.doubt.get_or_insert(result);
        self.bad_flights += u8::from(std::mem::take(&mut self.changed));
        if self.bad_flights >= BAD_FLIGHTS {
            self.deadline = self.deadline.min(now);
        }
    }

    /// Ours and the client's Connection ID, if both want it.
    pub(super) fn cids(&self) -> Option<(Cid, &[u8])> {
        let notes = self.stream.ssl().ex_data(notes_index().ok()?)?;
        Some((self.cid?, notes.peer_cid.as_deref()?))
    }

    /// Takes what OpenSSL wrote, in the form in which it leaves: protected records carry the client's Connection ID.
    /// The flight is kept to be repeated.
    pub(super) fn take_output(&mut self, aead: &mut Aead, mut each: impl FnMut(&[u8])) -> Vec<Alert> {
        let written = self.stream.get_mut().take();
        let peer_cid: Option<Box<[u8]>> = self
            .cids()
            .filter(|(_, cid)| !cid.is_empty())
            .map(|(_, cid)| cid.into());
        let (mut alerts, mut datagram) = (Vec::new(), Vec::new());
        if !written.is_empty() {
            self.flight.clear();
        }
        for bytes in written {
            datagram.clear();
            let mut rest = &*bytes;
            while let Some(header) = Header::parse(rest, 0) {
                let Some((record, after)) = rest.split_at_checked(header.record_len()) else {
                    break;
                };
                rest = after;
                if header.epoch == 0 {
                    let by = self.hello_number.wrapping_sub(header.sequence);
                    let by = *self.renumbered_by.get_or_insert(by);
                    datagram.extend_from_slice(record);
                    let at = datagram.len() - record.len();
                    renumber(datagram.get_mut(at..).unwrap_or_default(), by);
                    self.watch_clear(header.sequence.wrapping_add(by), &header, record, &mut alerts);
                    continue;
                }
                self.watch(&header, record);
                let rewritten = match (peer_cid.as_deref(), &self.keys) {
                    (Some(cid), Some((_, Protection::Own(keys)))) => {
                        reseal_with_cid(aead, keys, &header, record, cid, &mut datagram)
                    }
                    _ => None,
                };
                if rewritten.is_none() && peer_cid.is_none() {
                    datagram.extend_from_slice(record);
                }
            }
            if !datagram.is_empty() && self.refusal.is_none() {
                each(&datagram);
                self.flight.push(datagram.as_slice().into());
            }
        }
        alerts
    }

    /// The flight once more for a client that repeats its hello (RFC 6347, 4.2.4), which OpenSSL does not answer.
    /// The same bytes again use no nonce for anything else. Nothing when there is none, or it just left.
    pub(super) fn repeat_for_hello(&mut self, now: Instant) -> Option<&[Box<[u8]>]> {
        if self.flight.is_empty() || now < self.heard + FLIGHT_PAUSE {
            return None;
        }
        self.heard = now;
        Some(&self.flight)
    }

    fn watch_clear(&mut self, number: u64, header: &Header, record: &[u8], alerts: &mut Vec<Alert>) {
        self.write.clear = number.wrapping_add(1);
        let body = record.get(header.header_len..).unwrap_or_default();
        match (header.kind, body) {
            (ALERT, [_, code, ..]) => alerts.push(Alert::from_code(*code)),
            (HANDSHAKE, body) => self.keep(body),
            _ => {}
        }
    }

    fn watch(&mut self, header: &Header, record: &[u8]) {
        self.write.sequence = header.sequence + 1;
        if let Some(explicit) = record
            .get(header.header_len..)
            .and_then(|body| body.first_chunk::<8>())
        {
            self.write.explicit = u64::from_be_bytes(*explicit).wrapping_add(1);
        }
    }

    /// Reads what the ServerHello promises of the records that will be ours.
    fn keep(&mut self, message: &[u8]) {
        match Negotiated::read(message) {
            None => {}
            Some(Err(_)) => self.refusal = Some(Refusal::Foreign),
            Some(Ok(negotiated)) => {
                let limit = negotiated.record_size_limit.then_some(self.record_size_limit);
                if limit == Some(None) {
                    self.refusal = Some(Refusal::Foreign);
                }
                self.encrypt_then_mac = negotiated.encrypt_then_mac;
                self.extended_master_secret = negotiated.extended_master_secret;
                let both = [negotiated.max_fragment, limit.flatten()];
                self.max_plaintext = both.into_iter().flatten().fold(MAX_PLAINTEXT, usize::min);
            }
        }
    }

    /// How it is to fail although OpenSSL goes on. What that wrote then is not sent.
    pub(super) fn refused(&self) -> Option<HandshakeResult> {
        self.refusal.map(|refusal| match refusal {
            Refusal::Foreign => HandshakeResult::Protocol,
            Refusal::RawKey => HandshakeResult::BadCertificate,
        })
    }

    /// When OpenSSL wants to repeat its flight, or the deadline.
    pub(super) fn next_wake(&self, now: Instant) -> Instant {
        if self.is_asking() {
            // The client has answered our flight.
            return self.deadline;
        }
        let repeat = ffi::timeout(self.stream.ssl()).map(|left| now + left.max(Duration::from_millis(1)));
        repeat.map_or(self.deadline, |repeat| repeat.min(self.deadline))
    }

    /// Repeats the flight if it is time. Whether OpenSSL still has patience.
    pub(super) fn repeat_flight(&mut self) -> bool {
        if self.is_asking() {
            return true;
        }
        let alive = ffi::handle_timeout(self.stream.ssl());
        drain_errors();
        alive
    }

    /// The fatal alert, in the clear, for a peer whose handshake is given up, so that it does not talk to nobody: the same for a
    /// wrong key and an unknown identity.
    pub(super) fn farewell(&self) -> (Alert, [u8; 15]) {
        let code = match (self.refusal, self.doubt) {
            (Some(Refusal::Foreign), _) => ALERT_HANDSHAKE_FAILURE,
            (Some(Refusal::RawKey), _) => ALERT_UNSUPPORTED_CERTIFICATE,
            (_, Some(HandshakeResult::WrongKey | HandshakeResult::UnknownIdentity)) => ALERT_DECRYPT_ERROR,
            (_, Some(HandshakeResult::KeySource)) => ALERT_INTERNAL_ERROR,
            _ => ALERT_USER_CANCELED,
        };
        let [major, minor] = DTLS_1_2;
        let [_, _, s @ ..] = super::record::epoch_and_sequence(0, self.write.clear);
        let [s0, s1, s2, s3, s4, s5] = s;
        let record = [
            ALERT,
            major,
            minor,
            0,
            0,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            0,
            2,
            ALERT_FATAL,
            code,
        ];
        (Alert::from_code(code), record)
    }

    /// Whom the finished handshake belongs to, by the material of now.
    pub(super) fn authorize(&self, context: &DtlsContext, chains: &Chains) -> Option<Authority> {
        let (suite, _) = self.keys.as_ref()?;
        context.authorize(self.stream.ssl(), *suite, chains)
    }

    /// Whether the client proves itself by a pre-shared key.
    pub(super) fn uses_psk(&self) -> bool {
        let suite = self.keys.as_ref().map(|(suite, _)| suite.key_exchange());
        suite.is_some_and(KeyExchange::uses_psk)
    }

    /// The PSK identity that the client named, as it is written, whether it is known or not.
    pub(super) fn named_identity(&self) -> Option<Box<str>> {
        let ssl = self.stream.ssl();
        ssl.psk_identity()?;
        let identity = ssl.ex_data(notes_index().ok()?)?.psk_identity.as_deref()?;
        (!identity.is_empty()).then(|| identity_text(identity).into())
    }

    /// Whether a ticket was redeemed.
    pub(super) fn is_resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    /// Ends OpenSSL's part of a handshake that is done.
    pub(super) fn finish(mut self) -> Option<Finished> {
        let cid = self.cids().map(|(ours, theirs)| (ours, theirs.into()));
        let resumed = self.is_resumed();
        let notes = notes_index()
            .ok()
            .and_then(|index| self.stream.ssl().ex_data(index));
        let rrc = cid.is_some() && notes.is_some_and(|notes| notes.rrc);
        let (suite, protection) = self.keys.take()?;
        let records = match protection {
            Protection::Own(keys) => {
                // Else OpenSSL takes the session for broken and its ticket for void.
                self.stream
                    .set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
                Records::Own(keys)
            }
            Protection::Legacy(mac) => {
                let mac = self.encrypt_then_mac.then_some(mac);
                Records::Legacy(Box::new(LegacyRecords::new(self.stream, mac, self.finished_len)))
            }
        };
        // The content type moves inside with a Connection ID.
        let inner = usize::from(cid.is_some());
        Some(Finished {
            max_plaintext: self.max_plaintext.saturating_sub(inner),
            suite,
            records,
            window: self.window,
            write: self.write,
            cid,
            rrc,
            flight: if resumed {
                Vec::new()
            } else {
                std::mem::take(&mut self.flight)
            },
            resumed,
        })
    }
}

/// Hands OpenSSL a record in the clear, under a number as much higher as hellos were skipped.
fn put(stream: &mut SslStream<Pipe>, record: &[u8], skipped: u16) {
    if skipped == 0 {
        return stream.get_mut().put(record);
    }
    let mut record = record.to_vec();
    renumber(&mut record, skipped.into());
    stream.get_mut().put(&record);
}

/// What is left in OpenSSL's queue of errors would be taken for the next session's.
fn drain_errors() {
    drop(ErrorStack::get());
}
