//! From node to node: who does not have the key of the group is asked nothing.

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use openssl::ssl::{SslAcceptor, SslMethod};

use super::configuration::{add, added, is_let_in};
use super::engine::Redis;
use super::nodes;
use super::support::certs::Recipe;
use super::support::client::PATIENCE;
use super::support::{Config, wait_until};

#[test]
fn who_shows_a_certificate_at_the_address_of_a_dead_node_gets_no_byte_of_a_request() {
    let redis = Redis::start();
    let config = || Config::new().set("group", "lease = \"1m\"");
    let mut nodes = ["a", "b"].map(|name| nodes::start(&redis, name, config()));
    for node in &nodes {
        node.metric_becomes("group_config_applied_version", &[], 1.0);
    }
    let id = nodes[1].id();
    nodes[1].gateway.kill();
    let stranger = Recipe::server("b").make(None);
    let listener = TcpListener::bind(("127.0.0.1", nodes[1].port.number)).unwrap();
    let mut tls = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).unwrap();
    tls.set_certificate(&stranger.certificate).unwrap();
    tls.set_private_key(&stranger.key).unwrap();
    let tls = tls.build();
    let (asked, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (was_asked, was_heard) = (Arc::clone(&asked), Arc::clone(&heard));
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            if let Ok(mut stream) = tls.accept(stream) {
                let mut bytes = [0; 4096];
                let got = stream.read(&mut bytes).unwrap_or_default();
                was_heard.fetch_add(got, Ordering::Relaxed);
            }
            was_asked.store(true, Ordering::Relaxed);
        }
    });
    let (status, body) = add(&nodes[0], "lamp-71");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(status == 409 && message.contains("node b ("), "{status} {body}");
    assert!(message.contains("group.key"), "{message}");
    wait_until("the stranger was asked", || asked.load(Ordering::Relaxed));
    assert_eq!(heard.load(Ordering::Relaxed), 0);
    // The others go on without the one that is gone.
    let third = nodes::start(&redis, "c", config());
    third.metric_becomes("group_config_applied_version", &[], 1.0);
    redis.say(&format!(
        "DEL portcullis:{{group}}:node:{id}
"
    ));
    added(&nodes[0], "lamp-72");
    is_let_in(&third, "lamp-72");
}
