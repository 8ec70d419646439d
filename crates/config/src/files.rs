//! The files that a configuration names: read, checked, and reported at the key that names them.

use std::path::Path;

use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslContextBuilder, SslMethod};
use openssl::x509::X509;
use zeroize::Zeroizing;

use portcullis_auth as auth;
use portcullis_auth::settings::AuthCaps;
use portcullis_auth::users::Taken;
use portcullis_dtls::{PskStore, RawKeys, TicketKeys};
use portcullis_group::GroupKey;
use portcullis_proto::types::LineError;

use openssl::asn1::Asn1Time;

use super::access::{Authentication, Backend, Http};
use super::databases::Server;
use super::document::Document;
use super::group::Group;
use super::listeners::{Dtls, Verify};
use super::problem::Severity;
use super::psk_source::PskSource;
use super::secrets::{SecretError, read_public, read_secret};
use super::sections::Keep;
use super::{Config, pem, state_key, tokens};

/// Wrong lines of one file that are shown one by one.
const SHOWN_LINES: usize = 20;

/// Whether `path` holds certificates and the first of them is valid now.
#[must_use]
pub fn certificate_is_current(path: &Path) -> bool {
    read_public(path)
        .ok()
        .and_then(|content| pem::certificates(&content).ok())
        .is_some_and(|chain| chain.first().is_some_and(|own| pem::out_of_time(own).is_none()))
}

/// When the first of the certificates in `path` ends, in seconds since 1970; nothing where it holds none.
#[must_use]
pub fn certificates_not_after(path: &Path) -> Option<i64> {
    let content = read_public(path).ok()?;
    let epoch = Asn1Time::from_unix(0).ok()?;
    let ends = pem::certificates(&content)
        .ok()?
        .into_iter()
        .filter_map(|certificate| {
            let since = epoch.diff(certificate.not_after()).ok()?;
            Some(i64::from(since.days) * 86_400 + i64::from(since.secs))
        });
    ends.min()
}

/// Reports everything that is wrong with the files.
pub(super) fn check(config: &Config, doc: &mut Document<'_>) {
    for listener in &config.listeners {
        if let Some(dtls) = &listener.dtls {
            check_dtls(dtls, &listener.key(), doc);
        }
    }
    for (key, authentication) in config.authentications() {
        check_authentication(authentication, &key, doc);
    }
    check_broker(config, doc);
    if config.admin.bind.is_some() {
        check_admin(config, doc);
    }
    check_acl(config, doc);
    if let Some(group) = &config.group {
        check_group(group, doc);
    }
    if config.state.keep == Keep::Disk {
        check_state_key(config, doc);
    }
}

/// The key that a start would make is not looked for.
fn check_state_key(config: &Config, doc: &mut Document<'_>) {
    let (key, path) = ("state.key_file", state_key::file(config));
    let is_ours = config.state.key_file.is_none();
    if is_ours && let Some(why) = state_key::damage(&path) {
        let message =
            format!("{why}; a start sets it aside and makes another, and what was kept on disk is lost");
        return doc.complain_as(Severity::Note, &[key], in_file(&path, &message));
    }
    if (!is_ours || path.exists())
        && let Some(content) = read(&path, key, read_secret, doc)
        && let Err(why) = state_key::parse(&content)
    {
        doc.complain(&[key], in_file(&path, why));
    }
}

fn check_group(group: &Group, doc: &mut Document<'_>) {
    if let Some(content) = read(&group.key_file, "group.key_file", read_secret, doc)
        && let Err(wrong) = GroupKey::parse(&content)
    {
        doc.complain(&["group.key_file"], in_file(&group.key_file, &wrong));
    }
    if let Some(path) = &group.password_file {
        check_one_line(path, "group.password_file", "password", doc);
    }
    if let Some(path) = &group.ca_file {
        certificates(path, "group.ca_file", doc);
    }
}

