//! Where the listeners of all workers get their keys and certificates from, and how the gateway uses them.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use portcullis_proto::session::{
    CloseReason, DtlsEvent, DtlsSettings, KeyAnswer, RestoreResult, SecureSource, SecureTransport, SendError,
    SessionId, SessionInfo,
};
use portcullis_proto::state::Record;
use portcullis_proto::types::{ListenerId, PeerAddr, Transmits, WorkerId};

use super::{DtlsContext, DtlsListener, DtlsMetrics, DtlsShared, KeptSessions};

/// What the keys of a session and its places in the indices weigh, in bytes.
const SESSION: usize = 768;

/// The suites, keys and certificates of one listener that are in force, for all of its workers.
#[derive(Debug)]
pub struct ContextCell(RwLock<Arc<DtlsContext>>);

impl ContextCell {
    /// With these in force.
    #[must_use]
    pub fn new(context: Arc<DtlsContext>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(context)))
    }

    /// Puts others in force. A worker takes them up when it is reconfigured.
    pub fn set(&self, context: Arc<DtlsContext>) {
        if let (Some(new), Some(old)) = (context.psks(), self.current().psks()) {
            new.adopt_uses(old);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = context;
    }

    /// Those in force.
    #[must_use]
    pub fn current(&self) -> Arc<DtlsContext> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What opens a DTLS listener on one worker.
#[derive(Debug)]
pub struct DtlsSource {
    /// Suites, keys, certificates; shared by all workers.
    pub contexts: Arc<ContextCell>,
    /// The same for all workers and listeners.
    pub shared: Arc<DtlsShared>,
    /// This worker's counters.
    pub metrics: Arc<DtlsMetrics>,
    /// Where this worker keeps its sessions for the next process, and what of them is this listener's; `None` nowhere.
    pub kept: Option<(Arc<KeptSessions>, u64)>,
}

impl SecureSource for DtlsSource {
    fn open(
        &self,
        listener: ListenerId,
        worker: WorkerId,
        settings: DtlsSettings,
        seed: [u8; 32],
    ) -> Box<dyn SecureTransport> {
        let mut transport = DtlsListener::new(
            listener,
            worker,
            Arc::clone(&self.contexts),
            settings,
            seed,
            Arc::clone(&self.shared),
            Arc::clone(&self.metrics),
        );
        if let Some((kept, mark)) = &self.kept {
            transport.keep_in(Arc::clone(kept), *mark);
        }
        Box::new(transport)
    }
}

impl SecureTransport for DtlsListener {
    fn handle_datagram(
        &mut self,
        now: Instant,
        from: PeerAddr,
        datagram: &mut [u8],
        transmits: &mut Transmits,
    ) -> bool {
        self.handle_datagram(now, from, datagram, transmits)
    }

    fn handle_records_of_node(
        &mut self,
        now: Instant,
        from: PeerAddr,
        records: &mut [u8],
        transmits: &mut Transmits,
    ) -> bool {
        self.handle_records_of_node(now, from, records, transmits)
    }

    fn handle_timeout(&mut self, now: Instant, transmits: &mut Transmits) {
        self.handle_timeout(now, transmits);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout()
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.poll_event()
    }

    fn send(
        &mut self,
        session: SessionId,
        plaintext: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), SendError> {
        self.send(session, plaintext, transmits)
    }

    fn max_plaintext(&self, session: SessionId) -> usize {
        self.max_plaintext(session)
    }

    fn give_keys(&mut self, now: Instant, ticket: u64, answer: KeyAnswer, transmits: &mut Transmits) {
        self.give_keys(now, ticket, answer, transmits);
    }

    fn confirm_address(&mut self, session: SessionId) {
        self.confirm_address(session);
    }

    fn close(&mut self, now: Instant, session: SessionId, reason: CloseReason, transmits: &mut Transmits) {
        self.close(now, session, reason, transmits);
    }

    fn restore(&mut self, transmits: &mut Transmits, is_taken: bool) -> Vec<(RestoreResult, u64)> {
        self.restore(transmits, is_taken)
    }

    fn let_go(&mut self, marks: &HashSet<u64>) {
        self.let_go(marks);
    }

    fn kept(&self, session: SessionId) -> Option<Record> {
        self.kept(session)
    }

    fn leave(&mut self, now: Instant, transmits: &mut Transmits) {
        self.leave(now, transmits);
    }

    fn close_all(&mut self, now: Instant, reason: CloseReason, transmits: &mut Transmits) {
        self.close_all(now, reason, transmits);
    }

    fn reconfigure(&mut self, _now: Instant, settings: DtlsSettings, transmits: &mut Transmits) {
        self.reconfigure(settings, transmits);
    }

    fn set_pressure(&mut self, idle_timeout: Duration, refuse_unproven: bool) {
        self.set_pressure(idle_timeout, refuse_unproven);
    }

    fn set_watched(&mut self, watched: bool) {
        self.set_watched(watched);
    }

    fn session(&self, session: SessionId) -> Option<SessionInfo> {
        self.session(session)
    }

    fn session_count(&self) -> usize {
        self.len()
    }

    fn session_weight(&self) -> usize {
        SESSION
    }
}
