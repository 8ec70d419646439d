//! Tickets: who gets one, what it is good for, and what it does not get around.

use portcullis::dtls::metrics::{Alert, HandshakeResult};
use portcullis::dtls::{DtlsContext, DtlsMaterial, TicketKeys, Verify};

use crate::bench::*;
use crate::certificates::{below_a_root, client_with, with_certificate, with_clients};
use crate::certs::{Recipe, authority, revocation_list};
use crate::dtls_client::{ClientConfig, DtlsClient};

const ECDSA: &str = "ECDHE-ECDSA-AES128-CCM8";
const ECDHE_PSK: &str = "ECDHE-PSK-CHACHA20-POLY1305";

#[test]
fn a_ticket_resumes_on_another_worker_and_context_and_keeps_the_identity() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let device = Recipe::client("device").make(Some(&ca));
    let material = with_clients(&own, &ca, Verify::Required);
    let mut server = Server::new(&material, settings());
    let config = client_with(ECDSA, &ca, &device);
    let (mut client, session) = server.establish(&config, peer(1));
    assert!(server.talks(&mut client, session, peer(1)));
    let ticket = client.session();
    let mut other = Server::of_worker(&material, settings(), 1, server.now);
    let config = ClientConfig {
        session: Some(ticket),
        ..config
    };
    let (mut client, session) = other.establish(&config, peer(1));
    assert!(client.is_resumed());
    let info = other.listener.session(session).unwrap();
    assert!(info.resumed);
    assert_eq!(&*info.identity.unwrap().name, "device");
    for _ in 0..20 {
        assert!(other.talks(&mut client, session, peer(1)));
    }
    assert_eq!(
        (other.metrics.resumed.get(), other.metrics.cookies_sent.get()),
        (1, 1)
    );
}

#[test]
fn plain_psk_gets_no_ticket_and_ephemeral_psk_does() {
    let mut server = Server::new(&material(), settings());
    for (n, suite) in ALL_PSK.into_iter().enumerate() {
        let (client, _) = server.establish(&psk_client(suite), peer(n as u16));
        assert_eq!(client.has_ticket(), suite == ECDHE_PSK, "{suite}");
    }
}

#[test]
fn an_identity_that_is_gone_or_has_another_key_does_not_come_back_by_ticket() {
    for left in [
        "u2:00112233445566778899aabbccddeeff",
        "u1:00112233445566778899aabbccddeeff",
    ] {
        does_not_come_back(left);
    }
}

#[test]
fn an_ephemeral_psk_session_resumes() {
    let mut server = Server::new(&material(), settings());
    let (mut client, _) = server.establish(&psk_client(ECDHE_PSK), peer(1));
    let config = ClientConfig {
        session: Some(client.session()),
        ..psk_client(ECDHE_PSK)
    };
    let mut other = Server::new(&material(), settings());
    let (mut client, session) = other.establish(&config, peer(2));
    assert!(client.is_resumed());
    assert_eq!(
        &*other.listener.session(session).unwrap().identity.unwrap().name,
        "u1"
    );
    assert!(other.talks(&mut client, session, peer(2)));
}

fn does_not_come_back(left: &str) {
    let mut server = Server::new(&material(), settings());
    let (mut client, _) = server.establish(&psk_client(ECDHE_PSK), peer(1));
    let config = ClientConfig {
        session: Some(client.session()),
        ..psk_client(ECDHE_PSK)
    };
    let removed = DtlsMaterial {
        psks: Some(psks(left)),
        ..material()
    };
    server.renew(DtlsContext::new(&removed).unwrap());
    server.output();
    let client = server.handshake(&config, peer(2));
    assert!(server.listener.is_empty());
    assert!(client.failure().is_some() || !client.is_connected() || client.is_closed());
    assert_eq!(server.metrics.resumptions_refused.get(), 1);
    assert_eq!(server.results(HandshakeResult::UnknownIdentity), 1);
    assert_eq!(server.metrics.alerts_sent.get(Alert::DecryptError), 1);
}

#[test]
fn a_revoked_certificate_and_a_changed_trust_anchor_do_not_come_back_by_ticket() {
    let (ca, other_ca) = (authority("ca"), authority("other"));
    let own = Recipe::server("server").make(Some(&ca));
    let device = Recipe::client("device").make(Some(&ca));
    let material = DtlsMaterial {
        crl_pem: Some(revocation_list(&ca, &[]).to_pem().unwrap()),
        ..with_clients(&own, &ca, Verify::Required)
    };
    let mut server = Server::new(&material, settings());
    let (mut client, _) = server.establish(&client_with(ECDSA, &ca, &device), peer(1));
    let config = ClientConfig {
        session: Some(client.session()),
        ..client_with(ECDSA, &ca, &device)
    };

    let revoking = DtlsMaterial {
        crl_pem: Some(revocation_list(&ca, &[&device]).to_pem().unwrap()),
        ..material.clone()
    };
    let mut server = Server::new(&revoking, settings());
    server.handshake(&config, peer(2));
    assert!(server.listener.is_empty());
    assert_eq!(server.metrics.resumptions_refused.get(), 1);

    let mut server = Server::new(&with_clients(&own, &other_ca, Verify::Required), settings());
    let client = server.handshake(&config, peer(2));
    assert!(server.listener.is_empty() && !client.is_connected());
    assert_eq!(server.metrics.alerts_sent.get(Alert::UnknownCa), 1);
}

