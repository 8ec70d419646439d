//! Hellos: proved, not proved, replayed, in pieces, too many.

use std::time::Duration;

use portcullis::dtls::DtlsShared;
use portcullis::dtls::contract::{CloseReason, DtlsSettings};
use portcullis::dtls::metrics::{HandshakeResult, RecordDrop};
use portcullis::types::reason::Limit;

use crate::bench::*;
use crate::dtls_client::{ClientConfig, DtlsClient};

const GCM: &str = "PSK-AES128-GCM-SHA256";

/// A client that has sent its hello with the cookie: both hellos.
pub fn two_hellos(server: &mut Server, config: &ClientConfig, n: u16) -> (DtlsClient, Vec<u8>, Vec<u8>) {
    let mut client = DtlsClient::new(config);
    client.connect();
    let first = client.take().remove(0);
    let request = server.input(peer(n), &first).remove(0).1;
    client.handle(&request);
    let second = client.take().remove(0);
    (client, first, second)
}

#[test]
fn twenty_thousand_hellos_without_a_cookie_leave_nothing() {
    let mut server = Server::new(&material(), settings());
    let mut client = DtlsClient::new(&psk_client(GCM));
    client.connect();
    let mut hello = client.take().remove(0);
    server.input(peer(0), &hello);
    for n in 0..20_000u16 {
        hello[27..29].copy_from_slice(&n.to_be_bytes());
        let answers = server.input(peer(n % 200), &hello);
        assert!(answers.len() == 1 && answers[0].1.len() < hello.len());
        assert_eq!(server.listener.half_open(), 0);
    }
    assert_eq!(server.metrics.cookies_sent.get(), 20_001);
    assert_eq!(server.listener.poll_timeout(), None);
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn a_cookie_of_another_address_or_time_is_asked_for_again() {
    let mut server = Server::new(&material(), settings());
    let (_, _, second) = two_hellos(&mut server, &psk_client(GCM), 1);
    assert_eq!(server.input(peer(2), &second)[0].1.len(), 44);
    server.now += Duration::from_secs(400);
    assert_eq!(server.input(peer(1), &second)[0].1.len(), 44);
    assert_eq!(server.metrics.cookies_failed.get(), 2);
    assert_eq!(server.listener.half_open(), 0);
}

#[test]
fn a_cookie_that_became_worthless_under_way_is_asked_for_again_and_leads_on() {
    for (asked, cid) in [(1, None), (2, Some(vec![7])), (3, None)] {
        let mut server = Server::new(&material(), settings());
        let config = ClientConfig {
            cid,
            ..psk_client("PSK-AES128-CCM8")
        };
        let (mut client, _, mut hello) = two_hellos(&mut server, &config, 1);
        for _ in 0..asked {
            server.now += Duration::from_secs(400);
            let request = server.input(peer(1), &hello).remove(0).1;
            assert_eq!(request.len(), 44);
            client.handle(&request);
            hello = client.take().remove(0);
        }
        let answers = server.input(peer(1), &hello);
        // Record and message have the numbers of the hello (RFC 6347, 4.2.1 and 4.2.2).
        assert_eq!(answers[0].1[5..11], hello[5..11]);
        assert_eq!(answers[0].1[17..19], hello[17..19]);
        for (_, answer) in answers {
            client.handle(&answer);
        }
        server.exchange(&mut client, peer(1));
        assert!(client.is_connected(), "{asked}: {:?}", client.failure());
        let Some(Seen::Established(session, _)) = server.seen.last().cloned() else {
            panic!()
        };
        assert!(server.talks(&mut client, session, peer(1)));
    }
}

#[test]
fn a_client_that_is_asked_for_ever_is_left_alone() {
    let mut server = Server::new(&material(), settings());
    let (mut client, _, mut hello) = two_hellos(&mut server, &psk_client(GCM), 1);
    for _ in 0..3 {
        server.now += Duration::from_secs(400);
        let request = server.input(peer(1), &hello).remove(0).1;
        client.handle(&request);
        hello = client.take().remove(0);
    }
    server.now += Duration::from_secs(400);
    let request = server.input(peer(1), &hello).remove(0).1;
    client.handle(&request);
    hello = client.take().remove(0);
    assert!(server.input(peer(1), &hello).is_empty());
    assert_eq!(server.dropped(RecordDrop::BadHello), 1);
}

#[test]
fn a_cookie_of_one_worker_is_good_for_another() {
    let mut server = Server::new(&material(), settings());
    let mut other = Server::of_worker(&material(), settings(), 1, server.now);
    let (mut client, _, second) = two_hellos(&mut server, &psk_client(GCM), 1);
    for (_, answer) in other.input(peer(1), &second) {
        client.handle(&answer);
    }
    other.exchange(&mut client, peer(1));
    assert!(client.is_connected());
    assert_eq!(other.listener.len(), 1);
}

#[test]
fn a_replayed_handshake_leaves_the_live_session_alone() {
    let mut server = Server::new(&material(), settings());
    let (mut client, first, second) = two_hellos(&mut server, &psk_client(GCM), 1);
    for (_, answer) in server.input(peer(1), &second) {
        client.handle(&answer);
    }
    server.exchange(&mut client, peer(1));
    let Some(Seen::Established(session, _)) = server.seen.last().cloned() else {
        panic!()
    };
    for _ in 0..50 {
        server.input(peer(1), &first);
        assert!(server.input(peer(1), &second).is_empty());
    }
    assert_eq!(server.dropped(RecordDrop::DuplicateHello), 50);
    assert_eq!((server.listener.half_open(), server.listener.len()), (0, 1));
    // Once the device has used its session the same hello may be that of its next life, and gets a handshake of its own.
    for _ in 0..50 {
        assert!(server.talks(&mut client, session, peer(1)));
        server.input(peer(1), &first);
        server.input(peer(1), &second);
    }
    assert!(server.talks(&mut client, session, peer(1)));
    assert_eq!((server.listener.half_open(), server.listener.len()), (1, 1));
    assert_eq!(server.dropped(RecordDrop::DuplicateHello), 50);
}

/// Gives the hellos of a client that has not sent any this random, as a device without an entropy source makes it. OpenSSL
/// knows its own only, so the handshake ends with the server's flight.
fn hellos_with(server: &mut Server, random: &[u8; 32], at: u16) -> Vec<(std::net::SocketAddr, Vec<u8>)> {
    let mut client = DtlsClient::new(&psk_client(GCM));
    client.connect();
    let mut first = client.take().remove(0);
    first[27..59].copy_from_slice(random);
    let request = server.input(peer(at), &first).remove(0).1;
    client.handle(&request);
    let mut second = client.take().remove(0);
    second[27..59].copy_from_slice(random);
    server.input(peer(at), &second)
}

/// The random of the hello that made a session.
fn random_of(hello: &[u8]) -> [u8; 32] {
    *hello[27..].first_chunk().unwrap()
}

/// RFC 6347, 4.2.1: a client may drop a ServerHello as a replay that has the number of a HelloVerifyRequest.
#[test]
fn the_server_hello_has_the_record_number_of_the_hello_with_the_cookie() {
    for number in [1_u8, 2, 7, 200] {
        let mut server = Server::new(&material(), settings());
        let (_, _, mut second) = two_hellos(&mut server, &psk_client(GCM), 1);
        second[10] = number;
        let flight = server.input(peer(1), &second).remove(0).1;
        assert_eq!((flight[0], flight[13]), (22, 2), "a ServerHello");
        assert_eq!(flight[5..11], [0, 0, 0, 0, 0, number]);
    }
}

#[test]
fn a_device_that_reboots_with_the_same_random_gets_in() {
    for cid in [None, Some(vec![9])] {
        let mut server = Server::new(&material(), settings());
        let config = ClientConfig {
            cid,
            ..psk_client(GCM)
        };
        let (mut client, _, second) = two_hellos(&mut server, &config, 1);
        let random = random_of(&second);
        for (_, answer) in server.input(peer(1), &second) {
            client.handle(&answer);
        }
        server.exchange(&mut client, peer(1));
        // The power fails before it has sent anything: what looks like a duplicate is one for seconds only.
        assert!(hellos_with(&mut server, &random, 1).is_empty());
        server.now += Duration::from_secs(6);
        assert!(!hellos_with(&mut server, &random, 1).is_empty());
        assert_eq!(server.listener.len(), 1);
    }
}

#[test]
fn a_random_that_begins_like_that_of_the_live_session_is_another() {
    let mut server = Server::new(&material(), settings());
    let (mut client, _, second) = two_hellos(&mut server, &psk_client(GCM), 1);
    let mut random = random_of(&second);
    for (_, answer) in server.input(peer(1), &second) {
        client.handle(&answer);
    }
    server.exchange(&mut client, peer(1));
    random[31] ^= 1;
    assert!(!hellos_with(&mut server, &random, 1).is_empty());
    assert_eq!(server.dropped(RecordDrop::DuplicateHello), 0);
}

#[test]
fn a_device_that_reboots_within_its_handshake_does_not_find_the_old_one() {
    let mut server = Server::new(&material(), settings());
    let (mut client, _, second) = two_hellos(&mut server, &psk_client(GCM), 1);
    let random = random_of(&second);
    for (_, answer) in server.input(peer(1), &second) {
        client.handle(&answer);
    }
    // Its last flight arrives but for the end, and the power fails.
    let flight = client.take().remove(0);
    let key_exchange = portcullis::dtls::record::Header::parse(&flight, 0)
        .unwrap()
        .record_len();
    server.input(peer(1), &flight[..key_exchange]);
    server.now += Duration::from_secs(4);
    let before = server.results(HandshakeResult::Timeout);
    let flight = hellos_with(&mut server, &random, 1);
    assert!(!flight.is_empty());
    assert_eq!(
        server.results(HandshakeResult::Timeout),
        before + 1,
        "the old one is given up"
    );
    assert_eq!(server.listener.half_open(), 1);
}

#[test]
fn a_handshake_that_only_begins_at_a_live_address_ends_alone() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    let (_, _, second) = two_hellos(&mut server, &psk_client(GCM), 1);
    assert!(!server.input(peer(1), &second).is_empty());
    assert_eq!(server.listener.half_open(), 1);
    for _ in 0..20 {
        assert!(server.talks(&mut client, session, peer(1)));
    }
    server.advance(Duration::from_secs(16));
    assert_eq!(server.listener.half_open(), 0);
    assert!(server.talks(&mut client, session, peer(1)));
    let wrong = server.handshake(&ClientConfig::psk(GCM, "u1", b"another key"), peer(1));
    assert!(!wrong.is_connected());
    assert!(server.talks(&mut client, session, peer(1)));
    server.advance(Duration::from_secs(16));
    assert!(server.talks(&mut client, session, peer(1)));
    assert_eq!(server.results(HandshakeResult::WrongKey), 1);
}

