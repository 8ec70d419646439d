//! A listener and clients on a table, with virtual time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::dtls::contract::{CloseReason, DtlsEvent, DtlsSettings, SessionId};
use portcullis::dtls::metrics::{HandshakeResult, RecordDrop};
use portcullis::dtls::suite::Suite;
use portcullis::dtls::{
    CertIdentity, ContextCell, DtlsContext, DtlsListener, DtlsMaterial, DtlsMetrics, DtlsShared, PskStore,
    TicketKeys, Verify,
};
use portcullis::session::DtlsNote;
use portcullis::types::reason::Label as _;
use portcullis::types::{Identity, ListenerId, PeerAddr, Transmits, WorkerId};

use crate::dtls_client::{ClientConfig, DtlsClient};

pub const KEY: &[u8] = b"sesame-sesame-16";
pub const ALL_PSK: [&str; 8] = [
    "PSK-AES128-GCM-SHA256",
    "PSK-AES128-CCM8",
    "PSK-AES128-CCM",
    "PSK-CHACHA20-POLY1305",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "PSK-AES256-GCM-SHA384",
    "PSK-AES256-CCM8",
    "PSK-AES256-CCM",
];

#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
pub fn start() -> Instant {
    Instant::now()
}

pub fn peer(n: u16) -> PeerAddr {
    PeerAddr::new(SocketAddr::from(([192, 0, 2, (n >> 8) as u8], 1024 + (n & 0xff)))).unwrap()
}

pub fn psks(text: &str) -> Arc<PskStore> {
    Arc::new(PskStore::parse(text).unwrap())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn material() -> DtlsMaterial {
    DtlsMaterial {
        psks: Some(psks(&format!("u1:{}\nu2:{}", hex(KEY), hex(KEY)))),
        live_keys: false,
        cert_attributes: Vec::new(),
        cert_pem: None,
        key_pem: None,
        ca_pem: None,
        crl_pem: None,
        key_password: None,
        certificates: Vec::new(),
        raw_keys: None,
        verify_depth: 10,
        verify: Verify::None,
        cert_identity: CertIdentity::Cn,
        ciphers: String::new(),
        legacy_cbc: false,
        tls: false,
        mtu: 1280,
        cid: true,
        ticket_keys: TicketKeys::new([7; 80]),
    }
}

/// The name at IANA of a suite that OpenSSL calls so.
pub fn iana(openssl: &str) -> &'static str {
    let of = |suite: &&Suite| suite.openssl_name() == openssl;
    Suite::ALL.iter().find(of).unwrap().label()
}

pub fn settings() -> DtlsSettings {
    DtlsSettings {
        handshake_timeout: Duration::from_secs(15),
        idle_timeout: Duration::from_secs(3600),
        max_sessions: 1000,
        legacy_max_sessions: 1000,
        sessions_per_identity: 1_000_000,
        max_half_open: 64,
        mtu: 1280,
        cid: true,
        handshakes_per_second: 0,
        max_handshakes_per_second: 0,
        wants_identity: true,
        stream: None,
        records_per_key: u64::MAX,
    }
}

/// What a datagram led to.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Seen {
    Established(SessionId, Option<Identity>),
    Plaintext(SessionId, Vec<u8>),
    AddressChanged(SessionId, PeerAddr),
    Closed(SessionId, CloseReason),
    KeysWanted(u64, String),
    OfNode(u16, Vec<u8>),
}

pub struct Server {
    pub listener: DtlsListener,
    contexts: Arc<ContextCell>,
    pub metrics: Arc<DtlsMetrics>,
    pub now: Instant,
    pub transmits: Transmits,
    pub seen: Vec<Seen>,
}

impl Server {
    pub fn new(material: &DtlsMaterial, settings: DtlsSettings) -> Self {
        Self::of_worker(material, settings, 0, start())
    }

    pub fn of_worker(material: &DtlsMaterial, settings: DtlsSettings, worker: u8, now: Instant) -> Self {
        Self::sharing(material, settings, worker, now, DtlsShared::new([9; 32], now))
    }

    pub fn sharing(
        material: &DtlsMaterial,
        settings: DtlsSettings,
        worker: u8,
        now: Instant,
        shared: Arc<DtlsShared>,
    ) -> Self {
        let metrics = Arc::new(DtlsMetrics::default());
        let contexts = ContextCell::new(Arc::new(DtlsContext::new(material).unwrap()));
        let listener = DtlsListener::new(
            ListenerId(3),
            WorkerId(worker),
            Arc::clone(&contexts),
            settings.clone(),
            [worker + 1; 32],
            shared,
            metrics.clone(),
        );
        Self {
            listener,
            contexts,
            metrics,
            now,
            transmits: Transmits::default(),
            seen: Vec::new(),
        }
    }

