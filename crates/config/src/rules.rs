//! What keys must be together.

use std::collections::HashMap;
use std::net::SocketAddr;

use portcullis_proto::policy::authentication::IdentityRole;
use portcullis_proto::policy::identity_names::NameTemplate;
use portcullis_proto::types::Transport;

use super::Config;
use super::access::{Authentication, Backend, Http, Jwt, JwtAlgorithm, Login};
use super::broker::{BrokerUrl, Protocol};
use super::check::placeholders;
use super::databases::{HashName, Server};
use super::document::Document;
use super::listeners::{Dtls, Listener, NameText, Verify};
use super::psk_source::PskSource;
use super::sections::Keep;

/// Reports everything that does not fit together.
pub(super) fn check(config: &Config, doc: &mut Document<'_>) {
    binds(config, doc);
    for listener in &config.listeners {
        let key = listener.key();
        if let Some(dtls) = &listener.dtls {
            dtls_files(dtls, &key, doc);
            dtls_identity(dtls, &key, doc);
            dtls_names(dtls, &key, doc);
            if let Some(source) = &dtls.psk_source {
                psk_source(source, &format!("{key}.psk_source"), doc);
            }
        }
        authentication_of(listener, config, &key, doc);
    }
    for (key, authentication) in config.authentications() {
        backend(authentication, &key, doc);
    }
    broker(config, doc);
    admin(config, doc);
    match &config.group {
        Some(group) => super::group::rules(group, doc),
        None if config.state.keep == Keep::Group => {
            let message = "\"group\" keeps state where the other nodes of a [group] see it, and there is no [group]: describe it, or keep state in \"memory\" or on \"disk\"";
            doc.complain(&["state.keep"], message.to_owned());
        }
        None => {}
    }
}

fn binds(config: &Config, doc: &mut Document<'_>) {
    let mut taken: HashMap<(bool, SocketAddr), String> = HashMap::new();
    let of_process = [
        ("metrics.bind", config.metrics.bind),
        ("admin.bind", config.admin.bind),
        ("group.bind", config.group.as_ref().map(|group| group.bind)),
    ];
    for (key, bind) in of_process {
        let Some(bind) = bind.filter(|bind| bind.port() != 0) else {
            continue;
        };
        match taken.get(&(true, bind)) {
            Some(other) => doc.complain(&[key, other], format!("{bind} is taken by {other} already")),
            None => drop(taken.insert((true, bind), key.to_owned())),
        }
    }
    for listener in &config.listeners {
        let key = format!("{}.bind", listener.key());
        if listener.bind.port() == 0 {
            continue;
        }
        let place = (listener.transport().is_stream(), listener.bind);
        if let Some(other) = taken.get(&place) {
            let message = format!("{} is taken by {other} already", listener.bind);
            doc.complain(&[&key, other], message);
        } else {
            taken.insert(place, key);
        }
    }
}

fn dtls_files(dtls: &Dtls, key: &str, doc: &mut Document<'_>) {
    let field = |name: &str| format!("{key}.{name}");
    let (psk, cert, private) = (field("psk_file"), field("cert_file"), field("key_file"));
    let (ca, crl, verify) = (field("ca_file"), field("crl_file"), field("verify"));
    let has_keys = dtls.handshake.psk_file.is_some() || dtls.psk_source.is_some();
    if !has_keys && !dtls.handshake.has_certificate() {
        doc.complain(
            &[key, &psk, &cert],
            "a listener with DTLS or TLS needs psk_file, or cert_file with key_file, or both; DTLS may have psk_source instead of psk_file",
        );
    }
    match (&dtls.handshake.cert_file, &dtls.handshake.key_file) {
        (Some(_), None) => doc.complain(
            &[&cert, &private],
            "cert_file needs key_file, the certificate's private key",
        ),
        (None, Some(_)) if doc.has(&private) => {
            doc.complain(
                &[&private, &cert],
                "key_file needs cert_file, the certificate of this key",
            );
        }
        _ => {}
    }
    let has_certificate = dtls.handshake.has_certificate();
    if dtls.rpk_file.is_some() && !has_certificate {
        doc.complain(
            &[&field("rpk_file"), &cert],
            "rpk_file needs cert_file and key_file: their key is what is shown raw",
        );
    }
    if dtls.handshake.verify == Verify::None {
        if dtls.handshake.crl_file.is_some() {
            doc.complain(
                &[&crl, &verify],
                "crl_file is of no use while verify = \"none\": clients are not asked for a certificate",
            );
        }
        return;
    }
    if dtls.handshake.ca_file.is_none() {
        doc.complain(
            &[&verify, &ca],
            "client certificates are verified against ca_file: name the file with their trust anchors",
        );
    }
    if !has_certificate {
        doc.complain(
            &[&verify, &cert],
            "clients can only be asked for a certificate by a listener that has cert_file and key_file",
        );
    }
}

