//! Certificates made on the spot.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "support for tests, of which each uses a part"
)]

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::AuthorityKeyIdentifier;
use openssl::x509::{
    CrlNumber, X509, X509Builder, X509Crl, X509CrlBuilder, X509Extension, X509NameBuilder, X509Ref,
    X509RevokedBuilder,
};

/// A profile of `certs/`: the text of an OpenSSL configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile(&'static str);

/// One that signs others.
pub const AUTHORITY: Profile = Profile(include_str!("../../certs/ca.cnf"));
/// One that signs other authorities; the product makes none.
pub const ROOT: Profile = Profile(
    "\n[extensions]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\nsubjectKeyIdentifier = hash\n",
);
/// A gateway.
pub const SERVER: Profile = Profile(include_str!("../../certs/server.cnf"));
/// A device.
pub const CLIENT: Profile = Profile(include_str!("../../certs/client.cnf"));
/// The keys that the gateway takes, by type.
pub const KEYS: Profile = Profile(include_str!("../../certs/keys.cnf"));

impl Profile {
    /// The names of all sections.
    pub fn sections(self) -> Vec<&'static str> {
        let heads = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'));
        heads.collect()
    }

    /// The lines of a section; "" is what stands before the first.
    pub fn section(self, name: &str) -> Vec<(&'static str, &'static str)> {
        let text = match name {
            "" => self.0,
            _ => self.0.split_once(&format!("\n[{name}]\n")).unwrap().1,
        };
        let lines = text.lines().take_while(|line| !line.starts_with('['));
        lines
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(" = "))
            .collect()
    }

    /// A value of a section.
    pub fn value(self, section: &str, wanted: &str) -> &'static str {
        let lines = self.section(section);
        lines.iter().find(|(name, _)| *name == wanted).unwrap().1
    }

    /// Adds the extensions of a section, read by OpenSSL; `names` are its `SAN`.
    #[expect(
        deprecated,
        reason = "the only way to have OpenSSL itself read a line of a profile"
    )]
    fn extend(self, builder: &mut X509Builder, section: &str, names: &str, issuer: Option<&X509Ref>) {
        for (name, value) in self.section(section) {
            let value = value.replace("$ENV::SAN", names);
            let context = builder.x509v3_context(issuer, None);
            let extension = X509Extension::new(None, Some(&context), name, &value).unwrap();
            builder.append_extension(extension).unwrap();
        }
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Certified {
    /// The certificate.
    pub certificate: X509,
    /// Its key.
    pub key: PKey<Private>,
}

impl Certified {
    /// The certificate as PEM.
    pub fn cert_pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    /// The key as PEM.
    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }
}

/// A key of a type that has a section in `keys.cnf`.
pub fn key(kind: &str) -> PKey<Private> {
    match KEYS.value(kind, "pkeyopt").split_once(':').unwrap() {
        ("ec_paramgen_curve", curve) => ec_key(Asn1Object::from_str(curve).unwrap().nid()),
        ("rsa_keygen_bits", bits) => rsa_key(bits.parse().unwrap()),
        other => panic!("unknown option {other:?}"),
    }
}

/// An ECDSA key.
pub fn ec_key(curve: Nid) -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
}

/// An RSA key.
pub fn rsa_key(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

/// A time so many seconds from now.
pub fn from_now(seconds: i64) -> Asn1Time {
    let now = Asn1Time::days_from_now(0).unwrap();
    let since_1970 = Asn1Time::from_unix(0).unwrap().diff(&now).unwrap();
    let now = i64::from(since_1970.days) * 86_400 + i64::from(since_1970.secs);
    Asn1Time::from_unix(now + seconds).unwrap()
}

/// What kind of certificate to make.
pub struct Recipe<'a> {
    /// What it is for.
    pub profile: Profile,
    /// Common name; none when empty.
    pub name: &'a str,
    /// What the subject has before the common name.
    pub subject: &'a [(Nid, &'a str)],
    /// Alternative names, as `DNS:device.example,URI:urn:dev:7`; those of the profile when empty.
    pub names: &'a str,
    /// Valid from.
    pub from: Asn1Time,
    /// Valid to.
    pub to: Asn1Time,
    /// Its key.
    pub key: PKey<Private>,
    /// The hash of its signature.
    pub digest: MessageDigest,
}