fn check_admin(config: &Config, doc: &mut Document<'_>) {
    let key = "admin.token_file";
    if let Some(path) = &config.admin.token_file
        && let Some(content) = read(path, key, read_secret, doc)
    {
        match tokens::parse(&content) {
            Ok(tokens) if tokens.all.is_empty() => {
                doc.complain(&[key], in_file(path, "expected a token; there is none in it"));
            }
            Ok(_) => {}
            Err(errors) => complain_of_lines(path, key, errors, doc),
        }
    }
    if let (Some(cert_file), Some(key_file)) = (&config.admin.cert_file, &config.admin.key_file) {
        check_pair(cert_file, "admin.cert_file", key_file, "admin.key_file", doc);
    }
}

fn check_dtls(dtls: &Dtls, key: &str, doc: &mut Document<'_>) {
    let field = |name: &str| format!("{key}.{name}");
    let before = doc.error_count();
    if let Some(path) = &dtls.handshake.psk_file {
        check_psks(path, &field("psk_file"), doc);
    }
    if let Some(source) = &dtls.psk_source {
        check_psk_source(source, &field("psk_source"), doc);
    }
    if let Some(path) = &dtls.rpk_file {
        check_raw_keys(path, &field("rpk_file"), doc);
    }
    // Whether an encrypted key fits is told by the whole context.
    if let (Some(cert_file), Some(key_file), None) = (
        &dtls.handshake.cert_file,
        &dtls.handshake.key_file,
        &dtls.handshake.key_password_file,
    ) {
        check_pair(cert_file, &field("cert_file"), key_file, &field("key_file"), doc);
    }
    for files in dtls
        .handshake
        .certificates
        .iter()
        .filter(|files| files.key_password_file.is_none())
    {
        let key = field("certificates");
        check_pair(&files.cert_file, &key, &files.key_file, &key, doc);
    }
    if dtls.handshake.verify != Verify::None
        && let Some(ca_file) = &dtls.handshake.ca_file
    {
        let anchors = certificates(ca_file, &field("ca_file"), doc);
        if let (Some(anchors), Some(crl_file)) = (anchors, &dtls.handshake.crl_file) {
            check_crl(crl_file, &anchors, &field("crl_file"), doc);
        }
    }
    if let Err(message) = check_ciphers(&dtls.handshake.ciphers) {
        doc.complain(&[&field("ciphers")], message);
    }
    // What is wrong already has been said better than a whole context can.
    if doc.error_count() == before {
        check_context(dtls, key, doc);
    }
}

/// Makes what the handshakes of the listener will be made with, for what no single file shows: key strength, usage, whether
/// suites and keys fit.
fn check_context(dtls: &Dtls, key: &str, doc: &mut Document<'_>) {
    // No handshake is made with these.
    let tickets = TicketKeys::new([0; 80]);
    match super::dtls_context(dtls, &tickets) {
        Ok(context) if !context.ignored_ciphers().is_empty() => doc.complain_as(
            Severity::Note,
            &[&format!("{key}.ciphers")],
            format!(
                "left out, because they are not spoken, or not without legacy_cbc, or there is no key for them: {}",
                context.ignored_ciphers().join(", ")
            ),
        ),
        Ok(_) => {}
        Err(errors) => {
            for error in errors {
                doc.complain(&[&format!("{key}.{}", error.key)], error.message);
            }
        }
    }
}

fn check_raw_keys(path: &Path, key: &str, doc: &mut Document<'_>) {
    if let Some(content) = read(path, key, read_public, doc)
        && let Some(text) = text(path, key, &content, doc)
        && let Err(errors) = RawKeys::parse(text)
    {
        complain_of_lines(path, key, errors, doc);
    }
}

/// A key of fewer bytes is weaker than the ciphers that it opens.
const SOUND_KEY: usize = 16;

fn check_psks(path: &Path, key: &str, doc: &mut Document<'_>) {
    let Some(content) = read(path, key, read_secret, doc) else {
        return;
    };
    let Some(text) = text(path, key, &content, doc) else {
        return;
    };
    if let Err(errors) = PskStore::parse(text) {
        return complain_of_lines(path, key, errors, doc);
    }
    let keys = || {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.rsplit_once(':')?.1.trim_end()))
    };
    let short = keys().filter(|key| key.len() / 2 < SOUND_KEY).count();
    let note = match (keys().count(), short) {
        (0, _) => "there is no key in it: nobody gets in by one".to_owned(),
        (_, 0) => return,
        (all, short) => format!("keys under {SOUND_KEY} bytes can be guessed: {short} of {all}"),
    };
    doc.complain_as(Severity::Note, &[key], in_file(path, &note));
}

