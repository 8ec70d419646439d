//! The listeners, in the order of the file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use portcullis_dtls::CertField;
use portcullis_proto::gateway::settings::{NotifyType, OnClose, Overrides};
use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::policy::authentication::IdentityRole;
use portcullis_proto::types::{AccessRules, Transport};

use super::access::{Login, Switch};
use super::check::{between, hours, own_heartbeat, own_mountpoint, secs};
use super::document::{Document, Table};
use super::paths::PathBase;
use super::psk_source::{Given, PskSource};
use super::section::{Section, section};
use super::value::{Complaint, Size, Value, expected, items, optional, word, words};
use super::websocket::WebSocket;

/// A table `[listeners.udp.NAME]`, `[listeners.dtls.NAME]`, `[listeners.tcp.NAME]` or `[listeners.tls.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name, unique among the listeners of its kind.
    pub name: String,
    /// The address of its socket; port 0 is any that is free.
    pub bind: SocketAddr,
    /// Which sources it serves.
    pub access_rules: AccessRules,
    /// Who decides about its logins.
    pub authentication: Login,
    /// Overrides the mountpoint of `[coap]`.
    pub mountpoint: Option<String>,
    /// What else it has in place of what `[coap]` says.
    pub overrides: Overrides,
    /// How old the Echo value of a request that changes something may be; zero where it needs none.
    pub fresh_requests: Duration,
    /// Most peers, over all workers; 0 is no limit.
    pub max_peers: u32,
    /// Bytes asked of the kernel for receiving, for each worker.
    pub receive_buffer: Size,
    /// Bytes asked of the kernel for sending, for each worker.
    pub send_buffer: Size,
    /// A datagram that asks whether it serves, and the answer.
    pub health: Option<(Vec<u8>, Vec<u8>)>,
    /// What a listener with DTLS or TLS has beside.
    pub dtls: Option<Dtls>,
    /// What a listener for streams has beside: TCP or TLS.
    pub stream: Option<Stream>,
}

/// What a listener for streams has beside what every listener has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Whether its connections are WebSockets.
    pub websocket: WebSocket,
    /// Connections, over all workers.
    pub max_connections: u32,
    /// Those of one source; 0 is no limit.
    pub max_connections_per_source: u32,
    /// Connections, or TLS handshakes, that begin in a second; 0 is no limit.
    pub max_handshakes_per_second: u32,
    /// TLS handshakes in flight.
    pub max_half_open: u32,
    /// A handshake, or a wait for the CSM, that takes longer fails.
    pub handshake_timeout: Duration,
    /// A connection without a message for this long ends.
    pub idle_timeout: Duration,
    /// A message that began has to be whole, and what is sent has to be taken, within this time.
    pub message_timeout: Duration,
    /// Longest message, either way.
    pub max_message_size: Size,
    /// What may wait for a peer to read it.
    pub max_queued: Size,
    /// What becomes of a connection (of connection mode) when its stream ends.
    pub on_close: OnClose,
}

impl Listener {
    /// How its peers speak, by which table it came from.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match (&self.dtls, &self.stream) {
            (Some(_), None) => Transport::Dtls,
            (None, None) => Transport::Udp,
            (Some(_), Some(_)) => Transport::Tls,
            (None, Some(_)) => Transport::Tcp,
        }
    }

    /// Its table in the file.
    #[must_use]
    pub fn key(&self) -> String {
        format!("listeners.{}.{}", self.transport().label(), self.name)
    }
}

/// What a DTLS listener has beside what every listener has.
#[derive(Debug, Clone, PartialEq)]
pub struct Dtls {
    /// Pre-shared keys: lines `identity:hexkey`.
    pub psk_file: Option<PathBuf>,
    /// Where keys are looked up that the file does not have.
    pub psk_source: Option<Box<PskSource>>,
    /// The certificate chain, PEM, the server's own first.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The password of the private key, if it has one.
    pub key_password_file: Option<PathBuf>,
    /// More certificates.
    pub certificates: Vec<CertificateFiles>,
    /// Raw public keys of devices: lines `name:fingerprint`.
    pub rpk_file: Option<PathBuf>,
    /// Trust anchors for client certificates, PEM; read only when `verify` is not [`Verify::None`].
    pub ca_file: Option<PathBuf>,
    /// Revocation list for client certificates, PEM.
    pub crl_file: Option<PathBuf>,
    /// Whether clients need a certificate.
    pub verify: Verify,
    /// Most authorities between a client certificate and a trust anchor.
    pub verify_depth: u32,
    /// What the proved identity is used as.
    pub identity: IdentityRole,
    /// Which name of a client certificate is its identity.
    pub cert_identity: CertIdentity,
    /// Attributes of clients, and what of a certificate they are.
    pub cert_attributes: CertAttributes,
    /// What makes the client id, with its expression.
    pub clientid: Option<NameText>,
    /// What makes the user name, with its expression.
    pub username: Option<NameText>,
    /// What becomes of a connection when its session ends.
    pub on_close: OnClose,
    /// OpenSSL cipher list; empty is the built-in policy.
    pub ciphers: String,
    /// Whether there are suites of CBC.
    pub legacy_cbc: bool,
    /// Sessions of these, over all workers.
    pub legacy_max_sessions: u32,
    /// A handshake that takes longer fails.
    pub handshake_timeout: Duration,
    /// A session without a record for this long ends.
    pub idle_timeout: Duration,
    /// Sessions, over all workers.
    pub max_sessions: u32,
    /// Handshakes in flight, over all workers.
    pub max_half_open: u32,
    /// Handshakes per second of all sources; 0 is no limit.
    pub max_handshakes_per_second: u32,
    /// Largest IP packet of a handshake flight, in bytes.
    pub mtu: u32,
    /// Whether to negotiate Connection IDs (RFC 9146).
    pub cid: bool,
    /// Whether it is TLS. What only DTLS has is as if it was not there.
    pub tls: bool,
}

