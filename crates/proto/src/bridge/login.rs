//! Parameters of a login in its payload: a Uri-Query option holds at most 255 bytes (RFC 7252, 5.10), and many credentials are
//! longer.
//!
//! | Content-Format | payload |
//! |---|---|
//! | 50, 60 | an object with the long or short names |
//! | 0 or none | `k=v&k=v`, percent-encoded (RFC 3986, 2.1), or a JSON Web Token alone |
//! | 61 | a CBOR Web Token alone |

use std::borrow::Cow;
use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use percent_encoding::percent_decode;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::content::{CBOR, CWT, JSON, TEXT};
use super::uri;
use crate::policy::authentication::MAX_PASSWORD;

/// Longest payload of a login in bytes: the longest password as percent-encoded text, and the other parameters.
pub const MAX_PAYLOAD: usize = 3 * MAX_PASSWORD + 4096;

/// Claims that may name the client where nothing else does, the first that is there.
const CLIENT_CLAIMS: [&str; 3] = ["clientid", "client_id", "sub"];

/// A parameter's name and its value; no value where what stands there is none.
pub type Parameter<'p> = (Cow<'p, [u8]>, Option<Zeroizing<Vec<u8>>>);

/// What the payload of a login holds.
pub enum LoginPayload<'p> {
    /// Parameters by name.
    Parameters(Vec<Parameter<'p>>),
    /// A JSON Web Token alone (RFC 7519, 3).
    WebToken(&'p [u8]),
    /// A CBOR Web Token alone (RFC 8392, 7).
    CborToken(&'p [u8]),
}

/// Why a payload is no login; a diagnostic without a word of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLogin {
    /// 4.15: another Content-Format.
    Format,
    /// 4.13: longer than [`MAX_PAYLOAD`].
    TooLong,
    /// 4.00: not what its Content-Format says.
    Malformed(&'static str),
}

/// Reads the payload of a login, which is not empty.
///
/// # Errors
/// Why it is none.
pub fn read(format: Option<u16>, payload: &[u8]) -> Result<LoginPayload<'_>, BadLogin> {
    if payload.len() > MAX_PAYLOAD {
        return Err(BadLogin::TooLong);
    }
    match format {
        None | Some(TEXT) if is_web_token(payload) => Ok(LoginPayload::WebToken(payload.trim_ascii())),
        None | Some(TEXT) => form(payload).map(LoginPayload::Parameters),
        Some(JSON) => json(payload).map(LoginPayload::Parameters),
        Some(CBOR) => cbor(payload).map(LoginPayload::Parameters),
        Some(CWT) if payload.len() > MAX_PASSWORD => Err(BadLogin::TooLong),
        Some(CWT) => Ok(LoginPayload::CborToken(payload)),
        Some(_) => Err(BadLogin::Format),
    }
}

/// Whether this is a JSON Web Token by its looks: three dotted parts of base64url.
fn is_web_token(payload: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut parts = payload.trim_ascii().split(|byte| *byte == b'.');
    let is_part = |part: Option<&[u8]>| part.is_some_and(|part| !part.is_empty() && part.iter().all(digit));
    is_part(parts.next()) && is_part(parts.next()) && is_part(parts.next()) && parts.next().is_none()
}

/// The client that a JSON Web Token names. Nothing is proved by that: the token is judged together with this name.
#[must_use]
pub fn client_of(web_token: &[u8]) -> Option<String> {
    let claims = web_token.split(|byte| *byte == b'.').nth(1)?;
    let claims = std::str::from_utf8(claims).ok()?;
    let claims = Zeroizing::new(Base64UrlUnpadded::decode_vec(claims).ok()?);
    let claims: Map<String, Value> = serde_json::from_slice(&claims).ok()?;
    let name = CLIENT_CLAIMS.iter().find_map(|name| claims.get(*name))?;
    name.as_str().map(str::to_owned)
}

/// The client that a CBOR Web Token names, as [`client_of`].
#[must_use]
pub fn client_of_cbor(web_token: &[u8]) -> Option<String> {
    use ciborium::Value as Cbor;
    let mut value: Cbor = ciborium::from_reader(web_token).ok()?;
    while let Cbor::Tag(_, inner) = value {
        value = *inner;
    }
    // The message of COSE: protected, unprotected, payload, signature or MAC (RFC 9052, 4.2 and 6.2).
    let payload = value.into_array().ok()?.into_iter().nth(2)?.into_bytes().ok()?;
    let claims: Cbor = ciborium::from_reader(&*payload).ok()?;
    let claims = claims.into_map().ok()?;
    let named = |wanted: &str| {
        let is_it = |label: &Cbor| match label {
            Cbor::Text(name) => name == wanted,
            // RFC 8392, 3.1.2.
            Cbor::Integer(number) => wanted == "sub" && i128::from(*number) == 2,
            _ => false,
        };
        claims.iter().find(|(label, _)| is_it(label))
    };
    let (_, name) = CLIENT_CLAIMS.iter().find_map(|name| named(name))?;
    name.as_text().map(str::to_owned)
}

fn form(payload: &[u8]) -> Result<Vec<Parameter<'_>>, BadLogin> {
    let payload = payload.trim_ascii();
    let pairs = payload
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = uri::split(pair);
            Ok((
                decoded(name)?.into_owned().into(),
                match value {
                    Some(value) => Some(Zeroizing::new(decoded(value)?.into_owned())),
                    None => None,
                },
            ))
        })
        .collect()
}

fn decoded(text: &[u8]) -> Result<Cow<'_, [u8]>, BadLogin> {
    let mut escapes = text.split(|byte| *byte == b'%').skip(1);
    if escapes.all(|rest| {
        rest.get(..2)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    }) {
        Ok(percent_decode(text).into())
    } else {
        Err(BadLogin::Malformed(
            "% without two hexadecimal digits in the payload",
        ))
    }
}

