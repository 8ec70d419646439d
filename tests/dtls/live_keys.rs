//! Keys that somebody else knows: a handshake waits for the answer, and nothing else does.

use std::sync::Arc;
use std::time::Duration;

use portcullis::dtls::contract::{CloseReason, KeyAnswer, KnownKeys};
use portcullis::dtls::metrics::{Alert, HandshakeResult};
use portcullis::dtls::{DtlsContext, DtlsMaterial};
use portcullis::policy::attributes::Attributes;

use crate::bench::*;
use crate::dtls_client::{ClientConfig, DtlsClient};

const GCM: &str = "PSK-AES128-GCM-SHA256";
const ECDHE: &str = "ECDHE-PSK-CHACHA20-POLY1305";
const LIVE: &[u8] = b"a key that the source knows";
const OTHER: &[u8] = b"another that it knows";

fn live() -> DtlsMaterial {
    DtlsMaterial {
        live_keys: true,
        ..material()
    }
}

fn known(keys: &[&[u8]]) -> KeyAnswer {
    KeyAnswer::Known(Arc::new(KnownKeys {
        keys: keys.iter().map(|key| key.to_vec().into()).collect(),
        attributes: Attributes::default(),
    }))
}

/// The last question, if one was asked.
fn asked(server: &Server) -> Option<(u64, String)> {
    let last = |seen: &Seen| match seen {
        Seen::KeysWanted(ticket, identity) => Some((*ticket, identity.clone())),
        _ => None,
    };
    server.seen.iter().rev().find_map(last)
}

/// Answers what was asked for the client, and lets it go on.
fn answer(server: &mut Server, client: &mut DtlsClient, n: u16, answer: KeyAnswer) {
    let (ticket, _) = asked(server).expect("nobody was asked");
    let now = server.now;
    server
        .listener
        .give_keys(now, ticket, answer, &mut server.transmits);
    server.collect_events();
    for (_, datagram) in server.output() {
        client.handle(&datagram);
    }
    server.exchange(client, peer(n));
}

#[test]
fn a_handshake_goes_on_with_the_keys_that_were_found() {
    let mut server = Server::new(&live(), settings());
    let mut n = 1;
    for suite in ALL_PSK {
        for (keys, key) in [
            (&[LIVE][..], LIVE),
            (&[LIVE, OTHER], LIVE),
            (&[LIVE, OTHER], OTHER),
        ] {
            if suite.starts_with("ECDHE") && key == OTHER {
                continue;
            }
            let config = ClientConfig {
                cid: (n % 2 == 0).then(|| vec![7]),
                ..ClientConfig::psk(suite, b"lamp\xff", key)
            };
            let mut client = server.handshake(&config, peer(n));
            assert!(!client.is_connected());
            assert_eq!(asked(&server).unwrap().1, "hex:6c616d70ff");
            // Others are not kept waiting.
            let (mut other, session) = server.establish(&psk_client(GCM), peer(500));
            assert!(server.talks(&mut other, session, peer(500)));
            server.seen.retain(|seen| matches!(seen, Seen::KeysWanted(..)));
            answer(&mut server, &mut client, n, known(keys));
            assert!(client.is_connected(), "{suite}: {:?}", client.failure());
            let Some(Seen::Established(session, Some(identity))) = server.seen.last().cloned() else {
                panic!("{:?}", server.seen)
            };
            assert_eq!(&*identity.name, "hex:6c616d70ff");
            assert!(server.talks(&mut client, session, peer(n)));
            n += 1;
        }
    }
    assert_eq!(server.listener.half_open(), 0);
}

#[test]
fn a_file_goes_first_and_who_is_not_known_looks_like_one_with_a_wrong_key() {
    let mut server = Server::new(&live(), settings());
    server.establish(&psk_client(ECDHE), peer(1));
    assert_eq!(asked(&server), None);
    for (n, found, result) in [
        (2, KeyAnswer::Unknown, HandshakeResult::UnknownIdentity),
        (3, known(&[OTHER]), HandshakeResult::WrongKey),
    ] {
        let mut client = server.handshake(&ClientConfig::psk(GCM, "lamp", LIVE), peer(n));
        answer(&mut server, &mut client, n, found);
        assert!(!client.is_connected() && client.failure().is_none());
        assert!(server.advance(Duration::from_millis(100)).is_empty());
        server.advance(settings().handshake_timeout);
        assert_eq!(server.results(result), 1);
    }
    assert_eq!(server.metrics.alerts_sent.get(Alert::DecryptError), 2);
}

