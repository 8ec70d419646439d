//! DTLS 1.2 as a client, through OpenSSL, over a socket that the test can also use raw.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use openssl::ssl::{
    ErrorCode, ShutdownResult, Ssl, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVerifyMode,
    SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use portcullis::dtls::bio::is_waiting;

use super::certs::Certified;
use super::client::PATIENCE;

/// Who the client is and what it accepts.
#[derive(Clone, Default)]
pub struct Options {
    pub psk: Option<(String, Vec<u8>)>,
    pub pair: Option<Certified>,
    /// The authority that the server's certificate must come from; without, it is not looked at.
    pub ca: Option<X509>,
    pub ciphers: Option<String>,
    pub local: Option<SocketAddr>,
    /// How long the handshake may take; 10 s unless set.
    pub patience: Option<Duration>,
}

impl Options {
    pub fn psk(identity: &str, key: &[u8]) -> Self {
        Self {
            psk: Some((identity.to_owned(), key.to_vec())),
            ..Self::default()
        }
    }

    pub fn certificate(pair: Option<&Certified>, ca: &X509) -> Self {
        Self {
            pair: pair.cloned(),
            ca: Some(ca.clone()),
            ..Self::default()
        }
    }

    pub fn ciphers(mut self, ciphers: &str) -> Self {
        self.ciphers = Some(ciphers.to_owned());
        self
    }

    pub fn local(mut self, local: SocketAddr) -> Self {
        self.local = Some(local);
        self
    }

    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }
}

/// A connected UDP socket: one read or write is one datagram. It remembers what it sent.
pub struct Datagrams {
    pub socket: UdpSocket,
    pub sent: Vec<Vec<u8>>,
}

impl Read for Datagrams {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.socket.recv(buf) {
            // An ICMP error says that nobody listened at that moment; the next flight may find somebody.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Err(io::ErrorKind::WouldBlock.into()),
            Err(e) if [io::ErrorKind::TimedOut, io::ErrorKind::Interrupted].contains(&e.kind()) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other,
        }
    }
}

impl Write for Datagrams {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.sent.push(buf.to_vec());
        match self.socket.send(buf) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(buf.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An established session.
pub struct Session {
    pub stream: SslStream<Datagrams>,
    /// Set when the other side ended it, with how.
    pub ended: Option<String>,
}

/// Shakes hands with `server`; the error is OpenSSL's, or `time-out`.
pub fn connect(server: SocketAddr, options: &Options) -> Result<Session, String> {
    let local = options
        .local
        .unwrap_or_else(|| super::client::any_loopback(server));
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(server).unwrap();
    connect_on(socket, options)
}

/// The same on a connected socket.
pub fn connect_on(socket: UdpSocket, options: &Options) -> Result<Session, String> {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut ssl = Ssl::new(&context(options).build()).unwrap();
    ssl.set_connect_state();
    ssl.set_mtu(1400).unwrap();
    let mut stream = SslStream::new(ssl, Datagrams { socket, sent: vec![] }).unwrap();
    let end = Instant::now() + options.patience.unwrap_or(PATIENCE);
    loop {
        match stream.do_handshake() {
            Ok(()) => return Ok(Session { stream, ended: None }),
            Err(e) if is_waiting(stream.ssl(), &e) => {}
            Err(e) => return Err(e.to_string()),
        }
        if Instant::now() > end {
            return Err("time-out".into());
        }
    }
}

fn context(options: &Options) -> SslContextBuilder {
    let mut context = SslContextBuilder::new(SslMethod::dtls_client()).unwrap();
    context.set_min_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
    context.set_options(SslOptions::NO_QUERY_MTU);
    context.set_verify(SslVerifyMode::NONE);
    let default = if options.psk.is_some() {
        "PSK-AES128-CCM8"
    } else {
        "ECDHE-ECDSA-AES128-CCM8"
    };
    let ciphers = options.ciphers.as_deref().unwrap_or(default);
    context
        .set_cipher_list(&format!("{ciphers}:@SECLEVEL=0"))
        .unwrap();
    if let Some((identity, key)) = options.psk.clone() {
        context.set_psk_client_callback(move |_, _, identity_out, key_out| {
            identity_out[..identity.len()].copy_from_slice(identity.as_bytes());
            identity_out[identity.len()] = 0;
            key_out[..key.len()].copy_from_slice(&key);
            Ok(key.len())
        });
    }
    if let Some(pair) = &options.pair {
        context.set_certificate(&pair.certificate).unwrap();
        context.set_private_key(&pair.key).unwrap();
    }
    if let Some(ca) = &options.ca {
        let mut store = X509StoreBuilder::new().unwrap();
        store.add_cert(ca.clone()).unwrap();
        context.set_cert_store(store.build());
        context.set_verify(SslVerifyMode::PEER);
    }
    context
}

impl Session {
    /// The next application record, if one comes in time.
    pub fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + timeout;
        let mut buf = vec![0; 20_000];
        while self.ended.is_none() {
            let left = end
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            self.stream.get_ref().socket.set_read_timeout(Some(left)).unwrap();
            match self.stream.ssl_read(&mut buf) {
                Ok(n) => return Some(buf[..n].to_vec()),
                Err(e) if is_waiting(self.stream.ssl(), &e) => {}
                Err(e) if e.code() == ErrorCode::ZERO_RETURN => self.ended = Some("close_notify".into()),
                Err(e) => self.ended = Some(e.to_string()),
            }
            if Instant::now() >= end {
                break;
            }
        }
        None
    }

    /// Sends one record; a record on a dead session goes nowhere, as on the network.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(e) = self.stream.ssl_write(bytes) {
            self.ended = Some(e.to_string());
        }
    }

    /// Says close_notify.
    pub fn close(&mut self) {
        let _: Result<ShutdownResult, _> = self.stream.shutdown();
    }
}
