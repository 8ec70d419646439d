//! The connection itself: TLS, credentials, versions, dead lines, status.

use std::path::Path;
use std::time::Duration;

use portcullis::broker::{BrokerAddress, Protocol, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;
use crate::outage::FOR_EVER;
use crate::proxy::Proxy;
use crate::support::certs::{Recipe, authority};
use crate::support::wait_until;

pub fn write_pki(directory: &Path) {
    let ca = authority("test ca");
    let server = Recipe::server("localhost").make(Some(&ca));
    let client = Recipe::client("gateway-client").make(Some(&ca));
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(directory.join(name), bytes).unwrap();
    write("ca.pem", ca.cert_pem());
    write("other.pem", authority("other ca").cert_pem());
    write("server.pem", server.cert_pem());
    write("server.key", server.key_pem());
    write("client.pem", client.cert_pem());
    // Not PKCS#8, as `openssl ecparam -genkey` writes it.
    write(
        "client.key",
        client.key.ec_key().unwrap().private_key_to_pem().unwrap(),
    );
}

const TLS: &str = "allow_anonymous true\nrequire_certificate true\nuse_identity_as_username true\ncafile DIR/ca.pem\n\
    certfile DIR/server.pem\nkeyfile DIR/server.key";

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_client_certificate() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::prepared(TLS, write_pki);
        let file = |name: &str| Some(mosquitto.directory.path().join(name));
        let mut settings = mqtt(mosquitto.port, protocol);
        settings.address = BrokerAddress {
            tls: true,
            host: "localhost".into(),
            port: mosquitto.port,
        };
        settings.ca_file = file("ca.pem");
        settings.cert_file = file("client.pem");
        settings.key_file = file("client.key");
        let mut gateway = Gateway::connected(settings.clone(), None, 1).await;
        gateway.workers[0].publish(message("t", "x", 1)).await.unwrap();
        wait_until("mosquitto's log of it", || {
            mosquitto.log().contains("u'gateway-client'")
        });

        settings.ca_file = file("other.pem");
        let gateway = Gateway::start(settings.clone(), None, 1);
        gateway
            .until(|snapshot| snapshot.connects.contains(&("unreachable", 1)))
            .await;
        let status = gateway.runtime.status().to_string();
        assert!(status.contains("not trusted by broker.ca_file"), "{status}");

        settings.ca_file = file("missing.pem");
        let error = start(crate::harness::settings(settings, None), 1).unwrap_err();
        assert!(error.to_string().contains("missing.pem"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn user_name_and_password_file() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::prepared("allow_anonymous false\npassword_file DIR/users", |directory| {
            let made = std::process::Command::new("mosquitto_passwd")
                .args([
                    "-b",
                    "-c",
                    directory.join("users").to_str().unwrap(),
                    "gw",
                    "s3cret=&x",
                ])
                .status()
                .unwrap();
            assert!(made.success());
        });
        let password = mosquitto.directory.path().join("password");
        std::fs::write(&password, "s3cret=&x\n").unwrap();
        let mut settings = mqtt(mosquitto.port, protocol);
        settings.username = "gw".into();
        settings.password_file = Some(password.clone());
        let gateway = Gateway::connected(settings.clone(), None, 1).await;
        gateway.runtime.shutdown().await;
        std::fs::write(&password, "wrong").unwrap();
        let gateway = Gateway::start(settings, None, 1);
        gateway
            .until(|snapshot| {
                snapshot
                    .connects
                    .iter()
                    .any(|(result, n)| *result == "refused" && *n > 0)
            })
            .await;
        // Put right, it connects without a restart.
        std::fs::write(&password, "s3cret=&x\n").unwrap();
        gateway.until_connected(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_mqtt_5_is_answered_with_the_setting_that_helps() {
    // Once as 3.1.1 brokers say it, once without a word.
    for answer in [&[0x20, 2, 0, 1][..], &[0x20, 3, 0, 0x84, 0], &[]] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                drop(stream.read(&mut buffer).await);
                drop(stream.write_all(answer).await);
            }
        });
        let gateway = Gateway::start(mqtt(port, Protocol::V5), None, 1);
        gateway
            .until(|snapshot| {
                snapshot
                    .connects
                    .iter()
                    .any(|(result, n)| *result == "protocol" && *n > 0)
            })
            .await;
        let status = gateway.runtime.status().to_string();
        assert!(status.contains("broker.protocol = 4"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_reading_is_noticed() {
    let state = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::start();
    let mut settings = mqtt(mosquitto.port, Protocol::V5);
    settings.ack_patience = FOR_EVER;
    let mut gateway = Gateway::connected(settings, Some(state.path()), 1).await;
    mosquitto.signal("STOP");
    // Enough to fill every buffer on the way.
    let payload = "x".repeat(1 << 20);
    for _ in 0..6 {
        gateway.workers[0].send(message("t", &payload, 1));
    }
    gateway.until(|snapshot| !snapshot.connected).await;
    mosquitto.signal("CONT");
    gateway
        .until(|snapshot| snapshot.acknowledged == 6 && snapshot.spool_messages == 0)
        .await;
    gateway.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_topic_follows_the_gateway() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let proxy = Proxy::start(mosquitto.port).await;
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.subscribe("$portcullis/node/status", 1).await;
        let gateway = Gateway::connected(mqtt(proxy.port, protocol), None, 1).await;
        let online = r#"{"node":"node","status":"online"}"#;
        let offline = r#"{"node":"node","status":"offline"}"#;
        let first = peer.next().await;
        assert_eq!((payload(&first).as_str(), first.retain), (online, true));
        proxy.down();
        assert_eq!(payload(&peer.next().await), offline, "the will");
        proxy.up();
        assert_eq!(payload(&peer.next().await), online);
        gateway.runtime.shutdown().await;
        assert_eq!(payload(&peer.next().await), offline, "said goodbye");
        assert_eq!(peer.next_within(Duration::from_millis(300)).await, None);
        let mut late = Peer::connect(mosquitto.port).await;
        late.subscribe("$portcullis/node/status", 1).await;
        assert_eq!(payload(&late.next().await), offline, "retained");
    }
}
