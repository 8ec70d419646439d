//! Signatures of each kind, published examples, and what must not pass.

use openssl::ec::EcKey;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use serde_json::json;

use super::*;

pub(in super::super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

pub(in super::super) fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub(in super::super) fn sign(key: &PKey<Private>, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let signature = match key.id() {
        Id::ED25519 => Signer::new_without_digest(key)
            .unwrap()
            .sign_oneshot_to_vec(message.as_bytes())
            .unwrap(),
        Id::EC => es256(key, message.as_bytes()),
        _ => {
            let mut signer = Signer::new(MessageDigest::sha256(), key).unwrap();
            signer.sign_oneshot_to_vec(message.as_bytes()).unwrap()
        }
    };
    format!("{message}.{}", b64(signature))
}

/// A signature of ES256 (RFC 7518, 3.4; RFC 9053, 2.1).
pub(in super::super) fn es256(key: &PKey<Private>, message: &[u8]) -> Vec<u8> {
    let signature = EcdsaSig::sign(&sha256(message), &key.ec_key().unwrap()).unwrap();
    let mut bytes = signature.r().to_vec_padded(32).unwrap();
    bytes.extend(signature.s().to_vec_padded(32).unwrap());
    bytes
}

/// HMAC with SHA-256.
pub(in super::super) fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

fn hmac_token(secret: &[u8], header: &Value) -> String {
    hmac_text(secret, &header.to_string(), r#"{"sub": "x"}"#)
}

fn hmac_text(secret: &[u8], header: &str, claims: &str) -> String {
    let message = format!("{}.{}", b64(header), b64(claims));
    format!("{message}.{}", b64(hs256(secret, message.as_bytes())))
}

fn public(key: &PKey<Private>) -> KeySet {
    KeySet::single(Key::from_pem(&key.public_key_to_pem().unwrap()).unwrap())
}

#[test]
fn each_algorithm_takes_its_own_signature_and_no_changed_token() {
    let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let keys = [
        (rsa, "RS256"),
        (ec_key(), "ES256"),
        (PKey::generate_ed25519().unwrap(), "EdDSA"),
    ];
    for (key, algorithm) in &keys {
        let set = public(key);
        let token = sign(
            key,
            &json!({"alg": algorithm, "typ": "JWT"}),
            &json!({"sub": "dev"}),
        );
        assert_eq!(set.verify(&token).unwrap()["sub"], "dev", "{algorithm}");
        let (head, tail) = token.split_once('.').unwrap();
        let (_, signature) = tail.split_once('.').unwrap();
        let other = b64(json!({"sub": "root"}).to_string());
        assert!(
            set.verify(&format!("{head}.{other}.{signature}")).is_err(),
            "{algorithm}"
        );
        for (foreign, _) in keys.iter().filter(|(_, other)| other != algorithm) {
            assert!(public(foreign).verify(&token).is_err(), "{algorithm}");
        }
        for at in [head.len() / 2, token.len() - 10] {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(
                set.verify(&String::from_utf8(bytes).unwrap()).is_err(),
                "{algorithm} {at}"
            );
        }
    }
}

/// The example of RFC 7515, A.1.
#[test]
fn the_published_hs256_example_verifies() {
    let secret = Base64UrlUnpadded::decode_vec(
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    )
    .unwrap();
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9\
                 leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let set = KeySet::single(Key::secret(Zeroizing::new(secret)).unwrap());
    assert_eq!(set.verify(token).unwrap()["iss"], "joe");
}

/// The example of RFC 7515, A.3, with its key from a JWK set.
#[test]
fn the_published_es256_example_verifies() {
    let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]});
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb\
                 290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let set = KeySet::from_jwks(jwks.to_string().as_bytes()).unwrap();
    assert_eq!(set.verify(token).unwrap()["iss"], "joe");
}

/// The example of RFC 8037, A.4, with its key from a JWK set. Its payload is no JSON, so the signature alone is checked.
#[test]
fn the_published_ed25519_example_verifies() {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let key = Key::from_jwk(jwk.as_object().unwrap()).unwrap().unwrap();
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let signature = Base64UrlUnpadded::decode_vec(signature).unwrap();
    assert!(key.verify(
        b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        &signature
    ));
    assert!(!key.verify(
        b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmd",
        &signature
    ));
}

