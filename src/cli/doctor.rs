//! `doctor`: whether this machine and the configuration suit each other.

mod running_out;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use openssl::ssl::{SslContextBuilder, SslMethod};
use serde_json::json;

use crate::admin::api::{Broker, GroupStatus, LoginDatabase, Status};
use crate::config::{self, BrokerUrl, Config};
use crate::daemon::probes;
use crate::dtls::suite::Suite;
use crate::group::{Fault, Member};
use crate::net::{RECEIVE_BUFFER, SEND_BUFFER};
use crate::session::RestoreResult;
use crate::types::reason::Label as _;

use super::exit::{CONFIG, Failure};
use super::output;
use super::remote::args::DoctorArgs;
use super::remote::http::{Api, configured};
use super::remote::table::printable;

/// Descriptors that a gateway with many listeners and workers, its broker and its management interface need.
const DESCRIPTORS: u64 = 4096;

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

/// Something that was looked at.
pub(super) struct Finding {
    verdict: Verdict,
    about: &'static str,
    /// What was found, and what to do about it.
    words: String,
}

/// Looks at everything and prints it; fails when anything is bad.
pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let findings = look(args.config.as_deref());
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

/// Looks at the machine, at what the configuration names, at what that depends on, and at the gateway that runs with it.
pub(super) fn look(file: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![descriptors(), openssl_suites()];
    findings.extend(socket_buffers());
    let Some((config, is_whole)) = configuration(file, &mut findings) else {
        return findings;
    };
    findings.push(state_directory(&config));
    findings.extend(running_out::room(&config));
    // Of a broken file there is only the way to the gateway that runs, which has another in force.
    if is_whole {
        findings.extend(secret_files(&config));
        findings.extend(running_out::certificates(&config));
        findings.extend(dependencies(&config));
    }
    findings.extend(running(&config));
    findings
}

/// Findings as JSON.
pub(super) fn as_json(findings: &[Finding]) -> serde_json::Value {
    let all = findings.iter().map(
        |finding| json!({ "verdict": finding.verdict.label(), "about": finding.about, "message": finding.words }),
    );
    all.collect()
}

