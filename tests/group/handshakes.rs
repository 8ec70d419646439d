//! Handshakes that one node began and another ends, and sessions that one made and another resumes.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use openssl::ssl::SslSession;
use portcullis::group::GroupKey;

use super::dtls_client::{ClientConfig, DtlsClient};
use super::engine::Redis;
use super::nodes::{self, KEY, Node};
use super::support::client::{PATIENCE, any_loopback};
use super::support::{Config, Gateway, psk_of, wait_until};

/// Where the keys of session tickets stand in the engine, and what they are sealed as.
const TICKETS: (&str, &str) = ("portcullis:{group}:tickets", "tickets");

const DAY: Duration = Duration::from_secs(24 * 3600);

fn ephemeral() -> ClientConfig {
    ClientConfig::psk("ECDHE-PSK-CHACHA20-POLY1305", "dev1", psk_of("dev1").as_bytes())
}

/// Shakes hands with `servers`: each flight goes to the next of them, and the last has the rest.
fn shaken(config: &ClientConfig, servers: &[SocketAddr]) -> DtlsClient {
    let mut client = DtlsClient::new(config);
    let socket = UdpSocket::bind(any_loopback(servers[0])).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let (mut at, mut buffer) = (0, [0; 4096]);
    let end = Instant::now() + PATIENCE;
    client.connect();
    while !client.is_connected() {
        assert!(Instant::now() < end, "{:?}", client.failure());
        for datagram in client.take() {
            socket.send_to(&datagram, servers[at]).unwrap();
        }
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if from == servers[at] => {
                at = (at + 1).min(servers.len() - 1);
                client.handle(&buffer[..length]);
            }
            // One that was asked twice answers twice.
            Ok(_) => {}
            Err(_) => client.connect(),
        }
    }
    client
}

/// A session of `node`, for its ticket: written down, as OpenSSL gives one up whose connection ended without a goodbye.
fn session(node: &Gateway) -> Vec<u8> {
    let mut client = shaken(&ephemeral(), &[node.dtls_addr()]);
    client.session().to_der().unwrap()
}

fn resumes(session: &[u8], node: &Gateway) -> bool {
    let config = ClientConfig {
        session: Some(SslSession::from_der(session).unwrap()),
        ..ephemeral()
    };
    shaken(&config, &[node.dtls_addr()]).is_resumed()
}

/// Waits until what `from` gives out is good at `to`: keys come into force within the second.
#[track_caller]
fn carried(from: &Gateway, to: &Gateway) -> Vec<u8> {
    let mut carried = None;
    wait_until("a session is resumed at the other node", || {
        let session = session(from);
        let resumed = resumes(&session, to);
        carried = Some(session);
        resumed
    });
    carried.unwrap()
}

/// Waits until tickets of `node` are made with keys that begin with `byte`: their first 16 name them in each ticket.
#[track_caller]
fn uses(node: &Gateway, byte: u8) {
    wait_until("the keys are in force", || {
        session(node).windows(16).any(|part| part == [byte; 16])
    });
}

fn keys(node: &Node, result: &str) -> f64 {
    node.metric("group_ticket_keys_total", &[&format!("result={result:?}")])
}

