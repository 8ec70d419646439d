//! `bugreport`: what somebody who is asked for help needs to see, in one file, without secrets.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::admin::api::Effective;
use crate::config::secrets::read_public;
use crate::config::{self, Config};
use crate::daemon::clock;

use super::args::BugreportArgs;
use super::exit::{CANNOT_CREATE, Failure};
use super::remote::http::{Api, configured};
use super::{doctor, output};

/// What stands in the place of a secret.
const MASK: &str = "***";

/// Shorter texts are no secrets that could be found again: masking them would spoil everything else.
const SHORTEST: usize = 6;

/// Only its owner reads it: identities and addresses of devices are in it.
const MODE: u32 = 0o600;

/// Keys whose values may hold what only the one who wrote them can judge.
const OPAQUE: [&str; 3] = ["headers", "body", "required_claims"];

/// Collects everything and writes it; says what is in it.
pub(super) fn run(args: &BugreportArgs) -> Result<(), Failure> {
    let found = configured(args.config.as_deref());
    let secrets = found.as_ref().map(secrets).unwrap_or_default();
    let mut entries = vec![
        ("version.txt", format!("portcullis {}\n", *super::args::VERSION)),
        ("system.txt", system()),
    ];
    let doctor = doctor::as_json(&doctor::look(args.config.as_deref()));
    entries.push(("doctor.json", pretty(&doctor)));
    match &found {
        Ok(config) => {
            entries.push(("configuration.json", configuration(config)));
            entries.extend(running(config));
        }
        Err(failure) => entries.push(("configuration.txt", format!("{}\n", failure.message))),
    }
    let path = args.output.clone().unwrap_or_else(named);
    let mut text = format!("{}:\n", path.display());
    write(&path, &entries, &secrets)?;
    for (name, content) in &entries {
        text.push_str(&format!("  {name} ({} bytes)\n", content.len()));
    }
    text.push_str("Keys, passwords and tokens are masked; identities, topics and addresses of devices are not. Read it before you send it.\n");
    output::print(&text)
}

/// A name that tells when it was made.
fn named() -> PathBuf {
    let time = humantime::format_rfc3339_seconds(clock::wall()).to_string();
    let digits: String = time.chars().filter(char::is_ascii_alphanumeric).collect();
    PathBuf::from(format!("portcullis-{digits}.tar"))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Kernel, distribution and limits.
fn system() -> String {
    let uname = rustix::system::uname();
    let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let mut text = format!(
        "kernel: {} {} {}\nOpenSSL: {}\n",
        part(uname.sysname()),
        part(uname.release()),
        part(uname.machine()),
        openssl::version::version()
    );
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    text.push_str(&format!("cores: {cores}\n"));
    for (file, wanted) in [
        ("/etc/os-release", &["PRETTY_NAME="][..]),
        ("/proc/meminfo", &["MemTotal:", "MemAvailable:"]),
        ("/proc/self/limits", &["Max open files", "Max locked memory"]),
    ] {
        let content = read_public(Path::new(file)).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines = content
            .lines()
            .filter(|line| wanted.iter().any(|start| line.starts_with(start)));
        lines.for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text
}

/// Every key with its value on disk, for when no gateway runs, and what is wrong with it.
fn configuration(config: &Config) -> String {
    let problems = config.source.as_ref().map(|source| match config::load(source) {
        Ok(loaded) => loaded.warnings.to_string(),
        Err(problems) => problems.to_string(),
    });
    pretty(&json!({ "keys": masked(Effective::of(config)), "problems": problems }))
}

/// The keys without what headers, bodies, queries of URLs and whatever else is free may hold.
fn masked(mut effective: Effective) -> Effective {
    for key in &mut effective.keys {
        let name = key.key.rsplit('.').next().unwrap_or_default();
        if OPAQUE.contains(&name) && key.source != "default" {
            key.value = MASK.into();
        }
        if let Value::String(text) = &mut key.value
            && let Some((before, _)) = text.split_once('?')
            && before.contains("://")
        {
            *text = format!("{before}?{MASK}");
        }
    }
    effective
}

/// What the gateway that runs tells.
fn running(config: &Config) -> Vec<(&'static str, String)> {
    let api = match Api::of_config(config) {
        Ok(api) => api,
        Err(failure) => return vec![("gateway.txt", format!("{}\n", failure.message))],
    };
    let ask = |path: &str| match api.get::<Value>(path) {
        Ok(value) => pretty(&value),
        Err(failure) => format!("{}\n", failure.message),
    };
    let in_force = match api.get::<Effective>("config/effective") {
        Ok(effective) => pretty(&json!(masked(effective))),
        Err(failure) => format!("{}\n", failure.message),
    };
    let mut events = String::new();
    let time = std::time::Duration::from_secs(10);
    let told = api.follow(
        "events?last=1000&follow=false",
        None,
        Some(time),
        || (),
        |line| {
            if let Some(data) = line.strip_prefix("data: ") {
                events.push_str(&format!("{data}\n"));
            }
            Ok(true)
        },
    );
    if let Err(failure) = told {
        events.push_str(&format!("{}\n", failure.message));
    }
    vec![
        ("in-force.json", in_force),
        ("status.json", ask("status")),
        ("metrics.json", ask("metrics")),
        ("listeners.json", ask("listeners")),
        ("events.jsonl", events),
    ]
}

/// The secrets of all files that the configuration names and its state has, as far as this user reads them: whatever else went
/// wrong, none of these leaves in a report.
fn secrets(config: &Config) -> Vec<Zeroizing<String>> {
    let mut files: Vec<PathBuf> = doctor::secret_paths(config)
        .into_iter()
        .map(Path::to_owned)
        .collect();
    // A public key here is nobody's secret, and is masked all the same.
    let keys = config
        .authentications()
        .filter_map(|(_, login)| login.jwt.key_file.clone());
    files.extend(keys);
    let own = ["admin.token", "tokens", "psk.txt", "users.txt", "state.key"];
    files.extend(own.iter().map(|name| config.node.state_dir.join(name)));
    let mut all = Vec::new();
    for file in files {
        let content = read_public(&file).unwrap_or_default();
        let text = Zeroizing::new(String::from_utf8_lossy(&content).into_owned());
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#') && !line.starts_with("-----"))
        {
            // A password on a line, the key or hash behind a name, a token behind a role.
            let parts = [
                Some(line),
                line.split_once(':').map(|(_, rest)| rest),
                line.rsplit_once(':').map(|(_, rest)| rest),
            ];
            for part in parts.into_iter().flatten() {
                all.push(Zeroizing::new(part.to_owned()));
                all.extend(super::psk::as_text(part));
            }
        }
    }
    all.retain(|secret| secret.len() >= SHORTEST);
    // The longest first, or what is left of one would give it away.
    all.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
    all.dedup();
    all
}

fn write(path: &Path, entries: &[(&str, String)], secrets: &[Zeroizing<String>]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(CANNOT_CREATE, format!("cannot write {}: {error}", path.display()))
    };
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
        .map_err(failed)?;
    let mut archive = tar::Builder::new(file);
    let seconds = clock::unix_seconds();
    for (name, content) in entries {
        let mut content = content.clone();
        for secret in secrets {
            if content.contains(secret.as_str()) {
                content = content.replace(secret.as_str(), MASK);
            }
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(MODE);
        header.set_mtime(seconds);
        let place = format!("portcullis-bugreport/{name}");
        archive
            .append_data(&mut header, place, content.as_bytes())
            .map_err(failed)?;
    }
    archive
        .into_inner()
        .and_then(|mut file| file.flush())
        .map_err(failed)
}
