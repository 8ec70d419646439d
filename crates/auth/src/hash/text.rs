//! Hashes that tell how they were made.

use argon2::{Algorithm, Argon2, Params, Version};
use base64ct::{Base64, Base64Unpadded, Encoding};
use password_hash::phc::PasswordHash;

use super::{
    Digest, Kind, MAX_BCRYPT_COST, MAX_ITERATIONS, MAX_LANES, MAX_PASSES, MAX_SALT, Position, Salted,
};

pub(super) fn parse(text: &str) -> Result<Kind, String> {
    if let Some((scheme, rest)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return of_directory(scheme, rest);
    }
    let mut fields = text.split('$').skip(1);
    match fields.next() {
        Some("argon2id") => argon2id(text),
        Some("7") => pbkdf2(Digest::Sha512, fields, 64),
        Some("6") => digest(Digest::Sha512, Position::Suffix, fields),
        Some("2a" | "2b" | "2y") => bcrypt(text),
        Some("pbkdf2-sha256") => pbkdf2(Digest::Sha256, fields, 16),
        Some("pbkdf2-sha512") => pbkdf2(Digest::Sha512, fields, 16),
        Some(name @ ("sha256" | "sha512" | "sha1" | "md5")) => {
            let function = match name {
                "sha256" => Digest::Sha256,
                "sha512" => Digest::Sha512,
                "sha1" => Digest::Sha1,
                _ => Digest::Md5,
            };
            let position = match fields.next() {
                Some("prefix") => Position::Prefix,
                Some("suffix") => Position::Suffix,
                Some("disable") => Position::Disable,
                _ => return Err("the place of the salt is not prefix, suffix or disable".to_owned()),
            };
            digest(function, position, fields)
        }
        Some("argon2i" | "argon2d") => Err("this kind of Argon2 is not taken, only argon2id is".to_owned()),
        _ => Err(
            "this is no password hash: argon2id, bcrypt, pbkdf2-sha256, pbkdf2-sha512, sha256, sha512, or one that \
             mosquitto_passwd writes ($7$ or $6$); portcullis user add makes one"
                .to_owned(),
        ),
    }
}

/// What an LDAP directory holds (RFC 2307, 5.3): a digest in base64, a salt after it where the scheme begins with `S`.
fn of_directory(scheme: &str, rest: &str) -> Result<Kind, String> {
    let (digest, salted) = match scheme.to_ascii_uppercase().as_str() {
        "SSHA512" => (Digest::Sha512, true),
        "SSHA256" => (Digest::Sha256, true),
        "SSHA" => (Digest::Sha1, true),
        "SMD5" => (Digest::Md5, true),
        "SHA512" => (Digest::Sha512, false),
        "SHA256" => (Digest::Sha256, false),
        "SHA" => (Digest::Sha1, false),
        "MD5" => (Digest::Md5, false),
        "CRYPT" | "ARGON2" if rest.starts_with('$') => return parse(rest),
        _ => return Err("the scheme of this hash of a directory is not taken".to_owned()),
    };
    let bytes = decode(rest).ok_or("the hash is no base64")?;
    match bytes.split_at_checked(digest.bytes()) {
        Some((hash, salt)) if salt.is_empty() != salted && salt.len() <= MAX_SALT => Ok(Kind::Digest {
            digest,
            position: if salted {
                Position::Suffix
            } else {
                Position::Disable
            },
            salted: Salted {
                salt: salt.into(),
                hash: hash.into(),
            },
        }),
        _ => Err("the hash has another length than its scheme says".to_owned()),
    }
}

fn digest<'t>(
    digest: Digest,
    position: Position,
    fields: impl Iterator<Item = &'t str>,
) -> Result<Kind, String> {
    let salted = salted(fields, position != Position::Disable)?;
    if salted.hash.len() != digest.bytes() {
        return Err(format!("a hash of this kind has {} bytes", digest.bytes()));
    }
    Ok(Kind::Digest {
        digest,
        position,
        salted,
    })
}

fn pbkdf2<'t>(
    digest: Digest,
    mut fields: impl Iterator<Item = &'t str>,
    least: usize,
) -> Result<Kind, String> {
    let iterations = fields
        .next()
        // A PHC string names it, and may tell the length beside; passlib and mosquitto have the number alone.
        .and_then(|text| {
            text.strip_prefix("i=")
                .map_or(Some(text), |text| text.split(',').next())
        })
        .and_then(|text| text.parse().ok())
        .filter(|iterations| (1..=MAX_ITERATIONS).contains(iterations))
        .ok_or_else(|| format!("the iterations of this hash are not 1 to {MAX_ITERATIONS}"))?;
    let salted = salted(fields, true)?;
    if !(least..=64).contains(&salted.hash.len()) {
        return Err(format!("a hash of this kind has {least} to 64 bytes"));
    }
    Ok(Kind::Pbkdf2 {
        digest,
        iterations,
        salted,
    })
}

/// The two last fields.
fn salted<'t>(mut fields: impl Iterator<Item = &'t str>, needs_salt: bool) -> Result<Salted, String> {
    let mut decode = || fields.next().and_then(decode);
    match (decode(), decode(), fields.next()) {
        (Some(salt), Some(hash), None) if salt.is_empty() != needs_salt && salt.len() <= MAX_SALT => {
            Ok(Salted {
                salt: salt.into(),
                hash: hash.into(),
            })
        }
        _ => Err("the salt or the hash of this is missing or is no base64".to_owned()),
    }
}

/// Base64 with its `=`, as mosquitto_passwd writes it, or without, as PHC strings and passlib do, the latter with `.` for `+`.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.replace('.', "+");
    Base64::decode_vec(&text)
        .or_else(|_| Base64Unpadded::decode_vec(&text))
        .ok()
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
        salted: Salted {
            salt: salt.as_ref().into(),
            hash: hash.as_bytes().into(),
        },
    })
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
