//! `certs dev`: a certification authority of one's own for trying things out.

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use zeroize::Zeroizing;

use super::args::CertsCommand;
use super::atomic::{self, DirectoryLock};
use super::exit::{CANNOT_CREATE, DATA_ERROR, Failure};
use super::output;
use super::profile::{self, Profile};

/// The names of the files, in the order they are shown.
pub(super) const FILES: [&str; 6] = [
    "ca.pem",
    "ca.key",
    "server.pem",
    "server.key",
    "client.pem",
    "client.key",
];

/// Which certificates `certs dev` makes.
pub(super) struct Request<'a> {
    /// Names and addresses of the server beside those of the profile, which are loopback's.
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
    let (ca, server) = (profile::CA, profile::SERVER);
    let authority = issue(&ca, ca.value("name", "CN"), None, &[], request.days)?;
    let server_name = server.value("name", "CN");
    let server = issue(
        &server,
        server_name,
        Some(&authority),
        request.hosts,
        request.days,
    )?;
    let client = issue(
        &profile::CLIENT,
        request.client,
        Some(&authority),
        &[],
        request.days,
    )?;
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

/// A new key and a certificate for it as `profile` has it, signed by `issuer` or by itself. `hosts` are names of a server beside
/// those of the profile.
fn issue(
    profile: &Profile,
    common_name: &str,
    issuer: Option<&Pair>,
    hosts: &[String],
    days: u32,
) -> Result<Pair, ErrorStack> {
    let key = new_key()?;
    let mut serial = BigNum::new()?;
    // 159 bits: at most 20 octets and positive (RFC 5280, 4.1.2.2).
    serial.rand(159, MsbOption::MAYBE_ZERO, false)?;
    let serial = serial.to_asn1_integer()?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    let name = name.build();
    let (not_before, not_after) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(days)?);
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_pubkey(&key)?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(issuer.map_or(&name, |issuer| issuer.certificate.subject_name()))?;
    builder.set_not_before(&not_before)?;
    builder.set_not_after(&not_after)?;
    for (name, value) in profile.section("extensions") {
        let context = builder.x509v3_context(issuer.map(|issuer| &*issuer.certificate), None);
        let extension = match name {
            "subjectAltName" => subject_names(profile, hosts).build(&context),
            _ => profile::extension(&context, name, value),
        }?;
        builder.append_extension(extension)?;
    }
    builder.sign(issuer.map_or(&key, |issuer| &issuer.key), profile.digest()?)?;
    Ok(Pair {
        certificate: builder.build(),
        key,
    })
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(profile::curve("p256")?)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// The profile's default of `SAN`, and `hosts`.
fn subject_names(profile: &Profile, hosts: &[String]) -> SubjectAlternativeName {
    let mut names = SubjectAlternativeName::new();
    let usual = profile.value("", "SAN").split(',');
    let usual = usual.filter_map(|name| name.trim().split_once(':').map(|(_, host)| host));
    let mut seen = Vec::new();
    for host in usual.chain(hosts.iter().map(String::as_str)) {
        if seen.contains(&host) {
            continue;
        }
        seen.push(host);
        if host.parse::<IpAddr>().is_ok() {
            names.ip(host);
        } else {
            names.dns(host);
        }
    }
    names
}
