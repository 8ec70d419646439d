//! Certificates, keys and secrets: out of the files that the configuration there names, or out of it.

use std::path::{Path, PathBuf};

use openssl::pkey::PKey;
use openssl::x509::X509;
use zeroize::Zeroizing;

use crate::config::secrets::read_public;

use super::hocon::{Node, Object};
use super::sheet::Sheet;

/// Directories that paths there may be relative to.
pub(super) struct Homes(Vec<PathBuf>);

/// Names of directories in paths there, and what they are called below the home of EMQX.
const NAMED: [(&str, &str); 3] = [
    ("EMQX_ETC_DIR", "etc"),
    ("EMQX_DATA_DIR", "data"),
    ("EMQX_LOG_DIR", "log"),
];

impl Homes {
    /// Those of a configuration file: its own directory, and the one above it.
    pub(super) fn of(file: &Path) -> Self {
        let own = file
            .parent()
            .filter(|own| !own.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
        let above = own.parent().map(Path::to_owned);
        Self([Some(own), above].into_iter().flatten().collect())
    }

    /// Reads what a path there names, or what stands in its place: PEM in the configuration itself.
    pub(super) fn read(&self, written: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        if written.trim_start().starts_with("-----BEGIN") {
            return Ok(Zeroizing::new(written.as_bytes().to_vec()));
        }
        let mut tried = self.candidates(written).into_iter();
        let found = tried.find(|path| path.is_file());
        let path = found.ok_or("there is no such file where the configuration was read")?;
        read_public(&path).map_err(|error| error.to_string())
    }

    fn candidates(&self, written: &str) -> Vec<PathBuf> {
        // A path below the home of EMQX, where the file lies in `etc`, whatever that is called where it was read.
        let mut all = vec![written.to_owned()];
        all.extend(written.strip_prefix("etc/").map(str::to_owned));
        for (name, below) in NAMED {
            for form in [format!("${{{name}}}"), format!("${name}")] {
                let Some(rest) = written.strip_prefix(form.as_str()) else {
                    continue;
                };
                let rest = rest.trim_start_matches('/');
                all = match std::env::var(name) {
                    Ok(directory) => vec![format!("{directory}/{rest}")],
                    Err(_) => vec![format!("{below}/{rest}"), rest.to_owned()],
                };
            }
        }
        let mut paths = Vec::new();
        for path in &all {
            paths.extend(self.0.iter().map(|home| home.join(path)));
        }
        paths
    }
}

/// What an object of TLS options has of certificates, as files of ours.
pub(super) struct Pair {
    /// Whether there is a certificate with its key.
    pub(super) own: bool,
    /// Whether there are trust anchors.
    pub(super) anchors: bool,
    /// Whether something was named and is not to be had.
    pub(super) lacking: bool,
}

/// Takes `certfile`, `keyfile`, `password` and `cacertfile` out of TLS options and makes `STEM.pem`, `STEM.key`, `STEM.password` and
/// `STEM-ca.pem` of them.
pub(super) fn take(sheet: &mut Sheet, homes: &Homes, from: &mut Object, path: &str, stem: &str) -> Pair {
    let (certificate, key) = (from.take("certfile"), from.take("keyfile"));
    let (password, anchors) = (from.take("password"), from.take("cacertfile"));
    let mut pair = Pair {
        own: false,
        anchors: false,
        lacking: false,
    };
    let mut read = |name: &str, node: &Option<Node>, sheet: &mut Sheet| {
        let node = node.as_ref()?;
        let written = node.text()?;
        match homes.read(written) {
            Ok(content) => Some(content),
            Err(why) => {
                pair.lacking = true;
                sheet.note(
                    &format!("{path}.{name}"),
                    Some(&node.place),
                    format!("left out: {why}"),
                );
                None
            }
        }
    };
    let chain = read("certfile", &certificate, sheet);
    let private = read("keyfile", &key, sheet);
    let trusted = read("cacertfile", &anchors, sheet);
    let mut refuse = |name: &str, node: &Option<Node>, why: &str, sheet: &mut Sheet| {
        pair.lacking = true;
        let place = node.as_ref().map(|node| &node.place);
        sheet.note(&format!("{path}.{name}"), place, format!("left out: {why}"));
    };
    if let (Some(chain), Some(private)) = (chain, private) {
        let password = password.as_ref().and_then(Node::text);
        match fits(&chain, &private, password) {
            Ok(()) => {
                pair.own = true;
                sheet.public(&format!("{stem}.pem"), chain.to_vec());
                sheet.secret(&format!("{stem}.key"), private);
                if let Some(password) = password {
                    let line = Zeroizing::new(format!("{password}\n").into_bytes());
                    sheet.secret(&format!("{stem}.password"), line);
                }
            }
            Err(why) => refuse("certfile", &certificate, &why, sheet),
        }
    }
    if let Some(trusted) = trusted {
        match X509::stack_from_pem(&trusted) {
            Ok(all) if !all.is_empty() => {
                pair.anchors = true;
                sheet.public(&format!("{stem}-ca.pem"), trusted.to_vec());
            }
            _ => refuse("cacertfile", &anchors, "there is no certificate in it", sheet),
        }
    }
    pair
}

/// Whether a private key is that of the first certificate.
fn fits(chain: &[u8], private: &[u8], password: Option<&str>) -> Result<(), String> {
    let chain = X509::stack_from_pem(chain).unwrap_or_default();
    let own = chain.first().ok_or("there is no certificate in it")?;
    let password = password.unwrap_or_default().as_bytes();
    let private = PKey::private_key_from_pem_passphrase(private, password)
        .map_err(|_| "there is no private key in keyfile, or password does not open it")?;
    let public = own.public_key().map_err(|error| error.to_string())?;
    if public.public_eq(&private) {
        Ok(())
    } else {
        Err("the key in keyfile does not fit it".to_owned())
    }
}