#[test]
fn a_rebooted_device_replaces_its_session_at_once() {
    for cid in [None, Some(vec![5, 6])] {
        let mut server = Server::new(&material(), settings());
        let config = ClientConfig {
            cid,
            ..psk_client(GCM)
        };
        let (mut old, session) = server.establish(&config, peer(1));
        assert!(server.talks(&mut old, session, peer(1)));
        server.seen.clear();
        let (mut new, next) = server.establish(&config, peer(1));
        assert_eq!(server.seen[0], Seen::Closed(session, CloseReason::Replaced));
        assert!(matches!(server.seen[1], Seen::Established(id, _) if id == next && id != session));
        assert!(server.talks(&mut new, next, peer(1)));
        assert_eq!(server.listener.len(), 1);
        old.send(b"ghost");
        let ghost = old.take().remove(0);
        server.seen.clear();
        assert!(server.input(peer(1), &ghost).is_empty());
        assert!(server.seen.is_empty());
        assert!(server.talks(&mut new, next, peer(1)));
    }
}

#[test]
fn repeated_hellos_from_one_live_address_do_not_disturb_a_hundred_sessions() {
    let mut server = Server::new(&material(), settings());
    let mut clients: Vec<_> = (0..100)
        .map(|n| {
            let (client, session) = server.establish(&psk_client(GCM), peer(n));
            (client, session, peer(n))
        })
        .collect();
    for round in 0..20 {
        let (_, first, second) = two_hellos(&mut server, &psk_client(GCM), 7);
        for _ in 0..5 {
            server.input(peer(7), &first);
            server.input(peer(7), &second);
        }
        for (client, session, at) in &mut clients {
            assert!(server.talks(client, *session, *at), "{round}");
        }
        assert_eq!((server.listener.half_open(), server.listener.len()), (1, 100));
    }
}