/// A process, or a node, that never saw the first handshake does not have what the client showed in it.
#[test]
fn a_ticket_whose_chain_only_the_client_has_is_a_full_handshake_elsewhere_and_no_alert() {
    let (root, _, own, showing) = below_a_root();
    let material = with_clients(&own, &root, Verify::Required);
    let mut server = Server::new(&material, settings());
    let (mut client, _) = server.establish(&showing, peer(1));
    let config = ClientConfig {
        session: Some(client.session()),
        ..showing
    };
    let mut other = Server::new(&material, settings());
    let (mut client, session) = other.establish(&config, peer(1));
    assert!(!client.is_resumed() && other.talks(&mut client, session, peer(1)));
    assert_eq!(other.metrics.resumptions_refused.get(), 0);
    // What is at hand now is good for the very ticket that was declined, and the new one.
    for ticket in [config.session.clone(), Some(client.session())] {
        let again = ClientConfig {
            session: ticket,
            ..config.clone()
        };
        let (mut client, session) = other.establish(&again, peer(2));
        assert!(client.is_resumed() && other.talks(&mut client, session, peer(2)));
    }
    // Where nobody is asked for certificates any more it is no ticket either.
    let mut asks_nobody = Server::new(&with_certificate(&own), settings());
    let (mut client, session) = asks_nobody.establish(&config, peer(3));
    assert!(!client.is_resumed() && asks_nobody.talks(&mut client, session, peer(3)));
}

#[test]
fn new_ticket_keys_turn_old_tickets_into_full_handshakes() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let material = with_certificate(&own);
    let mut server = Server::new(&material, settings());
    let config = ClientConfig::certificate(ECDSA, &ca.certificate);
    let (mut client, _) = server.establish(&config, peer(1));
    let config = ClientConfig {
        session: Some(client.session()),
        ..config
    };
    let rotated = DtlsMaterial {
        ticket_keys: TicketKeys::new([8; 80]),
        ..material
    };
    let mut server = Server::new(&rotated, settings());
    let (mut client, session) = server.establish(&config, peer(1));
    assert!(!client.is_resumed());
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn rotated_ticket_keys_leave_sessions_and_the_rest_of_the_context_alone() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let material = with_certificate(&own);
    let mut server = Server::new(&material, settings());
    let config = ClientConfig::certificate(ECDSA, &ca.certificate);
    let (mut client, first) = server.establish(&config, peer(1));
    let config = ClientConfig {
        session: Some(client.session()),
        ..config
    };
    let rotated = DtlsContext::new(&material)
        .unwrap()
        .with_ticket_keys(TicketKeys::new([9; 80]))
        .unwrap();
    server.renew(rotated);
    let (mut again, second) = server.establish(&config, peer(2));
    assert!(!again.is_resumed());
    let config = ClientConfig {
        session: Some(again.session()),
        ..config
    };
    let (mut resumed, third) = server.establish(&config, peer(3));
    assert!(resumed.is_resumed());
    assert!(server.talks(&mut resumed, third, peer(3)));
    assert!(
        [first, second]
            .iter()
            .all(|id| server.listener.session(*id).is_some())
    );
}

#[test]
fn resumption_never_skips_the_cookie() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let mut server = Server::new(&with_certificate(&own), settings());
    let config = ClientConfig::certificate(ECDSA, &ca.certificate);
    let (mut client, _) = server.establish(&config, peer(1));
    let config = ClientConfig {
        session: Some(client.session()),
        ..config
    };
    let mut client = DtlsClient::new(&config);
    client.connect();
    let hello = client.take().remove(0);
    let answer = server.input(peer(2), &hello);
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0].1.len(), 44);
    assert_eq!(server.listener.half_open(), 0);
}

/// CVE-2022-2576 was a server that, on a ticket whose parameters did not fit, went on to a full handshake without a
/// cookie.
#[test]
fn a_ticket_with_foreign_parameters_gets_nothing_for_free() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let mut server = Server::new(&with_certificate(&own), settings());
    let config = ClientConfig::certificate(ECDSA, &ca.certificate);
    let (mut client, _) = server.establish(&config, peer(1));
    let foreign = ClientConfig {
        session: Some(client.session()),
        ..ClientConfig::certificate("ECDHE-ECDSA-AES128-GCM-SHA256", &ca.certificate)
    };
    let mut client = DtlsClient::new(&foreign);
    client.connect();
    let hello = client.take().remove(0);
    let answer = server.input(peer(2), &hello).remove(0).1;
    assert_eq!((answer.len(), server.listener.half_open()), (44, 0));
    client.handle(&answer);
    server.exchange(&mut client, peer(2));
    assert!(!client.is_resumed() && !client.is_connected());
    assert_eq!((server.listener.half_open(), server.listener.len()), (0, 1));
    let (mut client, session) = server.establish(&config, peer(2));
    assert!(server.talks(&mut client, session, peer(2)));
}

#[test]
fn a_session_without_a_client_certificate_resumes() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let mut server = Server::new(&with_certificate(&own), settings());
    for suite in [ECDSA, "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        let config = ClientConfig::certificate(suite, &ca.certificate);
        let (mut client, _) = server.establish(&config, peer(1));
        assert!(client.has_ticket());
        let config = ClientConfig {
            session: Some(client.session()),
            ..config
        };
        for n in 2..5 {
            let (mut client, session) = server.establish(&config, peer(n));
            assert!(client.is_resumed());
            assert!(server.talks(&mut client, session, peer(n)));
            client.session();
        }
    }
}