fn key() -> GroupKey {
    GroupKey::parse(KEY.as_bytes()).unwrap()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Keys as a node seals them that drew them then.
fn sealed(drawn: Duration, keys: [u8; 80]) -> Vec<u8> {
    let drawn = u64::try_from(drawn.as_millis()).unwrap().to_be_bytes();
    key().seal(TICKETS.1, &[&drawn[..], &keys].concat()).unwrap()
}

/// The keys that stand in the engine, with their date; nothing where no node sealed them.
fn opened(redis: &Redis) -> Option<Vec<u8>> {
    let opened = key().open(TICKETS.1, &redis.read(TICKETS.0)).ok()?;
    Some(opened.to_vec())
}

#[test]
fn a_hello_comes_back_to_another_node_than_the_one_that_asked_for_its_cookie() {
    let redis = Redis::start();
    let nodes = nodes::group(&redis, 2);
    let [a, b] = [nodes[0].dtls_addr(), nodes[1].dtls_addr()];
    shaken(&ephemeral(), &[a, b]);
    assert!(nodes[0].metric("dtls_cookies_sent_total", &[]) >= 1.0);
    assert_eq!(nodes[1].metric("dtls_cookie_failures_total", &[]), 0.0);
    let ok = ["result=\"ok\""];
    nodes[1].metric_becomes("dtls_handshakes_total", &ok, 1.0);
    assert_eq!(nodes[0].metric("dtls_handshakes_total", &ok), 0.0);
    // Without the engine too.
    drop(redis);
    shaken(&ephemeral(), &[b, a]);
    nodes[0].metric_becomes("dtls_handshakes_total", &ok, 1.0);
    assert_eq!(nodes[0].metric("dtls_cookie_failures_total", &[]), 0.0);
    // A gateway of its own has cookies of its own.
    let alone = Gateway::start(Config::new());
    shaken(&ephemeral(), &[a, alone.dtls_addr()]);
    assert!(alone.metric("dtls_cookie_failures_total", &[]) >= 1.0);
    for node in &nodes {
        node.assert_serves();
    }
}

#[test]
fn a_session_is_resumed_at_any_node_also_when_the_one_that_made_it_is_dead() {
    let redis = Redis::start();
    let mut nodes = nodes::group(&redis, 2);
    let session = carried(&nodes[0], &nodes[1]);
    nodes[0].gateway.kill();
    assert!(resumes(&session, &nodes[1]));
    // One that joins later takes them too, and one of another key does not get them.
    let third = nodes::start(&redis, "c", Config::new());
    wait_until("the third has them", || resumes(&session, &third));
    assert_eq!(keys(&third, "taken"), 1.0);
    // The engine holds nothing that says what they are.
    let there = redis.read(TICKETS.0);
    let plain = opened(&redis).unwrap();
    assert!(
        !there
            .windows(16)
            .any(|part| plain.windows(16).any(|of| of == part))
    );
    // Without the engine all go on, and one that is started begins with what it had.
    drop(redis);
    third.metric_becomes("group_connected", &[], 0.0);
    nodes[0].gateway.launch();
    for node in [&nodes[0], &nodes[1], &third] {
        assert!(resumes(&session, node));
    }
    carried(&nodes[0], &third);
    for node in [&nodes[0], &nodes[1], &third] {
        node.assert_serves();
    }
}

#[test]
fn keys_that_had_their_day_are_drawn_anew_by_one_node_and_reach_the_others() {
    let redis = Redis::start();
    let old = sealed(now() + Duration::from_secs(8) - DAY, [7; 80]);
    redis.put(TICKETS.0, &old);
    let nodes = nodes::group(&redis, 2);
    let drawn = || keys(&nodes[0], "drawn") + keys(&nodes[1], "drawn");
    wait_until("they are drawn anew", || {
        opened(&redis).is_some_and(|opened| opened[8..] != [7; 80])
    });
    carried(&nodes[0], &nodes[1]);
    carried(&nodes[1], &nodes[0]);
    assert!(drawn() <= 1.0, "each node drew its own");
    // What another node drew reaches both.
    redis.put(TICKETS.0, &sealed(now(), [9; 80]));
    for node in &nodes {
        uses(node, 9);
        assert!(keys(node, "taken") >= 1.0);
        node.assert_serves();
    }
    assert_eq!(opened(&redis).unwrap()[8..], [9; 80]);
}

#[test]
fn an_engine_that_was_put_back_or_emptied_or_written_to_brings_no_other_keys_into_use() {
    let redis = Redis::start();
    let nodes = nodes::group(&redis, 2);
    carried(&nodes[0], &nodes[1]);
    let before = redis.read(TICKETS.0);
    redis.put(TICKETS.0, &sealed(now(), [9; 80]));
    for node in &nodes {
        uses(node, 9);
    }
    let session = session(&nodes[0]);
    let sum = |result: &str| nodes.iter().map(|node| keys(node, result)).sum::<f64>();
    let damaged: Vec<u8> = before.iter().map(|byte| byte ^ 1).collect();
    let ahead = sealed(now() + Duration::from_secs(7_200), [3; 80]);
    for (content, result) in [
        (before, "rolled_back"),
        (damaged, "not_authentic"),
        (vec![b'x'; 2_000_000], "not_authentic"),
        (ahead, "ahead"),
    ] {
        let counted = sum(result);
        redis.put(TICKETS.0, &content);
        wait_until("it is refused", || sum(result) > counted);
        wait_until("those in use are there again", || {
            opened(&redis).is_some_and(|opened| opened[8..] == [9; 80])
        });
        for node in &nodes {
            assert!(resumes(&session, node), "{result}");
        }
    }
    let counted = sum("not_authentic");
    redis.say(&format!("DEL {key}\nRPUSH {key} x\n", key = TICKETS.0));
    wait_until("a list is refused", || sum("not_authentic") > counted);
    wait_until("those in use are there again", || {
        opened(&redis).is_some_and(|opened| opened[8..] == [9; 80])
    });
    redis.say("FLUSHALL\n");
    wait_until("the engine has them again", || opened(&redis).is_some());
    for node in &nodes {
        node.metric_becomes("group_nodes", &[], 2.0);
        assert!(resumes(&session, node));
        node.assert_serves();
    }
    assert!(sum("given_back") >= 1.0);
}
