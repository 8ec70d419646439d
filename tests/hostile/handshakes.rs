//! Handshakes: wrong keys, floods of hellos, those that stop half-way.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use crate::Noise;
use crate::support::client::{PATIENCE, receive, receive_within};
use crate::support::gateway::psk_options;
use crate::support::pki::Pki;
use crate::support::{Client, Config, Gateway, Kind, dtls, ms, psk_of, wait_until};

/// Where the random of a ClientHello begins: behind the headers of record and message, and the version.
const RANDOM: usize = 13 + 12 + 2;
const SESSION_ID: usize = RANDOM + 32;

/// A ClientHello without cookie, as OpenSSL sends it for a device with a key.
pub fn client_hello() -> Vec<u8> {
    hello_of(&psk_options("dev1"))
}

fn hello_of(options: &dtls::Options) -> Vec<u8> {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = options.clone().patience(ms(1));
    assert!(dtls::connect(nobody.local_addr().unwrap(), &options).is_err());
    let mut buf = vec![0; 2000];
    let n = receive(&nobody, &mut buf).unwrap();
    buf.truncate(n);
    assert_eq!(
        (buf[0], buf[13], buf[SESSION_ID], buf[SESSION_ID + 1]),
        (22, 1, 0, 0)
    );
    buf
}

/// The hello with another random.
fn another(hello: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut hello = hello.to_vec();
    hello[RANDOM..SESSION_ID].copy_from_slice(&noise.bytes(32));
    hello
}

/// The hello with the cookie of a HelloVerifyRequest (RFC 6347, 4.2.1).
fn with_cookie(hello: &[u8], verify_request: &[u8]) -> Vec<u8> {
    let cookie = &verify_request[13 + 12 + 3..];
    assert_eq!(usize::from(verify_request[13 + 12 + 2]), cookie.len());
    let mut out = hello.to_vec();
    out[SESSION_ID + 1] = u8::try_from(cookie.len()).unwrap();
    out.splice(SESSION_ID + 2..SESSION_ID + 2, cookie.iter().copied());
    let record = u16::try_from(out.len() - 13).unwrap();
    let message = u32::from(record) - 12;
    out[10] = 1;
    out[11..13].copy_from_slice(&record.to_be_bytes());
    out[14..17].copy_from_slice(&message.to_be_bytes()[1..]);
    out[18] = 1;
    out[22..25].copy_from_slice(&message.to_be_bytes()[1..]);
    out
}

fn socket_to(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A handshake that goes as far as making the gateway send its first flight, and then stops.
fn abandoned(to: SocketAddr, hello: &[u8]) -> UdpSocket {
    let socket = socket_to(to);
    let mut buf = [0; 2000];
    socket.send(hello).unwrap();
    let n = receive(&socket, &mut buf).expect("HelloVerifyRequest");
    socket.send(&with_cookie(hello, &buf[..n])).unwrap();
    socket
}

#[test]
fn a_wrong_key_and_an_unknown_identity_look_the_same_and_disturb_nobody() {
    let gateway = Gateway::start(Config::new().dtls("handshake_timeout = \"2s\""));
    let mut live = gateway.client(Kind::Dtls);
    let attempt = |identity: &str, key: &[u8]| {
        let options = dtls::Options::psk(identity, key).patience(ms(1500));
        dtls::connect(gateway.dtls_addr(), &options)
            .err()
            .expect("must fail")
    };
    let wrong_key = attempt("dev1", b"another-key-1234");
    let unknown = attempt("nobody", psk_of("dev1").as_bytes());
    assert_eq!(wrong_key, unknown, "from outside");
    for identity in [
        "",
        "dev",
        "dev11",
        "DEV1",
        "dev1 ",
        "dev1:",
        "\u{fc}",
        "../../etc/passwd",
    ] {
        attempt(identity, psk_of("dev1").as_bytes());
        live.publish("ps/a", "x");
    }
    wait_until("the half-open ones are forgotten", || {
        gateway.metric("dtls_half_open", &[]) == 0.0
    });
    let count = |result: &str| gateway.metric("dtls_handshakes_total", &[&format!("result=\"{result}\"")]);
    assert!(count("unknown_identity") >= 1.0, "{}", gateway.metrics());
    assert!(count("wrong_key") >= 1.0, "{}", gateway.metrics());
    gateway.assert_serves();
}

#[test]
fn an_endless_identity_is_no_identity() {
    let gateway = Gateway::start(Config::new().dtls("handshake_timeout = \"2s\""));
    let options = dtls::Options::psk(&"x".repeat(127), b"0123456789abcdef").patience(ms(1000));
    assert!(dtls::connect(gateway.dtls_addr(), &options).is_err());
    gateway.assert_serves();
}

#[test]
fn suites_that_nobody_should_use_are_refused() {
    let gateway = Gateway::start(Config::new().dtls("handshake_timeout = \"2s\""));
    for suite in ["PSK-AES128-CBC-SHA", "PSK-NULL-SHA256", "PSK-3DES-EDE-CBC-SHA"] {
        let options = psk_options("dev1").ciphers(suite).patience(ms(1000));
        let outcome = std::panic::catch_unwind(|| dtls::connect(gateway.dtls_addr(), &options).is_err());
        // OpenSSL's build may not know a suite any more, and then the client cannot even ask for it.
        assert!(outcome.unwrap_or(true), "{suite}");
    }
    gateway.assert_serves();
}

#[test]
fn twenty_thousand_hellos_without_cookie_leave_nothing_behind() {
    let gateway = Gateway::start(Config::new().set("log", "level = \"warn\""));
    gateway.assert_serves();
    let hello = client_hello();
    let mut noise = Noise(4);
    let sockets: Vec<UdpSocket> = (0..200).map(|_| socket_to(gateway.dtls_addr())).collect();
    let mut live = gateway.client(Kind::Dtls);
    let before = gateway.rss_kib();
    let mut buf = [0; 2000];
    for i in 0..20_000 {
        let socket = &sockets[i % sockets.len()];
        let _ = socket.send(&another(&hello, &mut noise));
        if i % 100 == 99 {
            if let Ok(n) = receive_within(socket, &mut buf, ms(2000)) {
                assert!(n <= hello.len(), "an answer larger than its question");
                assert_eq!((buf[0], buf[13]), (22, 3), "HelloVerifyRequest");
            }
            gateway.metric_becomes("dtls_half_open", &[], 0.0);
        }
        if i % 2_000 == 0 {
            live.publish("ps/a", "x");
        }
    }
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB more than before");
    gateway.assert_serves();
}

#[test]
fn hellos_from_a_live_sessions_address_leave_the_session_alone() {
    let gateway = Gateway::start(Config::new().set("log", "level = \"warn\""));
    let mut noise = Noise(5);
    let hello = client_hello();
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.client(Kind::Dtls)).collect();
    let observation = clients[0].observe("ps/a");
    let socket = clients[0].socket();
    for i in 0..200 {
        for _ in 0..5 {
            let _ = socket.send(&another(&hello, &mut noise));
        }
        let talker = i % clients.len();
        clients[talker].publish("ps/a", format!("{i}"));
        assert_eq!(clients[0].notification(&observation.token).text(), format!("{i}"));
    }
    gateway.metric_becomes("sessions", &["transport=\"dtls\""], 20.0);
    gateway.assert_serves();
}

