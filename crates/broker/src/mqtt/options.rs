//! From settings to a connection: client id, credentials, TLS through OpenSSL.

use std::path::Path;
use std::time::{Duration, Instant};

use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use zeroize::Zeroizing;

use super::codec::Connect;
use super::connection::Connection;
use super::session::Session;
use crate::settings::MqttSettings;

const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The client id of the lane with this index.
pub(super) fn client_id(settings: &MqttSettings, lane: usize) -> String {
    match lane {
        0 => settings.client_id.clone(),
        lane => format!("{}-{lane}", settings.client_id),
    }
}

/// The keep alive in seconds.
pub(super) fn keep_alive(settings: &MqttSettings) -> u16 {
    u16::try_from(settings.keep_alive.max(MIN_KEEP_ALIVE).as_secs()).unwrap_or(u16::MAX)
}

/// Begins a connection.
///
/// # Errors
/// When a file cannot be used; the text names it.
pub(super) fn connect(
    settings: &MqttSettings,
    connect: Connect,
    now: fn() -> Instant,
) -> Result<Connection, String> {
    let password = password(settings)?;
    let tls = match settings.address.tls {
        true => Some(connector(settings)?),
        false => None,
    };
    let login = (settings.username.as_str(), password.as_str());
    let session = Session::new(now(), settings.protocol, connect, login);
    Ok(Connection::open(&settings.address, tls, session, now))
}

/// Whether all files that the settings name can be used.
///
/// # Errors
/// When one cannot; the text names it.
pub(crate) fn check_files(settings: &MqttSettings) -> Result<(), String> {
    password(settings)?;
    if settings.address.tls {
        connector(settings)?;
    }
    Ok(())
}

/// Reads the file that a key of `[broker]` names.
fn read(key: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| format!("broker.{key}: {}: {error}", path.display()))
}

fn password(settings: &MqttSettings) -> Result<Zeroizing<String>, String> {
    let Some(path) = &settings.password_file else {
        return Ok(Zeroizing::default());
    };
    let bytes = read("password_file", path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{}: is not UTF-8", path.display()))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().into()))
}

/// The certificates in a PEM file, at least one.
fn certificates(key: &str, path: &Path) -> Result<Vec<X509>, String> {
    let found = X509::stack_from_pem(&read(key, path)?).unwrap_or_default();
    if found.is_empty() {
        return Err(format!("broker.{key}: {}: holds no certificate", path.display()));
    }
    Ok(found)
}

fn connector(settings: &MqttSettings) -> Result<SslConnector, String> {
    let unnamed = |error: openssl::error::ErrorStack| format!("TLS: {error}");
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(unnamed)?;
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(unnamed)?;
    if let Some(path) = &settings.ca_file {
        let mut store = X509StoreBuilder::new().map_err(unnamed)?;
        for anchor in certificates("ca_file", path)? {
            store
                .add_cert(anchor)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        builder.set_cert_store(store.build());
    }
    if let Some(path) = &settings.cert_file {
        let key_path = settings.key_file.as_ref().unwrap_or(path);
        let fail = |error| format!("{}: {error}", key_path.display());
        let key =
            PKey::private_key_from_pem_callback(&read("key_file", key_path)?, |_| Ok(0)).map_err(fail)?;
        let chain = certificates("cert_file", path)?;
        let fail = |error| format!("{} with {}: {error}", path.display(), key_path.display());
        for (place, certificate) in chain.into_iter().enumerate() {
            match place {
                0 => builder.set_certificate(&certificate).map_err(fail)?,
                _ => builder.add_extra_chain_cert(certificate).map_err(fail)?,
            }
        }
        builder
            .set_private_key(&key)
            .and_then(|()| builder.check_private_key())
            .map_err(fail)?;
    }
    Ok(builder.build())
}
