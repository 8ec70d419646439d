//! `doctor`: whether this machine and the configuration suit each other.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use openssl::ssl::{SslContextBuilder, SslMethod};
use serde_json::json;

use crate::admin::api::{Broker, LoginDatabase, Status};
use crate::config::{self, BrokerUrl, Config};
use crate::dtls::suite::Suite;
use crate::net::{RECEIVE_BUFFER, SEND_BUFFER};
use crate::types::reason::Label as _;

use super::exit::{CONFIG, Failure};
use super::output;
use super::remote::args::DoctorArgs;
use super::remote::http::{Api, configured};
use super::remote::table::printable;

/// Descriptors that a gateway with many listeners and workers, its broker and its management interface need.
const DESCRIPTORS: u64 = 4096;

/// How long the broker may take to be reached.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It works, but not as well as it could.
    Warning,
    Bad,
}

impl Verdict {
    const fn label(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "problem",
        }
    }
}

struct Finding {
    verdict: Verdict,
    about: &'static str,
    /// What was found, and what to do about it.
    words: String,
}

/// Looks at everything and prints it; fails when anything is bad.
pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let mut findings = vec![descriptors(), openssl_suites()];
    findings.extend(socket_buffers());
    match configuration(args.config.as_deref(), &mut findings) {
        None => {}
        Some(config) => {
            findings.extend(secret_files(&config));
            findings.push(state_directory(&config));
            findings.push(broker(&config));
            findings.extend(running(&config));
        }
    }
    show(&findings, args.json)?;
    let bad = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Bad)
        .count();
    match bad {
        0 => Ok(()),
        1 => Err(Failure::new(CONFIG, "1 problem")),
        many => Err(Failure::new(CONFIG, format!("{many} problems"))),
    }
}

fn show(findings: &[Finding], as_json: bool) -> Result<(), Failure> {
    if as_json {
        let all = findings
            .iter()
            .map(|finding| json!({ "verdict": finding.verdict.label(), "about": finding.about, "message": finding.words }));
        return output::json(&all.collect());
    }
    let line = |finding: &Finding| {
        let words = finding.words.replace('\n', &format!("\n{}", " ".repeat(25)));
        format!("{:9}{:16}{words}\n", finding.verdict.label(), finding.about)
    };
    output::print(&findings.iter().map(line).collect::<String>())
}

fn finding(verdict: Verdict, about: &'static str, words: impl Into<String>) -> Finding {
    Finding {
        verdict,
        about,
        words: words.into(),
    }
}

/// The configuration where it can be used.
fn configuration(file: Option<&Path>, findings: &mut Vec<Finding>) -> Option<Config> {
    let about = "configuration";
    let config = match configured(file) {
        Ok(config) => config,
        Err(failure) => {
            findings.push(finding(Verdict::Bad, about, failure.message));
            return None;
        }
    };
    let Some(source) = &config.source else {
        findings.push(finding(
            Verdict::Good,
            about,
            "quick start: no configuration file is installed",
        ));
        return Some(config);
    };
    findings.push(match config::load(source) {
        Ok(loaded) if loaded.warnings.0.is_empty() => {
            finding(Verdict::Good, about, source.display().to_string())
        }
        Ok(loaded) => finding(Verdict::Warning, about, loaded.warnings.to_string()),
        Err(problems) => finding(Verdict::Bad, about, problems.to_string()),
    });
    Some(config)
}

fn descriptors() -> Finding {
    let about = "open files";
    let Some(limit) = std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|text| open_files(&text))
    else {
        return finding(
            Verdict::Warning,
            about,
            "/proc/self/limits does not say the limit",
        );
    };
    if limit >= DESCRIPTORS {
        return finding(Verdict::Good, about, format!("limit {limit}"));
    }
    finding(
        Verdict::Warning,
        about,
        format!(
            "limit {limit} in this shell: the packaged unit sets its own; elsewhere `ulimit -n {DESCRIPTORS}`"
        ),
    )
}

fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    match line.split_whitespace().nth(3)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn socket_buffers() -> Vec<Finding> {
    [
        ("rmem_max", "receive buffer", RECEIVE_BUFFER),
        ("wmem_max", "send buffer", SEND_BUFFER),
    ]
    .map(|(name, about, wanted)| {
        let key = format!("net.core.{name}");
        let limit = std::fs::read_to_string(format!("/proc/sys/net/core/{name}"))
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok());
        match limit {
            None => finding(Verdict::Warning, about, format!("{key} cannot be read")),
            Some(limit) if limit >= wanted => finding(Verdict::Good, about, format!("{key} = {limit}")),
            Some(limit) => finding(
                Verdict::Warning,
                about,
                format!(
                    "{key} = {limit}: bursts are dropped by the kernel sooner; `sysctl -w {key}={wanted}`"
                ),
            ),
        }
    })
    .into()
}

fn openssl_suites() -> Finding {
    let about = "OpenSSL";
    let version = openssl::version::version();
    let known = |suite: &Suite| -> bool {
        SslContextBuilder::new(SslMethod::dtls_server())
            .and_then(|mut builder| builder.set_cipher_list(suite.openssl_name()))
            .is_ok()
    };
    let missing: Vec<&str> = Suite::ALL
        .iter()
        .filter(|suite| !suite.is_legacy() && !known(suite))
        .map(|suite| suite.label())
        .collect();
    let mandatory = [Suite::PskAes128Ccm8, Suite::EcdheEcdsaAes128Ccm8];
    if !mandatory.iter().all(known) {
        let words = format!(
            "{version} lacks the suites that RFC 7252 makes mandatory: {}",
            missing.join(", ")
        );
        return finding(Verdict::Bad, about, words);
    }
    if missing.is_empty() {
        return finding(
            Verdict::Good,
            about,
            format!("{version}, all suites, AES-128-CCM-8 among them"),
        );
    }
    finding(
        Verdict::Warning,
        about,
        format!("{version} lacks {}", missing.join(", ")),
    )
}

fn secret_files(config: &Config) -> Vec<Finding> {
    let mut files = Vec::new();
    for listener in &config.listeners {
        if let Some(dtls) = &listener.dtls {
            files.extend(
                [&dtls.psk_file, &dtls.key_file, &dtls.key_password_file]
                    .into_iter()
                    .flatten(),
            );
            for more in &dtls.certificates {
                files.push(&more.key_file);
                files.extend(&more.key_password_file);
            }
        }
    }
    for (_, authentication) in config.authentications() {
        files.extend(
            [&authentication.file, &authentication.http.token_file]
                .into_iter()
                .flatten(),
        );
        if let Some(database) = authentication.database() {
            files.extend(database.password_file);
            files.extend(&database.tls.key_file);
        }
    }
    let single = [
        &config.broker.password_file,
        &config.broker.key_file,
        &config.admin.token_file,
        &config.admin.key_file,
    ];
    files.extend(single.into_iter().flatten());
    let mut paths: Vec<&Path> = files.into_iter().map(|path| path.as_path()).collect();
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter(|path| path.exists())
        .map(secret_file)
        .collect()
}

fn secret_file(path: &Path) -> Finding {
    let about = "secret file";
    match config::secrets::read_secret(path) {
        Ok(_) => finding(Verdict::Good, about, path.display().to_string()),
        Err(error) => finding(Verdict::Bad, about, error.to_string()),
    }
}

fn state_directory(config: &Config) -> Finding {
    let about = "state directory";
    let path = &config.node.state_dir;
    let shown = path.display();
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => finding(
            Verdict::Warning,
            about,
            format!("{shown} is not there yet; a start makes it if it may"),
        ),
        Err(error) => finding(Verdict::Bad, about, format!("{shown}: {error}")),
        Ok(metadata) if !metadata.is_dir() => {
            finding(Verdict::Bad, about, format!("{shown} is no directory"))
        }
        Ok(metadata) if metadata.permissions().mode() & 0o002 != 0 => finding(
            Verdict::Bad,
            about,
            format!("{shown} can be written by everyone: chmod o-w {shown}"),
        ),
        Ok(_) => finding(Verdict::Good, about, shown.to_string()),
    }
}

fn broker(config: &Config) -> Finding {
    let about = "broker";
    let BrokerUrl::Mqtt { host, port, .. } = &config.broker.url else {
        return finding(Verdict::Good, about, "embedded");
    };
    let addresses = match (host.as_str(), *port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return finding(Verdict::Bad, about, format!("{host}: {error}")),
    };
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return finding(Verdict::Good, about, format!("{host}:{port} takes connections")),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    finding(
        Verdict::Bad,
        about,
        format!("{host}:{port} cannot be reached: {last}"),
    )
}

