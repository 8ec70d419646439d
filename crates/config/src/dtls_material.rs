//! From what a DTLS listener's keys name to what its handshakes are made with: the one way there, for checks and starts alike.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use portcullis_dtls::{
    self as dtls, CertificateMaterial, DtlsContext, DtlsMaterial, PskStore, RawKeys, TicketKeys,
};
use portcullis_proto::types::LineError;

use super::listeners::{CertIdentity, CertificateFiles, Dtls, Verify};
use super::secrets::{SecretError, read_public, read_secret};
use super::settings::handshake_datagram;

/// What stands for the largest datagram of a handshake where there are none.
const NO_DATAGRAMS: usize = 1232;

/// Why a DTLS listener cannot be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaterialError {
    /// The key of the listener that it is about, without the listener's own.
    pub key: &'static str,
    /// What is wrong with the file behind it; no secret.
    pub message: String,
}

impl MaterialError {
    fn new(key: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { key, message }
    }
}

/// Reads the files of a DTLS listener and builds what its handshakes are made with. Certificates that are out of time are
/// no error.
///
/// # Errors
/// Everything that is wrong, by key.
pub fn dtls_context(dtls: &Dtls, tickets: &TicketKeys) -> Result<DtlsContext, Vec<MaterialError>> {
    let one = |error| vec![error];
    let material = DtlsMaterial {
        psks: match (&dtls.handshake.psk_file, &dtls.psk_source) {
            (Some(path), _) => Some(Arc::new(psks(path)?)),
            (None, Some(_)) => Some(Arc::default()),
            (None, None) => None,
        },
        live_keys: dtls.psk_source.is_some(),
        cert_pem: pem("cert_file", dtls.handshake.cert_file.as_ref()).map_err(one)?,
        key_pem: match (&dtls.handshake.cert_file, &dtls.handshake.key_file) {
            (Some(_), Some(path)) => Some(read("key_file", path, read_secret).map_err(one)?),
            _ => None,
        },
        key_password: match &dtls.handshake.key_password_file {
            Some(path) => Some(password(path).map_err(one)?),
            None => None,
        },
        certificates: more(&dtls.handshake.certificates).map_err(one)?,
        raw_keys: match &dtls.rpk_file {
            None => None,
            Some(path) => Some(Arc::new(raw_keys(path)?)),
        },
        verify_depth: dtls.handshake.verify_depth,
        ca_pem: pem("ca_file", verifying(dtls, &dtls.handshake.ca_file)).map_err(one)?,
        crl_pem: pem("crl_file", verifying(dtls, &dtls.handshake.crl_file)).map_err(one)?,
        verify: match dtls.handshake.verify {
            Verify::None => dtls::Verify::None,
            Verify::Optional => dtls::Verify::Optional,
            Verify::Required => dtls::Verify::Required,
        },
        cert_identity: match dtls.handshake.cert_identity {
            CertIdentity::Cn => dtls::CertIdentity::Cn,
            CertIdentity::SanDns => dtls::CertIdentity::SanDns,
            CertIdentity::SanUri => dtls::CertIdentity::SanUri,
        },
        cert_attributes: dtls.handshake.cert_attributes.0.clone(),
        ciphers: dtls.handshake.ciphers.clone(),
        legacy_cbc: dtls.sessions.as_ref().is_some_and(|sessions| sessions.legacy_cbc),
        tls: dtls.sessions.is_none(),
        mtu: dtls.sessions.as_ref().map_or(NO_DATAGRAMS, handshake_datagram),
        cid: dtls.sessions.as_ref().is_some_and(|sessions| sessions.cid),
        ticket_keys: tickets.clone(),
    };
    DtlsContext::new(&material).map_err(|error| one(MaterialError::new(error.key, error.message)))
}

/// The certificates beside that of `cert_file`.
fn more(all: &[CertificateFiles]) -> Result<Vec<CertificateMaterial>, MaterialError> {
    let one = |files: &CertificateFiles| {
        Ok(CertificateMaterial {
            cert_pem: read("cert_file", &files.cert_file, read_public)?.to_vec(),
            key_pem: read("key_file", &files.key_file, read_secret)?,
            key_password: files.key_password_file.as_deref().map(password).transpose()?,
        })
    };
    let named = |error: MaterialError| {
        MaterialError::new("certificates", format!("{}: {}", error.key, error.message))
    };
    all.iter().map(|files| one(files).map_err(named)).collect()
}

/// What is not used when clients are not asked for certificates is not read either.
fn verifying<'p>(dtls: &Dtls, path: &'p Option<PathBuf>) -> Option<&'p PathBuf> {
    path.as_ref().filter(|_| dtls.handshake.verify != Verify::None)
}

/// A password: the first line of its file.
fn password(path: &Path) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
    let content = read("key_password_file", path, read_secret)?;
    let first = content.split(|byte| matches!(byte, b'\r' | b'\n')).next();
    Ok(Zeroizing::new(first.unwrap_or_default().to_vec()))
}

type Reader = fn(&Path) -> Result<Zeroizing<Vec<u8>>, SecretError>;

fn read(key: &'static str, path: &Path, reader: Reader) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
    reader(path).map_err(|error| MaterialError::new(key, error.to_string()))
}

fn pem(key: &'static str, path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, MaterialError> {
    path.map(|path| read(key, path, read_public).map(|content| content.to_vec()))
        .transpose()
}

fn psks(path: &Path) -> Result<PskStore, Vec<MaterialError>> {
    keys("psk_file", path, read_secret, PskStore::parse)
}

fn raw_keys(path: &Path) -> Result<RawKeys, Vec<MaterialError>> {
    keys("rpk_file", path, read_public, RawKeys::parse)
}

/// A file with a key on each line.
fn keys<T>(
    key: &'static str,
    path: &Path,
    reader: Reader,
    parse: impl FnOnce(&str) -> Result<T, Vec<LineError>>,
) -> Result<T, Vec<MaterialError>> {
    let content = read(key, path, reader).map_err(|error| vec![error])?;
    let shown = path.display();
    let wrong = |error: &LineError| MaterialError::new(key, format!("{shown}, {error}"));
    let text = str::from_utf8(&content).map_err(|error| vec![wrong(&LineError::no_text(&content, error))])?;
    parse(text).map_err(|errors| errors.iter().map(wrong).collect())
}