fn show(findings: &[Finding], wants_json: bool) -> Result<(), Failure> {
    if wants_json {
        return output::json(&as_json(findings));
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

/// The configuration where it can be used, and whether that is all of it.
fn configuration(file: Option<&Path>, findings: &mut Vec<Finding>) -> Option<(Config, bool)> {
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
        return Some((config, true));
    };
    findings.push(match config::load(source) {
        Ok(loaded) if loaded.warnings.0.is_empty() => {
            finding(Verdict::Good, about, source.display().to_string())
        }
        Ok(loaded) => finding(Verdict::Warning, about, loaded.warnings.to_string()),
        Err(problems) => finding(Verdict::Bad, about, problems.to_string()),
    });
    let text = config::secrets::read_public(source).unwrap_or_default();
    let whole = config::parse(
        &String::from_utf8_lossy(&text),
        source,
        &config::PathBase::of_file(source),
    );
    Some(whole.map_or((config, false), |whole| (whole, true)))
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
    let paths = secret_paths(config).into_iter();
    paths.filter(|path| path.exists()).map(secret_file).collect()
}

/// The files with secrets that a configuration names.
pub(super) fn secret_paths(config: &Config) -> Vec<&Path> {
    let mut files = Vec::new();
    for listener in &config.listeners {
        if let Some(dtls) = &listener.dtls {
            files.extend(
                [
                    &dtls.handshake.psk_file,
                    &dtls.handshake.key_file,
                    &dtls.handshake.key_password_file,
                ]
                .into_iter()
                .flatten(),
            );
            if let Some(source) = &dtls.psk_source {
                files.extend(&source.http.token_file);
                let database = source.database().map(|database| database.server().common);
                files.extend(database.and_then(|common| common.password_file.as_ref()));
            }
            for more in &dtls.handshake.certificates {
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
            let common = database.server().common;
            files.extend(&common.password_file);
            files.extend(&common.tls.key_file);
        }
    }
    let single = [
        &config.broker.password_file,
        &config.broker.key_file,
        &config.admin.token_file,
        &config.admin.key_file,
        &config.state.key_file,
    ];
    files.extend(single.into_iter().flatten());
    if let Some(group) = &config.group {
        files.push(&group.key_file);
        files.extend(&group.password_file);
    }
    let mut paths: Vec<&Path> = files.into_iter().map(|path| path.as_path()).collect();
    paths.sort();
    paths.dedup();
    paths
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match config::check_state_dir(path) {
            Ok(()) => finding(
                Verdict::Good,
                about,
                format!("{shown} is not there yet; a start makes it"),
            ),
            Err(why) => finding(Verdict::Bad, about, why.message),
        },
        Err(error) => finding(Verdict::Bad, about, format!("{shown}: {error}")),
        Ok(metadata) if !metadata.is_dir() => {
            finding(Verdict::Bad, about, format!("{shown} is no directory"))
        }
        Ok(metadata) if metadata.permissions().mode() & 0o002 != 0 => finding(
            Verdict::Bad,
            about,
            format!("{shown} can be written by everyone: chmod o-w {shown}"),
        ),
        Ok(_) => match config::check_state_dir(path) {
            Ok(()) => finding(Verdict::Good, about, shown.to_string()),
            Err(why) => finding(Verdict::Bad, about, why.message),
        },
    }
}

/// The broker and what decides about logins, each asked as the gateway asks.
fn dependencies(config: &Config) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else {
        return vec![finding(
            Verdict::Warning,
            "broker",
            "not asked: there is no room for a runtime",
        )];
    };
    let (broker, logins, group) = runtime.block_on(async {
        let broker = probes::broker(config).await;
        (broker, probes::logins(config).await, probes::group(config).await)
    });
    let mut all = vec![match (broker, &config.broker.url) {
        (None, _) | (_, BrokerUrl::Embedded) => finding(Verdict::Good, "broker", "embedded"),
        (Some(Ok(())), BrokerUrl::Mqtt { host, port, .. }) => finding(
            Verdict::Good,
            "broker",
            format!("{host}:{port} lets the gateway in"),
        ),
        (Some(Err(why)), BrokerUrl::Mqtt { .. }) => finding(Verdict::Bad, "broker", printable(&why)),
    }];
    for (table, outcome) in logins {
        all.push(match outcome {
            Ok(()) => finding(Verdict::Good, "logins", format!("{table} can be asked")),
            Err(why) => finding(Verdict::Bad, "logins", to_mend(&table, &why)),
        });
    }
    all.extend(group.map(|outcome| grouped(config, outcome)));
    all
}

/// Whether the engine of the group lets the node in, and who of it lives.
fn grouped(config: &Config, outcome: Result<Vec<Member>, Fault>) -> Finding {
    let about = "group";
    match outcome {
        Ok(members) => {
            let url = config
                .group
                .as_ref()
                .map(|group| group.url.to_string())
                .unwrap_or_default();
            let node = |member: &Member| format!("{} (node {}, {})", member.name, member.id, member.address);
            let nodes: Vec<String> = members.iter().map(node).collect();
            let nodes = if nodes.is_empty() {
                "none".to_owned()
            } else {
                nodes.join(", ")
            };
            let words = format!(
                "{url} lets the gateway in; nodes that live: {}",
                printable(&nodes)
            );
            finding(Verdict::Good, about, words)
        }
        Err(fault) => {
            let why = without_numbers(&printable(&fault.message));
            finding(Verdict::Bad, about, format!("{why}; look at {}", fault.key))
        }
    }
}

/// A node that is not one of its group, as the gateway that runs knows.
fn not_of_group(group: &GroupStatus) -> Option<Finding> {
    let fault = group.fault.as_deref()?;
    let words = format!(
        "the gateway that runs is not well in its group: {}",
        printable(fault)
    );
    Some(finding(Verdict::Bad, "group", words))
}

/// Without the numbers of the system's errors, which its words say already.
fn without_numbers(text: &str) -> String {
    let Some((before, rest)) = text.split_once(" (os error ") else {
        return text.to_owned();
    };
    let after = rest.split_once(')').map_or("", |(_, after)| after);
    format!("{before}{}", without_numbers(after))
}