#[test]
fn a_hello_in_fragments_is_taken_if_the_cookie_is_in_the_first() {
    let mut server = Server::new(&material(), settings());
    let many = "PSK-AES128-GCM-SHA256:ALL:PSK";
    let config = ClientConfig {
        mtu: Some(256),
        sigalgs: None,
        ..psk_client(many)
    };
    let mut client = DtlsClient::new(&config);
    client.connect();
    let pieces = client.take();
    assert!(pieces.len() > 1, "the hello is not long enough to be cut");
    for datagram in pieces {
        for (_, answer) in server.input(peer(1), &datagram) {
            client.handle(&answer);
        }
    }
    server.exchange(&mut client, peer(1));
    assert!(client.is_connected(), "{:?}", client.failure());
    assert!(server.dropped(RecordDrop::NoHandshake) >= 1);
}

#[test]
fn half_open_places_are_capped_and_given_to_the_next_when_stale() {
    let mut server = Server::new(
        &material(),
        DtlsSettings {
            max_half_open: 10,
            ..settings()
        },
    );
    let (mut client, session) = server.establish(&psk_client(GCM), peer(500));
    for n in 0..50 {
        let (_, _, second) = two_hellos(&mut server, &psk_client(GCM), n);
        server.input(peer(n), &second);
        assert!(server.listener.half_open() <= 10);
    }
    assert_eq!(server.metrics.half_open.get(), 10);
    assert_eq!(server.dropped(RecordDrop::HalfOpen), 40);
    assert_eq!(server.metrics.limits.get(Limit::HalfOpen), 40);
    assert!(server.talks(&mut client, session, peer(500)));
    server.now += Duration::from_secs(3);
    let (mut good, next) = server.establish(&psk_client(GCM), peer(99));
    assert!(server.talks(&mut good, next, peer(99)));
    assert!(server.talks(&mut client, session, peer(500)));
}