/// The content as text, or a problem with the line that is none.
fn text<'c>(path: &Path, key: &str, content: &'c [u8], doc: &mut Document<'_>) -> Option<&'c str> {
    match std::str::from_utf8(content) {
        Ok(text) => Some(text),
        Err(error) => {
            complain_of_lines(path, key, vec![LineError::no_text(content, error)], doc);
            None
        }
    }
}

fn check_pair(cert_file: &Path, cert_key: &str, key_file: &Path, key_key: &str, doc: &mut Document<'_>) {
    let chain = certificates(cert_file, cert_key, doc);
    let private = private_key(key_file, key_key, doc);
    if let (Some(chain), Some(private)) = (chain, private)
        && let Some(own) = chain.first()
        && !own.public_key().is_ok_and(|public| public.public_eq(&private))
    {
        let fits = chain
            .iter()
            .skip(1)
            .any(|other| other.public_key().is_ok_and(|public| public.public_eq(&private)));
        let hint = if fits {
            ": it is the key of a later certificate of the chain, and the server's own must come first"
        } else {
            ""
        };
        let message = format!(
            "the key in {} does not fit the first certificate in {}{hint}",
            key_file.display(),
            cert_file.display()
        );
        doc.complain(&[key_key, cert_key], message);
    }
}

fn check_crl(path: &Path, anchors: &[X509], key: &str, doc: &mut Document<'_>) {
    let Some(content) = read(path, key, read_public, doc) else {
        return;
    };
    let crl = match pem::revocation_list(&content) {
        Ok(crl) => crl,
        Err(wrong) => return doc.complain(&[key], in_file(path, &wrong)),
    };
    let of_anchor = anchors.iter().any(|anchor| {
        anchor
            .public_key()
            .and_then(|public| crl.verify(&public))
            .unwrap_or(false)
    });
    if !of_anchor {
        doc.complain(
            &[key],
            in_file(path, "no certificate in ca_file signed this revocation list"),
        );
    } else if let Some(next) = crl.next_update()
        && pem::has_passed(next)
    {
        doc.complain_as(
            Severity::Outdated,
            &[key],
            in_file(path, &format!("the revocation list ran out on {next}")),
        );
    }
}

/// Whether the linked OpenSSL knows each part of a cipher list. It ignores unknown parts of a list that has known ones, so
/// each is tried alone.
fn check_ciphers(list: &str) -> Result<(), String> {
    if list.is_empty() {
        return Ok(());
    }
    let try_list = |part: &str| -> Result<(), openssl::error::ErrorStack> {
        SslContextBuilder::new(SslMethod::dtls_server())?.set_cipher_list(part)
    };
    let parts = list.split([':', ',', ' ']).filter(|part| !part.is_empty());
    for part in parts.filter(|part| !part.starts_with('@')) {
        let name = part.trim_start_matches(['!', '-', '+']);
        if try_list(name).is_err() {
            return Err(format!(
                "{} knows no cipher suite `{name}` (`openssl ciphers -v` lists what it knows)",
                openssl::version::version()
            ));
        }
    }
    try_list(list).map_err(|_| "the list leaves no cipher suite".to_owned())
}

/// The hashes that the file backend takes.
fn taken(authentication: &Authentication) -> Taken {
    Taken {
        max_kib: AuthCaps::default().hash_memory_kib,
        legacy_hashes: authentication.legacy_hashes,
    }
}

