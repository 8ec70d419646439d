//! Pre-shared keys: the text of a `psk_file`, checked and looked up. Identities are bytes (RFC 7925, 4.2), and have one
//! written form.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use hex::FromHexError;
use zeroize::Zeroizing;

use portcullis_proto::types::{Fault, LineError};

/// A pre-shared key. It prints nothing of itself and is wiped when dropped.
pub struct PskKey(Zeroizing<Vec<u8>>);

/// What an identity begins with that is written in hexadecimal digits.
const HEX: &str = "hex:";

/// The bytes of an identity: `written` as text, or `hex:` and two digits for each byte.
///
/// # Errors
/// Why this is no identity.
pub fn identity_bytes(written: &str) -> Result<Vec<u8>, String> {
    let bytes = match written.strip_prefix(HEX) {
        None if written.contains('\0') => {
            return Err("the identity holds a NUL: write it in hexadecimal digits, `hex:...`".into());
        }
        None => written.as_bytes().to_vec(),
        Some(digits) => hex_bytes(digits)
            .map(|bytes| bytes.to_vec())
            .map_err(|fault| format!("the identity after `hex:` {fault}"))?,
    };
    match bytes.len() {
        0 => Err("the identity is empty".into()),
        1..=PskStore::MAX_IDENTITY_LEN => Ok(bytes),
        _ => Err(format!(
            "the identity is longer than {} bytes",
            PskStore::MAX_IDENTITY_LEN
        )),
    }
}

/// The one form in which an identity is written and shown: as text where all of it is printable, else `hex:` and its
/// digits. A text that begins with `hex:` is written in digits itself, so that no two identities look alike.
#[must_use]
pub fn identity_text(bytes: &[u8]) -> String {
    let printable = |text: &&str| {
        let borders = text.trim() != *text || text.starts_with(['#', '\u{feff}']) || text.starts_with(HEX);
        !text.is_empty() && !borders && !text.contains(char::is_control)
    };
    match str::from_utf8(bytes).ok().filter(printable) {
        Some(text) => text.to_owned(),
        None => format!("{HEX}{}", hex::encode(bytes)),
    }
}

/// The bytes of hexadecimal digits, or what is wrong with them, without the digits.
fn hex_bytes(digits: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let mut bytes = Zeroizing::new(vec![0; digits.len() / 2]);
    hex::decode_to_slice(digits, &mut bytes).map_err(|error| match error {
        FromHexError::OddLength => "has an odd number of hexadecimal digits",
        _ => "is not hexadecimal",
    })?;
    Ok(bytes)
}

/// Whether a line is likely to be a key whose bytes, or groups of them, have colons between: then the last group would be the
/// key, and the others part of the identity.
///
/// # Errors
/// It is, and what to do.
pub fn check_colons(written: &str, key: &str) -> Result<(), String> {
    let before = written.rsplit_once(':').map(|(_, last)| last);
    let alike = |last: &str| last.len() == key.len() && last.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_hex = written
        .strip_prefix(HEX)
        .is_some_and(|digits| !digits.contains(':'));
    if key.len() >= 2 * PskStore::WEAK_KEY_LEN || is_hex || !before.is_some_and(alike) {
        return Ok(());
    }
    Err("the key has colons between its bytes: write the digits without them (an identity that ends like this can be written in \
         digits, `hex:...`)"
        .into())
}

impl PskKey {
    /// The bytes of it; 1 to [`PskStore::MAX_KEY_LEN`].
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskKey(..)")
    }
}

/// PSK identities and their keys; never changed once built.
#[derive(Default)]
pub struct PskStore {
    keys: HashMap<Box<[u8]>, Entry>,
    weak: Vec<Arc<str>>,
}

/// A key, and its identity as it is written.
struct Entry {
    name: Arc<str>,
    key: PskKey,
}

