//! Closed by default: a listener that other machines reach lets in whom nothing has named only where the file says so.

use super::Config;
use super::access::{Backend, Login};
use super::document::Document;
use super::listeners::{Listener, Verify};

/// Reports the listeners off loopback that are open without having been meant so.
pub(super) fn check(config: &Config, doc: &mut Document<'_>) {
    if config.authorization.acl_file.is_some() {
        return;
    }
    for listener in &config.listeners {
        let reachable = !listener.bind.ip().to_canonical().is_loopback();
        if reachable
            && !names_everyone(listener)
            && !config.asks_for_login(listener)
            && !is_meant(config, listener, doc)
        {
            complain(config, listener, doc);
        }
    }
}

/// Whether whoever is served has shown a key or a certificate of their own.
fn names_everyone(listener: &Listener) -> bool {
    listener.dtls.as_ref().is_some_and(|dtls| {
        let shows_certificate = dtls.handshake.has_certificate();
        !shows_certificate || dtls.handshake.verify == Verify::Required
    })
}

/// Whether the file itself says that nobody is to be asked.
fn is_meant(config: &Config, listener: &Listener, doc: &Document<'_>) -> bool {
    match &listener.authentication {
        Login::Own(own) => own.backend == Backend::None,
        Login::Inherited | Login::Required | Login::Off => {
            config.authentication.backend == Backend::None && doc.has("authentication.backend")
        }
    }
}

/// The backends of this build that ask for a login.
fn built_in() -> String {
    let all = [
        "file",
        "http",
        "jwt",
        "postgresql",
        "mysql",
        "mongodb",
        "redis",
        "ldap",
    ];
    let all = all
        .into_iter()
        .filter(|name| portcullis_auth::settings::is_built_in(name));
    let all: Vec<String> = all.map(|name| format!("`{name}`")).collect();
    match all.split_last() {
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => String::new(),
    }
}

fn complain(config: &Config, listener: &Listener, doc: &mut Document<'_>) {
    let key = listener.key();
    let backends = format!("a backend that asks who they are ({})", built_in());
    let (backend, none) = match listener.authentication {
        Login::Off if config.authentication.backend != Backend::None => (
            format!(
                "take `authentication = false` away, so that the backend of [authentication] applies, or give {key} {backends}"
            ),
            format!("`authentication = {{ backend = \"none\" }}` in [{key}]"),
        ),
        _ => (
            format!("choose authentication.backend, {backends}"),
            "`backend = \"none\"` in [authentication]".to_owned(),
        ),
    };
    let certificate = match listener.dtls {
        Some(_) => {
            "ask for their certificates with `verify = \"required\"`, serve pre-shared keys alone (without cert_file), "
        }
        None => "",
    };
    let (bind, authentication) = (format!("{key}.bind"), format!("{key}.authentication"));
    doc.complain(
        &[&bind, &key, &authentication, "authentication.backend", "authentication", "authorization"],
        format!(
            "other machines reach {} and are let in without a name: {backend}, {certificate}set authorization.acl_file, write \
             {none} if that is meant, or bind to 127.0.0.1 or [::1]",
            listener.bind
        ),
    );
}