/// A name that is made of an identity, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameText {
    /// A text with placeholders.
    pub text: String,
    /// What it must match.
    pub pattern: Option<String>,
}

impl CertIdentity {
    /// What stands for it in the text of a name.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Cn => "${cert.cn}",
            Self::SanDns => "${cert.san_dns}",
            Self::SanUri => "${cert.san_uri}",
        }
    }
}

impl Dtls {
    /// What the identity of a handshake is used as.
    #[must_use]
    pub const fn role(&self) -> IdentityRole {
        match (&self.clientid, &self.username) {
            (Some(_), _) => IdentityRole::ClientId,
            (None, Some(_)) => IdentityRole::Username,
            (None, None) => self.identity,
        }
    }
}

/// The files of one more certificate of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate chain, PEM, the server's own first.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// The password of the private key, if it has one.
    pub key_password_file: Option<PathBuf>,
}

/// Most certificates beside that of `cert_file`: each name makes a context of its own.
const MAX_CERTIFICATES: usize = 64;

impl Value for Vec<CertificateFiles> {
    const KIND: &'static str = "list of tables";

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "a list of tables such as [{ cert_file = \"rsa.pem\", key_file = \"rsa.key\" }]";
        let array = value.as_array().ok_or_else(|| expected(what, value))?;
        if array.len() > MAX_CERTIFICATES {
            let message = format!("at most {MAX_CERTIFICATES} certificates, found {}", array.len());
            return Err(vec![message.into()]);
        }
        items(array, |item| CertificateFiles::read(item, base))
    }
}

impl CertificateFiles {
    const KEYS: [&str; 3] = ["cert_file", "key_file", "key_password_file"];

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "a table with `cert_file`, `key_file` and, if that is encrypted, `key_password_file`";
        let table = value.as_table().ok_or_else(|| expected(what, value))?;
        let unknown = table
            .keys()
            .find(|name| !Self::KEYS.contains(&name.get_ref().as_ref()));
        if let Some(name) = unknown {
            let span = Some(name.span());
            let message = format!("unknown key `{}`; expected {what}", name.get_ref());
            return Err(vec![Complaint { span, message }]);
        }
        let path = |name: &str| {
            let Some(value) = table.get(name) else {
                return Ok(None);
            };
            Option::<PathBuf>::read(value.get_ref(), base)
        };
        let needed = |name: &str| path(name)?.ok_or_else(|| vec![format!("it lacks `{name}`").into()]);
        Ok(Self {
            cert_file: needed("cert_file")?,
            key_file: needed("key_file")?,
            key_password_file: path("key_password_file")?,
        })
    }
}

/// Whether clients need a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// They are not asked.
    None,
    /// They are asked, and what they show must be valid.
    Optional,
    /// They must show a valid one, unless they use a pre-shared key.
    Required,
}

words!(Verify {
    "none" => Verify::None,
    "optional" => Verify::Optional,
    "required" => Verify::Required,
});

/// Which name of a client certificate is its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertIdentity {
    /// The common name of the subject.
    Cn,
    /// The first DNS name among the alternative names.
    SanDns,
    /// The first URI among the alternative names.
    SanUri,
}

words!(CertIdentity {
    "cn" => CertIdentity::Cn,
    "san_dns" => CertIdentity::SanDns,
    "san_uri" => CertIdentity::SanUri,
});

/// Attributes by their names, and what of a certificate they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CertAttributes(pub Vec<(String, CertField)>);

const CERT_FIELDS: [(&str, CertField); 9] = [
    ("cn", CertField::Cn),
    ("o", CertField::O),
    ("ou", CertField::Ou),
    ("c", CertField::C),
    ("st", CertField::St),
    ("l", CertField::L),
    ("serial_number", CertField::SerialNumber),
    ("san_dns", CertField::SanDns),
    ("san_uri", CertField::SanUri),
];

impl Value for CertAttributes {
    const KIND: &'static str = "table of `cn` `o` `ou` `c` `st` `l` `serial_number` `san_dns` `san_uri`";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let table = value
            .as_table()
            .ok_or_else(|| expected("a table such as { site = \"ou\" }", value))?;
        let mut all = Vec::new();
        for (name, field) in table {
            let name = name.get_ref().as_ref();
            Attributes::new([(name, "")]).map_err(|message| vec![message.into()])?;
            all.push((name.to_owned(), word(field.get_ref(), &CERT_FIELDS)?));
        }
        Ok(Self(all))
    }
}

words!(IdentityRole {
    "none" => IdentityRole::None,
    "clientid" => IdentityRole::ClientId,
    "username" => IdentityRole::Username,
});

optional!(NotifyType);

words!(OnClose {
    "detach" => OnClose::Detach,
    "end" => OnClose::End,
});

