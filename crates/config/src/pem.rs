//! What a PEM file holds, and whether it is what its key wants.

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509Crl, X509Ref};

/// Why a PEM file is not what is wanted. Never holds any of its content.
pub(super) type Wrong = String;

/// The certificates of a chain, the first one its owner's.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<X509>, Wrong> {
    expect_label(pem, "a certificate", |label| label.ends_with("CERTIFICATE"))?;
    let chain = X509::stack_from_pem(pem)
        .map_err(|error| format!("a certificate in it is damaged: {}", reason(&error)))?;
    if chain.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(chain)
}

/// A private key without a passphrase.
pub(super) fn private_key(pem: &[u8]) -> Result<PKey<Private>, Wrong> {
    expect_label(pem, "a private key", |label| label.ends_with("PRIVATE KEY"))?;
    if contains(pem, b"ENCRYPTED") {
        return Err(
            "the private key is protected by a passphrase, and nobody can be asked for it: take it off with `openssl pkey` (a DTLS listener takes a key_password_file)".to_owned(),
        );
    }
    // The callback refuses: without one, OpenSSL asks at the terminal.
    PKey::private_key_from_pem_callback(pem, |_| Ok(0))
        .map_err(|error| format!("the private key in it is damaged: {}", reason(&error)))
}

/// The first revocation list (CRL) of a PEM text, or what is there instead.
pub(super) fn revocation_list(pem: &[u8]) -> Result<X509Crl, Wrong> {
    expect_label(pem, "a revocation list", |label| label == "X509 CRL")?;
    X509Crl::from_pem(pem)
        .map_err(|error| format!("the revocation list in it is damaged: {}", reason(&error)))
}

/// Whether the time of a certificate is over or has not come, in words that follow what it is called.
pub(super) fn out_of_time(certificate: &X509Ref) -> Option<String> {
    let now = Asn1Time::days_from_now(0).ok()?;
    if certificate.not_after() < now.as_ref() {
        return Some(format!("expired on {}", certificate.not_after()));
    }
    if certificate.not_before() > now.as_ref() {
        return Some(format!("is not valid before {}", certificate.not_before()));
    }
    None
}

/// Whether a time has passed.
pub(super) fn has_passed(time: &Asn1TimeRef) -> bool {
    Asn1Time::days_from_now(0).is_ok_and(|now| *time < *now.as_ref())
}

/// What a PEM block may call itself; another label is its author's text.
const LABELS: [&str; 9] = [
    "CERTIFICATE",
    "TRUSTED CERTIFICATE",
    "CERTIFICATE REQUEST",
    "X509 CRL",
    "PUBLIC KEY",
    "PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "EC PRIVATE KEY",
    "RSA PRIVATE KEY",
];

fn expect_label(pem: &[u8], wanted: &str, fits: impl Fn(&str) -> bool) -> Result<(), Wrong> {
    let text = String::from_utf8_lossy(pem);
    let labels: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    if labels.iter().any(|label| fits(label)) {
        Ok(())
    } else if labels.is_empty() {
        Err(format!("expected {wanted} in PEM form; found no PEM block"))
    } else {
        let known = |label: &&str| LABELS.iter().find(|known| *known == label).copied();
        let found: Vec<&str> = labels
            .iter()
            .map(|label| known(label).unwrap_or("something else"))
            .collect();
        Err(format!("expected {wanted}; found {}", found.join(", ")))
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn reason(error: &openssl::error::ErrorStack) -> String {
    error
        .errors()
        .first()
        .and_then(openssl::error::Error::reason)
        .unwrap_or("unreadable")
        .to_owned()
}