#[test]
fn a_public_key_cannot_be_passed_off_as_a_secret() {
    let key = ec_key();
    let pem = key.public_key_to_pem().unwrap();
    for algorithm in ["HS256", "none", "None", "", "ES384", "RS256"] {
        let token = hmac_token(&pem, &json!({"alg": algorithm}));
        assert_eq!(
            public(&key).verify(&token),
            Err(TokenError::UnknownKey),
            "{algorithm}"
        );
    }
    let unsigned = format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(r#"{"sub":"x"}"#));
    assert!(public(&key).verify(&unsigned).is_err());
}

#[test]
fn malformed_tokens_are_refused() {
    let set = KeySet::single(Key::secret(Zeroizing::new(b"secret".to_vec())).unwrap());
    let good = hmac_token(b"secret", &json!({"alg": "HS256"}));
    assert!(set.verify(&good).is_ok());
    for bad in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "e30.e30.",
        &format!("{good}.x"),
        &format!("x.{good}"),
        &format!("{good}="),
    ] {
        assert!(set.verify(bad).is_err(), "{bad}");
    }
    for header in [
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": 1}),
        json!([]),
        json!({}),
    ] {
        assert!(set.verify(&hmac_token(b"secret", &header)).is_err(), "{header}");
    }
    assert!(
        set.verify(&hmac_token(b"secre", &json!({"alg": "HS256"})))
            .is_err()
    );
    assert!(Key::secret(Zeroizing::default()).is_err());
}

#[test]
fn a_key_set_serves_the_named_key_and_leaves_out_what_it_does_not_know() {
    let (key, other) = (
        PKey::generate_ed25519().unwrap(),
        PKey::generate_ed25519().unwrap(),
    );
    let jwk = |kid: &str, key: &PKey<Private>| json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "use": "sig", "x": b64(key.raw_public_key().unwrap())});
    let set = json!({"keys": [
        {"kty": "oct", "k": b64("secret"), "kid": "c"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "d"}, {"kty": "EC"}, 7,
        {"kty": "EC", "crv": "P-256", "x": b64([1; 32]), "y": b64([1; 32])}, jwk("a", &key), jwk("b", &other),
    ]});
    let set = KeySet::from_jwks(set.to_string().as_bytes()).unwrap();
    assert_eq!(set.0.len(), 2);
    let token = |kid: &str| sign(&key, &json!({"alg": "EdDSA", "kid": kid}), &json!({}));
    assert!(set.verify(&token("a")).is_ok());
    assert_eq!(set.verify(&token("b")), Err(TokenError::Bad));
    assert_eq!(set.verify(&token("new")), Err(TokenError::UnknownKey));
    assert!(
        set.verify(&sign(&key, &json!({"alg": "EdDSA"}), &json!({})))
            .is_ok()
    );
    assert_eq!(
        set.verify(&hmac_token(b"secret", &json!({"alg": "HS256", "kid": "c"}))),
        Err(TokenError::UnknownKey)
    );
    for bad in ["", "{}", r#"{"keys": []}"#, r#"{"keys": {}}"#] {
        assert!(KeySet::from_jwks(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    let rsa = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
    assert!(
        Key::from_pem(&rsa.public_key_to_pem().unwrap())
            .unwrap_err()
            .contains("2048")
    );
    let p384 = EcKey::generate(&EcGroup::from_curve_name(Nid::SECP384R1).unwrap()).unwrap();
    let p384 = PKey::from_ec_key(p384).unwrap();
    assert!(
        Key::from_pem(&p384.public_key_to_pem().unwrap())
            .unwrap_err()
            .contains("P-256")
    );
    assert!(Key::from_pem(b"secret").is_err());
}

#[test]
fn a_token_that_says_something_twice_is_bad() {
    let set = KeySet::single(Key::secret(Zeroizing::new(b"secret".to_vec())).unwrap());
    let token = |header, claims| set.verify(&hmac_text(b"secret", header, claims));
    let plain = r#"{"alg": "HS256"}"#;
    assert!(token(plain, r#"{"sub": "a", "aud": ["a", "a"]}"#).is_ok());
    let bad = Some(TokenError::Bad);
    assert_eq!(token(plain, r#"{"sub": "a", "sub": "b"}"#).err(), bad);
    assert_eq!(token(plain, r#"{"acl": {"pub": [], "pub": ["t"]}}"#).err(), bad);
    let header = r#"{"alg": "none", "alg": "HS256"}"#;
    assert_eq!(token(header, r#"{"sub": "a"}"#).err(), bad);
}
