//! JSON Web Tokens as an issuer makes them (RFC 7515), signed by OpenSSL.

use base64ct::{Base64UrlUnpadded, Encoding};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use serde_json::{Value, json};

fn b64(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// Without an end of its own a token counts for an hour.
fn message(header: &Value, claims: &Value) -> String {
    let mut claims = claims.clone();
    if claims.get("exp").is_none() {
        claims["exp"] = in_seconds(3600).into();
    }
    let [header, claims] = [header, &claims].map(|part| b64(part.to_string().as_bytes()));
    format!("{header}.{claims}")
}

/// A token with HS256.
pub fn hs256(secret: &str, claims: &Value) -> String {
    by_secret(secret, message(&json!({"alg": "HS256", "typ": "JWT"}), claims))
}

/// A token with HS256 and just these claims.
pub fn endless(secret: &str, claims: &Value) -> String {
    let parts = [&json!({"alg": "HS256"}), claims].map(|part| b64(part.to_string().as_bytes()));
    by_secret(secret, parts.join("."))
}

fn by_secret(secret: &str, message: String) -> String {
    let key = PKey::hmac(secret.as_bytes()).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    let signature = signer.sign_oneshot_to_vec(message.as_bytes()).unwrap();
    format!("{message}.{}", b64(&signature))
}

/// A key for ES256, with the id that tokens name it by.
pub struct Es256 {
    kid: String,
    key: EcKey<Private>,
}

impl Es256 {
    pub fn new(kid: &str) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        Self {
            kid: kid.to_owned(),
            key: EcKey::generate(&group).unwrap(),
        }
    }

    /// A token.
    pub fn sign(&self, claims: &Value) -> String {
        let message = message(&json!({"alg": "ES256", "kid": self.kid}), claims);
        let key = PKey::from_ec_key(self.key.clone()).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        let der = signer.sign_oneshot_to_vec(message.as_bytes()).unwrap();
        let signature = EcdsaSig::from_der(&der).unwrap();
        let signature = [signature.r(), signature.s()].map(|n| n.to_vec_padded(32).unwrap());
        format!("{message}.{}", b64(&signature.concat()))
    }

    /// The public key in PEM.
    pub fn public_pem(&self) -> Vec<u8> {
        self.key.public_key_to_pem().unwrap()
    }

    /// The public key as a JWK (RFC 7517).
    pub fn jwk(&self) -> Value {
        let (mut x, mut y) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        let mut context = BigNumContext::new().unwrap();
        self.key
            .public_key()
            .affine_coordinates(self.key.group(), &mut x, &mut y, &mut context)
            .unwrap();
        let [x, y] = [x, y].map(|n| b64(&n.to_vec_padded(32).unwrap()));
        json!({"kty": "EC", "kid": self.kid, "crv": "P-256", "use": "sig", "x": x, "y": y})
    }
}

/// Seconds since 1970, and then some.
pub fn in_seconds(seconds: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs() + seconds
}