section! {
    /// A CoAP listener over plain UDP.
    pub struct UdpTable {
        /// Whether it listens. With `false` its table is read, and no file that it names is; a reload opens and closes it.
        enable: bool = true;
        /// Where it listens.
        bind: SocketAddr = "[::]:5683";
        /// Which sources it serves, first match decides; sources that no rule matches are served.
        access_rules: AccessRules = [];
        /// Whether requests must be authenticated; without it, they must unless `authentication.backend` is "none". Or a table
        /// with the keys of `[authentication]`: a backend of this listener's own.
        authentication: Switch = unset;
        /// Overrides `coap.mountpoint`.
        mountpoint: Option<String> = unset, own_mountpoint;
        /// Overrides `coap.connection_required`.
        connection_required: Option<bool> = unset;
        /// Overrides `coap.heartbeat`, for connections that are used from here.
        heartbeat: Option<Duration> = unset, own_heartbeat;
        /// Overrides `coap.notify_type`, for those who observe from here.
        notify_type: Option<NotifyType> = unset;
        /// Peers over all workers, 0 to 100000000; 0 is no limit. Where there are as many, one that has not proved its address gives way to a new
        /// one, else there is no room.
        max_peers: u32 = 0, between(0, 100_000_000);
        /// How old the Echo value may be (RFC 9175, 2.4) that a request has to bring that changes something: a publish, DELETE, or a change to the topic
        /// collection; up to "1h". "0s" asks only those with `fresh=1` for one, of 60 s.
        fresh_requests: Duration = "0s", between(secs(0), hours(1));
        /// What the kernel keeps of datagrams that no worker has read yet, "4KiB" to "1GiB" for each worker; it cuts it at `net.core.rmem_max`.
        receive_buffer: Size = "4MiB", between(Size(4 << 10), Size(1 << 30));
        /// What it keeps of those that it has not sent yet, "4KiB" to "1GiB" for each worker, cut at `net.core.wmem_max`.
        send_buffer: Size = "1MiB", between(Size(4 << 10), Size(1 << 30));
        /// A datagram of just these bytes, 1 to 64, is answered by `health_reply` and by nothing else: for load balancers that ask over UDP. Text,
        /// or `hex:` and digits. Access rules hold for it. "" is none.
        health_request: HealthBytes = "";
        /// The answer to `health_request`, 1 to 64 bytes, no longer than three times the request.
        health_reply: HealthBytes = "";
    }
}

