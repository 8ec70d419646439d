//! Configuration files to checked types.
//!
//! [`load`] reads a file and the files it names and returns a [`Config`], or everything that is wrong with it, each with its
//! place. Each key is declared once, in a `section!` beside its default, range and meaning; [`reference()`] lists them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_proto::types::LineError;
use toml::de::DeTable;

pub mod access;
pub mod admin_socket;
pub mod atomic;
pub mod ban_book;
pub mod broker;
pub mod changes;
mod check;
pub mod databases;
mod document;
mod dtls_material;
pub mod edit;
mod exposure;
mod files;
pub mod group;
pub mod listeners;
pub mod mqtt_requests;
pub mod named_lines;
pub mod paths;
mod pem;
pub mod problem;
pub mod psk_file;
pub mod psk_source;
pub mod quantity;
mod rules;
pub mod secrets;
mod section;
pub mod sections;
mod settings;
pub mod shared;
mod state_dir;
pub mod state_key;
mod suggest;
pub mod token_store;
pub mod tokens;
pub mod translate;
pub mod trial;
pub mod users_file;
mod value;
pub mod websocket;

pub use access::{Authentication, Authorization, Backend, Login};
pub use broker::{Broker, BrokerUrl};
pub use dtls_material::{MaterialError, dtls_context};
pub use files::{certificate_is_current, certificates_not_after};
pub use group::Group;
pub use listeners::{CertIdentity, Datagrams, Dtls, Listener, Verify};
pub use paths::PathBase;
pub use problem::{Problem, Problems, Severity};
pub use psk_source::PskSource;
pub use section::Key;
pub use sections::{Admin, Coap, Keep, Limits, Log, LogFormat, LogLevel, Metrics, Node, State, Unproven};
pub use settings::to_gateway_settings;
pub use state_dir::{NoStateDir, check_state_dir};
pub use translate::Translate;
pub use value::Size;

pub use document::Places;
use document::{Document, Table};
use section::Section as _;

/// Where the package puts the configuration.
pub const DEFAULT_FILE: &str = "/etc/portcullis/portcullis.toml";

/// Where dashboard and HTTP API are served when the configuration does not say.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:8683";

/// A checked configuration. It holds no secret, only paths of files that do.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it was read from; `None` in the quick start.
    pub source: Option<PathBuf>,
    /// The text that it was read from.
    pub text: Arc<str>,
    /// `[node]`: name, state directory, number of workers.
    pub node: Node,
    /// `[coap]`: how requests are taken and notifications sent.
    pub coap: Coap,
    /// `[listeners]`, in the order of the file.
    pub listeners: Vec<Listener>,
    /// `[authentication]`: who decides about logins where a listener does not say.
    pub authentication: Authentication,
    /// `[authorization]`: who may publish and observe what.
    pub authorization: Authorization,
    /// `[broker]`: the broker behind the gateway, and the spool for when it is away.
    pub broker: Broker,
    /// `[[translate]]`: which payloads change their encoding, the first rule that matches first.
    pub translate: Vec<Translate>,
    /// `[metrics]`: where `/metrics`, `/healthz` and `/readyz` are.
    pub metrics: Metrics,
    /// `[admin]`: where API and dashboard are, and who may use them.
    pub admin: Admin,
    /// `[limits]`: rates and caps, for each source and for all.
    pub limits: Limits,
    /// `[state]`: what the next process goes on from.
    pub state: State,
    /// `[group]`: the gateways that this one is one of; none where it is alone.
    pub group: Option<Group>,
    /// `[log]`: how much is logged, and in which form.
    pub log: Log,
}

/// A configuration that can be used, and what should be said about it.
#[derive(Debug)]
pub struct Loaded {
    /// What is to be put in force.
    pub config: Config,
    /// What ran out ([`Severity::Outdated`]) or is worth knowing ([`Severity::Note`]); may be empty.
    pub warnings: Problems,
    /// Where its keys stand, for what is found to be wrong only when it is used.
    pub places: Places,
}

/// Reads a configuration file and the files that it names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(file: &Path) -> Result<Loaded, Problems> {
    let text = read_text(file)?;
    load_text(&text, file, &PathBase::of_file(file), true)
}

/// As [`load`], from the text that `file` holds or is about to hold; nothing is read from `file` itself.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_from(text: &str, file: &Path) -> Result<Loaded, Problems> {
    load_text(text, file, &PathBase::of_file(file), true)
}

/// Reads a configuration without the files that it names, and without asking whether it would be open to strangers: for who looks
/// something up in it, or has written it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, file: &Path, base: &PathBase) -> Result<Config, Problems> {
    load_text(text, file, base, false).map(|loaded| loaded.config)
}

