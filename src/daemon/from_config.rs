//! What the core and the backends are built from, made from a configuration and the files that it names.

use std::sync::Arc;
use std::time::Duration;

use crate::auth;
use crate::auth::settings::{
    Algorithm, AuthCaps, AuthSettings, BackendSettings, FileSettings, HttpMethod, HttpSettings, JwtKeys,
    JwtSettings, KeyServer, KeySourceSettings, TlsSettings, TokenFrom,
};
use crate::config::access::{self, Backend, JwtAlgorithm, JwtFrom};
use crate::config::{self, Authentication, Config, Dtls, Listener, Login, PskSource};
use crate::dtls::{DtlsContext, TicketKeys};
use crate::gateway::settings::Settings;
use crate::policy::authorization::{Authorizer, NoMatch};
use crate::stream::GateSettings;
use crate::types::ListenerId;

use super::databases::Purpose;
use super::memory::Memory;
use super::{clock, databases};

/// How long a positive verdict of the users file or an HTTP service is remembered.
pub(super) const VERDICT_CACHE: Duration = Duration::from_secs(30);

/// What the workers are built from, and what they get at a reload.
pub(super) struct Materials {
    /// The settings, the ACL included.
    pub(super) settings: Arc<Settings>,
    /// For each listener its DTLS context.
    pub(super) contexts: Vec<Option<Arc<DtlsContext>>>,
}

/// Reads every file that the core needs.
///
/// # Errors
/// One line for each thing that is wrong.
pub(super) fn load(config: &Config, tickets: &TicketKeys) -> Result<Materials, Vec<String>> {
    let mut wrong = Vec::new();
    let mut settings = config::to_gateway_settings(config, Memory::of_this_process().limit());
    match authorizer(config) {
        Ok(authorizer) => settings.authorizer = authorizer,
        Err(lines) => wrong.extend(lines),
    }
    let contexts = config.listeners.iter().map(|listener| {
        let dtls = listener.dtls.as_ref()?;
        match context(listener, dtls, tickets) {
            Ok(context) => Some(Arc::new(context)),
            Err(lines) => {
                wrong.extend(lines);
                None
            }
        }
    });
    let contexts = contexts.collect();
    if wrong.is_empty() {
        Ok(Materials {
            settings: Arc::new(settings),
            contexts,
        })
    } else {
        Err(wrong)
    }
}

/// What holds for the connections of a listener; nothing where it is for datagrams.
pub(super) fn gate_settings(listener: &Listener, config: &Config) -> Option<GateSettings> {
    let stream = listener.stream.as_ref()?;
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Some(GateSettings {
        web: stream.websocket.origins(),
        max_connections: number(stream.max_connections),
        max_per_source: number(stream.max_connections_per_source),
        max_half_open: number(match &listener.dtls {
            Some(dtls) => dtls.handshake.max_half_open,
            None => stream.max_connections,
        }),
        max_per_second: stream.max_handshakes_per_second,
        per_second_of_source: config.limits.handshakes_per_second,
        handshake_timeout: stream.handshake_timeout,
        message_timeout: stream.message_timeout,
        max_message: usize::try_from(stream.max_message_size.0).unwrap_or(usize::MAX),
    })
}

fn authorizer(config: &Config) -> Result<Authorizer, Vec<String>> {
    let no_match = match config.authorization.no_match {
        access::NoMatch::Allow => NoMatch::Allow,
        access::NoMatch::Deny => NoMatch::Deny,
    };
    let prefix = &config.broker.events_prefix;
    let Some(path) = &config.authorization.acl_file else {
        return Ok(Authorizer::new(None, no_match).with_events_prefix(prefix));
    };
    let acl =
        auth::load_acl(path).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(Authorizer::new(Some(Arc::new(acl)), no_match).with_events_prefix(prefix))
}

/// One line for each certificate that is valid and would give way to one that is not. One that ran out in force keeps nothing
/// else from being renewed. `places` tells for each context in force which listener of `config` it belongs to.
pub(super) fn out_of_time(
    config: &Config,
    places: &[Option<usize>],
    old: &Materials,
    new: &Materials,
) -> Vec<String> {
    let now = i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX);
    places
        .iter()
        .zip(&old.contexts)
        .filter_map(|(place, old)| {
            let listener = config.listeners.get((*place)?)?;
            let new = new.contexts.get((*place)?)?;
            let dtls = listener.dtls.as_ref()?;
            let more = dtls.handshake.certificates.iter().map(|more| &more.cert_file);
            let files: Vec<String> = dtls
                .handshake
                .cert_file
                .iter()
                .chain(more)
                .map(|file| file.display().to_string())
                .collect();
            let worse =
                old.as_ref()?.certificate_is_current(now) && !new.as_ref()?.certificate_is_current(now);
            worse.then(|| {
                format!(
                    "{}.cert_file: {}: the certificate is out of time, and the one in force is not",
                    listener.key(),
                    files.join(", ")
                )
            })
        })
        .collect()
}

