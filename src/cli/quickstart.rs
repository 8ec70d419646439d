//! The quick start: a whole configuration without a file, with a key and certificates of this machine's own.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::trial::{self, Proof};
use crate::config::{self, Config, Listener, PathBase, Problems, admin_socket, psk_file, token_store};
use crate::types::Transport;

use super::atomic::{DirectoryLock, write_secret};
use super::certs;
use super::exit::{CANNOT_CREATE, Failure, SOFTWARE, UNAVAILABLE};
use super::psk;

/// The one identity that the first start makes.
const IDENTITY: &str = "device-1";

/// Days until the certificates expire; a start after that makes new ones.
const CERTIFICATE_DAYS: u32 = 365;

const PSK_FILE: &str = "psk.txt";

/// Loopback only; the other keys have their defaults. Paths are relative to the state directory.
const CONFIG: &str = r#"
[node]
state_dir = "."
[listeners.udp.default]
bind = "127.0.0.1:5683"
[listeners.dtls.default]
bind = "127.0.0.1:5684"
psk_file = "psk.txt"
cert_file = "server.pem"
key_file = "server.key"
"#;

/// A prepared quick start.
pub(super) struct QuickStart {
    /// The configuration to serve with; it has no file.
    pub(super) config: Config,
    directory: PathBuf,
    /// An identity and its key as text, where there is such a key.
    psk: Option<(String, Zeroizing<String>)>,
    /// The administrator's token.
    token: Option<Zeroizing<String>>,
}

/// `$PORTCULLIS_STATE_DIR`, else the user's state directory (XDG Base Directory Specification).
pub(super) fn state_dir() -> Result<PathBuf, Failure> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    state_dir_from(variable).ok_or_else(|| {
        Failure::new(
            CANNOT_CREATE,
            "neither HOME nor XDG_STATE_HOME is set: say with PORTCULLIS_STATE_DIR where to keep key, certificates and state",
        )
    })
}

fn state_dir_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("PORTCULLIS_STATE_DIR").or_else(|| {
        variable("XDG_STATE_HOME")
            // The specification says to ignore relative paths.
            .filter(|path| path.is_absolute())
            .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
            .map(|base| base.join("portcullis"))
    })
}

/// The configuration of the quick start in `directory`; nothing is read or made.
pub(super) fn config(directory: &Path) -> Result<Config, Failure> {
    let directory = std::path::absolute(directory).map_err(|error| Failure::write(directory, &error))?;
    let base = PathBase {
        directory: directory.clone(),
        credentials: None,
    };
    let mut config = config::parse(CONFIG, Path::new("quick start"), &base).map_err(built_in)?;
    config.source = None;
    config.node.state_dir = directory;
    Ok(config)
}

fn built_in(problems: Problems) -> Failure {
    Failure::new(
        SOFTWARE,
        format!("the built-in configuration is wrong: {problems}"),
    )
}

/// Prepares `directory`: makes it, a key and certificates where there are none. A later start finds the same key.
pub(super) fn prepare(directory: &Path) -> Result<QuickStart, Failure> {
    let config = config(directory)?;
    let directory = config.node.state_dir.clone();
    if let Some(pid) = running(&config) {
        return Err(Failure::new(
            UNAVAILABLE,
            format!(
                "a Portcullis already runs here (process {pid}), with its state in {}; `portcullis status` shows how it is, \
                 PORTCULLIS_STATE_DIR names another place, and `--config FILE` other ports",
                directory.display()
            ),
        ));
    }
    make_private(&directory)?;
    ensure_certificates(&directory)?;
    let psk = ensure_key(&directory.join(PSK_FILE))?;
    let token = token_store::prepare(&config)
        .and_then(|()| token_store::first(&config))
        .map_err(|why| Failure::new(CANNOT_CREATE, why))?;
    Ok(QuickStart {
        config,
        directory,
        psk,
        token,
    })
}

/// The process that answers at the socket of a quick start with this configuration, if one does.
fn running(config: &Config) -> Option<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        for path in admin_socket::candidates(config) {
            if let Ok(stream) = tokio::net::UnixStream::connect(&path).await {
                return stream.peer_cred().ok()?.pid();
            }
        }
        None
    })
}

