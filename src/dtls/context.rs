//! What the handshakes of one listener are made with: keys, certificates, suites, in one OpenSSL context.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;
use openssl::sha::Sha256;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode,
    SslVersion,
};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Crl, X509Ref, X509StoreContextRef};
use zeroize::{Zeroize, Zeroizing};

use crate::types::reason::Label;
use crate::types::{Identity, Proof};

use super::certificates::{self, CertIdentity, CertificateMark, ContextError, KeyKind};
use super::cid::{Notes, add_extension, notes_index};
use super::ffi;
use super::hello::MAX_CERTIFICATES;
use super::psk::PskStore;
use super::suite::{KeyExchange, Suite};

/// Tickets are good for a day: a device that wakes up once a day still resumes.
const TICKET_LIFETIME: Duration = Duration::from_secs(86_400);
const GROUPS: &str = "P-256:X25519:P-384";
const SIGNATURES: &str = "ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA384:RSA-PSS+SHA384:RSA+SHA384:\
                          ECDSA+SHA512:RSA-PSS+SHA512:RSA+SHA512";
const X509_V_ERR_CERT_REJECTED: i32 = 28;
const X509_V_ERR_EE_KEY_TOO_SMALL: i32 = 66;
const X509_V_ERR_CA_KEY_TOO_SMALL: i32 = 67;
const X509_V_ERR_CA_MD_TOO_WEAK: i32 = 68;

/// Whether clients must show a certificate, where the suite has certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for, and must be good if it comes.
    Optional,
    /// Without a good one the handshake fails.
    Required,
}

/// The keys that session tickets are made with: 16 bytes of name, 32 for the MAC, 32 for AES. The same in every
/// worker and context, so that a ticket outlives both; new ones send old tickets through full handshakes.
#[derive(Clone)]
pub struct TicketKeys(Zeroizing<[u8; 80]>);

impl TicketKeys {
    /// Keys from random bytes.
    #[must_use]
    pub fn new(mut bytes: [u8; 80]) -> Self {
        let keys = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        keys
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys(..)")
    }
}

/// What a [`DtlsContext`] is made from. PEM is handed in as bytes: files are read elsewhere.
#[derive(Clone)]
pub struct DtlsMaterial {
    /// Pre-shared keys; `None` for no PSK suites.
    pub psks: Option<Arc<PskStore>>,
    /// The server's certificate and its chain, the server's first.
    pub cert_pem: Option<Vec<u8>>,
    /// The private key that belongs to it.
    pub key_pem: Option<Zeroizing<Vec<u8>>>,
    /// Trust anchors for client certificates.
    pub ca_pem: Option<Vec<u8>>,
    /// Revocation lists for client certificates.
    pub crl_pem: Option<Vec<u8>>,
    /// Whether clients must show a certificate.
    pub verify: Verify,
    /// Which name of a client's certificate is its identity.
    pub cert_identity: CertIdentity,
    /// An OpenSSL cipher list; empty for the built-in policy. What is not AEAD with SHA-256 is left out.
    pub ciphers: String,
    /// Largest datagram of a flight, in bytes of UDP payload; 256 to 16384.
    pub mtu: usize,
    /// Whether to negotiate Connection IDs (RFC 9146).
    pub cid: bool,
    /// What session tickets are made with.
    pub ticket_keys: TicketKeys,
}

impl fmt::Debug for DtlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsMaterial")
            .field("psks", &self.psks)
            .field("verify", &self.verify)
            .field("ciphers", &self.ciphers)
            .finish_non_exhaustive()
    }
}

/// Whom a handshake or a session belongs to, and by what it can lose that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) identity: Option<Identity>,
    /// A hash of the pre-shared key, to see that it was changed.
    pub(super) psk_mark: u64,
    /// The client's certificate.
    pub(super) certificate: Option<Box<CertificateMark>>,
}