#[test]
fn a_handshake_begun_at_a_live_sessions_address_leaves_the_session_alone() {
    let gateway = Gateway::start(Config::new().dtls("handshake_timeout = \"1s\""));
    let mut live = gateway.client(Kind::Dtls);
    let observation = live.observe("ps/a");
    let mut noise = Noise(6);
    let hello = another(&client_hello(), &mut noise);
    let socket = live.socket();
    // The forger would have to see the cookie; suppose that it does.
    socket.send(&hello).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 2000];
    let n = receive(&socket, &mut buf).expect("HelloVerifyRequest");
    socket.send(&with_cookie(&hello, &buf[..n])).unwrap();
    for i in 0..30 {
        live.publish("ps/a", format!("{i}"));
        assert_eq!(live.notification(&observation.token).text(), format!("{i}"));
        std::thread::sleep(ms(50));
    }
    wait_until("the pending handshake is forgotten", || {
        gateway.metric("dtls_half_open", &[]) == 0.0
    });
    live.publish("ps/a", "after");
    assert_eq!(live.notification(&observation.token).text(), "after");
    gateway.assert_serves();
}

#[test]
fn a_cookie_is_good_for_its_own_address_only() {
    let gateway = Gateway::start(Config::new());
    let hello = client_hello();
    let thief = socket_to(gateway.dtls_addr());
    let owner = socket_to(gateway.dtls_addr());
    let mut buf = [0; 2000];
    owner.send(&hello).unwrap();
    let n = receive(&owner, &mut buf).expect("HelloVerifyRequest");
    thief.send(&with_cookie(&hello, &buf[..n])).unwrap();
    let n = receive(&thief, &mut buf).expect("HelloVerifyRequest again");
    assert_eq!((buf[0], buf[13]), (22, 3), "{:02x?}", &buf[..n]);
    gateway.metric_becomes("dtls_half_open", &[], 0.0);
    gateway.assert_serves();
}

#[test]
fn handshakes_that_stop_half_way_are_capped_and_forgotten() {
    let config = Config::new().dtls("max_half_open = 16\nhandshake_timeout = \"1s\"");
    let gateway = Gateway::start(config);
    let mut noise = Noise(7);
    let hello = client_hello();
    let _sockets: Vec<UdpSocket> = (0..100)
        .map(|_| abandoned(gateway.dtls_addr(), &another(&hello, &mut noise)))
        .collect();
    let half_open = gateway.metric("dtls_half_open", &[]);
    // The cap is kept by each of the two workers.
    assert!((1.0..=32.0).contains(&half_open), "{half_open}");
    assert!(gateway.metric("limits_rejected_total", &["limit=\"max_half_open\""]) >= 1.0);
    gateway.assert_serves();
    wait_until("all are forgotten", || {
        gateway.metric("dtls_half_open", &[]) == 0.0
    });
}

