//! What a WebSocket keeps of what came and went.

use std::time::{Duration, Instant};

use portcullis_dtls::DtlsShared;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::gate::GateSettings;

#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
fn clock() -> Instant {
    Instant::now()
}

fn gate() -> Arc<Gate> {
    let settings = GateSettings {
        web: None,
        max_connections: 10,
        max_per_source: 0,
        max_half_open: 10,
        max_per_second: 0,
        per_second_of_source: 0,
        handshake_timeout: Duration::from_secs(60),
        message_timeout: Duration::from_secs(60),
        max_message: 1 << 20,
    };
    Gate::new(None, DtlsShared::new([1; 32], clock()), settings, clock)
}

/// A WebSocket and its client.
async fn opened(gate: &Arc<Gate>) -> (WebStream<DuplexStream>, DuplexStream) {
    let (server, mut client) = duplex(4 << 20);
    let request = "GET /.well-known/coap HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: coap\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let stream = WebStream::accept(server, gate, &[]).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    (stream, client)
}

/// A frame whose mask is of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let head = match u8::try_from(payload.len()) {
        Ok(len @ ..126) => vec![first, 0x80 | len],
        _ => [&[first, 0xff], &(payload.len() as u64).to_be_bytes()[..]].concat(),
    };
    [&head, &[0; 4][..], payload].concat()
}

async fn say(stream: &mut WebStream<DuplexStream>, client: &mut DuplexStream, message: &[u8]) {
    client.write_all(&frame(0x82, message)).await.unwrap();
    let mut stands = BytesMut::new();
    frame::from_web(message, &mut stands).unwrap();
    let mut read = vec![0; stands.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, stands);
}

#[tokio::test]
async fn an_idle_web_socket_keeps_no_room_of_the_long_messages_that_came_and_went() {
    let gate = gate();
    let (mut stream, mut client) = opened(&gate).await;
    let long = [&[0, 2][..], &[b'x'; 600_000]].concat();
    let short = [&[0, 2][..], b"short"].concat();
    for _ in 0..3 {
        say(&mut stream, &mut client, &long).await;
        assert!(stream.has_grown);
        say(&mut stream, &mut client, &short).await;
        assert!(!stream.has_grown && stream.came.capacity() <= LONG);
        let mut stands = BytesMut::new();
        frame::from_web(&long, &mut stands).unwrap();
        stream.write_all(&stands).await.unwrap();
        assert!(!stream.has_grown, "it began anew as soon as that had left");
        let mut got = vec![0; 10 + long.len()];
        client.read_exact(&mut got).await.unwrap();
        assert!(got.ends_with(&long));
        say(&mut stream, &mut client, &short).await;
    }
    assert_eq!(gate.unfinished.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_came_behind_a_long_message_is_not_lost_when_it_begins_anew() {
    let gate = gate();
    let (mut stream, mut client) = opened(&gate).await;
    let long = [&[0, 2][..], &[b'x'; 30_000]].concat();
    let mut sent = Vec::new();
    let mut stands = BytesMut::new();
    for n in 0..50_u8 {
        let short = [0, 2, n];
        for message in [&long[..], &short, &short] {
            sent.extend(frame(0x82, message));
            frame::from_web(message, &mut stands).unwrap();
        }
        sent.extend(frame(0x89, b"ping"));
    }
    client.write_all(&sent).await.unwrap();
    let mut read = vec![0; stands.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert!(read == stands);
}

#[tokio::test]
async fn fragments_without_bytes_take_nobodys_room() {
    let gate = gate();
    let (mut stream, mut client) = opened(&gate).await;
    client.write_all(&frame(0x02, &[0, 2])).await.unwrap();
    for _ in 0..20_000 {
        client.write_all(&frame(0x00, b"")).await.unwrap();
    }
    let mut byte = [0];
    let waits = timeout(Duration::from_millis(300), stream.read(&mut byte)).await;
    assert!(waits.is_err(), "{waits:?}");
    assert_eq!(
        (stream.partial.bytes(), gate.unfinished.load(Ordering::Relaxed)),
        (2, 2)
    );
    client.write_all(&frame(0x80, b"end")).await.unwrap();
    assert_eq!(stream.read(&mut byte).await.unwrap(), 1);
    assert_eq!(gate.unfinished.load(Ordering::Relaxed), 0);
}
