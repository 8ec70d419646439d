//! The password hashes of a users file: what they cost and whether a password fits.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64ct::{Base64, Encoding};
use openssl::hash::MessageDigest;
use openssl::pkcs5::pbkdf2_hmac;
use openssl::sha::Sha512;
use password_hash::phc::PasswordHash;
use zeroize::Zeroizing;

use portcullis_proto::labels;

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

labels! {
    /// How a password is hashed.
    pub enum Scheme {
        /// Argon2id as a PHC string.
        Argon2id = "argon2id",
        /// mosquitto_passwd's `$7$`: PBKDF2-HMAC-SHA512.
        Pbkdf2Sha512 = "pbkdf2-sha512",
        /// mosquitto_passwd's `$6$`: one salted SHA-512.
        Sha512 = "sha512",
        /// bcrypt, `$2a$`, `$2b$` or `$2y$`.
        Bcrypt = "bcrypt",
    }
}

enum Kind {
    Argon2id {
        argon2: Argon2<'static>,
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    Pbkdf2 {
        iterations: u32,
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    Sha512 {
        salt: Box<[u8]>,
        hash: Box<[u8]>,
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
    /// Reads a hash as it stands in a users file.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold nothing of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let kind = match text.split('$').nth(1) {
            Some("argon2id") => argon2id(text)?,
            Some("7") => pbkdf2(text)?,
            Some("6") => sha512(text)?,
            Some("2a" | "2b" | "2y") => bcrypt(text)?,
            Some("argon2i" | "argon2d") => {
                return Err("this kind of Argon2 is not taken, only argon2id is".to_owned());
            }
            _ => {
                return Err(
                    "this is no password hash: argon2id, bcrypt, or one that mosquitto_passwd writes \
                            ($7$ or $6$); portcullis user add makes one"
                        .to_owned(),
                );
            }
        };
        Ok(Self(kind))
    }

    /// How it is hashed.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self.0 {
            Kind::Argon2id { .. } => Scheme::Argon2id,
            Kind::Pbkdf2 { .. } => Scheme::Pbkdf2Sha512,
            Kind::Sha512 { .. } => Scheme::Sha512,
            Kind::Bcrypt { .. } => Scheme::Bcrypt,
        }
    }

    /// Why it would not hold long against someone who has the file; `None` when it would.
    #[must_use]
    pub fn weakness(&self) -> Option<String> {
        match &self.0 {
            Kind::Pbkdf2 { iterations, .. } if *iterations < WEAK_ITERATIONS => {
                Some(format!("PBKDF2 with {iterations} iterations only"))
            }
            Kind::Sha512 { .. } => Some("a single SHA-512".to_owned()),
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
            Kind::Pbkdf2 { .. } | Kind::Sha512 { .. } => 1,
        }
    }

    /// Whether `password` fits. Takes as long for one that does not.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.0 {
            Kind::Argon2id { argon2, salt, hash } => {
                let mut out = Zeroizing::new(vec![0; hash.len()]);
                argon2.hash_password_into(password, salt, &mut out).is_ok() && same(&out, hash)
            }
            Kind::Pbkdf2 {
                iterations,
                salt,
                hash,
            } => {
                let mut out = Zeroizing::new(vec![0; hash.len()]);
                let rounds = usize::try_from(*iterations).unwrap_or(usize::MAX);
                pbkdf2_hmac(password, salt, rounds, MessageDigest::sha512(), &mut out).is_ok()
                    && same(&out, hash)
            }
            Kind::Sha512 { salt, hash } => {
                let mut sha = Sha512::new();
                sha.update(password);
                sha.update(salt);
                same(&sha.finish(), hash)
            }
            Kind::Bcrypt { text, .. } => bcrypt::verify(password, text).unwrap_or(false),
        }
    }
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && openssl::memcmp::eq(a, b)
}

fn argon2id(text: &str) -> Result<Kind, String> {
    let bad = |_| "this is no valid argon2id hash ($argon2id$v=19$m=..,t=..,p=..$salt$hash)".to_owned();
    let phc = PasswordHash::new(text).map_err(bad)?;
    let version = match phc.version {
        None => Version::default(),
        Some(version) => {
            Version::try_from(version).map_err(|_| "this version of Argon2 is not known".to_owned())?
        }
    };
    let (Some(salt), Some(hash)) = (phc.salt, phc.hash) else {
        return Err("this argon2id hash lacks its salt or its hash".to_owned());
    };
    let params =
        Params::try_from(&phc).map_err(|_| "these parameters of argon2id are not valid".to_owned())?;
    if params.t_cost() > MAX_PASSES || params.p_cost() > MAX_LANES {
        return Err(format!(
            "this hash would take too long: t is over {MAX_PASSES} or p over {MAX_LANES}"
        ));
    }
    if salt.len() < argon2::MIN_SALT_LEN || hash.len() < 16 {
        return Err("the salt of this hash is shorter than 8 bytes, or the hash than 16".to_owned());
    }
    Ok(Kind::Argon2id {
        argon2: Argon2::new(Algorithm::Argon2id, version, params),
        salt: salt.as_ref().into(),
        hash: hash.as_bytes().into(),
    })
}

/// The salt and the hash of 64 bytes that mosquitto_passwd writes.
type Salted = (Box<[u8]>, Box<[u8]>);

fn salted(salt: Option<&str>, hash: Option<&str>, rest: Option<&str>) -> Result<Salted, String> {
    let decode = |text: Option<&str>| text.and_then(|text| Base64::decode_vec(text).ok());
    match (decode(salt), decode(hash), rest) {
        (Some(salt), Some(hash), None) if !salt.is_empty() && hash.len() == 64 => {
            Ok((salt.into(), hash.into()))
        }
        _ => Err("the salt or the hash is not the base64 that mosquitto_passwd writes".to_owned()),
    }
}

fn pbkdf2(text: &str) -> Result<Kind, String> {
    let mut fields = text.split('$').skip(2);
    let iterations = fields
        .next()
        .and_then(|text| text.parse().ok())
        .filter(|iterations| (1..=MAX_ITERATIONS).contains(iterations))
        .ok_or_else(|| format!("the iterations of $7$ are not 1 to {MAX_ITERATIONS}"))?;
    let (salt, hash) = salted(fields.next(), fields.next(), fields.next())?;
    Ok(Kind::Pbkdf2 {
        iterations,
        salt,
        hash,
    })
}

fn sha512(text: &str) -> Result<Kind, String> {
    let mut fields = text.split('$').skip(2);
    let (salt, hash) = salted(fields.next(), fields.next(), fields.next())?;
    Ok(Kind::Sha512 { salt, hash })
}

fn bcrypt(text: &str) -> Result<Kind, String> {
    let parts: bcrypt::HashParts = text
        .parse()
        .map_err(|_| "this is no valid bcrypt hash".to_owned())?;
    let cost = parts.get_cost();
    if cost > MAX_BCRYPT_COST {
        return Err(format!(
            "this hash would take too long: the cost of bcrypt is over {MAX_BCRYPT_COST}"
        ));
    }
    Ok(Kind::Bcrypt {
        text: text.into(),
        cost,
    })
}

#[cfg(test)]
mod tests {
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
        ] {
            let error = StoredHash::parse(bad).unwrap_err();
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
        assert!(StoredHash::parse(BCRYPT).is_ok());
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