fn load_text(text: &str, file: &Path, base: &PathBase, with_files: bool) -> Result<Loaded, Problems> {
    let mut doc = Document::new(file, text, base);
    let (entries, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        doc.at("", Some(span), Severity::Error, error.message().to_owned());
    }
    if !errors.is_empty() {
        let spans = errors.iter().map(|error| error.span().unwrap_or(0..0));
        let mut all = doc.into_problems();
        all.0.extend(beside(text, spans, file, base));
        return Err(all);
    }
    let mut root = Table::root(entries.get_ref());
    let config = read_root(&mut root, &mut doc);
    root.finish(&mut doc);
    let Some(mut config) = config else {
        return Err(doc.into_problems());
    };
    config.source = Some(file.to_owned());
    config.text = text.into();
    rules::check(&config, &mut doc);
    if with_files {
        exposure::check(&config, &mut doc);
        files::check(&config, &mut doc);
        state_dir::check(&config, &mut doc);
        changes::check(&config, &mut doc);
    }
    let places = doc.places();
    let problems = doc.into_problems();
    if problems.has_errors() {
        return Err(problems);
    }
    Ok(Loaded {
        config,
        warnings: problems,
        places,
    })
}

/// What is wrong with the keys of a text that is no TOML: of those on other lines than its faults. Where the lines without these
/// are no TOML either, or a fault is in the head of a table, nothing is known of what its author meant.
fn beside(
    text: &str,
    faults: impl Iterator<Item = std::ops::Range<usize>>,
    file: &Path,
    base: &PathBase,
) -> Vec<Problem> {
    let mut whole = text.as_bytes().to_vec();
    for fault in faults {
        let start = fault.start.min(whole.len());
        let before = whole.get(..start).unwrap_or_default();
        let begin = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let rest = whole.get_mut(begin..).unwrap_or_default();
        let line = rest.split_mut(|byte| *byte == b'\n').next().unwrap_or_default();
        if line.trim_ascii_start().starts_with(b"[") {
            return Vec::new();
        }
        // Every other key keeps its place.
        line.fill(b' ');
    }
    let Ok(text) = String::from_utf8(whole) else {
        return Vec::new();
    };
    let (entries, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        return Vec::new();
    }
    let mut doc = Document::new(file, &text, base);
    let mut root = Table::root(entries.get_ref());
    drop(read_root(&mut root, &mut doc));
    root.finish(&mut doc);
    let mut found = doc.into_problems().0;
    found.retain(|problem| problem.place.is_some() && problem.severity == Severity::Error);
    found
}

fn read_root(root: &mut Table<'_>, doc: &mut Document<'_>) -> Option<Config> {
    let node = root.section(doc, "node");
    let coap = root.section(doc, "coap");
    let listeners = listeners::read(root, doc);
    let authentication = root.section(doc, "authentication");
    let authorization = root.section(doc, "authorization");
    let broker = root.section(doc, "broker");
    let translate = translate::read(root, doc);
    let metrics = root.section(doc, "metrics");
    let admin = root.section(doc, "admin");
    let limits = root.section(doc, "limits");
    let state = root.section(doc, "state");
    let group = root.given_section(doc, "group");
    let log = root.section(doc, "log");
    Some(Config {
        source: None,
        text: Arc::default(),
        node: node?,
        coap: coap?,
        listeners: listeners?,
        authentication: authentication?,
        authorization: authorization?,
        broker: broker?,
        translate: translate?,
        metrics: metrics?,
        admin: admin?,
        limits: limits?,
        state: state?,
        group,
        log: log?,
    })
}

fn read_text(file: &Path) -> Result<String, Problems> {
    let content =
        secrets::read_public(file).map_err(|error| Problems::unreadable(file, error.to_string()))?;
    String::from_utf8(content.to_vec()).map_err(|error| {
        let wrong = LineError::no_text(&content, error.utf8_error());
        Problems::at(file, &wrong)
    })
}

/// Every key of the configuration in the order of the reference page.
#[must_use]
pub fn reference() -> Vec<Key> {
    let mut keys = Vec::new();
    Node::keys("node", &mut keys);
    Coap::keys("coap", &mut keys);
    listeners::keys(&mut keys);
    Authentication::keys("authentication", &mut keys);
    Authorization::keys("authorization", &mut keys);
    Broker::keys("broker", &mut keys);
    Translate::keys("[translate]", &mut keys);
    Metrics::keys("metrics", &mut keys);
    Admin::keys("admin", &mut keys);
    Limits::keys("limits", &mut keys);
    State::keys("state", &mut keys);
    Group::keys("group", &mut keys);
    Log::keys("log", &mut keys);
    keys
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
