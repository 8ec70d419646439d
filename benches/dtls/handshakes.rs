//! Handshakes of each kind, beside what OpenSSL alone takes for the same one.
//!
//! Both are CPU time of the server side in memory, in turns, the better round of each. Ours has the cookie's round trip, the
//! Connection ID's extension, the authorization and the table of sessions on top; OpenSSL's has none of that.

use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslStream, SslVerifyMode,
    SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use portcullis::dtls::bio::Pipe;
use portcullis::dtls::{DtlsMaterial, Verify};

use crate::KEY;
use crate::certs::{Certified, Recipe, authority};
use crate::clock::{cost, median};
use crate::dtls_client::{ClientConfig, DtlsClient};
use crate::table::{Table, peer, psk_material};

const ROUNDS: usize = 9;
const PER_ROUND: u32 = 60;

/// A kind of handshake: what the server has, what the client has, what it may cost.
struct Kind<'a> {
    name: &'a str,
    material: &'a DtlsMaterial,
    client: ClientConfig,
    /// Whether the client comes with a ticket of an earlier handshake.
    resumes: bool,
    limit: f64,
}

/// A server's context as anyone would make it, for the same suite.
fn bare_context(kind: &Kind<'_>) -> SslContext {
    let mut context = SslContextBuilder::new(SslMethod::dtls()).unwrap();
    context.set_min_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
    context.set_max_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
    context.set_security_level(0);
    context.set_cipher_list(&kind.client.ciphers).unwrap();
    context.set_options(SslOptions::NO_QUERY_MTU);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_session_id_context(b"bench").unwrap();
    context.set_groups_list("X25519:P-256").unwrap();
    if kind.client.ciphers.starts_with("PSK") {
        context.set_options(SslOptions::NO_TICKET);
    }
    if kind.material.psks.is_some() {
        context.set_psk_server_callback(|_, _, key| {
            key[..KEY.len()].copy_from_slice(KEY);
            Ok(KEY.len())
        });
    }
    if let (Some(cert), Some(key)) = (&kind.material.cert_pem, &kind.material.key_pem) {
        let key = openssl::pkey::PKey::private_key_from_pem(key).unwrap();
        context.set_certificate(&X509::from_pem(cert).unwrap()).unwrap();
        context.set_private_key(&key).unwrap();
    }
    if let Some(ca) = &kind.material.ca_pem {
        let mut store = X509StoreBuilder::new().unwrap();
        store.add_cert(X509::from_pem(ca).unwrap()).unwrap();
        context.set_verify_cert_store(store.build()).unwrap();
        context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    context.build()
}

/// One handshake with OpenSSL alone; what it cost the server, and whether it was resumed.
fn bare_handshake(context: &SslContext, client: &mut DtlsClient) -> (f64, bool) {
    let (mut busy, mut server) = cost(|| {
        let mut ssl = Ssl::new(context).unwrap();
        ssl.set_mtu(1280).unwrap();
        ssl.set_accept_state();
        SslStream::new(ssl, Pipe::default()).unwrap()
    });
    client.connect();
    let mut accepted = false;
    loop {
        let datagrams = client.take();
        if datagrams.is_empty() {
            break;
        }
        for datagram in datagrams {
            let (spent, answers) = cost(|| {
                server.get_mut().put(&datagram);
                accepted |= server.accept().is_ok();
                server.get_mut().take()
            });
            busy += spent;
            for answer in answers {
                client.handle(&answer);
            }
        }
    }
    assert!(accepted && client.is_connected(), "{:?}", client.failure());
    let resumed = server.ssl().session_reused();
    let (spent, ()) = cost(|| drop(server));
    (busy + spent, resumed)
}

/// The client, with the ticket of a handshake of its own when it is to resume.
fn client_of(kind: &Kind<'_>, first: impl FnOnce(&mut DtlsClient)) -> (SslContext, ClientConfig) {
    let mut config = kind.client.clone();
    if kind.resumes {
        let mut client = DtlsClient::new(&config);
        first(&mut client);
        config.session = Some(client.session());
    }
    (config.context(), config)
}

/// What a handshake was worth: the session has to be what the kind says, on both sides. The client says goodbye to it, else
/// OpenSSL takes the ticket for void at the next one.
fn check(kind: &Kind<'_>, client: &mut DtlsClient, server_resumed: bool) {
    assert_eq!(client.is_resumed(), kind.resumes, "{}: the client", kind.name);
    assert_eq!(server_resumed, kind.resumes, "{}: the server", kind.name);
    client.session();
}

fn measure(kind: &Kind<'_>) {
    let mut table = Table::new(kind.material);
    let bare = bare_context(kind);
    let (our_context, our_config) = client_of(kind, |client| {
        table.handshake(client, peer(0));
    });
    let (bare_client, bare_config) = client_of(kind, |client| {
        bare_handshake(&bare, client);
    });
    let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
    for round in 0..ROUNDS as u32 {
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        for n in 0..PER_ROUND {
            let mut client = DtlsClient::within(&our_context, &our_config);
            let (spent, resumed) = table.handshake(&mut client, peer(1 + round * PER_ROUND + n));
            check(kind, &mut client, resumed);
            our_times.push(spent);
            let mut client = DtlsClient::within(&bare_client, &bare_config);
            let (spent, resumed) = bare_handshake(&bare, &mut client);
            check(kind, &mut client, resumed);
            their_times.push(spent);
        }
        ours = ours.min(median(our_times));
        theirs = theirs.min(median(their_times));
    }
    println!(
        "handshake {:<24}{ours:>7.1} us with cookie, OpenSSL alone {theirs:>7.1} us: {:.2} of it, {:>5.1} us more \
         (at most {} us)",
        kind.name,
        ours / theirs,
        ours - theirs,
        kind.limit
    );
}

fn with_certificate(own: &Certified) -> DtlsMaterial {
    DtlsMaterial {
        psks: None,
        cert_pem: Some(own.cert_pem()),
        key_pem: Some(own.key_pem().into()),
        ..psk_material()
    }
}

/// One line for each kind whose name holds `filter`.
pub fn handshakes(filter: &str) {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let device = Recipe::client("device").make(Some(&ca));
    let psk = psk_material();
    let certificate = with_certificate(&own);
    let mutual = DtlsMaterial {
        verify: Verify::Required,
        ca_pem: Some(ca.cert_pem()),
        ..certificate.clone()
    };
    let plain = ClientConfig::certificate("ECDHE-ECDSA-AES128-GCM-SHA256", &ca.certificate);
    let with_own = ClientConfig {
        certificate: Some((device.certificate.clone(), device.key.clone())),
        ..plain.clone()
    };
    let psk_client = ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY);
    let with_cid = ClientConfig {
        cid: Some(vec![1]),
        ..psk_client.clone()
    };
    let ephemeral = ClientConfig::psk("ECDHE-PSK-CHACHA20-POLY1305", "u1", KEY);
    let kinds = [
        ("PSK", &psk, &psk_client, false, 60.0),
        ("PSK, Connection ID", &psk, &with_cid, false, 60.0),
        ("ECDHE-PSK", &psk, &ephemeral, false, 260.0),
        ("ECDHE-PSK by ticket", &psk, &ephemeral, true, 70.0),
        ("ECDHE-ECDSA", &certificate, &plain, false, 260.0),
        ("by ticket", &certificate, &plain, true, 70.0),
        ("with client certificate", &mutual, &with_own, false, 850.0),
        ("the same by ticket", &mutual, &with_own, true, 850.0),
    ];
    for (name, material, client, resumes, limit) in kinds {
        if name.contains(filter) {
            measure(&Kind {
                name,
                material,
                client: client.clone(),
                resumes,
                limit,
            });
        }
    }
}
