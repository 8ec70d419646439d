//! The connection itself: TLS, credentials, versions, dead lines, status.

use std::path::Path;
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name, X509Ref};
use portcullis::broker::{BrokerAddress, Protocol, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;
use crate::outage::FOR_EVER;
use crate::proxy::Proxy;

fn key() -> PKey<Private> {
    let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap()
}

fn certificate(name: &str, key: &PKey<Private>, issuer: Option<(&X509Ref, &PKey<Private>)>) -> X509 {
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(name.len() as u32).unwrap();
    builder
        .set_serial_number(&serial.to_asn1_integer().unwrap())
        .unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder
        .set_issuer_name(issuer.map_or(&subject, |(certificate, _)| certificate.subject_name()))
        .unwrap();
    builder.set_pubkey(key).unwrap();
    builder
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::days_from_now(2).unwrap())
        .unwrap();
    if issuer.is_none() {
        builder
            .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
            .unwrap();
    } else {
        let context = builder.x509v3_context(None, None);
        let names = SubjectAlternativeName::new()
            .dns("localhost")
            .ip("127.0.0.1")
            .build(&context)
            .unwrap();
        builder.append_extension(names).unwrap();
    }
    builder
        .sign(issuer.map_or(key, |(_, key)| key), MessageDigest::sha256())
        .unwrap();
    builder.build()
}

pub fn write_pki(directory: &Path) {
    let (ca_key, server_key, client_key) = (key(), key(), key());
    let ca = certificate("test ca", &ca_key, None);
    let server = certificate("localhost", &server_key, Some((&ca, &ca_key)));
    let client = certificate("gateway-client", &client_key, Some((&ca, &ca_key)));
    let other = certificate("other ca", &ca_key, None);
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(directory.join(name), bytes).unwrap();
    write("ca.pem", ca.to_pem().unwrap());
    write("other.pem", other.to_pem().unwrap());
    write("server.pem", server.to_pem().unwrap());
    write("server.key", server_key.private_key_to_pem_pkcs8().unwrap());
    write("client.pem", client.to_pem().unwrap());
    // Not PKCS#8, as `openssl ecparam -genkey` writes it.
    write(
        "client.key",
        client_key.ec_key().unwrap().private_key_to_pem().unwrap(),
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
        assert!(
            mosquitto.log().contains("u'gateway-client'"),
            "{}",
            mosquitto.log()
        );

        settings.ca_file = file("other.pem");
        let gateway = Gateway::start(settings.clone(), None, 1);
        gateway
            .until(|snapshot| snapshot.connects.contains(&("unreachable", 1)))
            .await;
        let status = gateway.runtime.status().to_string();
        assert!(status.contains("certificate verify failed"), "{status}");

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
