//! PEM to certificates, keys and revocation lists, with errors that say which file holds what; strength and purpose.

use std::collections::HashSet;
use std::fmt;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private};
use openssl::sha::sha256;
use openssl::x509::{X509, X509Crl, X509ExtendedKeyUsage, X509KeyUsage, X509Ref};
use portcullis_proto::policy::attributes::Attributes;
use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

use super::ffi;

/// Why a context cannot be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextError {
    /// The configuration key that names the culprit: `cert_file`, `key_file`, `ca_file`, `crl_file`, `ciphers`, ...
    pub key: &'static str,
    /// What is wrong, without the key's name.
    pub message: String,
}

impl ContextError {
    pub(super) fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self {
            key,
            message: message.into(),
        }
    }

    pub(super) fn openssl(key: &'static str, what: &str, error: &openssl::error::ErrorStack) -> Self {
        let reason = error
            .errors()
            .first()
            .and_then(openssl::error::Error::reason)
            .unwrap_or("unknown reason");
        Self::new(key, format!("{what}: {reason}"))
    }
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for ContextError {}

/// What a key can sign in a cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    Ecdsa,
    Rsa,
}

/// A section of a PEM text: what it says that it holds, and the bytes in it. They may be a key, so they are wiped.
struct Item {
    kind: SectionKind,
    der: Zeroizing<Vec<u8>>,
}

const fn item_name(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::PublicKey => "a public key",
        SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => "a private key",
        SectionKind::Crl => "a revocation list",
        SectionKind::Csr => "a certificate request",
        _ => "something else",
    }
}

/// All sections of a kind that is known; others are skipped.
fn items(key: &'static str, pem: &[u8]) -> Result<Vec<Item>, ContextError> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .map(|section| match section {
            Ok((kind, der)) => Ok(Item {
                kind,
                der: Zeroizing::new(der),
            }),
            Err(_) => Err(ContextError::new(key, "it is not valid PEM")),
        })
        .collect()
}

/// An error that says what was looked for and what stands there instead.
fn missing(key: &'static str, wanted: &str, pem: &[u8], items: &[Item]) -> ContextError {
    let found = items.first().map(|item| item_name(item.kind));
    ContextError::new(
        key,
        match found {
            _ if is_encrypted(pem) => {
                format!("it holds an encrypted key, not {wanted}: name its password with key_password_file")
            }
            Some(found) => format!("it holds {found}, not {wanted}"),
            None => format!("it holds no PEM section with {wanted}"),
        },
    )
}

/// All certificates of a PEM text, in its order; at least one. Other sections are skipped.
pub(super) fn certificates(key: &'static str, pem: &[u8]) -> Result<Vec<X509>, ContextError> {
    let items = items(key, pem)?;
    let mut certificates = Vec::new();
    for item in items.iter().filter(|item| item.kind == SectionKind::Certificate) {
        let number = certificates.len() + 1;
        let certificate = X509::from_der(&item.der).map_err(|error| {
            ContextError::openssl(key, &format!("certificate {number} cannot be read"), &error)
        })?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(missing(key, "a certificate", pem, &items));
    }
    Ok(certificates)
}

/// The first private key of a PEM text, decrypted with `password` where it is encrypted.
pub(super) fn private_key(
    key: &'static str,
    pem: &[u8],
    password: Option<&Zeroizing<Vec<u8>>>,
) -> Result<PKey<Private>, ContextError> {
    if is_encrypted(pem)
        && let Some(password) = password
    {
        return PKey::private_key_from_pem_passphrase(pem, password).map_err(|error| {
            ContextError::openssl(
                "key_password_file",
                "the password does not open the private key",
                &error,
            )
        });
    }
    let items = items(key, pem)?;
    let is_key = |item: &&Item| {
        matches!(
            item.kind,
            SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey
        )
    };
    let found = items.iter().find(is_key).filter(|_| !is_encrypted(pem));
    let found = found.ok_or_else(|| missing(key, "a private key", pem, &items))?;
    PKey::private_key_from_der(&found.der)
        .map_err(|error| ContextError::openssl(key, "the private key cannot be read", &error))
}

/// Whether a PEM text holds a key that is encrypted, in the form of PKCS #8 or in OpenSSL's old one.
fn is_encrypted(pem: &[u8]) -> bool {
    pem.windows(9).any(|window| window == b"ENCRYPTED")
}