/// The OpenSSL context of one listener with what it was made from; shared by all workers and never changed.
pub struct DtlsContext {
    context: SslContext,
    psks: Option<Arc<PskStore>>,
    suites: Vec<Suite>,
    ignored_ciphers: Vec<String>,
    revoked: HashSet<CertificateMark>,
    cert_identity: CertIdentity,
    asks_certificates: bool,
    own_not_after: Option<i64>,
    crl_next_update: Option<i64>,
    cid: bool,
    mtu: u32,
}

impl fmt::Debug for DtlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsContext")
            .field("suites", &self.suites)
            .finish_non_exhaustive()
    }
}

struct OwnCertificate {
    kind: KeyKind,
    not_after: Option<i64>,
    curve: Option<&'static str>,
}

impl DtlsContext {
    /// Builds and checks everything.
    ///
    /// # Errors
    /// What is wrong, under the name of the configuration key it came by.
    pub fn new(material: &DtlsMaterial) -> Result<Self, ContextError> {
        let broken = |error: ErrorStack| ContextError::openssl("dtls", "OpenSSL refuses", &error);
        if !(256..=16_384).contains(&material.mtu) {
            return Err(ContextError::new("mtu", "it must be 256 to 16384"));
        }
        let mut builder = SslContextBuilder::new(SslMethod::dtls()).map_err(broken)?;
        set_policy(&mut builder).map_err(broken)?;
        let own = set_certificate(&mut builder, material)?;
        let crls = set_verification(&mut builder, material)?;
        let curve = own
            .as_ref()
            .and_then(|own| own.curve)
            .filter(|curve| !GROUPS.contains(curve));
        let groups = curve.map_or_else(|| GROUPS.to_owned(), |curve| format!("{GROUPS}:{curve}"));
        builder.set_groups_list(&groups).map_err(broken)?;
        if let Some(psks) = &material.psks {
            set_psk(&mut builder, psks.clone()).map_err(broken)?;
        }
        if material.cid {
            add_extension(&mut builder).map_err(broken)?;
        }
        if !ffi::set_ticket_keys(&builder, &material.ticket_keys.0) {
            return Err(ContextError::new("dtls", "OpenSSL refuses the ticket keys"));
        }
        ffi::mark_tickets(&builder);
        ffi::set_ticket_lifetime(&builder, TICKET_LIFETIME);
        let (suites, ignored_ciphers) = set_suites(&mut builder, material, own.as_ref().map(|own| own.kind))?;
        let next_updates = crls
            .iter()
            .filter_map(|crl| certificates::unix_seconds(crl.next_update()?));
        Ok(Self {
            context: builder.build(),
            psks: material.psks.clone(),
            suites,
            ignored_ciphers,
            revoked: certificates::revoked(&crls),
            cert_identity: material.cert_identity,
            asks_certificates: material.verify != Verify::None,
            own_not_after: own.and_then(|own| own.not_after),
            crl_next_update: next_updates.min(),
            cid: material.cid,
            mtu: u32::try_from(material.mtu).unwrap_or(1280),
        })
    }

    /// When the server's certificate ends, in seconds since 1970.
    #[must_use]
    pub const fn certificate_not_after(&self) -> Option<i64> {
        self.own_not_after
    }

    /// When the first of the revocation lists is out of date, in seconds since 1970. From then on client
    /// certificates are refused.
    #[must_use]
    pub const fn crl_next_update(&self) -> Option<i64> {
        self.crl_next_update
    }

    /// The suites in use, best first.
    #[must_use]
    pub fn suites(&self) -> &[Suite] {
        &self.suites
    }

    /// Suites of the `ciphers` list that are left out, by OpenSSL's names: they are not AEAD with SHA-256, or there
    /// is no key for them.
    #[must_use]
    pub fn ignored_ciphers(&self) -> &[String] {
        &self.ignored_ciphers
    }

    /// The pre-shared keys.
    #[must_use]
    pub fn psks(&self) -> Option<&Arc<PskStore>> {
        self.psks.as_ref()
    }

