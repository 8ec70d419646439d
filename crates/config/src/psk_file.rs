//! Pre-shared keys: lines `identity:hexkey`, as in mosquitto's `psk_file`, or `hex:` and digits for an identity that is no
//! text.

use openssl::error::ErrorStack;
use zeroize::Zeroizing;

use portcullis_dtls::{
    PskStore, check_colons, identity_bytes, identity_text, read_attributes, split_line, split_secret,
};

use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::types::LineError;

use super::named_lines::{Form, NamedLines};

/// Longest key in bytes.
pub const MAX_KEY: usize = 64;

/// Characters of a key that is made here, each a byte of it. Letters and digits, because Debian's libcoap takes a key as text.
pub const MADE_KEY: usize = 24;

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A random key of [`MADE_KEY`] letters and digits, about 142 bits.
///
/// # Errors
/// OpenSSL has no randomness.
pub fn generate() -> Result<Zeroizing<String>, ErrorStack> {
    let mut key = Zeroizing::new(String::with_capacity(MADE_KEY));
    let mut random = Zeroizing::new([0_u8; 64]);
    while key.len() < MADE_KEY {
        let wanted = MADE_KEY - key.len();
        openssl::rand::rand_bytes(random.as_mut())?;
        // Six bits that are no letter are thrown away: to fold them in would make some letters likelier than others.
        let letters = random
            .iter()
            .filter_map(|byte| ALPHABET.get(usize::from(byte & 0x3f)));
        key.extend(letters.take(wanted).map(|letter| char::from(*letter)));
    }
    Ok(key)
}

/// Lines `identity:hexkey`. Hexadecimal digits hold no colon, so identities may: `urn:dev:ops:32473-1`.
pub const FORM: Form = Form {
    split: split_line,
    colons: true,
    trims: false,
    max_name: "hex:".len() + 2 * PskStore::MAX_IDENTITY_LEN,
    most: PskStore::MAX_KEYS,
    canonical: canonical_identity,
    check: |written, secret| {
        let (key, attributes) = split_secret(secret);
        check_key(key)?;
        check_colons(written, key)?;
        read_attributes(attributes).map(drop)
    },
};

/// The one form in which an identity is known, whether it is written as text or as `hex:` and its digits.
///
/// # Errors
/// What is wrong with the digits.
pub fn canonical_identity(written: &str) -> Result<String, String> {
    identity_bytes(written).map(|bytes| identity_text(&bytes))
}

/// The lines with a key of `identity` beside those that it has; with these attributes, or without any given with those that it has.
///
/// # Errors
/// It has two, or this one: in words that say what to do, without the key.
pub fn with_another(
    lines: &NamedLines,
    identity: &str,
    hex: &str,
    given: Option<&Attributes>,
) -> Result<Zeroizing<String>, String> {
    let keys = lines.secrets(identity);
    if keys
        .iter()
        .any(|key| split_secret(key).0.eq_ignore_ascii_case(hex))
    {
        return Err(format!("`{identity}` has this key already"));
    }
    if keys.len() >= FORM.most {
        return Err(format!(
            "`{identity}` has {} keys already: remove the older one first",
            keys.len()
        ));
    }
    Ok(lines.with_another(identity, &secret(lines, identity, hex, given)))
}

/// The lines with this key of `identity` in place of those that it has; its attributes as in [`with_another`].
#[must_use]
pub fn with(lines: &NamedLines, identity: &str, hex: &str, given: Option<&Attributes>) -> Zeroizing<String> {
    lines.with(identity, &secret(lines, identity, hex, given))
}

/// The lines with these attributes behind each key of `identity`, in place of those that are there.
#[must_use]
pub fn described(lines: &NamedLines, identity: &str, attributes: &Attributes) -> Zeroizing<String> {
    let text = object(attributes);
    lines.with_changed(identity, |secret| join(split_secret(secret).0, &text))
}

