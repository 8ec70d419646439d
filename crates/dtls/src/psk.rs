//! Pre-shared keys: the text of a `psk_file`, checked and looked up. Identities are bytes (RFC 7925, 4.2), and have one
//! written form.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hex::FromHexError;
use openssl::sha::Sha256;
use zeroize::Zeroizing;

use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::session::KnownKeys;
use portcullis_proto::types::{Fault, LineError};

/// A pre-shared key. It prints nothing of itself and is wiped when dropped.
pub struct PskKey {
    bytes: Zeroizing<Vec<u8>>,
    /// When a handshake with it ended well, in seconds since 1970; 0 is never.
    used: AtomicU64,
    /// Whether it is from a source of keys and not from a file.
    is_live: bool,
    /// What is known of who has it.
    attributes: Attributes,
}

/// What an identity may prove itself with: one key, or two while it is given another one.
#[derive(Debug)]
pub struct PskKeys {
    name: Arc<str>,
    /// The newest first.
    keys: Vec<Arc<PskKey>>,
}

/// What an identity begins with that is written in hexadecimal digits.
const HEX: &str = "hex:";

/// The bytes of an identity: `written` as text, or `hex:` and two digits for each byte.
///
/// # Errors
/// Why this is no identity.
pub fn identity_bytes(written: &str) -> Result<Vec<u8>, String> {
    let bytes = match written.strip_prefix(HEX) {
        // Most are a line break that other systems wrote, and two lines would be one.
        None if written.contains(char::is_control) => {
            return Err(
                "the identity holds a control character: write it in hexadecimal digits, `hex:...`".into(),
            );
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

/// Splits a line of keys in front of the key: identity, and key with what stands behind it. Attributes hold colons of their own.
#[must_use]
pub fn split_line(line: &str) -> Option<(&str, &str)> {
    let is_key = |secret: &&str| {
        let (hex, _) = split_secret(secret);
        !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if line.trim_end().ends_with('}') {
        let before = line.match_indices('{').filter_map(|(at, _)| {
            let head = line.get(..at)?;
            let colon = head.rfind(':')?;
            let (identity, secret) = line.split_at_checked(colon)?;
            let secret = secret.strip_prefix(':')?;
            Some((identity, secret))
        });
        for (identity, secret) in before {
            if is_key(&secret) {
                return Some((identity, secret));
            }
        }
    }
    line.rsplit_once(':')
}

/// Splits the key of a line from the attributes behind it, which may be none.
#[must_use]
pub fn split_secret(secret: &str) -> (&str, &str) {
    match secret.find('{') {
        Some(at) => {
            let (hex, attributes) = secret.split_at(at);
            (hex.trim(), attributes.trim())
        }
        None => (secret.trim(), ""),
    }
}

/// The attributes behind a key.
///
/// # Errors
/// They are no JSON object of texts, numbers and truth values, or more than a client may have.
pub fn read_attributes(text: &str) -> Result<Attributes, String> {
    if text.is_empty() {
        return Ok(Attributes::default());
    }
    let object = serde_json::from_str(text).map_err(|_| {
        "what stands behind the key is no JSON object, such as {\"site\": \"north\"}".to_owned()
    })?;
    Attributes::from_json(&object)
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
    const fn new(bytes: Zeroizing<Vec<u8>>, attributes: Attributes) -> Self {
        Self {
            bytes,
            used: AtomicU64::new(0),
            is_live: false,
            attributes,
        }
    }

    /// What is known of who has it.
    #[must_use]
    pub const fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    pub(super) const fn is_live(&self) -> bool {
        self.is_live
    }

    /// The bytes of it; 1 to [`PskStore::MAX_KEY_LEN`].
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A hash of it, to see that it is the same.
    pub(super) fn mark(&self) -> u64 {
        let mut hash = Sha256::new();
        hash.update(b"psk mark");
        hash.update(&self.bytes);
        let hash = hash.finish();
        hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }

    /// When a handshake with it last ended well in this process, in seconds since 1970.
    #[must_use]
    pub fn last_used(&self) -> Option<u64> {
        Some(self.used.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    pub(super) fn note_use(&self, at: u64) {
        self.used.fetch_max(at, Ordering::Relaxed);
    }
}

impl PskKeys {
    /// The keys that a source knows of an identity.
    pub(super) fn live(identity: &[u8], known: &KnownKeys) -> Self {
        let key = |bytes: &Zeroizing<Vec<u8>>| {
            Arc::new(PskKey {
                is_live: true,
                ..PskKey::new(bytes.clone(), known.attributes.clone())
            })
        };
        Self {
            name: identity_text(identity).into(),
            keys: known.keys.iter().take(PskStore::MAX_KEYS).map(key).collect(),
        }
    }

    /// The identity as it is written, to be shared.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The keys, the newest first; one at least, [`PskStore::MAX_KEYS`] at most.
    #[must_use]
    pub fn keys(&self) -> &[Arc<PskKey>] {
        &self.keys
    }

    pub(super) fn marked(&self, mark: u64) -> Option<&Arc<PskKey>> {
        self.keys.iter().find(|key| key.mark() == mark)
    }
}

impl fmt::Debug for PskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskKey(..)")
    }
}

/// The keys of each identity with their lines, the newest first.
type Found = HashMap<Box<[u8]>, Vec<(usize, Arc<PskKey>)>>;

/// PSK identities and their keys; never changed once built.
#[derive(Default)]
pub struct PskStore {
    keys: HashMap<Box<[u8]>, Arc<PskKeys>>,
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
    /// Most keys of one identity.
    pub const MAX_KEYS: usize = 2;

    /// Reads lines `identity:hexkey`, or `identity:hexkey {"name": "value"}` with attributes of the client. Empty lines and lines that
    /// start with `#` are skipped; the identity is all before the last colon in front of the key, as text or as `hex:` and digits. It may stand on two lines, of which the later has the newer key.
    ///
    /// # Errors
    /// Everything that is wrong with the text, with line numbers.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let mut errors = Vec::new();
        let mut found = Found::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (identity, key) = match parse_line(line) {
                Ok(parsed) => parsed,
                Err((part, message)) => {
                    errors.push(LineError::at(number, line, part, message));
                    continue;
                }
            };
            let keys = found.entry(identity).or_default();
            let lines: Vec<usize> = keys.iter().map(|(line, _)| *line).collect();
            let same = keys.iter().find(|(_, old)| old.as_bytes() == key.as_bytes());
            match (same, &*lines) {
                (Some((first, _)), _) => {
                    let message = format!("the identity is already on line {first}, with the same key");
                    errors.push(LineError::at(number, line, line, message));
                }
                (None, [second, first, ..]) => {
                    let message = format!(
                        "the identity is already on lines {first} and {second}: it may have two keys, while it is given another"
                    );
                    errors.push(LineError::at(number, line, line, message));
                }
                _ => keys.insert(0, (number, key.into())),
            }
        }
        if errors.is_empty() {
            Ok(Self::of(found))
        } else {
            Err(errors)
        }
    }

    fn of(found: Found) -> Self {
        let mut weak = Vec::new();
        let keys = found.into_iter().map(|(identity, keys)| {
            let name: Arc<str> = identity_text(&identity).into();
            let short = |(_, key): &&(usize, Arc<PskKey>)| key.as_bytes().len() < Self::WEAK_KEY_LEN;
            weak.extend(
                keys.iter()
                    .find(short)
                    .map(|(line, _)| (*line, Arc::clone(&name))),
            );
            let keys = keys.into_iter().map(|(_, key)| key).collect();
            (identity, Arc::new(PskKeys { name, keys }))
        });
        let keys = keys.collect();
        weak.sort_unstable();
        Self {
            keys,
            weak: weak.into_iter().map(|(_, name)| name).collect(),
        }
    }

    /// Takes over from the store before it when which key was last used.
    pub(super) fn adopt_uses(&self, before: &Self) {
        for (identity, keys) in &self.keys {
            let Some(old) = before.keys.get(identity) else {
                continue;
            };
            for key in &keys.keys {
                let same = old.keys.iter().find(|old| old.as_bytes() == key.as_bytes());
                if let Some(at) = same.and_then(|same| same.last_used()) {
                    key.note_use(at);
                }
            }
        }
    }

    /// The keys of `identity`.
    #[must_use]
    pub fn get(&self, identity: &[u8]) -> Option<&Arc<PskKeys>> {
        self.keys.get(identity)
    }

    /// The keys of the identity that is written so.
    #[must_use]
    pub fn named(&self, written: &str) -> Option<&Arc<PskKeys>> {
        self.get(&identity_bytes(written).ok()?)
    }

    /// Whether `identity` has a key.
    #[must_use]
    pub fn contains(&self, identity: &[u8]) -> bool {
        self.get(identity).is_some()
    }

    /// All identities as they are written, in no order.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        self.keys.values().map(|keys| &*keys.name)
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
fn parse_line(line: &str) -> Result<(Box<[u8]>, PskKey), Fault<'_>> {
    let whole = |message: &str| (line, message.to_owned());
    if line.starts_with('\u{feff}') {
        return Err(whole(
            "it begins with a byte order mark, which would be part of the identity: save the file without it",
        ));
    }
    let (written, secret) =
        split_line(line).ok_or_else(|| whole("it has no colon: a line is identity:hexkey"))?;
    let (hex, attributes) = split_secret(secret);
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
    let attributes = read_attributes(attributes).map_err(|message| (attributes, message))?;
    Ok((identity.into(), PskKey::new(key, attributes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(store: &PskStore, identity: &[u8]) -> Vec<Vec<u8>> {
        let keys = store.get(identity).unwrap().keys();
        keys.iter().map(|key| key.as_bytes().to_vec()).collect()
    }

    #[test]
    fn an_identity_may_have_two_keys_and_the_later_line_is_the_newer() {
        let store = PskStore::parse("u1:00\n# another\nu2:07\nhex:7531:01\n").unwrap();
        assert_eq!(keys(&store, b"u1"), [[1], [0]]);
        assert_eq!((store.len(), &**store.get(b"u1").unwrap().name()), (2, "u1"));
        assert_eq!(store.weak().collect::<Vec<_>>(), ["u2", "u1"]);
        let errors = PskStore::parse("u1:00\nu1:01\nu1:02\nu2:03\nu2:03\n").unwrap_err();
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [3, 5]);
        assert!(errors[0].message.contains("lines 1 and 2"), "{errors:?}");
        assert!(
            errors[1].message.contains("line 4, with the same key"),
            "{errors:?}"
        );
    }

    #[test]
    fn attributes_stand_behind_a_key() {
        let text = "a:00 {\"site\": \"x:y\", \"n\": 7}\r\n\
                    urn:dev:{7}:01{\"site\":\"z\"}\nurn:{8}:02\nc {\"a\": 1}:03\nd:04 {}";
        let store = PskStore::parse(text).unwrap();
        let of = |identity: &[u8]| {
            let keys = store.get(identity).unwrap().keys();
            let pairs = keys[0].attributes().iter();
            pairs
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(b"a"), ["n=7", "site=x:y"]);
        assert_eq!(of(b"urn:dev:{7}"), ["site=z"]);
        for identity in [&b"urn:{8}"[..], b"c {\"a\": 1}", b"d"] {
            assert!(of(identity).is_empty(), "{identity:?}");
        }
        for bad in [
            "a:00 {\"site\"}",
            "a:00 {\"s\": []}",
            "a:00 [1]",
            "a:00 {\"s p\": 1}",
            "a: {\"s\": 1}",
        ] {
            assert!(PskStore::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_used_is_known_after_the_file_was_read_again() {
        let before = PskStore::parse("u1:00\nu1:01").unwrap();
        before.get(b"u1").unwrap().keys()[1].note_use(77);
        let after = PskStore::parse("u1:01\nu1:00\nu2:00").unwrap();
        after.adopt_uses(&before);
        let used = |identity: &[u8]| {
            let keys = after.get(identity).unwrap().keys();
            keys.iter().map(|key| key.last_used()).collect::<Vec<_>>()
        };
        assert_eq!(used(b"u1"), [Some(77), None]);
        assert_eq!(used(b"u2"), [None]);
    }

    #[test]
    fn a_file_is_read_with_comments_and_colons_in_identities() {
        let store =
            PskStore::parse("# devices\n\nu1:00ff\r\nurn:dev:7:0123456789abcdef0123456789ABCDEF\n").unwrap();
        assert_eq!(keys(&store, b"u1"), [[0, 0xff]]);
        assert_eq!(keys(&store, b"urn:dev:7")[0].len(), 16);
        assert!(!store.contains(b"u2"));
        assert_eq!(store.weak().collect::<Vec<_>>(), ["u1"]);
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn every_bad_line_is_named_and_no_key_is_quoted() {
        let long = format!("{}:00", "x".repeat(256));
        let heavy = format!("h:{}", "00".repeat(65));
        let text = format!("a:11\nnothing\n:00\nb:\nc:0\nd:zz\na:11\n{long}\n{heavy}\ne\0:00\nf:+1");
        let errors = PskStore::parse(&text).unwrap_err();
        assert_eq!(
            errors.iter().map(|error| error.line).collect::<Vec<_>>(),
            [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
        );
        assert_eq!(
            errors[5].message,
            "the identity is already on line 1, with the same key"
        );
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
            let found = store.get(bytes).unwrap();
            assert_eq!((&**found.name(), found.keys()[0].as_bytes()), (name, &[key][..]));
            assert_eq!(identity_text(bytes), name);
            assert_eq!(identity_bytes(name).unwrap(), bytes);
            assert_eq!(store.named(name).unwrap().keys()[0].as_bytes(), [key]);
        }
        assert!(!store.contains(b"a\0b") && !store.contains(b"\0a") && !store.contains(b"hex:deadbeef"));
        // Both ways to write the same.
        let twice = PskStore::parse("ab:00\nhex:6162:00").unwrap_err();
        assert_eq!(
            twice[0].message,
            "the identity is already on line 1, with the same key"
        );
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
        // The last is two lines where a carriage return alone ends one.
        for odd in [
            "sensor\0".to_owned(),
            "sensor\t9".to_owned(),
            format!("sensor-1:{key}\rsensor-2"),
        ] {
            assert_eq!(refused(&format!("x:{key}\n{odd}:{key}")).unwrap_err(), [2]);
        }
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