impl fmt::Debug for PskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PskStore")
            .field("identities", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl PskStore {
    /// Longest identity in bytes; OpenSSL cuts at 256.
    pub const MAX_IDENTITY_LEN: usize = 255;
    /// Longest key in bytes (RFC 4279, 5.3).
    pub const MAX_KEY_LEN: usize = 64;
    /// Keys shorter than this many bytes are weak.
    pub const WEAK_KEY_LEN: usize = 16;

    /// Reads lines `identity:hexkey`. Empty lines and lines that start with `#` are skipped; the identity is all
    /// before the last colon, as text or as `hex:` and digits.
    ///
    /// # Errors
    /// Everything that is wrong with the text, with line numbers.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let (mut store, mut errors) = (Self::default(), Vec::new());
        let mut lines: HashMap<Box<[u8]>, usize> = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Err((part, message)) => errors.push(LineError::at(number, line, part, message)),
                Ok((identity, entry)) => match lines.get(&identity) {
                    Some(first) => {
                        let message = format!("the identity is already on line {first}");
                        errors.push(LineError::at(number, line, line, message));
                    }
                    None => {
                        lines.insert(identity.clone(), number);
                        store.insert(identity, entry);
                    }
                },
            }
        }
        if errors.is_empty() { Ok(store) } else { Err(errors) }
    }

    fn insert(&mut self, identity: Box<[u8]>, entry: Entry) {
        if entry.key.0.len() < Self::WEAK_KEY_LEN {
            self.weak.push(Arc::clone(&entry.name));
        }
        self.keys.insert(identity, entry);
    }

    /// The key of `identity`.
    #[must_use]
    pub fn get(&self, identity: &[u8]) -> Option<&PskKey> {
        self.entry(identity).map(|(_, key)| key)
    }

    /// The identity as it is written, to be shared, and its key.
    #[must_use]
    pub fn entry(&self, identity: &[u8]) -> Option<(&Arc<str>, &PskKey)> {
        self.keys.get(identity).map(|entry| (&entry.name, &entry.key))
    }

    /// The key of the identity that is written so.
    #[must_use]
    pub fn named(&self, written: &str) -> Option<&PskKey> {
        self.get(&identity_bytes(written).ok()?)
    }

    /// Whether `identity` has a key.
    #[must_use]
    pub fn contains(&self, identity: &[u8]) -> bool {
        self.get(identity).is_some()
    }

    /// All identities as they are written, in no order.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        self.keys.values().map(|entry| &*entry.name)
    }

    /// The identities whose keys are shorter than [`Self::WEAK_KEY_LEN`], in the order of the file.
    pub fn weak(&self) -> impl Iterator<Item = &str> {
        self.weak.iter().map(AsRef::as_ref)
    }

    /// How many identities there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Identity and key of a line, or which part of it is wrong and why.