#[test]
fn a_source_with_many_ports_has_no_more_handshakes_than_with_one() {
    let config = Config::new().set("limits", "handshakes_per_second = 5");
    let gateway = Gateway::start(config.dtls("max_half_open = 40"));
    let mut noise = Noise(8);
    let hello = client_hello();
    let from = |ip: &str| {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.connect(gateway.dtls_addr()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let began = Instant::now();
    for _ in 0..60 {
        let hello = another(&hello, &mut noise);
        let socket = from("127.0.0.2");
        let mut buf = [0; 2000];
        socket.send(&hello).unwrap();
        let n = receive(&socket, &mut buf).unwrap();
        socket.send(&with_cookie(&hello, &buf[..n])).unwrap();
    }
    gateway.metric_becomes("dtls_cookies_sent_total", &[], 60.0);
    let refused = || {
        let limits = ["limit=\"handshakes_per_second\"", "limit=\"max_half_open\""];
        limits
            .map(|limit| gateway.metric("limits_rejected_total", &[limit]))
            .iter()
            .sum::<f64>()
    };
    wait_until("the last of them was judged", || {
        refused() + gateway.metric("dtls_half_open", &[]) >= 60.0
    });
    // The free half of the places, then ten at once and five a second, whichever of the two workers a port reaches; and one for
    // the rounding of both.
    let granted = 60.0 - refused();
    let allowed = 31.0 + 5.0 * began.elapsed().as_secs_f64();
    assert!(granted <= allowed, "{granted} of {allowed}");
    let options = psk_options("dev1").local("127.0.0.3:0".parse().unwrap());
    Client::dtls(gateway.dtls_addr(), &options).publish("ps/a", "another source is not limited");
    std::thread::sleep(ms(1000));
    gateway.assert_serves();
}

#[test]
fn a_fragmented_hello_with_absurd_lengths_allocates_nothing() {
    let gateway = Gateway::start(Config::new().set("log", "level = \"warn\""));
    gateway.assert_serves();
    let before = gateway.rss_kib();
    let hello = client_hello();
    let socket = socket_to(gateway.dtls_addr());
    for length in [0xff_ffff_u32, 0x10_0000, 0x1_0000, 20_000, 1, 0] {
        for offset in [0_u32, 1, 1000, 0xff_ff00] {
            let mut bytes = hello.clone();
            bytes[14..17].copy_from_slice(&length.to_be_bytes()[1..]);
            bytes[19..22].copy_from_slice(&offset.to_be_bytes()[1..]);
            for _ in 0..20 {
                let _ = socket.send(&bytes);
            }
        }
    }
    gateway.assert_serves();
    gateway.metric_becomes("dtls_half_open", &[], 0.0);
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more than before");
}

#[test]
fn strangers_with_suites_of_cbc_take_no_place_of_devices() {
    let pki = Pki::new();
    let config = pki.install(Config::new().set("node", "workers = 1"));
    let limits = "legacy_cbc = true\nlegacy_max_sessions = 6\nmax_half_open = 32\nhandshake_timeout = \"2s\"";
    let gateway = Gateway::start(config.dtls(limits));
    let cbc = || {
        let options = psk_options("dev2").ciphers("PSK-AES128-CBC-SHA256");
        Client::dtls(gateway.dtls_addr(), &options)
    };
    let mut modern = gateway.client(Kind::Dtls);
    let mut old: Vec<Client> = (0..3).map(|_| cbc()).collect();
    let mut observers: Vec<_> = (0..3).map(|_| gateway.client(Kind::Dtls)).collect();
    let seen: Vec<_> = observers.iter_mut().map(|peer| peer.observe("ps/a")).collect();

    let stranger = dtls::Options::certificate(None, &pki.ca.certificate)
        .ciphers("ECDHE-ECDSA-AES128-SHA256")
        .patience(ms(1500));
    let hello = hello_of(&stranger);
    let mut noise = Noise(9);
    let mut strangers = vec![];
    let mut abandoned_ones = vec![];
    for round in 0..10 {
        for _ in 0..4 {
            strangers.push(dtls::connect(gateway.dtls_addr(), &stranger));
            abandoned_ones.push(abandoned(gateway.dtls_addr(), &another(&hello, &mut noise)));
        }
        for device in &mut old {
            device.publish("ps/old", format!("{round}"));
        }
        modern.publish("ps/a", format!("{round}"));
        for (observer, seen) in observers.iter_mut().zip(&seen) {
            assert_eq!(observer.notification(&seen.token).text(), format!("{round}"));
        }
    }
    let sessions = gateway.metric("dtls_legacy_sessions", &[]);
    assert!((3.0..=6.0).contains(&sessions), "{sessions}");
    assert!(gateway.metric("limits_rejected_total", &["limit=\"legacy_max_sessions\""]) >= 1.0);
    // Devices are let in where strangers sat.
    old.extend((0..3).map(|_| cbc()));
    for device in &mut old {
        device.publish("ps/old", "after");
        assert_eq!(device.ended(), None);
    }
    gateway.assert_serves();
}
