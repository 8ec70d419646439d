//! Why there is no connection, in words that name what to mend.

use std::io;

use openssl::ssl;
use openssl::x509::X509VerifyResult;

/// `X509_V_ERR_` of `CERT_NOT_YET_VALID`, `CERT_HAS_EXPIRED`, `HOSTNAME_MISMATCH` and `IP_ADDRESS_MISMATCH`.
const NOT_YET: i32 = 9;
const EXPIRED: i32 = 10;
const OTHER_HOST: [i32; 2] = [62, 64];

/// An error of the system without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Nobody takes the connection.
pub(super) fn connect(host: &str, port: u16, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("{host}:{port} refuses connections: is the broker running, and is broker.url right?")
        }
        _ if error.raw_os_error().is_none() => {
            format!("{host} has no address: is broker.url right? ({})", plain(error))
        }
        _ => format!(
            "{host}:{port} is not reached: {}; look at broker.url, routes and firewalls",
            plain(error)
        ),
    }
}

/// TLS does not come about.
pub(super) fn tls(host: &str, verified: X509VerifyResult, error: &ssl::Error) -> String {
    match verified.as_raw() {
        0 => {}
        EXPIRED => return "the broker's certificate has run out".to_owned(),
        NOT_YET => return "the broker's certificate is not valid yet: look at both clocks".to_owned(),
        code if OTHER_HOST.contains(&code) => {
            return format!("the broker's certificate is not for {host}, which broker.url names");
        }
        _ => {
            return format!(
                "the broker's certificate is not trusted by broker.ca_file, or without one by the system: {}",
                verified.error_string()
            );
        }
    }
    let reason = error
        .ssl_error()
        .and_then(|stack| stack.errors().first()?.reason());
    match (reason, error.io_error()) {
        (Some(reason), _) if reason.contains("alert") => {
            format!("the broker ends the handshake of TLS ({reason}): does it want a certificate, broker.cert_file?")
        }
        (Some(reason), _) => {
            format!("no TLS is spoken there ({reason}): is the port of broker.url one for mqtts?")
        }
        (None, Some(error)) => format!(
            "the handshake of TLS breaks off ({}): is the port of broker.url one for mqtts?",
            plain(error)
        ),
        (None, None) => "the broker closes the connection during the handshake of TLS: is the port of broker.url one for mqtts?".to_owned(),
    }
}
