//! The listeners, in the order of the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use portcullis_proto::policy::authentication::IdentityRole;
use portcullis_proto::types::Transport;

use super::access::Login;
use super::document::{Document, Table};
use super::psk_source::{Given, PskSource};
use super::section::{Key, Section};

mod tables;
mod values;

pub use tables::{Common, Datagrams, Handshake, Sessions, Stream};
use tables::{DtlsTable, TcpTable, TlsTable, UdpTable};
pub use values::{CertIdentity, CertificateFiles, Verify};

/// A table `[listeners.udp.NAME]`, `[listeners.dtls.NAME]`, `[listeners.tcp.NAME]` or `[listeners.tls.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name, unique among the listeners of its kind.
    pub name: String,
    /// The address of its socket; port 0 is any that is free.
    pub bind: SocketAddr,
    /// Most peers, over all workers; 0 is no limit, and what one for streams has.
    pub max_peers: u32,
    /// What every listener has.
    pub common: Common,
    /// Who decides about its logins.
    pub authentication: Login,
    /// What one for datagrams has: UDP or DTLS.
    pub datagrams: Option<Datagrams>,
    /// What one with DTLS or TLS has.
    pub dtls: Option<Dtls>,
    /// What one for streams has: TCP or TLS.
    pub stream: Option<Stream>,
}

/// What a listener with DTLS or TLS has beside what every listener has.
#[derive(Debug, Clone, PartialEq)]
pub struct Dtls {
    /// What its handshakes show and ask for, and how many there may be.
    pub handshake: Handshake,
    /// Where keys are looked up that the file does not have.
    pub psk_source: Option<Box<PskSource>>,
    /// Raw public keys of devices: lines `name:fingerprint`.
    pub rpk_file: Option<PathBuf>,
    /// What holds for its sessions; nothing where it is TLS.
    pub sessions: Option<Sessions>,
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

impl Datagrams {
    /// A datagram that asks whether it serves, and the answer.
    #[must_use]
    pub fn health(&self) -> Option<(&[u8], &[u8])> {
        let (request, reply) = (&self.health_request.0, &self.health_reply.0);
        (!request.is_empty() && !reply.is_empty()).then_some((request, reply))
    }
}

/// A name that is made of an identity, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameText<'c> {
    /// A text with placeholders.
    pub text: &'c str,
    /// What it must match.
    pub pattern: Option<&'c str>,
}

impl<'c> NameText<'c> {
    /// A name by its two keys. An expression alone is for the identity as it is.
    fn new(text: Option<&'c String>, pattern: Option<&'c String>) -> Option<Self> {
        let identity = || pattern.map(|_| "${identity}");
        Some(Self {
            text: text.map(String::as_str).or_else(identity)?,
            pattern: pattern.map(String::as_str),
        })
    }
}

impl Handshake {
    /// What makes the client id of a device.
    #[must_use]
    pub(crate) fn client_name(&self) -> Option<NameText<'_>> {
        NameText::new(self.clientid.as_ref(), self.clientid_pattern.as_ref())
    }

    /// What makes its user name.
    #[must_use]
    pub(crate) fn user_name(&self) -> Option<NameText<'_>> {
        NameText::new(self.username.as_ref(), self.username_pattern.as_ref())
    }

    /// What the identity of a handshake is used as.
    #[must_use]
    pub fn role(&self) -> IdentityRole {
        if self.client_name().is_some() {
            IdentityRole::ClientId
        } else if self.user_name().is_some() {
            IdentityRole::Username
        } else {
            self.identity
        }
    }

    /// Whether there is a certificate to show.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.cert_file.is_some() || !self.certificates.is_empty()
    }

    /// The defaults of files hold only where the file names none of the keys and certificates that are shown.
    fn without_defaults(mut self, has_source: bool, key: &str, doc: &Document<'_>) -> Self {
        let given = |field: &str| doc.has(&format!("{key}.{field}"));
        if has_source || given("psk_file") || given("cert_file") || !self.certificates.is_empty() {
            for (field, file) in [
                ("psk_file", &mut self.psk_file),
                ("cert_file", &mut self.cert_file),
                ("key_file", &mut self.key_file),
                ("ca_file", &mut self.ca_file),
            ] {
                if !given(field) {
                    *file = None;
                }
            }
        }
        self
    }
}

