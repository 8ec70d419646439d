//! Who may do what: bearer tokens with roles over the network, and over the Unix socket whoever the mode of the socket lets in.
//!
//! A token is needed on loopback too: who may connect there is not who may administer, and a page of another site that a browser
//! on this machine shows, or a name of its own that suddenly means 127.0.0.1 (DNS rebinding), has none to show.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::Json;
use axum::extract::Extension;
use axum::http::{HeaderMap, Method, header};
use base64ct::{Base64, Encoding as _};
use openssl::sha::sha256;
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use portcullis_config::tokens::{Role, Token};
use portcullis_config::{Config, token_store};

use super::audit;
use super::error::ApiError;
use crate::server::Peer;

/// What the audit log calls those whom the Unix socket let in.
const BY_SOCKET: &str = "socket";

/// The headers by which a node says in whose name it asks another one.
pub(super) const CALLER: &str = "portcullis-caller";
pub(super) const ROLE: &str = "portcullis-role";

/// Who sent a request, by token and address: for rights, and for the audit log.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) role: Role,
    /// The name of the token, or [`BY_SOCKET`].
    pub(super) token: Arc<str>,
    pub(super) peer: Peer,
}

impl Caller {
    /// Whether it may do what this method does.
    pub(super) fn check(&self, method: &Method) -> Result<(), ApiError> {
        if self.role < Role::Admin && audit::changes(method) {
            return Err(ApiError::forbidden("this token is for reading only"));
        }
        Ok(())
    }
}

/// Who asks, as the gateway knows them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Me {
    /// The name of the token; `socket` for who comes by the Unix socket.
    pub token: String,
    /// `admin` or `readonly`.
    pub role: String,
}

/// Show whose token this is
#[utoipa::path(get, path = "/api/v1/self", tag = "status", responses((status = 200, body = Me)))]
pub(super) async fn get_self(Extension(caller): Extension<Caller>) -> Json<Me> {
    Json(Me {
        token: caller.token.to_string(),
        role: caller.role.label().to_owned(),
    })
}

/// Lets requests in. It follows the configuration that is in force.
pub(super) struct Gate(Mutex<(Arc<Config>, Arc<[Token]>)>);

impl Gate {
    pub(super) fn new(config: Arc<Config>) -> Self {
        // Without a readable file of tokens nobody is let in, rather than everyone.
        let tokens = read(&config).unwrap_or_default();
        Self(Mutex::new((config, tokens)))
    }

    /// Who asks, or why nobody is known to. Where it takes keys, a token may also come as the secret of an API key, whatever that is
    /// called.
    pub(super) fn admit(
        &self,
        config: &Arc<Config>,
        headers: &HeaderMap,
        peer: Peer,
        now: SystemTime,
        takes_keys: bool,
    ) -> Result<Caller, ApiError> {
        if let Peer::Local(_) = peer {
            return Ok(Caller {
                role: Role::Admin,
                token: BY_SOCKET.into(),
                peer,
            });
        }
        if let Peer::Node(_) = peer {
            return by_node(headers, peer).ok_or_else(ApiError::unauthorized);
        }
        let by_key = || secret_of_key(headers).filter(|_| takes_keys);
        let shown = bearer(headers).map(|token| Zeroizing::new(token.to_owned()));
        let shown = shown.or_else(by_key).ok_or_else(ApiError::unauthorized)?;
        let tokens = self.tokens(config);
        let token = find(&tokens, &shown, now).ok_or_else(ApiError::unauthorized)?;
        Ok(Caller {
            role: token.role,
            token: token.name.as_str().into(),
            peer,
        })
    }

    /// The tokens in force. They are read when the configuration was read again; what was broken since then keeps the old.
    fn tokens(&self, config: &Arc<Config>) -> Arc<[Token]> {
        // A reader that panicked left nothing half done.
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current.0, config) {
            let tokens = read(config).unwrap_or_else(|| Arc::clone(&current.1));
            *current = (Arc::clone(config), tokens);
        }
        Arc::clone(&current.1)
    }
}

/// Whom another node lets ask: it has the key of the group, and says who that is.
fn by_node(headers: &HeaderMap, peer: Peer) -> Option<Caller> {
    let text = |name| headers.get(name)?.to_str().ok();
    Some(Caller {
        role: Role::from_word(text(ROLE)?)?,
        token: text(CALLER)?.into(),
        peer,
    })
}

/// Looks at every token, so that the time it takes does not depend on which one fits.
fn find<'t>(tokens: &'t [Token], shown: &str, now: SystemTime) -> Option<&'t Token> {
    let shown = sha256(shown.as_bytes());
    let mut found: Option<&Token> = None;
    for token in tokens {
        let counts = token.until.is_none_or(|until| now < until);
        if openssl::memcmp::eq(&token.hash, &shown)
            && counts
            && found.is_none_or(|other| other.role < token.role)
        {
            found = Some(token);
        }
    }
    found
}

/// The tokens of a configuration, or nothing, and lines in the log, when they cannot be read.
fn read(config: &Config) -> Option<Arc<[Token]>> {
    match token_store::load(config) {
        Ok(tokens) => Some(tokens.into()),
        Err(problems) => {
            for problem in problems {
                error!(problem, "the tokens of the management interface cannot be used");
            }
            None
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    credentials(headers, "bearer")
}

/// The password of `Authorization: Basic` (RFC 7617).
fn secret_of_key(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let decoded = Zeroizing::new(Base64::decode_vec(credentials(headers, "basic")?).ok()?);
    let (_, secret) = str::from_utf8(&decoded).ok()?.split_once(':')?;
    (!secret.is_empty()).then(|| Zeroizing::new(secret.to_owned()))
}

/// What stands behind the scheme.
fn credentials<'h>(headers: &'h HeaderMap, scheme: &str) -> Option<&'h str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (shown, credentials) = value.split_once(' ')?;
    shown
        .eq_ignore_ascii_case(scheme)
        .then(|| credentials.trim())
        .filter(|credentials| !credentials.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_scheme_of_a_token_is_bearer_in_any_case() {
        let headers = |value: &'static str| {
            let mut map = HeaderMap::new();
            map.append("authorization", HeaderValue::from_static(value));
            map
        };
        assert_eq!(bearer(&headers("bEARER  abc")), Some("abc"));
        for bad in ["abc", "Basic abc", "Bearer "] {
            assert_eq!(bearer(&headers(bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_token_counts_until_its_end_and_the_stronger_of_two_alike() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let tokens = [
            Token::new("reader", Role::ReadOnly, "both", None),
            Token::new("boss", Role::Admin, "both", Some(now + Duration::from_secs(9))),
            Token::new("gone", Role::Admin, "late", Some(now)),
        ];
        let name = |shown, after| {
            let at = now + Duration::from_secs(after);
            find(&tokens, shown, at).map(|token| token.name.as_str())
        };
        assert_eq!((name("both", 0), name("both", 9)), (Some("boss"), Some("reader")));
        assert_eq!((name("late", 0), name("other", 0)), (None, None));
    }
}
