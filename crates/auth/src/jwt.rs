//! JSON Web Tokens (RFC 7519), and CBOR Web Tokens (RFC 8392) beside them, as a backend.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{ACCEPT, HeaderValue};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use portcullis_proto::policy::authentication::{AuthRequest, DenyReason, Verdict};

use super::answer;
use super::client::{Client, Origin, Trust};
use super::cwt;
use super::http::MAX_ANSWER;
use super::jws::{Key, KeySet, TokenError};
use super::settings::{Algorithm, JwtKeys, JwtSettings, TokenFrom, WallClock};
use super::template::{Template, Values};
use super::users::FileError;

/// Largest key file in bytes.
const MAX_KEY_FILE: u64 = 64 << 10;
const PEM: &[u8] = b"-----BEGIN ";
/// A key set is fetched no sooner than this after the last time, whatever keys tokens name.
const REFETCH: Duration = Duration::from_secs(10);
/// For fetching a key set.
const FETCH: Duration = Duration::from_secs(5);

/// Judges a login by the token in it: signature, times and claims, and the topics that it allows.
#[derive(Debug)]
pub(super) struct JwtBackend {
    from: TokenFrom,
    keys: Keys,
    claims: Vec<(String, Template)>,
    acl_claim: String,
    leeway: Duration,
    require_exp: bool,
}

#[derive(Debug)]
enum Keys {
    Fixed(KeySet),
    Fetched(Box<Fetched>),
}

/// A key set from a server: the last good one stays until the next.
#[derive(Debug)]
struct Fetched {
    client: Client,
    path: String,
    refresh: Duration,
    algorithms: Vec<Algorithm>,
    set: RwLock<Option<(Arc<KeySet>, Instant)>>,
    /// When it was last tried; held while it is.
    tried: Mutex<Option<Instant>>,
}

impl JwtBackend {
    /// Checks the settings and reads the files they name.
    pub(super) fn open(settings: &JwtSettings) -> Result<Self, Vec<FileError>> {
        let mut errors = Vec::new();
        let mut claims = Vec::new();
        for (name, text) in &settings.required_claims {
            match Template::new(text) {
                Ok(template) => claims.push((name.clone(), template)),
                Err(error) => errors.push(FileError::whole(
                    &PathBuf::from(format!("required_claims.{name}")),
                    error,
                )),
            }
        }
        match keys(settings) {
            Ok(keys) if errors.is_empty() => Ok(Self {
                from: settings.from,
                keys,
                claims,
                acl_claim: settings.acl_claim.clone(),
                leeway: settings.leeway,
                require_exp: settings.require_exp,
            }),
            Ok(_) => Err(errors),
            Err(error) => {
                errors.push(error);
                Err(errors)
            }
        }
    }

    /// Whether there are keys to verify with.
    ///
    /// # Errors
    /// Why a key set cannot be fetched.
    pub(super) async fn probe(&self) -> Result<(), String> {
        match &self.keys {
            Keys::Fixed(_) => Ok(()),
            Keys::Fetched(fetched) => fetched.fetch_now().await.map(drop),
        }
    }

    /// Judges the token in `request`. `Err` when there are no keys to judge it with.
    pub(super) async fn judge(
        &self,
        request: &AuthRequest,
        listener: &str,
        clock: WallClock,
    ) -> Result<Verdict, String> {
        let password = request.password.as_ref().map(|password| password.expose());
        let token = match self.from {
            TokenFrom::Password => password,
            // A user name is text, so what is none comes in the password all the same.
            TokenFrom::Username => password
                .filter(|password| cwt::is_cbor(password))
                .or(request.username.as_deref().map(str::as_bytes)),
        };
        let Some(token) = token else {
            return Ok(Verdict::Deny(DenyReason::MissingCredentials));
        };
        let claims = match &self.keys {
            Keys::Fixed(set) => claims_of(set, token),
            Keys::Fetched(fetched) => fetched.verify(token).await?,
        };
        Ok(match claims {
            Ok(claims) => self.judge_claims(&claims, &Values::new(request, listener), clock),
            Err(TokenError::UnknownKey | TokenError::Bad) => Verdict::Deny(DenyReason::BadToken),
        })
    }