/// What stands behind the newest of the keys of an identity.
#[must_use]
pub fn attributes(secrets: &[Zeroizing<String>]) -> Attributes {
    let newest = secrets.last().map_or("", |secret| split_secret(secret).1);
    read_attributes(newest).unwrap_or_default()
}

fn secret(lines: &NamedLines, identity: &str, hex: &str, given: Option<&Attributes>) -> Zeroizing<String> {
    if let Some(given) = given {
        return join(hex, &object(given));
    }
    let newest = lines.secret(identity).unwrap_or_default();
    join(hex, split_secret(&newest).1)
}

/// A key with what stands behind it, which may be nothing.
fn join(hex: &str, attributes: &str) -> Zeroizing<String> {
    let blank = if attributes.is_empty() { "" } else { " " };
    Zeroizing::new([hex, blank, attributes].concat())
}

/// Attributes as a file has them.
fn object(attributes: &Attributes) -> String {
    if attributes.is_empty() {
        return String::new();
    }
    let all = attributes
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()));
    serde_json::Value::Object(all.collect()).to_string()
}

/// Reads the content of a file of pre-shared keys.
///
/// # Errors
/// Every line that is wrong.
pub fn parse(content: &[u8]) -> Result<NamedLines, Vec<LineError>> {
    NamedLines::parse(content, FORM)
}

