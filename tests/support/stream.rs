//! A peer at the other end of a TCP or TLS connection (RFC 8323), that does what a test says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};

use super::client::PATIENCE;
use super::coap::{Message, Request, typ};
use super::gateway::psk_of;

/// Codes of signalling messages.
pub mod signal {
    pub const CSM: u8 = 0xe1;
    pub const PING: u8 = 0xe2;
    pub const PONG: u8 = 0xe3;
    pub const RELEASE: u8 = 0xe4;
    pub const ABORT: u8 = 0xe5;
}

/// What the messages of a connection go through.
pub trait Bytes: Read + Write + Send {}
impl<T: Read + Write + Send> Bytes for T {}

/// One connection.
pub struct Stream {
    bytes: Box<dyn Bytes>,
    /// The connection beneath.
    pub tcp: TcpStream,
    came: Vec<u8>,
    next_token: u16,
}

/// A message as it stands in a stream (RFC 8323, 3.2).
pub fn frame(message: &Message) -> Vec<u8> {
    let datagram = message.encode();
    let body = &datagram[4 + message.token.len()..];
    let token_len = u8::try_from(message.token.len()).unwrap();
    let (nibble, more) = match body.len() {
        len @ ..13 => (u8::try_from(len).unwrap(), vec![]),
        len @ 13..269 => (13, vec![u8::try_from(len - 13).unwrap()]),
        len @ 269..65_805 => (14, u16::try_from(len - 269).unwrap().to_be_bytes().to_vec()),
        len => (15, u32::try_from(len - 65_805).unwrap().to_be_bytes().to_vec()),
    };
    let head = [&[nibble << 4 | token_len], &more[..], &[message.code]].concat();
    [&head, &message.token[..], body].concat()
}

/// A signalling message.
pub fn signalling(code: u8, options: &[(u16, Vec<u8>)]) -> Message {
    Message {
        code,
        options: options.to_vec(),
        ..Message::empty(typ::NON, 0)
    }
}

impl Stream {
    /// A connection over what is there, over which nothing was sent yet.
    pub fn over(bytes: Box<dyn Bytes>, tcp: TcpStream) -> Self {
        Self {
            bytes,
            tcp,
            came: Vec::new(),
            next_token: 0,
        }
    }

    /// A connection over which nothing was sent yet.
    pub fn silent(server: SocketAddr) -> Self {
        let tcp = TcpStream::connect(server).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self {
            bytes: Box::new(tcp.try_clone().unwrap()),
            tcp,
            came: Vec::new(),
            next_token: 0,
        }
    }

    /// A connection on which both sides have told what they can do.
    pub fn tcp(server: SocketAddr) -> Self {
        Self::silent(server).greeted()
    }

    /// The same over TLS; the error is OpenSSL's.
    pub fn tls(server: SocketAddr, configure: impl FnOnce(&mut SslConnectorBuilder)) -> Result<Self, String> {
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_alpn_protos(b"\x04coap").unwrap();
        configure(&mut builder);
        let tcp = TcpStream::connect(server).map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let stream = builder
            .build()
            .connect("localhost", tcp.try_clone().unwrap())
            .map_err(|error| error.to_string())?;
        let mut stream = Self {
            bytes: Box::new(stream),
            tcp,
            came: Vec::new(),
            next_token: 0,
        };
        // With TLS 1.3 a server's refusal comes after the handshake is done for the client.
        stream.send(&signalling(signal::CSM, &[]));
        match stream.receive() {
            Some(csm) if csm.code == signal::CSM => Ok(stream),
            other => Err(format!("no CSM but {other:?}")),
        }
    }

