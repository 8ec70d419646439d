//! Certificates made on the spot.

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

/// A certificate with its key.
#[derive(Clone)]
pub struct Pair {
    pub cert: X509,
    pub key: PKey<Private>,
}

impl Pair {
    pub fn cert_pem(&self) -> Vec<u8> {
        self.cert.to_pem().unwrap()
    }

    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Authority,
    Server,
    Client,
}

/// A P-256 certificate valid for a day. Without `issuer` it signs itself. `names` are `DNS:...`, `IP:...`, `URI:...`.
pub fn certificate(role: Role, common_name: &str, names: &[&str], issuer: Option<&Pair>) -> Pair {
    let today = Asn1Time::days_from_now(0).unwrap();
    let tomorrow = Asn1Time::days_from_now(1).unwrap();
    certificate_valid(role, common_name, names, issuer, &today, &tomorrow)
}

/// As [`certificate`], valid between these times.
pub fn certificate_valid(
    role: Role,
    common_name: &str,
    names: &[&str],
    issuer: Option<&Pair>,
    from: &Asn1Time,
    to: &Asn1Time,
) -> Pair {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, common_name).unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial
        .rand(120, openssl::bn::MsbOption::MAYBE_ZERO, false)
        .unwrap();
    builder
        .set_serial_number(&serial.to_asn1_integer().unwrap())
        .unwrap();
    builder.set_subject_name(&name).unwrap();
    builder
        .set_issuer_name(issuer.map_or(&name, |pair| pair.cert.subject_name()))
        .unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(from).unwrap();
    builder.set_not_after(to).unwrap();
    extensions(&mut builder, role, names, issuer);
    builder
        .sign(issuer.map_or(&key, |pair| &pair.key), MessageDigest::sha256())
        .unwrap();
    Pair {
        cert: builder.build(),
        key,
    }
}

fn extensions(builder: &mut openssl::x509::X509Builder, role: Role, names: &[&str], issuer: Option<&Pair>) {
    if role == Role::Authority {
        builder
            .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
            .unwrap();
        let usage = KeyUsage::new()
            .critical()
            .key_cert_sign()
            .crl_sign()
            .build()
            .unwrap();
        builder.append_extension(usage).unwrap();
        return;
    }
    let mut usage = ExtendedKeyUsage::new();
    match role {
        Role::Server => usage.server_auth(),
        _ => usage.client_auth(),
    };
    builder.append_extension(usage.build().unwrap()).unwrap();
    builder
        .append_extension(KeyUsage::new().critical().digital_signature().build().unwrap())
        .unwrap();
    if names.is_empty() {
        return;
    }
    let mut san = SubjectAlternativeName::new();
    for name in names {
        match name.split_once(':').unwrap() {
            ("DNS", dns) => san.dns(dns),
            ("IP", ip) => san.ip(ip),
            ("URI", uri) => san.uri(uri),
            (other, _) => panic!("no such name type: {other}"),
        };
    }
    let context = builder.x509v3_context(issuer.map(|pair| &*pair.cert), None);
    let san = san.build(&context).unwrap();
    builder.append_extension(san).unwrap();
}

/// A CA, a server certificate for loopback, and a client certificate named `device-7`.
pub struct Pki {
    pub ca: Pair,
    pub server: Pair,
    pub client: Pair,
}

impl Pki {
    pub fn new() -> Self {
        let ca = certificate(Role::Authority, "Test CA", &[], None);
        let server = certificate(
            Role::Server,
            "localhost",
            &["DNS:localhost", "IP:127.0.0.1", "IP:::1"],
            Some(&ca),
        );
        let client = certificate(
            Role::Client,
            "device-7",
            &["DNS:device-7.example", "URI:urn:dev:7"],
            Some(&ca),
        );
        Self { ca, server, client }
    }

    /// The configuration with these files: `server.pem`, `server.key`, `ca.pem`.
    pub fn install(&self, config: super::Config) -> super::Config {
        config
            .file("server.pem", self.server.cert_pem())
            .file("server.key", self.server.key_pem())
            .file("ca.pem", self.ca.cert_pem())
            .dtls("cert_file = \"server.pem\"\nkey_file = \"server.key\"\nca_file = \"ca.pem\"")
    }
}
