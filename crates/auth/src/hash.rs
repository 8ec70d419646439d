//! The password hashes of users files and databases: what they cost and whether a password fits.

use std::fmt;

use argon2::Argon2;
use openssl::error::ErrorStack;
use openssl::hash::{Hasher, MessageDigest};
use openssl::pkcs5::pbkdf2_hmac;
use zeroize::Zeroizing;

use portcullis_proto::labels;
use portcullis_proto::types::reason::Label as _;

mod column;
mod text;

pub use column::{HashAlgorithm, Position};

/// Most iterations of PBKDF2: some seconds.
const MAX_ITERATIONS: u32 = 10_000_000;
/// Highest bcrypt cost: some seconds.
const MAX_BCRYPT_COST: u32 = 15;
/// Most passes of Argon2.
const MAX_PASSES: u32 = 64;
/// Most lanes of Argon2; they are worked off one after the other.
const MAX_LANES: u32 = 16;
/// Below this PBKDF2 is called weak; mosquitto_passwd 2.0 writes 101.
const WEAK_ITERATIONS: u32 = 100_000;
/// Longest salt in bytes.
const MAX_SALT: usize = 1024;

labels! {
    /// How a password is hashed.
    pub enum Scheme {
        /// Argon2id as a PHC string.
        Argon2id = "argon2id",
        /// PBKDF2-HMAC-SHA512, mosquitto_passwd's `$7$` too.
        Pbkdf2Sha512 = "pbkdf2-sha512",
        /// PBKDF2-HMAC-SHA256.
        Pbkdf2Sha256 = "pbkdf2-sha256",
        /// bcrypt, `$2a$`, `$2b$` or `$2y$`.
        Bcrypt = "bcrypt",
        /// One SHA-512 with a salt, mosquitto_passwd's `$6$` too.
        Sha512 = "sha512",
        /// One SHA-256 with a salt.
        Sha256 = "sha256",
        /// One SHA-1, taken only with `legacy_hashes`.
        Sha1 = "sha1",
        /// One MD5, taken only with `legacy_hashes`.
        Md5 = "md5",
    }
}

/// A hash function of OpenSSL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// MD5, 16 bytes.
    Md5,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Digest {
    fn function(self) -> MessageDigest {
        match self {
            Self::Md5 => MessageDigest::md5(),
            Self::Sha1 => MessageDigest::sha1(),
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha512 => MessageDigest::sha512(),
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    const fn is_legacy(self) -> bool {
        matches!(self, Self::Md5 | Self::Sha1)
    }
}

/// What is compared, and with what it was salted.
struct Salted {
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

enum Kind {
    Argon2id {
        argon2: Argon2<'static>,
        salted: Salted,
    },
    Pbkdf2 {
        digest: Digest,
        iterations: u32,
        salted: Salted,
    },
    Digest {
        digest: Digest,
        position: Position,
        salted: Salted,
    },
    Bcrypt {
        text: Box<str>,
        cost: u32,
    },
}

/// One hash, parsed once.
pub struct StoredHash(Kind);

impl fmt::Debug for StoredHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredHash({:?})", self.scheme())
    }
}

impl StoredHash {
    /// Reads a hash that tells how it was made, as it stands in a users file: Argon2id, bcrypt, mosquitto's `$7$` and `$6$`,
    /// `$pbkdf2-sha256$i=N$SALT$HASH` and the same of sha512, `$sha256$prefix$SALT$HASH` and the same of sha512, sha1 and md5
    /// with `prefix`, `suffix` or `disable`; SALT and HASH in base64. `{SSHA512}` and the other schemes of directories too.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold nothing of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        text::parse(text).map(Self)
    }

    /// How it is hashed.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match &self.0 {
            Kind::Argon2id { .. } => Scheme::Argon2id,
            Kind::Bcrypt { .. } => Scheme::Bcrypt,
            Kind::Pbkdf2 {
                digest: Digest::Sha512,
                ..
            } => Scheme::Pbkdf2Sha512,
            Kind::Pbkdf2 { .. } => Scheme::Pbkdf2Sha256,
            Kind::Digest { digest, .. } => match digest {
                Digest::Md5 => Scheme::Md5,
                Digest::Sha1 => Scheme::Sha1,
                Digest::Sha256 => Scheme::Sha256,
                Digest::Sha512 => Scheme::Sha512,
            },
        }
    }

    /// That it is taken.
    ///
    /// # Errors
    /// It is one that only `legacy_hashes` lets in, which is not set.
    pub fn check_legacy(&self, legacy_hashes: bool) -> Result<(), String> {
        match &self.0 {
            Kind::Digest { digest, .. } if digest.is_legacy() && !legacy_hashes => Err(format!(
                "{} is taken only with legacy_hashes = true",
                self.scheme().label()
            )),
            _ => Ok(()),
        }
    }

    /// Why it would not hold long against someone who has the file; `None` when it would.
    #[must_use]
    pub fn weakness(&self) -> Option<String> {
        match &self.0 {
            Kind::Pbkdf2 { iterations, .. } if *iterations < WEAK_ITERATIONS => {
                Some(format!("PBKDF2 with {iterations} iterations only"))
            }
            Kind::Digest { .. } => Some(format!("a single {}", self.scheme().label())),
            Kind::Bcrypt { cost, .. } if *cost < 10 => Some(format!("bcrypt with cost {cost} only")),
            Kind::Argon2id { argon2, .. } if argon2.params().m_cost() < 7 * 1024 => {
                Some(format!("Argon2id with {} KiB only", argon2.params().m_cost()))
            }
            _ => None,
        }
    }

    /// How much memory a check takes, in KiB.
    #[must_use]
    pub fn memory_kib(&self) -> u32 {
        match &self.0 {
            Kind::Argon2id { argon2, .. } => argon2.params().m_cost(),
            Kind::Bcrypt { .. } => 5,
            Kind::Pbkdf2 { .. } | Kind::Digest { .. } => 1,
        }
    }

    /// Whether `password` fits. Takes as long for one that does not.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.0 {
            Kind::Argon2id { argon2, salted } => {
                salted.fits(|salt, out| argon2.hash_password_into(password, salt, out).is_ok())
            }
            Kind::Pbkdf2 {
                digest,
                iterations,
                salted,
            } => salted.fits(|salt, out| {
                let rounds = usize::try_from(*iterations).unwrap_or(usize::MAX);
                pbkdf2_hmac(password, salt, rounds, digest.function(), out).is_ok()
            }),
            Kind::Digest {
                digest,
                position,
                salted,
            } => {
                let (first, last) = match position {
                    Position::Prefix => (&*salted.salt, password),
                    Position::Suffix => (password, &*salted.salt),
                    Position::Disable => (password, &[][..]),
                };
                hashed(*digest, first, last).is_ok_and(|out| same(out.as_ref(), &salted.hash))
            }
            Kind::Bcrypt { text, .. } => bcrypt::verify(password, text).unwrap_or(false),
        }
    }
}

