//! The client's side of CoAP over WebSockets (RFC 8323, 4), with frames made by hand (RFC 6455, 5).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};

use super::client::PATIENCE;
use super::gateway::psk_of;
use super::stream::{Bytes, Stream};

/// Kinds of frames.
pub mod frame {
    pub const CONTINUATION: u8 = 0x0;
    pub const TEXT: u8 = 0x1;
    pub const BINARY: u8 = 0x2;
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
}

/// A frame of a client: masked.
pub fn framed(kind: u8, is_last: bool, payload: &[u8]) -> Vec<u8> {
    let mask = [0x5a, 0x01, 0xff, 0x37];
    let mut out = vec![kind | if is_last { 0x80 } else { 0 }];
    match payload.len() {
        len @ ..126 => out.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

/// The request that makes a connection a WebSocket.
pub fn upgrade(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

pub const COAP: &str = "Sec-WebSocket-Protocol: coap\r\n";

/// Sends a request and reads the head of its answer.
pub fn ask(stream: &mut impl Bytes, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A WebSocket as the stream of bytes that TCP would have.
struct Web<S> {
    inner: S,
    raw: Vec<u8>,
    came: Vec<u8>,
}

impl<S: Bytes> Web<S> {
    fn opened(mut inner: S) -> Self {
        let answer = ask(&mut inner, &upgrade("/.well-known/coap", COAP));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(
            answer
                .to_ascii_lowercase()
                .contains("sec-websocket-protocol: coap\r\n"),
            "{answer}"
        );
        Self {
            inner,
            raw: Vec::new(),
            came: Vec::new(),
        }
    }

    /// Takes a whole frame of what came; its kind and payload.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (kind, short) = (self.raw.first()? & 0x0f, usize::from(*self.raw.get(1)?));
        let (head, len) = match short {
            126 => (
                4,
                self.raw
                    .get(2..4)?
                    .iter()
                    .fold(0, |n, byte| n << 8 | usize::from(*byte)),
            ),
            127 => (
                10,
                self.raw
                    .get(2..10)?
                    .iter()
                    .fold(0, |n, byte| n << 8 | usize::from(*byte)),
            ),
            len => (2, len),
        };
        let payload = self.raw.get(head..head + len)?.to_vec();
        self.raw.drain(..head + len);
        Some((kind, payload))
    }
}

impl<S: Bytes> Read for Web<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.came.is_empty() {
            match self.frame() {
                Some((frame::BINARY, message)) => self.came = lengthened(&message),
                Some((frame::CLOSE, _)) => return Ok(0),
                Some(_) => {}
                None => {
                    let mut more = [0; 4096];
                    match self.inner.read(&mut more)? {
                        0 => return Ok(0),
                        len => self.raw.extend_from_slice(&more[..len]),
                    }
                }
            }
        }
        let len = buf.len().min(self.came.len());
        buf[..len].copy_from_slice(&self.came[..len]);
        self.came.drain(..len);
        Ok(len)
    }
}

impl<S: Bytes> Write for Web<S> {
    /// Takes whole messages, as they stand in a stream.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (more, base) = match bytes[0] >> 4 {
            13 => (1, 13),
            14 => (2, 269),
            15 => (4, 65_805),
            len => (0, usize::from(len)),
        };
        let len = bytes[1..=more]
            .iter()
            .fold(0, |n, byte| n << 8 | usize::from(*byte))
            + base;
        let whole = 2 + more + usize::from(bytes[0] & 15) + len;
        let message = [&[bytes[0] & 15], &bytes[1 + more..whole]].concat();
        self.inner.write_all(&framed(frame::BINARY, true, &message))?;
        Ok(whole)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A message of a WebSocket with the length that it has in a stream.
fn lengthened(message: &[u8]) -> Vec<u8> {
    assert_eq!(message[0] >> 4, 0, "there is no length");
    let len = message.len() - 2 - usize::from(message[0]);
    let (nibble, more) = match len {
        ..13 => (u8::try_from(len).unwrap(), vec![]),
        13..269 => (13, vec![u8::try_from(len - 13).unwrap()]),
        269..65_805 => (14, u16::try_from(len - 269).unwrap().to_be_bytes().to_vec()),
        _ => (15, u32::try_from(len - 65_805).unwrap().to_be_bytes().to_vec()),
    };
    [&[nibble << 4 | message[0]], &more[..], &message[1..]].concat()
}

fn connected(server: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(server).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp
}

/// A connection over which nothing was sent yet.
pub fn silent(server: SocketAddr) -> TcpStream {
    connected(server)
}

/// A WebSocket with frames by hand; its answers are read as CoAP.
pub fn by_hand(server: SocketAddr) -> (TcpStream, Stream) {
    let tcp = connected(server);
    let web = Web::opened(tcp.try_clone().unwrap());
    let stream = Stream::over(Box::new(web), tcp.try_clone().unwrap());
    (tcp, stream.greeted())
}

/// A WebSocket on which both sides have told what they can do.
pub fn plain(server: SocketAddr) -> Stream {
    by_hand(server).1
}

/// The same over TLS, as `dev1`.
pub fn tls(server: SocketAddr) -> Stream {
    let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_alpn_protos(b"\x08http/1.1").unwrap();
    builder.set_psk_client_callback(|_, _, name, out| {
        let key = psk_of("dev1");
        name[..5].copy_from_slice(b"dev1\0");
        out[..key.len()].copy_from_slice(key.as_bytes());
        Ok(key.len())
    });
    let tcp = connected(server);
    let ssl = builder
        .build()
        .connect("localhost", tcp.try_clone().unwrap())
        .unwrap();
    Stream::over(Box::new(Web::opened(ssl)), tcp).greeted()
}