section! {
    /// A CoAP listener over DTLS 1.2.
    pub struct DtlsTable {
        /// Whether it listens. With `false` its table is read, and no file that it names is; a reload opens and closes it.
        enable: bool = true;
        /// Where it listens.
        bind: SocketAddr = "[::]:5684";
        /// Which sources it serves, first match decides; sources that no rule matches are served.
        access_rules: AccessRules = [];
        /// Whether requests must be authenticated; without it, they must unless `authentication.backend` is "none". Or a table
        /// with the keys of `[authentication]`: a backend of this listener's own.
        authentication: Switch = unset;
        /// Overrides `coap.mountpoint`.
        mountpoint: Option<String> = unset, own_mountpoint;
        /// Overrides `coap.connection_required`.
        connection_required: Option<bool> = unset;
        /// Overrides `coap.heartbeat`, for connections that are used from here.
        heartbeat: Option<Duration> = unset, own_heartbeat;
        /// Overrides `coap.notify_type`, for those who observe from here.
        notify_type: Option<NotifyType> = unset;
        /// As `max_sessions`, which holds too; 0 is no limit of its own.
        max_peers: u32 = 0, between(0, 100_000_000);
        /// How old the Echo value may be (RFC 9175, 2.4) that a request has to bring that changes something: a publish, DELETE, or a change to the topic
        /// collection; up to "1h". "0s" asks only those with `fresh=1` for one, of 60 s.
        fresh_requests: Duration = "0s", between(secs(0), hours(1));
        /// What the kernel keeps of datagrams that no worker has read yet, "4KiB" to "1GiB" for each worker; it cuts it at `net.core.rmem_max`.
        receive_buffer: Size = "4MiB", between(Size(4 << 10), Size(1 << 30));
        /// What it keeps of those that it has not sent yet, "4KiB" to "1GiB" for each worker, cut at `net.core.wmem_max`.
        send_buffer: Size = "1MiB", between(Size(4 << 10), Size(1 << 30));
        /// A datagram of just these bytes, 1 to 64, is answered by `health_reply` and by nothing else: for load balancers that ask over UDP. Text,
        /// or `hex:` and digits. Access rules hold for it. "" is none.
        health_request: HealthBytes = "";
        /// The answer to `health_request`, 1 to 64 bytes, no longer than three times the request.
        health_reply: HealthBytes = "";
        /// Pre-shared keys, lines `identity:hexkey`, or with attributes of the client `identity:hexkey {"site": "north"}`; an identity that is no printable text as `hex:` and its digits. The defaults of
        /// this and the three files below hold only while none of `psk_file`, `cert_file` and `certificates` is given.
        psk_file: Option<PathBuf> = "psk.txt";
        /// Where keys are looked up that `psk_file` does not have, while their handshakes wait: a table with `backend` (`http` `postgresql` `mysql`
        /// `mongodb` `redis` `ldap`), beside it the table of that backend as in `[authentication]`, whose `query`, `cmd` or `filter` has ${identity}, and
        /// `lifetime` ("5m", how long keys are used without asking again), `grace` ("1h", how much longer while the server cannot be asked),
        /// `unknown_lifetime` ("10s"), `max_cached` (100000) and `max_lookups` (1024, handshakes that wait).
        psk_source: Given = unset;
        /// Certificate chain in PEM, the server's own first; optional when `psk_file` is given.
        cert_file: Option<PathBuf> = "server.pem";
        /// Private key of the certificate, PEM.
        key_file: Option<PathBuf> = "server.key";
        /// File with the password of the private key, if that is encrypted.
        key_password_file: Option<PathBuf> = "";
        /// More certificates, tables with `cert_file`, `key_file` and `key_password_file`. A client is shown those with the DNS name that it
        /// asks for (SNI), else the first of each kind; of ECDSA and RSA what it can check.
        certificates: Vec<CertificateFiles> = [];
        /// Raw public keys (RFC 7250) of devices, lines `name:fingerprint`: the SHA-256 of the SubjectPublicKeyInfo, as
        /// `openssl pkey -pubin -in device.pub -outform der | sha256sum` tells it. Those who take a raw key are shown that of the
        /// certificate. Needs OpenSSL 3.2 or newer.
        rpk_file: Option<PathBuf> = "";
        /// Trust anchors for client certificates, PEM; read when `verify` is not "none".
        ca_file: Option<PathBuf> = "ca.pem";
        /// Revocation list for client certificates, PEM.
        crl_file: Option<PathBuf> = "";
        /// Whether clients are asked for a certificate, and whether they need one.
        verify: Verify = "none";
        /// Most authorities between a client certificate and its trust anchor, 0 to 100.
        verify_depth: u32 = 10, between(0, 100);
        /// What the identity that the handshake proved is used as.
        identity: IdentityRole = "none";
        /// Which name of a client certificate is its identity.
        cert_identity: CertIdentity = "cn";
        /// Attributes of clients that show a certificate, `${attr.NAME}`, by their names: what of the certificate each is, `cn` `o` `ou` `c` `st` `l`
        /// `serial_number` of the subject, `san_dns` or `san_uri`.
        cert_attributes: CertAttributes = {};
        /// The client id of devices that prove who they are: a text with ${identity}, or with ${cert.cn}, ${cert.san_dns} or
        /// ${cert.san_uri}, whichever `cert_identity` is, for those with certificates alone. In place of `identity`.
        clientid: Option<String> = unset;
        /// Regular expression that the whole of `clientid`, or without it of the identity, must match; its one group is the client id.
        /// A device that does not fit is refused.
        clientid_pattern: Option<String> = unset;
        /// Their user name, in the same way.
        username: Option<String> = unset;
        /// As `clientid_pattern`.
        username_pattern: Option<String> = unset;
        /// What becomes of a connection when its session ends.
        on_close: OnClose = "detach";
        /// OpenSSL cipher list, best first; "" is the built-in policy: PSK suites first, as who offers one has a key, RFC 7252's
        /// mandatory suites included.
        ciphers: String = "";
        /// Whether there are also the CBC suites of devices that have nothing else (`TLS_PSK_WITH_AES_128_CBC_SHA256` of LwM2M 1.0, and
        /// with ECDHE). Off, as they are weaker and cost more: they have no Connection ID.
        legacy_cbc: bool = false;
        /// Sessions with such a suite, 1 to 1000000; each holds about 43 KiB inside OpenSSL. Where there are as many, one of a peer
        /// without an identity gives way first.
        legacy_max_sessions: u32 = 1000, between(1, 1_000_000);
        /// A handshake that takes longer fails, "1s" to "5m". Devices on slow networks wait 9 s, then 27 s for an answer (RFC 7925,
        /// 11).
        handshake_timeout: Duration = "60s", between(secs(1), secs(300));
        /// A session without a record for this long ends, "1s" to "8760h".
        idle_timeout: Duration = "24h", between(secs(1), hours(24 * 365));
        /// Sessions, 1 to 10000000.
        max_sessions: u32 = 100000, between(1, 10_000_000);
        /// Handshakes in flight, 1 to 100000; each holds about 80 KiB inside OpenSSL while it lasts.
        max_half_open: u32 = 1024, between(1, 100_000);
        /// Handshakes that begin in a second, over all workers and sources, 0 to 1000000, as many at once; 0 is no limit. While half of them are
        /// taken a source has its `limits.handshakes_per_second`. A hello over it gets no answer: its client repeats it, with the cookie that it has.
        max_handshakes_per_second: u32 = 0, between(0, 1_000_000);
        /// Largest IP packet of a handshake flight in bytes, 320 to 16384.
        mtu: u32 = 1280, between(320, 16_384);
        /// Whether to negotiate Connection IDs (RFC 9146) with clients that offer them.
        cid: bool = true;
    }
}