    pub(super) const fn cid(&self) -> bool {
        self.cid
    }

    pub(super) const fn asks_certificates(&self) -> bool {
        self.asks_certificates
    }

    /// A fresh server side of a handshake. `offered` are the client's suites, two bytes each.
    pub(super) fn server(&self, notes: Notes, offered: &[u8]) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_mtu(self.mtu)?;
        ssl.set_ex_data(notes_index()?, notes);
        if self
            .chosen(offered)
            .is_some_and(|suite| suite.key_exchange() == KeyExchange::Psk)
        {
            // A ticket would cost more than the handshake that it saves.
            ffi::refuse_ticket(&ssl);
        }
        ssl.set_accept_state();
        Ok(ssl)
    }

    fn chosen(&self, offered: &[u8]) -> Option<Suite> {
        let (offered, _) = offered.as_chunks::<2>();
        self.suites
            .iter()
            .copied()
            .find(|suite| offered.contains(&suite.id()))
    }

    /// Whom a finished handshake belongs to; nothing when that one is not, or no longer, let in.
    pub(super) fn authorize(&self, ssl: &SslRef, suite: Suite) -> Option<Authority> {
        if suite.key_exchange().uses_psk() {
            let (name, key) = self.psks.as_ref()?.entry(ssl.psk_identity()?)?;
            let psk_mark = psk_mark(key.as_bytes());
            let proved_now = !ssl.session_reused() || ffi::ticket_mark(ssl) == Some(psk_mark);
            return proved_now.then(|| Authority {
                identity: Some(Identity {
                    name: name.clone(),
                    proof: Proof::Psk,
                }),
                psk_mark,
                certificate: None,
            });
        }
        let Some(certificate) = ssl.peer_certificate() else {
            return Some(Authority::default());
        };
        let mark = CertificateMark::of(&certificate)?;
        let name = self.cert_identity.name(&certificate)?;
        (!self.revoked.contains(&mark) && !certificates::is_expired(&certificate)).then(|| Authority {
            identity: Some(Identity {
                name: name.into(),
                proof: Proof::Certificate,
            }),
            psk_mark: 0,
            certificate: Some(Box::new(mark)),
        })
    }

    /// Whether a session of this authority may go on.
    pub(super) fn still_authorizes(&self, authority: &Authority) -> bool {
        match (&authority.identity, &authority.certificate) {
            (Some(identity), None) => {
                let key = self
                    .psks
                    .as_ref()
                    .and_then(|psks| psks.get(identity.name.as_bytes()));
                key.is_some_and(|key| psk_mark(key.as_bytes()) == authority.psk_mark)
            }
            (_, Some(mark)) => !self.revoked.contains(mark),
            (None, None) => true,
        }
    }
}

fn psk_mark(key: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"psk mark");
    hash.update(key);
    hash.finish()
        .first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first))
}

fn set_policy(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::DTLS1_2))?;
    // From OpenSSL 3.2 on CCM_8 exists at level 0 only; key strength is checked by ourselves.
    builder.set_security_level(0);
    builder.set_options(
        SslOptions::NO_QUERY_MTU
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | SslOptions::CIPHER_SERVER_PREFERENCE,
    );
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_sigalgs_list(SIGNATURES)?;
    // No SSL exists before its cookie was checked, so that OpenSSL's own question has but one answer.
    builder.set_cookie_verify_cb(|_, _| true);
    builder.set_cookie_generate_cb(|_, _| Ok(0));
    Ok(())
}