impl<'a> Recipe<'a> {
    /// A good P-256 certificate of a gateway.
    pub fn server(name: &'a str) -> Self {
        Self {
            profile: SERVER,
            name,
            subject: &[],
            names: "",
            from: from_now(-3600),
            to: from_now(86_400),
            key: key("p256"),
            digest: MessageDigest::from_name(SERVER.value("req", "default_md")).unwrap(),
        }
    }

    /// A good P-256 certificate of a device.
    pub fn client(name: &'a str) -> Self {
        Self {
            profile: CLIENT,
            ..Self::server(name)
        }
    }

    /// Makes it, signed by `issuer` or by itself.
    pub fn make(self, issuer: Option<&Certified>) -> Certified {
        let mut name = X509NameBuilder::new().unwrap();
        for (kind, value) in self.subject {
            name.append_entry_by_nid(*kind, value).unwrap();
        }
        if !self.name.is_empty() {
            name.append_entry_by_nid(Nid::COMMONNAME, self.name).unwrap();
        }
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
        builder
            .set_serial_number(&Asn1Integer::from_bn(&serial).unwrap())
            .unwrap();
        builder.set_subject_name(&name).unwrap();
        builder
            .set_issuer_name(issuer.map_or(&name, |issuer| issuer.certificate.subject_name()))
            .unwrap();
        builder.set_not_before(&self.from).unwrap();
        builder.set_not_after(&self.to).unwrap();
        builder.set_pubkey(&self.key).unwrap();
        let section = if self.profile == CLIENT && !self.names.is_empty() {
            "extensions_san"
        } else {
            "extensions"
        };
        let names = if self.names.is_empty() {
            SERVER.value("", "SAN")
        } else {
            self.names
        };
        let issuer_certificate = issuer.map(|issuer| &*issuer.certificate);
        self.profile
            .extend(&mut builder, section, names, issuer_certificate);
        builder
            .sign(issuer.map_or(&self.key, |issuer| &issuer.key), self.digest)
            .unwrap();
        Certified {
            certificate: builder.build(),
            key: self.key,
        }
    }
}

/// A certificate authority.
pub fn authority(name: &str) -> Certified {
    Recipe {
        profile: AUTHORITY,
        ..Recipe::server(name)
    }
    .make(None)
}

/// A list of `ca`'s that revokes `victims`.
pub fn revocation_list(ca: &Certified, victims: &[&Certified]) -> X509Crl {
    let mut list = X509CrlBuilder::new().unwrap();
    list.set_issuer_name(ca.certificate.subject_name()).unwrap();
    list.set_last_update(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    list.set_next_update(&Asn1Time::days_from_now(1).unwrap())
        .unwrap();
    for victim in victims {
        let mut entry = X509RevokedBuilder::new().unwrap();
        entry
            .set_serial_number(victim.certificate.serial_number())
            .unwrap();
        entry
            .set_revocation_date(&Asn1Time::days_from_now(0).unwrap())
            .unwrap();
        list.add_revoked(entry.build()).unwrap();
    }
    list.append_extension(
        CrlNumber::new(BigNum::from_u32(1).unwrap())
            .unwrap()
            .build()
            .unwrap(),
    )
    .unwrap();
    let dummy = X509::builder().unwrap();
    let context = dummy.x509v3_context(Some(&ca.certificate), None);
    list.append_extension(AuthorityKeyIdentifier::new().keyid(true).build(&context).unwrap())
        .unwrap();
    list.sort().unwrap();
    list.sign(&ca.key, MessageDigest::sha256()).unwrap();
    list.build().unwrap()
}