/// All revocation lists of a PEM text; at least one.
pub(super) fn revocation_lists(key: &'static str, pem: &[u8]) -> Result<Vec<X509Crl>, ContextError> {
    let items = items(key, pem)?;
    let mut lists = Vec::new();
    for item in items.iter().filter(|item| item.kind == SectionKind::Crl) {
        let list = X509Crl::from_der(&item.der)
            .map_err(|error| ContextError::openssl(key, "a revocation list cannot be read", &error))?;
        lists.push(list);
    }
    if lists.is_empty() {
        return Err(missing(key, "a revocation list", pem, &items));
    }
    Ok(lists)
}

/// The names of servers that a certificate is for, in small letters: its DNS names, and where it has none its common name.
pub(super) fn server_names(certificate: &X509Ref) -> Vec<String> {
    let alternatives = certificate.subject_alt_names();
    let mut names: Vec<String> = alternatives
        .iter()
        .flatten()
        .filter_map(|name| Some(name.dnsname()?.to_ascii_lowercase()))
        .collect();
    if names.is_empty() {
        let common = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
        names.extend(common.filter_map(|entry| Some(entry.data().to_string().ok()?.to_ascii_lowercase())));
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The kind of a key, or why it is too weak or cannot be used. OpenSSL does not do Ed25519 in DTLS.
pub(super) fn key_kind<T: HasPublic>(key: &PKeyRef<T>) -> Result<KeyKind, String> {
    match key.id() {
        Id::RSA | Id::RSA_PSS if key.bits() < 2048 => Err(format!(
            "an RSA key of {} bits is too weak; 2048 is the least",
            key.bits()
        )),
        Id::RSA | Id::RSA_PSS => Ok(KeyKind::Rsa),
        Id::EC if curve(key).is_some() => Ok(KeyKind::Ecdsa),
        Id::EC => Err("its elliptic curve is none of P-256, P-384 and P-521".to_owned()),
        _ => Err("it is neither an ECDSA nor an RSA key".to_owned()),
    }
}

/// The name of the curve of an EC key, as a group list wants it.
pub(super) fn curve<T: HasPublic>(key: &PKeyRef<T>) -> Option<&'static str> {
    match ffi::group_name(key)?.as_str() {
        "prime256v1" | "P-256" => Some("P-256"),
        "secp384r1" | "P-384" => Some("P-384"),
        "secp521r1" | "P-521" => Some("P-521"),
        _ => None,
    }
}

/// Whether the certificate is signed with a hash that is still good.
pub(super) fn is_signed_well(certificate: &X509Ref) -> bool {
    let algorithm = certificate.signature_algorithm().object().nid();
    let digest = algorithm
        .signature_algorithms()
        .map(|algorithms| algorithms.digest);
    !matches!(
        digest,
        Some(Nid::MD5 | Nid::SHA1 | Nid::MD4 | Nid::MD2 | Nid::MD5_SHA1 | Nid::RIPEMD160)
    )
}

/// Checks our own certificate: its key and its purpose. Its times are no matter here: whoever does not need it is to be served
/// when it has run out, and when the clock of a gateway that just started is wrong.
pub(super) fn check_own(certificate: &X509Ref, private: &PKeyRef<Private>) -> Result<KeyKind, ContextError> {
    let fault = |message: &str| ContextError::new("cert_file", message);
    let public = certificate
        .public_key()
        .map_err(|error| ContextError::openssl("cert_file", "its public key cannot be read", &error))?;
    if !public.public_eq(private) {
        return Err(ContextError::new(
            "key_file",
            "the private key does not fit the certificate in cert_file",
        ));
    }
    let kind = key_kind(&public).map_err(|message| fault(&message))?;
    if !is_signed_well(certificate) {
        return Err(fault("the certificate is signed with a broken hash"));
    }
    let server = X509ExtendedKeyUsage::SSL_SERVER | X509ExtendedKeyUsage::ANYEKU;
    if certificate
        .extended_key_usage()
        .is_some_and(|usage| !usage.intersects(server))
    {
        return Err(fault(
            "the certificate is not for servers: its extended key usage lacks serverAuth",
        ));
    }
    if certificate
        .key_usage()
        .is_some_and(|usage| !usage.contains(X509KeyUsage::DIGITAL_SIGNATURE))
    {
        return Err(fault(
            "the certificate may not sign handshakes: its key usage lacks digitalSignature",
        ));
    }
    Ok(kind)
}

/// A time as seconds since 1970.
pub(super) fn unix_seconds(time: &Asn1TimeRef) -> Option<i64> {
    let epoch = Asn1Time::from_unix(0).ok()?;
    let diff = epoch.diff(time).ok()?;
    Some(i64::from(diff.days) * 86_400 + i64::from(diff.secs))
}

/// Whether this time is past, or that cannot be told.
pub(super) fn is_past(not_after: i64) -> bool {
    now().is_none_or(|now| not_after < now)
}

/// The time of the machine as OpenSSL tells it, in seconds since 1970.
pub(super) fn now() -> Option<i64> {
    unix_seconds(&*Asn1Time::days_from_now(0).ok()?)
}

/// Names one certificate of one issuer, in 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CertificateMark(pub(super) [u8; 32]);

impl CertificateMark {
    fn from_parts(issuer: &[u8], serial: &[u8]) -> Self {
        let issuer = sha256(issuer);
        Self(sha256(&[issuer.as_slice(), serial].concat()))
    }

    /// The mark of a certificate.
    pub(super) fn of(certificate: &X509Ref) -> Option<Self> {
        let issuer = certificate.issuer_name().to_der().ok()?;
        let serial = certificate.serial_number().to_bn().ok()?.to_vec();
        Some(Self::from_parts(&issuer, &serial))
    }
}

/// What the revocation lists revoke.
pub(super) fn revoked(lists: &[X509Crl]) -> HashSet<CertificateMark> {
    let mut marks = HashSet::new();
    for list in lists {
        let Ok(issuer) = list.issuer_name().to_der() else {
            continue;
        };
        for entry in list.get_revoked().into_iter().flatten() {
            if let Ok(serial) = entry.serial_number().to_bn() {
                marks.insert(CertificateMark::from_parts(&issuer, &serial.to_vec()));
            }
        }
    }
    marks
}

/// The name in a client's certificate that is its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertIdentity {
    /// The common name of the subject.
    #[default]
    Cn,
    /// The first DNS name of the subject's alternative names.
    SanDns,
    /// The first URI of the subject's alternative names.
    SanUri,
}

