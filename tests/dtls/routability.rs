//! Return routability (RFC 9853): a session moves when its peer has shown that it receives at the new address.

use std::time::Duration;

use portcullis::dtls::SendError;
use portcullis::dtls::contract::{DtlsEvent, SessionId};
use portcullis::dtls::metrics::RecordDrop;
use portcullis::types::PeerAddr;

use crate::bench::*;
use crate::dtls_client::{ClientConfig, DtlsClient};

const CHALLENGE: u8 = 0;
const RESPONSE: u8 = 1;

fn checking(cid: &[u8]) -> ClientConfig {
    ClientConfig {
        cid: Some(cid.to_vec()),
        rrc: true,
        ..psk_client("PSK-AES128-CCM8")
    }
}

/// Sends one record of the client's from `from`; each answer with where it goes.
fn from(
    server: &mut Server,
    client: &mut DtlsClient,
    from: PeerAddr,
) -> Vec<(std::net::SocketAddr, Vec<u8>)> {
    let mut answers = Vec::new();
    for datagram in client.take() {
        answers.extend(server.input(from, &datagram));
    }
    answers
}

/// A request from a new address; the cookie that it is challenged with there.
fn challenged(server: &mut Server, client: &mut DtlsClient, at: PeerAddr) -> [u8; 8] {
    client.send(b"request");
    let answers = from(server, client, at);
    for (to, answer) in answers {
        assert_eq!(to, at.socket_addr());
        client.handle(&answer);
    }
    let check = client.checks().remove(0);
    assert_eq!((check.len(), check[0]), (9, CHALLENGE));
    *check[1..].first_chunk().unwrap()
}

fn answer(cookie: [u8; 8]) -> Vec<u8> {
    [&[RESPONSE], cookie.as_slice()].concat()
}

fn bound_to(server: &Server, session: SessionId) -> PeerAddr {
    server.listener.session(session).unwrap().address
}

#[test]
fn a_session_moves_when_its_peer_answers_at_the_new_address() {
    for cid in [&[][..], &[1], &[7; 20]] {
        let mut server = Server::new(&material(), settings());
        let (mut client, session) = server.establish(&checking(cid), peer(1));
        assert!(client.has_rrc());
        assert!(server.talks(&mut client, session, peer(1)));
        let cookie = challenged(&mut server, &mut client, peer(2));
        assert_eq!(bound_to(&server, session), peer(1));
        // What is not an answer goes where the session is bound to.
        server
            .listener
            .send(session, b"notification", &mut server.transmits)
            .unwrap();
        assert_eq!(server.output()[0].0, peer(1).socket_addr());
        client.check(&answer(cookie));
        server.seen.clear();
        from(&mut server, &mut client, peer(2));
        assert_eq!(server.seen, [Seen::AddressChanged(session, peer(2))]);
        assert_eq!(bound_to(&server, session), peer(2));
        assert!(server.talks(&mut client, session, peer(2)));
        assert_eq!(server.metrics.address_changes.get(), 1);
        assert_eq!(server.metrics.path_challenges.get(), 1);
    }
}

#[test]
fn a_request_from_the_new_address_is_answered_there_within_its_budget() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&checking(&[1]), peer(1));
    client.send(&[5; 60]);
    let mut record = client.take().remove(0);
    let came = record.len();
    server
        .listener
        .handle_datagram(server.now, peer(2), &mut record, &mut server.transmits);
    let event = server.listener.poll_event().unwrap();
    assert!(matches!(event, DtlsEvent::Plaintext { .. }), "{event:?}");
    // The challenge, then answers until there is no more for that address.
    let outcome = loop {
        if let Err(error) = server.listener.send(session, &[6; 20], &mut server.transmits) {
            break error;
        }
    };
    assert_eq!(outcome, SendError::Unconfirmed);
    let out = server.output();
    assert!(out.len() >= 3 && out.iter().all(|(to, _)| *to == peer(2).socket_addr()));
    assert!(out.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= 3 * came);
    assert!(server.listener.poll_event().is_none());
    // That was the answer; what comes later goes to the old address without a bound.
    for _ in 0..50 {
        server
            .listener
            .send(session, &[6; 400], &mut server.transmits)
            .unwrap();
    }
    assert!(server.output().iter().all(|(to, _)| *to == peer(1).socket_addr()));
}