/// A listener whose half-open places are taken but for as many as it has `free`, by one silent peer each.
fn crowded(shared: &std::sync::Arc<DtlsShared>, worker: u8, now: std::time::Instant, rate: u32) -> Server {
    let limited = DtlsSettings {
        handshakes_per_second: rate,
        max_half_open: 8,
        ..settings()
    };
    let mut server = Server::sharing(&material(), limited, worker, now, shared.clone());
    for n in 0..4 {
        let (_, _, second) = two_hellos(&mut server, &psk_client(GCM), 256 + n);
        server.input(peer(256 + n), &second);
    }
    assert_eq!(server.listener.half_open(), 4);
    server
}

#[test]
fn a_fleet_behind_one_address_is_in_at_once() {
    let limited = DtlsSettings {
        handshakes_per_second: 20,
        max_half_open: 1024,
        ..settings()
    };
    let mut server = Server::new(&material(), limited);
    let mut clients: Vec<_> = (0..250)
        .map(|n| {
            let (client, _, second) = two_hellos(&mut server, &psk_client(GCM), n);
            (client, second)
        })
        .collect();
    let flights: Vec<_> = (0..)
        .zip(&clients)
        .map(|(n, (_, second))| server.input(peer(n), second))
        .collect();
    assert_eq!(server.listener.half_open(), 250);
    for ((n, (client, _)), flight) in (0..).zip(&mut clients).zip(flights) {
        for (_, answer) in flight {
            client.handle(&answer);
        }
        server.exchange(client, peer(n));
        assert!(client.is_connected(), "{n}");
    }
    assert_eq!(server.metrics.limits.get(Limit::HandshakeRate), 0);
}

#[test]
fn while_places_are_short_a_source_has_its_rate_and_others_have_theirs() {
    let now = start();
    let mut server = crowded(&DtlsShared::new([9; 32], now), 0, now, 5);
    let connected = (0..40)
        .filter(|n| server.handshake(&psk_client(GCM), peer(*n)).is_connected())
        .count();
    assert_eq!(connected, 10);
    assert_eq!(server.results(HandshakeResult::Limit), 0, "no handshake failed");
    assert_eq!(server.dropped(RecordDrop::HandshakeRate), 30);
    assert!(
        server.handshake(&psk_client(GCM), peer(300)).is_connected(),
        "another source"
    );
    server.now += Duration::from_secs(1);
    let connected = (0..40)
        .filter(|n| server.handshake(&psk_client(GCM), peer(*n)).is_connected())
        .count();
    assert_eq!(connected, 5);
}

