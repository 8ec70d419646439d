//! Users: lines `user:hash`.

use crate::auth::hash::StoredHash;
use crate::policy::authentication::MAX_USERNAME;

use super::named_lines::{Form, LineError, NamedLines};

/// Lines `user:hash`.
pub const FORM: Form = Form {
    last_colon: false,
    max_name: MAX_USERNAME,
    check_secret: |hash| StoredHash::parse(hash).map(drop),
};

/// Reads the content of a file of users.
///
/// # Errors
/// Every line that is wrong.
pub fn parse(content: &[u8]) -> Result<NamedLines, Vec<LineError>> {
    NamedLines::parse(content, FORM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_passwords_are_no_hashes() {
        let Err(errors) = parse(b"me:hunter2\nyou:$argon2id$v=19$broken\n") else {
            panic!("no hashes")
        };
        assert_eq!(errors.len(), 2);
        assert!(errors.iter().all(|error| !error.message.contains("hunter2")));
    }
}