fn dtls_identity(dtls: &Dtls, key: &str, doc: &mut Document<'_>) {
    let names = ["identity", "psk_file", "verify"].map(|name| format!("{key}.{name}"));
    let has_keys = dtls.handshake.psk_file.is_some() || dtls.psk_source.is_some() || dtls.rpk_file.is_some();
    let proves_nothing = !has_keys && dtls.handshake.verify == Verify::None;
    if dtls.handshake.role() != IdentityRole::None && proves_nothing {
        doc.complain(
            &names.each_ref().map(String::as_str),
            "no handshake can prove an identity here: give psk_file, or set verify to \"optional\" or \"required\"",
        );
    }
}

/// Names that are made of an identity, and `identity` beside them.
fn dtls_names(dtls: &Dtls, key: &str, doc: &mut Document<'_>) {
    let names = [
        ("clientid", dtls.handshake.client_name()),
        ("username", dtls.handshake.user_name()),
    ];
    for (field, name) in names {
        let Some(NameText { text, pattern }) = name else {
            continue;
        };
        let (own, expression) = (format!("{key}.{field}"), format!("{key}.{field}_pattern"));
        let certificate = dtls.handshake.cert_identity.placeholder();
        let known = [
            "identity",
            certificate.trim_start_matches("${").trim_end_matches('}'),
        ];
        if let Err(why) = placeholders(text, &known) {
            doc.complain(&[&own], why);
        } else if let Err(why) = NameTemplate::new(text, certificate, None) {
            doc.complain(&[&own], why);
        } else if let Err(why) = NameTemplate::new(text, certificate, pattern) {
            doc.complain(&[&expression, &own], why);
        }
        if dtls.handshake.identity != IdentityRole::None {
            let identity = format!("{key}.identity");
            doc.complain(
                &[&identity, &own],
                format!("`{field}` says already what an identity is used as: leave `identity` out"),
            );
        }
    }
}

/// Without a backend, the identity of a handshake alone can authenticate, where it is used as one.
fn authentication_of(listener: &Listener, config: &Config, key: &str, doc: &mut Document<'_>) {
    let identified = listener
        .dtls
        .as_ref()
        .is_some_and(|dtls| dtls.handshake.role() != IdentityRole::None);
    if listener.authentication != Login::Required
        || config.authentication.backend != Backend::None
        || identified
    {
        return;
    }
    let hint = match listener.transport() {
        Transport::Udp | Transport::Tcp => "choose a backend",
        Transport::Dtls | Transport::Tls => {
            "choose a backend, or set identity to \"clientid\" or \"username\""
        }
    };
    let (field, identity) = (format!("{key}.authentication"), format!("{key}.identity"));
    doc.complain(
        &[&field, &identity, "authentication.backend"],
        format!("nothing can authenticate here while authentication.backend = \"none\": {hint}"),
    );
}

fn backend(authentication: &Authentication, key: &str, doc: &mut Document<'_>) {
    let field = |name: &str| format!("{key}.{name}");
    let chosen = field("backend");
    match authentication.backend {
        Backend::None => {}
        Backend::File => {
            if authentication.file.is_none() {
                doc.complain(
                    &[&field("file"), &chosen],
                    "backend = \"file\" needs the file with users and password hashes",
                );
            }
        }
        Backend::Http => http(&authentication.http, key, doc),
        Backend::Jwt => {
            let jwt = &authentication.jwt;
            jwt_keys(jwt, &field("jwt"), doc);
            let keys = [&field("jwt.ca_file"), &field("jwt.jwks_url")];
            anchors(jwt.ca_file.is_some(), &jwt.jwks_url, keys, doc);
        }
        Backend::Postgresql | Backend::Mysql | Backend::Mongodb | Backend::Redis | Backend::Ldap => {}
    }
    if let Some(database) = authentication.database() {
        self::database(authentication.legacy_hashes, &database.server(), key, doc);
    }
}

/// What a source of keys needs.
fn psk_source(source: &PskSource, key: &str, doc: &mut Document<'_>) {
    match source.database() {
        Some(database) => self::database(true, &database.server(), key, doc),
        None => http(&source.http, key, doc),
    }
}

fn http(http: &Http, key: &str, doc: &mut Document<'_>) {
    let field = |name: &str| format!("{key}.http.{name}");
    if http.url.is_empty() {
        doc.complain(
            &[&field("url"), &format!("{key}.backend")],
            "backend = \"http\" needs the URL of the service",
        );
    }
    anchors(
        http.ca_file.is_some(),
        &http.url,
        [&field("ca_file"), &field("url")],
        doc,
    );
}