section! {
    /// A CoAP listener over TCP (RFC 8323).
    pub struct TcpTable {
        /// Whether it listens. With `false` its table is read, and no file that it names is; a reload opens and closes it.
        enable: bool = true;
        /// Where it listens.
        bind: SocketAddr = "[::]:5683";
        /// Which sources it serves, first match decides; sources that no rule matches are served.
        access_rules: AccessRules = [];
        /// Whether requests must be authenticated; without it, they must unless `authentication.backend` is "none". Or a table
        /// with the keys of `[authentication]`: a backend of this listener's own.
        authentication: Switch = unset;
        /// Overrides `coap.mountpoint`.
        mountpoint: Option<String> = unset, own_mountpoint;
        /// Overrides `coap.connection_required`.
        connection_required: Option<bool> = unset;
        /// Overrides `coap.heartbeat`, for connections that are used from here.
        heartbeat: Option<Duration> = unset, own_heartbeat;
        /// How old the Echo value may be (RFC 9175, 2.4) that a request has to bring that changes something: a publish, DELETE, or a change to the topic
        /// collection; up to "1h". "0s" asks only those with `fresh=1` for one, of 60 s.
        fresh_requests: Duration = "0s", between(secs(0), hours(1));
        /// Connections over all workers, 1 to 1000000. What comes beyond is closed at once.
        max_connections: u32 = 10000, between(1, 1_000_000);
        /// Those of one source, 0 to 1000000; 0 is no limit. A fleet behind one address is one source.
        max_connections_per_source: u32 = 1000, between(0, 1_000_000);
        /// Connections that begin in a second, 0 to 1000000, as many at once; 0 is no limit.
        max_handshakes_per_second: u32 = 0, between(0, 1_000_000);
        /// A connection has to begin with its CSM within this time, "1s" to "5m".
        handshake_timeout: Duration = "30s", between(secs(1), secs(300));
        /// A connection without a message for this long ends, "1s" to "8760h". A Ping (RFC 8323, 5.4) is a message; whether a peer is there at
        /// all TCP asks every two minutes.
        idle_timeout: Duration = "24h", between(secs(1), hours(24 * 365));
        /// `true`: its connections are WebSockets (RFC 8323, 4), at `/.well-known/coap` with the subprotocol `coap`, and no page of a browser may open
        /// one. A list of origins, as browsers write them: those pages may.
        websocket: WebSocket = false;
        /// A message that began has to be whole within this time, and a peer has to take something of what is sent to it, else its connection
        /// ends; "1s" to "10m".
        message_timeout: Duration = "30s", between(secs(1), secs(600));
        /// Longest message, either way, with its options; told to each peer (Max-Message-Size), 1152 to "1MiB". Longer bodies travel in blocks.
        max_message_size: Size = "64KiB", between(Size(1152), Size(1 << 20));
        /// What may wait for one peer to read it, "64KiB" to "64MiB", and not less than four messages; with more its connection ends. From 64 KiB on
        /// notifications wait in their own queue.
        max_queued: Size = "1MiB", between(Size(64 << 10), Size(64 << 20));
        /// What becomes of a connection of connection mode when its stream ends.
        on_close: OnClose = "detach";
    }
}

