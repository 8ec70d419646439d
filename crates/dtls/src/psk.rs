//! Pre-shared keys: the text of a `psk_file`, checked and looked up.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use hex::FromHexError;
use zeroize::Zeroizing;

/// A pre-shared key. It prints nothing of itself and is wiped when dropped.
pub struct PskKey(Zeroizing<Vec<u8>>);

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

/// Something wrong in a `psk_file`. It never quotes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PskFileError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for PskFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// PSK identities and their keys; never changed once built.
#[derive(Default)]
pub struct PskStore {
    keys: HashMap<Arc<str>, PskKey>,
    weak: Vec<Arc<str>>,
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
    /// before the last colon.
    ///
    /// # Errors
    /// Everything that is wrong with the text, with line numbers.
    pub fn parse(text: &str) -> Result<Self, Vec<PskFileError>> {
        let (mut store, mut errors) = (Self::default(), Vec::new());
        let mut lines: HashMap<Arc<str>, usize> = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Err(message) => errors.push(PskFileError {
                    line: number,
                    message,
                }),
                Ok((identity, key)) => match lines.entry(identity.clone()) {
                    Entry::Occupied(first) => errors.push(PskFileError {
                        line: number,
                        message: format!("identity {identity:?} is already on line {}", first.get()),
                    }),
                    Entry::Vacant(place) => {
                        place.insert(number);
                        store.insert(identity, key);
                    }
                },
            }
        }
        if errors.is_empty() { Ok(store) } else { Err(errors) }
    }

    fn insert(&mut self, identity: Arc<str>, key: PskKey) {
        if key.0.len() < Self::WEAK_KEY_LEN {
            self.weak.push(identity.clone());
        }
        self.keys.insert(identity, key);
    }

    /// The key of `identity`.
    #[must_use]
    pub fn get(&self, identity: &[u8]) -> Option<&PskKey> {
        self.entry(identity).map(|(_, key)| key)
    }

    /// The identity as it is stored, to be shared, and its key.
    #[must_use]
    pub fn entry(&self, identity: &[u8]) -> Option<(&Arc<str>, &PskKey)> {
        self.keys.get_key_value(str::from_utf8(identity).ok()?)
    }

    /// Whether `identity` has a key.
    #[must_use]
    pub fn contains(&self, identity: &[u8]) -> bool {
        self.get(identity).is_some()
    }

    /// All identities, in no order.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(AsRef::as_ref)
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

fn parse_line(line: &str) -> Result<(Arc<str>, PskKey), String> {
    let (identity, hex) = line
        .rsplit_once(':')
        .ok_or("it has no colon: a line is identity:hexkey")?;
    if identity.is_empty() {
        return Err("the identity is empty".into());
    }
    if identity.len() > PskStore::MAX_IDENTITY_LEN {
        return Err(format!(
            "the identity is longer than {} bytes",
            PskStore::MAX_IDENTITY_LEN
        ));
    }
    if identity.contains('\0') {
        return Err("the identity holds a NUL".into());
    }
    let hex = hex.trim();
    if hex.is_empty() {
        return Err("the key is empty".into());
    }
    if hex.len() > 2 * PskStore::MAX_KEY_LEN {
        return Err(format!("the key is longer than {} bytes", PskStore::MAX_KEY_LEN));
    }
    let mut key = Zeroizing::new(vec![0; hex.len() / 2]);
    hex::decode_to_slice(hex, &mut key).map_err(|error| match error {
        FromHexError::OddLength => "the key has an odd number of hexadecimal digits",
        _ => "the key is not hexadecimal",
    })?;
    Ok((identity.into(), PskKey(key)))
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
        assert_eq!(errors[5].message, "identity \"a\" is already on line 1");
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
}