fn check_authentication(authentication: &Authentication, key: &str, doc: &mut Document<'_>) {
    let field = |name: &str| format!("{key}.{name}");
    match authentication.backend {
        Backend::None => {}
        Backend::File => {
            let key = field("file");
            if let Some(path) = &authentication.file
                && let Some(content) = read(path, &key, read_secret, doc)
                && let Some(text) = text(path, &key, &content, doc)
                && let Err(errors) = auth::users::parse_within(text, taken(authentication))
            {
                complain_of_lines(path, &key, errors, doc);
            }
        }
        Backend::Http => check_http(&authentication.http, key, doc),
        Backend::Jwt => {
            if let Some(path) = &authentication.jwt.key_file {
                check_jwt_key(path, &field("jwt.key_file"), doc);
            }
            if let Some(path) = &authentication.jwt.ca_file {
                certificates(path, &field("jwt.ca_file"), doc);
            }
        }
        Backend::Postgresql | Backend::Mysql | Backend::Mongodb | Backend::Redis | Backend::Ldap => {}
    }
    if let Some(database) = authentication.database() {
        check_database(&database.server(), key, doc);
    }
}

fn check_http(http: &Http, key: &str, doc: &mut Document<'_>) {
    if let Some(path) = &http.token_file {
        check_one_line(path, &format!("{key}.http.token_file"), "token", doc);
    }
    if let Some(path) = &http.ca_file {
        certificates(path, &format!("{key}.http.ca_file"), doc);
    }
}

/// What a source of keys reads.
fn check_psk_source(source: &PskSource, key: &str, doc: &mut Document<'_>) {
    match source.database() {
        Some(database) => check_database(&database.server(), key, doc),
        None => check_http(&source.http, key, doc),
    }
}

fn check_database(database: &Server<'_>, key: &str, doc: &mut Document<'_>) {
    let field = |name: &str| format!("{key}.{}.{name}", database.table);
    let tls = &database.common.tls;
    if let Some(path) = &database.common.password_file {
        check_one_line(path, &field("password_file"), "password", doc);
    }
    if let Some(path) = &tls.ca_file {
        certificates(path, &field("tls.ca_file"), doc);
    }
    if let (Some(cert_file), Some(key_file)) = (&tls.cert_file, &tls.key_file) {
        check_pair(
            cert_file,
            &field("tls.cert_file"),
            key_file,
            &field("tls.key_file"),
            doc,
        );
    }
}

/// A public key may be read by anyone, a shared secret by nobody else.
fn check_jwt_key(path: &Path, key: &str, doc: &mut Document<'_>) {
    let Some(content) = read(path, key, read_public, doc) else {
        return;
    };
    let text = String::from_utf8_lossy(&content);
    if text.contains("-----BEGIN CERTIFICATE-----") {
        certificates(path, key, doc);
    } else if text.contains("-----BEGIN PUBLIC KEY-----") {
        if PKey::public_key_from_pem(&content).is_err() {
            doc.complain(&[key], in_file(path, "the public key in it is damaged"));
        }
    } else if text.contains("-----BEGIN") {
        doc.complain(
            &[key],
            in_file(
                path,
                "expected a PUBLIC KEY or CERTIFICATE, or a shared secret that is no PEM",
            ),
        );
    } else if let Some(secret) = read(path, key, read_secret, doc)
        && secret.trim_ascii().len() < 32
    {
        doc.complain(
            &[key],
            in_file(
                path,
                "the shared secret is shorter than the 32 bytes that HS256 needs (RFC 7518, 3.2)",
            ),
        );
    }
}

fn check_acl(config: &Config, doc: &mut Document<'_>) {
    let key = "authorization.acl_file";
    let Some(path) = &config.authorization.acl_file else {
        return;
    };
    let Err(errors) = auth::load_acl(path) else {
        return;
    };
    let mut lines = Vec::new();
    for error in errors {
        match error.place {
            Some((line, column)) => lines.push(LineError {
                line,
                column,
                message: error.message,
            }),
            None => doc.complain(&[key], error.to_string()),
        }
    }
    complain_of_lines(path, key, lines, doc);
}

fn check_broker(config: &Config, doc: &mut Document<'_>) {
    let broker = &config.broker;
    if let Some(path) = &broker.password_file {
        check_one_line(path, "broker.password_file", "password", doc);
    }
    if let Some(path) = &broker.ca_file {
        certificates(path, "broker.ca_file", doc);
    }
    if let (Some(cert_file), Some(key_file)) = (&broker.cert_file, &broker.key_file) {
        check_pair(cert_file, "broker.cert_file", key_file, "broker.key_file", doc);
    }
}

