//! The tables of listeners: what several kinds have alike is declared once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_proto::gateway::settings::{NotifyType, OnClose};
use portcullis_proto::policy::authentication::IdentityRole;
use portcullis_proto::types::AccessRules;

use crate::access::Switch;
use crate::check::{between, hours, own_heartbeat, own_mountpoint, secs};
use crate::psk_source::Given;
use crate::section::section;
use crate::value::Size;
use crate::websocket::WebSocket;

use super::values::{CertAttributes, CertIdentity, CertificateFiles, HealthBytes, Verify};

section! {
    /// What every listener has.
    pub struct Common {
        /// Whether it listens. With `false` its table is read, and no file that it names is; a reload opens and closes it.
        enable: bool = true;
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
    }
}

section! {
    /// What a listener for datagrams has.
    pub struct Datagrams {
        /// Overrides `coap.notify_type`, for those who observe from here.
        notify_type: Option<NotifyType> = unset;
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
    /// What a handshake of DTLS or TLS shows and asks of the peer, and how many there may be.
    pub struct Handshake {
        /// Pre-shared keys, lines `identity:hexkey`, or with attributes of the client `identity:hexkey {"site": "north"}`; an identity that is no printable text as `hex:` and its digits. The defaults of
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
        /// OpenSSL cipher list, best first, of TLS up to 1.2; "" is the built-in policy: PSK suites first, as who offers one has a key, RFC 7252's
        /// mandatory suites included. The suites of TLS 1.3 are not chosen from.
        ciphers: String = "";
        /// Handshakes in flight, 1 to 100000; each holds about 80 KiB inside OpenSSL while it lasts.
        max_half_open: u32 = 1024, between(1, 100_000);
    }
}

section! {
    /// What holds for sessions of DTLS.
    pub struct Sessions {
        /// What becomes of a connection when its session ends.
        on_close: OnClose = "detach";
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
    /// What holds for connections over TCP or TLS.
    pub struct Stream {
        /// Connections over all workers, 1 to 1000000. What comes beyond is closed at once.
        max_connections: u32 = 10000, between(1, 1_000_000);
        /// Those of one source, 0 to 1000000; 0 is no limit. A fleet behind one address is one source.
        max_connections_per_source: u32 = 1000, between(0, 1_000_000);
        /// Connections, or TLS handshakes, that begin in a second, 0 to 1000000, as many at once; 0 is no limit.
        max_handshakes_per_second: u32 = 0, between(0, 1_000_000);
        /// A TLS handshake has to be done, and then the CSM has to come, within this time, "1s" to "5m".
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
    /// A CoAP listener over plain UDP.
    pub(super) struct UdpTable {
        /// Where it listens.
        bind: SocketAddr = "[::]:5683";
        /// Peers over all workers, 0 to 100000000; 0 is no limit. Where there are as many, one that has not proved its address gives way to a new
        /// one, else there is no room.
        max_peers: u32 = 0, between(0, 100_000_000);
        with /// What every listener has.
        common: Common;
        with /// What its sockets have.
        datagrams: Datagrams;
    }
}

section! {
    /// A CoAP listener over DTLS 1.2.
    pub(super) struct DtlsTable {
        /// Where it listens.
        bind: SocketAddr = "[::]:5684";
        /// As `max_sessions`, which holds too; 0 is no limit of its own.
        max_peers: u32 = 0, between(0, 100_000_000);
        /// Where keys are looked up that `psk_file` does not have, while their handshakes wait: a table with `backend` (`http` `postgresql` `mysql`
        /// `mongodb` `redis` `ldap`), beside it the table of that backend as in `[authentication]`, whose `query`, `cmd` or `filter` has ${identity}, and
        /// `lifetime` ("5m", how long keys are used without asking again), `grace` ("1h", how much longer while the server cannot be asked),
        /// `unknown_lifetime` ("10s"), `max_cached` (100000) and `max_lookups` (1024, handshakes that wait).
        psk_source: Given = unset;
        /// Raw public keys (RFC 7250) of devices, lines `name:fingerprint`: the SHA-256 of the SubjectPublicKeyInfo, as
        /// `openssl pkey -pubin -in device.pub -outform der | sha256sum` tells it. Those who take a raw key are shown that of the
        /// certificate. Needs OpenSSL 3.2 or newer.
        rpk_file: Option<PathBuf> = "";
        with /// What every listener has.
        common: Common;
        with /// What its sockets have.
        datagrams: Datagrams;
        with /// What its handshakes show and ask for.
        handshake: Handshake;
        with /// What holds for its sessions.
        sessions: Sessions;
    }
}

section! {
    /// A CoAP listener over TCP (RFC 8323).
    pub(super) struct TcpTable {
        /// Where it listens.
        bind: SocketAddr = "[::]:5683";
        with /// What every listener has.
        common: Common;
        with /// What holds for its connections.
        stream: Stream;
    }
}

section! {
    /// A CoAP listener over TLS 1.2 and 1.3 (RFC 8323).
    pub(super) struct TlsTable {
        /// Where it listens.
        bind: SocketAddr = "[::]:5684";
        with /// What every listener has.
        common: Common;
        with /// What its handshakes show and ask for.
        handshake: Handshake;
        with /// What holds for its connections.
        stream: Stream;
    }
}
