//! A DTLS 1.2 client without a socket: OpenSSL's, with Connection IDs (RFC 9146) put around its records.
//!
//! With a Connection ID every protected record of OpenSSL's is opened with the session's keys and sealed again in
//! the other form, both ways. Datagrams go in by [`DtlsClient::handle`] and come out of [`DtlsClient::take`].
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "support for tests, of which each uses a part"
)]

use std::sync::OnceLock;

use openssl::ex_data::Index;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::ssl::{
    ErrorCode, ExtensionContext, ShutdownState, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions,
    SslSession, SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use portcullis::dtls::aead::{Aead, Seal, SessionKeys};
use portcullis::dtls::bio::{Pipe, is_waiting};
use portcullis::dtls::cid::{CONNECTION_ID_EXTENSION, RRC_EXTENSION};
use portcullis::dtls::record::{Header, RETURN_ROUTABILITY_CHECK, TLS12_CID};
use portcullis::dtls::suite::Suite;

#[allow(unsafe_code, reason = "the openssl crate does not wrap it")]
unsafe extern "C" {
    fn SSL_CTX_set_tlsext_max_fragment_length(context: *mut std::ffi::c_void, mode: u8) -> i32;
}

/// Kinds of keys: 0 is X.509, 2 is raw.
#[derive(Debug, Clone, Copy)]
pub struct RawKey {
    pub server: &'static [u8],
    pub client: &'static [u8],
}

/// What a client is made of.
#[derive(Clone, Default)]
pub struct ClientConfig {
    /// OpenSSL cipher list.
    pub ciphers: String,
    /// Identity and key.
    pub psk: Option<(Vec<u8>, Vec<u8>)>,
    /// Trust anchor for the server; none is no check.
    pub ca: Option<X509>,
    /// Certificate and key.
    pub certificate: Option<(X509, PKey<Private>)>,
    /// What it shows beside.
    pub issuers: Vec<X509>,
    /// The Connection ID that this client wants in records to it; empty is allowed.
    pub cid: Option<Vec<u8>>,
    /// Whether it offers return routability checks (RFC 9853).
    pub rrc: bool,
    /// A session to resume.
    pub session: Option<SslSession>,
    /// Largest datagram of its flights.
    pub mtu: Option<u32>,
    /// Also offer what is older than DTLS 1.2, and only that.
    pub dtls1_only: bool,
    /// Signature algorithms.
    pub sigalgs: Option<String>,
    /// Whether it does not offer the extended master secret (RFC 7627).
    pub plain_master: bool,
    /// The number of the largest fragment that it takes (RFC 6066, 4): 1 to 4 for 512 to 4096 bytes.
    pub max_fragment: Option<u8>,
    /// Whether it does not offer the MAC over the ciphertext (RFC 7366).
    pub mac_then_encrypt: bool,
    /// The kinds of keys that it takes and shows (RFC 7250), best first; needs OpenSSL 3.2.
    pub raw_key: Option<RawKey>,
    /// The server that it asks for.
    pub server_name: Option<String>,
}

impl ClientConfig {
    /// A PSK client.
    pub fn psk(ciphers: &str, identity: impl AsRef<[u8]>, key: &[u8]) -> Self {
        Self {
            ciphers: ciphers.into(),
            psk: Some((identity.as_ref().to_vec(), key.to_vec())),
            ..Self::default()
        }
    }

    /// A client that checks the server's certificate.
    pub fn certificate(ciphers: &str, ca: &X509) -> Self {
        Self {
            ciphers: ciphers.into(),
            ca: Some(ca.clone()),
            ..Self::default()
        }
    }

    /// What many clients of this kind can be made within.
    pub fn context(&self) -> SslContext {
        let mut context = SslContextBuilder::new(SslMethod::dtls()).unwrap();
        let version = if self.dtls1_only {
            SslVersion::DTLS1
        } else {
            SslVersion::DTLS1_2
        };
        context.set_min_proto_version(Some(version)).unwrap();
        context.set_max_proto_version(Some(version)).unwrap();
        context.set_security_level(0);
        context
            .set_cipher_list(&format!("{}:@SECLEVEL=0", self.ciphers))
            .unwrap();
        context.set_options(SslOptions::NO_QUERY_MTU);
        if self.mac_then_encrypt {
            context.set_options(SslOptions::from_bits_retain(1 << 19));
        }
        if self.plain_master {
            context.set_options(SslOptions::from_bits_retain(1));
        }
        context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        if let Some(sigalgs) = &self.sigalgs {
            context.set_sigalgs_list(sigalgs).unwrap();
        }
        if let Some((identity, key)) = self.psk.clone() {
            context.set_psk_client_callback(move |_, _, name, secret| {
                name[..identity.len()].copy_from_slice(&identity);
                name[identity.len()] = 0;
                secret[..key.len()].copy_from_slice(&key);
                Ok(key.len())
            });
        }
        if let Some(ca) = &self.ca {
            context.cert_store_mut().add_cert(ca.clone()).unwrap();
            context.set_verify(SslVerifyMode::PEER);
        }
        if let Some((certificate, key)) = &self.certificate {
            context.set_certificate(certificate).unwrap();
            context.set_private_key(key).unwrap();
        }
        for issuer in &self.issuers {
            context.add_extra_chain_cert(issuer.clone()).unwrap();
        }
        if self.cid.is_some() {
            offer_cid(&mut context);
        }
        if self.rrc {
            offer_rrc(&mut context);
        }
        if let Some(n) = self.max_fragment {
            #[allow(unsafe_code, reason = "the openssl crate does not wrap it")]
            // SAFETY: the context is alive and not shared yet; the call takes a number.
            unsafe {
                let taken = SSL_CTX_set_tlsext_max_fragment_length(context.as_ptr().cast(), n);
                assert_eq!(taken, 1);
            }
        }
        context.build()
    }
}

#[derive(Default)]
struct CidNotes {
    ours: Option<Vec<u8>>,
    theirs: Option<Vec<u8>>,
    rrc: bool,
}

fn notes_index() -> Index<Ssl, CidNotes> {
    static INDEX: OnceLock<Index<Ssl, CidNotes>> = OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().unwrap())
}