fn parse_line(line: &str) -> Result<(Box<[u8]>, Entry), Fault<'_>> {
    let whole = |message: &str| (line, message.to_owned());
    if line.starts_with('\u{feff}') {
        return Err(whole(
            "it begins with a byte order mark, which would be part of the identity: save the file without it",
        ));
    }
    let (written, hex) = line
        .rsplit_once(':')
        .ok_or_else(|| whole("it has no colon: a line is identity:hexkey"))?;
    let identity = identity_bytes(written).map_err(|message| (written, message))?;
    let hex = hex.trim();
    if hex.is_empty() {
        return Err((hex, "the key is empty".to_owned()));
    }
    check_colons(written, hex).map_err(|message| (hex, message))?;
    if hex.len() > 2 * PskStore::MAX_KEY_LEN {
        let max = PskStore::MAX_KEY_LEN;
        return Err((hex, format!("the key is longer than {max} bytes")));
    }
    let key = hex_bytes(hex).map_err(|fault| (hex, format!("the key {fault}")))?;
    let name = identity_text(&identity).into();
    Ok((
        identity.into(),
        Entry {
            name,
            key: PskKey(key),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_with_comments_and_colons_in_identities() {
        let store =
            PskStore::parse("# devices\n\nu1:00ff\r\nurn:dev:7:0123456789abcdef0123456789ABCDEF\n").unwrap();
        assert_eq!(store.get(b"u1").unwrap().as_bytes(), [0, 0xff]);
        assert_eq!(store.get(b"urn:dev:7").unwrap().as_bytes().len(), 16);
        assert!(!store.contains(b"u2"));
        assert_eq!(store.weak().collect::<Vec<_>>(), ["u1"]);
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn every_bad_line_is_named_and_no_key_is_quoted() {
        let long = format!("{}:00", "x".repeat(256));
        let heavy = format!("h:{}", "00".repeat(65));
        let text = format!("a:00\nnothing\n:00\nb:\nc:0\nd:zz\na:11\n{long}\n{heavy}\ne\0:00\nf:+1");
        let errors = PskStore::parse(&text).unwrap_err();
        assert_eq!(
            errors.iter().map(|error| error.line).collect::<Vec<_>>(),
            [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
        );
        assert_eq!(errors[5].message, "the identity is already on line 1");
        assert!(
            errors
                .iter()
                .all(|error| !error.message.contains("zz") && !error.message.contains("11"))
        );
    }

    #[test]
    fn nothing_of_a_key_is_printed() {
        let store = PskStore::parse("u1:deadbeef").unwrap();
        let text = format!("{store:?} {:?}", store.get(b"u1"));
        assert!(!text.contains("deadbeef") && !text.contains("222, 173"), "{text}");
    }

    #[test]
    fn identities_are_bytes_and_have_one_written_form() {
        let store =
            PskStore::parse("hex:DEADBEEF:00\nhex:6100:01\na:02\nhex:6865783a:03\nz\u{e4}hler 1:04").unwrap();
        for (bytes, name, key) in [
            (&b"\xde\xad\xbe\xef"[..], "hex:deadbeef", 0),
            (b"a\0", "hex:6100", 1),
            (b"a", "a", 2),
            (b"hex:", "hex:6865783a", 3),
            ("z\u{e4}hler 1".as_bytes(), "z\u{e4}hler 1", 4),
        ] {
            let (written, found) = store.entry(bytes).unwrap();
            assert_eq!((&**written, found.as_bytes()), (name, &[key][..]));
            assert_eq!(identity_text(bytes), name);
            assert_eq!(identity_bytes(name).unwrap(), bytes);
            assert_eq!(store.named(name).unwrap().as_bytes(), [key]);
        }
        assert!(!store.contains(b"a\0b") && !store.contains(b"\0a") && !store.contains(b"hex:deadbeef"));
        // Both ways to write the same.
        let twice = PskStore::parse("ab:00\nhex:6162:01").unwrap_err();
        assert_eq!(twice[0].message, "the identity is already on line 1");
        for (bytes, written) in [
            (&b" a"[..], "hex:2061"),
            (b"#a", "hex:2361"),
            (b"a\n", "hex:610a"),
            ("\u{feff}a".as_bytes(), "hex:efbbbf61"),
            (b"", "hex:"),
        ] {
            assert_eq!(identity_text(bytes), written);
        }
        for bad in [
            "",
            "hex:",
            "hex:a",
            "hex:xy",
            "hex:+1",
            "a\0",
            &"x".repeat(256),
            &format!("hex:{}", "00".repeat(256)),
        ] {
            assert!(identity_bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_would_be_misread_is_refused_with_its_line() {
        let refused = |text: &str| {
            PskStore::parse(text).map_err(|errors| errors.iter().map(|error| error.line).collect::<Vec<_>>())
        };
        let key = "8899aabbccddeeff8899aabbccddeeff";
        let (pairs, _) = key.as_bytes().as_chunks::<2>();
        let pairs: Vec<&str> = pairs.iter().map(|pair| str::from_utf8(pair).unwrap()).collect();
        for groups in [
            pairs.join(":"),
            pairs.chunks(2).map(<[_]>::concat).collect::<Vec<_>>().join(":"),
        ] {
            assert_eq!(refused(&format!("# keys\nsensor-9:{groups}")).unwrap_err(), [2]);
        }
        assert_eq!(refused(&format!("\u{feff}sensor-9:{key}")).unwrap_err(), [1]);
        assert_eq!(refused(&format!("x:{key}\nsensor\0:{key}")).unwrap_err(), [2]);
        for good in [
            format!("urn:dev:mac:{key}"),
            format!("{key}:{key}"),
            "hex:0a0b:0c0d".to_owned(),
            "u:01".to_owned(),
        ] {
            assert!(refused(&good).is_ok(), "{good}");
        }
    }
}
