//! Users: lines `user:hash`.

use super::named_lines::{LineError, NamedLines};

/// The kind of a password hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    /// Argon2 in PHC form, any variant.
    Argon2,
    /// PBKDF2-HMAC-SHA512 as `mosquitto_passwd` writes it (`$7$`).
    MosquittoPbkdf2,
    /// One salted SHA-512, as old `mosquitto_passwd` wrote it (`$6$`).
    MosquittoSha512,
    /// bcrypt.
    Bcrypt,
}

impl HashKind {
    /// The kind that a hash says it is.
    #[must_use]
    pub fn of(hash: &str) -> Option<Self> {
        let prefixes = [
            ("$argon2", Self::Argon2),
            ("$7$", Self::MosquittoPbkdf2),
            ("$6$", Self::MosquittoSha512),
            ("$2a$", Self::Bcrypt),
            ("$2b$", Self::Bcrypt),
            ("$2y$", Self::Bcrypt),
        ];
        prefixes
            .iter()
            .find(|(prefix, _)| hash.starts_with(prefix))
            .map(|(_, kind)| *kind)
    }

    /// The word for tables.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Argon2 => "argon2",
            Self::MosquittoPbkdf2 => "pbkdf2-sha512",
            Self::MosquittoSha512 => "sha512",
            Self::Bcrypt => "bcrypt",
        }
    }
}

/// Reads the content of a file of users.
///
/// # Errors
/// Every line that is wrong.
pub fn parse(content: &[u8]) -> Result<NamedLines, Vec<LineError>> {
    NamedLines::parse(content, |hash| {
        match HashKind::of(hash) {
        Some(HashKind::Argon2) => argon2::PasswordHash::new(hash)
            .map(drop)
            .map_err(|error| format!("the Argon2 hash is damaged: {error}")),
        Some(_) => Ok(()),
        None => Err("expected a password hash: Argon2id in PHC form ($argon2id$...), $7$, $6$ or bcrypt; make one with \
                     `portcullis user add`"
            .to_owned()),
    }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_passwords_are_no_hashes() {
        assert!(parse(b"me:$7$101$c2FsdA==$aGFzaA==\nyou:$2y$10$abc\n").is_ok());
        let Err(errors) = parse(b"me:hunter2\nyou:$argon2id$v=19$broken\n") else {
            panic!("no hashes")
        };
        assert_eq!(errors.len(), 2);
        assert!(errors.iter().all(|error| !error.message.contains("hunter2")));
    }
}
