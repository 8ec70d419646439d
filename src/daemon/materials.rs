//! From the files that a configuration names to what the core and the backends are built from.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::auth;
use crate::auth::settings::{
    Algorithm, AuthCaps, AuthSettings, BackendSettings, FileSettings, HttpMethod, HttpSettings, JwtKeys,
    JwtSettings, TlsSettings, TokenFrom,
};
use crate::config::access::{self, Backend, JwtAlgorithm, JwtFrom};
use crate::config::secrets::{read_public, read_secret};
use crate::config::{self, Authentication, Config, Dtls, Listener, Login};
use crate::dtls::{CertIdentity, Verify};
use crate::dtls::{DtlsContext, DtlsMaterial, PskStore, TicketKeys};
use crate::gateway::settings::Settings;
use crate::policy::authorization::{Authorizer, NoMatch};
use crate::types::ListenerId;

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
    let acl =
        auth::load_acl(path).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(Authorizer::new(Some(Arc::new(acl)), no_match))
}

fn context(listener: &Listener, dtls: &Dtls, tickets: &TicketKeys) -> Result<DtlsContext, Vec<String>> {
    let key = |name: &str| format!("{}.{name}", listener.key());
    let psks = match &dtls.psk_file {
        None => None,
        Some(path) => Some(Arc::new(psks(path, &key("psk_file"))?)),
    };
    let pem = |path: &Option<std::path::PathBuf>, name: &str| match path {
        None => Ok(None),
        Some(path) => public(path, &key(name)).map(|content| Some(content.to_vec())),
    };
    let verifies = dtls.verify != config::Verify::None;
    let material = DtlsMaterial {
        psks,
        cert_pem: pem(&dtls.cert_file, "cert_file")?,
        key_pem: match (&dtls.cert_file, &dtls.key_file) {
            (Some(_), Some(path)) => Some(secret(path, &key("key_file"))?),
            _ => None,
        },
        ca_pem: if verifies {
            pem(&dtls.ca_file, "ca_file")?
        } else {
            None
        },
        crl_pem: if verifies {
            pem(&dtls.crl_file, "crl_file")?
        } else {
            None
        },
        verify: match dtls.verify {
            config::Verify::None => Verify::None,
            config::Verify::Optional => Verify::Optional,
            config::Verify::Required => Verify::Required,
        },
        cert_identity: match dtls.cert_identity {
            config::CertIdentity::Cn => CertIdentity::Cn,
            config::CertIdentity::SanDns => CertIdentity::SanDns,
            config::CertIdentity::SanUri => CertIdentity::SanUri,
        },
        ciphers: dtls.ciphers.clone(),
        mtu: config::handshake_datagram(dtls),
        cid: dtls.cid,
        ticket_keys: tickets.clone(),
    };
    DtlsContext::new(&material).map_err(|error| vec![format!("{}: {error}", listener.key())])
}

fn psks(path: &Path, key: &str) -> Result<PskStore, Vec<String>> {
    let content = secret(path, key)?;
    let text = std::str::from_utf8(&content).map_err(|_| vec![format!("{}: not UTF-8", path.display())])?;
    PskStore::parse(text).map_err(|errors| {
        errors
            .iter()
            .map(|error| format!("{}:{}: {}", path.display(), error.line, error.message))
            .collect()
    })
}

fn secret(path: &Path, key: &str) -> Result<Zeroizing<Vec<u8>>, Vec<String>> {
    read_secret(path).map_err(|error| vec![format!("{key}: {error}")])
}

fn public(path: &Path, key: &str) -> Result<Zeroizing<Vec<u8>>, Vec<String>> {
    read_public(path).map_err(|error| vec![format!("{key}: {error}")])
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
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(AuthSettings {
        backend: common,
        per_listener,
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
fn backend(authentication: &Authentication) -> Result<BackendSettings, String> {
    Ok(match authentication.backend {
        Backend::None => BackendSettings::Identity,
        Backend::File => match &authentication.file {
            Some(path) => BackendSettings::File(FileSettings { path: path.clone() }),
            None => return Err("authentication.file: name a users file".to_owned()),
        },
        Backend::Http => BackendSettings::Http(http(&authentication.http)),
        Backend::Jwt => BackendSettings::Jwt(jwt(&authentication.jwt)),
    })
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
        ..JwtSettings::new(keys)
    }
}