    /// With the pre-shared key of an identity, in one version of TLS.
    pub fn psk(
        server: SocketAddr,
        identity: &'static str,
        key: &str,
        version: SslVersion,
    ) -> Result<Self, String> {
        let key = key.as_bytes().to_vec();
        Self::tls(server, move |builder| {
            builder.set_min_proto_version(Some(version)).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
            builder.set_cipher_list("PSK:ECDHE").unwrap();
            builder.set_psk_client_callback(move |_, _, name, out| {
                name[..identity.len()].copy_from_slice(identity.as_bytes());
                name[identity.len()] = 0;
                out[..key.len()].copy_from_slice(&key);
                Ok(key.len())
            });
        })
    }

    /// As `dev1`, by TLS 1.3.
    pub fn dev1(server: SocketAddr) -> Self {
        Self::psk(server, "dev1", &psk_of("dev1"), SslVersion::TLS1_3).unwrap()
    }

    /// Tells what it can do, where the other side has already.
    pub fn greeted_after_csm(mut self) -> Self {
        self.send(&signalling(signal::CSM, &[]));
        self
    }

    /// Both sides tell what they can do.
    pub fn greeted(mut self) -> Self {
        self.send(&signalling(signal::CSM, &[]));
        let csm = self.receive().expect("a CSM");
        assert_eq!(csm.code, signal::CSM, "{csm:?}");
        self
    }

    pub fn write(&mut self, bytes: &[u8]) {
        // It may have been ended meanwhile, which is what some tests are about.
        let _ = self.bytes.write_all(bytes).and_then(|()| self.bytes.flush());
    }

    pub fn send(&mut self, message: &Message) {
        self.write(&frame(message));
    }

    /// The next message; none when the connection ended.
    pub fn receive(&mut self) -> Option<Message> {
        self.receive_within(PATIENCE)
    }

    /// The next message that comes in time.
    pub fn receive_within(&mut self, time: Duration) -> Option<Message> {
        self.tcp.set_read_timeout(Some(time)).unwrap();
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let mut more = [0; 16_384];
            match self.bytes.read(&mut more) {
                Ok(0) => return None,
                Ok(len) => self.came.extend_from_slice(&more[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Message> {
        let first = *self.came.first()?;
        let (more, base) = match first >> 4 {
            13 => (1, 13),
            14 => (2, 269),
            15 => (4, 65_805),
            len => (0, usize::from(len)),
        };
        let more_bytes = self.came.get(1..=more)?;
        let len = more_bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)) + base;
        let head = 2 + more;
        let whole = self.came.get(..head + usize::from(first & 15) + len)?;
        let datagram = [&[0x50 | (first & 15), 1, 0, 0], &whole[head..]].concat();
        let mut message = Message::decode(&datagram).unwrap();
        message.code = whole[head - 1];
        let len = whole.len();
        self.came.drain(..len);
        Some(message)
    }

    /// The message that `request` becomes.
    pub fn message(&mut self, request: &Request) -> Message {
        self.next_token += 1;
        let token = request.token.clone();
        Message {
            typ: typ::NON,
            code: request.code,
            id: 0,
            token: token.unwrap_or_else(|| self.next_token.to_be_bytes().to_vec()),
            options: request.options.clone(),
            payload: request.payload.clone(),
        }
    }

    /// The answer to a request, whatever else comes before.
    #[track_caller]
    pub fn request(&mut self, request: &Request) -> Message {
        let message = self.message(request);
        self.send(&message);
        loop {
            let answer = self.receive().expect("an answer");
            if answer.token == message.token && answer.code < 0xe0 {
                return answer;
            }
        }
    }

    /// Begins to observe; the token of the notifications.
    #[track_caller]
    pub fn observe(&mut self, uri: &str) -> Vec<u8> {
        let answer = self.request(&Request::get(uri).observe(0));
        assert!(answer.observe().is_some(), "{answer:?}");
        answer.token
    }

    /// Waits for the end of the connection; what its last message was.
    pub fn end(&mut self) -> Option<Message> {
        let mut last = None;
        while let Some(message) = self.receive() {
            last = Some(message);
        }
        last
    }

    pub fn close(self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}