section! {
    /// A CoAP listener over TLS 1.2 and 1.3 (RFC 8323).
    pub struct TlsTable {
        /// Whether it listens. With `false` its table is read, and no file that it names is; a reload opens and closes it.
        enable: bool = true;
        /// Where it listens.
        bind: SocketAddr = "[::]:5684";
        /// Which sources it serves, first match decides; sources that no rule matches are served.
        access_rules: AccessRules = [];
        /// Whether requests must be authenticated; without it, they must unless `authentication.backend` is "none". Or a table
        /// with the keys of `[authentication]`: a backend of this listener's own.
        authentication: Switch = unset;
        /// Overrides `coap.mountpoint`.
        mountpoint: Option<String> = unset, own_mountpoint;
        /// Overrides `coap.connection_required`.
        connection_required: Option<bool> = unset;
        /// Overrides `coap.heartbeat`, for connections that are used from here.
        heartbeat: Option<Duration> = unset, own_heartbeat;
        /// How old the Echo value may be (RFC 9175, 2.4) that a request has to bring that changes something: a publish, DELETE, or a change to the topic
        /// collection; up to "1h". "0s" asks only those with `fresh=1` for one, of 60 s.
        fresh_requests: Duration = "0s", between(secs(0), hours(1));
        /// Pre-shared keys, lines `identity:hexkey`; an identity that is no printable text as `hex:` and its digits. The defaults of
        /// this and the three files below hold only while none of `psk_file`, `cert_file` and `certificates` is given.
        psk_file: Option<PathBuf> = "psk.txt";
        /// Certificate chain in PEM, the server's own first; optional when `psk_file` is given.
        cert_file: Option<PathBuf> = "server.pem";
        /// Private key of the certificate, PEM.
        key_file: Option<PathBuf> = "server.key";
        /// File with the password of the private key, if that is encrypted.
        key_password_file: Option<PathBuf> = "";
        /// More certificates, tables with `cert_file`, `key_file` and `key_password_file`. A client is shown those with the DNS name that it
        /// asks for (SNI), else the first of each kind; of ECDSA and RSA what it can check.
        certificates: Vec<CertificateFiles> = [];
        /// Trust anchors for client certificates, PEM; read when `verify` is not "none".
        ca_file: Option<PathBuf> = "ca.pem";
        /// Revocation list for client certificates, PEM.
        crl_file: Option<PathBuf> = "";
        /// Whether clients are asked for a certificate, and whether they need one.
        verify: Verify = "none";
        /// Most authorities between a client certificate and its trust anchor, 0 to 100.
        verify_depth: u32 = 10, between(0, 100);
        /// What the identity that the handshake proved is used as.
        identity: IdentityRole = "none";
        /// Which name of a client certificate is its identity.
        cert_identity: CertIdentity = "cn";
        /// Attributes of clients that show a certificate, `${attr.NAME}`, by their names: what of the certificate each is, `cn` `o` `ou` `c` `st` `l`
        /// `serial_number` of the subject, `san_dns` or `san_uri`.
        cert_attributes: CertAttributes = {};
        /// The client id of devices that prove who they are: a text with ${identity}, or with ${cert.cn}, ${cert.san_dns} or
        /// ${cert.san_uri}, whichever `cert_identity` is, for those with certificates alone. In place of `identity`.
        clientid: Option<String> = unset;
        /// Regular expression that the whole of `clientid`, or without it of the identity, must match; its one group is the client id.
        /// A device that does not fit is refused.
        clientid_pattern: Option<String> = unset;
        /// Their user name, in the same way.
        username: Option<String> = unset;
        /// As `clientid_pattern`.
        username_pattern: Option<String> = unset;
        /// OpenSSL cipher list of TLS 1.2, best first; "" is the built-in policy, that of DTLS. The suites of TLS 1.3 are not chosen from.
        ciphers: String = "";
        /// Connections over all workers, 1 to 1000000. What comes beyond is closed at once.
        max_connections: u32 = 10000, between(1, 1_000_000);
        /// Those of one source, 0 to 1000000; 0 is no limit. A fleet behind one address is one source.
        max_connections_per_source: u32 = 1000, between(0, 1_000_000);
        /// TLS handshakes that begin in a second, 0 to 1000000, as many at once; 0 is no limit.
        max_handshakes_per_second: u32 = 0, between(0, 1_000_000);
        /// TLS handshakes in flight, 1 to 100000; each holds about 80 KiB inside OpenSSL while it lasts.
        max_half_open: u32 = 1024, between(1, 100_000);
        /// A handshake has to be done, and after it the CSM has to come, within this time, "1s" to "5m".
        handshake_timeout: Duration = "30s", between(secs(1), secs(300));
        /// A connection without a message for this long ends, "1s" to "8760h". A Ping (RFC 8323, 5.4) is a message; whether a peer is there at
        /// all TCP asks every two minutes.
        idle_timeout: Duration = "24h", between(secs(1), hours(24 * 365));
        /// `true`: its connections are WebSockets (RFC 8323, 4), at `/.well-known/coap` with the subprotocol `coap`, and no page of a browser may open
        /// one. A list of origins, as browsers write them: those pages may.
        websocket: WebSocket = false;
        /// A message that began has to be whole within this time, and a peer has to take something of what is sent to it, else its connection
        /// ends; "1s" to "10m".
        message_timeout: Duration = "30s", between(secs(1), secs(600));
        /// Longest message, either way, with its options; told to each peer (Max-Message-Size), 1152 to "1MiB". Longer bodies travel in blocks.
        max_message_size: Size = "64KiB", between(Size(1152), Size(1 << 20));
        /// What may wait for one peer to read it, "64KiB" to "64MiB", and not less than four messages; with more its connection ends. From 64 KiB on
        /// notifications wait in their own queue.
        max_queued: Size = "1MiB", between(Size(64 << 10), Size(64 << 20));
        /// What becomes of a connection of connection mode when its stream ends.
        on_close: OnClose = "detach";
    }
}

impl UdpTable {
    fn into_listener(self, name: String, authentication: Login) -> Listener {
        Listener {
            name,
            bind: self.bind,
            access_rules: self.access_rules,
            authentication,
            mountpoint: self.mountpoint,
            overrides: Overrides {
                connection_required: self.connection_required,
                heartbeat: self.heartbeat,
                notify_type: self.notify_type,
            },
            fresh_requests: self.fresh_requests,
            max_peers: self.max_peers,
            receive_buffer: self.receive_buffer,
            send_buffer: self.send_buffer,
            health: health(self.health_request, self.health_reply),
            dtls: None,
            stream: None,
        }
    }
}

impl DtlsTable {
    fn into_listener(
        self,
        name: String,
        authentication: Login,
        psk_source: Option<Box<PskSource>>,
        doc: &Document<'_>,
    ) -> Listener {
        let key = format!("listeners.dtls.{name}");
        let own_files = doc.has(&format!("{key}.psk_file"))
            || psk_source.is_some()
            || doc.has(&format!("{key}.cert_file"))
            || !self.certificates.is_empty();
        let given = |field: &str, path: Option<PathBuf>| {
            path.filter(|_| !own_files || doc.has(&format!("{key}.{field}")))
        };
        Listener {
            bind: self.bind,
            access_rules: self.access_rules,
            authentication,
            mountpoint: self.mountpoint,
            overrides: Overrides {
                connection_required: self.connection_required,
                heartbeat: self.heartbeat,
                notify_type: self.notify_type,
            },
            fresh_requests: self.fresh_requests,
            max_peers: self.max_peers,
            receive_buffer: self.receive_buffer,
            send_buffer: self.send_buffer,
            health: health(self.health_request, self.health_reply),
            dtls: Some(Dtls {
                psk_file: given("psk_file", self.psk_file),
                psk_source,
                cert_file: given("cert_file", self.cert_file),
                key_file: given("key_file", self.key_file),
                key_password_file: self.key_password_file,
                certificates: self.certificates,
                rpk_file: self.rpk_file,
                ca_file: given("ca_file", self.ca_file),
                crl_file: self.crl_file,
                verify: self.verify,
                verify_depth: self.verify_depth,
                identity: self.identity,
                cert_identity: self.cert_identity,
                cert_attributes: self.cert_attributes,
                clientid: name_text(self.clientid, self.clientid_pattern),
                username: name_text(self.username, self.username_pattern),
                on_close: self.on_close,
                ciphers: self.ciphers,
                legacy_cbc: self.legacy_cbc,
                legacy_max_sessions: self.legacy_max_sessions,
                handshake_timeout: self.handshake_timeout,
                idle_timeout: self.idle_timeout,
                max_sessions: self.max_sessions,
                max_half_open: self.max_half_open,
                max_handshakes_per_second: self.max_handshakes_per_second,
                mtu: self.mtu,
                cid: self.cid,
                tls: false,
            }),
            stream: None,
            name,
        }
    }
}