#[test]
fn a_source_whose_ports_reach_several_workers_has_its_rate_once() {
    let now = start();
    let shared = DtlsShared::new([9; 32], now);
    let mut servers: Vec<_> = (0..4).map(|worker| crowded(&shared, worker, now, 5)).collect();
    let connected = (0..40)
        .filter(|n| {
            let server = &mut servers[usize::from(*n % 4)];
            server.handshake(&psk_client(GCM), peer(*n)).is_connected()
        })
        .count();
    assert_eq!(connected, 10);
}

/// Workers that share the rate of their listener.
fn rated(rates: DtlsSettings) -> Vec<Server> {
    let now = start();
    let shared = DtlsShared::new([9; 32], now);
    (0..4)
        .map(|worker| Server::sharing(&material(), rates.clone(), worker, now, shared.clone()))
        .collect()
}

#[test]
fn a_herd_of_many_sources_has_the_rate_of_the_listener_over_all_workers() {
    let mut servers = rated(DtlsSettings {
        max_handshakes_per_second: 9,
        ..settings()
    });
    let (mut standing, session) = servers[0].establish(&psk_client(GCM), peer(1));
    let connected = |servers: &mut Vec<Server>| {
        let tries = (0..40_u16).map(|n| (usize::from(n % 4), peer(256 * (n + 1))));
        tries
            .filter(|(worker, from)| servers[*worker].handshake(&psk_client(GCM), *from).is_connected())
            .count()
    };
    assert_eq!(connected(&mut servers), 8);
    for server in &mut servers {
        server.now += Duration::from_secs(1);
    }
    assert_eq!(connected(&mut servers), 9);
    let dropped = |server: &Server| server.dropped(RecordDrop::ListenerHandshakeRate);
    let named = |server: &Server| server.metrics.limits.get(Limit::ListenerHandshakeRate);
    assert_eq!(servers.iter().map(dropped).sum::<u64>(), 63);
    assert_eq!(servers.iter().map(named).sum::<u64>(), 63);
    assert!(servers[0].talks(&mut standing, session, peer(1)));
}

#[test]
fn a_hello_that_waited_for_the_rate_of_the_listener_gets_in_with_the_cookie_that_it_has() {
    let mut servers = rated(DtlsSettings {
        max_handshakes_per_second: 1,
        ..settings()
    });
    let server = &mut servers[0];
    server.establish(&psk_client(GCM), peer(1));
    let (mut client, _, second) = two_hellos(server, &psk_client(GCM), 256);
    assert!(server.input(peer(256), &second).is_empty());
    server.now += Duration::from_secs(1);
    for (_, answer) in server.input(peer(256), &second) {
        client.handle(&answer);
    }
    server.exchange(&mut client, peer(256));
    assert!(client.is_connected());
}

#[test]
fn one_source_leaves_others_their_part_of_the_rate_of_the_listener() {
    let mut servers = rated(DtlsSettings {
        max_handshakes_per_second: 8,
        handshakes_per_second: 1,
        ..settings()
    });
    let server = &mut servers[0];
    let connected = (0..40)
        .filter(|n| server.handshake(&psk_client(GCM), peer(*n)).is_connected())
        .count();
    assert_eq!(connected, 6, "half of the rate, and then twice its own");
    for n in 1..3 {
        assert!(
            server.handshake(&psk_client(GCM), peer(256 * n)).is_connected(),
            "{n}"
        );
    }
}

#[test]
fn spoofed_hellos_run_into_their_own_limit() {
    let mut server = Server::new(
        &material(),
        DtlsSettings {
            handshakes_per_second: 5,
            ..settings()
        },
    );
    let mut client = DtlsClient::new(&psk_client(GCM));
    client.connect();
    let hello = client.take().remove(0);
    let answered = (0..1000)
        .filter(|n| !server.input(peer(n % 200), &hello).is_empty())
        .count();
    assert_eq!(answered, 250);
    assert_eq!(server.dropped(RecordDrop::HelloRate), 750);
    server.now += Duration::from_millis(20);
    assert!(server.handshake(&psk_client(GCM), peer(1)).is_connected());
}