fn set_certificate(
    builder: &mut SslContextBuilder,
    material: &DtlsMaterial,
) -> Result<Option<OwnCertificate>, ContextError> {
    let (cert_pem, key_pem) = match (&material.cert_pem, &material.key_pem) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(ContextError::new("key_file", "it is needed beside cert_file")),
        (None, Some(_)) => return Err(ContextError::new("cert_file", "it is needed beside key_file")),
    };
    let refused = |error: ErrorStack| ContextError::openssl("cert_file", "OpenSSL refuses it", &error);
    let chain = certificates::certificates("cert_file", cert_pem)?;
    let key = certificates::private_key("key_file", key_pem)?;
    let mut chain = chain.into_iter();
    let Some(own) = chain.next() else {
        return Ok(None);
    };
    let kind = certificates::check_own(&own, &key)?;
    builder.set_certificate(&own).map_err(refused)?;
    builder.set_private_key(&key).map_err(refused)?;
    for certificate in chain {
        builder.add_extra_chain_cert(certificate).map_err(refused)?;
    }
    Ok(Some(OwnCertificate {
        kind,
        not_after: certificates::unix_seconds(own.not_after()),
        curve: certificates::curve(&key),
    }))
}

/// Trust anchors, revocation lists, and what a ticket must have been issued under to be good here.
fn set_verification(
    builder: &mut SslContextBuilder,
    material: &DtlsMaterial,
) -> Result<Vec<X509Crl>, ContextError> {
    let refused = |error: ErrorStack| ContextError::openssl("ca_file", "OpenSSL refuses it", &error);
    let mut under = Sha256::new();
    under.update(&[material.verify as u8, material.cert_identity as u8]);
    let (mut anchors, mut crls) = (Vec::new(), Vec::new());
    if material.verify != Verify::None {
        let pem = material.ca_pem.as_ref();
        let pem =
            pem.ok_or_else(|| ContextError::new("ca_file", "it is needed to verify client certificates"))?;
        anchors = certificates::certificates("ca_file", pem)?;
        under.update(pem);
        if let Some(pem) = &material.crl_pem {
            crls = certificates::revocation_lists("crl_file", pem)?;
        }
    }
    builder.set_session_id_context(&under.finish()).map_err(refused)?;
    ffi::set_max_cert_list(
        builder,
        if material.verify == Verify::None {
            4096
        } else {
            MAX_CERTIFICATES
        },
    );
    let mode = match material.verify {
        Verify::None => return Ok(crls),
        Verify::Optional => SslVerifyMode::PEER,
        Verify::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
    };
    for anchor in &anchors {
        builder.add_client_ca(anchor).map_err(refused)?;
    }
    let store = trust_store(&anchors, &crls).map_err(refused)?;
    builder.set_verify_cert_store(store).map_err(refused)?;
    let cert_identity = material.cert_identity;
    builder.set_verify_callback(mode, move |good, chain| {
        good && is_acceptable(chain, cert_identity)
    });
    Ok(crls)
}

fn trust_store(anchors: &[X509], crls: &[X509Crl]) -> Result<openssl::x509::store::X509Store, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    for anchor in anchors {
        store.add_cert(anchor.clone())?;
    }
    for crl in crls {
        ffi::add_crl(&mut store, crl)?;
    }
    if !crls.is_empty() {
        let listed = |anchor: &X509| {
            crls.iter().any(|crl| {
                crl.issuer_name()
                    .try_cmp(anchor.subject_name())
                    .is_ok_and(|order| order.is_eq())
            })
        };
        // Intermediates can be checked only where every issuer has a list.
        let all = if anchors.iter().all(listed) {
            X509VerifyFlags::CRL_CHECK_ALL
        } else {
            X509VerifyFlags::empty()
        };
        store.set_flags(X509VerifyFlags::CRL_CHECK | all)?;
    }
    Ok(store.build())
}

/// Runs for each certificate of a client's chain that OpenSSL found good. It must not panic.
fn is_acceptable(chain: &mut X509StoreContextRef, cert_identity: CertIdentity) -> bool {
    let depth = chain.error_depth();
    let Some(fault) = chain
        .current_cert()
        .map(|certificate| fault_of(certificate, depth, cert_identity))
    else {
        return false;
    };
    if let Some(fault) = fault {
        chain.set_error(ffi::verify_result(fault));
    }
    fault.is_none()
}

