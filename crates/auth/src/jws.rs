//! Signatures of JSON Web Tokens (RFC 7515, compact form), checked by OpenSSL.
//!
//! The algorithm is the key's, never the token's choice: a token only has to name the same one.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use openssl::sign::Verifier;
use openssl::x509::X509;
use portcullis_proto::types::mac::Sha256;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::json;
use super::settings::Algorithm;

/// Shortest RSA modulus that is trusted, in bits.
const MIN_RSA_BITS: u32 = 2048;
/// Most keys of a set.
const MAX_KEYS: usize = 64;

/// A key that verifies.
pub(super) enum Key {
    /// HS256: the shared secret, any number of bytes but 0.
    Hmac(Zeroizing<Vec<u8>>),
    /// RS256: a public key of [`MIN_RSA_BITS`] bits or more.
    Rsa(PKey<Public>),
    /// ES256: a public key on P-256.
    P256(EcKey<Public>),
    /// EdDSA: a public key on Ed25519.
    Ed25519(PKey<Public>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.algorithm().name())
    }
}

impl Key {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Hmac(_) => Algorithm::Hs256,
            Self::Rsa(_) => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// A key for HS256, or why these bytes are none.
    pub(super) fn secret(bytes: Zeroizing<Vec<u8>>) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("the secret is empty".to_owned());
        }
        Ok(Self::Hmac(bytes))
    }

    /// A public key or a certificate in PEM.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certified = || X509::from_pem(pem).and_then(|certificate| certificate.public_key());
        let key = PKey::public_key_from_pem(pem)
            .or_else(|_| certified())
            .map_err(|_| "this is no public key and no certificate in PEM".to_owned())?;
        Self::from_key(key)
    }

    fn from_key(key: PKey<Public>) -> Result<Self, String> {
        match key.id() {
            Id::RSA if key.bits() >= MIN_RSA_BITS => Ok(Self::Rsa(key)),
            Id::RSA => Err(format!("an RSA key has at least {MIN_RSA_BITS} bits")),
            Id::ED25519 => Ok(Self::Ed25519(key)),
            Id::EC => {
                let key = key.ec_key().map_err(|error| error.to_string())?;
                if key.group().curve_name() == Some(Nid::X9_62_PRIME256V1) {
                    Ok(Self::P256(key))
                } else {
                    Err("an EC key is on the curve P-256".to_owned())
                }
            }
            _ => Err("a public key is RSA, EC on P-256 or Ed25519".to_owned()),
        }
    }

    /// A key of a JWK set (RFC 7517, 8037). `None` for kinds and uses that do not verify tokens here.
    fn from_jwk(jwk: &Map<String, Value>) -> Option<Result<Self, String>> {
        let word = |name: &str| jwk.get(name).and_then(Value::as_str);
        if word("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |name: &str| {
            let text = word(name).map(|text| text.trim_end_matches('='));
            text.and_then(|text| Base64UrlUnpadded::decode_vec(text).ok())
                .ok_or_else(|| format!("{name} is missing"))
        };
        let key = match (word("kty")?, word("crv")) {
            ("RSA", _) => (|| rsa(&bytes("n")?, &bytes("e")?))(),
            ("EC", Some("P-256")) => (|| p256(&bytes("x")?, &bytes("y")?))(),
            ("OKP", Some("Ed25519")) => (|| {
                let key = PKey::public_key_from_raw_bytes(&bytes("x")?, Id::ED25519);
                key.map_err(|_| "x is no Ed25519 key".to_owned())
            })(),
            // A secret in a document that everyone may fetch is none.
            _ => return None,
        };
        let key = key.and_then(Self::from_key);
        match (key, word("alg")) {
            (Ok(key), Some(algorithm)) if algorithm != key.algorithm().name() => None,
            (key, _) => Some(key),
        }
    }

    /// Whether `signature` is this key's for `message`, with the key's own algorithm.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hmac(secret) => Hmac::<Sha256>::new_from_slice(secret)
                .is_ok_and(|mac| mac.chain_update(message).verify_slice(signature).is_ok()),
            Self::Rsa(key) => Verifier::new(MessageDigest::sha256(), key)
                .and_then(|mut verifier| verifier.verify_oneshot(signature, message))
                .unwrap_or(false),
            Self::P256(key) => ecdsa(key, message, signature).unwrap_or(false),
            Self::Ed25519(key) => Verifier::new_without_digest(key)
                .and_then(|mut verifier| verifier.verify_oneshot(signature, message))
                .unwrap_or(false),
        }
    }
}

