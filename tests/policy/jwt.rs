//! JSON Web Tokens, signed with keys that the openssl command makes, verified by file and by a JWK set endpoint.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding};
use openssl::pkey::{Id, PKey};
use portcullis::auth::settings::{
    Algorithm, AuthSettings, BackendSettings, JwtKeys, JwtSettings, TlsSettings, TokenFrom,
};
use portcullis::policy::authentication::{DenyReason, Verdict};
use portcullis::policy::authorization::{Access, Action};
use portcullis::policy::pattern::Subject;
use serde_json::{Value, json};

use super::support::{Server, certificate, judge, request, run, settings, start, text};

const BAD: Verdict = Verdict::Deny(DenyReason::BadToken);
const EXPIRED: Verdict = Verdict::Deny(DenyReason::Expired);

fn jwt(settings_of: JwtSettings) -> AuthSettings {
    settings(BackendSettings::Jwt(JwtSettings {
        require_exp: false,
        ..settings_of
    }))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn b64(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// A private key and its public key in PEM, made by the openssl command.
fn key(dir: &Path, name: &str, algorithm: &str) -> (PathBuf, PathBuf) {
    let (private, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
    let options: &[&str] = match algorithm {
        "RS256" => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "ES256" => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        _ => &["-algorithm", "ED25519"],
    };
    run(
        "openssl",
        &[&["genpkey", "-out", text(&private)], options].concat(),
    );
    run(
        "openssl",
        &["pkey", "-in", text(&private), "-pubout", "-out", text(&public)],
    );
    (private, public)
}

/// A token signed by the openssl command.
fn sign(private: &Path, header: &Value, claims: &Value) -> String {
    let message = format!(
        "{}.{}",
        b64(header.to_string().as_bytes()),
        b64(claims.to_string().as_bytes())
    );
    let file = private.with_extension("message");
    std::fs::write(&file, &message).unwrap();
    let mut command = Command::new("openssl");
    command.args([
        "pkeyutl",
        "-sign",
        "-rawin",
        "-inkey",
        text(private),
        "-in",
        text(&file),
    ]);
    let kind = PKey::private_key_from_pem(&std::fs::read(private).unwrap())
        .unwrap()
        .id();
    if kind != Id::ED25519 {
        command.args(["-digest", "sha256"]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let signature = if kind == Id::EC {
        let signature = openssl::ecdsa::EcdsaSig::from_der(&output.stdout).unwrap();
        [signature.r(), signature.s()]
            .map(|n| n.to_vec_padded(32).unwrap())
            .concat()
    } else {
        output.stdout
    };
    format!("{message}.{}", b64(&signature))
}

/// An HS256 token, signed by the openssl command.
fn sign_with_secret(dir: &Path, secret: &str, claims: &Value) -> String {
    let message = format!(
        "{}.{}",
        b64(br#"{"alg":"HS256","typ":"JWT"}"#),
        b64(claims.to_string().as_bytes())
    );
    let file = dir.join("message");
    std::fs::write(&file, &message).unwrap();
    let arguments = ["dgst", "-sha256", "-binary", "-hmac", secret, text(&file)];
    let output = Command::new("openssl").args(arguments).output().unwrap();
    format!("{message}.{}", b64(&output.stdout))
}

/// The key as a JWK.
fn jwk(public: &Path, kid: &str) -> Value {
    let key = PKey::public_key_from_pem(&std::fs::read(public).unwrap()).unwrap();
    match key.id() {
        Id::RSA => {
            let rsa = key.rsa().unwrap();
            json!({"kty": "RSA", "kid": kid, "alg": "RS256", "n": b64(&rsa.n().to_vec()), "e": b64(&rsa.e().to_vec())})
        }
        Id::EC => {
            let key = key.ec_key().unwrap();
            let mut context = openssl::bn::BigNumContext::new().unwrap();
            let (mut x, mut y) = (
                openssl::bn::BigNum::new().unwrap(),
                openssl::bn::BigNum::new().unwrap(),
            );
            key.public_key()
                .affine_coordinates(key.group(), &mut x, &mut y, &mut context)
                .unwrap();
            let [x, y] = [x, y].map(|n| b64(&n.to_vec_padded(32).unwrap()));
            json!({"kty": "EC", "kid": kid, "crv": "P-256", "use": "sig", "x": x, "y": y})
        }
        _ => json!({"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": b64(&key.raw_public_key().unwrap())}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_every_algorithm_are_verified_with_a_public_key_file() {
    let dir = tempfile::tempdir().unwrap();
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let (private, public) = key(dir.path(), algorithm, algorithm);
        let (stranger, _) = key(dir.path(), "stranger", algorithm);
        let auth = start(&jwt(JwtSettings::new(JwtKeys::File { path: public.clone() })));
        let header = json!({"alg": algorithm, "typ": "JWT", "kid": "whatever"});
        let claims = json!({"exp": now() + 60});
        let verdict = judge(&auth, request("ann", &sign(&private, &header, &claims))).await;
        assert!(
            matches!(verdict, Verdict::Allow { expires_in: Some(left), .. } if left <= Duration::from_secs(60))
        );
        assert_eq!(
            judge(&auth, request("ann", &sign(&stranger, &header, &claims))).await,
            BAD,
            "{algorithm}"
        );
        let over = sign(&private, &header, &json!({"exp": now() - 1}));
        assert_eq!(judge(&auth, request("ann", &over)).await, EXPIRED, "{algorithm}");
        let early = sign(&private, &header, &json!({"nbf": now() + 30}));
        assert_eq!(judge(&auth, request("ann", &early)).await, EXPIRED, "{algorithm}");
        // The public key is public: a token "signed" with it must not pass as HS256.
        let pem = std::fs::read_to_string(&public).unwrap();
        let forged = sign_with_secret(dir.path(), pem.trim_end(), &claims);
        assert_eq!(judge(&auth, request("ann", &forged)).await, BAD, "{algorithm}");
        assert_eq!(judge(&auth, request("ann", "")).await, BAD);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_secret_an_acl_claim_and_required_claims_work_together() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "emqxsecretemqxsecretemqxsecret!!\n").unwrap();
    let mut checked = JwtSettings::new(JwtKeys::File { path: file });
    checked.from = TokenFrom::Username;
    checked.required_claims = [("sub".to_owned(), "${clientid}".to_owned())].into();
    let auth = start(&jwt(checked));
    let token = |claims: Value| sign_with_secret(dir.path(), "emqxsecretemqxsecretemqxsecret!!", &claims);
    let good = token(json!({"sub": "c1", "acl": {"pub": ["up/${clientid}/#"], "sub": ["down/%c"]}}));
    let Verdict::Allow {
        acl: Some(acl),
        expires_in: None,
        ..
    } = judge(&auth, request(&good, "")).await
    else {
        panic!("not let in");
    };
    let who = Subject {
        client: Some("c1"),
        ..Subject::default()
    };
    let may = |action, topic| {
        acl.check(&who, &Access::new(action, topic))
            .is_some_and(|decision| decision.allowed)
    };
    assert!(may(Action::Publish, "up/c1/x") && may(Action::Subscribe, "down/c1"));
    assert!(!may(Action::Publish, "up/c2/x") && !may(Action::Subscribe, "down/+"));
    assert_eq!(judge(&auth, request(&token(json!({"sub": "c2"})), "")).await, BAD);
    assert_eq!(judge(&auth, request(&token(json!({})), "")).await, BAD);
    assert_eq!(judge(&auth, request("ann", &good)).await, BAD);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_set_is_fetched_once_and_serves_all_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<_> = ["RS256", "ES256", "EdDSA"]
        .map(|algorithm| (algorithm, key(dir.path(), algorithm, algorithm)))
        .into();
    let jwks: Vec<_> = keys.iter().map(|(kid, (_, public))| jwk(public, kid)).collect();
    let (cert, cert_key) = certificate(dir.path());
    let document = json!({"keys": jwks}).to_string();
    let answer = move |_: &super::support::Got| (200, document.clone());
    let server = Server::start(Some((cert.clone(), cert_key)), Duration::from_millis(50), answer).await;
    let url = format!("https://127.0.0.1:{}/.well-known/jwks.json", server.port);
    let tls = TlsSettings {
        ca_file: Some(cert),
        ..TlsSettings::default()
    };
    let auth = start(&jwt(JwtSettings::new(JwtKeys::Jwks {
        url,
        refresh: Duration::from_secs(300),
        tls,
    })));
    let tokens: Vec<_> = keys
        .iter()
        .map(|(kid, (private, _))| sign(private, &json!({"alg": kid, "kid": kid}), &json!({})))
        .collect();
    let verdicts = tokens.iter().map(|token| judge(&auth, request("ann", token)));
    for verdict in futures_join(verdicts).await {
        assert_eq!(verdict, Verdict::allow());
    }
    for kid in ["ES256", "nobody", ""] {
        let mixed = sign(&keys[0].1.0, &json!({"alg": "RS256", "kid": kid}), &json!({}));
        assert_eq!(judge(&auth, request("ann", &mixed)).await, BAD, "{kid}");
    }
    assert_eq!(server.got().len(), 1);
    assert_eq!(server.got()[0].uri, "/.well-known/jwks.json");
}

async fn futures_join<F: Future<Output = Verdict>>(futures: impl Iterator<Item = F>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for future in futures {
        verdicts.push(future.await);
    }
    verdicts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_fetched_when_a_token_names_it_and_a_lost_server_keeps_the_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (old, old_public) = key(dir.path(), "old", "EdDSA");
    let (new, new_public) = key(dir.path(), "new", "EdDSA");
    let document = Arc::new(Mutex::new((
        200,
        json!({"keys": [jwk(&old_public, "old")]}).to_string(),
    )));
    let served = Arc::clone(&document);
    let server = Server::start(None, Duration::ZERO, move |_| served.lock().unwrap().clone()).await;
    let url = format!("http://127.0.0.1:{}/jwks", server.port);
    let settings = jwt(JwtSettings::new(JwtKeys::Jwks {
        url,
        refresh: Duration::ZERO,
        tls: TlsSettings::default(),
    }));
    let auth = start(&settings);
    let token = |private: &Path, kid: &str| sign(private, &json!({"alg": "EdDSA", "kid": kid}), &json!({}));
    assert_eq!(
        judge(&auth, request("ann", &token(&old, "old"))).await,
        Verdict::allow()
    );

    let both = json!({"keys": [jwk(&old_public, "old"), jwk(&new_public, "new")]}).to_string();
    *document.lock().unwrap() = (200, both);
    assert_eq!(judge(&auth, request("ann", &token(&new, "new"))).await, BAD);
    assert_eq!(
        server.got().len(),
        1,
        "not sooner than ten seconds after the last time"
    );
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    assert_eq!(
        judge(&auth, request("ann", &token(&new, "new"))).await,
        Verdict::allow()
    );
    assert_eq!(server.got().len(), 2);

    *document.lock().unwrap() = (500, String::new());
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    assert_eq!(
        judge(&auth, request("ann", &token(&new, "new"))).await,
        Verdict::allow()
    );
    assert_eq!(server.got().len(), 3);
    auth.reload(&settings).unwrap();
    assert_eq!(
        judge(&auth, request("ann", &token(&new, "new"))).await,
        Verdict::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_algorithms_that_are_allowed_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let (private, public) = key(dir.path(), "ed", "EdDSA");
    let mut narrow = JwtSettings::new(JwtKeys::File { path: public.clone() });
    narrow.algorithms = vec![Algorithm::Es256];
    let errors =
        portcullis::auth::start(&jwt(narrow.clone()), tokio::runtime::Handle::current()).unwrap_err();
    assert!(errors[0].message.contains("algorithms"), "{errors:?}");
    let document = json!({"keys": [jwk(&public, "ed")]}).to_string();
    let server = Server::start(None, Duration::ZERO, move |_| (200, document.clone())).await;
    let url = format!("http://127.0.0.1:{}/", server.port);
    narrow.keys = JwtKeys::Jwks {
        url,
        refresh: Duration::from_secs(60),
        tls: TlsSettings::default(),
    };
    let token = sign(&private, &json!({"alg": "EdDSA", "kid": "ed"}), &json!({}));
    assert_eq!(
        judge(&start(&jwt(narrow.clone())), request("ann", &token)).await,
        BAD
    );
    narrow.algorithms.push(Algorithm::EdDsa);
    assert_eq!(
        judge(&start(&jwt(narrow)), request("ann", &token)).await,
        Verdict::allow()
    );
}

#[tokio::test]
async fn broken_key_files_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    std::fs::write(
        &file,
        "-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----\n",
    )
    .unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    for path in [file, dir.path().join("none"), empty] {
        let keys = JwtKeys::File { path };
        let settings = jwt(JwtSettings::new(keys));
        let errors = portcullis::auth::start(&settings, tokio::runtime::Handle::current()).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(!errors[0].to_string().contains("hunter2"), "{}", errors[0]);
    }
}
