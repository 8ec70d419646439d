//! Certificates made on the spot.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "support for tests, of which each uses a part"
)]

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use openssl::x509::{CrlNumber, X509, X509Crl, X509CrlBuilder, X509NameBuilder, X509RevokedBuilder};

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

/// An ECDSA key.
pub fn ec_key(curve: Nid) -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
}

/// An RSA key.
pub fn rsa_key(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

/// What kind of certificate to make.
pub struct Recipe<'a> {
    /// Common name.
    pub name: &'a str,
    /// May sign others.
    pub is_ca: bool,
    /// Extended key usage: server, client.
    pub server: bool,
    /// As above.
    pub client: bool,
    /// A URI among the alternative names.
    pub uri: Option<&'a str>,
    /// Valid from and to, in seconds from now.
    pub from: i64,
    /// As above.
    pub to: i64,
    /// Its key.
    pub key: PKey<Private>,
    /// The hash of its signature.
    pub digest: MessageDigest,
}

impl<'a> Recipe<'a> {
    /// A good P-256 certificate.
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            is_ca: false,
            server: true,
            client: true,
            uri: None,
            from: -3600,
            to: 86_400,
            key: ec_key(Nid::X9_62_PRIME256V1),
            digest: MessageDigest::sha256(),
        }
    }

    /// Makes it, signed by `issuer` or by itself.
    pub fn make(self, issuer: Option<&Certified>) -> Certified {
        let mut name = X509NameBuilder::new().unwrap();
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
        let now = Asn1Time::days_from_now(0).unwrap();
        let epoch = Asn1Time::from_unix(0).unwrap().diff(&now).unwrap();
        let now = i64::from(epoch.days) * 86_400 + i64::from(epoch.secs);
        builder
            .set_not_before(&Asn1Time::from_unix(now + self.from).unwrap())
            .unwrap();
        builder
            .set_not_after(&Asn1Time::from_unix(now + self.to).unwrap())
            .unwrap();
        builder.set_pubkey(&self.key).unwrap();
        if self.is_ca {
            builder
                .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
                .unwrap();
            builder
                .append_extension(KeyUsage::new().key_cert_sign().crl_sign().build().unwrap())
                .unwrap();
        } else {
            builder
                .append_extension(KeyUsage::new().digital_signature().build().unwrap())
                .unwrap();
            let mut usage = ExtendedKeyUsage::new();
            if self.server {
                usage.server_auth();
            }
            if self.client {
                usage.client_auth();
            }
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        if let Some(uri) = self.uri {
            let context = builder.x509v3_context(None, None);
            let names = SubjectAlternativeName::new()
                .uri(uri)
                .dns("device.example")
                .build(&context)
                .unwrap();
            builder.append_extension(names).unwrap();
        }
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
        is_ca: true,
        ..Recipe::new(name)
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
    list.append_extension(
        AuthorityKeyIdentifier::new()
            .issuer(true)
            .build(&context)
            .unwrap(),
    )
    .unwrap();
    list.sort().unwrap();
    list.sign(&ca.key, MessageDigest::sha256()).unwrap();
    list.build().unwrap()
}