fn fault_of(certificate: &X509Ref, depth: u32, cert_identity: CertIdentity) -> Option<i32> {
    let strong = certificate
        .public_key()
        .is_ok_and(|key| certificates::key_kind(&key).is_ok());
    let is_root = certificate
        .issuer_name()
        .try_cmp(certificate.subject_name())
        .is_ok_and(|order| order.is_eq());
    if !strong {
        return Some(if depth == 0 {
            X509_V_ERR_EE_KEY_TOO_SMALL
        } else {
            X509_V_ERR_CA_KEY_TOO_SMALL
        });
    }
    if !is_root && !certificates::is_signed_well(certificate) {
        return Some(X509_V_ERR_CA_MD_TOO_WEAK);
    }
    (depth == 0 && cert_identity.name(certificate).is_none()).then_some(X509_V_ERR_CERT_REJECTED)
}

fn set_psk(builder: &mut SslContextBuilder, psks: Arc<PskStore>) -> Result<(), ErrorStack> {
    let index = notes_index()?;
    builder.set_psk_server_callback(move |ssl, identity, out| {
        if let Some(key) = identity.and_then(|identity| psks.get(identity)) {
            let key = key.as_bytes();
            for (to, from) in out.iter_mut().zip(key) {
                *to = *from;
            }
            if let Some(notes) = ssl.ex_data_mut(index) {
                notes.psk_mark = Some(psk_mark(key));
            }
            return Ok(key.len());
        }
        if let Some(notes) = ssl.ex_data_mut(index) {
            notes.unknown_identity = true;
        }
        // Going on with a key that nobody has looks like a wrong key: names cannot be probed.
        let out = out.get_mut(..PskStore::WEAK_KEY_LEN).unwrap_or_default();
        rand_bytes(out)?;
        Ok(out.len())
    });
    Ok(())
}

/// Sets the suites that there are keys for and that the record layer knows, in the order of the list.
fn set_suites(
    builder: &mut SslContextBuilder,
    material: &DtlsMaterial,
    certificate: Option<KeyKind>,
) -> Result<(Vec<Suite>, Vec<String>), ContextError> {
    let refused = |error: ErrorStack| ContextError::openssl("ciphers", "OpenSSL refuses the list", &error);
    let builtin = || {
        Suite::ALL
            .iter()
            .map(|suite| suite.openssl_name())
            .collect::<Vec<_>>()
            .join(":")
    };
    let list = if material.ciphers.is_empty() {
        builtin()
    } else {
        material.ciphers.clone()
    };
    builder.set_cipher_list(&list).map_err(refused)?;
    builder.set_security_level(0);
    let usable = |suite: &Suite| match suite.key_exchange() {
        KeyExchange::Psk | KeyExchange::EcdhePsk => material.psks.is_some(),
        KeyExchange::EcdheEcdsa => certificate == Some(KeyKind::Ecdsa),
        KeyExchange::EcdheRsa => certificate == Some(KeyKind::Rsa),
    };
    let (mut suites, mut ignored) = (Vec::new(), Vec::new());
    for (id, name) in ffi::ciphers(builder) {
        match Suite::from_id(id).filter(usable) {
            Some(suite) => suites.push(suite),
            None if !material.ciphers.is_empty() && !name.starts_with("TLS_") => ignored.push(name),
            None => {}
        }
    }
    if suites.is_empty() {
        return Err(if material.psks.is_none() && certificate.is_none() {
            ContextError::new(
                "psk_file",
                "a DTLS listener needs psk_file, or cert_file and key_file",
            )
        } else {
            ContextError::new(
                "ciphers",
                "none of the list can be used with the keys and certificates at hand",
            )
        });
    }
    let names = suites
        .iter()
        .map(|suite| suite.openssl_name())
        .collect::<Vec<_>>()
        .join(":");
    builder.set_cipher_list(&names).map_err(refused)?;
    Ok((suites, ignored))
}