    /// Puts other keys and certificates in force.
    pub fn renew(&mut self, context: DtlsContext) {
        self.contexts.set(Arc::new(context));
        self.listener.reconfigure(settings(), &mut self.transmits);
    }

    /// Hands in a datagram and returns those that answer it.
    pub fn input(&mut self, from: PeerAddr, datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut datagram = datagram.to_vec();
        self.listener
            .handle_datagram(self.now, from, &mut datagram, &mut self.transmits);
        while let Some(event) = self.listener.poll_event() {
            self.seen.push(match event {
                DtlsEvent::Established {
                    session, identity, ..
                } => Seen::Established(session, identity),
                DtlsEvent::Plaintext { session, range } => Seen::Plaintext(session, datagram[range].to_vec()),
                DtlsEvent::AddressChanged { session, to, .. } => Seen::AddressChanged(session, to),
                DtlsEvent::Closed { session, reason } => Seen::Closed(session, reason),
                // What failed is told whoever listens.
                DtlsEvent::Noted {
                    note: DtlsNote::Failed { .. },
                    ..
                } => continue,
                DtlsEvent::Noted { .. } => panic!("nobody watches"),
                DtlsEvent::KeysWanted { ticket, identity, .. } => {
                    Seen::KeysWanted(ticket, identity.to_string())
                }
                DtlsEvent::OfNode { node, range, .. } => Seen::OfNode(node, datagram[range].to_vec()),
                DtlsEvent::Restored { .. } | DtlsEvent::Elsewhere { .. } | DtlsEvent::Nobodys { .. } => {
                    panic!("nothing is kept")
                }
            });
        }
        self.output()
    }

    pub fn output(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let out = self
            .transmits
            .iter()
            .map(|(_, to, bytes)| (to.socket_addr(), bytes.to_vec()))
            .collect();
        self.transmits.clear();
        out
    }

    pub fn advance(&mut self, by: Duration) -> Vec<(SocketAddr, Vec<u8>)> {
        self.now += by;
        self.listener.handle_timeout(self.now, &mut self.transmits);
        self.collect_events();
        self.output()
    }

    pub fn collect_events(&mut self) {
        while let Some(event) = self.listener.poll_event() {
            match event {
                DtlsEvent::Closed { session, reason } => self.seen.push(Seen::Closed(session, reason)),
                DtlsEvent::Established {
                    session, identity, ..
                } => self.seen.push(Seen::Established(session, identity)),
                _ => {}
            }
        }
    }

    /// Carries datagrams between one client and the server until both are silent.
    pub fn exchange(&mut self, client: &mut DtlsClient, at: PeerAddr) {
        loop {
            let out = client.take();
            if out.is_empty() {
                return;
            }
            for datagram in out {
                for (to, answer) in self.input(at, &datagram) {
                    if to == at.socket_addr() {
                        client.handle(&answer);
                    }
                }
            }
        }
    }

    /// A handshake, as far as it goes.
    pub fn handshake(&mut self, config: &ClientConfig, at: PeerAddr) -> DtlsClient {
        let mut client = DtlsClient::new(config);
        client.connect();
        self.exchange(&mut client, at);
        client
    }

    /// A handshake that must succeed.
    pub fn establish(&mut self, config: &ClientConfig, at: PeerAddr) -> (DtlsClient, SessionId) {
        let before = self.seen.len();
        let client = self.handshake(config, at);
        assert!(client.is_connected(), "{:?} {:?}", client.failure(), self.seen);
        let session = self.seen[before..].iter().find_map(|seen| match seen {
            Seen::Established(session, _) => Some(*session),
            _ => None,
        });
        (client, session.expect("no session"))
    }

    /// Whether data goes both ways.
    pub fn talks(&mut self, client: &mut DtlsClient, session: SessionId, at: PeerAddr) -> bool {
        client.send(b"hello gateway");
        let before = self.seen.len();
        self.exchange(client, at);
        let heard = self.seen[before..].contains(&Seen::Plaintext(session, b"hello gateway".to_vec()));
        if self
            .listener
            .send(session, b"hello device", &mut self.transmits)
            .is_err()
        {
            return false;
        }
        for (to, datagram) in self.output() {
            if to == at.socket_addr() {
                client.handle(&datagram);
            }
        }
        heard && client.received() == [b"hello device".to_vec()]
    }

    pub fn dropped(&self, reason: RecordDrop) -> u64 {
        self.metrics.records_dropped.get(reason)
    }

    pub fn all_dropped(&self) -> u64 {
        RecordDrop::ALL.iter().map(|reason| self.dropped(*reason)).sum()
    }

    pub fn results(&self, result: HandshakeResult) -> u64 {
        self.metrics.handshakes.get(result)
    }
}

pub fn psk_client(suite: &str) -> ClientConfig {
    ClientConfig::psk(suite, "u1", KEY)
}