/// A DTLS client.
pub struct DtlsClient {
    stream: SslStream<Pipe>,
    connected: bool,
    failed: Option<String>,
    aead: Aead,
    keys: Option<SessionKeys>,
    cid: Option<Vec<u8>>,
    waiting: Vec<Vec<u8>>,
    /// Return routability checks from the server.
    checks: Vec<Vec<u8>>,
    /// The number after that of the last record with a Connection ID, and how many of them were not OpenSSL's.
    next: u64,
    checked: u64,
    received: Vec<Vec<u8>>,
    closed: bool,
}

impl DtlsClient {
    /// A client that has not sent anything yet; [`Self::connect`] makes it.
    pub fn new(config: &ClientConfig) -> Self {
        Self::within(&config.context(), config)
    }

    /// As [`Self::new`], with a context that was made of the same `config` before.
    pub fn within(context: &SslContext, config: &ClientConfig) -> Self {
        let mut ssl = Ssl::new(context).unwrap();
        ssl.set_mtu(config.mtu.unwrap_or(1280)).unwrap();
        ssl.set_ex_data(
            notes_index(),
            CidNotes {
                ours: config.cid.clone(),
                ..CidNotes::default()
            },
        );
        if let Some(session) = &config.session {
            #[allow(unsafe_code, reason = "the session belongs to a context of the same kind")]
            // SAFETY: the session comes from a client context made by this function, which never shares SSL_CTX state.
            unsafe {
                ssl.set_session(session).unwrap();
            }
        }
        if let Some(name) = &config.server_name {
            ssl.set_hostname(name).unwrap();
        }
        #[cfg(openssl_rpk)]
        if let Some(kinds) = config.raw_key {
            raw::set(&ssl, kinds);
        }
        ssl.set_connect_state();
        Self {
            stream: SslStream::new(ssl, Pipe::default()).unwrap(),
            connected: false,
            failed: None,
            aead: Aead::default(),
            keys: None,
            cid: config.cid.clone(),
            waiting: Vec::new(),
            checks: Vec::new(),
            next: 0,
            checked: 0,
            received: Vec::new(),
            closed: false,
        }
    }

    /// Starts the handshake, or repeats its last flight when OpenSSL finds it time.
    pub fn connect(&mut self) {
        if !self.connected && self.failed.is_none() {
            match self.stream.do_handshake() {
                Ok(()) => self.connected = true,
                Err(error) if is_waiting(self.stream.ssl(), &error) => {}
                Err(error) => self.failed = Some(error.to_string()),
            }
        }
        self.derive();
        self.collect();
    }

    /// Takes a datagram from the server.
    pub fn handle(&mut self, datagram: &[u8]) {
        let own_len = self.cid.as_ref().map_or(0, Vec::len);
        let mut rest = datagram;
        while let Some(header) = Header::parse(rest, own_len) {
            let (record, after) = rest.split_at(header.record_len());
            rest = after;
            // To a client whose own Connection ID is empty a check comes without one.
            if matches!(header.kind, TLS12_CID | RETURN_ROUTABILITY_CHECK) {
                let Some(ordinary) = self.unwrap_record(&header, record) else {
                    continue;
                };
                self.stream.get_mut().put(&ordinary);
            } else {
                self.stream.get_mut().put(record);
            }
            if self.connected {
                self.drain();
            } else {
                self.connect();
            }
        }
        self.collect();
    }