fn rsa(n: &[u8], e: &[u8]) -> Result<PKey<Public>, String> {
    let key = || {
        PKey::from_rsa(Rsa::from_public_components(
            BigNum::from_slice(n)?,
            BigNum::from_slice(e)?,
        )?)
    };
    key().map_err(|error: openssl::error::ErrorStack| error.to_string())
}

fn p256(x: &[u8], y: &[u8]) -> Result<PKey<Public>, String> {
    let key = || {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let (x, y) = (BigNum::from_slice(x)?, BigNum::from_slice(y)?);
        PKey::from_ec_key(EcKey::from_public_key_affine_coordinates(&group, &x, &y)?)
    };
    key().map_err(|_: openssl::error::ErrorStack| "x and y are no point of P-256".to_owned())
}

/// RFC 7518, 3.4: the two numbers of the signature, 32 bytes each.
fn ecdsa(key: &EcKey<Public>, message: &[u8], signature: &[u8]) -> Result<bool, openssl::error::ErrorStack> {
    let (32, Some((r, s))) = (
        signature.len() / 2,
        signature.split_at_checked(32).filter(|(_, s)| s.len() == 32),
    ) else {
        return Ok(false);
    };
    let signature = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
    signature.verify(&sha256(message), key)
}

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenError {
    /// It names a key that is not there.
    UnknownKey,
    /// It is malformed, or no key signed it.
    Bad,
}

/// The keys that tokens may be signed with.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<(Option<String>, Key)>);

impl KeySet {
    /// One key, for tokens that name any key or none.
    pub(super) fn single(key: Key) -> Self {
        Self(vec![(None, key)])
    }

    /// Reads a JWK set (RFC 7517, 5). Keys of other kinds are left out.
    pub(super) fn from_jwks(text: &[u8]) -> Result<Self, String> {
        let set = json::object(text).ok_or("this is no JSON object whose names differ")?;
        let keys = set
            .get("keys")
            .and_then(Value::as_array)
            .ok_or("this is no JWK set: \"keys\" is missing")?;
        let mut parsed = Vec::new();
        for jwk in keys.iter().take(MAX_KEYS).filter_map(Value::as_object) {
            // One key that is not understood does not take the others away (RFC 7517, 5).
            if let Some(Ok(key)) = Key::from_jwk(jwk) {
                let kid = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
                parsed.push((kid, key));
            }
        }
        if parsed.is_empty() {
            return Err("no key of this JWK set verifies RS256, ES256 or EdDSA".to_owned());
        }
        Ok(Self(parsed))
    }

    /// Leaves only the keys for these algorithms.
    pub(super) fn keep(&mut self, algorithms: &[Algorithm]) {
        self.0.retain(|(_, key)| algorithms.contains(&key.algorithm()));
    }

    /// Whether it holds no key.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The claims of `token`, if one of the keys signed it.
    pub(super) fn verify(&self, token: &str) -> Result<Map<String, Value>, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Bad)?;
        let (header, payload) = message
            .split_once('.')
            .filter(|(_, p)| !p.contains('.'))
            .ok_or(TokenError::Bad)?;
        let header = object(header)?;
        // RFC 7515, 4.1.11: an extension that must be understood and is not.
        if header.contains_key("crit") {
            return Err(TokenError::Bad);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(TokenError::Bad)?;
        let kid = header.get("kid").and_then(Value::as_str);
        let signature = Base64UrlUnpadded::decode_vec(signature).map_err(|_| TokenError::Bad)?;
        self.check(algorithm, kid, |key| key.verify(message.as_bytes(), &signature))?;
        object(payload)
    }

    /// Whether one of the keys that are for this algorithm, and called so where both have a name, fits.
    pub(super) fn check(
        &self,
        algorithm: &str,
        kid: Option<&str>,
        fits: impl Fn(&Key) -> bool,
    ) -> Result<(), TokenError> {
        let mut candidates = self.candidates(algorithm, kid).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        candidates.any(fits).then_some(()).ok_or(TokenError::Bad)
    }

    fn candidates<'a>(&'a self, algorithm: &'a str, kid: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        self.0
            .iter()
            .filter(move |(known, key)| {
                key.algorithm().name() == algorithm
                    && match (kid, known) {
                        (Some(kid), Some(known)) => kid == known,
                        _ => true,
                    }
            })
            .map(|(_, key)| key)
    }
}

fn object(text: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = Zeroizing::new(Base64UrlUnpadded::decode_vec(text).map_err(|_| TokenError::Bad)?);
    json::object(&bytes).ok_or(TokenError::Bad)
}

#[cfg(test)]
pub(super) mod tests;