#[test]
fn a_source_that_cannot_be_asked_is_told_by_name() {
    let mut server = Server::new(&live(), settings());
    let mut client = server.handshake(&ClientConfig::psk(GCM, "lamp", LIVE), peer(1));
    answer(&mut server, &mut client, 1, KeyAnswer::Unavailable);
    assert!(client.failure().is_some(), "it is told, so that it tries again");
    assert_eq!(server.results(HandshakeResult::KeySource), 1);
    assert_eq!(server.metrics.alerts_sent.get(Alert::InternalError), 1);
    assert_eq!(server.listener.half_open(), 0);
    // The same again, once it is there.
    let mut client = server.handshake(&ClientConfig::psk(GCM, "lamp", LIVE), peer(1));
    answer(&mut server, &mut client, 1, known(&[LIVE]));
    assert!(client.is_connected());
}

#[test]
fn a_flight_that_comes_again_while_its_keys_are_looked_up_changes_nothing() {
    let mut server = Server::new(&live(), settings());
    let mut client = DtlsClient::new(&ClientConfig::psk(GCM, "lamp", LIVE));
    client.connect();
    let mut flights = Vec::new();
    loop {
        let out = client.take();
        if out.is_empty() {
            break;
        }
        for datagram in &out {
            for (_, reply) in server.input(peer(1), datagram) {
                client.handle(&reply);
            }
        }
        flights = out;
    }
    for _ in 0..20 {
        for datagram in &flights {
            assert!(server.input(peer(1), datagram).is_empty());
        }
        assert!(
            server.advance(Duration::from_millis(300)).is_empty(),
            "nothing is repeated"
        );
    }
    let questions = server
        .seen
        .iter()
        .filter(|seen| matches!(seen, Seen::KeysWanted(..)));
    assert_eq!(questions.count(), 1);
    answer(&mut server, &mut client, 1, known(&[OTHER, LIVE]));
    assert!(client.is_connected(), "{:?}", client.failure());
}

#[test]
fn an_answer_for_a_handshake_that_is_over_is_for_nobody() {
    let mut server = Server::new(&live(), settings());
    let _first = server.handshake(&ClientConfig::psk(GCM, "lamp", LIVE), peer(1));
    let (old, _) = asked(&server).unwrap();
    let mut second = server.handshake(&ClientConfig::psk(GCM, "lamp", LIVE), peer(1));
    let now = server.now;
    for _ in 0..2 {
        server
            .listener
            .give_keys(now, old, known(&[LIVE]), &mut server.transmits);
        assert!(server.output().is_empty());
    }
    answer(&mut server, &mut second, 1, known(&[LIVE]));
    assert!(second.is_connected());
    let _third = server.handshake(&ClientConfig::psk(GCM, "lamp", LIVE), peer(2));
    let (late, _) = asked(&server).unwrap();
    server.advance(settings().handshake_timeout);
    let now = server.now;
    server
        .listener
        .give_keys(now, late, known(&[LIVE]), &mut server.transmits);
    assert_eq!((server.output().len(), server.listener.half_open()), (0, 0));
}

#[test]
fn a_session_by_a_live_key_ends_when_the_file_has_another_or_nobody_is_asked_any_more() {
    let of = |text: &str, live_keys| DtlsMaterial {
        psks: Some(psks(text)),
        live_keys,
        ..material()
    };
    let own = |key: &[u8]| format!("lamp:{}", hex(key));
    for (material, stays) in [
        (of("", true), true),
        (of(&own(LIVE), false), true),
        (of(&own(OTHER), true), false),
        (of("", false), false),
    ] {
        let mut server = Server::new(&live(), settings());
        let mut client = server.handshake(&ClientConfig::psk(GCM, "lamp", LIVE), peer(1));
        answer(&mut server, &mut client, 1, known(&[LIVE]));
        server.seen.clear();
        server.renew(DtlsContext::new(&material).unwrap());
        server.collect_events();
        let ended = matches!(&*server.seen, [Seen::Closed(_, CloseReason::Revoked)]);
        assert_eq!(ended, !stays, "{:?}", server.seen);
    }
}
