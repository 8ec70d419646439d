//! A listener on a table, with in-memory peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::dtls::contract::{DtlsEvent, DtlsSettings};
use portcullis::dtls::{
    CertIdentity, ContextCell, DtlsContext, DtlsListener, DtlsMaterial, DtlsMetrics, DtlsShared, PskStore,
    TicketKeys, Verify,
};
use portcullis::types::{ListenerId, PeerAddr, Transmits, WorkerId};

use crate::KEY;
use crate::clock::cost;
use crate::dtls_client::DtlsClient;

pub fn settings() -> DtlsSettings {
    DtlsSettings {
        handshake_timeout: Duration::from_secs(15),
        idle_timeout: Duration::from_secs(86_400),
        max_sessions: 1_000_000,
        legacy_max_sessions: 1000,
        sessions_per_identity: 1_000_000,
        max_half_open: 1024,
        mtu: 1280,
        cid: true,
        handshakes_per_second: 0,
        max_handshakes_per_second: 0,
        wants_identity: true,
        stream: None,
        records_per_key: u64::MAX,
    }
}

pub fn listener(material: &DtlsMaterial) -> DtlsListener {
    DtlsListener::new(
        ListenerId(0),
        WorkerId(0),
        ContextCell::new(Arc::new(DtlsContext::new(material).unwrap())),
        settings(),
        [1; 32],
        DtlsShared::new([2; 32], Instant::now()),
        Arc::new(DtlsMetrics::default()),
    )
}

pub fn psk_material() -> DtlsMaterial {
    let hex: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    DtlsMaterial {
        psks: Some(Arc::new(PskStore::parse(&format!("u1:{hex}")).unwrap())),
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
        ticket_keys: TicketKeys::new([3; 80]),
    }
}

pub fn peer(n: u32) -> PeerAddr {
    let [a, b, c, d] = n.to_be_bytes();
    PeerAddr::new(SocketAddr::from(([127, a, b, c], 1024 + u16::from(d)))).unwrap()
}

/// A listener that is timed.
pub struct Table {
    pub listener: DtlsListener,
    pub transmits: Transmits,
    /// CPU time of the server, in microseconds.
    pub busy: f64,
    resumed: Option<bool>,
}

impl Table {
    pub fn new(material: &DtlsMaterial) -> Self {
        Self {
            listener: listener(material),
            transmits: Transmits::default(),
            busy: 0.0,
            resumed: None,
        }
    }

    pub fn input(&mut self, from: PeerAddr, datagram: &mut [u8]) {
        let now = Instant::now();
        let (spent, established) = cost(|| {
            self.listener
                .handle_datagram(now, from, datagram, &mut self.transmits);
            let mut established = None;
            while let Some(event) = self.listener.poll_event() {
                if let DtlsEvent::Established { session, .. } = event {
                    established = Some(session);
                }
            }
            established
        });
        self.busy += spent;
        if let Some(session) = established {
            self.resumed = self.listener.session(session).map(|info| info.resumed);
        }
    }

    /// One handshake. What it cost the server, in microseconds, and whether the server found it resumed.
    pub fn handshake(&mut self, client: &mut DtlsClient, at: PeerAddr) -> (f64, bool) {
        (self.busy, self.resumed) = (0.0, None);
        client.connect();
        loop {
            let datagrams = client.take();
            if datagrams.is_empty() {
                break;
            }
            for mut datagram in datagrams {
                self.input(at, &mut datagram);
                let answers: Vec<_> = self
                    .transmits
                    .iter()
                    .map(|(_, _, bytes)| bytes.to_vec())
                    .collect();
                self.transmits.clear();
                for answer in answers {
                    client.handle(&answer);
                }
            }
        }
        assert!(client.is_connected(), "{:?}", client.failure());
        (self.busy, self.resumed.expect("the server has no session"))
    }
}