#[test]
fn no_answer_leaves_the_session_where_it_is() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&checking(&[1]), peer(1));
    let cookie = challenged(&mut server, &mut client, peer(2));
    // The wrong cookie, the right one from elsewhere, and too late.
    let mut wrong = cookie;
    wrong[7] ^= 1;
    for (content, at) in [
        (answer(wrong), peer(2)),
        (answer(cookie), peer(1)),
        (vec![9; 9], peer(2)),
        (vec![1; 4], peer(2)),
    ] {
        client.check(&content);
        from(&mut server, &mut client, at);
        assert_eq!(bound_to(&server, session), peer(1));
    }
    assert_eq!(server.dropped(RecordDrop::PathCheck), 4);
    server.now += Duration::from_secs(11);
    client.check(&answer(cookie));
    for (_, challenge) in from(&mut server, &mut client, peer(2)) {
        client.handle(&challenge);
    }
    assert_eq!(bound_to(&server, session), peer(1));
    assert!(server.talks(&mut client, session, peer(1)));
    assert_eq!(server.metrics.address_changes.get(), 0);
}

#[test]
fn a_lost_challenge_is_followed_by_another() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&checking(&[1]), peer(1));
    let first = challenged(&mut server, &mut client, peer(2));
    client.send(b"at once");
    assert!(
        from(&mut server, &mut client, peer(2)).is_empty(),
        "not for each record"
    );
    server.now += Duration::from_secs(2);
    let second = challenged(&mut server, &mut client, peer(2));
    assert_ne!(first, second);
    // The first one was only slow.
    client.check(&answer(first));
    from(&mut server, &mut client, peer(2));
    assert_eq!(bound_to(&server, session), peer(2));
}

#[test]
fn a_copied_record_sends_a_victim_one_challenge_and_nothing_else() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&checking(&[1]), peer(1));
    let (mut came, mut went) = (0, 0);
    for _ in 0..20 {
        client.send(b"r");
        let record = client.take().remove(0);
        came += record.len();
        went += server
            .input(peer(66), &record)
            .iter()
            .map(|(_, bytes)| bytes.len())
            .sum::<usize>();
        for _ in 0..10 {
            server
                .listener
                .send(session, &[3; 300], &mut server.transmits)
                .unwrap();
        }
        assert!(server.output().iter().all(|(to, _)| *to == peer(1).socket_addr()));
    }
    assert!(
        went <= 3 * came && server.metrics.path_challenges.get() == 1,
        "{went} for {came}"
    );
}

#[test]
fn a_challenge_of_the_peers_is_answered_where_it_came_from() {
    let mut server = Server::new(&material(), settings());
    let (mut client, _) = server.establish(&checking(&[1]), peer(1));
    client.check(&[CHALLENGE, 8, 7, 6, 5, 4, 3, 2, 1]);
    for (to, answer) in from(&mut server, &mut client, peer(1)) {
        assert_eq!(to, peer(1).socket_addr());
        client.handle(&answer);
    }
    assert_eq!(client.checks(), [vec![RESPONSE, 8, 7, 6, 5, 4, 3, 2, 1]]);
}

#[test]
fn a_client_that_does_not_offer_it_moves_at_once_and_has_its_checks_dropped() {
    let mut server = Server::new(&material(), settings());
    let config = ClientConfig {
        rrc: false,
        ..checking(&[1])
    };
    let (mut client, session) = server.establish(&config, peer(1));
    assert!(!client.has_rrc());
    client.check(&[CHALLENGE; 9]);
    assert!(from(&mut server, &mut client, peer(1)).is_empty());
    assert_eq!(server.dropped(RecordDrop::ContentType), 1);
    client.send(b"moved");
    from(&mut server, &mut client, peer(2));
    assert_eq!(bound_to(&server, session), peer(2));
    // And it is nothing without a Connection ID.
    let config = ClientConfig {
        cid: None,
        ..checking(&[])
    };
    let (client, _) = server.establish(&config, peer(3));
    assert!(client.server_cid().is_none() && !client.has_rrc());
}