    fn judge_claims(&self, claims: &Map<String, Value>, values: &Values<'_>, clock: WallClock) -> Verdict {
        let now = clock();
        let bad = Verdict::Deny(DenyReason::BadToken);
        let mut expires_in = None;
        match claims.get("exp") {
            // The leeway is what the clocks may be apart, so it is added to the time that is left too.
            Some(exp) => match answer::left(exp, now.checked_sub(self.leeway).unwrap_or(now)) {
                None => return bad,
                Some(Duration::ZERO) => return Verdict::Deny(DenyReason::Expired),
                left => expires_in = left,
            },
            None if self.require_exp => return bad,
            None => {}
        }
        // RFC 7519, 4.1.2. A list that holds the name too is no name.
        if claims.get("sub").is_some_and(|sub| !sub.is_string()) {
            return bad;
        }
        for claim in ["nbf", "iat"] {
            match claims.get(claim).map(|at| answer::left(at, now)) {
                Some(None) => return bad,
                Some(Some(left)) if left > self.leeway => return Verdict::Deny(DenyReason::Expired),
                _ => {}
            }
        }
        for (name, template) in &self.claims {
            let wanted = match template.render_or_none(values) {
                Ok(Some(wanted)) => wanted,
                Ok(None) | Err(_) => return bad,
            };
            if !claims.get(name).is_some_and(|found| says(found, &wanted)) {
                return bad;
            }
        }
        answer::granted(claims, &self.acl_claim, "client_attrs", expires_in).unwrap_or(bad)
    }
}

/// The claims of a token in either of its forms, once its signature is found right.
fn claims_of(keys: &KeySet, token: &[u8]) -> Result<Map<String, Value>, TokenError> {
    if cwt::is_cbor(token) {
        return cwt::verify(keys, token);
    }
    keys.verify(std::str::from_utf8(token).map_err(|_| TokenError::Bad)?)
}

/// Whether a claim is `wanted`, or a list that holds it (`aud`: RFC 7519, 4.1.3).
fn says(found: &Value, wanted: &str) -> bool {
    match found {
        Value::String(text) => text == wanted,
        Value::Number(number) => number.to_string() == wanted,
        Value::Bool(truth) => truth.to_string() == wanted,
        Value::Array(list) => list.iter().any(|found| found.as_str() == Some(wanted)),
        Value::Null | Value::Object(_) => false,
    }
}

fn keys(settings: &JwtSettings) -> Result<Keys, FileError> {
    match &settings.keys {
        JwtKeys::File { path } => {
            let bytes = read_key(path)?;
            let key = if bytes.windows(PEM.len()).any(|window| window == PEM) {
                Key::from_pem(&bytes)
            } else {
                Key::secret(bytes)
            };
            let wrong = |message: String| FileError::whole(path, message);
            let mut set = key.map(KeySet::single).map_err(wrong)?;
            set.keep(&settings.algorithms);
            if set.is_empty() {
                return Err(wrong(
                    "the key is for none of the algorithms that are allowed".to_owned(),
                ));
            }
            Ok(Keys::Fixed(set))
        }
        JwtKeys::Jwks { url, refresh, tls } => {
            let (origin, path) =
                Origin::of(url).map_err(|message| FileError::whole(&PathBuf::from("jwks"), message))?;
            Ok(Keys::Fetched(Box::new(Fetched {
                client: Client::new(origin, &Trust::Anchors(tls.clone()), 0)?,
                path,
                refresh: (*refresh).max(REFETCH),
                algorithms: settings.algorithms.clone(),
                set: RwLock::default(),
                tried: Mutex::default(),
            })))
        }
    }
}

/// The bytes of a key file, one line end at the end left out: editors add it to secrets.
fn read_key(file: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let size = std::fs::metadata(file)
        .map_err(|error| FileError::whole(file, error))?
        .len();
    if size > MAX_KEY_FILE {
        return Err(FileError::whole(
            file,
            format!("the file is larger than {MAX_KEY_FILE} bytes"),
        ));
    }
    let mut bytes = Zeroizing::new(std::fs::read(file).map_err(|error| FileError::whole(file, error))?);
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(bytes)
}

impl Fetched {
    async fn verify(&self, token: &[u8]) -> Result<Result<Map<String, Value>, TokenError>, String> {
        if let Some((set, fetched)) = self.current()
            && fetched.elapsed() < self.refresh
        {
            match claims_of(&set, token) {
                Err(TokenError::UnknownKey) => {}
                result => return Ok(result),
            }
        }
        self.fetch().await;
        match self.current() {
            Some((set, _)) => Ok(claims_of(&set, token)),
            None => Err("the key set could not be fetched yet".to_owned()),
        }
    }

    fn current(&self) -> Option<(Arc<KeySet>, Instant)> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches the set, unless that was done just now; whoever comes meanwhile waits for the same.
    async fn fetch(&self) {
        let mut tried = self.tried.lock().await;
        if tried.is_some_and(|tried| tried.elapsed() < REFETCH) {
            return;
        }
        let result = self.fetch_now().await;
        *tried = Some(Instant::now());
        match result {
            Ok(set) => {
                let mut current = self.set.write().unwrap_or_else(PoisonError::into_inner);
                *current = Some((Arc::new(set), Instant::now()));
            }
            Err(error) => tracing::warn!(client = ?self.client, error, "the JWK set cannot be fetched"),
        }
    }