    fn drain(&mut self) {
        let mut buffer = vec![0; 17_000];
        loop {
            match self.stream.ssl_read(&mut buffer) {
                Ok(len) => self.received.push(buffer[..len].to_vec()),
                Err(error) => {
                    if error.code() == ErrorCode::ZERO_RETURN {
                        self.closed = true;
                    } else if !is_waiting(self.stream.ssl(), &error) {
                        self.failed = Some(error.to_string());
                    }
                    return;
                }
            }
        }
    }

    fn derive(&mut self) {
        let ssl = self.stream.ssl();
        let Some(cipher) = ssl.current_cipher() else {
            return;
        };
        let Some(session) = ssl.session() else { return };
        let (mut master, mut client, mut server) = ([0; 48], [0; 32], [0; 32]);
        if session.master_key(&mut master) != 48 || self.keys.is_some() {
            return;
        }
        ssl.client_random(&mut client);
        ssl.server_random(&mut server);
        // A session to be resumed has its secret before the server has spoken.
        if server == [0; 32] {
            return;
        }
        let algorithm = Suite::from_id(cipher.protocol_id()).and_then(Suite::algorithm);
        self.keys = algorithm.map(|algorithm| SessionKeys::derive(algorithm, &master, &client, &server));
    }

    fn unwrap_record(&mut self, header: &Header, record: &[u8]) -> Option<Vec<u8>> {
        self.derive();
        let keys = self.keys.as_ref()?;
        let mut copy = record.to_vec();
        let opened = self.aead.open(&keys.server, header, &mut copy)?;
        if opened.kind == RETURN_ROUTABILITY_CHECK {
            self.checks.push(copy[opened.plaintext].to_vec());
            return None;
        }
        let explicit = u64::from_be_bytes(*record[header.header_len..].first_chunk()?);
        let what = Seal {
            kind: opened.kind,
            sequence: header.sequence,
            explicit,
            cid: &[],
            plaintext: &copy[opened.plaintext],
        };
        let mut out = Vec::new();
        self.aead.seal(&keys.server, &what, &mut out).ok()?;
        Some(out)
    }

    /// The Connection ID that the server gave.
    pub fn server_cid(&self) -> Option<Vec<u8>> {
        self.stream.ssl().ex_data(notes_index())?.theirs.clone()
    }

    fn collect(&mut self) {
        let server_cid = self.server_cid();
        for bytes in self.stream.get_mut().take() {
            let Some(cid) = &server_cid else {
                self.waiting.push(bytes.into());
                continue;
            };
            let (mut rest, mut datagram) = (&*bytes, Vec::new());
            while let Some(header) = Header::parse(rest, 0) {
                let (record, after) = rest.split_at(header.record_len());
                rest = after;
                if header.epoch == 0 {
                    datagram.extend_from_slice(record);
                    continue;
                }
                let keys = self.keys.as_ref().unwrap();
                let mut copy = record.to_vec();
                let opened = self.aead.open(&keys.client, &header, &mut copy).unwrap();
                let explicit = u64::from_be_bytes(*record[header.header_len..].first_chunk().unwrap());
                let what = Seal {
                    kind: opened.kind,
                    sequence: header.sequence + self.checked,
                    explicit: explicit.wrapping_add(self.checked),
                    cid,
                    plaintext: &copy[opened.plaintext],
                };
                self.next = what.sequence + 1;
                self.aead.seal(&keys.client, &what, &mut datagram).unwrap();
            }
            self.waiting.push(datagram);
        }
    }

    /// Whether the server takes return routability checks.
    pub fn has_rrc(&self) -> bool {
        self.stream.ssl().ex_data(notes_index()).unwrap().rrc
    }

