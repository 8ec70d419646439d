//! `certs dev`: a certification authority of one's own for trying things out.

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use zeroize::Zeroizing;

use super::args::CertsCommand;
use super::atomic::{self, DirectoryLock};
use super::exit::{CANNOT_CREATE, DATA_ERROR, Failure};
use super::output;

/// The names of the files, in the order they are shown.
pub(super) const FILES: [&str; 6] = [
    "ca.pem",
    "ca.key",
    "server.pem",
    "server.key",
    "client.pem",
    "client.key",
];

/// What the server is always called.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What to make.
pub(super) struct Request<'a> {
    /// Names and addresses of the server beside those of loopback.
    pub(super) hosts: &'a [String],
    /// Common name of the client.
    pub(super) client: &'a str,
    /// Days until they expire.
    pub(super) days: u32,
}

pub(super) fn run(command: &CertsCommand) -> Result<(), Failure> {
    let CertsCommand::Dev {
        dir,
        host,
        client,
        days,
        force,
    } = command;
    let request = Request {
        hosts: host,
        client,
        days: *days,
    };
    check_names(&request)?;
    let present: Vec<&str> = FILES.into_iter().filter(|name| dir.join(name).exists()).collect();
    if !present.is_empty() && !force {
        return Err(Failure::new(
            CANNOT_CREATE,
            format!(
                "{} has {} already; --force overwrites them",
                dir.display(),
                present.join(", ")
            ),
        ));
    }
    let written = make(dir, &request)?;
    let mut said = String::from("Development certificates, not for production:\n");
    for path in written {
        said.push_str(&format!("  {}\n", path.display()));
    }
    output::print(&said)
}

fn check_names(request: &Request<'_>) -> Result<(), Failure> {
    let fits = |name: &str| {
        name.parse::<IpAddr>().is_ok()
            || !name.is_empty()
                && name.len() <= 253
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*'))
    };
    if let Some(wrong) = request.hosts.iter().find(|host| !fits(host)) {
        return Err(Failure::new(
            DATA_ERROR,
            format!("`{wrong}` is no host name or address"),
        ));
    }
    // X.520's upper bound for a common name, which OpenSSL enforces.
    if request.client.is_empty() || request.client.chars().count() > 64 {
        return Err(Failure::new(
            DATA_ERROR,
            "the client's name must be 1 to 64 characters",
        ));
    }
    Ok(())
}

/// Makes a CA, a server and a client certificate in `dir`, which is made too; what is there is overwritten. Keys are readable by
/// their owner alone.
pub(super) fn make(dir: &Path, request: &Request<'_>) -> Result<Vec<PathBuf>, Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|error| Failure::write(dir, &error))?;
    let authority = authority(request.days)?;
    let server = leaf(
        &authority,
        "localhost",
        Usage::Server(request.hosts),
        request.days,
    )?;
    let client = leaf(&authority, request.client, Usage::Client, request.days)?;
    let lock = DirectoryLock::of(&dir.join(FILES[0]))?;
    let pairs = [&authority, &server, &client];
    let mut written = Vec::new();
    for (names, pair) in FILES.chunks_exact(2).zip(pairs) {
        let [cert_name, key_name] = names else { continue };
        let (cert_path, key_path) = (dir.join(cert_name), dir.join(key_name));
        // The key first: a certificate never stands without its key.
        let key = Zeroizing::new(pair.key.private_key_to_pem_pkcs8()?);
        atomic::write_secret(&lock, &key_path, &key)?;
        atomic::write(&lock, &cert_path, &pair.certificate.to_pem()?, 0o644)?;
        written.extend([cert_path, key_path]);
    }
    Ok(written)
}

struct Pair {
    certificate: X509,
    key: PKey<Private>,
}

enum Usage<'a> {
    Server(&'a [String]),
    Client,
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// A builder with key, serial number, subject and times; what is left are issuer and extensions.
fn builder(key: &PKey<Private>, common_name: &str, days: u32) -> Result<X509Builder, ErrorStack> {
    let mut serial = BigNum::new()?;
    // 159 bits: at most 20 octets and positive (RFC 5280, 4.1.2.2).
    serial.rand(159, MsbOption::MAYBE_ZERO, false)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    let name = name.build();
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_pubkey(key)?;
    let serial = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    let not_before = Asn1Time::days_from_now(0)?;
    builder.set_not_before(&not_before)?;
    let not_after = Asn1Time::days_from_now(days)?;
    builder.set_not_after(&not_after)?;
    Ok(builder)
}

fn authority(days: u32) -> Result<Pair, ErrorStack> {
    let key = new_key()?;
    let mut builder = builder(&key, "Portcullis development CA", days)?;
    let mut issuer = X509NameBuilder::new()?;
    issuer.append_entry_by_nid(Nid::COMMONNAME, "Portcullis development CA")?;
    let issuer = issuer.build();
    builder.set_issuer_name(&issuer)?;
    builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
    builder.append_extension(identifier)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok(Pair {
        certificate: builder.build(),
        key,
    })
}

fn leaf(authority: &Pair, common_name: &str, usage: Usage<'_>, days: u32) -> Result<Pair, ErrorStack> {
    let key = new_key()?;
    let mut builder = builder(&key, common_name, days)?;
    builder.set_issuer_name(authority.certificate.subject_name())?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    let mut extended = ExtendedKeyUsage::new();
    match usage {
        Usage::Server(hosts) => {
            builder.append_extension(extended.server_auth().build()?)?;
            let mut names = SubjectAlternativeName::new();
            for host in LOOPBACK.into_iter().chain(hosts.iter().map(String::as_str)) {
                if host.parse::<IpAddr>().is_ok() {
                    names.ip(host);
                } else {
                    names.dns(host);
                }
            }
            let names = names.build(&builder.x509v3_context(Some(&authority.certificate), None))?;
            builder.append_extension(names)?;
        }
        Usage::Client => builder.append_extension(extended.client_auth().build()?)?,
    }
    let context = builder.x509v3_context(Some(&authority.certificate), None);
    let subject = SubjectKeyIdentifier::new().build(&context)?;
    let issuer = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
    builder.append_extension(subject)?;
    builder.append_extension(issuer)?;
    builder.sign(&authority.key, MessageDigest::sha256())?;
    Ok(Pair {
        certificate: builder.build(),
        key,
    })
}
