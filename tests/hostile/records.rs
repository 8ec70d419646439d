//! Records of a live session: replayed, cut, flipped, forged.

use crate::Noise;
use crate::support::gateway::psk_options;
use crate::support::{Client, Config, Gateway, Kind, ms};

/// A gateway, a session of `dev1`, and an observer of `ps/a` on another transport.
fn scene() -> (Gateway, Client, Client, Vec<u8>) {
    let gateway = Gateway::start(Config::new());
    let mut observer = gateway.client(Kind::Udp);
    let observation = observer.observe("ps/a");
    // With CCM_8's short tags the gateway gives the keys up after 128 forgeries (`tests/dtls` holds it to that); a suite with
    // long tags bears any number.
    let options = psk_options("dev1").ciphers("PSK-AES128-GCM-SHA256");
    let client = Client::dtls(gateway.dtls_addr(), &options);
    (gateway, client, observer, observation.token)
}

/// Publishes, and hands back the record that did it.
fn published(client: &mut Client, observer: &mut Client, token: &[u8], payload: &str) -> Vec<u8> {
    client.publish("ps/a", payload);
    let record = client.sent().last().unwrap().clone();
    assert_eq!(record[0], 23, "a record of application data");
    assert_eq!(observer.notification(token).text(), payload);
    record
}

/// The record with a sequence number that was not used yet.
fn unused(mut record: Vec<u8>) -> Vec<u8> {
    record[5 + 4] += 1;
    record
}

#[test]
fn replayed_records_do_nothing() {
    let (gateway, mut client, mut observer, token) = scene();
    let records: Vec<Vec<u8>> = (0..20)
        .map(|i| published(&mut client, &mut observer, &token, &format!("{i}")))
        .collect();
    let socket = client.socket();
    for record in records.iter().chain(&records) {
        socket.send(record).unwrap();
    }
    // From another address they belong to nobody.
    let stranger = gateway.client(Kind::Udp).socket();
    stranger.connect(gateway.dtls_addr()).unwrap();
    for record in &records {
        stranger.send(record).unwrap();
    }
    observer.no_notification(&token, ms(150));
    gateway.metric_becomes("coap_duplicates_total", &[], 0.0);
    assert!(
        gateway.metric("dtls_records_dropped_total", &["reason=\"replay\""]) >= 40.0,
        "{}",
        gateway.metrics()
    );
    published(&mut client, &mut observer, &token, "after");
    gateway.assert_serves();
}

#[test]
fn truncated_and_flipped_records_do_nothing() {
    let (gateway, mut client, mut observer, token) = scene();
    let record = unused(published(&mut client, &mut observer, &token, "template"));
    let socket = client.socket();
    for length in 1..record.len() {
        let _ = socket.send(&record[..length]);
        let mut shorter = record[..length].to_vec();
        if length > 13 {
            let body = u16::try_from(length - 13).unwrap();
            shorter[11..13].copy_from_slice(&body.to_be_bytes());
            let _ = socket.send(&shorter);
        }
    }
    published(&mut client, &mut observer, &token, "cut");
    // A session each: after 128 records that do not open, the keys of CCM_8 are given up (RFC 9147, 4.5.3).
    for from in (0..record.len()).step_by(8) {
        let mut client = gateway.client(Kind::Dtls);
        let record = unused(published(&mut client, &mut observer, &token, "flip me"));
        for at in from..(from + 8).min(record.len()) {
            for bit in 0..8 {
                let mut flipped = record.clone();
                flipped[at] ^= 1 << bit;
                let _ = client.socket().send(&flipped);
            }
        }
        published(
            &mut client,
            &mut observer,
            &token,
            &format!("flipped from {from}"),
        );
    }
    observer.no_notification(&token, ms(150));
    published(&mut client, &mut observer, &token, "after");
    gateway.assert_serves();
}

#[test]
fn several_records_in_one_datagram_are_several_messages() {
    let (gateway, mut client, mut observer, token) = scene();
    let record = published(&mut client, &mut observer, &token, "first");
    let socket = client.socket();
    // A replay in front of garbage, and garbage in front of a replay.
    let garbage = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0, 3, 1, 2, 3];
    for datagram in [
        [&record[..], &garbage].concat(),
        [&garbage[..], &record].concat(),
        record.repeat(5),
    ] {
        socket.send(&datagram).unwrap();
    }
    observer.no_notification(&token, ms(100));
    published(&mut client, &mut observer, &token, "after");
    gateway.assert_serves();
}

#[test]
fn forged_plaintext_alerts_end_nothing() {
    let (gateway, mut client, mut observer, token) = scene();
    let socket = client.socket();
    for (level, description) in [
        (1, 0),
        (2, 0),
        (2, 10),
        (2, 20),
        (2, 40),
        (2, 80),
        (1, 100),
        (9, 99),
    ] {
        for epoch in [0, 1, 2, 0xff] {
            for sequence in [0, 1, 0xff] {
                let alert = [
                    21,
                    0xfe,
                    0xfd,
                    0,
                    epoch,
                    0,
                    0,
                    0,
                    0,
                    0,
                    sequence,
                    0,
                    2,
                    level,
                    description,
                ];
                socket.send(&alert).unwrap();
            }
        }
    }
    published(&mut client, &mut observer, &token, "after the alerts");
    assert_eq!(client.ended(), None);
    gateway.assert_serves();
}

#[test]
fn records_of_every_type_and_epoch_end_nothing() {
    let (gateway, mut client, mut observer, token) = scene();
    let socket = client.socket();
    let mut noise = Noise(9);
    for kind in [0, 1, 19, 20, 21, 22, 23, 24, 25, 26, 32, 63, 64, 127, 255] {
        for epoch in [0, 1, 2, 3, 0xff] {
            for length in [0, 1, 7, 8, 16, 24, 200] {
                let mut record = vec![kind, 0xfe, 0xfd, 0, epoch];
                record.extend(noise.bytes(6));
                record.extend(u16::try_from(length).unwrap().to_be_bytes());
                record.extend(noise.bytes(length));
                let _ = socket.send(&record);
            }
        }
    }
    published(&mut client, &mut observer, &token, "after");
    assert_eq!(client.ended(), None);
    gateway.assert_serves();
}

#[test]
fn records_of_a_dead_session_do_nothing() {
    let (gateway, mut client, mut observer, token) = scene();
    let record = published(&mut client, &mut observer, &token, "alive");
    let socket = client.socket();
    client.close();
    for _ in 0..20 {
        let _ = socket.send(&record);
    }
    observer.no_notification(&token, ms(100));
    gateway.assert_serves();
}