/// A secret on one line; a line end behind it does not belong to it.
fn check_one_line(path: &Path, key: &str, what: &str, doc: &mut Document<'_>) {
    let Some(content) = read(path, key, read_secret, doc) else {
        return;
    };
    let secret = content.trim_ascii_end();
    if secret.is_empty() {
        doc.complain(
            &[key],
            in_file(path, &format!("expected a {what}; the file is empty")),
        );
    } else if secret.contains(&b'\n') {
        doc.complain(
            &[key],
            in_file(
                path,
                &format!("expected a {what} on one line; found several lines"),
            ),
        );
    } else if std::str::from_utf8(secret).is_err() {
        doc.complain(&[key], in_file(path, &format!("the {what} is no UTF-8 text")));
    }
}

fn certificates(path: &Path, key: &str, doc: &mut Document<'_>) -> Option<Vec<X509>> {
    let content = read(path, key, read_public, doc)?;
    match pem::certificates(&content) {
        Ok(chain) => {
            let late = (1..)
                .zip(&chain)
                .find_map(|(n, one)| Some((n, pem::out_of_time(one)?)));
            if let Some((number, message)) = late {
                let message = format!("certificate {number} in it {message}");
                doc.complain_as(Severity::Outdated, &[key], in_file(path, &message));
            }
            Some(chain)
        }
        Err(wrong) => {
            doc.complain(&[key], in_file(path, &wrong));
            None
        }
    }
}

fn private_key(path: &Path, key: &str, doc: &mut Document<'_>) -> Option<PKey<Private>> {
    let content = read(path, key, read_secret, doc)?;
    match pem::private_key(&content) {
        Ok(private) => Some(private),
        Err(wrong) => {
            doc.complain(&[key], in_file(path, &wrong));
            None
        }
    }
}

type Reader = fn(&Path) -> Result<Zeroizing<Vec<u8>>, SecretError>;

fn read(path: &Path, key: &str, reader: Reader, doc: &mut Document<'_>) -> Option<Zeroizing<Vec<u8>>> {
    match reader(path) {
        Ok(content) => Some(content),
        Err(error) => {
            let name = key.rsplit('.').next().unwrap_or(key);
            let hint = if doc.has(key) {
                String::new()
            } else {
                format!(" (named by the default of {name})")
            };
            let way = if path.exists() { None } else { maker(key) };
            let way = way.map(|way| format!("; {way}")).unwrap_or_default();
            doc.complain(&[key], format!("{error}{hint}{way}"));
            None
        }
    }
}

/// Which command makes the file that a key names.
fn maker(key: &str) -> Option<&'static str> {
    let (table, name) = key.rsplit_once('.')?;
    Some(match name {
        "key_file" if table == "state" => "`openssl rand -hex 32` makes one",
        "psk_file" => "`portcullis psk add ID` makes it, with a key",
        "file" if table.ends_with("authentication") => "`portcullis user add NAME` makes it, with a user",
        "key_file" if table == "group" => {
            "`openssl rand -hex 32` makes what it holds; copy the same file to every node"
        }
        "token_file" if table == "admin" => "`portcullis token add NAME` makes it, with a token",
        "cert_file" | "key_file" if table.starts_with("listeners.") || table == "admin" => {
            "`portcullis certs dev` makes one for trials"
        }
        "ca_file" if table.starts_with("listeners.") => {
            "it holds the certificates of those who sign devices' certificates; `portcullis certs dev` makes one for trials"
        }
        _ => return None,
    })
}

fn complain_of_lines(path: &Path, key: &str, errors: Vec<LineError>, doc: &mut Document<'_>) {
    for error in errors.iter().take(SHOWN_LINES) {
        doc.complain_more(key, format!("{}, {error}", path.display()));
    }
    if let Some(more) = errors.len().checked_sub(SHOWN_LINES).filter(|more| *more > 0) {
        doc.complain_more(key, format!("{}: {more} more lines are wrong", path.display()));
    }
}

fn in_file(path: &Path, wrong: &str) -> String {
    format!("{}: {wrong}", path.display())
}