/// Makes the state directory, its user's alone.
pub(super) fn make_private(directory: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::write(directory, &error);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    let mode = std::fs::metadata(directory).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// The key of [`IDENTITY`], made when there is no key at all: an operator who removed that identity and has others keeps it so, and
/// is shown another whose key can be typed.
fn ensure_key(path: &Path) -> Result<Option<(String, Zeroizing<String>)>, Failure> {
    let lock = DirectoryLock::of(path)?;
    let lines = psk::read_or_empty(path)?;
    if lines.is_empty() {
        let key = psk_file::generate()?;
        write_secret(
            &lock,
            path,
            lines
                .with(IDENTITY, &Zeroizing::new(hex::encode(&*key)))
                .as_bytes(),
        )?;
        return Ok(Some((IDENTITY.to_owned(), key)));
    }
    let typed = |identity: &str| {
        let key = psk::as_text(crate::dtls::split_secret(&lines.secret(identity)?).0)?;
        Some((identity.to_owned(), key))
    };
    Ok(typed(IDENTITY).or_else(|| lines.names().find_map(typed)))
}

fn ensure_certificates(directory: &Path) -> Result<(), Failure> {
    let complete = certs::FILES.iter().all(|name| directory.join(name).exists());
    if complete && config::certificate_is_current(&directory.join("server.pem")) {
        return Ok(());
    }
    let request = certs::Request {
        hosts: &[],
        client: IDENTITY,
        days: CERTIFICATE_DAYS,
    };
    certs::make(directory, &request).map(drop)
}

impl QuickStart {
    /// What to print once the listeners are up: lines that work as they stand.
    pub(super) fn greeting(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!(
            "Portcullis serves on this machine. Keys, certificates and state: {}\n\
             Run the first line of a pair in one terminal to observe, the second in another to publish.\n",
            self.directory.display()
        ));
        for listener in &self.config.listeners {
            match listener.transport() {
                Transport::Udp => {
                    text.push_str("\nCoAP over UDP:\n");
                    push_lines(&mut text, listener, Proof::None);
                }
                Transport::Dtls => self.greet_dtls(listener, &mut text),
                // The quick start has none.
                Transport::Tcp | Transport::Tls => {}
            }
        }
        text.push_str("\nThe lines work with coap-client-gnutls too; on Debian both are in libcoap3-bin.\n");
        if let Some(bind) = self.config.admin.bind {
            // As a fragment a browser keeps it to itself, and the page takes it out of the address.
            text.push_str(&format!("Dashboard: http://{bind}/"));
            if let Some(token) = &self.token {
                text.push_str("#token=");
                text.push_str(token);
            }
            text.push('\n');
        }
        if let Some(bind) = self.config.metrics.bind {
            text.push_str(&format!("Metrics: http://{bind}/metrics\n"));
        }
        text
    }

    fn greet_dtls(&self, listener: &Listener, text: &mut String) {
        if let Some((identity, key)) = &self.psk {
            text.push_str("\nCoAP over DTLS with a pre-shared key:\n");
            let proof = Proof::Psk { identity, key };
            push_lines(text, listener, proof);
        }
        text.push_str("\nCoAP over DTLS with the server's certificate:\n");
        let ca_file = self.directory.join("ca.pem");
        push_lines(text, listener, Proof::ServerCertificate { ca_file: &ca_file });
    }
}

fn push_lines(text: &mut String, listener: &Listener, proof: Proof<'_>) {
    for line in trial::lines(listener, proof, trial::TOPIC) {
        text.push_str(&format!("  {line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_the_users() {
        let of = |set: &[(&str, &str)]| {
            let set: Vec<(String, PathBuf)> = set.iter().map(|(n, v)| ((*n).to_owned(), v.into())).collect();
            state_dir_from(|name| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
        };
        assert_eq!(
            of(&[("HOME", "/home/me")]),
            Some("/home/me/.local/state/portcullis".into())
        );
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")]),
            Some("/x/portcullis".into())
        );
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_STATE_HOME", "x")]),
            Some("/h/.local/state/portcullis".into())
        );
        assert_eq!(
            of(&[("HOME", "/h"), ("PORTCULLIS_STATE_DIR", "/p")]),
            Some("/p".into())
        );
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_later_start_finds_the_same_key_and_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let first = prepare(&state).unwrap();
        let read = |name: &str| std::fs::read(state.join(name)).unwrap();
        let before = certs::FILES.map(read);
        let second = prepare(&state).unwrap();
        let (identity, key) = first.psk.as_ref().unwrap();
        assert_eq!((identity.as_str(), key.len()), ("device-1", 24));
        assert_eq!(first.psk, second.psk);
        assert_eq!(certs::FILES.map(read), before);
        assert_eq!(
            std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(first.greeting(), second.greeting());
    }

    #[test]
    fn the_readme_shows_lines_that_are_printed() {
        let directory = tempfile::tempdir().unwrap();
        let start = prepare(directory.path()).unwrap();
        let (_, key) = start.psk.as_ref().unwrap();
        let greeting = start.greeting().replace(key.as_str(), "…");
        let shown: Vec<_> = include_str!("../../README.md")
            .lines()
            .filter(|line| line.trim_start().starts_with("coap-client"))
            .collect();
        assert_eq!(shown.len(), 4);
        for line in shown {
            assert!(
                greeting.lines().any(|printed| printed == line),
                "{line}\n{greeting}"
            );
        }
    }

    #[test]
    fn an_identity_that_the_operator_removed_does_not_come_back() {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path()).unwrap();
        let path = directory.path().join(PSK_FILE);
        std::fs::write(&path, "other:00112233445566778899aabbccddeeff\n").unwrap();
        let start = prepare(directory.path()).unwrap();
        assert!(start.psk.is_none());
        assert!(!start.greeting().contains("-k "));
        std::fs::write(&path, "other:00\nthird:4142\n").unwrap();
        let start = prepare(directory.path()).unwrap();
        assert!(
            start.greeting().contains("-u third -k AB "),
            "{}",
            *start.greeting()
        );
    }

    #[test]
    fn an_open_state_directory_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        prepare(directory.path()).unwrap();
        assert_eq!(
            std::fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn the_configuration_serves_loopback_only() {
        let config = config(Path::new("/nonexistent")).unwrap();
        assert!(
            config
                .listeners
                .iter()
                .all(|listener| listener.bind.ip().is_loopback())
        );
        assert_eq!(config.broker.url, config::BrokerUrl::Embedded);
        assert_eq!(config.source, None);
    }
}
