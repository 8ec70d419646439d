//! Users: lines `user:hash`.

use portcullis_auth::hash::StoredHash;
use portcullis_auth::users;
use portcullis_proto::policy::authentication::MAX_USERNAME;

use portcullis_proto::types::LineError;

use super::named_lines::{Form, NamedLines};

/// The form of a users file: the first colon ends the name.
pub const FORM: Form = Form {
    split: |line| line.split_once(':'),
    colons: false,
    trims: true,
    max_name: MAX_USERNAME,
    most: 1,
    canonical: |name| Ok(name.to_owned()),
    check: |_, hash| StoredHash::parse(hash).map(drop),
};

/// Reads the content of a file of users, to change it. What the gateway would not take is refused here in the same words.
///
/// # Errors
/// Every line that is wrong.
pub fn parse(content: &[u8]) -> Result<NamedLines, Vec<LineError>> {
    if let Ok(text) = std::str::from_utf8(content) {
        users::parse(text)?;
    }
    NamedLines::parse(content, FORM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_gateway_knows() {
        let hash = users::hash_password(b"pw").unwrap();
        let text = format!("# all\n ann : {hash}\nbob:{hash}\n");
        let Ok(lines) = parse(text.as_bytes()) else {
            panic!("a good file")
        };
        let mut known: Vec<_> = users::parse(&text).unwrap().into_keys().collect();
        known.sort();
        assert_eq!(
            lines.names().collect::<Vec<_>>(),
            known.iter().map(|name| &**name).collect::<Vec<_>>()
        );
        assert!(!lines.without("ann").contains("ann") && lines.without("ann").contains("bob"));
        assert!(parse(format!("a\u{7}b:{hash}\n").as_bytes()).is_err());
    }

    #[test]
    fn plain_passwords_are_no_hashes() {
        let Err(errors) = parse(b"me:hunter2\nyou:$argon2id$v=19$broken\n") else {
            panic!("no hashes")
        };
        assert_eq!(errors.len(), 2);
        assert!(errors.iter().all(|error| !error.message.contains("hunter2")));
    }
}