impl CertIdentity {
    /// The name: 1 to 255 bytes without NUL, or none.
    pub(super) fn name(self, certificate: &X509Ref) -> Option<String> {
        let name = match self {
            Self::Cn => {
                let entry = certificate
                    .subject_name()
                    .entries_by_nid(Nid::COMMONNAME)
                    .next()?;
                entry.data().to_string().ok()?
            }
            Self::SanDns => certificate
                .subject_alt_names()?
                .iter()
                .find_map(|name| name.dnsname().map(str::to_owned))?,
            Self::SanUri => certificate
                .subject_alt_names()?
                .iter()
                .find_map(|name| name.uri().map(str::to_owned))?,
        };
        (!name.is_empty() && name.len() <= 255 && !name.contains('\0')).then_some(name)
    }
}

/// What of a client's certificate may be an attribute of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertField {
    /// The common name of the subject.
    Cn,
    /// The organization of the subject.
    O,
    /// The first organizational unit of the subject.
    Ou,
    /// The country of the subject.
    C,
    /// The state or province of the subject.
    St,
    /// The locality of the subject.
    L,
    /// The serial number of the subject, which is not that of the certificate.
    SerialNumber,
    /// The first DNS name of the subject's alternative names.
    SanDns,
    /// The first URI of the subject's alternative names.
    SanUri,
}

impl CertField {
    fn of(self, certificate: &X509Ref) -> Option<String> {
        let nid = match self {
            Self::SanDns => return CertIdentity::SanDns.name(certificate),
            Self::SanUri => return CertIdentity::SanUri.name(certificate),
            Self::Cn => Nid::COMMONNAME,
            Self::O => Nid::ORGANIZATIONNAME,
            Self::Ou => Nid::ORGANIZATIONALUNITNAME,
            Self::C => Nid::COUNTRYNAME,
            Self::St => Nid::STATEORPROVINCENAME,
            Self::L => Nid::LOCALITYNAME,
            Self::SerialNumber => Nid::SERIALNUMBER,
        };
        let entry = certificate.subject_name().entries_by_nid(nid).next()?;
        entry.data().to_string().ok()
    }
}

/// What a certificate says of its client. What is no attribute, such as a text with control characters, is left out: a topic that needs
/// it is then refused.
pub(super) fn attributes(certificate: &X509Ref, wanted: &[(String, CertField)]) -> Attributes {
    let mut all = Attributes::default();
    for (name, field) in wanted {
        let value = field.of(certificate);
        let one = value.and_then(|value| Attributes::new([(name.as_str(), value.as_str())]).ok());
        all = one.unwrap_or_default().over(&all);
    }
    all
}