/// What a backend's client says, with the keys to look at.
fn to_mend(table: &str, why: &str) -> String {
    let lower = why.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let (server, tls) = match table.rsplit('.').next() {
        Some("http") => ("url", "ca_file"),
        Some("jwt") => ("jwks_url", "ca_file"),
        _ => ("server", "tls.ca_file"),
    };
    let keys: &[&str] = if has(&["certificate", "ssl", "tls"]) {
        &[tls, server]
    } else if has(&[
        "access denied",
        "authentication",
        "password",
        "wrongpass",
        "noauth",
        "invalidcredentials",
        "rc=49",
        "status 401",
        "status 403",
    ]) {
        match server {
            "server" => &["username", "password_file"],
            _ => &["token_file"],
        }
    } else if has(&[
        "refused",
        "address",
        "resolve",
        "in time",
        "within",
        "unreachable",
        "timed out",
        "connect",
        "selection",
    ]) {
        &[server]
    } else {
        match table.rsplit('.').next() {
            Some("postgresql" | "mysql") => &["query", "database"],
            Some("redis") => &["cmd", "database"],
            Some("mongodb") => &["filter", "collection", "database"],
            Some("ldap") => &["base_dn", "filter"],
            _ => &[server],
        }
    };
    let keys: Vec<String> = keys.iter().map(|key| format!("{table}.{key}")).collect();
    let why = without_numbers(&printable(why));
    format!("{why}; look at {}", keys.join(", "))
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
            all.extend(not_restored(&status.restored.sessions));
            all.extend(status.group.as_ref().and_then(not_of_group));
            all
        }
        Err(failure) => vec![finding(Verdict::Warning, about, failure.message)],
    }
}

/// Sessions that did not go on although nobody wanted that: their devices talk into nothing until they notice.
fn not_restored(sessions: &BTreeMap<String, u64>) -> Option<Finding> {
    let unwanted = [
        RestoreResult::Damaged,
        RestoreResult::Poisoned,
        RestoreResult::Limit,
        RestoreResult::Key,
    ];
    let count = |result: &RestoreResult| sessions.get(result.label()).copied().unwrap_or_default();
    let found = unwanted.iter().filter(|result| count(result) > 0);
    let words: Vec<String> = found
        .map(|result| format!("{} {}", count(result), result.label()))
        .collect();
    let words = format!(
        "DTLS sessions of before the restart did not go on: {} (docs/continuity.md says what to do about each)",
        words.join(", ")
    );
    unwanted
        .iter()
        .any(|result| count(result) > 0)
        .then(|| finding(Verdict::Warning, "restart", words))
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
    let words = || {
        let fault = broker
            .fault
            .as_deref()
            .map(|fault| format!("; {}", printable(fault)));
        format!(
            "the gateway is not connected to it: {}{}",
            printable(&broker.state),
            fault.unwrap_or_default()
        )
    };
    (!broker.connected).then(|| finding(Verdict::Bad, "broker", words()))
}

/// A database that does not answer lets nobody in whom it did not let in before.
fn unasked(server: &LoginDatabase) -> Option<Finding> {
    let fault = server.fault.as_deref()?;
    let words = format!(
        "{} cannot be asked for {}{} s: {}",
        server.backend,
        if server.keys { "keys, for " } else { "" },
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
        assert!(configuration(Some(&file), &mut findings).is_none_or(|(_, is_whole)| !is_whole));
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
    fn what_a_backend_says_names_the_keys_to_mend() {
        for (table, why, key) in [
            (
                "authentication.mysql",
                "Server error: `ERROR 28000 (1045): Access denied for user'",
                "mysql.password_file",
            ),
            (
                "authentication.mysql",
                "Connection refused (os error 111)",
                "mysql.server",
            ),
            ("authentication.mysql", "Table 'd.u' doesn't exist", "mysql.query"),
            (
                "authentication.postgresql",
                "db error: FATAL: password authentication failed for user \"u\"",
                "postgresql.username",
            ),
            (
                "authentication.http",
                "it cannot be connected to: certificate verify failed",
                "http.ca_file",
            ),
            (
                "authentication.jwt",
                "it answered with status 404 Not Found",
                "jwt.jwks_url",
            ),
            (
                "listeners.udp.x.authentication.ldap",
                "no such object",
                "listeners.udp.x.authentication.ldap.base_dn",
            ),
        ] {
            assert!(to_mend(table, why).contains(key), "{}", to_mend(table, why));
        }
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