fn running(config: &Config) -> Vec<Finding> {
    let about = "gateway";
    let status = Api::of_config(config).and_then(|api| Ok((api.address(), api.get::<Status>("status")?)));
    match status {
        Ok((address, status)) => {
            let gateway = if status.ready {
                finding(Verdict::Good, about, format!("serving, {address}"))
            } else {
                let why = status.not_ready.as_deref().unwrap_or_default();
                finding(Verdict::Bad, about, format!("not serving: {why}"))
            };
            let mut all = vec![gateway];
            all.extend(connected(&status.broker));
            all.extend(lacking(&status.broker));
            all.extend(status.login_servers.iter().filter_map(unasked));
            all.extend(unidentified(status.sessions.dtls_unidentified));
            all
        }
        Err(failure) => vec![finding(Verdict::Warning, about, failure.message)],
    }
}

/// A device that has credentials and proves nothing is refused again and again, and no handshake tells why.
fn unidentified(sessions: u64) -> Option<Finding> {
    let words = || {
        format!(
            "{sessions} sessions since the start proved no identity to a listener that uses it: a device with a key whose stack \
             offers no PSK suite, a client without a certificate (`verify = \"required\"` refuses it), or `ciphers` with \
             certificate suites before PSK"
        )
    };
    (sessions > 0).then(|| finding(Verdict::Warning, "identity", words()))
}

/// What takes connections may still refuse to talk: the gateway that runs knows.
fn connected(broker: &Broker) -> Option<Finding> {
    let fault = broker.fault.as_deref().unwrap_or("no reason is known");
    let words = || {
        format!(
            "the gateway is not connected to it ({}): {}",
            broker.state,
            printable(fault)
        )
    };
    (!broker.connected).then(|| finding(Verdict::Bad, "broker", words()))
}

/// A database that does not answer lets nobody in whom it did not let in before.
fn unasked(server: &LoginDatabase) -> Option<Finding> {
    let fault = server.fault.as_deref()?;
    let words = format!(
        "{} cannot be asked for {} s: {}",
        server.backend,
        server.down_seconds.unwrap_or_default(),
        printable(fault)
    );
    Some(finding(Verdict::Bad, "logins", words))
}

/// What the broker does not offer is no fault, and yet what devices ask for may be refused for it.
fn lacking(broker: &Broker) -> Option<Finding> {
    let words = || format!("what it does not offer: {}", printable(&broker.lacks.join("; ")));
    (!broker.lacks.is_empty()).then(|| finding(Verdict::Warning, "broker", words()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(
            open_files("Max open files   unlimited  unlimited  files"),
            Some(u64::MAX)
        );
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn a_broken_configuration_and_an_exposed_secret_are_problems() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p.toml");
        std::fs::write(&file, "[node]\nname = 5\n").unwrap();
        let mut findings = Vec::new();
        configuration(Some(&file), &mut findings);
        assert_eq!(findings[0].verdict, Verdict::Bad);
        let secret = directory.path().join("psk.txt");
        std::fs::write(&secret, "a:00\n").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
        let found = secret_file(&secret);
        assert!(
            found.verdict == Verdict::Bad && found.words.contains("chmod 600"),
            "{}",
            found.words
        );
    }

    #[test]
    fn what_the_broker_does_not_offer_is_said() {
        let broker = |lacks: &[&str]| -> Broker {
            let spool = serde_json::json!({
                "messages": 0, "bytes": 0, "capacity_bytes": 0, "dropped": 0, "oldest_timestamp_seconds": 0.0, "failed": false
            });
            serde_json::from_value(serde_json::json!({
                "connected": true, "state": "connected", "lacks": lacks, "received": 0, "sent": 0, "filters": 0,
                "retained_messages": 0, "spool": spool
            }))
            .unwrap()
        };
        assert!(lacking(&broker(&[])).is_none());
        let found = lacking(&broker(&[
            "it takes QoS 1 at most",
            "it keeps no retained messages",
        ]))
        .unwrap();
        assert!(found.verdict == Verdict::Warning && found.words.contains("QoS 1 at most; it keeps no"));
    }
}
