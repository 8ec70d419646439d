//! Sets an OpenSSL context up, a part at a time: policy, certificate, verification, pre-shared keys, suites.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private, Public};
use openssl::rand::rand_bytes;
use openssl::sha::Sha256;
use openssl::ssl::{
    NameType, SniError, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Crl, X509Ref, X509StoreContextRef, X509VerifyResult};

use portcullis_proto::invariant;
use portcullis_proto::types::reason::Label;

use super::super::certificates::{self, CertIdentity, ContextError, KeyKind};
use super::super::chains::{Issuers, hash_of};
use super::super::cid::{add_extensions, notes_index};
use super::super::ffi;
use super::super::ffi::raw_keys;
use super::super::hello::MAX_CERTIFICATES;
use super::super::psk::PskStore;
use super::super::raw_keys::{RawKeys, fingerprint};
use super::super::suite::{KeyExchange, Suite};
use super::super::tls;
use super::names::of_name;
use super::{DtlsMaterial, Verify};

/// X25519 first: it costs OpenSSL 3.0 two thirds of what P-256 does. Clients that have P-256 only get that. OpenSSL takes
/// certificates, ours and theirs, on these curves only.
const GROUPS: &str = "X25519:P-256:P-384:P-521";
/// With a pre-shared key: wolfSSL offers X25519 and then cannot do it in these suites.
pub(super) const PSK_GROUPS: [Nid; 3] = [Nid::X9_62_PRIME256V1, X25519, Nid::SECP384R1];
const X25519: Nid = Nid::from_raw(1034);
const SIGNATURES: &str = "ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA384:RSA-PSS+SHA384:RSA+SHA384:\
                          ECDSA+SHA512:RSA-PSS+SHA512:RSA+SHA512";
const X509_V_ERR_CERT_REJECTED: i32 = 28;
const X509_V_ERR_EE_KEY_TOO_SMALL: i32 = 66;
const X509_V_ERR_CA_KEY_TOO_SMALL: i32 = 67;
const X509_V_ERR_CA_MD_TOO_WEAK: i32 = 68;

/// Tickets are good for a day: a device that wakes up once a day still resumes.
const TICKET_LIFETIME: Duration = Duration::from_secs(86_400);

/// A certificate of the server, checked.
pub(super) struct OwnCertificate {
    pub(super) kind: KeyKind,
    pub(super) not_before: Option<i64>,
    pub(super) not_after: Option<i64>,
    /// The names of servers that it is for.
    pub(super) names: Vec<String>,
    certificate: X509,
    chain: Vec<X509>,
    key: PKey<Private>,
}

/// What one choice of certificates leads to.
pub(super) struct Built {
    pub(super) builder: SslContextBuilder,
    pub(super) suites: Vec<Suite>,
    /// Suites of the `ciphers` list that are left out, by OpenSSL's names.
    pub(super) ignored_ciphers: Vec<String>,
}

/// A context for clients that are shown these certificates, at most one of each kind.
pub(super) fn context(
    material: &DtlsMaterial,
    own: &[&OwnCertificate],
    crls: &[X509Crl],
) -> Result<Built, ContextError> {
    let broken = |error: ErrorStack| ContextError::openssl("dtls", "OpenSSL refuses", &error);
    let method = if material.tls {
        SslMethod::tls_server()
    } else {
        SslMethod::dtls()
    };
    let mut builder = SslContextBuilder::new(method).map_err(broken)?;
    let set = if material.tls { tls::set_policy } else { set_policy };
    set(&mut builder).map_err(broken)?;
    for own in own {
        own.set(&mut builder)
            .map_err(|error| ContextError::openssl("cert_file", "OpenSSL refuses it", &error))?;
    }
    set_verification(&mut builder, material, crls)?;
    if material.raw_keys.is_some() {
        if own.is_empty() {
            return Err(ContextError::new(
                "rpk_file",
                "it needs cert_file and key_file, whose key is shown raw",
            ));
        }
        raw_keys::allow(&builder, material.verify != Verify::None).map_err(broken)?;
    }
    builder.set_groups_list(GROUPS).map_err(broken)?;
    if let Some(psks) = &material.psks {
        set_psk(&mut builder, material.tls.then(|| Arc::clone(psks))).map_err(broken)?;
    }
    if !material.tls {
        ffi::note_messages(&builder);
        if material.cid {
            add_extensions(&mut builder).map_err(broken)?;
        }
        if !ffi::set_ticket_keys(&builder, &material.ticket_keys.0) {
            return Err(ContextError::new("dtls", "OpenSSL refuses the ticket keys"));
        }
        ffi::mark_tickets(&builder);
        ffi::set_ticket_lifetime(&builder, TICKET_LIFETIME);
    }
    let kinds: Vec<KeyKind> = own.iter().map(|own| own.kind).collect();
    let (suites, ignored_ciphers) = set_suites(&mut builder, material, &kinds)?;
    Ok(Built {
        builder,
        suites,
        ignored_ciphers,
    })
}

