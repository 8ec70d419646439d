//! `config/schema`: what the keys of the configuration are, for whoever makes a form of them.

use axum::Json;
use serde::{Deserialize, Serialize};
use serde_json::Value as JsonValue;
use utoipa::ToSchema;

use portcullis_config::{self as config, Key};

/// All keys of the configuration.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Schema {
    /// In the order of the reference page.
    pub keys: Vec<KeyView>,
}

/// A key of the configuration, for an editor.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct KeyView {
    /// The dotted name of its table, `*` for a name that is free.
    pub section: String,
    /// The key within its table.
    pub name: String,
    /// `boolean`, `number`, `list`, `table` (of texts), or `text` for all that stands in quotes.
    #[serde(rename = "type")]
    pub value_type: String,
    /// What kind of value that is, in words: `duration`, `path`, `one of ...`.
    pub kind: String,
    /// The words, or numbers, that it can be; empty where there are too many.
    pub choices: Vec<String>,
    /// Its default as JSON; null where there is none.
    pub default: JsonValue,
    /// Meaning, unit and range, as on the reference page.
    pub about: String,
}

impl KeyView {
    fn of(key: &Key) -> Self {
        let default = format!("v = {}", key.default);
        let default = toml::from_str::<JsonValue>(&default)
            .ok()
            .and_then(|table| table.get("v").cloned())
            .unwrap_or_default();
        let choices = match key.kind {
            "5 or 4" => vec!["5".to_owned(), "4".to_owned()],
            kind if kind.starts_with("one of") => {
                kind.split('`').skip(1).step_by(2).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        let value_type = match key.kind {
            "boolean" | "boolean or list of origins" => "boolean",
            "number" | "5 or 4" => "number",
            kind if kind.starts_with("list of") => "list",
            kind if kind.starts_with("table of") => "table",
            _ => "text",
        };
        Self {
            section: key.section.clone(),
            name: key.name.to_owned(),
            value_type: value_type.to_owned(),
            kind: key.kind.to_owned(),
            choices,
            default,
            about: key.about.clone(),
        }
    }
}

/// Describe the keys of the configuration
#[utoipa::path(get, path = "/api/v1/config/schema", tag = "configuration", responses((status = 200, body = Schema)))]
pub(super) async fn get() -> Json<Schema> {
    Json(Schema {
        keys: config::reference().iter().map(KeyView::of).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_read_and_has_the_type_that_is_said() {
        for key in config::reference() {
            let view = KeyView::of(&key);
            let fits = match view.value_type.as_str() {
                "boolean" => view.default.is_boolean(),
                "number" => view.default.is_number(),
                "list" => view.default.is_array(),
                "table" => view.default.is_object(),
                _ => view.default.is_string(),
            };
            let is_unset = key.default == "unset" && view.default.is_null();
            assert!(fits || is_unset, "{}.{}: {:?}", key.section, key.name, view);
            let chosen = match &view.default {
                JsonValue::String(word) => word.clone(),
                other => other.to_string(),
            };
            assert!(
                is_unset || view.choices.is_empty() || view.choices.contains(&chosen),
                "{view:?}"
            );
        }
    }
}
