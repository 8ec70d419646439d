//! `config/effective`: every key with its value in force, and where that comes from.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value as JsonValue;
use toml_edit::{Document, Item, TableLike};
use utoipa::ToSchema;

use portcullis_config::{self as config, Config, PathBase};

use super::Api;
use super::restart::needs_restart;

/// The configuration in force.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Effective {
    /// The file that it was read from; none in the quick start.
    pub file: Option<String>,
    /// Every key, in the order of the reference page.
    pub keys: Vec<EffectiveKey>,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EffectiveKey {
    /// Its dotted name.
    pub key: String,
    /// Its value as JSON; null where it is unset.
    pub value: JsonValue,
    /// `file` or `default`.
    pub source: String,
    /// Of `file`: the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Whether the file says this, but a restart has to come before it is in force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart_required: bool,
}

/// Show the configuration in force
///
/// Every key with its value, and whether that comes from the file, and from which line of it, or is the default. What was
/// written into the file after it was read last, or was refused then, is not in it.
#[utoipa::path(
    get,
    path = "/api/v1/config/effective",
    tag = "configuration",
    responses((status = 200, body = Effective))
)]
pub(super) async fn get(State(api): State<Arc<Api>>) -> Json<Effective> {
    Json(Effective::of(&api.site.config()))
}

impl Effective {
    /// What is in force with this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let file = config.source.clone().unwrap_or_default();
        // As the file has it: what differs waits for a restart.
        let asked = config::parse(&config.text, &file, &PathBase::of_file(&file));
        let waiting = asked
            .map(|asked| needs_restart(config, &asked))
            .unwrap_or_default();
        Self {
            file: config
                .source
                .as_ref()
                .map(|file: &PathBuf| file.display().to_string()),
            keys: keys(&config.text, &waiting),
        }
    }
}

fn keys(text: &str, waiting: &[String]) -> Vec<EffectiveKey> {
    let Ok(document) = Document::parse(text) else {
        return Vec::new();
    };
    let has_listeners = document.as_table().contains_key("listeners");
    let mut keys = Vec::new();
    for key in config::reference() {
        let is_served = ["listeners.udp.*", "listeners.dtls.*"].contains(&key.section.as_str());
        let sections = if !has_listeners && is_served {
            // Without any of its own there is one of each of these kinds.
            vec![(key.section.replace('*', "default"), None)]
        } else {
            tables(document.as_table(), &key.section)
        };
        for (section, table) in sections {
            let dotted = format!("{section}.{}", key.name);
            let given = table.and_then(|table| table.get(key.name));
            let restart_required = waiting
                .iter()
                .any(|waits| dotted == *waits || dotted.starts_with(&format!("{waits}.")));
            keys.push(match given.filter(|item| !item.is_none()) {
                Some(item) => EffectiveKey {
                    key: dotted,
                    value: json(item.to_string().trim()),
                    source: "file".to_owned(),
                    line: item.span().map(|span| line(text, span.start)),
                    restart_required,
                },
                None => EffectiveKey {
                    key: dotted,
                    value: json(key.default),
                    source: "default".to_owned(),
                    line: None,
                    restart_required,
                },
            });
        }
    }
    keys
}

/// The tables that a section of the reference stands for, each with its name; one that is not written is shown by its defaults,
/// unless its name is free.
fn tables<'d>(root: &'d dyn TableLike, section: &str) -> Vec<(String, Option<&'d dyn TableLike>)> {
    let mut found: Vec<(String, Option<&'d dyn TableLike>)> = vec![(String::new(), Some(root))];
    for part in section.split('.') {
        let join = |name: &str, part: &str| {
            if name.is_empty() {
                part.to_owned()
            } else {
                format!("{name}.{part}")
            }
        };
        found = found
            .into_iter()
            .flat_map(|(name, table)| {
                if let Some(array) = part.strip_prefix('[').and_then(|part| part.strip_suffix(']')) {
                    let tables = table.and_then(|table| table.get(array));
                    let tables = tables.and_then(Item::as_array_of_tables);
                    let tables = tables.into_iter().flat_map(|tables| tables.iter()).zip(1..);
                    tables
                        .map(|(table, number)| {
                            let numbered = format!("{}.{number}", join(&name, array));
                            (numbered, Some(table as &dyn TableLike))
                        })
                        .collect()
                } else if part == "*" {
                    let entries = table.into_iter().flat_map(|table| table.iter());
                    entries
                        .map(|(own, item)| (join(&name, own), item.as_table_like()))
                        .collect::<Vec<_>>()
                } else {
                    let inner = table
                        .and_then(|table| table.get(part))
                        .and_then(Item::as_table_like);
                    vec![(join(&name, part), inner)]
                }
            })
            .collect();
    }
    found
}

fn json(value: &str) -> JsonValue {
    toml::from_str::<JsonValue>(&format!("v = {value}"))
        .ok()
        .and_then(|table| table.get("v").cloned())
        .unwrap_or_default()
}

fn line(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |before| before.matches('\n').count()) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(keys: &[EffectiveKey], name: &str) -> EffectiveKey {
        keys.iter()
            .find(|key| key.key == name)
            .unwrap_or_else(|| panic!("no {name}"))
            .clone()
    }

    #[test]
    fn each_table_of_an_array_has_its_number() {
        let text = "[[translate]]\ntopics = \"a\"\n[[translate]]\nbatch = \"each\"\n";
        let keys = keys(text, &[]);
        assert_eq!(key(&keys, "translate.1.topics").value, "a");
        assert_eq!(key(&keys, "translate.2.topics").source, "default");
        assert_eq!(key(&keys, "translate.2.batch").line, Some(4));
        assert!(!keys.iter().any(|key| key.key.contains('[')));
    }

    #[test]
    fn each_key_says_where_its_value_comes_from() {
        let text = "[node]\nname = \"edge\" # its name\n\n[listeners.udp.lab]\nbind = \"[::1]:5683\"\n[limits]\nper_identity = { sessions = 5 }\n";
        let keys = keys(text, &["node.name".to_owned()]);
        let name = key(&keys, "node.name");
        assert_eq!(
            (name.value, name.source.as_str(), name.line),
            ("edge".into(), "file", Some(2))
        );
        assert!(name.restart_required);
        assert_eq!(key(&keys, "listeners.udp.lab.bind").line, Some(5));
        assert_eq!(key(&keys, "coap.connection_required").source, "default");
        assert_eq!(key(&keys, "limits.per_identity.sessions").value, 5);
        assert!(!keys.iter().any(|key| key.key.starts_with("listeners.dtls")));
        assert_eq!(
            super::keys("", &[])
                .iter()
                .filter(|key| key.key.ends_with(".default.bind"))
                .count(),
            2
        );
    }
}