impl TcpTable {
    fn into_listener(self, name: String, authentication: Login) -> Listener {
        Listener {
            name,
            bind: self.bind,
            access_rules: self.access_rules,
            authentication,
            mountpoint: self.mountpoint,
            overrides: Overrides {
                connection_required: self.connection_required,
                heartbeat: self.heartbeat,
                notify_type: None,
            },
            fresh_requests: self.fresh_requests,
            max_peers: 0,
            receive_buffer: Size(0),
            send_buffer: Size(0),
            health: None,
            dtls: None,
            stream: Some(Stream {
                websocket: self.websocket,
                max_connections: self.max_connections,
                max_connections_per_source: self.max_connections_per_source,
                max_handshakes_per_second: self.max_handshakes_per_second,
                max_half_open: self.max_connections,
                handshake_timeout: self.handshake_timeout,
                idle_timeout: self.idle_timeout,
                message_timeout: self.message_timeout,
                max_message_size: self.max_message_size,
                max_queued: self.max_queued,
                on_close: self.on_close,
            }),
        }
    }
}

impl TlsTable {
    fn into_listener(self, name: String, authentication: Login, doc: &Document<'_>) -> Listener {
        let key = format!("listeners.tls.{name}");
        let own_files = doc.has(&format!("{key}.psk_file"))
            || doc.has(&format!("{key}.cert_file"))
            || !self.certificates.is_empty();
        let given = |field: &str, path: Option<PathBuf>| {
            path.filter(|_| !own_files || doc.has(&format!("{key}.{field}")))
        };
        Listener {
            bind: self.bind,
            access_rules: self.access_rules,
            authentication,
            mountpoint: self.mountpoint,
            overrides: Overrides {
                connection_required: self.connection_required,
                heartbeat: self.heartbeat,
                notify_type: None,
            },
            fresh_requests: self.fresh_requests,
            max_peers: 0,
            receive_buffer: Size(0),
            send_buffer: Size(0),
            health: None,
            dtls: Some(Dtls {
                psk_file: given("psk_file", self.psk_file),
                psk_source: None,
                cert_file: given("cert_file", self.cert_file),
                key_file: given("key_file", self.key_file),
                key_password_file: self.key_password_file,
                certificates: self.certificates,
                rpk_file: None,
                ca_file: given("ca_file", self.ca_file),
                crl_file: self.crl_file,
                verify: self.verify,
                verify_depth: self.verify_depth,
                identity: self.identity,
                cert_identity: self.cert_identity,
                cert_attributes: self.cert_attributes,
                clientid: name_text(self.clientid, self.clientid_pattern),
                username: name_text(self.username, self.username_pattern),
                on_close: self.on_close,
                ciphers: self.ciphers,
                legacy_cbc: false,
                legacy_max_sessions: 0,
                handshake_timeout: self.handshake_timeout,
                idle_timeout: self.idle_timeout,
                max_sessions: self.max_connections,
                max_half_open: self.max_half_open,
                max_handshakes_per_second: self.max_handshakes_per_second,
                mtu: DATAGRAM,
                cid: false,
                tls: true,
            }),
            stream: Some(Stream {
                websocket: self.websocket,
                max_connections: self.max_connections,
                max_connections_per_source: self.max_connections_per_source,
                max_handshakes_per_second: self.max_handshakes_per_second,
                max_half_open: self.max_half_open,
                handshake_timeout: self.handshake_timeout,
                idle_timeout: self.idle_timeout,
                message_timeout: self.message_timeout,
                max_message_size: self.max_message_size,
                max_queued: self.max_queued,
                on_close: self.on_close,
            }),
            name,
        }
    }
}

/// What stands for the largest datagram of a handshake where there are none.
const DATAGRAM: u32 = 1280;

/// A name by its two keys. An expression alone is for the identity as it is.
fn name_text(text: Option<String>, pattern: Option<String>) -> Option<NameText> {
    let text = text.or_else(|| pattern.is_some().then(|| "${identity}".to_owned()))?;
    Some(NameText { text, pattern })
}

/// Bytes of a datagram that asks whether a listener serves, or of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthBytes(Vec<u8>);

impl HealthBytes {
    /// Most bytes of either.
    const MAX: usize = 64;
}

impl Value for HealthBytes {
    const KIND: &'static str = "text";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "1 to 64 bytes as text, or `hex:` and two digits for each, or \"\"";
        let text = value.as_str().ok_or_else(|| expected(what, value))?;
        let bytes = match text.strip_prefix("hex:") {
            Some(digits) => hex::decode(digits).map_err(|_| expected(what, value))?,
            None => text.as_bytes().to_vec(),
        };
        if bytes.len() > Self::MAX {
            return Err(expected(what, value));
        }
        Ok(Self(bytes))
    }
}

