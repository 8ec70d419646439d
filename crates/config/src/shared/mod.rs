//! What the gateways of a group have in common of their configuration, and what is each one's own.
//!
//! Shared in named parts: the configuration file ([`CONFIGURATION`]), the files of keys, users, access rules and tokens that it names,
//! by the key that names them, and the bans. A node's own are `[node]`, `[group]`, where its management interface and its metrics are
//! ([`OWN`]); of all other paths and addresses it is shared that they are given, and each node's own where they lead.
//!
//! | file | what |
//! |---|---|
//! | [`record`] | what of it was put in force here |
//! | [`apply`] | another version: checked, written, undone |

pub mod apply;
pub mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use openssl::sha::sha256;
use serde_json::{Map, Value as JsonValue};
use toml_edit::DocumentMut;
use zeroize::Zeroizing;

use super::{Backend, Config, ban_book, edit, reference, secrets, token_store, tokens};

/// The part that is the configuration file.
pub const CONFIGURATION: &str = "configuration";

/// The part with the tokens of the management interface.
pub const TOKENS: &str = "tokens";

/// The part with the bans.
pub const BANS: &str = "bans";

/// Tables and keys that no other node hears of.
pub const OWN: [&str; 8] = [
    "node",
    "group",
    "metrics.bind",
    "admin.bind",
    "admin.socket",
    "admin.cert_file",
    "admin.key_file",
    "state.key_file",
];

/// Contents of parts by name.
pub type Parts = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// SHA-256 of what is compared of a part.
pub type Mark = [u8; 32];

/// Parts of a version by name, with their digests, and their contents where they were not known.
pub type Fetched = BTreeMap<String, (Mark, Option<Zeroizing<Vec<u8>>>)>;

/// A file that is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFile {
    /// The name of its part.
    pub part: String,
    /// Where it is here.
    pub path: PathBuf,
    /// Whether it holds secrets.
    pub is_secret: bool,
}

impl SharedFile {
    /// What all share of it as it lies here.
    fn read(&self) -> Result<Zeroizing<Vec<u8>>, secrets::SecretError> {
        let content = match self.is_secret {
            true => secrets::read_secret(&self.path)?,
            false => secrets::read_public(&self.path)?,
        };
        Ok(match self.part.as_str() {
            TOKENS => hashed(&content).unwrap_or(content),
            _ => content,
        })
    }
}

/// A file of tokens as each node writes it again at its first use, where tokens stand in it in the clear.
fn hashed(content: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = tokens::parse(content).ok()?.rewritten?;
    Some(Zeroizing::new(text.as_bytes().to_vec()))
}

/// The files that are shared, those that two keys name twice.
fn all_files(config: &Config) -> Vec<SharedFile> {
    let file = |part: String, path: &Option<PathBuf>, is_secret| {
        path.clone().map(|path| SharedFile {
            part,
            path,
            is_secret,
        })
    };
    let mut files = Vec::new();
    for listener in &config.listeners {
        if let Some(dtls) = &listener.dtls {
            let key = listener.key();
            files.extend(file(format!("{key}.psk_file"), &dtls.handshake.psk_file, true));
            files.extend(file(format!("{key}.rpk_file"), &dtls.rpk_file, false));
        }
    }
    for (key, authentication) in config.authentications() {
        if authentication.backend == Backend::File {
            files.extend(file(format!("{key}.file"), &authentication.file, true));
        }
    }
    files.extend(file(
        "authorization.acl_file".to_owned(),
        &config.authorization.acl_file,
        false,
    ));
    files.extend(file(
        TOKENS.to_owned(),
        &Some(token_store::named_file(config)),
        true,
    ));
    files.extend(file(
        BANS.to_owned(),
        &Some(ban_book::file(&config.node.state_dir)),
        true,
    ));
    files
}

/// The files that are shared, each once: one that two keys name is the part of the first.
#[must_use]
pub fn files(config: &Config) -> Vec<SharedFile> {
    let mut seen = BTreeSet::new();
    let mut files = all_files(config);
    files.retain(|file| seen.insert(file.path.clone()));
    files
}

/// The part that a file is; nothing where it is this node's own.
#[must_use]
pub fn part_of(config: &Config, path: &Path) -> Option<String> {
    if config.source.as_deref() == Some(path) {
        return Some(CONFIGURATION.to_owned());
    }
    files(config)
        .into_iter()
        .find(|file| file.path == path)
        .map(|file| file.part)
}

/// What lies here of what is shared.
///
/// # Errors
/// A file cannot be read, or the configuration is no TOML.
pub fn parts(config: &Config) -> Result<Parts, String> {
    let mut parts = Parts::new();
    if let Some(source) = &config.source {
        let text = secrets::read_public(source).map_err(|error| error.to_string())?;
        let text = str::from_utf8(&text).map_err(|_| format!("{} is no UTF-8 text", source.display()))?;
        parts.insert(CONFIGURATION.to_owned(), of_text(text)?);
    }
    for file in files(config).into_iter().filter(|file| file.path.exists()) {
        let content = file.read().map_err(|error| error.to_string())?;
        parts.insert(file.part, content);
    }
    Ok(parts)
}

/// What is shared of the text of a configuration file.
///
/// # Errors
/// It is no TOML.
pub fn of_text(text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut all: JsonValue =
        toml::from_str(text).map_err(|_| "the configuration file is no TOML".to_owned())?;
    for own in OWN {
        let (table, key) = own
            .split_once('.')
            .map_or((own, None), |(table, key)| (table, Some(key)));
        match (key, all.get_mut(table).and_then(JsonValue::as_object_mut)) {
            (Some(key), Some(table)) => drop(table.remove(key)),
            (None, Some(_)) => drop(all.as_object_mut().and_then(|all| all.remove(table))),
            (_, None) => {}
        }
    }
    // A table that has nothing left is as good as none.
    if let Some(all) = all.as_object_mut() {
        all.retain(|name, value| {
            name == "listeners" || value.as_object().is_none_or(|table| !table.is_empty())
        });
    }
    serde_json::to_vec(&all)
        .map(Zeroizing::new)
        .map_err(|error| error.to_string())
}