/// Whether `hex` is a key: 1 to [`MAX_KEY`] bytes in hexadecimal digits.
///
/// # Errors
/// What is wrong with it, without the key.
pub fn check_key(hex: &str) -> Result<(), String> {
    if hex.is_empty() {
        return Err("the key is empty".to_owned());
    }
    if let Some(at) = hex.chars().position(|c| !c.is_ascii_hexdigit()) {
        return Err(format!(
            "the key is not hexadecimal: its character {} is none of 0-9 and a-f",
            at + 1
        ));
    }
    if !hex.len().is_multiple_of(2) {
        return Err(format!(
            "the key has {} hexadecimal digits: two make a byte, so the number must be even",
            hex.len()
        ));
    }
    if hex.len() / 2 > MAX_KEY {
        return Err(format!(
            "the key has {} bytes, at most {MAX_KEY} are allowed",
            hex.len() / 2
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_keys_are_printable_and_differ() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_eq!(one.len(), MADE_KEY);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric()));
        assert_ne!(one, two);
    }

    #[test]
    fn every_character_of_the_alphabet_is_used() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..400 {
            seen.extend(generate().unwrap().chars());
        }
        assert_eq!(seen.len(), ALPHABET.len());
    }

    #[test]
    fn identities_may_hold_colons() {
        let Ok(lines) = parse(b"urn:dev:7:00ff\n") else {
            panic!("a good file")
        };
        assert_eq!(lines.names().collect::<Vec<_>>(), ["urn:dev:7"]);
        assert_eq!(lines.secret("urn:dev:7").unwrap().as_str(), "00ff");
    }

    #[test]
    fn keys_are_hexadecimal_bytes() {
        assert_eq!(check_key("00ffAB"), Ok(()));
        assert_eq!(check_key(&"ab".repeat(64)), Ok(()));
        for bad in ["", "abc", "0g", "0x00", &"ab".repeat(65)] {
            let message = check_key(bad).unwrap_err();
            assert!(bad.is_empty() || !message.contains(bad), "{message}");
        }
    }

    #[test]
    fn an_identity_is_found_in_either_form() {
        let Ok(lines) = parse(b"hex:DEADBEEF:00ff\nhex:6162:11\n") else {
            panic!("a good file")
        };
        assert_eq!(lines.names().collect::<Vec<_>>(), ["hex:deadbeef", "ab"]);
        assert!(lines.contains("hex:deadBEEF") && lines.contains("ab") && lines.contains("hex:6162"));
        assert_eq!(
            lines.with("hex:6162", "22").as_str(),
            "hex:DEADBEEF:00ff\nab:22\n"
        );
        assert_eq!(lines.without("ab").as_str(), "hex:DEADBEEF:00ff\n");
    }

    #[test]
    fn a_key_is_given_beside_another_and_the_older_is_taken_out() {
        let Ok(lines) = parse(b"a:00\n# b's\nb:11\n") else {
            panic!("a good file")
        };
        let two = lines.with_another("hex:61", "22");
        assert_eq!(two.as_str(), "a:00\n# b's\nb:11\na:22\n");
        let Ok(lines) = parse(two.as_bytes()) else {
            panic!("two lines of one identity")
        };
        let counted: Vec<_> = lines.all().map(|(name, keys)| (name, keys.len())).collect();
        assert_eq!(counted, [("a", 2), ("b", 1)]);
        assert_eq!(
            lines
                .secrets("a")
                .iter()
                .map(|key| key.as_str())
                .collect::<Vec<_>>(),
            ["00", "22"]
        );
        assert_eq!(lines.without_older("a").as_str(), "# b's\nb:11\na:22\n");
        assert_eq!(lines.without("a").as_str(), "# b's\nb:11\n");
        assert_eq!(lines.with("a", "33").as_str(), "a:33\n# b's\nb:11\n");
        let third = lines.with_another("a", "33");
        assert!(parse(third.as_bytes()).is_err_and(|errors| errors[0].message.contains("1 and 4")));
    }

    #[test]
    fn a_new_key_leaves_the_attributes_of_its_identity() {
        let Ok(lines) = parse(b"urn:a:00 {\"site\": \"x\"}\nb:11\n") else {
            panic!("a good file")
        };
        assert_eq!(lines.names().collect::<Vec<_>>(), ["urn:a", "b"]);
        assert_eq!(
            with(&lines, "urn:a", "22", None).as_str(),
            "urn:a:22 {\"site\": \"x\"}\nb:11\n"
        );
        assert_eq!(
            with_another(&lines, "urn:a", "22", None).unwrap().as_str(),
            "urn:a:00 {\"site\": \"x\"}\nb:11\nurn:a:22 {\"site\": \"x\"}\n"
        );
        assert!(with_another(&lines, "urn:a", "00", None).is_err());
        assert!(parse(b"a:00 {\"site\": [1]}\n").is_err());
    }

    #[test]
    fn attributes_are_given_changed_and_taken_away_with_all_keys_and_comments_as_they_were() {
        let given = Attributes::new([("site", "a:{\"b\"}"), ("floor", "3")]).unwrap();
        let Ok(lines) = parse(b"# fleet\nurn:a:00\nb:11\nurn:a:22 {\"site\": \"x\"}\n") else {
            panic!("a good file")
        };
        let text = described(&lines, "urn:a", &given);
        let object = r#"{"floor":"3","site":"a:{\"b\"}"}"#;
        assert_eq!(
            text.as_str(),
            format!("# fleet\nurn:a:00 {object}\nb:11\nurn:a:22 {object}\n")
        );
        let Ok(again) = parse(text.as_bytes()) else {
            panic!("what is written is read")
        };
        let all: Vec<_> = again
            .all()
            .map(|(name, secrets)| (name, attributes(&secrets)))
            .collect();
        assert_eq!(all, [("urn:a", given.clone()), ("b", Attributes::default())]);
        let bare = described(&again, "urn:a", &Attributes::default());
        assert_eq!(bare.as_str(), "# fleet\nurn:a:00\nb:11\nurn:a:22\n");
        assert_eq!(
            with(&lines, "b", "33", Some(&given)).lines().nth(2),
            Some(&*format!("b:33 {object}"))
        );
    }

    #[test]
    fn lines_that_would_be_misread_are_refused() {
        for bad in ["a:00:11:22:33\n", "\u{feff}a:00ff\n", "hex:0:00\n", "hex:xy:00\n"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