fn health(request: HealthBytes, reply: HealthBytes) -> Option<(Vec<u8>, Vec<u8>)> {
    (!request.0.is_empty() && !reply.0.is_empty()).then_some((request.0, reply.0))
}

/// Complains of a health request without a reply, of a reply without a request, and of one that would make a small datagram a large one.
fn check_health(request: &HealthBytes, reply: &HealthBytes, key: &str, doc: &mut Document<'_>) {
    let (asked, answered) = (request.0.len(), reply.0.len());
    let (field, message) = match (asked, answered) {
        (0, 0) => return,
        (0, _) => ("health_reply", "it answers `health_request`, which is not there"),
        (_, 0) => (
            "health_request",
            "it is answered by `health_reply`, which is not there",
        ),
        _ if answered > 3 * asked => (
            "health_reply",
            "it is longer than three times `health_request`: with a forged source it would be an amplifier",
        ),
        _ => return,
    };
    doc.complain(&[&format!("{key}.{field}")], message);
}

/// Most listeners in one file; each has sockets and counters in every worker.
const MAX_LISTENERS: usize = 1024;

/// Reads `[listeners]`; without it, one listener of each kind called `default`.
pub(super) fn read(root: &mut Table<'_>, doc: &mut Document<'_>) -> Option<Vec<Listener>> {
    let mut listeners = root.child(doc, "listeners");
    if !listeners.is_present() && !doc.is_broken(&["listeners"]) {
        return Some(vec![
            read_one(
                Transport::Udp,
                "default".to_owned(),
                Table::absent("listeners.udp.default"),
                doc,
            )?
            .1,
            read_one(
                Transport::Dtls,
                "default".to_owned(),
                Table::absent("listeners.dtls.default"),
                doc,
            )?
            .1,
        ]);
    }
    let udp = listeners.child(doc, "udp");
    let dtls = listeners.child(doc, "dtls");
    let tcp = listeners.child(doc, "tcp");
    let tls = listeners.child(doc, "tls");
    let mistyped = listeners.has_unknown();
    listeners.finish(doc);
    let mut all = Vec::new();
    let kinds = [udp, dtls, tcp, tls];
    for (transport, kind) in Transport::ALL.into_iter().zip(kinds) {
        for (name, table) in kind.named_tables(doc) {
            let key = kind.key(&name);
            if let Err(message) = check_name(&name) {
                doc.complain(&[&key], message);
            }
            all.push((doc.position(&key), read_one(transport, name, table, doc)?));
        }
    }
    if all.is_empty() && !mistyped {
        doc.complain(
            &["listeners", "listeners.udp", "listeners.dtls", "listeners.tcp", "listeners.tls"],
            "no listener: add a table such as [listeners.udp.default], or leave [listeners] out for the default ones",
        );
    } else if !all.is_empty() && all.iter().all(|(_, (is_enabled, _))| !is_enabled) {
        doc.complain(&["listeners"], "no listener is enabled");
    }
    if all.len() > MAX_LISTENERS {
        doc.complain(
            &["listeners"],
            format!("at most {MAX_LISTENERS} listeners, found {}", all.len()),
        );
    }
    all.sort_by_key(|(position, _)| *position);
    let enabled = all.into_iter().filter(|(_, (is_enabled, _))| *is_enabled);
    Some(enabled.map(|(_, (_, listener))| listener).collect())
}

fn read_one(
    transport: Transport,
    name: String,
    mut table: Table<'_>,
    doc: &mut Document<'_>,
) -> Option<(bool, Listener)> {
    let key = format!("listeners.{}.{name}", transport.label());
    let (is_enabled, listener) = match transport {
        Transport::Udp => {
            let read = UdpTable::read(&mut table, doc)?;
            check_health(&read.health_request, &read.health_reply, &key, doc);
            let login = Login::read(read.authentication, &mut table, doc)?;
            (read.enable, read.into_listener(name, login))
        }
        Transport::Dtls => {
            let read = DtlsTable::read(&mut table, doc)?;
            check_health(&read.health_request, &read.health_reply, &key, doc);
            let login = Login::read(read.authentication, &mut table, doc)?;
            let source = match read.psk_source {
                Given(true) => Some(Box::new(PskSource::read_from(&mut table, doc)?)),
                Given(false) => None,
            };
            (read.enable, read.into_listener(name, login, source, doc))
        }
        Transport::Tcp => {
            let read = TcpTable::read(&mut table, doc)?;
            let login = Login::read(read.authentication, &mut table, doc)?;
            (read.enable, read.into_listener(name, login))
        }
        Transport::Tls => {
            let read = TlsTable::read(&mut table, doc)?;
            let login = Login::read(read.authentication, &mut table, doc)?;
            (read.enable, read.into_listener(name, login, doc))
        }
    };
    if let Some(stream) = &listener.stream
        && stream.max_queued.0 / 4 < stream.max_message_size.0
    {
        doc.complain(
            &[&format!("{key}.max_queued"), &format!("{key}.max_message_size")],
            "it is less than four times `max_message_size`: a peer would be too slow with a few messages",
        );
    }
    table.finish(doc);
    Some((is_enabled, listener))
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if (1..=64).contains(&name.len()) && name.chars().all(fits) {
        Ok(())
    } else {
        Err("a listener's name is 1 to 64 letters, digits, `-` or `_`: it is a metric label and part of paths".to_owned())
    }
}
