//! What the stacks of devices offer in their hellos, and what they get: the second table of `docs/interop.md`.

use std::fmt::Write as _;
use std::net::UdpSocket;

use portcullis::dtls::record::{ALERT, HANDSHAKE, Header, write_header};
use portcullis::dtls::suite::Suite;
use portcullis::types::reason::Label as _;

use crate::support::client::{PATIENCE, receive};
use crate::support::pki::Pki;
use crate::support::{Config, Gateway};
use crate::table::write_page;

/// What a device has to prove itself with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Has {
    Key,
    Certificate,
    /// A raw public key, and room for no certificate.
    RawKey,
}

/// A stack: its name, where its list is from, its suites, its credentials.
type Stack = (&'static str, &'static str, &'static [u16], Has);

const STACKS: &[Stack] = &[
    (
        "nRF91 modem, PSK",
        "nrfxlib, `nrf_socket.h`",
        &[0x00ae, 0x008c, 0x008d, 0xc0a8],
        Has::Key,
    ),
    (
        "nRF91 modem, certificate",
        "nrfxlib, `nrf_socket.h`",
        &[
            0xc024, 0xc00a, 0xc023, 0xc009, 0xc030, 0xc02f, 0xc02b, 0xc014, 0xc027, 0xc013,
        ],
        Has::Certificate,
    ),
    (
        "nRF91 modem before 1.3.1, certificate",
        "nrfxlib, `nrf_socket.h`",
        &[0xc024, 0xc00a, 0xc023, 0xc009, 0xc014, 0xc027, 0xc013],
        Has::Certificate,
    ),
    (
        "Quectel BC66-NA, LwM2M",
        "eclipse-leshan/leshan#814",
        &[0x00ae, 0x008c, 0x008d],
        Has::Key,
    ),
    (
        "Quectel BG96, Sequans: everything",
        "eclipse-californium/californium#2103",
        &[
            0xc02c, 0xc02b, 0xc030, 0xc02f, 0x009f, 0x009e, 0x009d, 0x009c, 0x00ab, 0x00aa, 0x00a9, 0x00a8,
            0xcca9, 0xcca8, 0xc027, 0xc023, 0xc028, 0xc024, 0xc00a, 0xc009, 0xc013, 0xc014, 0xc0a8, 0xc0a9,
            0xc0a4, 0xc0a5, 0x00ae, 0x008c,
        ],
        Has::Key,
    ),
    (
        "mbed-client, LwM2M 1.0",
        "ARMmbed/mbed-client#100",
        &[0xc0a8, 0x00ae],
        Has::Key,
    ),
    (
        "Zephyr LwM2M, PSK",
        "Zephyr, `lwm2m_engine.c`",
        &[0xc0a8],
        Has::Key,
    ),
    (
        "Zephyr LwM2M, certificate",
        "zephyrproject-rtos/zephyr#80497",
        &[0xc02b],
        Has::Certificate,
    ),
    (
        "Anjay, Wakaama, certificate",
        "OMA LwM2M 1.1",
        &[0xc0ae],
        Has::Certificate,
    ),
    ("tinydtls, PSK", "eclipse-tinydtls/tinydtls", &[0xc0a8], Has::Key),
    (
        "tinydtls, raw public key",
        "obgm/libcoap#500",
        &[0xc0ae],
        Has::RawKey,
    ),
    (
        "DTLS.Net, PSK",
        "boyvinall/dtls.net",
        &[0xc0ae, 0xc023, 0xc037, 0xc0a8, 0x00ae],
        Has::Key,
    ),
    ("OCF device", "OCF security specification", &[0xc037], Has::Key),
    ("AES-256 only, certificate", "CNSA", &[0xc02c], Has::Certificate),
    ("AES-256 only, PSK", "CNSA", &[0x00a9, 0xc0a9, 0xc0a5], Has::Key),
    (
        "Mbed TLS, `config-ccm-psk`",
        "Mbed TLS configurations",
        &[0xc0a9, 0xc0a8],
        Has::Key,
    ),
];

/// extended_master_secret, P-256 to P-521, signatures with SHA-2.
const EXTENSIONS: &[u8] = &[
    0, 23, 0, 0, 0, 10, 0, 8, 0, 6, 0, 23, 0, 24, 0, 25, 0, 13, 0, 14, 0, 12, 4, 3, 5, 3, 6, 3, 4, 1, 5, 1,
    6, 1,
];

/// server_certificate_type and client_certificate_type with raw public keys only (RFC 7250).
const RAW_KEYS: &[u8] = &[0, 20, 0, 2, 1, 2, 0, 19, 0, 2, 1, 2];

fn hello(suites: &[u16], raw_keys: bool, cookie: &[u8], sequence: u8) -> Vec<u8> {
    let extensions = [EXTENSIONS, if raw_keys { RAW_KEYS } else { &[] }].concat();
    let mut body = vec![0xfe, 0xfd];
    body.extend([7; 32]);
    body.push(0);
    body.push(cookie.len() as u8);
    body.extend(cookie);
    body.extend((2 * suites.len() as u16 + 2).to_be_bytes());
    body.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
    // No renegotiation; no compression.
    body.extend([0, 0xff, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let len = (body.len() as u32).to_be_bytes();
    let mut record = Vec::new();
    write_header(
        &mut record,
        HANDSHAKE,
        0,
        u64::from(sequence),
        &[],
        12 + body.len(),
    );
    record.push(1);
    record.extend(&len[1..]);
    record.extend([0, sequence, 0, 0, 0]);
    record.extend(&len[1..]);
    record.extend(body);
    record
}

/// What an offer leads to, in words: the suite's name at IANA, or the alert's number.
fn offer(gateway: &Gateway, suites: &[u16], raw_keys: bool) -> Result<Suite, u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(gateway.dtls_addr()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 2048];
    socket.send(&hello(suites, raw_keys, &[], 0)).unwrap();
    let len = receive(&socket, &mut buf).unwrap();
    let cookie = buf[28..len].to_vec();
    socket.send(&hello(suites, raw_keys, &cookie, 1)).unwrap();
    let len = receive(&socket, &mut buf).unwrap();
    let header = Header::parse(&buf[..len], 0).unwrap();
    let body = &buf[header.header_len..header.record_len()];
    match (header.kind, body[0]) {
        (ALERT, _) => Err(body[1]),
        (HANDSHAKE, 2) => {
            let session_id = usize::from(body[12 + 34]);
            let at = 12 + 35 + session_id;
            Ok(Suite::from_id([body[at], body[at + 1]]).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn stacks_of_devices_get_what_they_can_work_with() {
    let pki = Pki::new();
    let psk = Config::new();
    let both = pki.install(Config::new());
    let certificate = pki.install(Config::new()).dtls("psk_file = \"\"");
    let with_cbc = pki.install(Config::new()).dtls("legacy_cbc = true");
    let gateways = [psk, certificate, both, with_cbc].map(Gateway::start);
    let mut table = String::from(
        "| stack | its list is from | PSK only | certificate only | both | both, `legacy_cbc = true` |\n|---|---|---|---|---|---|\n",
    );
    for (name, source, suites, has) in STACKS {
        let [psk, certificate, both, with_cbc] =
            [0, 1, 2, 3].map(|n| offer(&gateways[n], suites, *has == Has::RawKey));
        let known_by_key = |got: Result<Suite, u8>| got.is_ok_and(|suite| suite.key_exchange().uses_psk());
        match has {
            Has::Key if psk.is_ok() => assert!(known_by_key(both) && with_cbc == both, "{name}: {both:?}"),
            Has::Key => assert!(
                !known_by_key(both) && known_by_key(with_cbc),
                "{name}: {with_cbc:?}"
            ),
            Has::Certificate => {
                assert_eq!(certificate, both, "{name}");
                assert!(with_cbc.is_ok() && (both.is_err() || with_cbc == both), "{name}");
            }
            // No X.509, which it could not read.
            Has::RawKey => assert_eq!((certificate, both), (Err(43), Err(43)), "{name}"),
        }
        let cell = |applies: bool, got: Result<Suite, u8>| match got {
            _ if !applies => "-".to_owned(),
            Ok(suite) => format!("`{}`", suite.label().trim_start_matches("TLS_")),
            Err(alert) => format!("alert {alert}"),
        };
        writeln!(
            table,
            "| {name} | {source} | {} | {} | {} | {} |",
            cell(*has == Has::Key, psk),
            cell(*has != Has::Key, certificate),
            cell(true, both),
            cell(true, with_cbc),
        )
        .unwrap();
    }
    write_page("stacks", &table);
}