    async fn fetch_now(&self) -> Result<KeySet, String> {
        let mut request = Request::builder()
            .uri(self.path.as_str())
            .body(Full::new(Bytes::new()))
            .map_err(|error| error.to_string())?;
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        let (status, body) = self
            .client
            .ask(request, FETCH, MAX_ANSWER)
            .await
            .map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("it answered with status {status}"));
        }
        let mut set = KeySet::from_jwks(&body)?;
        set.keep(&self.algorithms);
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use serde_json::json;

    use super::super::tests::request;
    use super::*;

    fn clock() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn backend(claims: &[(&str, &str)], leeway: u64) -> JwtBackend {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "secret\n").unwrap();
        let mut settings = JwtSettings::new(JwtKeys::File { path: file });
        settings.required_claims = claims
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        settings.leeway = Duration::from_secs(leeway);
        settings.require_exp = false;
        JwtBackend::open(&settings).unwrap()
    }

    fn judge(backend: &JwtBackend, claims: &Value) -> Verdict {
        let asked = request("ann", "x");
        backend.judge_claims(
            claims.as_object().unwrap(),
            &Values::new(&asked, "default"),
            clock,
        )
    }

    const EXPIRED: Verdict = Verdict::Deny(DenyReason::Expired);
    const BAD: Verdict = Verdict::Deny(DenyReason::BadToken);

    #[test]
    fn times_are_kept_with_the_leeway_that_was_given() {
        let strict = backend(&[], 0);
        assert_eq!(judge(&strict, &json!({})), Verdict::allow());
        assert!(matches!(judge(&strict, &json!({"exp": 1060})),
            Verdict::Allow { expires_in: Some(left), .. } if left == Duration::from_secs(60)));
        for exp in [json!(1000), json!(5), json!(-5), json!(999.5)] {
            assert_eq!(judge(&strict, &json!({"exp": exp})), EXPIRED, "{exp}");
        }
        assert_eq!(judge(&strict, &json!({"nbf": 1001})), EXPIRED);
        assert_eq!(judge(&strict, &json!({"iat": 1001})), EXPIRED);
        assert_eq!(judge(&strict, &json!({"nbf": 1000, "iat": 7})), Verdict::allow());
        for odd in [
            json!({"exp": "1060"}),
            json!({"exp": null}),
            json!({"nbf": "x"}),
            json!({"exp": 1e300}),
        ] {
            assert_eq!(judge(&strict, &odd), BAD, "{odd}");
        }
        let loose = backend(&[], 10);
        assert!(matches!(judge(&loose, &json!({"exp": 995, "nbf": 1010})),
            Verdict::Allow { expires_in: Some(left), .. } if left == Duration::from_secs(5)));
        assert_eq!(judge(&loose, &json!({"exp": 990})), EXPIRED);
    }

    #[test]
    fn a_token_without_an_end_and_a_subject_that_is_no_text_let_nobody_in() {
        let mut strict = backend(&[], 0);
        strict.require_exp = true;
        assert_eq!(judge(&strict, &json!({"sub": "c1"})), BAD);
        assert!(matches!(
            judge(&strict, &json!({"exp": 1060})),
            Verdict::Allow { .. }
        ));
        let named = backend(&[("sub", "${clientid}")], 0);
        for sub in [json!(["c1"]), json!(1), json!(null), json!({"c1": "c1"})] {
            assert_eq!(judge(&named, &json!({"sub": sub})), BAD, "{sub}");
            assert_eq!(judge(&backend(&[], 0), &json!({"sub": sub})), BAD, "{sub}");
        }
    }

    #[test]
    fn required_claims_must_be_there_and_fit() {
        let backend = backend(&[("sub", "${clientid}"), ("aud", "coap")], 0);
        assert_eq!(
            judge(&backend, &json!({"sub": "c1", "aud": "coap"})),
            Verdict::allow()
        );
        assert_eq!(
            judge(&backend, &json!({"sub": "c1", "aud": ["mqtt", "coap"]})),
            Verdict::allow()
        );
        for bad in [
            json!({"sub": "c1"}),
            json!({"sub": "c2", "aud": "coap"}),
            json!({"sub": {}, "aud": "coap"}),
        ] {
            assert_eq!(judge(&backend, &bad), BAD, "{bad}");
        }
        let mut nobody = request("ann", "x");
        nobody.clientid = None;
        let claims = json!({"sub": "", "aud": "coap"});
        let verdict = backend.judge_claims(
            claims.as_object().unwrap(),
            &Values::new(&nobody, "default"),
            clock,
        );
        assert_eq!(verdict, BAD);
    }

    #[test]
    fn an_acl_that_is_not_understood_refuses_the_token() {
        assert_eq!(judge(&backend(&[], 0), &json!({"acl": "everything"})), BAD);
        let own = judge(
            &backend(&[], 0),
            &json!({"acl": {"pub": ["a"]}, "is_superuser": false}),
        );
        assert!(matches!(
            own,
            Verdict::Allow {
                acl: Some(_),
                superuser: false,
                ..
            }
        ));
    }
}