impl Salted {
    fn fits(&self, hash: impl FnOnce(&[u8], &mut [u8]) -> bool) -> bool {
        let mut out = Zeroizing::new(vec![0; self.hash.len()]);
        hash(&self.salt, &mut out) && same(&out, &self.hash)
    }
}

fn hashed(digest: Digest, first: &[u8], last: &[u8]) -> Result<impl AsRef<[u8]> + use<>, ErrorStack> {
    let mut hasher = Hasher::new(digest.function())?;
    hasher.update(first)?;
    hasher.update(last)?;
    hasher.finish()
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && openssl::memcmp::eq(a, b)
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Encoding as _};

    use super::*;

    /// From bcrypt's and argon2's own published vectors, and `mosquitto_passwd` 2.0.11.
    const BCRYPT: &str = "$2b$04$5DwHkjQu2tzCpWFVKdnHGOZGTUUzrMwPmPNWYCPxsU8dMrbYc5Dm.";

    #[test]
    fn each_scheme_takes_the_password_and_no_other() {
        let argon2 = super::super::users::hash_password(b"pw").unwrap();
        let bcrypt = bcrypt::hash("pw", 4).unwrap();
        for (text, scheme) in [
            (argon2.as_str(), Scheme::Argon2id),
            (bcrypt.as_str(), Scheme::Bcrypt),
            (&bcrypt.replace("$2b$", "$2y$"), Scheme::Bcrypt),
        ] {
            let hash = StoredHash::parse(text).unwrap();
            assert_eq!(hash.scheme(), scheme);
            assert!(hash.verify(b"pw"), "{scheme:?}");
            for wrong in [&b""[..], b"pW", b"pw ", b"pw\0"] {
                assert!(!hash.verify(wrong), "{scheme:?} {wrong:?}");
            }
        }
    }

    #[test]
    fn malformed_hashes_are_refused_in_words_that_hold_nothing_of_them() {
        let hash64 = Base64::encode_string(&[1; 64]);
        for bad in [
            "",
            "secretpassword",
            "$1$secret$secret",
            "$argon2i$v=19$m=65536,t=2,p=1$c2VjcmV0c2VjcmV0$c2VjcmV0c2VjcmV0c2VjcmV0",
            "$argon2id$v=19$m=19456,t=2,p=1$c2VjcmV0c2VjcmV0",
            "$argon2id$v=19$m=19456,t=200,p=1$c2VjcmV0c2VjcmV0$c2VjcmV0c2VjcmV0c2VjcmV0",
            "$argon2id$v=19$m=1,t=1,p=1$c2VjcmV0c2VjcmV0$c2VjcmV0c2VjcmV0c2VjcmV0",
            "$7$0$c2VjcmV0$c2VjcmV0",
            "$7$99999999999$c2VjcmV0$c2VjcmV0",
            "$7$101$c2VjcmV0$c2VjcmV0",
            "$6$c2VjcmV0",
            &format!("$6$$${hash64}"),
            &format!("$6$c2VjcmV0${hash64}$secret"),
            "$2b$31$5DwHkjQu2tzCpWFVKdnHGOZGTUUzrMwPmPNWYCPxsU8dMrbYc5Dm.",
            "$2b$04$secret",
            "$pbkdf2-sha256$i=0$c2VjcmV0$c2VjcmV0c2VjcmV0c2VjcmV0",
            "$pbkdf2-sha256$i=1000$c2VjcmV0$c2Vj",
            "$pbkdf2-sha1$i=1000$c2VjcmV0$c2VjcmV0c2VjcmV0c2VjcmV0",
            "$sha256$prefix$c2VjcmV0$c2VjcmV0c2VjcmV0c2VjcmV0",
            "$sha256$middle$c2VjcmV0$E2Ab2k6njlWge5iGbSvmvgdE44ZvE8AMgRyrYIoo8yI",
            "$md5$prefix$c2VjcmV0",
            "{SSHA}c2VjcmV0",
            "{CLEARTEXT}secret",
            "{CRYPT}secret",
            "{SHA256}c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
        ] {
            let error = StoredHash::parse(bad).unwrap_err();
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
        assert!(StoredHash::parse(BCRYPT).is_ok());
    }

    /// Written by Python's hashlib, and by passlib (the last).
    #[test]
    fn hashes_of_databases_are_read_in_a_form_that_tells_how_they_were_made() {
        for (text, scheme) in [
            (
                "$sha256$prefix$c2FsdA$E2Ab2k6njlWge5iGbSvmvgdE44ZvE8AMgRyrYIoo8yI",
                Scheme::Sha256,
            ),
            (
                "$sha256$suffix$c2FsdA==$eje4XIkY6sGakInA+loqtNzj+QUo3N7sEIsj3fNge5k",
                Scheme::Sha256,
            ),
            (
                "$sha512$prefix$c2FsdA$KQjSwo38BHdB/FkKAm/63iN6srp+EmbwEP5JveVItZh6U0qGZVoNF/M2WI5UDNZvZyNLFSu7ZFtLuFdYoTJdZA",
                Scheme::Sha512,
            ),
            ("$sha1$suffix$c2FsdA$yI6cZwQadOA1e+/f+T+H3eCQQhQ", Scheme::Sha1),
            (
                "{SSHA256}eje4XIkY6sGakInA+loqtNzj+QUo3N7sEIsj3fNge5lzYWx0",
                Scheme::Sha256,
            ),
            ("{ssha}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0", Scheme::Sha1),
            (
                "{SHA512}sQnzu7wkTrgkQZF+0G1hi5AI3Qmzvv0bXgc5THBqi7mAsdd4Xll27ASbRt9fEyavWi6m0QP9B8lThf+rDKy8hg==",
                Scheme::Sha512,
            ),
            ("$md5$disable$$X03MO1qnZdYdgyfeuILPmQ", Scheme::Md5),
            (
                "$pbkdf2-sha256$i=1000$c2FsdA$YywoEuRtRgQQK6dhjp1tfS+BKPYma0oDJk0qBGC33LM",
                Scheme::Pbkdf2Sha256,
            ),
            (
                "$pbkdf2-sha512$i=1000,l=64$c2FsdA$r+bFUweFtsxrHGRTOEcxvV7kMu5Un9QvtmlXea2KHFv1neacSPd078QAfVKY+QM8AkHVq2kwXntk7O642DTP7A",
                Scheme::Pbkdf2Sha512,
            ),
            (
                "$pbkdf2-sha256$1000$//vvc2FsdA$HaOKgnooJwffFb8/tbNbSDx0MjgZ1bpH9S2v4Yi15Gw",
                Scheme::Pbkdf2Sha256,
            ),
        ] {
            let hash = StoredHash::parse(text).unwrap();
            assert_eq!(hash.scheme(), scheme);
            assert!(hash.verify(b"password"), "{text}");
            for wrong in [&b""[..], b"salt", b"passwor", b"passwordsalt", b"saltpassword"] {
                assert!(!hash.verify(wrong), "{text} {wrong:?}");
            }
            let legacy = matches!(scheme, Scheme::Sha1 | Scheme::Md5);
            assert_eq!(hash.check_legacy(false).is_err(), legacy);
            assert!(hash.check_legacy(true).is_ok() && hash.weakness().is_some());
        }
    }

    #[test]
    fn weak_hashes_are_told_from_strong_ones() {
        let strong = StoredHash::parse(&super::super::users::hash_password(b"pw").unwrap()).unwrap();
        assert_eq!(strong.weakness(), None);
        let weak = format!("$7$101$c2VjcmV0c2VjcmV0${}", Base64::encode_string(&[1; 64]));
        assert!(
            StoredHash::parse(&weak)
                .unwrap()
                .weakness()
                .unwrap()
                .contains("101")
        );
        assert!(StoredHash::parse(BCRYPT).unwrap().weakness().is_some());
    }
}
