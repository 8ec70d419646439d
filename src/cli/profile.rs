//! The OpenSSL profiles in `certs/`, which `certs dev` follows as the `openssl` command does.

use openssl::asn1::Asn1Object;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::x509::{X509Extension, X509v3Context};

/// A profile in the format of config(5) of OpenSSL.
pub(super) struct Profile(&'static str);

pub(super) const CA: Profile = Profile(include_str!("../../certs/ca.cnf"));
pub(super) const SERVER: Profile = Profile(include_str!("../../certs/server.cnf"));
pub(super) const CLIENT: Profile = Profile(include_str!("../../certs/client.cnf"));
const KEYS: Profile = Profile(include_str!("../../certs/keys.cnf"));

impl Profile {
    /// The lines `name = value` of a section, in their order. Section "" is what stands before the first.
    pub(super) fn section(&self, wanted: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
        let mut section = "";
        self.0.lines().filter_map(move |line| {
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
            }
            let (name, value) = line.split_once('=')?;
            (section == wanted && !line.starts_with('#')).then(|| (name.trim(), value.trim()))
        })
    }

    /// One value of a section; "" when it is not there, which OpenSSL takes for nothing.
    pub(super) fn value(&self, section: &str, wanted: &str) -> &'static str {
        self.section(section)
            .find_map(|(name, value)| (name == wanted).then_some(value))
            .unwrap_or_default()
    }

    /// The hash that certificates are signed with.
    pub(super) fn digest(&self) -> Result<MessageDigest, ErrorStack> {
        MessageDigest::from_name(self.value("req", "default_md")).ok_or_else(ErrorStack::get)
    }
}

/// The elliptic curve of a type of keys, which is a section of `keys.cnf`.
pub(super) fn curve(keys: &str) -> Result<Nid, ErrorStack> {
    let option = KEYS.value(keys, "pkeyopt");
    let curve = option.strip_prefix("ec_paramgen_curve:").unwrap_or_default();
    Asn1Object::from_str(curve).map(|object| object.nid())
}

/// The extension that a line of a profile stands for, read by OpenSSL itself.
#[expect(
    deprecated,
    reason = "deprecated because a value from outside could make OpenSSL read any file; these are compiled in"
)]
pub(super) fn extension(
    context: &X509v3Context<'_>,
    name: &'static str,
    value: &'static str,
) -> Result<X509Extension, ErrorStack> {
    X509Extension::new(None, Some(context), name, value)
}