fn database(legacy_hashes: bool, database: &Server<'_>, key: &str, doc: &mut Document<'_>) {
    let table = format!("{key}.{}", database.table);
    let field = |name: &str| format!("{table}.{name}");
    let chosen = format!("{key}.backend");
    if !portcullis_auth::settings::is_built_in(database.table) {
        let message = format!(
            "this build has no backend `{0}`: build it with the feature {0}",
            database.table
        );
        doc.complain(&[&chosen], message);
    }
    if database.server.is_empty() {
        let message = format!(
            "backend = \"{}\" needs to know where the server is",
            database.table
        );
        doc.complain(&[&field("server"), &chosen], message);
    }
    if matches!(
        database.common.password_hash_algorithm.name,
        HashName::Md5 | HashName::Sha
    ) && !legacy_hashes
    {
        doc.complain(
            &[&field("password_hash_algorithm.name")],
            "a single MD5 or SHA-1 is found out in minutes by anyone who has it: only with legacy_hashes = true",
        );
    }
    let tls = &database.common.tls;
    let given = [
        ("ca_file", &tls.ca_file),
        ("cert_file", &tls.cert_file),
        ("key_file", &tls.key_file),
    ];
    if let Some((name, _)) = given.iter().find(|(_, file)| !tls.enable && file.is_some()) {
        doc.complain(
            &[&field(&format!("tls.{name}"))],
            "has no use without tls.enable = true",
        );
    }
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        let keys = [field("tls.cert_file"), field("tls.key_file")];
        doc.complain(&[&keys[0], &keys[1]], "cert_file and key_file go together");
    }
}

fn anchors(given: bool, url: &str, [ca_file, key]: [&String; 2], doc: &mut Document<'_>) {
    if given && !url.starts_with("https://") {
        doc.complain(&[ca_file, key], "is for servers behind https:// only");
    }
}

fn jwt_keys(jwt: &Jwt, key: &str, doc: &mut Document<'_>) {
    let field = |name: &str| format!("{key}.{name}");
    let (file, url) = (field("key_file"), field("jwks_url"));
    match (jwt.key_file.is_some(), jwt.jwks_url.is_empty()) {
        (false, true) => doc.complain(
            &[&file, &url],
            "backend = \"jwt\" needs key_file or jwks_url, to verify tokens with",
        ),
        (true, false) => doc.complain(&[&file, &url], "key_file and jwks_url exclude each other"),
        (false, false) if jwt.algorithms == [JwtAlgorithm::Hs256] => doc.complain(
            &[&field("algorithms"), &url],
            "HS256 needs a shared secret in key_file: a key set holds public keys",
        ),
        _ => {}
    }
}

fn broker(config: &Config, doc: &mut Document<'_>) {
    let broker = &config.broker;
    let tls = matches!(broker.url, BrokerUrl::Mqtt { tls: true, .. });
    for (name, file) in [
        ("broker.ca_file", &broker.ca_file),
        ("broker.cert_file", &broker.cert_file),
        ("broker.key_file", &broker.key_file),
    ] {
        if file.is_some() && !tls {
            doc.complain(&[name, "broker.url"], "is for brokers behind mqtts:// only");
        }
    }
    if broker.cert_file.is_some() != broker.key_file.is_some() {
        let key = if broker.cert_file.is_some() {
            "broker.cert_file"
        } else {
            "broker.key_file"
        };
        doc.complain(
            &[key, "broker.cert_file", "broker.key_file", "broker.url"],
            "cert_file and key_file go together",
        );
    }
    if broker.url == BrokerUrl::Embedded {
        for (name, given) in [
            ("broker.username", !broker.username.is_empty()),
            ("broker.password_file", broker.password_file.is_some()),
        ] {
            if given {
                doc.complain(&[name, "broker.url"], "the embedded broker takes no credentials");
            }
        }
    } else if broker.password_file.is_some() && broker.username.is_empty() && broker.protocol == Protocol::V4
    {
        doc.complain(
            &["broker.password_file", "broker.username", "broker.protocol"],
            "MQTT 3.1.1 sends a password only beside a user name (3.1.2.9): set username",
        );
    }
}

fn admin(config: &Config, doc: &mut Document<'_>) {
    let admin = &config.admin;
    match (&admin.cert_file, &admin.key_file) {
        (Some(_), None) => doc.complain(
            &["admin.cert_file", "admin.key_file"],
            "cert_file needs key_file, the certificate's private key",
        ),
        (None, Some(_)) => doc.complain(
            &["admin.key_file", "admin.cert_file"],
            "key_file needs cert_file, the certificate of this key",
        ),
        _ => {}
    }
    let Some(bind) = admin.bind.filter(|bind| !bind.ip().to_canonical().is_loopback()) else {
        return;
    };
    if admin.cert_file.is_none() {
        doc.complain(
            &["admin.bind", "admin.cert_file"],
            format!(
                "{bind} can be reached from other machines, and tokens may not cross a network in the clear: set admin.cert_file \
                 and admin.key_file, bind to 127.0.0.1 or [::1], or switch it off with \"\""
            ),
        );
    }
}