    /// The checks that came from the server.
    pub fn checks(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.checks)
    }

    /// Sends a return routability check.
    pub fn check(&mut self, content: &[u8]) {
        let keys = self.keys.clone().unwrap();
        let mut datagram = Vec::new();
        let cid = self.server_cid().unwrap();
        let what = Seal {
            kind: RETURN_ROUTABILITY_CHECK,
            sequence: self.next,
            explicit: 1 << 40 | self.next,
            cid: &cid,
            plaintext: content,
        };
        self.aead.seal(&keys.client, &what, &mut datagram).unwrap();
        self.next += 1;
        self.checked += 1;
        self.waiting.push(datagram);
    }

    /// The datagrams that go to the server.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.waiting)
    }

    /// Data from the server.
    pub fn received(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.received)
    }

    /// Sends data.
    pub fn send(&mut self, data: &[u8]) {
        self.stream.ssl_write(data).unwrap();
        self.collect();
    }

    /// Sends close_notify.
    pub fn shutdown(&mut self) {
        drop(self.stream.shutdown());
        self.collect();
    }

    /// Whether the handshake is done.
    pub const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether the server said goodbye.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Why it failed.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether the session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    /// The session, to be resumed later.
    pub fn session(&mut self) -> SslSession {
        let session = self.stream.ssl().session().unwrap().to_owned();
        self.stream
            .set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
        session
    }

    /// Whether the server showed this key raw.
    #[cfg(openssl_rpk)]
    pub fn server_shows_raw_key(&self, key: &PKey<Private>) -> bool {
        raw::of_peer(self.stream.ssl()).is_some_and(|shown| shown.public_eq(key))
    }

    /// The common name of the server's certificate.
    pub fn server(&self) -> String {
        let certificate = self.stream.ssl().peer_certificate().unwrap();
        let name = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
        name.unwrap().data().to_string().unwrap()
    }

    /// Whether it got a ticket.
    pub fn has_ticket(&self) -> bool {
        self.stream.ssl().session().is_some_and(|session| {
            let der = session.to_der().unwrap();
            der.len() > 250
        })
    }

    /// The keys of the session.
    pub fn keys(&self) -> SessionKeys {
        self.keys.clone().unwrap()
    }

    /// The kind of the server's ephemeral key.
    pub fn ephemeral(&self) -> Id {
        self.stream.ssl().peer_tmp_key().unwrap().id()
    }

    /// The negotiated suite.
    pub fn suite(&self) -> Option<Suite> {
        Suite::from_id(self.stream.ssl().current_cipher()?.protocol_id())
    }
}

fn offer_rrc(context: &mut SslContextBuilder) {
    let when =
        ExtensionContext::CLIENT_HELLO | ExtensionContext::TLS1_2_SERVER_HELLO | ExtensionContext::DTLS_ONLY;
    let index = notes_index();
    context
        .add_custom_ext(
            RRC_EXTENSION,
            when,
            |_, _, _| Ok(Some([])),
            move |ssl, _, data, _| {
                assert!(data.is_empty());
                ssl.ex_data_mut(index).unwrap().rrc = true;
                Ok(())
            },
        )
        .unwrap();
}

fn offer_cid(context: &mut SslContextBuilder) {
    let when =
        ExtensionContext::CLIENT_HELLO | ExtensionContext::TLS1_2_SERVER_HELLO | ExtensionContext::DTLS_ONLY;
    let index = notes_index();
    context
        .add_custom_ext(
            CONNECTION_ID_EXTENSION,
            when,
            move |ssl, _, _| {
                let ours = ssl.ex_data(index).and_then(|notes| notes.ours.clone());
                Ok(ours.map(|cid| {
                    let mut body = vec![u8::try_from(cid.len()).unwrap()];
                    body.extend(cid);
                    body
                }))
            },
            move |ssl, _, data, _| {
                ssl.ex_data_mut(index).unwrap().theirs = Some(data[1..].to_vec());
                Ok(())
            },
        )
        .unwrap();
}

/// Raw public keys, which the openssl crate does not wrap.
#[cfg(openssl_rpk)]
#[allow(unsafe_code, reason = "the openssl crate does not wrap it")]
mod raw {
    use std::ffi::c_void;

    use openssl::pkey::{PKey, PKeyRef, Public};
    use openssl::ssl::SslRef;

    use super::RawKey;

    unsafe extern "C" {
        fn SSL_set1_server_cert_type(ssl: *mut c_void, kinds: *const u8, len: usize) -> i32;
        fn SSL_set1_client_cert_type(ssl: *mut c_void, kinds: *const u8, len: usize) -> i32;
        fn SSL_get0_peer_rpk(ssl: *const c_void) -> *mut c_void;
    }

    pub fn set(ssl: &SslRef, kinds: RawKey) {
        let of = foreign_types_shared::ForeignTypeRef::as_ptr(ssl).cast();
        // SAFETY: the SSL is alive, and the kinds are copied.
        let taken = unsafe {
            SSL_set1_server_cert_type(of, kinds.server.as_ptr(), kinds.server.len()) == 1
                && SSL_set1_client_cert_type(of, kinds.client.as_ptr(), kinds.client.len()) == 1
        };
        assert!(taken);
    }

    pub fn of_peer(ssl: &SslRef) -> Option<PKey<Public>> {
        // SAFETY: the SSL is alive, and the key gets a reference of its own.
        unsafe {
            let key = SSL_get0_peer_rpk(foreign_types_shared::ForeignTypeRef::as_ptr(ssl).cast());
            (!key.is_null()).then(|| {
                let key: &PKeyRef<Public> = foreign_types_shared::ForeignTypeRef::from_ptr(key.cast());
                key.to_owned()
            })
        }
    }
}