/// Appends the keys of the four kinds of table.
pub(super) fn keys(keys: &mut Vec<Key>) {
    UdpTable::keys("listeners.udp.*", keys);
    DtlsTable::keys("listeners.dtls.*", keys);
    TcpTable::keys("listeners.tcp.*", keys);
    TlsTable::keys("listeners.tls.*", keys);
}

/// Complains of a health request without a reply, of a reply without a request, and of one that would make a small datagram a large one.
fn check_health(datagrams: &Datagrams, key: &str, doc: &mut Document<'_>) {
    let (asked, answered) = (datagrams.health_request.0.len(), datagrams.health_reply.0.len());
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
        let default = |transport: Transport, doc: &mut Document<'_>| {
            let table = Table::absent(&format!("listeners.{}.default", transport.label()));
            read_one(transport, "default".to_owned(), table, doc)
        };
        return Some(vec![
            default(Transport::Udp, doc)?,
            default(Transport::Dtls, doc)?,
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
    } else if !all.is_empty() && !all.iter().any(|(_, listener)| listener.common.enable) {
        doc.complain(&["listeners"], "no listener is enabled");
    }
    if all.len() > MAX_LISTENERS {
        doc.complain(
            &["listeners"],
            format!("at most {MAX_LISTENERS} listeners, found {}", all.len()),
        );
    }
    all.sort_by_key(|(position, _)| *position);
    let listeners = all.into_iter().map(|(_, listener)| listener);
    Some(listeners.filter(|listener| listener.common.enable).collect())
}

fn read_one(
    transport: Transport,
    name: String,
    mut table: Table<'_>,
    doc: &mut Document<'_>,
) -> Option<Listener> {
    let key = format!("listeners.{}.{name}", transport.label());
    let (bind, common, max_peers, datagrams, dtls, stream) = match transport {
        Transport::Udp => {
            let read = UdpTable::read(&mut table, doc)?;
            (
                read.bind,
                read.common,
                read.max_peers,
                Some(read.datagrams),
                None,
                None,
            )
        }
        Transport::Dtls => {
            let read = DtlsTable::read(&mut table, doc)?;
            let psk_source = match read.psk_source {
                Given(true) => Some(Box::new(PskSource::read_from(&mut table, doc)?)),
                Given(false) => None,
            };
            let dtls = Dtls {
                handshake: read.handshake.without_defaults(psk_source.is_some(), &key, doc),
                psk_source,
                rpk_file: read.rpk_file,
                sessions: Some(read.sessions),
            };
            (
                read.bind,
                read.common,
                read.max_peers,
                Some(read.datagrams),
                Some(dtls),
                None,
            )
        }
        Transport::Tcp => {
            let read = TcpTable::read(&mut table, doc)?;
            (read.bind, read.common, 0, None, None, Some(read.stream))
        }
        Transport::Tls => {
            let read = TlsTable::read(&mut table, doc)?;
            let dtls = Dtls {
                handshake: read.handshake.without_defaults(false, &key, doc),
                psk_source: None,
                rpk_file: None,
                sessions: None,
            };
            (read.bind, read.common, 0, None, Some(dtls), Some(read.stream))
        }
    };
    // What is wrong with one part hides nothing that is wrong with another.
    let authentication = Login::read(common.authentication, &mut table, doc);
    if let Some(datagrams) = &datagrams {
        check_health(datagrams, &key, doc);
    }
    if let Some(stream) = &stream
        && stream.max_queued.0 / 4 < stream.max_message_size.0
    {
        doc.complain(
            &[&format!("{key}.max_queued"), &format!("{key}.max_message_size")],
            "it is less than four times `max_message_size`: a peer would be too slow with a few messages",
        );
    }
    table.finish(doc);
    Some(Listener {
        authentication: authentication?,
        name,
        bind,
        max_peers,
        common,
        datagrams,
        dtls,
        stream,
    })
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if (1..=64).contains(&name.len()) && name.chars().all(fits) {
        Ok(())
    } else {
        Err("a listener's name is 1 to 64 letters, digits, `-` or `_`: it is a metric label and part of paths".to_owned())
    }
}
