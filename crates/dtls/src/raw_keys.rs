//! Raw public keys of devices (RFC 7250): the text of an `rpk_file`, checked and looked up.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use openssl::pkey::{HasPublic, PKeyRef};
use openssl::sha::sha256;

use portcullis_proto::types::{Fault, LineError};

/// The SHA-256 of a key's SubjectPublicKeyInfo.
pub(super) type Fingerprint = [u8; 32];

/// The fingerprint of a key.
pub(super) fn fingerprint<T: HasPublic>(key: &PKeyRef<T>) -> Option<Fingerprint> {
    Some(sha256(&key.public_key_to_der().ok()?))
}

/// The names of devices by the fingerprints of their keys; never changed once built.
#[derive(Default)]
pub struct RawKeys(HashMap<Fingerprint, Arc<str>>);

impl fmt::Debug for RawKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawKeys").field(&self.0.len()).finish()
    }
}

impl RawKeys {
    /// Most bytes of a name.
    pub const MAX_NAME_LEN: usize = 255;

    /// Reads lines `name:fingerprint`; the fingerprint is the SHA-256 of the SubjectPublicKeyInfo in hexadecimal digits. A name may
    /// have several keys. Empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// Every line that is wrong.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let mut names: HashMap<Fingerprint, (Arc<str>, usize)> = HashMap::new();
        let mut errors = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = parse_line(line).and_then(|(name, fingerprint)| {
                match names.insert(fingerprint, (Arc::from(name), number)) {
                    None => Ok(()),
                    Some((_, first)) => Err((line, format!("this key is already on line {first}"))),
                }
            });
            if let Err((part, message)) = read {
                errors.push(LineError::at(number, line, part, message));
            }
        }
        if errors.is_empty() {
            let named = names.into_iter().map(|(key, (name, _))| (key, name));
            Ok(Self(named.collect()))
        } else {
            Err(errors)
        }
    }

    /// Whose key it is.
    pub(super) fn name(&self, fingerprint: &Fingerprint) -> Option<&Arc<str>> {
        self.0.get(fingerprint)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Name and fingerprint of a line, or which part of it is wrong and why.
fn parse_line(line: &str) -> Result<(&str, Fingerprint), Fault<'_>> {
    let (name, digits) = line
        .rsplit_once(':')
        .ok_or_else(|| (line, "it has no colon: a line is name:fingerprint".to_owned()))?;
    if name.is_empty() || name.len() > RawKeys::MAX_NAME_LEN {
        return Err((name, format!("a name has 1 to {} bytes", RawKeys::MAX_NAME_LEN)));
    }
    if name.trim() != name || name.contains(|c: char| c.is_control() || c == '\u{feff}') {
        let message = "the name holds a control character, or begins or ends with a blank";
        return Err((name, message.to_owned()));
    }
    let mut fingerprint = [0; 32];
    hex::decode_to_slice(digits.trim(), &mut fingerprint).map_err(|_| {
        let message =
            "a fingerprint is the SHA-256 of the SubjectPublicKeyInfo, 64 hexadecimal digits without colons";
        (digits, message.to_owned())
    })?;
    Ok((name, fingerprint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_every_bad_line_is_named() {
        let (a, b) = ("0a".repeat(32), "B1".repeat(32));
        let keys = RawKeys::parse(&format!("# devices\n\nurn:dev:1:{a}\r\nurn:dev:1:{b}\n")).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.name(&[0x0a; 32]).map(AsRef::as_ref), Some("urn:dev:1"));
        assert_eq!(keys.name(&[0; 32]), None);
        let colons = vec!["ab"; 32].join(":");
        let long = "x".repeat(256);
        let text = format!(
            "ok:{a}\nnothing\n:{a}\nx:\nx:{colons}\nx:{a}0\nx:zz{}\n{long}:{b}\n x:{b}\nx\u{7}:{b}\nother:{a}",
            "0a".repeat(31)
        );
        let errors = RawKeys::parse(&text).unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(errors[9].message, "this key is already on line 1");
    }
}