/// The members of an object in their order, those that stand twice too.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = object.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Object)
    }
}

fn json(payload: &[u8]) -> Result<Vec<Parameter<'_>>, BadLogin> {
    let wrong = BadLogin::Malformed("the payload is no JSON object");
    let Members(members) = serde_json::from_slice(payload).map_err(|_| wrong)?;
    let value = |value| match value {
        Value::String(text) => Some(Zeroizing::new(text.into_bytes())),
        Value::Number(number) => Some(Zeroizing::new(number.to_string().into_bytes())),
        Value::Bool(truth) => Some(Zeroizing::new(truth.to_string().into_bytes())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let parameter = |(name, given): (String, Value)| (name.into_bytes().into(), value(given));
    Ok(members.into_iter().map(parameter).collect())
}

fn cbor(payload: &[u8]) -> Result<Vec<Parameter<'_>>, BadLogin> {
    use ciborium::Value as Cbor;
    let wrong = BadLogin::Malformed("the payload is no CBOR map with text keys");
    let mut rest = payload;
    let Ok(Cbor::Map(members)) = ciborium::from_reader(&mut rest) else {
        return Err(wrong);
    };
    if !rest.is_empty() {
        return Err(wrong);
    }
    members
        .into_iter()
        .map(|(name, value)| {
            let name = name.into_text().map_err(|_| wrong)?;
            let value = match value {
                Cbor::Text(text) => Some(text.into_bytes()),
                Cbor::Bytes(bytes) => Some(bytes),
                Cbor::Bool(truth) => Some(truth.to_string().into_bytes()),
                Cbor::Integer(number) => Some(i128::from(number).to_string().into_bytes()),
                _ => None,
            };
            Ok((name.into_bytes().into(), value.map(Zeroizing::new)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(format: Option<u16>, payload: &[u8]) -> Vec<(String, Option<String>)> {
        let Ok(LoginPayload::Parameters(all)) = read(format, payload) else {
            panic!("parameters")
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        all.iter()
            .map(|(name, value)| (text(name), value.as_ref().map(|value| text(value))))
            .collect()
    }

    fn pair(name: &str, value: &str) -> (String, Option<String>) {
        (name.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn the_same_parameters_come_in_every_form() {
        let wanted = [pair("clientid", "m 7"), pair("p", "a&b=c%"), pair("q", "1")];
        let cbor = b"\xa3\x68clientid\x63m 7\x61p\x46a&b=c%\x61q\x01";
        for (format, payload) in [
            (None, &b"clientid=m%207&p=a%26b=c%25&q=1"[..]),
            (Some(0), b"clientid=m 7&&p=a%26b%3Dc%25&q=1\n"),
            (Some(50), br#" {"clientid": "m\u00207", "p": "a&b=c%", "q": 1}"#),
            (Some(60), cbor),
        ] {
            assert_eq!(said(format, payload), wanted, "{format:?}");
        }
        assert_eq!(said(Some(50), br#"{"p":"a","p":"b"}"#).len(), 2, "twice is seen");
        assert_eq!(said(Some(50), br#"{"p":["a"]}"#), [("p".to_owned(), None)]);
        assert_eq!(said(None, b"hello"), [("hello".to_owned(), None)]);
    }

    #[test]
    fn what_is_no_login_is_refused_by_its_kind() {
        let kind = |format, payload: &[u8]| read(format, payload).err();
        let malformed = |bad: Option<BadLogin>| matches!(bad, Some(BadLogin::Malformed(_)));
        assert_eq!(kind(Some(42), b"x"), Some(BadLogin::Format));
        assert_eq!(kind(None, &vec![b'a'; MAX_PAYLOAD + 1]), Some(BadLogin::TooLong));
        for (format, payload) in [
            (Some(50), &b"[]"[..]),
            (Some(50), b"{"),
            (Some(50), b"{} {}"),
            (Some(60), b"\xa1\x61p"),
            (Some(60), b"\x80"),
            (Some(60), b"\xa0\x00"),
            (Some(60), b"\xa1\x01\x02"),
            (Some(60), b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff"),
            (None, b"p=%4"),
            (None, b"p=%zz"),
        ] {
            assert!(malformed(kind(format, payload)), "{payload:?}");
        }
        let deep = "[".repeat(40_000);
        assert!(malformed(kind(Some(50), format!("{{\"p\":{deep}").as_bytes())));
        assert!(malformed(kind(
            Some(60),
            &[&[0xa1, 0x61, b'p'][..], &[0x81; 40_000]].concat()
        )));
    }

    #[test]
    fn a_token_alone_is_known_and_names_its_client() {
        let token = |claims: &str| {
            format!(
                "eyJh.{}.c2ln",
                Base64UrlUnpadded::encode_string(claims.as_bytes())
            )
        };
        for (claims, client) in [
            (r#"{"clientid":"a","sub":"b"}"#, Some("a")),
            (r#"{"sub":"b"}"#, Some("b")),
            (r#"{"sub":7}"#, None),
            (r#"{"iss":"x"}"#, None),
        ] {
            let text = token(claims);
            let line = format!("{text}\r\n");
            let Ok(LoginPayload::WebToken(found)) = read(None, line.as_bytes()) else {
                panic!("{claims}")
            };
            assert_eq!(found, text.as_bytes());
            assert_eq!(client_of(found).as_deref(), client, "{claims}");
        }
        for other in ["a.b", "a.b.c.d", "a..c", "p=a.b.c", "a.b.c=="] {
            assert!(
                !matches!(read(None, other.as_bytes()), Ok(LoginPayload::WebToken(_))),
                "{other}"
            );
        }
    }
}