/// What is compared of a part: of the configuration without what each node has its own of, of tokens by their hashes.
#[must_use]
pub fn mark(part: &str, content: &[u8]) -> Mark {
    if part == CONFIGURATION
        && let Ok(mut value) = serde_json::from_slice(content)
    {
        mask(&mut value, &places());
        return sha256(value.to_string().as_bytes());
    }
    if part == TOKENS
        && let Some(hashed) = hashed(content)
    {
        return sha256(&hashed);
    }
    sha256(content)
}

/// The text of a configuration file with what others share in place of what it shares.
///
/// # Errors
/// It is no TOML, or what they share is none of a configuration.
pub fn with(text: &str, shared: &[u8]) -> Result<String, String> {
    let theirs: Map<String, JsonValue> =
        serde_json::from_slice(shared).map_err(|_| "what is shared is no configuration".to_owned())?;
    let ours: Map<String, JsonValue> = serde_json::from_slice(&of_text(text)?).unwrap_or_default();
    let mut document: DocumentMut = text
        .parse()
        .map_err(|_| "the configuration file is no TOML".to_owned())?;
    edit::patch(&mut document, &difference(&ours, &theirs, &places()))?;
    Ok(document.to_string())
}

/// The names of keys whose values lead to somewhere on one machine.
fn places() -> BTreeSet<&'static str> {
    let paths = reference()
        .into_iter()
        .filter(|key| key.kind == "path")
        .map(|key| key.name);
    paths.chain(["bind", "certificates"]).collect()
}

fn mask(value: &mut JsonValue, places: &BTreeSet<&'static str>) {
    let Some(table) = value.as_object_mut() else {
        return;
    };
    for (name, value) in table {
        // A table of such a name is a listener, or something else that somebody gave it.
        if places.contains(name.as_str()) && !value.is_object() {
            *value = JsonValue::Bool(true);
        } else {
            mask(value, places);
        }
    }
}

/// The merge patch that makes `theirs` of `ours`, but for what each has its own of.
fn difference(
    ours: &Map<String, JsonValue>,
    theirs: &Map<String, JsonValue>,
    places: &BTreeSet<&'static str>,
) -> Map<String, JsonValue> {
    let mut patch = Map::new();
    for (name, wanted) in theirs {
        match (ours.get(name), wanted) {
            (Some(have), wanted) if have == wanted => {}
            (Some(have), wanted)
                if places.contains(name.as_str()) && !have.is_object() && !wanted.is_object() => {}
            (Some(JsonValue::Object(have)), JsonValue::Object(wanted)) => {
                let inner = difference(have, wanted, places);
                if !inner.is_empty() {
                    patch.insert(name.clone(), JsonValue::Object(inner));
                }
            }
            _ => drop(patch.insert(name.clone(), wanted.clone())),
        }
    }
    for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
        patch.insert(name.clone(), JsonValue::Null);
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "# of a\n[node]\nname = \"a\" # its own\nstate_dir = \"s\"\n[listeners.udp.x]\nbind = \"127.0.0.1:1\"\nmountpoint = \"m/\" # here\n\
                     [authorization]\nacl_file = \"acl\"\n[admin]\nbind = \"127.0.0.1:3\"\n[group]\nnode = 1\n";
    const B: &str = "# of b\n[node]\nname = \"b\"\nstate_dir = \"t\"\n[listeners.udp.x]\nbind = \"127.0.0.1:2\"\n[listeners.udp.gone]\nbind = \"127.0.0.1:9\"\n\
                     [coap]\nheartbeat = \"9s\"\n[group]\nnode = 2\n";

    fn marked(text: &str) -> Mark {
        mark(CONFIGURATION, &of_text(text).unwrap())
    }

    #[test]
    fn what_is_shared_comes_and_what_is_a_nodes_own_stays() {
        let new = with(B, &of_text(A).unwrap()).unwrap();
        assert_eq!(marked(&new), marked(A));
        assert_ne!(marked(B), marked(A));
        for kept in [
            "# of b",
            "name = \"b\"",
            "state_dir = \"t\"",
            "bind = \"127.0.0.1:2\"",
            "node = 2",
        ] {
            assert!(new.contains(kept), "{kept}: {new}");
        }
        assert!(
            new.contains("mountpoint = \"m/\"") && new.contains("acl_file = \"acl\""),
            "{new}"
        );
        assert!(
            !new.contains("gone") && !new.contains("heartbeat") && !new.contains("127.0.0.1:3"),
            "{new}"
        );
        assert_eq!(with(&new, &of_text(A).unwrap()).unwrap(), new, "twice is once");
    }

    #[test]
    fn a_place_of_ones_own_makes_no_difference_and_a_place_that_is_not_given_does() {
        let other = A
            .replace("acl_file = \"acl\"", "acl_file = \"/elsewhere\"")
            .replace("127.0.0.1:1", "127.0.0.1:7");
        assert_eq!(marked(&other), marked(A));
        assert_ne!(marked(&A.replace("acl_file = \"acl\"", "")), marked(A));
        assert_ne!(marked(&A.replace("m/", "n/")), marked(A));
        let without = with(A, &of_text(&A.replace("acl_file = \"acl\"\n", "")).unwrap()).unwrap();
        assert!(!without.contains("acl_file"), "{without}");
    }
}