/// Lets the name that a client asks for choose what it is shown.
pub(super) fn choose_by_name(builder: &mut SslContextBuilder, by_name: HashMap<String, SslContext>) {
    builder.set_servername_callback(move |ssl, _| {
        let name = ssl.servername(NameType::HOST_NAME);
        let chosen = name.and_then(|name| of_name(&by_name, name));
        let chosen = chosen.ok_or(SniError::NOACK)?;
        ssl.set_ssl_context(chosen).map_err(|_| SniError::ALERT_FATAL)
    });
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

/// The certificates of the server, that of `cert_file` first.
pub(super) fn own_certificates(material: &DtlsMaterial) -> Result<Vec<OwnCertificate>, ContextError> {
    let mut all = Vec::new();
    match (&material.cert_pem, &material.key_pem) {
        (Some(cert), Some(key)) => {
            let key = certificates::private_key("key_file", key, material.key_password.as_ref())?;
            all.push(OwnCertificate::new(cert, key)?);
        }
        (None, None) => {}
        (Some(_), None) => return Err(ContextError::new("key_file", "it is needed beside cert_file")),
        (None, Some(_)) => return Err(ContextError::new("cert_file", "it is needed beside key_file")),
    }
    for (more, number) in material.certificates.iter().zip(1..) {
        let own = certificates::private_key("key_file", &more.key_pem, more.key_password.as_ref())
            .and_then(|key| OwnCertificate::new(&more.cert_pem, key));
        all.push(
            own.map_err(|error| ContextError::new("certificates", format!("number {number}, {error}")))?,
        );
    }
    Ok(all)
}

impl OwnCertificate {
    fn new(cert_pem: &[u8], key: PKey<Private>) -> Result<Self, ContextError> {
        let mut chain = certificates::certificates("cert_file", cert_pem)?;
        let certificate = chain.remove(0);
        Ok(Self {
            kind: certificates::check_own(&certificate, &key)?,
            not_before: certificates::unix_seconds(certificate.not_before()),
            not_after: certificates::unix_seconds(certificate.not_after()),
            names: certificates::server_names(&certificate),
            certificate,
            chain,
            key,
        })
    }

    fn set(&self, builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        builder.set_certificate(&self.certificate)?;
        builder.set_private_key(&self.key)?;
        self.chain
            .iter()
            .try_for_each(|certificate| ffi::add_to_chain(builder, certificate))
    }
}

/// The revocation lists for client certificates.
pub(super) fn lists(material: &DtlsMaterial) -> Result<Vec<X509Crl>, ContextError> {
    match &material.crl_pem {
        Some(pem) if material.verify != Verify::None => certificates::revocation_lists("crl_file", pem),
        _ => Ok(Vec::new()),
    }
}

/// Trust anchors with their revocation lists, and what a ticket must have been issued under to be good here.
fn set_verification(
    builder: &mut SslContextBuilder,
    material: &DtlsMaterial,
    crls: &[X509Crl],
) -> Result<(), ContextError> {
    let refused = |error: ErrorStack| ContextError::openssl("ca_file", "OpenSSL refuses it", &error);
    let mut under = Sha256::new();
    let legacy = u8::from(material.legacy_cbc);
    under.update(&[material.verify as u8, material.cert_identity as u8, legacy]);
    let mut anchors = Vec::new();
    if material.verify != Verify::None {
        let pem = material.ca_pem.as_ref();
        let pem =
            pem.ok_or_else(|| ContextError::new("ca_file", "it is needed to verify client certificates"))?;
        anchors = certificates::certificates("ca_file", pem)?;
        under.update(pem);
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
    let (cert_identity, keys) = (material.cert_identity, material.raw_keys.clone());
    let judge = move |good: bool, chain: &mut X509StoreContextRef| match raw_keys::in_question(chain) {
        Some(key) => is_known(chain, &key, keys.as_deref()),
        None => good && is_acceptable(chain, cert_identity),
    };
    let mode = match material.verify {
        Verify::None => {
            builder.set_verify_callback(SslVerifyMode::NONE, judge);
            return Ok(());
        }
        Verify::Optional => SslVerifyMode::PEER,
        Verify::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
    };
    builder.set_verify_depth(material.verify_depth);
    for anchor in &anchors {
        builder.add_client_ca(anchor).map_err(refused)?;
    }
    let store = trust_store(&anchors, crls).map_err(refused)?;
    builder.set_verify_cert_store(store).map_err(refused)?;
    builder.set_verify_callback(mode, judge);
    Ok(())
}

/// What the issuers of client certificates are judged by: a store, and what it holds; nothing when clients are not asked for any.
pub(super) fn issuers(material: &DtlsMaterial, crls: &[X509Crl]) -> Result<Option<Issuers>, ContextError> {
    let Some(pem) = material
        .ca_pem
        .as_ref()
        .filter(|_| material.verify != Verify::None)
    else {
        return Ok(None);
    };
    let anchors = certificates::certificates("ca_file", pem)?;
    // Where only the lists of those that issue to clients are there, issuers themselves are not looked up.
    let lists = if are_all_listed(&anchors, crls) { crls } else { &[] };
    let store = trust_store(&anchors, lists)
        .map_err(|error| ContextError::openssl("ca_file", "OpenSSL refuses it", &error))?;
    let at_hand = anchors.iter().filter_map(|anchor| hash_of(anchor)).collect();
    Ok(Some((store, at_hand)))
}

/// Whether every trust anchor has a revocation list.
fn are_all_listed(anchors: &[X509], crls: &[X509Crl]) -> bool {
    let listed = |anchor: &X509| {
        crls.iter().any(|crl| {
            let order = crl.issuer_name().try_cmp(anchor.subject_name());
            order.is_ok_and(|order| order.is_eq())
        })
    };
    anchors.iter().all(listed)
}

fn trust_store(anchors: &[X509], crls: &[X509Crl]) -> Result<X509Store, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    for anchor in anchors {
        store.add_cert(anchor.clone())?;
    }
    for crl in crls {
        ffi::add_crl(&mut store, crl)?;
    }
    if !crls.is_empty() {
        // Intermediates can be checked only where every issuer has a list.
        let all = if are_all_listed(anchors, crls) {
            X509VerifyFlags::CRL_CHECK_ALL
        } else {
            X509VerifyFlags::empty()
        };
        store.set_flags(X509VerifyFlags::CRL_CHECK | all)?;
    }
    Ok(store.build())
}

/// Runs for a client's raw key, of which OpenSSL knows nothing. It must not panic.
fn is_known(chain: &mut X509StoreContextRef, key: &PKeyRef<Public>, keys: Option<&RawKeys>) -> bool {
    let is_strong = certificates::key_kind(key).is_ok();
    let name = fingerprint(key).filter(|_| is_strong);
    let is_known = name.is_some_and(|fingerprint| keys.is_some_and(|keys| keys.name(&fingerprint).is_some()));
    if is_known {
        chain.set_error(X509VerifyResult::OK);
    }
    is_known
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

/// What OpenSSL is told when it asks for a key: the one that was chosen before it saw who asks, or of TLS is chosen now, from `psks`.
fn set_psk(builder: &mut SslContextBuilder, psks: Option<Arc<PskStore>>) -> Result<(), ErrorStack> {
    let index = notes_index()?;
    builder.set_psk_server_callback(move |ssl, named, out| {
        if let (Some(psks), Some(named), Some(notes)) = (&psks, named, ssl.ex_data_mut(index)) {
            tls::choose_key(notes, psks, named);
        }
        let chosen = ssl.ex_data(index).and_then(|notes| notes.psk_key.get());
        if let Some(key) = chosen.map(|key| key.as_bytes()) {
            let Some(room) = out.get_mut(..key.len()) else {
                invariant!(false, "OpenSSL has room for the longest key of a store");
                return Ok(0);
            };
            room.copy_from_slice(key);
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
    kinds: &[KeyKind],
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
    let has_key = |suite: &Suite| match suite.key_exchange() {
        KeyExchange::Psk | KeyExchange::EcdhePsk => material.psks.is_some(),
        KeyExchange::EcdheEcdsa => kinds.contains(&KeyKind::Ecdsa),
        KeyExchange::EcdheRsa => kinds.contains(&KeyKind::Rsa),
    };
    let usable = |suite: &Suite| has_key(suite) && (material.legacy_cbc || !suite.is_legacy());
    let (mut suites, mut ignored) = (Vec::new(), Vec::new());
    for (id, name) in ffi::ciphers(builder) {
        match Suite::from_id(id).filter(usable) {
            Some(suite) => suites.push(suite),
            None if !material.ciphers.is_empty() && !name.starts_with("TLS_") => ignored.push(name),
            None => {}
        }
    }
    if suites.is_empty() {
        return Err(if material.psks.is_none() && kinds.is_empty() {
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
