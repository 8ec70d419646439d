//! Certificates that a reload no longer admits: their sessions, tickets and handshakes in flight.

use std::time::Duration;

use portcullis::dtls::contract::{CloseReason, SessionId};
use portcullis::dtls::{DtlsContext, DtlsMaterial, Verify};

use crate::bench::*;
use crate::certificates::{below_a_root, client_with, with_clients};
use crate::certs::{AUTHORITY, Certified, ROOT, Recipe, authority, from_now, revocation_list};
use crate::cookies::two_hellos;
use crate::dtls_client::ClientConfig;

const ECDSA: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";

/// Trust anchors as a file holds them.
fn all(anchors: &[&Certified]) -> Option<Vec<u8>> {
    Some(anchors.iter().flat_map(|anchor| anchor.cert_pem()).collect())
}

/// Puts the material in force; the sessions that it ends.
fn ended_by(server: &mut Server, material: &DtlsMaterial) -> Vec<SessionId> {
    server.seen.clear();
    server.renew(DtlsContext::new(material).unwrap());
    server.collect_events();
    let goodbyes = server.output().len();
    let ended: Vec<_> = server
        .seen
        .iter()
        .map(|seen| match seen {
            Seen::Closed(session, CloseReason::Revoked) => *session,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(goodbyes, ended.len(), "close_notify to each");
    ended
}

#[test]
fn an_authority_that_is_taken_out_ends_the_sessions_under_it_and_no_other() {
    let (ca, other) = (authority("ca"), authority("other"));
    let own = Recipe::server("server").make(Some(&ca));
    let material = DtlsMaterial {
        psks: material().psks,
        ca_pem: all(&[&ca, &other]),
        ..with_clients(&own, &ca, Verify::Required)
    };
    let mut server = Server::new(&material, settings());
    let device = |issuer| client_with(ECDSA, &ca, &Recipe::client("device").make(Some(issuer)));
    let (_, first) = server.establish(&device(&ca), peer(1));
    let (_, second) = server.establish(&device(&ca), peer(2));
    let (mut stays, kept) = server.establish(&device(&other), peer(3));
    let (mut keyed, by_key) = server.establish(&psk_client("PSK-AES128-CCM8"), peer(4));
    assert!(ended_by(&mut server, &material).is_empty());
    let only_other = DtlsMaterial {
        ca_pem: other.cert_pem().into(),
        ..material
    };
    let mut ended = ended_by(&mut server, &only_other);
    ended.sort();
    let mut expected = [first, second];
    expected.sort();
    assert_eq!(ended, expected);
    assert!(server.talks(&mut stays, kept, peer(3)));
    assert!(server.talks(&mut keyed, by_key, peer(4)));
    assert!(!server.handshake(&device(&ca), peer(5)).is_connected());
}

#[test]
fn a_raised_level_ends_sessions_without_a_certificate() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let of = |verify| DtlsMaterial {
        psks: material().psks,
        ..with_clients(&own, &ca, verify)
    };
    for before in [Verify::None, Verify::Optional] {
        let mut server = Server::new(&of(before), settings());
        let (_, nameless) = server.establish(&ClientConfig::certificate(ECDSA, &ca.certificate), peer(1));
        let (mut keyed, by_key) = server.establish(&psk_client("PSK-AES128-CCM8"), peer(2));
        assert!(ended_by(&mut server, &of(Verify::Optional)).is_empty());
        assert_eq!(ended_by(&mut server, &of(Verify::Required)), [nameless]);
        assert!(server.talks(&mut keyed, by_key, peer(2)));
    }
}

#[test]
fn a_revoked_intermediate_ends_the_sessions_under_it() {
    let ca = Recipe {
        profile: ROOT,
        ..Recipe::server("ca")
    }
    .make(None);
    let below = |name| {
        Recipe {
            profile: AUTHORITY,
            ..Recipe::server(name)
        }
        .make(Some(&ca))
    };
    let (bad, good) = (below("bad"), below("good"));
    let own = Recipe::server("server").make(Some(&ca));
    let lists = |revoked: &[&Certified]| {
        let lists = [
            revocation_list(&ca, revoked),
            revocation_list(&bad, &[]),
            revocation_list(&good, &[]),
        ];
        Some(lists.iter().flat_map(|list| list.to_pem().unwrap()).collect())
    };
    let material = DtlsMaterial {
        ca_pem: all(&[&ca, &bad, &good]),
        crl_pem: lists(&[]),
        ..with_clients(&own, &ca, Verify::Required)
    };
    let mut server = Server::new(&material, settings());
    let device = |issuer| client_with(ECDSA, &ca, &Recipe::client("device").make(Some(issuer)));
    let (_, lost) = server.establish(&device(&bad), peer(1));
    let (mut stays, kept) = server.establish(&device(&good), peer(2));
    let revoked = DtlsMaterial {
        crl_pem: lists(&[&bad]),
        ..material
    };
    assert_eq!(ended_by(&mut server, &revoked), [lost]);
    assert!(server.talks(&mut stays, kept, peer(2)));
}

#[test]
fn an_intermediate_that_is_taken_out_ends_the_sessions_of_devices_that_do_not_show_it() {
    let (root, below, own, showing) = below_a_root();
    let device = client_with(ECDSA, &root, &Recipe::client("device").make(Some(&below)));
    let of = |anchors: &[&Certified]| DtlsMaterial {
        ca_pem: all(anchors),
        ..with_clients(&own, &root, Verify::Required)
    };
    let mut server = Server::new(&of(&[&root, &below]), settings());
    let (_, lost) = server.establish(&device, peer(1));
    let (mut stays, kept) = server.establish(&showing, peer(2));
    assert_eq!(ended_by(&mut server, &of(&[&root])), [lost]);
    assert!(server.talks(&mut stays, kept, peer(2)));
    assert!(!server.handshake(&device, peer(3)).is_connected());
    assert!(server.handshake(&showing, peer(4)).is_connected());
}

#[test]
fn a_resumed_session_stands_on_the_authority_of_its_first_handshake() {
    let (ca, other) = (authority("ca"), authority("other"));
    let own = Recipe::server("server").make(Some(&ca));
    let material = DtlsMaterial {
        ca_pem: all(&[&ca, &other]),
        ..with_clients(&own, &ca, Verify::Required)
    };
    let mut server = Server::new(&material, settings());
    // One that never saw the first handshake, as after a restart.
    let mut elsewhere = Server::new(&material, settings());
    let config = client_with(ECDSA, &ca, &Recipe::client("device").make(Some(&ca)));
    let (mut client, _) = server.establish(&config, peer(1));
    let config = ClientConfig {
        session: Some(client.session()),
        ..config
    };
    for server in [&mut server, &mut elsewhere] {
        let (mut resumed, session) = server.establish(&config, peer(2));
        assert!(resumed.is_resumed());
        assert!(server.talks(&mut resumed, session, peer(2)));
        let without = DtlsMaterial {
            ca_pem: all(&[&other]),
            ..material.clone()
        };
        assert!(ended_by(server, &without).contains(&session));
        resumed.session();
    }
}

#[test]
fn a_handshake_in_flight_is_judged_by_what_is_in_force_when_it_ends() {
    let (ca, other) = (authority("ca"), authority("other"));
    let own = Recipe::server("server").make(Some(&ca));
    let device = client_with(ECDSA, &ca, &Recipe::client("device").make(Some(&ca)));
    let nobody = ClientConfig::certificate(ECDSA, &ca.certificate);
    let only_other = DtlsMaterial {
        ca_pem: all(&[&other]),
        ..with_clients(&own, &ca, Verify::Required)
    };
    for (config, before) in [(&device, Verify::Required), (&nobody, Verify::None)] {
        let mut server = Server::new(&with_clients(&own, &ca, before), settings());
        let (mut client, _, second) = two_hellos(&mut server, config, 1);
        for (_, answer) in server.input(peer(1), &second) {
            client.handle(&answer);
        }
        assert!(ended_by(&mut server, &only_other).is_empty());
        server.exchange(&mut client, peer(1));
        assert_eq!(server.listener.len(), 0);
        assert_eq!(server.listener.half_open(), 0);
    }
}

#[test]
fn a_certificate_that_ran_out_ends_its_session_at_the_next_reload() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let short = Recipe {
        to: from_now(2),
        ..Recipe::client("short")
    }
    .make(Some(&ca));
    let material = with_clients(&own, &ca, Verify::Required);
    let mut server = Server::new(&material, settings());
    let (_, session) = server.establish(&client_with(ECDSA, &ca, &short), peer(1));
    assert!(ended_by(&mut server, &material).is_empty());
    std::thread::sleep(Duration::from_millis(3100));
    assert_eq!(ended_by(&mut server, &material), [session]);
}

#[test]
fn a_chain_longer_than_verify_depth_is_refused_and_ends_at_a_reload() {
    let root = Recipe {
        profile: ROOT,
        ..Recipe::server("root")
    }
    .make(None);
    let below = Recipe {
        profile: AUTHORITY,
        ..Recipe::server("below")
    }
    .make(Some(&root));
    let own = Recipe::server("server").make(Some(&root));
    let deep = client_with(ECDSA, &root, &Recipe::client("deep").make(Some(&below)));
    let flat = client_with(ECDSA, &root, &Recipe::client("flat").make(Some(&root)));
    let of = |verify_depth| DtlsMaterial {
        ca_pem: all(&[&root, &below]),
        verify_depth,
        ..with_clients(&own, &root, Verify::Required)
    };
    let mut server = Server::new(&of(1), settings());
    let (_, lost) = server.establish(&deep, peer(1));
    let (mut stays, kept) = server.establish(&flat, peer(2));
    assert_eq!(ended_by(&mut server, &of(0)), [lost]);
    assert!(server.talks(&mut stays, kept, peer(2)));
    assert!(!server.handshake(&deep, peer(3)).is_connected());
}
