//! Datagrams of any kind to a listener with a live session, one with a Connection ID, and a handshake in flight.
//!
//! The input is a row of steps: a byte that says from whom and how, two of
//! length, the bytes. Some steps are sealed under the session's keys, so that what lies behind the AEAD is reached.
//! Whatever comes, the live sessions must not be ended by anything that is not authentic, and nothing may panic.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::dtls_client::{ClientConfig, DtlsClient};
use openssl::ssl::SslContext;
use portcullis::dtls::aead::{Aead, Seal};
use portcullis::dtls::contract::{DtlsEvent, DtlsSettings};
use portcullis::dtls::{
    CertIdentity, ContextCell, DtlsContext, DtlsListener, DtlsMaterial, DtlsMetrics, DtlsShared, PskStore,
    TicketKeys, Verify,
};
use portcullis::types::{ListenerId, PeerAddr, Transmits, WorkerId};

const SUITES: [&str; 4] = [
    "PSK-AES128-GCM-SHA256",
    "PSK-AES128-CCM8",
    "PSK-AES128-CCM",
    "PSK-CHACHA20-POLY1305",
];

fn context() -> Arc<DtlsContext> {
    static CONTEXT: OnceLock<Arc<DtlsContext>> = OnceLock::new();
    let build = || {
        let material = DtlsMaterial {
            psks: Some(Arc::new(
                PskStore::parse("u1:736573616d652d736573616d652d3136").unwrap(),
            )),
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
            legacy_cbc: true,
            tls: false,
            mtu: 1280,
            cid: true,
            ticket_keys: TicketKeys::new([7; 80]),
        };
        Arc::new(DtlsContext::new(&material).unwrap())
    };
    CONTEXT.get_or_init(build).clone()
}

/// For each suite the context of clients without and with a Connection ID; to make one takes longer than a handshake.
fn client_contexts() -> &'static [[SslContext; 2]; 4] {
    static CONTEXTS: OnceLock<[[SslContext; 2]; 4]> = OnceLock::new();
    CONTEXTS.get_or_init(|| {
        SUITES.map(|suite| {
            let config = ClientConfig::psk(suite, "u1", b"sesame-sesame-16");
            let with_cid = ClientConfig {
                cid: Some(Vec::new()),
                ..config.clone()
            };
            [config.context(), with_cid.context()]
        })
    })
}

fn peer(n: u8) -> PeerAddr {
    PeerAddr::new(SocketAddr::from(([127, 0, 0, 1], 1024 + u16::from(n)))).unwrap()
}

/// Carries datagrams until the client is silent, at most `steps` of them; the events are dropped.
fn carry(listener: &mut DtlsListener, now: Instant, client: &mut DtlsClient, at: PeerAddr, steps: usize) {
    let mut transmits = Transmits::default();
    for _ in 0..steps {
        for mut datagram in client.take() {
            listener.handle_datagram(now, at, &mut datagram, &mut transmits);
        }
        let answers: Vec<_> = transmits.iter().map(|(_, _, bytes)| bytes.to_vec()).collect();
        transmits.clear();
        for answer in answers {
            client.handle(&answer);
        }
    }
    while listener.poll_event().is_some() {}
}

fn listener(seed: u8, now: Instant) -> DtlsListener {
    let settings = DtlsSettings {
        handshake_timeout: Duration::from_secs(15),
        idle_timeout: Duration::from_secs(3600),
        max_sessions: 8,
        legacy_max_sessions: 4,
        sessions_per_identity: 1_000_000,
        max_half_open: 4,
        mtu: 1280,
        cid: true,
        handshakes_per_second: 0,
        max_handshakes_per_second: 0,
        wants_identity: true,
        stream: None,
        records_per_key: u64::MAX,
    };
    DtlsListener::new(
        ListenerId(0),
        WorkerId(1),
        ContextCell::new(context()),
        settings,
        [seed; 32],
        DtlsShared::new([9; 32], now),
        Arc::new(DtlsMetrics::default()),
    )
}

pub(crate) fn run(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else {
        return;
    };
    let mut now = Instant::now();
    let mut listener = listener(*first, now);
    let suite = SUITES[usize::from(*first) % 4];
    let config = ClientConfig::psk(suite, "u1", b"sesame-sesame-16");
    let with_cid = ClientConfig {
        cid: Some(vec![*first; usize::from(*first >> 4)]),
        ..config.clone()
    };
    let [without, with] = &client_contexts()[usize::from(*first) % 4];
    let (mut plain, mut mover, mut pending) = (
        DtlsClient::within(without, &config),
        DtlsClient::within(with, &with_cid),
        DtlsClient::within(with, &with_cid),
    );
    for (n, client, steps) in [(0, &mut plain, 4), (1, &mut mover, 4), (2, &mut pending, 2)] {
        client.connect();
        carry(&mut listener, now, client, peer(n), steps);
    }
    assert_eq!(listener.len(), 2);
    let (mut aead, mut transmits) = (Aead::default(), Transmits::default());
    let mut sequence = 10u64;
    let mut authentic = false;
    while let Some(([how, l0, l1], after)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes([*l0 & 0x0f, *l1])).min(after.len());
        let (bytes, after) = after.split_at(len);
        rest = after;
        let mut datagram = bytes.to_vec();
        if how & 0x80 != 0 && !bytes.is_empty() {
            let (client, cid) = if how & 0x40 != 0 {
                (&mover, mover.server_cid())
            } else {
                (&plain, None)
            };
            let keys = client.keys();
            let what = Seal {
                kind: bytes[0],
                sequence,
                explicit: sequence,
                cid: cid.as_deref().unwrap_or_default(),
                plaintext: &bytes[1..],
            };
            sequence += 1;
            datagram.clear();
            aead.seal(&keys.client, &what, &mut datagram).unwrap();
            authentic = true;
        }
        listener.handle_datagram(now, peer(how % 4), &mut datagram, &mut transmits);
        while let Some(event) = listener.poll_event() {
            if let DtlsEvent::Plaintext { range, .. } = &event {
                assert!(authentic && datagram.get(range.clone()).is_some_and(|text| !text.is_empty()));
            }
        }
        now += Duration::from_millis(50);
        listener.handle_timeout(now, &mut transmits);
        transmits.clear();
        assert!(listener.half_open() <= 4);
    }
    assert!(authentic || listener.len() == 2);
}
