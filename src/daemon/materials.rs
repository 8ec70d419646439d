//! From the files that a configuration names to what the core and the backends are built from.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::auth::settings::{
    Algorithm, AuthCaps, AuthSettings, BackendSettings, FileSettings, HttpMethod, HttpSettings, JwtKeys,
    JwtSettings, TlsSettings, TokenFrom,
};
use crate::config::access::{self, Backend, JwtAlgorithm, JwtFrom};
use crate::config::secrets::read_public;
use crate::config::{self, Config, Dtls, Listener};
use crate::dtls::{DtlsContext, TicketKeys};
use crate::gateway::settings::Settings;
use crate::policy::acl::Acl;
use crate::policy::authorization::{Authorizer, NoMatch};

use super::clock;

/// How long a positive verdict of the users file or an HTTP service is remembered.
const VERDICT_CACHE: Duration = Duration::from_secs(30);

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
    let mut settings = config::to_gateway_settings(config);
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

fn authorizer(config: &Config) -> Result<Authorizer, Vec<String>> {
    let no_match = match config.authorization.no_match {
        access::NoMatch::Allow => NoMatch::Allow,
        access::NoMatch::Deny => NoMatch::Deny,
    };
    let Some(path) = &config.authorization.acl_file else {
        return Ok(Authorizer::new(None, no_match));
    };
    let content = public(path, "authorization.acl_file")?;
    let acl = Acl::parse(&String::from_utf8_lossy(&content)).map_err(|errors| {
        errors
            .iter()
            .map(|error| format!("{}:{}: {}", path.display(), error.line, error.message))
            .collect::<Vec<_>>()
    })?;
    Ok(Authorizer::new(Some(Arc::new(acl)), no_match))
}

/// One line for each certificate that is valid and would give way to one that is not. One that ran out in force keeps nothing
/// else from being renewed.
pub(super) fn out_of_time(config: &Config, old: &Materials, new: &Materials) -> Vec<String> {
    let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let contexts = old.contexts.iter().zip(&new.contexts);
    let lines = config.listeners.iter().zip(contexts);
    lines
        .filter_map(|(listener, (old, new))| {
            let file = listener.dtls.as_ref()?.cert_file.as_ref()?;
            let worse =
                old.as_ref()?.certificate_is_current(now) && !new.as_ref()?.certificate_is_current(now);
            worse.then(|| {
                format!(
                    "{}.cert_file: {}: the certificate is out of time, and the one in force is not",
                    listener.key(),
                    file.display()
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

fn public(path: &Path, key: &str) -> Result<Zeroizing<Vec<u8>>, Vec<String>> {
    read_public(path).map_err(|error| vec![format!("{key}: {error}")])
}

/// What the authentication backends are built from; `None` when nobody has to log in.
///
/// # Errors
/// One line for each file that cannot be read.
pub(super) fn auth_settings(config: &Config) -> Result<Option<AuthSettings>, Vec<String>> {
    let authentication = &config.authentication;
    let required = config
        .listeners
        .iter()
        .any(|listener| listener.authentication == Some(true));
    let backend = match authentication.backend {
        Backend::None if required => BackendSettings::Identity,
        Backend::None => return Ok(None),
        Backend::File => match &authentication.file {
            Some(path) => BackendSettings::File(FileSettings { path: path.clone() }),
            None => return Err(vec!["authentication.file: name a users file".to_owned()]),
        },
        Backend::Http => BackendSettings::Http(http(&authentication.http)),
        Backend::Jwt => BackendSettings::Jwt(jwt(&authentication.jwt)),
    };
    Ok(Some(AuthSettings {
        backend,
        per_listener: std::collections::BTreeMap::new(),
        listeners: config
            .listeners
            .iter()
            .map(|listener| listener.name.as_str().into())
            .collect(),
        caps: AuthCaps::default(),
        cache: VERDICT_CACHE,
        clock: clock::wall,
    }))
}

fn http(http: &access::Http) -> HttpSettings {
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
            tls: TlsSettings::default(),
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
        ..JwtSettings::new(keys)
    }
}
