//! The `coap-client` lines to try a listener with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_dtls::identity_bytes;
use portcullis_proto::policy::authentication::IdentityRole;
use portcullis_proto::policy::authorization::{Access, Action, Authorizer, NoMatch};
use portcullis_proto::policy::pattern::Subject;
use portcullis_proto::types::Transport;

use super::{Config, Listener, access};

/// How a client proves who it is, or who the server is.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// By nothing: plain UDP.
    None,
    /// By a pre-shared key, whose bytes Debian's libcoap takes as text.
    Psk {
        /// The identity as it is written.
        identity: &'a str,
        /// The key as text.
        key: &'a str,
    },
    /// The server by a certificate of this CA.
    ServerCertificate {
        /// Where the CA's certificate is.
        ca_file: &'a Path,
    },
}

/// The topic of the lines where any will do.
pub const TOPIC: &str = "demo/hello";

/// Two lines that work as they stand in a POSIX shell of this machine: to observe `topic`, and to publish to it.
#[must_use]
pub fn lines(listener: &Listener, proof: Proof<'_>, topic: &str) -> [String; 2] {
    let topic: Vec<String> = topic
        .split('/')
        .map(|level| utf8_percent_encode(level, NOT_PLAIN).to_string())
        .collect();
    let base = base_url(listener.transport(), listener.bind);
    let url = format!("{base}/ps/{}", topic.join("/"));
    let options = match proof {
        Proof::None => String::new(),
        Proof::Psk { identity, key } => format!(" -u {} -k {}", identity_word(identity), quote(key)),
        Proof::ServerCertificate { ca_file } => format!(" -C {}", quote(&ca_file.to_string_lossy())),
    };
    let command = format!("coap-client-openssl{options}");
    [
        format!("{command} -m get -s 60 -w {url}"),
        format!("{command} -m put -e hello {url}"),
    ]
}

/// The lines for a key that was just made for `identity`.
///
/// # Errors
/// Why none would work.
pub fn of_key(
    config: &Config,
    listener: &Listener,
    identity: &str,
    key: &str,
) -> Result<[String; 2], &'static str> {
    if identity_bytes(identity).is_ok_and(|bytes| bytes.contains(&0)) {
        return Err("No command line carries an identity with a NUL.");
    }
    let topic = topic(config, listener, identity);
    let topic = topic.ok_or("The ACL has no topic that it may both observe and publish to.")?;
    Ok(lines(listener, Proof::Psk { identity, key }, &topic))
}

/// What stands in a path as it is (RFC 3986, 2.3).
const NOT_PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A topic that who proves `identity` on a listener may both observe and publish to; nothing where the ACL, if it can be read,
/// has none.
fn topic(config: &Config, listener: &Listener, identity: &str) -> Option<String> {
    let Some(path) = &config.authorization.acl_file else {
        return Some(TOPIC.to_owned());
    };
    let acl = Arc::new(portcullis_auth::load_acl(path).ok()?);
    let role = listener.dtls.as_ref().map(|dtls| dtls.handshake.role());
    let who = Subject {
        user: (role == Some(IdentityRole::Username)).then_some(identity),
        client: (role == Some(IdentityRole::ClientId)).then_some(identity),
        identity: Some(identity),
        attributes: None,
    };
    let no_match = match config.authorization.no_match {
        access::NoMatch::Allow => NoMatch::Allow,
        access::NoMatch::Deny => NoMatch::Deny,
    };
    let rules = Authorizer::new(Some(Arc::clone(&acl)), no_match);
    let may = |action, topic: &str| {
        rules
            .check(&who, false, None, &Access::new(action, topic))
            .allowed
    };
    let all = [Action::Publish, Action::Subscribe, Action::Receive];
    std::iter::once(TOPIC.to_owned())
        .chain(acl.examples(&who))
        .find(|topic| all.iter().all(|action| may(*action, topic)))
}

/// The listener's URL as seen from this machine.
fn base_url(transport: Transport, bind: SocketAddr) -> String {
    let (scheme, default_port) = match transport {
        Transport::Udp => ("coap", 5683),
        Transport::Dtls => ("coaps", 5684),
        Transport::Tcp => ("coap+tcp", 5683),
        Transport::Tls => ("coaps+tcp", 5684),
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
fn identity_word(identity: &str) -> String {
    match identity_bytes(identity) {
        Ok(bytes) if identity.starts_with("hex:") => {
            let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
            format!("\"$(printf '{octal}')\"")
        }
        _ => quote(identity),
    }
}

/// A word as a POSIX shell takes it.
fn quote(word: &str) -> String {
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
    use crate::testing::parse;

    #[test]
    fn lines_are_what_a_shell_takes() {
        let config = parse(
            "[listeners.udp.a]\nbind = \"127.0.0.1:5683\"\n[listeners.dtls.b]\nbind = \"[::]:7000\"\npsk_file = \"p\"\n",
        )
        .unwrap();
        let [udp, dtls] = &config.listeners[..] else {
            panic!("two listeners")
        };
        assert_eq!(
            lines(udp, Proof::None, TOPIC),
            [
                "coap-client-openssl -m get -s 60 -w coap://127.0.0.1/ps/demo/hello",
                "coap-client-openssl -m put -e hello coap://127.0.0.1/ps/demo/hello",
            ]
        );
        let proof = |identity| Proof::Psk {
            identity,
            key: "s3cret",
        };
        let [_, publish] = lines(dtls, proof("it's me"), "a b/50%/\u{e4}");
        assert_eq!(
            publish,
            "coap-client-openssl -u 'it'\\''s me' -k s3cret -m put -e hello coaps://[::1]:7000/ps/a%20b/50%25/%C3%A4"
        );
        let [_, publish] = of_key(&config, dtls, "hex:c3ff", "k").unwrap();
        assert!(publish.contains(r#"-u "$(printf '\303\377')" -k"#), "{publish}");
        assert!(of_key(&config, dtls, "hex:c300", "k").is_err());
    }

    #[test]
    fn the_topic_is_one_that_the_acl_allows_both_ways() {
        let directory = tempfile::tempdir().unwrap();
        let acl = directory.path().join("acl");
        let topic_of = |rules: &str, role: &str, no_match: &str| {
            std::fs::write(&acl, rules).unwrap();
            let config = parse(&format!(
                "[listeners.dtls.a]\npsk_file = \"p\"\nidentity = \"{role}\"\n[authorization]\nacl_file = \"{}\"\nno_match = \"{no_match}\"\n",
                acl.display()
            ))
            .unwrap();
            topic(&config, &config.listeners[0], "pump-3")
        };
        for (rules, role, no_match, wanted) in [
            ("", "clientid", "deny", None),
            ("", "clientid", "allow", Some("demo/hello")),
            ("topic readwrite #\n", "clientid", "deny", Some("demo/hello")),
            (
                "pattern readwrite site/%c/#\n",
                "clientid",
                "deny",
                Some("site/pump-3/demo"),
            ),
            (
                "pattern readwrite site/%u/+/x\n",
                "username",
                "deny",
                Some("site/pump-3/demo/x"),
            ),
            ("pattern readwrite site/%u/#\n", "clientid", "deny", None),
            (
                "pattern write up/%c\npattern read down/%c\n",
                "clientid",
                "deny",
                None,
            ),
            (
                "user pump-3\ntopic deny a/demo\ntopic readwrite a/#\ntopic readwrite b/+\n",
                "username",
                "deny",
                Some("b/demo"),
            ),
        ] {
            assert_eq!(topic_of(rules, role, no_match).as_deref(), wanted, "{rules}");
        }
    }
}