fn context(listener: &Listener, dtls: &Dtls, tickets: &TicketKeys) -> Result<DtlsContext, Vec<String>> {
    config::dtls_context(dtls, tickets).map_err(|errors| {
        errors
            .iter()
            .map(|error| format!("{}.{}: {}", listener.key(), error.key, error.message))
            .collect()
    })
}

/// What the authentication backends are built from.
///
/// # Errors
/// One line for each file that is missing.
pub(super) fn auth_settings(config: &Config) -> Result<AuthSettings, Vec<String>> {
    let mut wrong = Vec::new();
    let mut read = |authentication: &Authentication| match backend(authentication) {
        Ok(backend) => backend,
        Err(line) => {
            wrong.push(line);
            BackendSettings::Identity
        }
    };
    let common = read(&config.authentication);
    let own = (0..).map(ListenerId).zip(&config.listeners);
    let per_listener = own.filter_map(|(id, listener)| match &listener.authentication {
        Login::Own(own) => Some((id, read(own))),
        Login::Inherited | Login::Required | Login::Off => None,
    });
    let per_listener = per_listener.collect();
    let sources = (0..).map(ListenerId).zip(&config.listeners);
    let key_sources = sources.filter_map(|(id, listener)| {
        let source = listener.dtls.as_ref()?.psk_source.as_ref()?;
        Some((id, key_source(source)))
    });
    let key_sources = key_sources.collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(AuthSettings {
        backend: common,
        per_listener,
        key_sources,
        listeners: config
            .listeners
            .iter()
            .map(|listener| listener.name.as_str().into())
            .collect(),
        caps: AuthCaps::default(),
        cache: VERDICT_CACHE,
        clock: clock::wall,
    })
}

/// A backend; with none configured the identity of the handshake alone, for listeners that ask for a login all the same.
pub(super) fn backend(authentication: &Authentication) -> Result<BackendSettings, String> {
    Ok(match authentication.backend {
        Backend::None => BackendSettings::Identity,
        Backend::File => match &authentication.file {
            Some(path) => BackendSettings::File(FileSettings {
                path: path.clone(),
                legacy_hashes: authentication.legacy_hashes,
            }),
            None => return Err("authentication.file: name a users file".to_owned()),
        },
        Backend::Http => BackendSettings::Http(http(&authentication.http, authentication.grace)),
        Backend::Jwt => BackendSettings::Jwt(jwt(&authentication.jwt)),
        Backend::Postgresql | Backend::Mysql | Backend::Mongodb | Backend::Redis | Backend::Ldap => {
            match databases::settings(authentication) {
                Some(database) => BackendSettings::Database(Box::new(database)),
                None => BackendSettings::Identity,
            }
        }
    })
}

/// Requests to an HTTP server that knows keys at the same time.
const KEY_REQUESTS: usize = 64;

fn key_source(source: &PskSource) -> KeySourceSettings {
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let (server, at_once, timeout) = match source.database() {
        None => {
            let server = KeyServer::Http(http(&source.http, source.grace));
            (server, KEY_REQUESTS, source.http.timeout)
        }
        Some(database) => {
            let common = database.server().common;
            let server = KeyServer::Database(databases::source(&database, Purpose::Keys));
            (server, size(common.pool_size), common.query_timeout)
        }
    };
    KeySourceSettings {
        server,
        timeout,
        at_once,
        lookups: size(source.max_lookups),
        lifetime: source.lifetime,
        grace: source.grace,
        unknown_lifetime: source.unknown_lifetime,
        cached: size(source.max_cached),
    }
}

fn http(http: &access::Http, grace: Duration) -> HttpSettings {
    HttpSettings {
        method: match http.method {
            access::HttpMethod::Get => HttpMethod::Get,
            access::HttpMethod::Post => HttpMethod::Post,
        },
        url: http.url.clone(),
        headers: http.headers.clone(),
        token_file: http.token_file.clone(),
        body: http.body.clone(),
        timeout: http.timeout,
        grace,
        tls: TlsSettings {
            ca_file: http.ca_file.clone(),
            ..TlsSettings::default()
        },
    }
}

fn jwt(jwt: &access::Jwt) -> JwtSettings {
    let keys = match &jwt.key_file {
        Some(path) => JwtKeys::File { path: path.clone() },
        None => JwtKeys::Jwks {
            url: jwt.jwks_url.clone(),
            refresh: jwt.refresh,
            tls: TlsSettings {
                ca_file: jwt.ca_file.clone(),
                ..TlsSettings::default()
            },
        },
    };
    let algorithms = jwt.algorithms.iter().map(|algorithm| match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::Hs256,
        JwtAlgorithm::Rs256 => Algorithm::Rs256,
        JwtAlgorithm::Es256 => Algorithm::Es256,
        JwtAlgorithm::EdDsa => Algorithm::EdDsa,
    });
    JwtSettings {
        from: match jwt.from {
            JwtFrom::Password => TokenFrom::Password,
            JwtFrom::Username => TokenFrom::Username,
        },
        algorithms: algorithms.collect(),
        required_claims: jwt.required_claims.clone(),
        acl_claim: jwt.acl_claim.clone(),
        require_exp: jwt.require_exp,
        ..JwtSettings::new(keys)
    }
}
