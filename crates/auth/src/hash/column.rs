//! Hashes as databases hold them: hexadecimal digits, with the salt in a column of its own.

use super::{Digest, Kind, MAX_ITERATIONS, MAX_SALT, Salted, StoredHash};

/// Where a salt stands when it is hashed with the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Before the password.
    Prefix,
    /// After it.
    Suffix,
    /// There is none.
    Disable,
}

/// How the hashes of a database were made that do not tell it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// They all tell it: bcrypt, Argon2id and the other forms of [`StoredHash::parse`].
    Told,
    /// One hash of salt and password.
    Digest {
        /// With this function.
        digest: Digest,
        /// In this order.
        position: Position,
    },
    /// PBKDF2 (RFC 8018, 5.2).
    Pbkdf2 {
        /// The function of its HMAC.
        digest: Digest,
        /// How often, 1 to 10,000,000.
        iterations: u32,
    },
}

impl HashAlgorithm {
    /// A hash of this kind that no password fits.
    pub(crate) fn decoy(self) -> StoredHash {
        let (digest, position) = match self {
            Self::Digest { digest, position } => (digest, position),
            Self::Told | Self::Pbkdf2 { .. } => (Digest::Sha256, Position::Prefix),
        };
        // No known text has this hash.
        let salted = Salted {
            salt: [0; 16].into(),
            hash: vec![0; digest.bytes()].into(),
        };
        StoredHash(match self {
            Self::Pbkdf2 { digest, iterations } => Kind::Pbkdf2 {
                digest,
                iterations,
                salted,
            },
            Self::Told | Self::Digest { .. } => Kind::Digest {
                digest,
                position,
                salted,
            },
        })
    }

    /// Reads what a database holds: a hash that begins with `$` tells how it was made whatever is said here.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold nothing of it.
    pub fn read(self, hash: &str, salt: Option<&[u8]>) -> Result<StoredHash, String> {
        if hash.starts_with(['$', '{']) {
            return StoredHash::parse(hash);
        }
        let wants_salt = !matches!(
            self,
            Self::Told
                | Self::Digest {
                    position: Position::Disable,
                    ..
                }
        );
        let salt = salt.unwrap_or_default();
        if wants_salt && salt.is_empty() {
            return Err("the hash has no salt".to_owned());
        }
        if salt.len() > MAX_SALT {
            return Err(format!("the salt has more than {MAX_SALT} bytes"));
        }
        let hash = hex::decode(hash)
            .ok()
            .ok_or("the hash is no hexadecimal digits")?;
        let salted = Salted {
            salt: if wants_salt { salt.into() } else { Box::default() },
            hash: hash.into(),
        };
        let length = salted.hash.len();
        match self {
            Self::Told => {
                Err("the hash does not begin with `$`, and so does not tell how it was made".to_owned())
            }
            Self::Digest { digest, position } if length == digest.bytes() => Ok(StoredHash(Kind::Digest {
                digest,
                position,
                salted,
            })),
            Self::Pbkdf2 { digest, iterations } if (16..=64).contains(&length) => {
                Ok(StoredHash(Kind::Pbkdf2 {
                    digest,
                    iterations: iterations.min(MAX_ITERATIONS),
                    salted,
                }))
            }
            Self::Digest { .. } | Self::Pbkdf2 { .. } => {
                Err("the hash has another length than the algorithm that is configured makes".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: HashAlgorithm = HashAlgorithm::Digest {
        digest: Digest::Sha256,
        position: Position::Prefix,
    };

    /// Written by Python's hashlib.
    #[test]
    fn digits_with_a_salt_beside_are_read_as_configured() {
        let digest = |digest, position| HashAlgorithm::Digest { digest, position };
        let pbkdf2 = |digest| HashAlgorithm::Pbkdf2 {
            digest,
            iterations: 1000,
        };
        for (algorithm, text) in [
            (
                SHA256,
                "13601bda4ea78e55a07b98866d2be6be0744e3866f13c00c811cab608a28f322",
            ),
            (
                SHA256,
                "13601BDA4EA78E55A07B98866D2BE6BE0744E3866F13C00C811CAB608A28F322",
            ),
            (
                digest(Digest::Sha512, Position::Suffix),
                "fa6a2185b3e0a9a85ef41ffb67ef3c1fb6f74980f8ebf970e4e72e353ed9537d593083c201dfd6e43e1c8a7aac2bc8dbb119c7dfb7d4b8f131111395bd70e97f",
            ),
            (
                digest(Digest::Md5, Position::Disable),
                "5f4dcc3b5aa765d61d8327deb882cf99",
            ),
            (
                pbkdf2(Digest::Sha256),
                "632c2812e46d4604102ba7618e9d6d7d2f8128f6266b4a03264d2a0460b7dcb3",
            ),
            (
                pbkdf2(Digest::Sha512),
                "afe6c5530785b6cc6b1c6453384731bd5ee432ee549fd42fb6695779ad8a1c5b",
            ),
        ] {
            let hash = algorithm.read(text, Some(b"salt")).unwrap();
            assert!(
                hash.verify(b"password") && !hash.verify(b"passwort"),
                "{algorithm:?}"
            );
        }
        let told = format!(
            "$sha256$suffix$c2FsdA${}",
            "eje4XIkY6sGakInA+loqtNzj+QUo3N7sEIsj3fNge5k"
        );
        for algorithm in [HashAlgorithm::Told, SHA256] {
            assert!(algorithm.read(&told, None).unwrap().verify(b"password"));
        }
    }

    #[test]
    fn what_does_not_fit_the_algorithm_is_refused_without_being_repeated() {
        let hash = "5ec2e7".repeat(10);
        for (algorithm, hash, salt) in [
            (SHA256, &*hash, Some(&b"salt"[..])),
            (SHA256, &"5ec2e7ab".repeat(8), None),
            (SHA256, &"5ec2e7ab".repeat(8), Some(b"")),
            (SHA256, &"5ec2e7ab".repeat(8), Some(&[b'x'; 2000])),
            (SHA256, "5ec2e7secret", Some(b"salt")),
            (SHA256, "", Some(b"salt")),
            (HashAlgorithm::Told, &"5ec2e7ab".repeat(8), Some(b"salt")),
        ] {
            let error = algorithm.read(hash, salt).unwrap_err();
            assert!(!error.contains("5ec2e7") && !error.contains("secret"), "{error}");
        }
    }
}
