//! The `coap-client` lines that work with a listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::Listener;
use crate::dtls::identity_bytes;
use crate::types::Transport;

/// How a client proves who it is, or who the server is.
pub(super) enum Proof<'a> {
    /// By nothing: plain UDP.
    None,
    /// By a pre-shared key. Debian's libcoap takes its bytes as text; `None` where it is no such text.
    Psk { identity: &'a str, key: Option<&'a str> },
    /// The server by a certificate of this CA.
    ServerCertificate { ca_file: &'a Path },
}

/// The topic of the lines.
const TOPIC: &str = "ps/demo/hello";

/// Two lines, to observe and to publish, indented by two.
pub(super) fn lines(listener: &Listener, proof: &Proof<'_>) -> String {
    let url = format!("{}/{TOPIC}", base_url(listener.transport(), listener.bind));
    let options = match proof {
        Proof::None => String::new(),
        Proof::Psk { identity, key } => {
            let key = key.map_or_else(|| "\"$KEY\"".to_owned(), quote);
            format!(" -u {} -k {key}", identity_word(identity))
        }
        Proof::ServerCertificate { ca_file } => format!(" -C {}", quote(&ca_file.to_string_lossy())),
    };
    let command = format!("  coap-client-openssl{options}");
    format!("{command} -m get -s 60 -w {url}\n{command} -m put -e hello {url}\n")
}

/// The listener's URL as seen from this machine.
fn base_url(transport: Transport, bind: SocketAddr) -> String {
    let (scheme, default_port) = match transport {
        Transport::Udp => ("coap", 5683),
        Transport::Dtls => ("coaps", 5684),
    };
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    if bind.port() == default_port {
        format!("{scheme}://{host}")
    } else {
        format!("{scheme}://{host}:{}", bind.port())
    }
}

/// A PSK identity as a POSIX shell takes it: one that is no text by way of printf.
pub(super) fn identity_word(identity: &str) -> String {
    match identity_bytes(identity) {
        Ok(bytes) if identity.starts_with("hex:") => {
            let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
            format!("\"$(printf '{octal}')\"")
        }
        _ => quote(identity),
    }
}

/// A word as a POSIX shell takes it.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Login;
    use crate::types::AccessRules;

    fn listener(bind: &str) -> Listener {
        Listener {
            name: "default".to_owned(),
            bind: bind.parse().unwrap(),
            access_rules: AccessRules::default(),
            authentication: Login::Inherited,
            mountpoint: None,
            dtls: None,
        }
    }

    #[test]
    fn lines_are_what_a_shell_takes() {
        assert_eq!(
            lines(&listener("127.0.0.1:5683"), &Proof::None),
            "  coap-client-openssl -m get -s 60 -w coap://127.0.0.1/ps/demo/hello\n  \
             coap-client-openssl -m put -e hello coap://127.0.0.1/ps/demo/hello\n"
        );
        let proof = Proof::Psk {
            identity: "it's me",
            key: None,
        };
        let text = lines(&listener("[::]:7000"), &proof);
        assert!(
            text.contains("-u 'it'\\''s me' -k \"$KEY\" -m get -s 60 -w coap://[::1]:7000/"),
            "{text}"
        );
    }
}
