//! CBOR Web Tokens (RFC 8392): signed or MACed by COSE (RFC 9052), with the claims and the keys of their JSON counterpart.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use ciborium::Value as Cbor;
use coset::iana::Algorithm as Registered;
use coset::{
    AsCborValue, CoseMac0, CoseSign1, Header, ProtectedHeader, RegisteredLabelWithPrivate,
    TaggedCborSerializable,
};
use serde_json::{Map, Number, Value};

use super::jws::{Key, KeySet, TokenError};
use super::settings::Algorithm;

/// The tag of a CWT (RFC 8392, 6), which may stand before that of COSE.
const CWT_TAG: u64 = 61;

/// Claims by their numbers (RFC 8392, 4).
const CLAIMS: [(i64, &str); 7] = [
    (1, "iss"),
    (2, "sub"),
    (3, "aud"),
    (4, "exp"),
    (5, "nbf"),
    (6, "iat"),
    (7, "cti"),
];

/// Most levels of lists and maps in a claim.
const MAX_DEPTH: usize = 16;

/// Whether this is none of JSON Web Token's texts but CBOR: a tag, or a list.
pub(super) fn is_cbor(token: &[u8]) -> bool {
    token.first().is_some_and(|first| *first >= 0x80)
}

/// The claims of a token, by the names that JSON Web Tokens have for them, once its signature or MAC is found right.
///
/// # Errors
/// It is no CWT, is not by a key of `keys`, or says something twice or that has no counterpart.
pub(super) fn verify(keys: &KeySet, token: &[u8]) -> Result<Map<String, Value>, TokenError> {
    let (tag, message) = untagged(token)?;
    let payload = match tag {
        CoseSign1::TAG => {
            let signed = CoseSign1::from_cbor_value(message).map_err(|_| TokenError::Bad)?;
            let check = |key: &Key| {
                signed
                    .verify_signature(b"", |signature, message| fits(key.verify(message, signature)))
                    .is_ok()
            };
            keys.check(
                algorithm(tag, &signed.protected, &signed.unprotected)?,
                kid(&signed.protected, &signed.unprotected)?,
                check,
            )?;
            signed.payload
        }
        CoseMac0::TAG => {
            let tagged = CoseMac0::from_cbor_value(message).map_err(|_| TokenError::Bad)?;
            let check = |key: &Key| {
                tagged
                    .verify_payload_tag(
                        b"",
                        || TokenError::Bad,
                        |mac, message| fits(key.verify(message, mac)),
                    )
                    .is_ok()
            };
            keys.check(
                algorithm(tag, &tagged.protected, &tagged.unprotected)?,
                kid(&tagged.protected, &tagged.unprotected)?,
                check,
            )?;
            tagged.payload
        }
        _ => return Err(TokenError::Bad),
    };
    claims(&payload.ok_or(TokenError::Bad)?)
}

fn fits(is_right: bool) -> Result<(), TokenError> {
    is_right.then_some(()).ok_or(TokenError::Bad)
}

/// What stands behind the tags: that of a CWT at most once, then that of COSE. Without the latter signature and MAC look alike.
fn untagged(token: &[u8]) -> Result<(u64, Cbor), TokenError> {
    let tagged = |value| match value {
        Cbor::Tag(tag, inner) => Ok((tag, *inner)),
        _ => Err(TokenError::Bad),
    };
    match tagged(read(token)?)? {
        (CWT_TAG, inner) => tagged(inner),
        other => Ok(other),
    }
}

/// The one item that these bytes are.
fn read(bytes: &[u8]) -> Result<Cbor, TokenError> {
    let mut rest = bytes;
    match ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH + 4) {
        Ok(value) if rest.is_empty() => Ok(value),
        _ => Err(TokenError::Bad),
    }
}

/// The name of the algorithm that the message is protected with. It has to be protected itself, and to fit the kind of message; a
/// header that must be understood and is not refuses it.
fn algorithm(tag: u64, protected: &ProtectedHeader, open: &Header) -> Result<&'static str, TokenError> {
    let header = &protected.header;
    if open.alg.is_some() || !header.crit.is_empty() || !open.crit.is_empty() {
        return Err(TokenError::Bad);
    }
    let Some(RegisteredLabelWithPrivate::Assigned(named)) = &header.alg else {
        return Err(TokenError::Bad);
    };
    let algorithm = match (tag, named) {
        (CoseMac0::TAG, Registered::HMAC_256_256) => Algorithm::Hs256,
        (CoseSign1::TAG, Registered::ES256) => Algorithm::Es256,
        (CoseSign1::TAG, Registered::EdDSA) => Algorithm::EdDsa,
        (CoseSign1::TAG, Registered::RS256) => Algorithm::Rs256,
        _ => return Err(TokenError::Bad),
    };
    Ok(algorithm.name())
}

/// The name of the key, in whichever header it stands; in both it would have two.
fn kid<'h>(protected: &'h ProtectedHeader, open: &'h Header) -> Result<Option<&'h str>, TokenError> {
    let kid = match (&*protected.header.key_id, &*open.key_id) {
        ([], kid) | (kid, []) => kid,
        _ => return Err(TokenError::Bad),
    };
    if kid.is_empty() {
        return Ok(None);
    }
    std::str::from_utf8(kid)
        .map(Some)
        .map_err(|_| TokenError::UnknownKey)
}

fn claims(payload: &[u8]) -> Result<Map<String, Value>, TokenError> {
    let Cbor::Map(members) = read(payload)? else {
        return Err(TokenError::Bad);
    };
    let mut claims = Map::new();
    for (label, value) in members {
        let name = match label {
            Cbor::Text(name) => name,
            Cbor::Integer(number) => {
                let number = i64::try_from(number).map_err(|_| TokenError::Bad)?;
                match CLAIMS.iter().find(|(known, _)| *known == number) {
                    Some((_, name)) => (*name).to_owned(),
                    None => number.to_string(),
                }
            }
            _ => return Err(TokenError::Bad),
        };
        // Twice by number, or by number and name: which of them counts is open.
        if claims.insert(name, json(value, MAX_DEPTH)?).is_some() {
            return Err(TokenError::Bad);
        }
    }
    Ok(claims)
}

/// A value as JSON has it; bytes as base64url (RFC 8949, 6.1). What has no counterpart refuses the token, tags too: times have none
/// here (RFC 8392, 2).
fn json(value: Cbor, depth: usize) -> Result<Value, TokenError> {
    let deeper = depth.checked_sub(1).ok_or(TokenError::Bad)?;
    Ok(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(truth) => truth.into(),
        Cbor::Text(text) => text.into(),
        Cbor::Bytes(bytes) => Base64UrlUnpadded::encode_string(&bytes).into(),
        Cbor::Integer(number) => match (i64::try_from(number), u64::try_from(number)) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            _ => return Err(TokenError::Bad),
        },
        Cbor::Float(number) => Number::from_f64(number).ok_or(TokenError::Bad)?.into(),
        Cbor::Array(list) => {
            let list: Result<Vec<_>, _> = list.into_iter().map(|value| json(value, deeper)).collect();
            list?.into()
        }
        Cbor::Map(members) => {
            let mut object = Map::new();
            for (name, value) in members {
                let name = match name {
                    Cbor::Text(name) => name,
                    Cbor::Integer(number) => i128::from(number).to_string(),
                    _ => return Err(TokenError::Bad),
                };
                if object.insert(name, json(value, deeper)?).is_some() {
                    return Err(TokenError::Bad);
                }
            }
            object.into()
        }
        _ => return Err(TokenError::Bad),
    })
}

#[cfg(test)]
mod tests;
