//! Who may do what: bearer tokens with roles, and on loopback without tokens the guard against pages of other sites.
//!
//! Without tokens everyone on this machine is an admin. A browser on this machine would lend that right to any page it
//! shows: by requests across sites, which carry a foreign `Origin`, or by a name of the page's own site that suddenly means
//! 127.0.0.1 (DNS rebinding), which shows in `Host`. Both are refused.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, header};
use openssl::sha::sha256;
use tracing::error;

use portcullis_config::Config;
use portcullis_config::secrets::read_secret;
use portcullis_config::tokens::{self, Role};

use super::error::ApiError;

/// Who sent a request, by token and address: for rights, and for the audit log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) role: Role,
    pub(super) peer: SocketAddr,
}

/// The tokens of one configuration, as hashes: their lengths are all the same, and a comparison tells nothing.
#[derive(Default)]
struct Access {
    tokens: Vec<(Role, [u8; 32])>,
    open: bool,
}

/// Lets requests in. It follows the configuration that is in force.
pub(super) struct Gate {
    /// Whether only this machine can reach the socket; the configuration may say something else by now.
    loopback: bool,
    current: Mutex<(Arc<Config>, Arc<Access>)>,
}

impl Gate {
    /// `bound` is where the requests come in.
    pub(super) fn new(config: Arc<Config>, bound: SocketAddr) -> Self {
        let loopback = bound.ip().to_canonical().is_loopback();
        // Without a readable file of tokens nobody is let in, rather than everyone.
        let access = Access::of(&config, loopback).unwrap_or_default();
        Self {
            loopback,
            current: Mutex::new((config, Arc::new(access))),
        }
    }

    /// Who asks, or why it may not.
    pub(super) fn admit(
        &self,
        config: &Arc<Config>,
        method: &Method,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Result<Caller, ApiError> {
        let access = self.access(config);
        let role = if access.open {
            guard_against_pages(headers)?;
            Role::Admin
        } else {
            let shown = bearer(headers).ok_or_else(ApiError::unauthorized)?;
            access.role_of(shown).ok_or_else(ApiError::unauthorized)?
        };
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if role < Role::Admin && !reads {
            return Err(ApiError::forbidden("this token is for reading only"));
        }
        Ok(Caller { role, peer })
    }

    /// The tokens in force. They are read when the configuration was read again; what was broken since then keeps the old.
    fn access(&self, config: &Arc<Config>) -> Arc<Access> {
        // A reader that panicked left nothing half done.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current.0, config) {
            let access = Access::of(config, self.loopback).map_or_else(|| current.1.clone(), Arc::new);
            *current = (config.clone(), access);
        }
        current.1.clone()
    }
}

impl Access {
    fn of(config: &Config, loopback: bool) -> Option<Self> {
        match &config.admin.token_file {
            None => Some(Self {
                tokens: Vec::new(),
                open: loopback,
            }),
            Some(path) => Some(Self {
                tokens: read_tokens(path)?,
                open: false,
            }),
        }
    }

    /// Looks at every token, so that the time it takes does not depend on which one fits.
    fn role_of(&self, shown: &str) -> Option<Role> {
        let shown = sha256(shown.as_bytes());
        let mut found = None;
        for (role, token) in &self.tokens {
            if openssl::memcmp::eq(token, &shown) {
                found = found.max(Some(*role));
            }
        }
        found
    }
}

/// The tokens of a file, or nothing, and a line in the log, when it cannot be read.
fn read_tokens(path: &Path) -> Option<Vec<(Role, [u8; 32])>> {
    let content = match read_secret(path) {
        Ok(content) => content,
        Err(problem) => {
            error!(%problem, "admin.token_file cannot be used");
            return None;
        }
    };
    match tokens::parse(&content) {
        Ok(tokens) => Some(
            tokens
                .iter()
                .map(|token| (token.role, sha256(token.secret.as_bytes())))
                .collect(),
        ),
        Err(errors) => {
            for wrong in errors {
                error!(file = %path.display(), line = wrong.line, "admin.token_file cannot be used: {}", wrong.message);
            }
            None
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

fn guard_against_pages(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next().map(|host| host.to_str()), hosts.next()) {
        (Some(Ok(host)), None) => host,
        _ => return Err(ApiError::forbidden("exactly one Host header is needed")),
    };
    if !is_loopback_name(host) {
        return Err(ApiError::forbidden(
            "Host is not this machine's loopback: without admin.token_file only localhost, 127.0.0.1 and [::1] are served",
        ));
    }
    let foreign = || ApiError::forbidden("requests of other sites' pages are not served");
    for origin in headers.get_all(header::ORIGIN) {
        let own = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .is_some_and(|(scheme, authority)| {
                matches!(scheme, "http" | "https") && authority.eq_ignore_ascii_case(host)
            });
        if !own {
            return Err(foreign());
        }
    }
    match headers
        .get("sec-fetch-site")
        .map(axum::http::HeaderValue::as_bytes)
    {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(foreign()),
    }
}

fn is_loopback_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    bare.parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn only_names_of_this_machine_are_hosts_without_tokens() {
        for good in [
            "localhost",
            "LOCALHOST:8683",
            "127.0.0.1:8683",
            "127.9.9.9",
            "[::1]:8683",
        ] {
            assert!(guard_against_pages(&headers(&[("host", good)])).is_ok(), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "localhost@evil.example",
            "192.0.2.1",
            "[2001:db8::1]",
            "",
        ] {
            assert!(guard_against_pages(&headers(&[("host", bad)])).is_err(), "{bad}");
        }
        assert!(guard_against_pages(&headers(&[])).is_err());
        assert!(guard_against_pages(&headers(&[("host", "localhost"), ("host", "localhost")])).is_err());
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = ("host", "localhost:8683");
        assert!(guard_against_pages(&headers(&[host, ("origin", "http://localhost:8683")])).is_ok());
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:1",
            "http://127.0.0.1:8683",
        ] {
            assert!(
                guard_against_pages(&headers(&[host, ("origin", origin)])).is_err(),
                "{origin}"
            );
        }
        assert!(guard_against_pages(&headers(&[host, ("sec-fetch-site", "same-origin")])).is_ok());
        for site in ["cross-site", "same-site"] {
            assert!(
                guard_against_pages(&headers(&[host, ("sec-fetch-site", site)])).is_err(),
                "{site}"
            );
        }
    }

    #[test]
    fn the_scheme_of_a_token_is_bearer_in_any_case() {
        assert_eq!(bearer(&headers(&[("authorization", "bEARER  abc")])), Some("abc"));
        for bad in ["abc", "Basic abc", "Bearer "] {
            assert_eq!(bearer(&headers(&[("authorization", bad)])), None, "{bad}");
        }
    }
}
